//! The file of `--on-error FILE`: the records that were rejected, as JSON that can be sent again.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use ottla::Error;

use super::pending_records::{PendingRecord, Place};
use super::record_json::{push_bytes, push_text, push_value};
use crate::{CliError, error_text};

/// Appends objects to the file. It never removes what an earlier run has written.
#[derive(Debug)]
pub(super) struct RejectedFile {
    path: PathBuf,
    out: BufWriter<File>,
    /// The names of the inputs.
    sources: Vec<String>,
    records: u64,
    /// The number of objects whose input could not be read as a record.
    unreadable: u64,
}

/// A text of the input that was not sent.
pub(super) struct Unsent<'a> {
    pub(super) topic: Option<&'a str>,
    pub(super) reason: &'a str,
    /// Its bytes; `None` if they were too many to keep.
    pub(super) text: Option<&'a [u8]>,
    pub(super) place: Place,
}

impl RejectedFile {
    pub(super) fn open(path: &Path, sources: Vec<String>) -> Result<RejectedFile, CliError> {
        let file = OpenOptions::new().append(true).create(true).open(path).map_err(|e| {
            CliError::usage(format!("cannot write {} of --on-error: {e}", path.display()))
        })?;
        let (path, out) = (path.to_owned(), BufWriter::new(file));
        Ok(RejectedFile { path, out, sources, records: 0, unreadable: 0 })
    }

    /// Writes a record that the producer or the broker has rejected.
    pub(super) fn write_record(
        &mut self,
        topic: &str,
        record: &PendingRecord,
        e: &Error,
    ) -> Result<(), String> {
        let mut object = b"{".to_vec();
        push_text(&mut object, "topic", topic);
        if let Some(partition) = record.partition {
            object.push(b',');
            push_value(&mut object, "partition", Some(partition));
        }
        object.push(b',');
        push_value(&mut object, "timestamp", Some(record.timestamp));
        object.push(b',');
        object.extend(&record.content);
        object.push(b',');
        let is_possibly_persisted = e.record_status() == ottla::RecordStatus::PossiblyPersisted;
        push_value(&mut object, "possibly_persisted", Some(is_possibly_persisted));
        self.records += 1;
        self.write(object, &error_text(e), record.place)
    }

    /// Writes a text of the input that is no record. It has to be corrected before it is sent.
    pub(super) fn write_unsent(&mut self, unsent: &Unsent<'_>) -> Result<(), String> {
        let mut object = b"{".to_vec();
        if let Some(topic) = unsent.topic {
            push_text(&mut object, "topic", topic);
            object.push(b',');
        }
        push_bytes(&mut object, "input", unsent.text);
        self.unreadable += 1;
        self.write(object, unsent.reason, unsent.place)
    }

    fn write(&mut self, mut object: Vec<u8>, reason: &str, place: Place) -> Result<(), String> {
        object.push(b',');
        push_text(&mut object, "error", reason);
        object.push(b',');
        let source = self.sources.get(place.input).map_or("", String::as_str);
        push_text(&mut object, "source", &format!("{source}: line {}", place.number));
        object.extend(b"}\n");
        self.out.write_all(&object).map_err(|e| self.cannot_write(&e))
    }

    fn cannot_write(&self, e: &io::Error) -> String {
        format!("cannot write a rejected record to {}: {e}", self.path.display())
    }

    pub(super) fn flush(&mut self) -> Result<(), String> {
        self.out.flush().map_err(|e| self.cannot_write(&e))
    }

    /// Returns what the summary says about the file; empty if nothing was written.
    pub(super) fn summary(&self) -> String {
        let (path, records, unreadable) = (self.path.display(), self.records, self.unreadable);
        let mut out = String::new();
        if records > 0 {
            out += &format!(
                "{records} rejected records are in {path}: send them again with ottla produce \
                 --format json {path}\n"
            );
        }
        if unreadable > 0 {
            out += &format!(
                "{unreadable} inputs that are no records are in {path}, in the field input: \
                 correct them first\n"
            );
        }
        out
    }
}
