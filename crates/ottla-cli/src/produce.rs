//! `ottla produce`: reads lines, sends them as records and prints a summary.
//!
//! [`run`] checks the options, files and settings, starts the embedded broker, and leaves the rest
//! to a [`Session`].

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};

use ottla::Origin;
use ottla_broker::EmbeddedBroker;

use crate::args::ProduceArgs;
use crate::console::{Blocking, open_stdin, report};
use crate::input::LineFormat;
use crate::session::Session;
use crate::{CliError, limits, settings};

pub(crate) fn run(args: ProduceArgs) -> Result<u8, CliError> {
    settings::check_stdin_has_one_use(&args)?;
    let format = LineFormat::new(&args)?;
    // All options and files are checked before a broker starts or a record is sent.
    let files = if args.files.is_empty() { vec!["-".into()] } else { args.files.clone() };
    let inputs = files.iter().map(|f| check_input(f)).collect::<Result<Vec<_>, _>>()?;
    ottla::tools::validate_topic_name(&args.topic).map_err(|e| CliError::usage(e.to_string()))?;
    settings::warn_deprecated(&args);
    let mut properties = settings::producer_properties(&args)?;
    limits::check_address_space(&properties)?;
    let (broker, temporary_dir) = start_embedded_broker(&args)?;
    if let Some(broker) = &broker {
        properties
            .set_from("bootstrap.servers", &broker.bootstrap_servers(), &Origin::CommandLine)
            .map_err(|e| CliError::usage(e.to_string()))?;
    }
    // With --verbose the library logs them.
    for notice in properties.notices().iter().filter(|_| !(args.verbose || args.debug)) {
        report!("note: {notice}");
    }
    let temporary_log_dir = temporary_dir.as_ref().map(|t| t.path().to_owned());
    let session = Session::start(&args, properties, temporary_log_dir)?;
    let result = session.send_all(&inputs, &format);
    let status = session.finish();
    if let (Some(_), Some(dir)) = (&broker, &args.data_dir) {
        report!("the log is in {}", dir.display());
    }
    drop(broker);
    result.map(|()| status)
}

/// Starts the broker of `--embedded`. Without `--data-dir` its log is in a temporary directory.
fn start_embedded_broker(
    args: &ProduceArgs,
) -> Result<(Option<EmbeddedBroker>, Option<tempfile::TempDir>), CliError> {
    if !args.embedded {
        return Ok((None, None));
    }
    let no_temporary_dir =
        |e: io::Error| CliError::usage(format!("cannot create a temporary directory: {e}"));
    let temporary_dir = match &args.data_dir {
        Some(_) => None,
        None => Some(tempfile::tempdir().map_err(no_temporary_dir)?),
    };
    let dir = args.data_dir.as_deref().or(temporary_dir.as_ref().map(tempfile::TempDir::path));
    let mut builder = EmbeddedBroker::builder();
    if let Some(dir) = dir {
        builder = builder.data_dir(dir);
    }
    let broker = builder
        .start()
        .map_err(|e| CliError::usage(format!("the embedded broker did not start: {e}")))?;
    Ok((Some(broker), temporary_dir))
}

/// An input that can be read.
pub(crate) struct Input {
    path: PathBuf,
    /// Its length in bytes; `None` for pipes, devices and terminals.
    pub(crate) len: Option<u64>,
}

impl Input {
    fn is_stdin(&self) -> bool {
        self.path == Path::new("-")
    }

    /// Returns whether a person types the input.
    pub(crate) fn is_terminal(&self) -> bool {
        self.is_stdin() && io::stdin().is_terminal()
    }

    /// Returns the input's name for messages.
    pub(crate) fn name(&self) -> String {
        if self.is_stdin() { "standard input".to_owned() } else { self.path.display().to_string() }
    }

    pub(crate) fn open(&self) -> Result<Box<dyn BufRead>, CliError> {
        const BUFFER_BYTES: usize = 256 * 1024;
        let file =
            if self.is_stdin() { open_stdin() } else { File::open(&self.path).map(Blocking) };
        let file =
            file.map_err(|e| CliError::failed(format!("cannot read {}: {e}", self.name())))?;
        Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, file)))
    }
}

/// Checks that an input can be read.
///
/// A file is closed again and opened when it is read, so the number of files is not limited by the
/// number of open descriptors.
fn check_input(path: &Path) -> Result<Input, CliError> {
    let mut input = Input { path: path.to_owned(), len: None };
    let metadata = if input.is_stdin() {
        open_stdin().and_then(|stdin| stdin.0.metadata())
    } else {
        // A pipe is not opened here: when it is closed again, its writer would fail.
        std::fs::metadata(path).and_then(|metadata| {
            if metadata.is_file() { File::open(path)?.metadata() } else { Ok(metadata) }
        })
    };
    let cannot_read = |reason: &dyn std::fmt::Display| {
        CliError::usage(format!("cannot read {}: {reason}", input.name()))
    };
    let metadata = metadata.map_err(|e| cannot_read(&e))?;
    if metadata.is_dir() {
        return Err(cannot_read(&"it is a directory"));
    }
    input.len = metadata.is_file().then_some(metadata.len());
    Ok(input)
}
