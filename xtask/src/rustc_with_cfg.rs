//! Builds the workspace's own crates with a `--cfg`. Other builds share their dependencies.
//!
//! With `--cfg` in `RUSTFLAGS`, cargo builds every dependency again. It runs
//! `RUSTC_WORKSPACE_WRAPPER` instead of rustc for the workspace's crates only. The path of that
//! program is a part of their fingerprints, so each `--cfg` needs its own path.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, ExitCode};

/// The start of the wrapper's file name, before the name of the `--cfg`.
const PREFIX: &str = "rustc_with_cfg_";

/// Runs rustc with one more `--cfg`, if cargo started this process as a wrapper of rustc.
pub(super) fn run_as_rustc() -> Option<ExitCode> {
    let mut args = std::env::args_os();
    let this_program = args.next()?;
    let cfg = cfg_of(Path::new(&this_program))?;
    let rustc = args.next()?;
    Some(match Command::new(&rustc).args(args).args(["--cfg", cfg]).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("xtask: {}: {e}", rustc.display());
            ExitCode::FAILURE
        }
    })
}

/// Lets a cargo command build the workspace's crates with a `--cfg`.
pub(super) fn add_cfg(command: &mut Command, cfg: &str) -> Result<(), String> {
    let this_program = std::env::current_exe().map_err(|e| format!("xtask's own path: {e}"))?;
    let suffix = std::env::consts::EXE_SUFFIX;
    let wrapper = this_program.with_file_name(format!("{PREFIX}{cfg}{suffix}"));
    replace_link(&this_program, &wrapper).map_err(|e| format!("{}: {e}", wrapper.display()))?;
    command.env("RUSTC_WORKSPACE_WRAPPER", wrapper);
    Ok(())
}

/// Returns the `--cfg` that the name of a wrapper says.
fn cfg_of(program: &Path) -> Option<&str> {
    program.file_stem().and_then(OsStr::to_str)?.strip_prefix(PREFIX)
}

/// Gives a file a second name, which another file may have now.
fn replace_link(file: &Path, name: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(name) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    std::fs::hard_link(file, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_a_wrapper_says_its_cfg() {
        assert_eq!(cfg_of(Path::new("/t/rustc_with_cfg_ottla_loom.exe")), Some("ottla_loom"));
        assert_eq!(cfg_of(Path::new("target/debug/xtask")), None);
    }
}
