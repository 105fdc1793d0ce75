//! The inputs of `ottla produce`: files, and standard input.

use std::fs::{File, Metadata};
use std::io::{self, IsTerminal, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::InputStream;
use crate::CliError;
use crate::console::{Blocking, open_stdin};

/// An input that can be read.
pub(crate) struct Input {
    path: PathBuf,
    /// Its length in bytes; `None` for pipes, devices and terminals.
    pub(crate) len: Option<u64>,
    /// `None` for devices and terminals.
    id: Option<FileId>,
}

/// Device and inode. They identify a file under any of its names.
type FileId = (u64, u64);

/// Returns the identity of a file or pipe. A device has none: an output to the terminal or to
/// `/dev/null` does not become input.
fn file_id(metadata: &Metadata) -> Option<FileId> {
    let file_type = metadata.file_type();
    let keeps_output = file_type.is_file() || file_type.is_fifo();
    keeps_output.then(|| (metadata.dev(), metadata.ino()))
}

impl Input {
    /// Checks that an input can be read.
    ///
    /// A file is closed again and opened when it is read, so the number of files is not limited by
    /// the number of open descriptors.
    pub(crate) fn check(path: &Path) -> Result<Input, CliError> {
        let mut input = Input { path: path.to_owned(), len: None, id: None };
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
        input.id = file_id(&metadata);
        Ok(input)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn is_stdin(&self) -> bool {
        self.path == Path::new("-")
    }

    /// Returns whether what is written to the path would be read from this input: the path names
    /// the same file, also as a link or as standard input.
    pub(crate) fn is_file(&self, path: &Path) -> bool {
        // A path that does not exist yet is no input.
        let id = std::fs::metadata(path).ok().and_then(|metadata| file_id(&metadata));
        id.is_some() && id == self.id
    }

    /// Returns whether a person types the input.
    pub(crate) fn is_terminal(&self) -> bool {
        self.is_stdin() && io::stdin().is_terminal()
    }

    /// Returns the input's name for messages.
    pub(crate) fn name(&self) -> String {
        if self.is_stdin() { "standard input".to_owned() } else { self.path.display().to_string() }
    }

    /// Opens the input. An archive is decompressed if `decompresses` is set.
    pub(crate) fn open(&self, decompresses: bool) -> Result<InputStream, CliError> {
        let file =
            if self.is_stdin() { open_stdin() } else { File::open(&self.path).map(Blocking) };
        file.and_then(|file| InputStream::new(file, decompresses && !self.is_terminal()))
            .map_err(|e| CliError::failed(format!("cannot read {}: {e}", self.name())))
    }

    /// Continues a stream that has just begun at this position of its text.
    pub(crate) fn resume(
        &self,
        mut stream: InputStream,
        position: u64,
    ) -> Result<InputStream, CliError> {
        let cannot_read =
            |e: io::Error| CliError::failed(format!("cannot read {}: {e}", self.name()));
        if !stream.is_archive() {
            let mut file = File::open(&self.path).map_err(cannot_read)?;
            file.seek(SeekFrom::Start(position)).map_err(cannot_read)?;
            return Ok(InputStream::resumed(file, position));
        }
        if stream.skip_to(position).map_err(cannot_read)? {
            return Ok(stream);
        }
        let reason = format!("it has fewer than the {position} bytes that were acknowledged");
        Err(CliError::failed(format!("cannot continue {}: {reason}", self.name())))
    }
}
