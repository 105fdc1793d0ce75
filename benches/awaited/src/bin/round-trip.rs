//! No client: each thread writes an encoded Produce request to its own connection, and reads the
//! response. This is the least that a record can take. The broker must lead partition 0.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;

use awaited::{Args, measure_threads};
use ottla_protocol::header::encode_request;
use ottla_protocol::messages::{PartitionProduceData, ProduceRequest, TopicProduceData};
use ottla_protocol::record::{BatchHeader, RecordBody};

/// A version with the name of the topic instead of its id.
const PRODUCE_VERSION: i16 = 9;

fn main() {
    let args = Args::parse();
    let frame = produce_frame(&args.topic, args.size);
    let connections: Vec<_> = (0..args.tasks)
        .map(|_| {
            let stream = TcpStream::connect(&args.bootstrap).expect("connect");
            stream.set_nodelay(true).expect("set TCP_NODELAY");
            Mutex::new(stream)
        })
        .collect();
    measure_threads("round-trip", env!("CARGO_PKG_VERSION"), &args, |t| {
        let mut stream = connections[t].lock().expect("lock the connection");
        exchange(&mut stream, &frame).is_ok()
    });
}

fn exchange(stream: &mut TcpStream, frame: &[u8]) -> std::io::Result<()> {
    stream.write_all(frame)?;
    let mut response = [0; 4096];
    let mut read = 0;
    let len = |response: &[u8]| i32::from_be_bytes(response[..4].try_into().unwrap()) as usize;
    while read < 4 || read < 4 + len(&response) {
        match stream.read(&mut response[read..])? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => read += n,
        }
    }
    Ok(())
}

/// Encodes a request with one record, which is not idempotent.
fn produce_frame(topic: &str, size: usize) -> Vec<u8> {
    let value = vec![b'x'; size];
    let mut records = Vec::new();
    let body = RecordBody::new(None, Some(&value), std::iter::empty());
    body.encode(&mut records, body.measure(0, 0));
    let header = BatchHeader {
        base_offset: 0,
        partition_leader_epoch: -1,
        attributes: 0,
        last_offset_delta: 0,
        base_timestamp: 0,
        max_timestamp: 0,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        record_count: 1,
    };
    let mut batch = header.encode(&records).to_vec();
    batch.append(&mut records);
    let partition =
        PartitionProduceData { index: 0, records: Some(batch.into()), ..Default::default() };
    let topic = TopicProduceData {
        name: topic.to_owned(),
        partition_data: vec![partition],
        ..Default::default()
    };
    let request = ProduceRequest {
        acks: -1,
        timeout_ms: 30_000,
        topic_data: vec![topic],
        ..Default::default()
    };
    encode_request(&request, PRODUCE_VERSION, 1, Some("round-trip")).expect("encode the request")
}
