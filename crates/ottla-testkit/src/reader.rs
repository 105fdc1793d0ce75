//! Parses the output of the Java consumer in `java/Reader.java`.

use std::io::{self, Read};

/// A record as Java's consumer returns it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConsumerRecord {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The timestamp, in milliseconds.
    pub timestamp: i64,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value.
    pub value: Option<Vec<u8>>,
    /// The headers, in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

fn read_i32(r: &mut impl Read) -> io::Result<i32> {
    let mut b = [0; 4];
    r.read_exact(&mut b)?;
    Ok(i32::from_be_bytes(b))
}

fn read_i64(r: &mut impl Read) -> io::Result<i64> {
    let mut b = [0; 8];
    r.read_exact(&mut b)?;
    Ok(i64::from_be_bytes(b))
}

/// Reads a length and that number of bytes; length -1 means null.
fn read_bytes(r: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let Ok(len) = usize::try_from(read_i32(r)?) else {
        return Ok(None);
    };
    let mut b = vec![0; len];
    r.read_exact(&mut b)?;
    Ok(Some(b))
}

/// Parses all records of the output.
pub(crate) fn parse_records(mut bytes: &[u8]) -> io::Result<Vec<ConsumerRecord>> {
    let (mut records, r) = (Vec::new(), &mut bytes);
    while !r.is_empty() {
        let (partition, offset, timestamp) = (read_i32(r)?, read_i64(r)?, read_i64(r)?);
        let (key, value) = (read_bytes(r)?, read_bytes(r)?);
        let mut headers = Vec::new();
        for _ in 0..read_i32(r)? {
            let name = read_bytes(r)?.unwrap_or_default();
            headers.push((String::from_utf8_lossy(&name).into_owned(), read_bytes(r)?));
        }
        records.push(ConsumerRecord { partition, offset, timestamp, key, value, headers });
    }
    Ok(records)
}
