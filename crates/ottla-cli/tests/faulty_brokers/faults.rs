//! The faults of the test: each has a name, the expected outcome and an interceptor that changes
//! the broker's responses.

use bytes::Bytes;
use ottla_broker::{InterceptedResponse, ResponseAction};
use ottla_protocol::header::{decode_response, encode_response};
use ottla_protocol::messages::*;
use ottla_protocol::{ApiKey, ErrorCode, Request};

pub(crate) type ResponseInterceptor =
    Box<dyn FnMut(&InterceptedResponse<'_>, Vec<u8>) -> ResponseAction + Send>;

/// What must become of the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expectation {
    /// All records are acknowledged.
    AllAcknowledged,
    /// No record is acknowledged.
    NoneAcknowledged,
    /// Records are acknowledged or fail; both is correct.
    AnyOutcome,
}
use Expectation::{AllAcknowledged, AnyOutcome, NoneAcknowledged};

/// A way in which a broker misbehaves.
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) expectation: Expectation,
    pub(crate) interceptor: ResponseInterceptor,
}

fn fault(name: &'static str, expectation: Expectation, interceptor: ResponseInterceptor) -> Fault {
    Fault { name, expectation, interceptor }
}

/// Returns all faults, with interceptors that have not seen a response yet.
pub(crate) fn faults() -> Vec<Fault> {
    let mut faults = segmentation_faults();
    faults.extend(frame_faults());
    faults.extend(missing_response_faults());
    faults.extend(other_protocol_faults());
    faults.extend(produce_faults());
    faults.extend(throttle_faults());
    faults.extend(error_code_faults());
    faults.extend(api_versions_faults());
    faults.extend(metadata_faults());
    faults
}

/// Calls `action` for each response of one API, with the number of the response from 1. Other
/// responses are sent unchanged.
pub(crate) fn intercept_api<F>(api: ApiKey, mut action: F) -> ResponseInterceptor
where
    F: FnMut(u64, &InterceptedResponse<'_>, Vec<u8>) -> ResponseAction + Send + 'static,
{
    let mut count = 0;
    Box::new(move |call, frame| {
        if call.api != api {
            return ResponseAction::Send(frame);
        }
        count += 1;
        action(count, call, frame)
    })
}

/// Calls `action` for the first response of one API. Other responses are sent unchanged.
pub(crate) fn intercept_first(
    api: ApiKey,
    mut action: impl FnMut(Vec<u8>) -> ResponseAction + Send + 'static,
) -> ResponseInterceptor {
    intercept_api(
        api,
        move |n, _, frame| {
            if n == 1 { action(frame) } else { ResponseAction::Send(frame) }
        },
    )
}

fn intercept_first_produce(
    action: impl FnMut(Vec<u8>) -> ResponseAction + Send + 'static,
) -> ResponseInterceptor {
    intercept_first(ApiKey::PRODUCE, action)
}

/// Decodes a response, edits it, and sends it.
fn send_edited<R: Request>(
    call: &InterceptedResponse<'_>,
    frame: &[u8],
    edit: impl FnOnce(&mut R::Response),
) -> ResponseAction {
    let body = Bytes::copy_from_slice(&frame[4..]);
    let unsupported = ErrorCode::UNSUPPORTED_VERSION.0.to_be_bytes();
    if R::KEY == ApiKey::API_VERSIONS && body.get(4..6) == Some(&unsupported) {
        // The broker responds at version 0 to a version that it does not know (KIP-511).
        return ResponseAction::Send(frame.to_vec());
    }
    let mut response = decode_response::<R>(&body, call.version).unwrap();
    edit(&mut response);
    let frame = encode_response(R::KEY, call.version, call.correlation_id, &response).unwrap();
    ResponseAction::Send(frame)
}

pub(crate) fn edit_all<R: Request>(
    edit: impl Fn(&mut R::Response) + Send + 'static,
) -> ResponseInterceptor {
    intercept_api(R::KEY, move |_, call, frame| send_edited::<R>(call, &frame, &edit))
}

fn edit_first<R: Request>(edit: impl Fn(&mut R::Response) + Send + 'static) -> ResponseInterceptor {
    intercept_api(R::KEY, move |n, call, frame| match n {
        1 => send_edited::<R>(call, &frame, &edit),
        _ => ResponseAction::Send(frame),
    })
}

fn edit_produce_partitions(
    edit: impl Fn(&mut PartitionProduceResponse) + Send + 'static,
) -> ResponseInterceptor {
    edit_all::<ProduceRequest>(move |r| {
        r.responses.iter_mut().flat_map(|t| &mut t.partition_responses).for_each(&edit);
    })
}

fn edit_metadata_partitions(
    edit: impl Fn(&mut MetadataResponsePartition) + Send + 'static,
) -> ResponseInterceptor {
    edit_all::<MetadataRequest>(move |r| {
        r.topics.iter_mut().flat_map(|t| &mut t.partitions).for_each(&edit);
    })
}

fn edit_metadata_brokers(
    edit: impl Fn(&mut MetadataResponseBroker) + Send + 'static,
) -> ResponseInterceptor {
    edit_all::<MetadataRequest>(move |r| r.brokers.iter_mut().for_each(&edit))
}

/// Sends a frame after its length field has been corrected.
fn send_resized(mut frame: Vec<u8>) -> ResponseAction {
    let len = (frame.len() - 4) as i32;
    frame[..4].copy_from_slice(&len.to_be_bytes());
    ResponseAction::Send(frame)
}

fn send_with_wrong_correlation_id(mut frame: Vec<u8>) -> ResponseAction {
    frame[7] ^= 1;
    ResponseAction::Send(frame)
}

/// Correct responses in unusual TCP segments.
fn segmentation_faults() -> Vec<Fault> {
    vec![
        fault(
            "one segment for each byte",
            AllAcknowledged,
            Box::new(|_, frame| ResponseAction::SendByteByByte(frame)),
        ),
        fault(
            "three responses in one segment",
            AllAcknowledged,
            Box::new(|_, frame| ResponseAction::Coalesce { frame, max_responses: 3 }),
        ),
    ]
}

/// Frames with a wrong length or a wrong correlation id.
fn frame_faults() -> Vec<Fault> {
    let send = ResponseAction::Send;
    vec![
        fault(
            "wrong correlation id, once",
            AllAcknowledged,
            intercept_first_produce(send_with_wrong_correlation_id),
        ),
        fault(
            "wrong correlation id, always",
            NoneAcknowledged,
            intercept_api(ApiKey::PRODUCE, |_, _, f| send_with_wrong_correlation_id(f)),
        ),
        fault(
            "response sent twice",
            AllAcknowledged,
            intercept_first_produce(move |f| send([&f[..], &f].concat())),
        ),
        fault(
            "last byte of the response missing",
            AllAcknowledged,
            intercept_first_produce(move |f| send(f[..f.len() - 1].to_vec())),
        ),
        fault(
            "response truncated, length correct",
            AllAcknowledged,
            intercept_first_produce(|f| send_resized(f[..f.len() - 3].to_vec())),
        ),
        fault(
            "response with trailing bytes",
            AllAcknowledged,
            intercept_first_produce(|f| send_resized([&f[..], &[0; 9]].concat())),
        ),
        fault(
            "response with a header only",
            AllAcknowledged,
            intercept_first_produce(|f| send_resized(f[..8].to_vec())),
        ),
        fault(
            "frame length 0",
            AllAcknowledged,
            intercept_first_produce(move |_| send(vec![0; 4])),
        ),
        fault(
            "frame length -1",
            AllAcknowledged,
            intercept_first_produce(move |_| send(vec![0xff; 4])),
        ),
        fault(
            "frame length 2147483647",
            AllAcknowledged,
            intercept_first_produce(move |_| send(vec![0x7f, 0xff, 0xff, 0xff])),
        ),
    ]
}

fn missing_response_faults() -> Vec<Fault> {
    vec![
        fault(
            "no response to Produce, once",
            AllAcknowledged,
            intercept_first_produce(|_| ResponseAction::Stall),
        ),
        fault(
            "no response to Produce, always",
            NoneAcknowledged,
            intercept_api(ApiKey::PRODUCE, |_, _, _| ResponseAction::Stall),
        ),
        fault(
            "connection closed instead of a response",
            AllAcknowledged,
            intercept_first_produce(|_| ResponseAction::SendAndClose(Vec::new())),
        ),
    ]
}

/// Servers that do not speak Kafka's protocol.
fn other_protocol_faults() -> Vec<Fault> {
    const HTTP_RESPONSE: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\r\n";
    vec![
        fault(
            "HTTP response to Produce, once",
            AllAcknowledged,
            intercept_first_produce(|_| ResponseAction::Send(HTTP_RESPONSE.to_vec())),
        ),
        fault(
            "HTTP response to all requests",
            NoneAcknowledged,
            Box::new(|_, _| ResponseAction::Send(HTTP_RESPONSE.to_vec())),
        ),
        fault(
            "TLS alert to all requests",
            NoneAcknowledged,
            Box::new(|_, _| ResponseAction::SendAndClose(vec![0x15, 3, 3, 0, 2, 2, 40])),
        ),
    ]
}

/// Produce responses for partitions that the client has not requested.
fn produce_faults() -> Vec<Fault> {
    vec![
        fault(
            "Produce response for another partition",
            NoneAcknowledged,
            edit_produce_partitions(|p| p.index += 7),
        ),
        fault(
            "Produce response without partitions",
            NoneAcknowledged,
            edit_all::<ProduceRequest>(|r| r.responses.clear()),
        ),
        fault(
            "Produce response for another topic",
            NoneAcknowledged,
            edit_all::<ProduceRequest>(|r| {
                r.responses.iter_mut().for_each(|t| t.topic_id.0[0] ^= 1);
            }),
        ),
        fault(
            "each partition twice, then with an error",
            AllAcknowledged,
            edit_all::<ProduceRequest>(|r| {
                for t in &mut r.responses {
                    let mut copies = t.partition_responses.clone();
                    copies.iter_mut().for_each(|p| p.error_code = 87);
                    t.partition_responses.append(&mut copies);
                }
            }),
        ),
        fault(
            "new leader that does not exist",
            AnyOutcome,
            edit_produce_partitions(|p| {
                p.error_code = 6;
                p.current_leader = ProduceLeaderIdAndEpoch {
                    leader_id: 99,
                    leader_epoch: i32::MAX,
                    ..Default::default()
                };
            }),
        ),
    ]
}

fn throttle_faults() -> Vec<Fault> {
    vec![
        fault(
            "Produce throttled for 25 days, once",
            AnyOutcome,
            edit_first::<ProduceRequest>(|r| r.throttle_time_ms = i32::MAX),
        ),
        fault(
            "negative throttle time",
            AllAcknowledged,
            edit_all::<ProduceRequest>(|r| r.throttle_time_ms = i32::MIN),
        ),
        fault(
            "ApiVersions throttled for 25 days",
            NoneAcknowledged,
            edit_all::<ApiVersionsRequest>(|r| r.throttle_time_ms = i32::MAX),
        ),
    ]
}

/// Error codes that no version of Kafka defines.
fn error_code_faults() -> Vec<Fault> {
    vec![
        fault(
            "unknown error code in Produce",
            NoneAcknowledged,
            edit_produce_partitions(|p| p.error_code = 9999),
        ),
        fault(
            "negative error code in Produce",
            NoneAcknowledged,
            edit_produce_partitions(|p| p.error_code = -77),
        ),
        fault(
            "unknown error code in ApiVersions",
            NoneAcknowledged,
            edit_all::<ApiVersionsRequest>(|r| r.error_code = 9999),
        ),
        fault(
            "unknown error code in Metadata",
            NoneAcknowledged,
            edit_all::<MetadataRequest>(|r| {
                r.topics.iter_mut().for_each(|t| t.error_code = 9999);
            }),
        ),
        fault(
            "unknown error code in InitProducerId, once",
            AnyOutcome,
            edit_first::<InitProducerIdRequest>(|r| r.error_code = 9999),
        ),
    ]
}

fn api_versions_faults() -> Vec<Fault> {
    vec![
        fault(
            "no supported API",
            NoneAcknowledged,
            edit_all::<ApiVersionsRequest>(|r| r.api_keys.clear()),
        ),
        fault(
            "version ranges with min above max",
            NoneAcknowledged,
            edit_all::<ApiVersionsRequest>(|r| {
                for k in &mut r.api_keys {
                    (k.min_version, k.max_version) = (i16::MAX, i16::MIN);
                }
            }),
        ),
        fault(
            "an additional API that is unknown",
            AllAcknowledged,
            edit_all::<ApiVersionsRequest>(|r| {
                r.api_keys.push(ApiVersion {
                    api_key: 999,
                    min_version: 0,
                    max_version: 9,
                    ..Default::default()
                });
            }),
        ),
    ]
}

fn metadata_faults() -> Vec<Fault> {
    vec![
        fault(
            "leaders that are not in the broker list",
            NoneAcknowledged,
            edit_metadata_partitions(|p| p.leader_id = 99),
        ),
        fault("brokers on a closed port", NoneAcknowledged, edit_metadata_brokers(|b| b.port = 1)),
        fault(
            "brokers on a closed port, once",
            AllAcknowledged,
            edit_first::<MetadataRequest>(|r| r.brokers.iter_mut().for_each(|b| b.port = 1)),
        ),
        fault(
            "brokers with a negative port",
            NoneAcknowledged,
            edit_metadata_brokers(|b| b.port = -9092),
        ),
        fault(
            "partition index 2147483647",
            NoneAcknowledged,
            edit_metadata_partitions(|p| p.partition_index = i32::MAX),
        ),
    ]
}
