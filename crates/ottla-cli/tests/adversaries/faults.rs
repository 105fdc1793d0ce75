//! The faults: a name, what must become of records, and the rule.

use bytes::Bytes;
use ottla_broker::{Call, Sent};
use ottla_protocol::header::{decode_response, encode_response};
use ottla_protocol::messages::*;
use ottla_protocol::{ApiKey, Request};

/// The answer with this done to it.
pub(crate) fn edit<R: Request>(
    call: &Call<'_>,
    frame: &[u8],
    f: impl FnOnce(&mut R::Response),
) -> Vec<u8> {
    let mut r = decode_response::<R>(&Bytes::copy_from_slice(&frame[4..]), call.version).unwrap();
    f(&mut r);
    encode_response(R::KEY, call.version, call.correlation, &r).unwrap()
}

pub(crate) type Act = Box<dyn FnMut(&Call<'_>, Vec<u8>) -> Sent + Send>;

/// A rule for one API; answers of others go out as they are.
pub(crate) fn of(
    api: ApiKey,
    mut act: impl FnMut(u64, &Call<'_>, Vec<u8>) -> Sent + Send + 'static,
) -> Act {
    let mut nth = 0;
    Box::new(move |call, frame| {
        if call.api != api {
            return Sent::Bytes(frame);
        }
        nth += 1;
        act(nth, call, frame)
    })
}

/// The same for the first answer alone.
pub(crate) fn once(
    api: ApiKey,
    mut act: impl FnMut(&Call<'_>, Vec<u8>) -> Sent + Send + 'static,
) -> Act {
    of(api, move |nth, call, frame| if nth == 1 { act(call, frame) } else { Sent::Bytes(frame) })
}

fn produce(f: impl Fn(&mut PartitionProduceResponse) + Send + 'static) -> Act {
    of(ApiKey::PRODUCE, move |_, call, frame| {
        Sent::Bytes(edit::<ProduceRequest>(call, &frame, |r| {
            r.responses.iter_mut().flat_map(|t| &mut t.partition_responses).for_each(&f);
        }))
    })
}

/// What must become of the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Must {
    /// All of them are acknowledged.
    Arrive,
    /// None of them is.
    Fail,
    /// Either, as long as it is true.
    End,
}
pub(crate) use Must::{Arrive, Fail};

pub(crate) fn faults() -> Vec<(&'static str, Must, Act)> {
    let produce_once = |act: fn(&Call<'_>, Vec<u8>) -> Sent| once(ApiKey::PRODUCE, act);
    let wrong_id = |mut frame: Vec<u8>| {
        frame[7] ^= 1;
        Sent::Bytes(frame)
    };
    let resize = |mut frame: Vec<u8>| {
        let size = (frame.len() - 4) as i32;
        frame[..4].copy_from_slice(&size.to_be_bytes());
        Sent::Bytes(frame)
    };
    vec![
        ("each byte in a segment of its own", Arrive, Box::new(|_, f| Sent::Trickle(f))),
        ("answers gathered in one segment", Arrive, Box::new(|_, f| Sent::Gathered(f, 3))),
        ("a wrong correlation id", Arrive, once(ApiKey::PRODUCE, move |_, f| wrong_id(f))),
        ("wrong correlation ids, always", Fail, of(ApiKey::PRODUCE, move |_, _, f| wrong_id(f))),
        ("an answer twice", Arrive, produce_once(|_, f| Sent::Bytes([&f[..], &f].concat()))),
        (
            "an answer without its end",
            Arrive,
            produce_once(|_, f| Sent::Bytes(f[..f.len() - 1].to_vec())),
        ),
        (
            "an answer cut short, with its length",
            Arrive,
            once(ApiKey::PRODUCE, move |_, f| resize(f[..f.len() - 3].to_vec())),
        ),
        (
            "an answer with more behind it",
            Arrive,
            once(ApiKey::PRODUCE, move |_, f| resize([&f[..], &[0; 9]].concat())),
        ),
        (
            "an answer that is empty",
            Arrive,
            once(ApiKey::PRODUCE, move |_, f| resize(f[..8].to_vec())),
        ),
        ("a frame of no bytes", Arrive, produce_once(|_, _| Sent::Bytes(vec![0; 4]))),
        ("a negative size", Arrive, produce_once(|_, _| Sent::Bytes(vec![0xff; 4]))),
        (
            "a size of two thousand million",
            Arrive,
            produce_once(|_, _| Sent::Bytes(vec![0x7f, 0xff, 0xff, 0xff])),
        ),
        ("no answer, and the line stays open", Arrive, produce_once(|_, _| Sent::Silence)),
        ("never an answer to Produce", Fail, of(ApiKey::PRODUCE, |_, _, _| Sent::Silence)),
        ("a reset in place of an answer", Arrive, produce_once(|_, _| Sent::Cut(Vec::new()))),
        (
            "HTTP in answer to Produce",
            Arrive,
            produce_once(|_, _| Sent::Bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())),
        ),
        (
            "HTTP in answer to everything",
            Fail,
            Box::new(|_, _| Sent::Bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())),
        ),
        (
            "a TLS alert in answer to everything",
            Fail,
            Box::new(|_, _| Sent::Cut(vec![0x15, 3, 3, 0, 2, 2, 40])),
        ),
        ("an answer for another partition", Fail, produce(|p| p.index += 7)),
        (
            "no partition in the answer",
            Fail,
            of(ApiKey::PRODUCE, |_, c, f| {
                Sent::Bytes(edit::<ProduceRequest>(c, &f, |r| r.responses.clear()))
            }),
        ),
        (
            "an answer for another topic",
            Fail,
            of(ApiKey::PRODUCE, |_, c, f| {
                Sent::Bytes(edit::<ProduceRequest>(c, &f, |r| {
                    for t in &mut r.responses {
                        t.topic_id.0[0] ^= 1;
                    }
                }))
            }),
        ),
        (
            "every partition twice, the second refused",
            Arrive,
            of(ApiKey::PRODUCE, |_, c, f| {
                Sent::Bytes(edit::<ProduceRequest>(c, &f, |r| {
                    for t in &mut r.responses {
                        let mut more = t.partition_responses.clone();
                        more.iter_mut().for_each(|p| p.error_code = 87);
                        t.partition_responses.append(&mut more);
                    }
                }))
            }),
        ),
        ("an error code from the future", Fail, produce(|p| p.error_code = 9999)),
        ("a negative error code", Fail, produce(|p| p.error_code = -77)),
        (
            "a future code in ApiVersions",
            Fail,
            of(ApiKey::API_VERSIONS, |_, c, f| {
                Sent::Bytes(edit::<ApiVersionsRequest>(c, &f, |r| r.error_code = 9999))
            }),
        ),
        (
            "a future code in Metadata",
            Fail,
            of(ApiKey::METADATA, |_, c, f| {
                Sent::Bytes(edit::<MetadataRequest>(c, &f, |r| {
                    r.topics.iter_mut().for_each(|t| t.error_code = 9999);
                }))
            }),
        ),
        (
            "a future code for the producer id, once",
            Must::End,
            once(ApiKey::INIT_PRODUCER_ID, |c, f| {
                Sent::Bytes(edit::<InitProducerIdRequest>(c, &f, |r| r.error_code = 9999))
            }),
        ),
        (
            "no API at all",
            Fail,
            of(ApiKey::API_VERSIONS, |_, c, f| {
                Sent::Bytes(edit::<ApiVersionsRequest>(c, &f, |r| r.api_keys.clear()))
            }),
        ),
        (
            "ranges that are upside down",
            Fail,
            of(ApiKey::API_VERSIONS, |_, c, f| {
                Sent::Bytes(edit::<ApiVersionsRequest>(c, &f, |r| {
                    for k in &mut r.api_keys {
                        (k.min_version, k.max_version) = (i16::MAX, i16::MIN);
                    }
                }))
            }),
        ),
        (
            "versions from the future",
            Arrive,
            of(ApiKey::API_VERSIONS, |_, c, f| {
                Sent::Bytes(edit::<ApiVersionsRequest>(c, &f, |r| {
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
            Must::End,
            once(ApiKey::PRODUCE, |c, f| {
                Sent::Bytes(edit::<ProduceRequest>(c, &f, |r| r.throttle_time_ms = i32::MAX))
            }),
        ),
        (
            "throttled for less than nothing",
            Arrive,
            of(ApiKey::PRODUCE, |_, c, f| {
                Sent::Bytes(edit::<ProduceRequest>(c, &f, |r| r.throttle_time_ms = i32::MIN))
            }),
        ),
        (
            "ApiVersions throttles for 25 days",
            Fail,
            of(ApiKey::API_VERSIONS, |_, c, f| {
                Sent::Bytes(edit::<ApiVersionsRequest>(c, &f, |r| r.throttle_time_ms = i32::MAX))
            }),
        ),
        (
            "leaders that are nobody",
            Fail,
            of(ApiKey::METADATA, |_, c, f| {
                Sent::Bytes(edit::<MetadataRequest>(c, &f, |r| {
                    r.topics
                        .iter_mut()
                        .flat_map(|t| &mut t.partitions)
                        .for_each(|p| p.leader_id = 99);
                }))
            }),
        ),
        (
            "brokers where nobody listens",
            Fail,
            of(ApiKey::METADATA, |_, c, f| {
                Sent::Bytes(edit::<MetadataRequest>(c, &f, |r| {
                    r.brokers.iter_mut().for_each(|b| b.port = 1);
                }))
            }),
        ),
        (
            "brokers with ports that are none",
            Fail,
            of(ApiKey::METADATA, |_, c, f| {
                Sent::Bytes(edit::<MetadataRequest>(c, &f, |r| {
                    r.brokers.iter_mut().for_each(|b| b.port = -9092);
                }))
            }),
        ),
        (
            "a broker that does not exist, once",
            Arrive,
            once(ApiKey::METADATA, |c, f| {
                Sent::Bytes(edit::<MetadataRequest>(c, &f, |r| {
                    r.brokers.iter_mut().for_each(|b| b.port = 1);
                }))
            }),
        ),
        (
            "partition numbers of two thousand million",
            Fail,
            of(ApiKey::METADATA, |_, c, f| {
                Sent::Bytes(edit::<MetadataRequest>(c, &f, |r| {
                    r.topics
                        .iter_mut()
                        .flat_map(|t| &mut t.partitions)
                        .for_each(|p| p.partition_index = i32::MAX);
                }))
            }),
        ),
        (
            "leader hints to nowhere",
            Must::End,
            produce(|p| {
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
