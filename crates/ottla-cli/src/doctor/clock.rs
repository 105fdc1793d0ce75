//! Compares this machine's clock with the cluster's, and looks whether quotas delay this client.

use std::time::Duration;

use ottla::tools::{Probe, ProbeConnection};
use ottla_protocol::ErrorCode;
use ottla_protocol::messages::{
    DescribeQuorumPartition, DescribeQuorumRequest, DescribeQuorumTopic,
};

use super::Doctor;
use super::network;
use super::report::{Failed, Passed};
use super::topic::Configs;

/// The topic of the controllers' log.
const METADATA_TOPIC: &str = "__cluster_metadata";
/// A difference of clocks up to this deserves no note.
const MAX_DIFFERENCE_MS: i64 = 1000;

/// The difference of the clocks, in milliseconds.
struct ClockDifference {
    /// Positive if this machine's clock is ahead.
    ms: i64,
    /// How much the measurement may be wrong.
    uncertainty_ms: i64,
}

impl Doctor<'_> {
    /// Checks the clocks. With the settings of a topic, it checks its limits of timestamps, too.
    pub(super) fn check_clock(
        &mut self,
        connection: &mut ProbeConnection,
        configs: Option<&Configs>,
    ) {
        match clock_difference(&mut self.probe, connection) {
            Ok(difference) => {
                self.report.check_last("clock", || compare_clocks(&difference, configs));
            }
            Err(reason) => self.report.not_checked("clock", &reason),
        }
    }

    pub(super) fn check_quotas(&mut self) {
        let throttle = self.probe.longest_throttle();
        self.report.check_last("quotas", || {
            let mut passed = Passed::new(
                "no throttling seen (a quota of bytes shows only when records are sent)",
            );
            if throttle > Duration::ZERO {
                passed.text = format!("throttled for {} ms", throttle.as_millis());
                passed.notes.push(
                    "a quota of this user or client id delays its requests: kafka-configs \
                     --describe --entity-type users (or clients)"
                        .to_owned(),
                );
            }
            Ok(passed)
        });
    }
}

/// Requests the clock of the leading controller: its own timestamps in the state of the quorum.
fn clock_difference(
    probe: &mut Probe,
    connection: &mut ProbeConnection,
) -> Result<ClockDifference, String> {
    let partitions = vec![DescribeQuorumPartition::default()];
    let topic = DescribeQuorumTopic {
        topic_name: METADATA_TOPIC.to_owned(),
        partitions,
        ..DescribeQuorumTopic::default()
    };
    let request = DescribeQuorumRequest { topics: vec![topic], ..DescribeQuorumRequest::default() };
    // The time does not contain that of a new connection.
    let call = |probe: &mut Probe, connection: &mut ProbeConnection| {
        let (sent, started) = (probe.wall_clock_ms(), probe.now());
        let response = probe.call(connection, &request, 0..=1)?;
        Ok((sent, probe.now().saturating_sub(started), response))
    };
    let (sent, elapsed, response) =
        network::with_open_connection(probe, connection, call).map_err(Failed::into_text)?;
    let code = ErrorCode(response.error_code);
    if code == ErrorCode::CLUSTER_AUTHORIZATION_FAILED {
        return Err("this principal may not see the controllers (Describe on the cluster)".into());
    }
    let state = response.topics.first().and_then(|t| t.partitions.first());
    let leader = state.and_then(|p| p.current_voters.iter().find(|v| v.replica_id == p.leader_id));
    let theirs = leader.map_or(-1, |leader| leader.last_caught_up_timestamp);
    if theirs < 0 {
        return Err(format!("the response has no time of the leading controller ({code})"));
    }
    // The controller read its clock somewhere between the two ends of the call.
    let half = i64::try_from(elapsed.as_millis() / 2).unwrap_or(i64::MAX);
    Ok(ClockDifference {
        ms: sent.saturating_add(half).saturating_sub(theirs),
        uncertainty_ms: half + 1,
    })
}

fn compare_clocks(
    difference: &ClockDifference,
    configs: Option<&Configs>,
) -> Result<Passed, Failed> {
    let ClockDifference { ms, uncertainty_ms } = *difference;
    let side = if ms >= 0 { "ahead of" } else { "behind" };
    let text = format!(
        "this machine is {} ms {side} the controller (measured to {uncertainty_ms} ms)",
        ms.abs()
    );
    let names = match ms {
        0.. => ["message.timestamp.after.max.ms", "message.timestamp.difference.max.ms"],
        _ => ["message.timestamp.before.max.ms", "message.timestamp.difference.max.ms"],
    };
    // With LogAppendTime brokers replace the timestamps and check none.
    let is_checked = |configs: &&Configs| {
        configs.get("message.timestamp.type").is_none_or(|value| value != "LogAppendTime")
    };
    let checked = configs.filter(is_checked);
    let limit = names.iter().find_map(|name| {
        let limit = checked?.get(*name)?.parse::<i64>().ok()?;
        Some((*name, limit))
    });
    if let Some((name, limit)) = limit.filter(|(_, limit)| ms.abs() > *limit) {
        return Err(Failed::new(
            format!("{text}: records fail with INVALID_TIMESTAMP ({name}={limit})"),
            "set this machine's clock (NTP)",
        ));
    }
    let mut passed = Passed::new(text);
    if ms.abs() > MAX_DIFFERENCE_MS.saturating_add(uncertainty_ms) {
        passed.notes.push(
            "this producer's timestamps are wrong by this; tokens and certificates may count as \
             expired"
                .to_owned(),
        );
    }
    Ok(passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_beyond_the_limit_of_the_topic_fails() {
        let difference = |ms| ClockDifference { ms, uncertainty_ms: 1 };
        let after = ("message.timestamp.after.max.ms".to_owned(), "3600000".to_owned());
        let mut configs = Configs::from([after]);
        let failed = compare_clocks(&difference(3_600_001), Some(&configs)).unwrap_err();
        assert!(failed.text.contains("INVALID_TIMESTAMP"), "{}", failed.text);
        let late = compare_clocks(&difference(-3_600_001), Some(&configs)).unwrap();
        assert!(late.text.contains("behind") && late.notes.len() == 1, "{late:?}");
        let set_type = |configs: &mut Configs, value: &str| {
            configs.insert("message.timestamp.type".to_owned(), value.to_owned());
        };
        set_type(&mut configs, "CreateTime");
        assert!(compare_clocks(&difference(3_600_001), Some(&configs)).is_err());
        set_type(&mut configs, "LogAppendTime");
        let replaced = compare_clocks(&difference(3_600_001), Some(&configs)).unwrap();
        assert!(replaced.text.contains("ahead") && replaced.notes.len() == 1, "{replaced:?}");
        let exact = compare_clocks(&difference(3), None).unwrap();
        assert_eq!(exact.text, "this machine is 3 ms ahead of the controller (measured to 1 ms)");
        assert!(exact.notes.is_empty());
    }
}
