//! One segment: a file named by its first offset in twenty digits, or memory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ottla_protocol::record::{BatchHeaderView, Batches};

use super::LogIndexEntry;

/// A segment and the place of each of its batches.
#[derive(Debug)]
pub(crate) struct LogSegment {
    pub(crate) base_offset: i64,
    storage: SegmentStorage,
    entries: Vec<LogIndexEntry>,
    size: u64,
}

#[derive(Debug)]
enum SegmentStorage {
    Memory(Vec<u8>),
    File(File, PathBuf),
}

impl LogSegment {
    pub(super) fn in_memory(base: i64) -> LogSegment {
        LogSegment {
            base_offset: base,
            storage: SegmentStorage::Memory(Vec::new()),
            entries: Vec::new(),
            size: 0,
        }
    }

    pub(super) fn create(dir: &Path, base: i64) -> io::Result<LogSegment> {
        let path = dir.join(format!("{base:020}.log"));
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        Ok(LogSegment {
            base_offset: base,
            storage: SegmentStorage::File(file, path),
            entries: Vec::new(),
            size: 0,
        })
    }

    /// The segment behind this one.
    pub(super) fn roll(&self, base: i64) -> io::Result<LogSegment> {
        match &self.storage {
            SegmentStorage::Memory(_) => Ok(LogSegment::in_memory(base)),
            SegmentStorage::File(_, path) => {
                LogSegment::create(path.parent().unwrap_or(Path::new(".")), base)
            }
        }
    }

    /// A directory's segments, in order.
    pub(super) fn open_all(dir: &Path) -> io::Result<Vec<LogSegment>> {
        let mut bases = Vec::new();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            if let Some(base) = name.strip_suffix(".log").filter(|b| b.len() == 20) {
                bases.extend(base.parse::<i64>());
            }
        }
        bases.sort_unstable();
        bases.into_iter().map(|base| LogSegment::create(dir, base)).collect()
    }

    /// Reads the file from its start; cuts it at the first bad batch and says whether it did.
    pub(super) fn recover(
        &mut self,
        mut each: impl FnMut(&BatchHeaderView, i64),
    ) -> io::Result<bool> {
        let SegmentStorage::File(file, path) = &mut self.storage else {
            return Ok(false);
        };
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut bytes)?;
        let (mut at, mut expected) = (0u64, self.base_offset);
        for batch in Batches::new(&bytes) {
            let Ok(batch) = batch else { break };
            let (base, len) = (batch.header().base_offset, batch.bytes().len());
            let sound =
                batch.verify().is_ok() && base == expected && batch.header().last_offset_delta >= 0;
            let Ok(header) = BatchHeaderView::parse(batch.bytes()) else {
                break;
            };
            if !sound {
                break;
            }
            let last = base + i64::from(header.header.last_offset_delta);
            let max_timestamp = header.header.max_timestamp;
            let epoch = header.header.partition_leader_epoch;
            let len32 = len as u32;
            self.entries.push(LogIndexEntry {
                base_offset: base,
                last_offset: last,
                leader_epoch: epoch,
                max_timestamp,
                position: at,
                len: len32,
            });
            each(&header, base);
            at += len as u64;
            expected = last + 1;
        }
        self.size = at;
        let cut = at < bytes.len() as u64;
        if cut {
            let lost = bytes.len() as u64 - at;
            tracing::warn!(file = %path.display(), at, lost, "log cut at a bad batch");
            file.set_len(at)?;
        }
        Ok(cut)
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn entries(&self) -> &[LogIndexEntry] {
        &self.entries
    }

    pub(super) fn append(&mut self, bytes: &[u8], entry: LogIndexEntry) -> io::Result<()> {
        match &mut self.storage {
            SegmentStorage::Memory(all) => all.extend_from_slice(bytes),
            SegmentStorage::File(file, _) => {
                file.seek(SeekFrom::Start(self.size))?;
                if let Err(e) = file.write_all(bytes) {
                    // Half a batch must not stand there.
                    let _ = file.set_len(self.size);
                    return Err(e);
                }
            }
        }
        self.entries.push(entry);
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Cuts off every batch from `offset` on.
    pub(super) fn truncate_to(&mut self, offset: i64) -> io::Result<()> {
        let keep = self.entries.partition_point(|e| e.base_offset < offset);
        let Some(first) = self.entries.get(keep) else { return Ok(()) };
        let size = first.position;
        match &mut self.storage {
            SegmentStorage::Memory(all) => all.truncate(size as usize),
            SegmentStorage::File(file, _) => file.set_len(size)?,
        }
        self.entries.truncate(keep);
        self.size = size;
        Ok(())
    }

    pub(super) fn read(&self, e: &LogIndexEntry, out: &mut Vec<u8>) -> io::Result<()> {
        let (from, len) = (e.position, e.len as usize);
        match &self.storage {
            SegmentStorage::Memory(all) => {
                out.extend_from_slice(&all[from as usize..from as usize + len]);
            }
            SegmentStorage::File(file, _) => {
                let (mut file, at) = (file, out.len());
                file.seek(SeekFrom::Start(from))?;
                out.resize(at + len, 0);
                file.read_exact(&mut out[at..])?;
            }
        }
        Ok(())
    }

    pub(super) fn remove(self) -> io::Result<()> {
        match self.storage {
            SegmentStorage::Memory(_) => Ok(()),
            SegmentStorage::File(_, path) => fs::remove_file(path),
        }
    }
}
