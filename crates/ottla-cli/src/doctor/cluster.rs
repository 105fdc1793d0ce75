//! Checks the cluster: its metadata, and each broker at the address that it advertises.

use std::net::IpAddr;
use std::time::Duration;

use ottla::tools::{Probe, ProbeConnection};
use ottla_protocol::ErrorCode;
use ottla_protocol::messages::{
    MetadataRequest, MetadataRequestTopic, MetadataResponse, MetadataResponseBroker,
};

use super::network::{self, code_text};
use super::report::{Failed, Passed};
use super::{Doctor, counted, is_broker};

/// How often the round trip to a broker is measured. The shortest one counts.
const ROUND_TRIPS: usize = 5;

impl Doctor<'_> {
    /// Requests the metadata of the cluster and of the topic.
    pub(super) fn check_metadata(
        &mut self,
        connection: &mut ProbeConnection,
    ) -> Option<MetadataResponse> {
        let (probe, topic) = (&mut self.probe, self.args.topic.as_deref());
        self.report.check("cluster", || {
            let metadata = request_metadata(probe, connection, topic)?;
            let passed = describe_cluster(&metadata)?;
            Ok((metadata, passed))
        })
    }

    /// Checks that each broker can be reached at its advertised address.
    pub(super) fn check_brokers(&mut self, metadata: &MetadataResponse) {
        let servers = &self.config.client().bootstrap_servers;
        let bootstrap_is_local = servers.iter().any(|(host, _)| is_loopback(host));
        for broker in &metadata.brokers {
            let name = format!("broker {} at {}:{}", broker.node_id, broker.host, broker.port);
            let probe = &mut self.probe;
            self.report.check_last(name, || {
                check_broker(probe, broker).map_err(|mut failed| {
                    if is_loopback(&broker.host) && !bootstrap_is_local {
                        failed.text += "; the broker advertises an address of its own machine";
                    }
                    let advertised = format!(
                        "the cluster names this address in its metadata: set \
                         advertised.listeners of broker {} to one that this machine can reach",
                        broker.node_id
                    );
                    failed.change = match failed.change.as_str() {
                        "" => advertised,
                        change => format!("{change}; {advertised}"),
                    };
                    failed
                })
            });
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Requests the metadata of all brokers, and of the topic if there is one.
pub(super) fn request_metadata(
    probe: &mut Probe,
    connection: &mut ProbeConnection,
    topic: Option<&str>,
) -> Result<MetadataResponse, Failed> {
    let named = |name: &str| MetadataRequestTopic {
        name: Some(name.to_owned()),
        ..MetadataRequestTopic::default()
    };
    let request = MetadataRequest {
        topics: Some(topic.into_iter().map(named).collect()),
        allow_auto_topic_creation: false,
        include_topic_authorized_operations: true,
        ..MetadataRequest::default()
    };
    // An older version than 4 has no field for this, and the broker would create the topic.
    let response = probe.call(connection, &request, 4..=12)?;
    probe.add_throttle(response.throttle_time_ms);
    Ok(response)
}

fn describe_cluster(metadata: &MetadataResponse) -> Result<Passed, Failed> {
    let code = ErrorCode(metadata.error_code);
    if !code.is_none() {
        return Err(Failed::new(code_text(code), "see the brokers' logs"));
    }
    if metadata.brokers.is_empty() {
        let change = "wait until the brokers have started, or see their logs";
        return Err(Failed::new("the metadata names no broker", change));
    }
    let id = metadata.cluster_id.as_deref().unwrap_or("unknown");
    let mut passed = Passed::new(format!(
        "id {id}, {}, controller {}",
        counted(metadata.brokers.len(), "broker"),
        metadata.controller_id
    ));
    if !is_broker(metadata, metadata.controller_id) {
        passed.notes.push(format!(
            "the controller ({}) is none of the brokers: topics cannot be created, and leaders do \
             not change",
            metadata.controller_id
        ));
    }
    Ok(passed)
}

/// Takes all steps of a connection to a broker, and measures the round trip.
fn check_broker(probe: &mut Probe, broker: &MetadataResponseBroker) -> Result<Passed, Failed> {
    let port = u16::try_from(broker.port).unwrap_or_default();
    let (addresses, _) = network::resolve(&broker.host, port)?;
    let (mut connection, mut passed) = network::connect(probe, &broker.host, &addresses)?;
    let measured = measure_round_trip(probe, &mut connection);
    probe.close(&connection);
    let round_trip = measured?;
    passed.text += &format!("; round trip {:.2} ms", round_trip.as_secs_f64() * 1e3);
    if let Some(rack) = &broker.rack {
        passed.text += &format!(", rack {rack}");
    }
    Ok(passed)
}

fn measure_round_trip(
    probe: &mut Probe,
    connection: &mut ProbeConnection,
) -> Result<Duration, Failed> {
    network::set_up(probe, connection)?;
    let mut shortest = Duration::MAX;
    for _ in 0..ROUND_TRIPS {
        let start = probe.now();
        request_metadata(probe, connection, None)?;
        shortest = shortest.min(probe.now().saturating_sub(start));
    }
    Ok(shortest)
}
