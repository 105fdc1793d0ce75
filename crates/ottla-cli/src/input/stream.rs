//! A stream of an input's text, decompressed if it is an archive. It counts what was read.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::decompress::{Decompressor, Source};

const BUFFER_BYTES: usize = 256 * 1024;

/// The text of an input.
pub(crate) struct InputStream {
    reader: Reader,
    /// The bytes of the text that were consumed.
    position: u64,
    /// The bytes of the file that were read.
    file_position: Arc<AtomicU64>,
}

/// No trait object: each line passes through here.
enum Reader {
    Plain(Source),
    Archive(BufReader<Decompressor>),
}

/// Counts the bytes that are read from a file.
struct CountedFile<R> {
    file: R,
    position: Arc<AtomicU64>,
}

impl<R: Read> Read for CountedFile<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buf)?;
        self.position.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

impl InputStream {
    /// Reads `file` as it is, or decompresses it if it is an archive.
    pub(super) fn new(
        file: impl Read + Send + 'static,
        decompresses: bool,
    ) -> io::Result<InputStream> {
        let file_position = Arc::<AtomicU64>::default();
        let file = CountedFile { file, position: file_position.clone() };
        let mut source = Source::new(Box::new(file), BUFFER_BYTES);
        let format = if decompresses { source.detect_format()? } else { None };
        let reader = match format {
            None => Reader::Plain(source),
            Some(format) => {
                let contents = Decompressor::new(format, source);
                Reader::Archive(BufReader::with_capacity(BUFFER_BYTES, contents))
            }
        };
        Ok(InputStream { reader, position: 0, file_position })
    }

    pub(crate) fn is_archive(&self) -> bool {
        matches!(self.reader, Reader::Archive(_))
    }

    /// A stream of a file that is no archive, read up to `position`.
    pub(super) fn resumed(file: impl Read + Send + 'static, position: u64) -> InputStream {
        let file_position = Arc::new(AtomicU64::new(position));
        let file = CountedFile { file, position: file_position.clone() };
        let reader = Reader::Plain(Source::new(Box::new(file), BUFFER_BYTES));
        InputStream { reader, position, file_position }
    }

    /// Skips the text up to `position`. Returns whether there is that much.
    pub(super) fn skip_to(&mut self, position: u64) -> io::Result<bool> {
        let missing = position.saturating_sub(self.position);
        Ok(io::copy(&mut Read::take(&mut *self, missing), &mut io::sink())? == missing)
    }

    /// Returns the bytes of the file that were read, before decompression.
    pub(crate) fn file_position(&self) -> u64 {
        self.file_position.load(Ordering::Relaxed)
    }

    /// Returns the bytes of the text that were consumed, after decompression.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }
}

impl Read for InputStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = match &mut self.reader {
            Reader::Plain(source) => source.read(buf)?,
            Reader::Archive(contents) => contents.read(buf)?,
        };
        self.position += n as u64;
        Ok(n)
    }
}

impl BufRead for InputStream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match &mut self.reader {
            Reader::Plain(source) => source.fill_buf(),
            Reader::Archive(contents) => contents.fill_buf(),
        }
    }

    fn consume(&mut self, n: usize) {
        match &mut self.reader {
            Reader::Plain(source) => source.consume(n),
            Reader::Archive(contents) => contents.consume(n),
        }
        self.position += n as u64;
    }
}
