//! The faults: a name, what must become of records, and the rule.

use bytes::Bytes;
use ottla_broker::{InterceptedResponse, ResponseAction};
use ottla_protocol::header::{decode_response, encode_response};
use ottla_protocol::messages::*;
use ottla_protocol::{ApiKey, Request};

/// The answer with this done to it.
pub(crate) fn edit_response<R: Request>(
    call: &InterceptedResponse<'_>,
    frame: &[u8],
    f: impl FnOnce(&mut R::Response),
) -> Vec<u8> {
    let mut r = decode_response::<R>(&Bytes::copy_from_slice(&frame[4..]), call.version).unwrap();
    f(&mut r);
    encode_response(R::KEY, call.version, call.correlation_id, &r).unwrap()
}

pub(crate) type ResponseInterceptor =
    Box<dyn FnMut(&InterceptedResponse<'_>, Vec<u8>) -> ResponseAction + Send>;

/// A rule for one API; answers of others go out as they are.
pub(crate) fn intercept_api(
    api: ApiKey,
    mut act: impl FnMut(u64, &InterceptedResponse<'_>, Vec<u8>) -> ResponseAction + Send + 'static,
) -> ResponseInterceptor {
    let mut nth = 0;
    Box::new(move |call, frame| {
        if call.api != api {
            return ResponseAction::Send(frame);
        }
        nth += 1;
        act(nth, call, frame)
    })
}

/// The same for the first answer alone.
pub(crate) fn intercept_first(
    api: ApiKey,
    mut act: impl FnMut(&InterceptedResponse<'_>, Vec<u8>) -> ResponseAction + Send + 'static,
) -> ResponseInterceptor {
    intercept_api(
        api,
        move |nth, call, frame| {
            if nth == 1 { act(call, frame) } else { ResponseAction::Send(frame) }
        },
    )
}

fn edit_produce_response(
    f: impl Fn(&mut PartitionProduceResponse) + Send + 'static,
) -> ResponseInterceptor {
    intercept_api(ApiKey::PRODUCE, move |_, call, frame| {
        ResponseAction::Send(edit_response::<ProduceRequest>(call, &frame, |r| {
            r.responses.iter_mut().flat_map(|t| &mut t.partition_responses).for_each(&f);
        }))
    })
}

/// What must become of the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expectation {
    /// All of them are acknowledged.
    AllAcknowledged,
    /// None of them is.
    NoneAcknowledged,
    /// Either, as long as it is true.
    AnyOutcome,
}
pub(crate) use Expectation::{AllAcknowledged, NoneAcknowledged};

pub(crate) fn faults() -> Vec<(&'static str, Expectation, ResponseInterceptor)> {
    let produce_once = |act: fn(&InterceptedResponse<'_>, Vec<u8>) -> ResponseAction| {
        intercept_first(ApiKey::PRODUCE, act)
    };
    let wrong_id = |mut frame: Vec<u8>| {
        frame[7] ^= 1;
        ResponseAction::Send(frame)
    };
    let resize = |mut frame: Vec<u8>| {
        let size = (frame.len() - 4) as i32;
        frame[..4].copy_from_slice(&size.to_be_bytes());
        ResponseAction::Send(frame)
    };
    vec![
        (
            "each byte in a segment of its own",
            AllAcknowledged,
            Box::new(|_, f| ResponseAction::SendByteByByte(f)),
        ),
        (
            "answers gathered in one segment",
            AllAcknowledged,
            Box::new(|_, f| ResponseAction::Coalesce(f, 3)),
        ),
        (
            "a wrong correlation id",
            AllAcknowledged,
            intercept_first(ApiKey::PRODUCE, move |_, f| wrong_id(f)),
        ),
        (
            "wrong correlation ids, always",
            NoneAcknowledged,
            intercept_api(ApiKey::PRODUCE, move |_, _, f| wrong_id(f)),
        ),
        (
            "an answer twice",
            AllAcknowledged,
            produce_once(|_, f| ResponseAction::Send([&f[..], &f].concat())),
        ),
        (
            "an answer without its end",
            AllAcknowledged,
            produce_once(|_, f| ResponseAction::Send(f[..f.len() - 1].to_vec())),
        ),
        (
            "an answer cut short, with its length",
            AllAcknowledged,
            intercept_first(ApiKey::PRODUCE, move |_, f| resize(f[..f.len() - 3].to_vec())),
        ),
        (
            "an answer with more behind it",
            AllAcknowledged,
            intercept_first(ApiKey::PRODUCE, move |_, f| resize([&f[..], &[0; 9]].concat())),
        ),
        (
            "an answer that is empty",
            AllAcknowledged,
            intercept_first(ApiKey::PRODUCE, move |_, f| resize(f[..8].to_vec())),
        ),
        (
            "a frame of no bytes",
            AllAcknowledged,
            produce_once(|_, _| ResponseAction::Send(vec![0; 4])),
        ),
        (
            "a negative size",
            AllAcknowledged,
            produce_once(|_, _| ResponseAction::Send(vec![0xff; 4])),
        ),
        (
            "a size of two thousand million",
            AllAcknowledged,
            produce_once(|_, _| ResponseAction::Send(vec![0x7f, 0xff, 0xff, 0xff])),
        ),
        (
            "no answer, and the line stays open",
            AllAcknowledged,
            produce_once(|_, _| ResponseAction::Stall),
        ),
        (
            "never an answer to Produce",
            NoneAcknowledged,
            intercept_api(ApiKey::PRODUCE, |_, _, _| ResponseAction::Stall),
        ),
        (
            "a reset in place of an answer",
            AllAcknowledged,
            produce_once(|_, _| ResponseAction::SendAndClose(Vec::new())),
        ),
        (
            "HTTP in answer to Produce",
            AllAcknowledged,
            produce_once(|_, _| ResponseAction::Send(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())),
        ),
        (
            "HTTP in answer to everything",
            NoneAcknowledged,
            Box::new(|_, _| ResponseAction::Send(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())),
        ),
        (
            "a TLS alert in answer to everything",
            NoneAcknowledged,
            Box::new(|_, _| ResponseAction::SendAndClose(vec![0x15, 3, 3, 0, 2, 2, 40])),
        ),
        (
            "an answer for another partition",
            NoneAcknowledged,
            edit_produce_response(|p| p.index += 7),
        ),
        (
            "no partition in the answer",
            NoneAcknowledged,
            intercept_api(ApiKey::PRODUCE, |_, c, f| {
                ResponseAction::Send(edit_response::<ProduceRequest>(c, &f, |r| {
                    r.responses.clear();
                }))
            }),
        ),
        (
            "an answer for another topic",
            NoneAcknowledged,
            intercept_api(ApiKey::PRODUCE, |_, c, f| {
                ResponseAction::Send(edit_response::<ProduceRequest>(c, &f, |r| {
                    for t in &mut r.responses {
                        t.topic_id.0[0] ^= 1;
                    }
                }))
            }),
        ),
        (
            "every partition twice, the second refused",
            AllAcknowledged,
            intercept_api(ApiKey::PRODUCE, |_, c, f| {
                ResponseAction::Send(edit_response::<ProduceRequest>(c, &f, |r| {
                    for t in &mut r.responses {
                        let mut more = t.partition_responses.clone();
                        more.iter_mut().for_each(|p| p.error_code = 87);
                        t.partition_responses.append(&mut more);
                    }
                }))
            }),
        ),
        (
            "an error code from the future",
            NoneAcknowledged,
            edit_produce_response(|p| p.error_code = 9999),
        ),
        ("a negative error code", NoneAcknowledged, edit_produce_response(|p| p.error_code = -77)),
        (
            "a future code in ApiVersions",
            NoneAcknowledged,
            intercept_api(ApiKey::API_VERSIONS, |_, c, f| {
                ResponseAction::Send(edit_response::<ApiVersionsRequest>(c, &f, |r| {
                    r.error_code = 9999;
                }))
            }),
        ),
        (
            "a future code in Metadata",
            NoneAcknowledged,
            intercept_api(ApiKey::METADATA, |_, c, f| {
                ResponseAction::Send(edit_response::<MetadataRequest>(c, &f, |r| {
                    r.topics.iter_mut().for_each(|t| t.error_code = 9999);
                }))
            }),
        ),
        (
            "a future code for the producer id, once",
            Expectation::AnyOutcome,
            intercept_first(ApiKey::INIT_PRODUCER_ID, |c, f| {
                ResponseAction::Send(edit_response::<InitProducerIdRequest>(c, &f, |r| {
                    r.error_code = 9999;
                }))
            }),
        ),
        (
            "no API at all",
            NoneAcknowledged,
            intercept_api(ApiKey::API_VERSIONS, |_, c, f| {
                ResponseAction::Send(edit_response::<ApiVersionsRequest>(c, &f, |r| {
                    r.api_keys.clear();
                }))
            }),
        ),
        (
            "ranges that are upside down",
            NoneAcknowledged,
            intercept_api(ApiKey::API_VERSIONS, |_, c, f| {
                ResponseAction::Send(edit_response::<ApiVersionsRequest>(c, &f, |r| {
                    for k in &mut r.api_keys {
                        (k.min_version, k.max_version) = (i16::MAX, i16::MIN);
                    }
                }))
            }),
        ),
        (
            "versions from the future",
            AllAcknowledged,
            intercept_api(ApiKey::API_VERSIONS, |_, c, f| {
                ResponseAction::Send(edit_response::<ApiVersionsRequest>(c, &f, |r| {
                    let more = ApiVersion {
                        api_key: 999,
                        min_version: 0,
                        max_version: 9,
                        ..Default::default()
                    };
                    r.api_keys.push(more);
                }))
            }),
        ),
        (
            "throttled for 25 days, once",
            Expectation::AnyOutcome,
            intercept_first(ApiKey::PRODUCE, |c, f| {
                ResponseAction::Send(edit_response::<ProduceRequest>(c, &f, |r| {
                    r.throttle_time_ms = i32::MAX;
                }))
            }),
        ),
        (
            "throttled for less than nothing",
            AllAcknowledged,
            intercept_api(ApiKey::PRODUCE, |_, c, f| {
                ResponseAction::Send(edit_response::<ProduceRequest>(c, &f, |r| {
                    r.throttle_time_ms = i32::MIN;
                }))
            }),
        ),
        (
            "ApiVersions throttles for 25 days",
            NoneAcknowledged,
            intercept_api(ApiKey::API_VERSIONS, |_, c, f| {
                ResponseAction::Send(edit_response::<ApiVersionsRequest>(c, &f, |r| {
                    r.throttle_time_ms = i32::MAX;
                }))
            }),
        ),
        (
            "leaders that are nobody",
            NoneAcknowledged,
            intercept_api(ApiKey::METADATA, |_, c, f| {
                ResponseAction::Send(edit_response::<MetadataRequest>(c, &f, |r| {
                    r.topics
                        .iter_mut()
                        .flat_map(|t| &mut t.partitions)
                        .for_each(|p| p.leader_id = 99);
                }))
            }),
        ),
        (
            "brokers where nobody listens",
            NoneAcknowledged,
            intercept_api(ApiKey::METADATA, |_, c, f| {
                ResponseAction::Send(edit_response::<MetadataRequest>(c, &f, |r| {
                    r.brokers.iter_mut().for_each(|b| b.port = 1);
                }))
            }),
        ),
        (
            "brokers with ports that are none",
            NoneAcknowledged,
            intercept_api(ApiKey::METADATA, |_, c, f| {
                ResponseAction::Send(edit_response::<MetadataRequest>(c, &f, |r| {
                    r.brokers.iter_mut().for_each(|b| b.port = -9092);
                }))
            }),
        ),
        (
            "a broker that does not exist, once",
            AllAcknowledged,
            intercept_first(ApiKey::METADATA, |c, f| {
                ResponseAction::Send(edit_response::<MetadataRequest>(c, &f, |r| {
                    r.brokers.iter_mut().for_each(|b| b.port = 1);
                }))
            }),
        ),
        (
            "partition numbers of two thousand million",
            NoneAcknowledged,
            intercept_api(ApiKey::METADATA, |_, c, f| {
                ResponseAction::Send(edit_response::<MetadataRequest>(c, &f, |r| {
                    r.topics
                        .iter_mut()
                        .flat_map(|t| &mut t.partitions)
                        .for_each(|p| p.partition_index = i32::MAX);
                }))
            }),
        ),
        (
            "leader hints to nowhere",
            Expectation::AnyOutcome,
            edit_produce_response(|p| {
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
