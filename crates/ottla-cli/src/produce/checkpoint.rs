//! The file of `--checkpoint`: how far each input was acknowledged.
//!
//! It is replaced as a whole: written beside it, synced, renamed. So after a crash it is the last
//! one or the one before.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::pending_records::Place;
use crate::CliError;
use crate::args::{InputFormat, ProduceArgs};
use crate::input::{Input, RecordEnd};

const VERSION: u32 = 1;
/// How many bytes at the start of a file, and before the position, identify it.
const FINGERPRINT_BYTES: u64 = 64 << 10;

/// What the file contains.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckpointFile {
    version: u32,
    /// `None` if each record names its topic.
    topic: Option<String>,
    /// The options that say where a record ends.
    framing: String,
    /// The inputs that were begun. All but the last were read to their end.
    inputs: Vec<InputProgress>,
    /// The line that was read last when the file was written.
    read_up_to_line: u64,
    /// Whether the run ended by itself: nothing was sent that is not acknowledged.
    has_ended: bool,
}

/// How far an input was acknowledged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InputProgress {
    path: PathBuf,
    /// The bytes of its text, decompressed, whose records are acknowledged.
    acknowledged_bytes: u64,
    /// The lines, or the values of a raw input, of these bytes.
    acknowledged_lines: u64,
    /// The file is an archive of this many bytes.
    archive_bytes: Option<u64>,
    start: Fingerprint,
    /// The bytes before `acknowledged_bytes`. Not of an archive.
    end: Option<Fingerprint>,
}

/// The checksum of some bytes of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fingerprint {
    bytes: u64,
    sha256: String,
}

impl Fingerprint {
    fn read(file: &File, start: u64, bytes: u64) -> io::Result<Fingerprint> {
        let mut contents = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
        file.read_exact_at(&mut contents, start)?;
        let digest = Sha256::digest(&contents);
        let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Fingerprint { bytes, sha256 })
    }
}

/// Where an input is read from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct StartPosition {
    /// The index of the input.
    pub(super) input: usize,
    /// The bytes of its text, decompressed.
    pub(super) bytes: u64,
    pub(super) lines: u64,
}

/// A checkpoint file, held by one run.
pub(super) struct Checkpoint {
    path: PathBuf,
    /// Keeps the lock on `FILE.lock`.
    _lock: File,
    contents: CheckpointFile,
    /// The paths of the inputs.
    paths: Vec<PathBuf>,
    /// The file of the last entry of `contents.inputs`.
    file: Option<File>,
}

impl Checkpoint {
    /// Opens the checkpoint and finds the position to start from. The notice is for the user.
    pub(super) fn open(
        path: &Path,
        args: &ProduceArgs,
        inputs: &[Input],
        record_end: RecordEnd<'_>,
    ) -> Result<(Checkpoint, StartPosition, Option<String>), CliError> {
        check_options(args, inputs)?;
        let refused = |reason: String| {
            CliError::usage(format!("cannot use the checkpoint {}: {reason}", path.display()))
        };
        if inputs.iter().any(|input| input.is_file(path)) {
            return Err(refused("it is an input; name another file".into()));
        }
        let lock = lock(path).map_err(refused)?;
        let framing = framing(args);
        let mut is_rerun = true;
        let contents = match File::open(path) {
            Ok(file) => parse(file).map_err(refused)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                is_rerun = false;
                CheckpointFile {
                    version: VERSION,
                    topic: args.topic.clone(),
                    framing: framing.clone(),
                    ..CheckpointFile::default()
                }
            }
            Err(e) => return Err(refused(e.to_string())),
        };
        let paths: Vec<PathBuf> = inputs.iter().map(|i| i.path().to_owned()).collect();
        let mut checkpoint =
            Checkpoint { path: path.to_owned(), _lock: lock, contents, paths, file: None };
        checkpoint.check_same_load(args, &framing).map_err(refused)?;
        let missing_end = checkpoint.check_inputs(record_end).map_err(refused)?;
        let start = checkpoint.start_position(missing_end);
        let notice = if is_rerun { checkpoint.notice() } else { None };
        checkpoint.contents.has_ended = false;
        checkpoint.write().map_err(refused)?;
        Ok((checkpoint, start, notice))
    }

    fn check_same_load(&self, args: &ProduceArgs, framing: &str) -> Result<(), String> {
        let name = |topic: &Option<String>| topic.clone().unwrap_or("of each record".into());
        if self.contents.topic != args.topic {
            let (before, now) = (name(&self.contents.topic), name(&args.topic));
            return Err(format!(
                "it belongs to the topic {before}, and the topic now is {now}; name another \
                 checkpoint file"
            ));
        }
        if self.contents.framing != framing {
            let before = &self.contents.framing;
            return Err(format!(
                "the input was read with {before}, and now with {framing}, so a record may end \
                 elsewhere; use the same options, or name another checkpoint file"
            ));
        }
        Ok(())
    }

    /// Checks that the inputs are those of the earlier runs. Returns the bytes of the last input
    /// that end its last record, if they were missing.
    fn check_inputs(&self, record_end: RecordEnd<'_>) -> Result<u64, String> {
        let mut missing_end = 0;
        for (i, before) in self.contents.inputs.iter().enumerate() {
            let expected = before.path.display();
            let Some(path) = self.paths.get(i).filter(|path| **path == before.path) else {
                let now = self.paths.get(i).map_or("missing".into(), |p| p.display().to_string());
                return Err(format!(
                    "input {} was {expected}, and is {now} now; name the same files in the same \
                     order, or another checkpoint file",
                    i + 1
                ));
            };
            let is_last = i + 1 == self.contents.inputs.len();
            let name = path.display();
            let checked = before.check(path, is_last, record_end);
            missing_end = checked.map_err(|reason| {
                format!(
                    "{name} is not the file that was sent: {reason}; to send it from its start, \
                     name another checkpoint file"
                )
            })?;
        }
        Ok(missing_end)
    }

    fn start_position(&self, missing_end: u64) -> StartPosition {
        let Some(last) = self.contents.inputs.last() else { return StartPosition::default() };
        StartPosition {
            input: self.contents.inputs.len() - 1,
            bytes: last.acknowledged_bytes + missing_end,
            lines: last.acknowledged_lines,
        }
    }

    /// Says where the load continues, and what may be stored twice.
    fn notice(&self) -> Option<String> {
        let Some(last) = self.contents.inputs.last() else {
            let notice = "the last run ended before its first checkpoint; what it had sent may be \
                          stored twice";
            return (!self.contents.has_ended).then(|| notice.into());
        };
        let (name, lines) = (last.path.display(), last.acknowledged_lines);
        let unit = if self.contents.framing.contains("raw") { "value" } else { "line" };
        let start = format!("continuing {name} after {unit} {lines}, which is acknowledged");
        if self.contents.has_ended {
            return Some(format!("{start}; nothing is sent twice"));
        }
        let (first, read) = (lines + 1, self.contents.read_up_to_line);
        let known =
            if read > lines { format!("{unit} {first} to {read}, and ") } else { String::new() };
        Some(format!(
            "{start}; what an earlier run had sent after that may be stored twice ({known}what it \
             sent after its last checkpoint)"
        ))
    }

    /// Writes how far the input was acknowledged, and how far it was read. `ended` are the ends of
    /// the inputs that were acknowledged to their end since the last call.
    pub(super) fn save(
        &mut self,
        ended: &[Place],
        acknowledged: Option<Place>,
        read_up_to: Place,
        has_ended: bool,
    ) -> Result<(), String> {
        for place in ended.iter().copied().chain(acknowledged) {
            self.advance_to(place).map_err(|e| {
                format!("cannot read {} again: {e}", self.paths[place.input].display())
            })?;
        }
        self.contents.read_up_to_line =
            if Some(read_up_to.input) == self.contents.inputs.len().checked_sub(1) {
                read_up_to.end_lines
            } else {
                0
            };
        self.contents.has_ended = has_ended;
        self.write()
    }

    fn advance_to(&mut self, place: Place) -> io::Result<()> {
        while self.contents.inputs.len() <= place.input {
            let path = self.paths[self.contents.inputs.len()].clone();
            let file = File::open(&path)?;
            let len = file.metadata()?.len();
            let start = Fingerprint::read(&file, 0, len.min(FINGERPRINT_BYTES))?;
            let progress = InputProgress { path, start, ..InputProgress::default() };
            self.contents.inputs.push(progress);
            self.file = Some(file);
        }
        let index = place.input;
        let progress = &mut self.contents.inputs[index];
        if self.file.is_none() {
            self.file = Some(File::open(&progress.path)?);
        }
        let Some(file) = &self.file else { return Ok(()) };
        progress.acknowledged_bytes = place.end_bytes;
        progress.acknowledged_lines = place.end_lines;
        if place.is_archive {
            progress.archive_bytes = Some(file.metadata()?.len());
        } else {
            let bytes = place.end_bytes.min(FINGERPRINT_BYTES);
            progress.end = Some(Fingerprint::read(file, place.end_bytes - bytes, bytes)?);
        }
        Ok(())
    }

    fn write(&self) -> Result<(), String> {
        let write = || -> io::Result<()> {
            let temporary = with_suffix(&self.path, ".tmp");
            let mut file = File::create(&temporary)?;
            let mut text = serde_json::to_vec_pretty(&self.contents)?;
            text.push(b'\n');
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &self.path)?;
            File::open(directory(&self.path))?.sync_all()
        };
        write().map_err(|e| format!("cannot write the checkpoint {}: {e}", self.path.display()))
    }
}

impl InputProgress {
    /// Checks that a file has the contents that were sent. Only the last input may have grown.
    /// Returns the bytes that end its last record, if they were missing.
    fn check(&self, path: &Path, is_last: bool, record_end: RecordEnd<'_>) -> Result<u64, String> {
        let file = File::open(path).map_err(|e| e.to_string())?;
        let len = file.metadata().map_err(|e| e.to_string())?.len();
        let is_same = |expected: &Fingerprint, start: u64| {
            Fingerprint::read(&file, start, expected.bytes).is_ok_and(|found| found == *expected)
        };
        if len < self.start.bytes || !is_same(&self.start, 0) {
            return Err("its start has changed".into());
        }
        if let Some(expected) = self.archive_bytes {
            let reason = format!("the archive had {expected} bytes, and has {len}");
            return if len == expected { Ok(0) } else { Err(reason) };
        }
        if len < self.acknowledged_bytes {
            let sent = self.acknowledged_bytes;
            return Err(format!("it has {len} bytes, and {sent} were acknowledged"));
        }
        if let Some(end) = &self.end
            && !is_same(end, self.acknowledged_bytes - end.bytes)
        {
            let at = self.acknowledged_bytes;
            return Err(format!("its bytes before byte {at} have changed"));
        }
        if !is_last && len > self.acknowledged_bytes {
            let more = len - self.acknowledged_bytes;
            return Err(format!("it has grown by {more} bytes after it was sent"));
        }
        self.missing_end(&file, len, record_end)
    }

    /// Returns the bytes that end the record before `acknowledged_bytes`, if they were missing when
    /// it was sent, and the file has grown by them.
    ///
    /// # Errors
    /// The record has grown. What is new would become a record of its own.
    fn missing_end(&self, file: &File, len: u64, record_end: RecordEnd<'_>) -> Result<u64, String> {
        let at = self.acknowledged_bytes;
        let ends: &[&[u8]] = match record_end {
            RecordEnd::Length => return Ok(0),
            RecordEnd::LineEnds => &[b"\n", b"\r"],
            RecordEnd::Delimiter(b"\n") => &[b"\n", b"\r\n"],
            RecordEnd::Delimiter(delimiter) => &[delimiter],
        };
        let has_bytes = |at: Option<u64>, expected: &[u8]| {
            let mut found = vec![0; expected.len()];
            at.is_some_and(|at| file.read_exact_at(&mut found, at).is_ok()) && found == expected
        };
        let is_ended = |end: &&[u8]| has_bytes(at.checked_sub(end.len() as u64), end);
        if at == 0 || len == at || ends.iter().any(is_ended) {
            return Ok(0);
        }
        match ends.iter().find(|end| has_bytes(Some(at), end)) {
            // Its reader skips further line ends, and counts them.
            Some(_) if record_end == RecordEnd::LineEnds => Ok(0),
            Some(end) => Ok(end.len() as u64),
            None => Err("its last record, which had no end, has grown".into()),
        }
    }
}

/// Refuses options with which a rerun could not continue.
fn check_options(args: &ProduceArgs, inputs: &[Input]) -> Result<(), CliError> {
    let reason = if inputs.iter().any(|input| input.len.is_none() || input.is_stdin()) {
        "a rerun could not read pipes, devices and standard input again; name files"
    } else if args.embedded && args.data_dir.is_none() {
        "the log of the embedded broker is deleted at the end; use --data-dir as well"
    } else {
        return Ok(());
    };
    Err(CliError::usage(format!("--checkpoint: {reason}")))
}

/// Returns the options that say where a record ends.
fn framing(args: &ProduceArgs) -> String {
    let input = &args.input;
    let mut text = match input.format {
        InputFormat::Lines => "--format lines".to_owned(),
        InputFormat::Json => "--format json".to_owned(),
        InputFormat::Csv => "--format csv".to_owned(),
        InputFormat::Raw => "--format raw".to_owned(),
    };
    if let Some(delimiter) = &args.delimiter {
        text += &format!(" -D {delimiter:?}");
    }
    if let Some(delimiter) = &input.csv_delimiter {
        text += &format!(" --csv-delimiter {delimiter:?}");
    }
    if let Some(prefix) = input.length_prefix {
        text += &format!(" --length-prefix {prefix:?}").to_lowercase();
    }
    if let Some(size) = input.value_size {
        text += &format!(" --value-size {size}");
    }
    if input.no_decompress {
        text += " --no-decompress";
    }
    text
}

fn parse(file: File) -> Result<CheckpointFile, String> {
    /// A file with 100,000 inputs is smaller.
    const MAX_BYTES: u64 = 64 << 20;
    let no_checkpoint = |e: &dyn std::fmt::Display| {
        format!("it is no checkpoint file ({e}); name another file, or delete it")
    };
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text).map_err(|e| e.to_string())?;
    let contents: CheckpointFile = serde_json::from_slice(&text).map_err(|e| no_checkpoint(&e))?;
    if contents.version != VERSION {
        let version = contents.version;
        return Err(no_checkpoint(&format!("version {version}; this command has {VERSION}")));
    }
    let is_whole = |input: &InputProgress| {
        let is_short = |f: &Fingerprint| f.bytes <= FINGERPRINT_BYTES;
        let end_fits = |f: &Fingerprint| is_short(f) && f.bytes <= input.acknowledged_bytes;
        is_short(&input.start) && input.end.as_ref().is_none_or(end_fits)
    };
    if !contents.inputs.iter().all(is_whole) {
        return Err(no_checkpoint(&"a fingerprint is too long"));
    }
    Ok(contents)
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Two runs with one checkpoint would send the same records.
fn lock(path: &Path) -> Result<File, String> {
    let lock_path = with_suffix(path, ".lock");
    let cannot_lock = |e: &dyn std::fmt::Display| format!("{}: {e}", lock_path.display());
    let file = File::create(&lock_path).map_err(|e| cannot_lock(&e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err("another run uses it; wait for its end, or name another file".into())
        }
        Err(std::fs::TryLockError::Error(e)) => Err(cannot_lock(&e)),
    }
}
