//! Decompresses an input that is a gzip, zstd or lz4 archive. Its first bytes say so, not its name.
//!
//! An archive may have several gzip members or frames, and skippable frames. Memory is bounded by
//! the codec's window, however large the contents are.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;

const MAGIC_LEN: usize = 4;

/// A format of archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ArchiveFormat {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    Lz4,
    /// The format of `lz4 -l`. It has no end mark, so an incomplete archive could not be detected.
    LegacyLz4,
    /// A skippable frame, which zstd and lz4 share. The next frame says the format.
    Skippable,
}

/// The magic bytes of the formats. In gzip's, the third byte is the compression method: deflate.
const MAGICS: [(&[u8], ArchiveFormat); 4] = [
    (&[0x1f, 0x8b, 8], ArchiveFormat::Gzip),
    (&[0x28, 0xb5, 0x2f, 0xfd], ArchiveFormat::Zstd),
    (&[0x04, 0x22, 0x4d, 0x18], ArchiveFormat::Lz4),
    (&[0x02, 0x21, 0x4c, 0x18], ArchiveFormat::LegacyLz4),
];

impl ArchiveFormat {
    fn name(self) -> &'static str {
        match self {
            ArchiveFormat::Gzip => "gzip",
            ArchiveFormat::Zstd => "zstd",
            ArchiveFormat::Lz4 | ArchiveFormat::LegacyLz4 => "lz4",
            ArchiveFormat::Skippable => "zstd or lz4",
        }
    }

    /// Returns the format of an archive that begins with these bytes.
    fn detect(start: &[u8]) -> Option<ArchiveFormat> {
        if is_skippable_magic(start) {
            return Some(ArchiveFormat::Skippable);
        }
        MAGICS.iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, format)| *format)
    }

    /// Returns whether an archive may begin with these bytes, and more are needed to know.
    fn needs_more(start: &[u8]) -> bool {
        let may_be_skippable = match start {
            [first] => first & 0xf0 == 0x50,
            [first, rest @ ..] => first & 0xf0 == 0x50 && [0x2a, 0x4d, 0x18].starts_with(rest),
            [] => return false,
        };
        let is_prefix = |magic: &[u8]| start.len() < magic.len() && magic.starts_with(start);
        start.len() < MAGIC_LEN && may_be_skippable
            || MAGICS.iter().any(|(magic, _)| is_prefix(magic))
    }
}

fn is_skippable_magic(start: &[u8]) -> bool {
    matches!(start, [first, 0x2a, 0x4d, 0x18, ..] if first & 0xf0 == 0x50)
}

/// The bytes of a file. The first bytes can be looked at before they are read.
pub(super) struct Source {
    /// Bytes that were looked at and come before those of `file`.
    start: Vec<u8>,
    /// How many bytes of `start` were read.
    start_position: usize,
    file: BufReader<Box<dyn Read + Send>>,
}

impl Source {
    pub(super) fn new(file: Box<dyn Read + Send>, buffer_bytes: usize) -> Source {
        let file = BufReader::with_capacity(buffer_bytes, file);
        Source { start: Vec::new(), start_position: 0, file }
    }

    /// Looks at the next bytes, as many as are needed to know the format.
    ///
    /// An input that is no archive is not held up: one of its first four bytes says so.
    pub(super) fn detect_format(&mut self) -> io::Result<Option<ArchiveFormat>> {
        self.start.drain(..self.start_position);
        self.start_position = 0;
        loop {
            let available = self.file.fill_buf()?;
            if self.start.is_empty()
                && available.first().is_none_or(|b| !ArchiveFormat::needs_more(&[*b]))
            {
                // The usual case: nothing is copied.
                return Ok(None);
            }
            let n = available.len().min(MAGIC_LEN.saturating_sub(self.start.len()));
            self.start.extend_from_slice(&available[..n]);
            self.file.consume(n);
            if n == 0 || !ArchiveFormat::needs_more(&self.start) {
                return Ok(ArchiveFormat::detect(&self.start));
            }
        }
    }

    /// Returns whether the file ended before [`detect_format`](Source::detect_format) knew the
    /// format.
    fn is_start_incomplete(&self) -> bool {
        ArchiveFormat::needs_more(&self.start)
    }
}

impl Read for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.start_position == self.start.len() {
            return self.file.read(buf);
        }
        let n = self.fill_buf()?.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for Source {
    #[inline]
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match &self.start[self.start_position..] {
            [] => self.file.fill_buf(),
            start => Ok(start),
        }
    }

    #[inline]
    fn consume(&mut self, n: usize) {
        if self.start_position == self.start.len() {
            self.file.consume(n);
        } else {
            self.start_position += n;
        }
    }
}

/// Reads the contents of an archive.
pub(super) struct Decompressor {
    format: ArchiveFormat,
    state: State,
}

enum State {
    /// Before a member or frame.
    Start(Source),
    Gzip(Box<GzDecoder<Source>>),
    Lz4(Box<lz4_flex::frame::FrameDecoder<WithoutEnd<Source>>>),
    /// zrip's decoder reads all frames itself.
    Zstd(Box<zrip::FrameDecoder<Source>>),
    Ended,
}

/// Makes the end of a reader an error: lz4_flex's decoder takes it for the end of a frame.
struct WithoutEnd<R>(R);

impl<R: Read> Read for WithoutEnd<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buf) {
            // Not `UnexpectedEof`, which the decoder takes for the end of a frame as well.
            Ok(0) if !buf.is_empty() => Err(io::Error::other(EndMissing)),
            result => result,
        }
    }
}

/// The archive ends inside a frame.
#[derive(Debug)]
struct EndMissing;

impl std::fmt::Display for EndMissing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the archive ends inside a frame")
    }
}

impl std::error::Error for EndMissing {}

impl Decompressor {
    pub(super) fn new(format: ArchiveFormat, source: Source) -> Decompressor {
        Decompressor { format, state: State::Start(source) }
    }

    fn read_contents(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            let n = match &mut self.state {
                State::Ended => return Ok(0),
                State::Zstd(decoder) => return decoder.read(buf),
                State::Gzip(decoder) => decoder.read(buf)?,
                State::Lz4(decoder) => decoder.read(buf)?,
                State::Start(_) => 0,
            };
            if n > 0 {
                return Ok(n);
            }
            self.state = match std::mem::replace(&mut self.state, State::Ended) {
                State::Start(source) => self.next_frame(source)?,
                State::Gzip(decoder) => State::Start(decoder.into_inner()),
                State::Lz4(decoder) => State::Start(decoder.into_inner().0),
                state @ (State::Zstd(_) | State::Ended) => state,
            };
        }
    }

    /// Begins the next member or frame, if there is one.
    fn next_frame(&mut self, mut source: Source) -> io::Result<State> {
        let format = source.detect_format()?;
        let is_end = source.fill_buf()?.is_empty();
        let state = match (format, self.format) {
            _ if is_end => State::Ended,
            // The archive ends inside the first bytes of its next frame.
            (None, _) if source.is_start_incomplete() => return Err(io::Error::other(EndMissing)),
            (Some(ArchiveFormat::Gzip), ArchiveFormat::Gzip) => {
                State::Gzip(Box::new(GzDecoder::new(source)))
            }
            (Some(ArchiveFormat::Zstd), ArchiveFormat::Zstd | ArchiveFormat::Skippable) => {
                self.format = ArchiveFormat::Zstd;
                State::Zstd(Box::new(zrip::FrameDecoder::new(source)))
            }
            (Some(ArchiveFormat::Lz4), ArchiveFormat::Lz4 | ArchiveFormat::Skippable) => {
                self.format = ArchiveFormat::Lz4;
                State::Lz4(Box::new(lz4_flex::frame::FrameDecoder::new(WithoutEnd(source))))
            }
            (Some(ArchiveFormat::LegacyLz4), _) => return Err(io::Error::other(LEGACY_LZ4)),
            (Some(ArchiveFormat::Skippable), format) if format != ArchiveFormat::Gzip => {
                skip_frame(&mut source)?;
                State::Start(source)
            }
            (_, ArchiveFormat::Gzip) => {
                // As gzip(1) does: tapes and block devices are padded with zeros.
                check_padding(&mut source)?;
                State::Ended
            }
            _ => return Err(io::Error::other(TRAILING_BYTES)),
        };
        Ok(state)
    }
}

const LEGACY_LZ4: &str = "it has the legacy format of `lz4 -l`, which does not show whether an \
                          archive is complete; decompress it with `lz4 -d`";
const TRAILING_BYTES: &str = "other bytes follow the last frame";

fn skip_frame(source: &mut impl Read) -> io::Result<()> {
    let mut header = [0; MAGIC_LEN + 4];
    source.read_exact(&mut header)?;
    let len = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    let skipped = io::copy(&mut source.take(u64::from(len)), &mut io::sink())?;
    if skipped < u64::from(len) { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

fn check_padding(source: &mut impl BufRead) -> io::Result<()> {
    loop {
        let available = source.fill_buf()?;
        if available.iter().any(|b| *b != 0) {
            return Err(io::Error::other(TRAILING_BYTES));
        }
        let n = available.len();
        if n == 0 {
            return Ok(());
        }
        source.consume(n);
    }
}

impl Read for Decompressor {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.read_contents(buf).map_err(|e| {
            if e.kind() == io::ErrorKind::Interrupted {
                return e;
            }
            // Later reads must not continue behind the damage.
            self.state = State::Ended;
            let is_incomplete = e.kind() == io::ErrorKind::UnexpectedEof
                || e.get_ref().is_some_and(|inner| inner.is::<EndMissing>());
            let name = self.format.name();
            let reason = if is_incomplete {
                format!("the {name} archive is incomplete: its end is missing")
            } else {
                format!("the {name} archive cannot be decompressed: {e}")
            };
            io::Error::new(io::ErrorKind::InvalidData, reason)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;
    use crate::input::InputStream;

    /// Returns its bytes in pieces of at most this many bytes, as a pipe does.
    struct InPieces(Cursor<Vec<u8>>, usize);

    type Cursor<T> = io::Cursor<T>;

    impl Read for InPieces {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let n = buf.len().min(self.1);
            self.0.read(&mut buf[..n])
        }
    }

    fn read_all(archive: &[u8], piece: usize) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        let file = InPieces(Cursor::new(archive.to_vec()), piece);
        let mut stream = InputStream::new(file, true).map_err(|e| e.to_string())?;
        stream.read_to_end(&mut out).map_err(|e| e.to_string())?;
        assert_eq!(
            (stream.position(), stream.file_position()),
            (out.len() as u64, archive.len() as u64)
        );
        Ok(out)
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn lz4(text: &[u8]) -> Vec<u8> {
        let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        zrip::compress(text, 1).unwrap()
    }

    fn skippable(len: u8) -> Vec<u8> {
        let mut frame = vec![0x5a, 0x2a, 0x4d, 0x18, len, 0, 0, 0];
        frame.extend(vec![7; usize::from(len)]);
        frame
    }

    fn text() -> Vec<u8> {
        (0..20_000).map(|i| format!("line {}\n", i % 1237)).collect::<String>().into_bytes()
    }

    #[test]
    fn archive_of_several_frames_is_one_text() {
        let (text, tail) = (text(), b"the last line".to_vec());
        for (name, encode) in [("gzip", gzip as fn(&[u8]) -> Vec<u8>), ("lz4", lz4), ("zstd", zstd)]
        {
            let (a, empty, b) = (encode(&text), encode(b""), encode(&tail));
            let mut archives = vec![[&a[..], &empty, &b].concat()];
            if name != "gzip" {
                archives.push([&skippable(3)[..], &a, &skippable(0), &skippable(200), &b].concat());
            }
            for archive in archives {
                for piece in [1, 3, 1 << 20] {
                    let read = read_all(&archive, piece).unwrap();
                    assert!(read == [&text[..], &tail].concat(), "{name}, {piece}");
                }
            }
        }
        assert_eq!(read_all(&skippable(9), 2), Ok(Vec::new()));
        assert_eq!(read_all(&[&gzip(b"a\n")[..], &[0; 700]].concat(), 5), Ok(b"a\n".to_vec()));
    }

    #[test]
    fn archive_of_many_members_needs_no_stack() {
        let member = gzip(b"x");
        let archive = member.repeat(100_000);
        assert_eq!(read_all(&archive, 1 << 16).unwrap().len(), 100_000);
    }

    #[test]
    fn text_that_is_no_archive_is_read_as_it_is() {
        let texts: [&[u8]; 10] = [
            b"",
            b"(",
            b"(\xb5\n",
            b"\x1f\x8b\n",
            b"\x1f",
            b"\x04\x22\x4d\x19",
            b"P*M",
            b"P*M\x19",
            b"S",
            b"plain",
        ];
        for text in texts {
            for piece in [1, 100] {
                assert_eq!(read_all(text, piece), Ok(text.to_vec()), "{text:?}");
            }
        }
    }

    #[test]
    fn archive_that_is_incomplete_is_an_error_at_every_byte() {
        let text = &text()[..3_000];
        for (name, archive) in [("gzip", gzip(text)), ("lz4", lz4(text)), ("zstd", zstd(text))] {
            // With fewer bytes it is no archive yet.
            for len in 4..archive.len() {
                let e = read_all(&archive[..len], 1 << 20).unwrap_err();
                let expected = format!("the {name} archive is incomplete: its end is missing");
                assert_eq!(e, expected, "{name}, {len} of {} bytes", archive.len());
            }
        }
        let e = read_all(&skippable(9)[..12], 100).unwrap_err();
        assert_eq!(e, "the zstd or lz4 archive is incomplete: its end is missing");
    }

    #[test]
    fn archive_that_ends_in_the_start_of_a_frame_is_incomplete() {
        for (name, archive) in [("gzip", gzip(b"a")), ("lz4", lz4(b"a")), ("zstd", zstd(b"a"))] {
            // The third byte of gzip's magic completes it.
            let longest = if name == "gzip" { 2 } else { 3 };
            for len in 1..=longest {
                let e = read_all(&[&archive[..], &archive[..len]].concat(), 100).unwrap_err();
                assert_eq!(e, format!("the {name} archive is incomplete: its end is missing"));
            }
        }
    }

    #[test]
    fn bytes_behind_the_last_frame_are_an_error() {
        for (name, archive) in [("gzip", gzip(b"a")), ("lz4", lz4(b"a"))] {
            let e = read_all(&[&archive[..], b"other"].concat(), 3).unwrap_err();
            let start = format!("the {name} archive cannot be decompressed: {TRAILING_BYTES}");
            assert_eq!(e, start);
        }
        assert!(read_all(&[&zstd(b"a")[..], b"others"].concat(), 3).is_err());
        let e = read_all(&[0x02, 0x21, 0x4c, 0x18, 0, 0, 0, 0], 100).unwrap_err();
        assert!(e.ends_with("decompress it with `lz4 -d`"), "{e}");
    }

    proptest! {
        #[test]
        fn damaged_archive_is_an_error_or_a_text_and_never_a_panic(
            codec in 0..3usize,
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut archive = [gzip, lz4, zstd][codec](&text()[..2_000]);
            let at = at.index(archive.len());
            archive[at] = byte;
            let _ = read_all(&archive, 4096);
        }
    }
}
