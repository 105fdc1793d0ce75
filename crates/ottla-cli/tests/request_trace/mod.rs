//! Collects the versions of the requests that the producers of a test send.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use tracing_subscriber::fmt::MakeWriter;

/// The producer's trace events.
static TRACE: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Collects the requests from here on. A process calls it once.
pub(crate) fn start() {
    tracing_subscriber::fmt()
        .with_env_filter("ottla::client=trace")
        .with_ansi(false)
        .with_writer(|| TRACE.make_writer())
        .init();
}

/// Returns the versions of all requests since the last call, by API, and clears the buffer.
pub(crate) fn take_request_versions() -> BTreeMap<String, BTreeSet<u32>> {
    let text = std::mem::take(&mut *TRACE.lock().unwrap());
    let mut versions: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
    for line in String::from_utf8_lossy(&text).lines() {
        let field = |name: &str| {
            let (_, rest) = line.split_once(&format!(" {name}="))?;
            Some(rest.split(' ').next()?.trim_matches('"').to_owned())
        };
        if let (true, Some(api), Some(version)) =
            (line.contains(": request "), field("api"), field("version"))
        {
            versions.entry(api).or_default().extend(version.parse::<u32>().ok());
        }
    }
    versions
}
