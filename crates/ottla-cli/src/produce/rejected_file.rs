//! The file of `--on-error FILE`: the records that were rejected, as JSON that can be sent again.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use ottla::Error;

use super::pending_records::{PendingRecord, Place};
use super::record_json::{push_bytes, push_text, push_value};
use crate::CliError;

/// Appends objects to the file. It never removes what an earlier run has written.
#[derive(Debug)]
pub(super) struct RejectedFile {
    path: PathBuf,
    out: BufWriter<File>,
    /// The names of the inputs.
    sources: Vec<String>,
    /// What the numbers of the places count: lines or values.
    unit: &'static str,
    records: u64,
    /// The number of objects whose input could not be read as a record.
    unreadable: u64,
    /// The first error of a write. Nothing is written after it, because a later object would stand
    /// behind a part of an earlier one.
    write_error: Option<String>,
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
    pub(super) fn open(
        path: &Path,
        sources: Vec<String>,
        unit: &'static str,
    ) -> Result<RejectedFile, CliError> {
        let file = OpenOptions::new().append(true).create(true).open(path).map_err(|e| {
            CliError::usage(format!("cannot write {} of --on-error: {e}", path.display()))
        })?;
        let (path, out) = (path.to_owned(), BufWriter::new(file));
        Ok(RejectedFile { path, out, sources, unit, records: 0, unreadable: 0, write_error: None })
    }

    /// Writes a record that the producer or the broker has rejected.
    pub(super) fn write_record(
        &mut self,
        topic: &str,
        record: &PendingRecord,
        (e, reason): (&Error, &str),
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
        self.write(object, reason, record.place)
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
        push_text(&mut object, "source", &format!("{source}: {} {}", self.unit, place.number));
        object.extend(b"}\n");
        self.write_checked(|out| out.write_all(&object))
    }

    /// Writes, unless an earlier write has failed. The error is kept for the summary.
    fn write_checked(
        &mut self,
        write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> Result<(), String> {
        if self.write_error.is_none()
            && let Err(e) = write(&mut self.out)
        {
            let path = self.path.display();
            self.write_error = Some(format!("cannot write a rejected record to {path}: {e}"));
        }
        self.write_error.clone().map_or(Ok(()), Err)
    }

    pub(super) fn flush(&mut self) -> Result<(), String> {
        self.write_checked(BufWriter::flush)
    }

    /// Returns what the summary says about the file; empty if nothing was written.
    pub(super) fn summary(&self) -> String {
        let (path, records, unreadable) = (self.path.display(), self.records, self.unreadable);
        if let Some(e) = &self.write_error {
            let rejected = records + unreadable;
            return format!("{e}; the file lacks some or all of {rejected} rejected records\n");
        }
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
