//! The command line, which all drivers share but for `--tasks` and `--tls-provider`.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;

#[derive(Parser)]
pub(crate) struct Options {
    #[arg(long)]
    pub(crate) bootstrap: String,
    #[arg(long, default_value = "bench")]
    pub(crate) topic: String,
    /// Records to measure, of all threads and producers together.
    #[arg(long)]
    pub(crate) records: u64,
    /// Records before the measurement.
    #[arg(long, default_value_t = 0)]
    pub(crate) warmup: u64,
    /// A file of values, one after the other without separators.
    #[arg(long)]
    pub(crate) values: PathBuf,
    /// Bytes of a value.
    #[arg(long)]
    pub(crate) size: usize,
    /// Whether each record has its own key of 8 bytes.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set)]
    pub(crate) keyed: bool,
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: u64,
    /// Send from this many tasks of a runtime with two threads, instead of from `--threads`.
    #[arg(long, default_value_t = 0)]
    pub(crate) tasks: u64,
    /// Producers, among which the records alternate.
    #[arg(long, default_value_t = 1)]
    pub(crate) producers: u64,
    /// Records a second of all producers together; 0 for no limit.
    #[arg(long, default_value_t = 0)]
    pub(crate) rate: u64,
    /// Milliseconds between warm-up and measurement, in which nothing is sent.
    #[arg(long, default_value_t = 0)]
    pub(crate) idle_ms: u64,
    #[arg(long, default_value = "none")]
    pub(crate) compression: String,
    /// `buffer.memory` of each producer.
    #[arg(long, default_value_t = 32 << 20)]
    pub(crate) buffer_memory: u64,
    /// Largest batch in bytes.
    #[arg(long, default_value_t = 16_384)]
    pub(crate) batch_size: u32,
    /// Use TLS, and trust this certificate authority.
    #[arg(long)]
    pub(crate) tls_ca: Option<PathBuf>,
    /// graviola, ring or aws-lc-rs.
    #[arg(long, default_value = "ring")]
    pub(crate) tls_provider: String,
}

impl Options {
    /// Makes the producers use the chosen cryptography.
    pub(crate) fn install_tls_provider(&self) {
        let provider = match self.tls_provider.as_str() {
            #[cfg(feature = "graviola")]
            "graviola" => rustls_graviola::default_provider(),
            #[cfg(feature = "aws-lc-rs")]
            "aws-lc-rs" => rustls::crypto::aws_lc_rs::default_provider(),
            "ring" => rustls::crypto::ring::default_provider(),
            other => {
                eprintln!("ottla: --tls-provider {other} is not in this build");
                std::process::exit(2);
            }
        };
        provider.install_default().expect("install the provider");
    }

    pub(crate) fn read_values(&self) -> Vec<Bytes> {
        let values = Bytes::from(fs::read(&self.values).expect("read the values"));
        assert!(values.len() >= self.size, "--values has less than one value");
        (0..values.len() / self.size)
            .map(|i| values.slice(i * self.size..(i + 1) * self.size))
            .collect()
    }

    pub(crate) fn idle(&self) -> Duration {
        Duration::from_millis(self.idle_ms)
    }

    /// Returns the settings of a producer.
    pub(crate) fn properties(&self) -> Vec<(&'static str, String)> {
        let mut properties = vec![
            ("bootstrap.servers", self.bootstrap.clone()),
            ("acks", "all".to_owned()),
            ("enable.idempotence", "true".to_owned()),
            ("max.in.flight.requests.per.connection", "5".to_owned()),
            ("batch.size", self.batch_size.to_string()),
            ("linger.ms", "5".to_owned()),
            ("buffer.memory", self.buffer_memory.to_string()),
            ("compression.type", self.compression.clone()),
        ];
        if let Some(ca) = &self.tls_ca {
            properties.extend([
                ("security.protocol", "SSL".to_owned()),
                ("ssl.truststore.type", "PEM".to_owned()),
                ("ssl.truststore.location", ca.display().to_string()),
            ]);
        }
        properties
    }
}
