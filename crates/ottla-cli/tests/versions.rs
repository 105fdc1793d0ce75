//! Old brokers and new: the same records through every codec into Kafka 2.8 to 4.3, and which versions of which API
//! were spoken. Skipped, loudly, without a JDK and Maven; with `CI=true` that is a failure.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ottla::{Header, Producer, Record};
use ottla_testkit::{Jars, LegacyKafka, print_line};

/// What the producer traces, while somebody looks.
#[derive(Clone, Default)]
struct TraceBuffer(Arc<Mutex<Vec<u8>>>);

impl Write for TraceBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TraceBuffer {
    /// Versions of requests since the last look, by API.
    fn take_request_versions(&self) -> BTreeMap<String, BTreeSet<u32>> {
        let text = std::mem::take(&mut *self.0.lock().unwrap());
        let mut out: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
        for line in String::from_utf8_lossy(&text).lines() {
            let field = |name: &str| {
                let at = line.split_once(&format!(" {name}="))?.1;
                Some(at.split(' ').next()?.trim_matches('"').to_owned())
            };
            if let (true, Some(api), Some(version)) =
                (line.contains(": request "), field("api"), field("version"))
            {
                out.entry(api).or_default().extend(version.parse::<u32>().ok());
            }
        }
        out
    }
}

#[test]
fn old_brokers_and_new() {
    let Some(jars) = Jars::find_or_fetch() else { return };
    let trace = TraceBuffer::default();
    let writer = trace.clone();
    tracing_subscriber::fmt()
        .with_env_filter("ottla::client=trace")
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    // The last has a topic id in its requests, the first have not heard of them.
    for (version, produce) in
        [("2.8.2", 9), ("3.3.2", 9), ("3.9.1", 11), ("4.0.0", 12), ("4.3.1", 13)]
    {
        let kafka = LegacyKafka::start(&jars, version);
        trace.take_request_versions();
        for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
            let producer = Producer::builder()
                .bootstrap_servers(&kafka.bootstrap)
                .compression(codec)
                .build()
                .unwrap();
            for n in 0..200 {
                let (key, value) = (format!("k{}", n % 7), format!("{codec} {n}"));
                let headers = [Header::new("h", b"1")];
                producer
                    .send(Record::to("smoke").key(&key).value(&value).headers(&headers))
                    .unwrap();
            }
            producer.flush().unwrap();
            assert_eq!(producer.totals().record_error_total, 0, "{version} {codec}");
            producer.close(Duration::from_secs(10)).unwrap();
        }
        let read = jars.read_topic(&kafka.bootstrap, "smoke");
        let values: BTreeSet<Vec<u8>> = read.iter().filter_map(|r| r.value.clone()).collect();
        assert_eq!((read.len(), values.len()), (1000, 1000), "{version}: each once");
        assert!(read.iter().all(|r| r.headers.len() == 1));
        let spoken = trace.take_request_versions();
        let all: Vec<String> = (spoken.iter())
            .map(|(api, versions)| {
                let list: Vec<String> = versions.iter().map(u32::to_string).collect();
                format!("{api} {}", list.join(" and "))
            })
            .collect();
        print_line(&format!("Kafka {version}: {}", all.join(", ")));
        assert_eq!(spoken["Produce"], BTreeSet::from([produce]), "{version}");
        if version == "4.3.1" {
            check_zstd_levels(&jars, &kafka);
        }
    }
}

/// What the zstd encoder writes at each of its levels, Java reads.
fn check_zstd_levels(jars: &Jars, kafka: &LegacyKafka) {
    let mut sent = 0;
    for level in -7..=4 {
        let producer = Producer::builder()
            .bootstrap_servers(&kafka.bootstrap)
            .compression("zstd")
            .set("compression.zstd.level", &level.to_string())
            .build()
            .unwrap();
        for n in 0..300 {
            let value =
                format!("{{\"level\":{level},\"n\":{n},\"text\":\"{}\"}}", "words ".repeat(n % 40));
            producer.send(Record::to("levels").value(&value)).unwrap();
            sent += 1;
        }
        producer.flush().unwrap();
        producer.close(Duration::from_secs(10)).unwrap();
    }
    let read = jars.read_topic(&kafka.bootstrap, "levels");
    let values: BTreeSet<Vec<u8>> = read.iter().filter_map(|r| r.value.clone()).collect();
    assert_eq!((read.len(), values.len()), (sent, sent), "each once, as it was sent");
    assert!(values.iter().all(|v| v.starts_with(b"{\"level\":") && v.ends_with(b"\"}")));
}
