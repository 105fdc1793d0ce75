//! Looks up the partitions and settings of topics, for `ottla produce --dry-run`.

use ottla::ProducerConfig;
use ottla::tools::{Probe, ProbeConnection};

use super::report::Failed;
use super::topic::{BROKER_RESOURCE, Configs, TOPIC_RESOURCE, check_exists, describe_configs};
use super::{cluster, network};

/// What a producer needs to know of a topic before it sends to it.
pub(crate) struct FoundTopic {
    pub(crate) partitions: i32,
    /// The first record would create it.
    pub(crate) is_missing: bool,
    /// Its settings; empty if this principal may not see them.
    pub(crate) settings: Configs,
}

/// A connection to a cluster that changes nothing there.
pub(crate) struct TopicLookup {
    probe: Probe,
    connection: ProbeConnection,
}

/// The settings that decide which records a topic takes.
const SETTINGS: [&str; 3] = ["cleanup.policy", "max.message.bytes", "message.timestamp.type"];

impl TopicLookup {
    /// Connects to the first bootstrap server that works. The error names each that does not.
    pub(crate) fn connect(config: &ProducerConfig) -> Result<TopicLookup, String> {
        let (probe, connection) = connect_to_first(config)?;
        Ok(TopicLookup { probe, connection })
    }

    /// Requests the metadata and the settings of a topic. Never creates it.
    pub(crate) fn find(&mut self, name: &str) -> Result<FoundTopic, String> {
        let TopicLookup { probe, connection } = self;
        let metadata = network::with_open_connection(probe, connection, |probe, connection| {
            cluster::request_metadata(probe, connection, Some(name))
        })
        .map_err(Failed::into_text)?;
        let topic = metadata.topics.iter().find(|t| t.name.as_deref() == Some(name));
        let found = check_exists(probe, connection, &metadata, topic, name);
        let (topic, _) = found.map_err(|failed| format!("topic {name}: {}", failed.into_text()))?;
        if let Some(topic) = topic {
            let settings = describe_configs(probe, connection, TOPIC_RESOURCE, name, &SETTINGS);
            let partitions = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
            let settings = settings.unwrap_or_default();
            return Ok(FoundTopic { partitions, is_missing: false, settings });
        }
        let broker = metadata.brokers.first().map_or_else(String::new, |b| b.node_id.to_string());
        let key = "num.partitions";
        let configs = describe_configs(probe, connection, BROKER_RESOURCE, &broker, &[key]);
        let partitions = configs.ok().and_then(|c| c.get(key)?.parse().ok()).unwrap_or(1);
        Ok(FoundTopic { partitions, is_missing: true, settings: Configs::new() })
    }
}

/// Connects to the first bootstrap server that works. The error names each that does not.
pub(super) fn connect_to_first(
    config: &ProducerConfig,
) -> Result<(Probe, ProbeConnection), String> {
    let mut probe = Probe::new(config).map_err(|e| e.to_string())?;
    let mut failures = Vec::new();
    for (host, port) in &config.client().bootstrap_servers {
        match connect(&mut probe, host, *port) {
            Ok(connection) => return Ok((probe, connection)),
            Err(failed) => {
                let reason = failed.into_text();
                let is_named = reason.starts_with(host.as_str());
                let server = if is_named { String::new() } else { format!("{host}:{port}: ") };
                failures.push(server + &reason);
            }
        }
    }
    Err(failures.join("; "))
}

fn connect(probe: &mut Probe, host: &str, port: u16) -> Result<ProbeConnection, Failed> {
    let (addresses, _) = network::resolve(host, port)?;
    let (mut connection, _) = network::connect(probe, host, &addresses)?;
    match network::set_up(probe, &mut connection) {
        Ok(()) => Ok(connection),
        Err(failed) => {
            probe.close(&connection);
            Err(failed)
        }
    }
}
