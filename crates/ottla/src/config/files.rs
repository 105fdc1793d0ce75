//! Reads the files that settings name, up to a limit.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use zeroize::Zeroizing;

/// Largest file in bytes. Files with settings, certificates and keys are much smaller; a larger
/// one is a mistake.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Returns the content of a file.
///
/// The limit holds for what is read, not for the length that the file system reports: a FIFO, a
/// device and a file that grows have no length.
///
/// # Errors
/// The file cannot be read or is too large.
pub(crate) fn read_file(path: impl AsRef<Path>) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = File::open(path)?;
    // A buffer that grows leaves copies of a secret behind.
    let expected = file.metadata()?.len().min(MAX_FILE_BYTES) as usize;
    let mut content = Zeroizing::new(Vec::with_capacity(expected + 1));
    read_to_limit(file, &mut content)?;
    Ok(content)
}

/// Reads all of a file or pipe, and adds it to `content`.
///
/// # Errors
/// It cannot be read or is too large.
pub fn read_to_limit(source: impl Read, content: &mut Vec<u8>) -> io::Result<()> {
    let len = source.take(MAX_FILE_BYTES + 1).read_to_end(content)?;
    if len as u64 > MAX_FILE_BYTES {
        let message = format!("it has more than {MAX_FILE_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(())
}
