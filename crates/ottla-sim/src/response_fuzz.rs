//! The fuzz entry for responses: the fuzzer's input mutates a broker's responses on the way to the
//! producer.
//!
//! Every record must complete, all memory must be returned, and the sender must not loop endlessly.
//! The logs are not checked: the producer has to believe a broker that lies about offsets or
//! sequences. `fuzz/fuzz_targets/stream.rs` calls it, and a test below runs the kept corpus.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use ottla::sim::{ClientInput, Faults, SimMachine, Tick, build, memory_balance};
use ottla::{Producer, Record};
use ottla_broker::{BrokerConfig, Core, HandleResult, LocalAddress};

use crate::executor::Executor;
use crate::sim_cluster::{broker_now, node_address};

const BUFFER_MEMORY: u64 = 1 << 20;
const RECORD_COUNT: usize = 4;
/// The most loops that the sender may make for these records.
const MAX_ROUNDS: usize = 20_000;

/// The fuzzer's input, which decides the mutations. Once it is used up, responses stay as they are.
struct MutationInput<'s>(&'s [u8]);

impl MutationInput<'_> {
    fn next_byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn next_bytes(&mut self, n: usize) -> Vec<u8> {
        let (head, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        head.to_vec()
    }

    /// Mutates a response frame.
    fn mutate(&mut self, mut frame: Vec<u8>) -> MutatedResponse {
        let mut delay = Duration::ZERO;
        let mut closes_connection = false;
        // Half of the byte values leave the response as it is, so that a connection gets far.
        match self.next_byte() {
            0..=0x7f => {}
            0x80..=0x9f => {
                let i = usize::from(self.next_byte()) % frame.len();
                frame[i] ^= self.next_byte();
            }
            0xa0..=0xaf => {
                let start = usize::from(self.next_byte());
                let replacement = self.next_bytes(4);
                for (old, new) in frame.iter_mut().skip(start).zip(replacement) {
                    *old = new;
                }
            }
            0xb0..=0xbf => {
                frame.truncate(usize::from(self.next_byte()));
                closes_connection = self.next_byte() < 0x80;
            }
            0xc0..=0xcf => {
                let i = usize::from(self.next_byte()) % frame.len();
                let n = usize::from(self.next_byte() % 16);
                let inserted = self.next_bytes(n);
                frame.splice(i..i, inserted);
                // Half of these frames get a length field that matches.
                if self.next_byte() < 0x80 {
                    let size = (frame.len() as i32 - 4).max(0);
                    frame[..4].copy_from_slice(&size.to_be_bytes());
                }
            }
            0xd0..=0xdf => {
                let n = usize::from(self.next_byte());
                frame = self.next_bytes(n);
            }
            0xe0..=0xe7 => frame.extend_from_within(..),
            0xe8..=0xef => delay = Duration::from_millis(u64::from(self.next_byte()) * 20),
            0xf0..=0xf7 => frame.clear(),
            0xf8..=0xff => closes_connection = true,
        }
        MutatedResponse { bytes: frame, delay, closes_connection }
    }
}

/// A response as the producer gets it.
struct MutatedResponse {
    bytes: Vec<u8>,
    delay: Duration,
    /// Whether the broker closes the connection after the response.
    closes_connection: bool,
}

/// A broker whose responses are mutated.
struct FuzzBroker<'s> {
    core: Core,
    mutations: MutationInput<'s>,
    buffers: BTreeMap<u64, Vec<u8>>,
}

impl FuzzBroker<'_> {
    fn serve(&mut self, machine: &SimMachine) {
        for (id, _, input) in machine.take_client_input() {
            match input {
                ClientInput::Closed => drop(self.buffers.remove(&id)),
                ClientInput::Bytes(bytes) => {
                    self.buffers.entry(id).or_default().extend(bytes);
                    self.handle_frames(id, machine);
                }
            }
        }
    }

    fn handle_frames(&mut self, id: u64, machine: &SimMachine) {
        let (address, time) = (node_address(1), broker_now(machine));
        let local = LocalAddress { host: address.ip().to_string(), port: address.port() };
        while let Some(buffer) = self.buffers.get_mut(&id) {
            let Some(len) = buffer.first_chunk::<4>().map(|b| i32::from_be_bytes(*b)) else {
                return;
            };
            assert!((0..1 << 22).contains(&len), "the producer sent a frame of {len} bytes");
            let end = 4 + len as usize;
            if buffer.len() < end {
                return;
            }
            let frame: Vec<u8> = buffer.drain(..end).skip(4).collect();
            let result = self.core.handle(&Bytes::from(frame), &local, time.mono_ms, time);
            let HandleResult::SendResponse(response) = result else { continue };
            let response = self.mutations.mutate(response);
            machine.send_to_client(id, response.bytes, response.delay);
            if response.closes_connection {
                machine.close_connection(id);
            }
        }
    }
}

async fn send_record(producer: Producer, n: usize, completed: Rc<Cell<usize>>) {
    let value = format!("record {n}");
    if let Ok(delivery) = producer.send_async(Record::to("t").key("k").value(&value)).await {
        let _ = delivery.await;
    }
    completed.set(completed.get() + 1);
}

/// Sends a few records to a broker whose responses `input` mutates.
///
/// # Panics
/// Panics if a record does not complete, memory is not returned, or the sender loops endlessly.
pub fn fuzz_responses(input: &[u8]) {
    let mut mutations = MutationInput(input);
    let max_io_bytes = usize::from(mutations.next_byte());
    let idempotent = mutations.next_byte().is_multiple_of(2);
    let machine =
        SimMachine::new(1, Faults { max_delay_ns: 100_000, max_io_bytes, ..Faults::NONE });
    machine.listen(node_address(1));
    let mut config = BrokerConfig::default();
    config.default_partitions = 2;
    let core = Core::new(config, broker_now(&machine)).expect("the core starts in memory");
    let mut broker = FuzzBroker { core, mutations, buffers: BTreeMap::new() };
    let mut builder =
        Producer::builder().bootstrap_servers("10.0.0.1:9092").idempotence(idempotent);
    for (name, value) in [
        ("buffer.memory", BUFFER_MEMORY.to_string().as_str()),
        ("request.timeout.ms", "1000"),
        ("delivery.timeout.ms", "4000"),
        ("max.block.ms", "4000"),
        ("socket.connection.setup.timeout.ms", "1000"),
    ] {
        builder = builder.set(name, value);
    }
    let (producer, mut sender) = build(builder, &machine).expect("the settings are valid");
    let completed = Rc::new(Cell::new(0));
    let mut executor = Executor::new();
    for n in 0..RECORD_COUNT {
        executor.spawn(send_record(producer.clone(), n, completed.clone()));
    }
    let started_at = machine.now();
    for _ in 0..MAX_ROUNDS {
        executor.run(machine.now());
        let mut deadline = sender.send_producer_data();
        if completed.get() == RECORD_COUNT && memory_balance(&producer) == BUFFER_MEMORY as i64 {
            sender.abort();
            return;
        }
        if executor.run(machine.now()) {
            deadline = Tick(0);
        }
        if !machine.would_wake() {
            let next = machine.next_event().unwrap_or(Tick::NEVER).min(deadline);
            let n = completed.get();
            assert_ne!(next, Tick::NEVER, "deadlock: {n} of {RECORD_COUNT} records completed");
            if next > machine.now() {
                machine.advance(next);
            }
        }
        let elapsed = machine.now().since(started_at);
        let n = completed.get();
        assert!(elapsed < Duration::from_secs(120), "{n} records completed after {elapsed:?}");
        assert!(sender.poll_and_handle(), "the sender shut down by itself");
        broker.serve(&machine);
    }
    let (n, now) = (completed.get(), machine.now());
    panic!("the sender loops endlessly: {n} of {RECORD_COUNT} records completed at {now:?}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_protocol::wire::TestRng;

    /// Runs the corpus that fuzzing kept, and 1,500 random variations of it.
    #[test]
    fn records_complete_with_mutated_responses() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/stream");
        let mut inputs: Vec<Vec<u8>> = (std::fs::read_dir(corpus).into_iter().flatten())
            .map(|e| std::fs::read(e.unwrap().path()).unwrap())
            .collect();
        inputs.sort();
        assert!(inputs.len() >= 10, "the corpus is missing: {corpus}");
        inputs.iter().for_each(|input| fuzz_responses(input));
        let mut rng = TestRng::new(21);
        for _ in 0..1500 {
            let mut input = match rng.next_below(3) {
                0 => Vec::new(),
                _ => inputs[rng.next_below(inputs.len() as u64) as usize].clone(),
            };
            input.truncate(rng.next_below(input.len() as u64 + 1) as usize);
            input.extend((0..rng.next_below(60)).map(|_| rng.next_u64() as u8));
            fuzz_responses(&input);
        }
    }
}
