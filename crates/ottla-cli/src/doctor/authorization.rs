//! Checks the rights of this client: writing to the topic, idempotence, the transactional id.

use std::thread;
use std::time::{Duration, Instant};

use ottla::tools::{Probe, ProbeConnection};
use ottla_protocol::ErrorCode;
use ottla_protocol::messages::{FindCoordinatorRequest, InitProducerIdRequest, MetadataResponse};

use super::network::{self, code_text};
use super::report::{Failed, Passed};
use super::{Doctor, is_broker};

/// The bit of the operation Write in the set of authorized operations (KIP-430).
const WRITE_OPERATION: u32 = 4;
/// The set of a broker that does not say which operations are authorized.
const UNKNOWN_OPERATIONS: i32 = i32::MIN;
/// How long a request is repeated while its error may be temporary, and how often.
const MAX_RETRY_TIME: Duration = Duration::from_secs(5);
const RETRY_BACKOFF: Duration = Duration::from_millis(200);
/// The key type of transactional ids.
const TRANSACTION_KEY: i8 = 1;

impl Doctor<'_> {
    pub(super) fn check_authorization(
        &mut self,
        connection: &mut ProbeConnection,
        metadata: &MetadataResponse,
    ) {
        if let Some(topic) = &self.args.topic {
            let name = format!("right to write to {topic}");
            let found = metadata.topics.iter().find(|t| t.name.as_deref() == Some(topic));
            match found.filter(|t| ErrorCode(t.error_code).is_none()) {
                Some(t) if t.topic_authorized_operations != UNKNOWN_OPERATIONS => {
                    let operations = t.topic_authorized_operations;
                    self.report.check_last(name, || check_write(operations, topic));
                }
                Some(_) => self.report.not_checked(name, "the broker does not say"),
                None => self.report.not_checked(name, "the topic cannot be used"),
            }
        }
        let probe = &mut self.probe;
        if self.config.sender().idempotent {
            self.report.check_last("idempotent producer", || check_idempotence(probe, connection));
        }
        if let Some(id) = self.config.get("transactional.id").filter(|id| !id.is_empty()) {
            self.report.check_last(format!("transactional id {id}"), || {
                check_transactional_id(probe, connection, metadata, &id)
            });
        }
    }
}

/// Repeats a request while its error may be temporary, as the producer does: the coordinator of a
/// cluster that has just started is still loading.
fn repeat_while_retriable<T>(
    mut request: impl FnMut() -> Result<(ErrorCode, T), Failed>,
) -> Result<(ErrorCode, T), Failed> {
    let start = Instant::now();
    loop {
        let (code, result) = request()?;
        if !code.is_retriable() || start.elapsed() > MAX_RETRY_TIME {
            return Ok((code, result));
        }
        thread::sleep(RETRY_BACKOFF);
    }
}

fn check_write(operations: i32, topic: &str) -> Result<Passed, Failed> {
    if operations & (1 << WRITE_OPERATION) != 0 {
        return Ok(Passed::new("granted"));
    }
    Err(Failed::new(
        "TOPIC_AUTHORIZATION_FAILED: this principal may see the topic, but not write to it",
        format!("kafka-acls --add --allow-principal User:NAME --operation Write --topic {topic}"),
    ))
}

/// Requests a producer id. It is not used.
fn check_idempotence(
    probe: &mut Probe,
    connection: &mut ProbeConnection,
) -> Result<Passed, Failed> {
    let request = InitProducerIdRequest {
        transactional_id: None,
        transaction_timeout_ms: i32::MAX,
        ..InitProducerIdRequest::default()
    };
    let (code, ()) = repeat_while_retriable(|| {
        let response = network::with_open_connection(probe, connection, |probe, connection| {
            let response = probe.call(connection, &request, 0..=4);
            response.map_err(|e| Failed::from(e).or_change("set enable.idempotence=false"))
        })?;
        probe.add_throttle(response.throttle_time_ms);
        Ok((ErrorCode(response.error_code), ()))
    })?;
    match code {
        ErrorCode::NONE => Ok(Passed::new("the broker assigns producer ids")),
        code @ ErrorCode::CLUSTER_AUTHORIZATION_FAILED => Err(Failed::new(
            code_text(code),
            "grant IdempotentWrite on the cluster, or set enable.idempotence=false",
        )),
        code => {
            let change = "wait if the cluster is starting; else see the brokers' logs";
            Err(Failed::new(code_text(code), change))
        }
    }
}

/// Looks for the coordinator, which needs the operation Describe, and checks the right to write.
fn check_transactional_id(
    probe: &mut Probe,
    connection: &mut ProbeConnection,
    metadata: &MetadataResponse,
    id: &str,
) -> Result<Passed, Failed> {
    let request = FindCoordinatorRequest {
        key: id.to_owned(),
        key_type: TRANSACTION_KEY,
        coordinator_keys: vec![id.to_owned()],
        ..FindCoordinatorRequest::default()
    };
    let (code, node) = repeat_while_retriable(|| {
        let response = network::with_open_connection(probe, connection, |probe, connection| {
            Ok(probe.call(connection, &request, 1..=4)?)
        })?;
        probe.add_throttle(response.throttle_time_ms);
        Ok(match response.coordinators.first() {
            Some(c) => (ErrorCode(c.error_code), c.node_id),
            None => (ErrorCode(response.error_code), response.node_id),
        })
    })?;
    let change = match code {
        ErrorCode::NONE if is_broker(metadata, node) => {
            return check_transactional_write(probe, connection, id, node);
        }
        ErrorCode::NONE => {
            let text = format!("its coordinator ({node}) is none of the brokers");
            return Err(Failed::new(text, "wait for an election, or start the broker"));
        }
        ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED => transactional_id_acl(id),
        _ => "see the brokers' logs, and the replicas of __transaction_state".to_owned(),
    };
    Err(Failed::new(code_text(code), change))
}

fn transactional_id_acl(id: &str) -> String {
    format!("kafka-acls --add --allow-principal User:NAME --operation All --transactional-id {id}")
}

/// Checks the right to write with a transactional id.
///
/// A producer id for it would fence the producer that uses the transactional id now. So the request
/// has a time-out that no broker accepts: Kafka checks the right first, then the time-out, and only
/// then changes anything. The producer id, which no producer has, makes other brokers refuse it.
fn check_transactional_write(
    probe: &mut Probe,
    connection: &mut ProbeConnection,
    id: &str,
    coordinator: i32,
) -> Result<Passed, Failed> {
    let request = InitProducerIdRequest {
        transactional_id: Some(id.to_owned()),
        transaction_timeout_ms: 0,
        producer_id: i64::MAX,
        producer_epoch: 0,
        ..InitProducerIdRequest::default()
    };
    let (code, ()) = repeat_while_retriable(|| {
        let response = probe.call(connection, &request, 3..=5)?;
        probe.add_throttle(response.throttle_time_ms);
        Ok((ErrorCode(response.error_code), ()))
    })?;
    let mut passed = Passed::new(format!("coordinator: broker {coordinator}"));
    match code {
        ErrorCode::INVALID_TRANSACTION_TIMEOUT => {
            passed.text.push_str("; the right to write is granted");
        }
        ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED => {
            return Err(Failed::new(code_text(code), transactional_id_acl(id)));
        }
        code => passed.notes.push(format!("the right to write with it is not known: {code}")),
    }
    Ok(passed)
}
