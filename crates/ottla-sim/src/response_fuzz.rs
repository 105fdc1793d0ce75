//! Whole byte streams into the producer's channels: a broker answers, and what it answers is changed as some bytes
//! say. For fuzzing; whatever they say, every record ends, memory comes back and nobody spins. What the log holds is
//! not looked at: a broker that lies about it, or about sequences, is believed, as it must be.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use ottla::sim::{ClientInput, Faults, SimMachine, Tick, build, memory_balance};
use ottla::{Producer, Record};
use ottla_broker::{BrokerConfig, ClockReading, Core, HandleResult, LocalAddress};

use crate::executor::Executor;
use crate::sim_cluster::{broker_now, node_address};

const BUFFER_MEMORY: u64 = 1 << 20;
const RECORD_COUNT: usize = 4;
/// Rounds of the sender that a few records may take at most.
const MAX_ROUNDS: usize = 20_000;

/// Bytes that say what is done to answers; sound answers once they are used up.
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

    /// What goes out for an answer, how late, and whether the connection ends behind it.
    fn mutate(&mut self, mut frame: Vec<u8>) -> (Vec<u8>, Duration, bool) {
        let (mut late, mut ends) = (Duration::ZERO, false);
        // Most bytes leave most answers as they are, so that a stream gets far.
        match self.next_byte() {
            0..=0x7f => {}
            0x80..=0x9f => {
                let at = usize::from(self.next_byte()) % frame.len();
                frame[at] ^= self.next_byte();
            }
            0xa0..=0xaf => {
                let (at, word) = (usize::from(self.next_byte()), self.next_bytes(4));
                for (b, w) in frame.iter_mut().skip(at).zip(word) {
                    *b = w;
                }
            }
            0xb0..=0xbf => {
                frame.truncate(usize::from(self.next_byte()));
                ends = self.next_byte() < 0x80;
            }
            0xc0..=0xcf => {
                let (at, n) = (
                    usize::from(self.next_byte()) % frame.len(),
                    usize::from(self.next_byte() % 16),
                );
                let more = self.next_bytes(n);
                frame.splice(at..at, more);
                // With a length that says so, half the time.
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
            0xe8..=0xef => late = Duration::from_millis(u64::from(self.next_byte()) * 20),
            0xf0..=0xf7 => frame.clear(),
            0xf8..=0xff => ends = true,
        }
        (frame, late, ends)
    }
}

struct FuzzBroker<'s> {
    core: Core,
    mutations: MutationInput<'s>,
    buffers: BTreeMap<u64, Vec<u8>>,
}

impl FuzzBroker<'_> {
    fn serve(&mut self, machine: &SimMachine) {
        for (conn, _, what) in machine.take_client_input() {
            match what {
                ClientInput::Closed => drop(self.buffers.remove(&conn)),
                ClientInput::Bytes(bytes) => {
                    self.buffers.entry(conn).or_default().extend(bytes);
                    self.handle_frames(conn, machine);
                }
            }
        }
    }

    fn handle_frames(&mut self, conn: u64, machine: &SimMachine) {
        let (at, time): (SocketAddr, ClockReading) = (node_address(1), broker_now(machine));
        let local = LocalAddress { host: at.ip().to_string(), port: at.port() };
        while let Some(held) = self.buffers.get_mut(&conn) {
            let Some(size) = held.first_chunk::<4>().map(|b| i32::from_be_bytes(*b)) else {
                return;
            };
            assert!((0..1 << 22).contains(&size), "the producer sent a frame of {size} bytes");
            if held.len() < 4 + size as usize {
                return;
            }
            let frame: Vec<u8> = held.drain(..4 + size as usize).skip(4).collect();
            let reply = self.core.handle(&Bytes::from(frame), &local, time.mono_ms, time);
            let HandleResult::SendResponse(out) = reply else { continue };
            let (out, late, ends) = self.mutations.mutate(out);
            machine.send_to_client(conn, out, late);
            if ends {
                machine.close_connection(conn);
            }
        }
    }
}

async fn send_record(producer: Producer, n: usize, over: Rc<Cell<usize>>) {
    let value = format!("record {n}");
    if let Ok(delivery) = producer.send_async(Record::to("t").key("k").value(&value)).await {
        let _ = delivery.await;
    }
    over.set(over.get() + 1);
}

/// Sends a few records to a broker whose answers are changed as `input` says.
///
/// # Panics
/// If a record does not end, memory does not come back, or the sender spins.
pub fn fuzz_responses(input: &[u8]) {
    let mut script = MutationInput(input);
    let split = usize::from(script.next_byte());
    let idempotent = script.next_byte().is_multiple_of(2);
    let machine =
        SimMachine::new(1, Faults { max_delay_ns: 100_000, max_io_bytes: split, ..Faults::NONE });
    machine.listen(node_address(1));
    let mut config = BrokerConfig::default();
    config.default_partitions = 2;
    let core = Core::new(config, broker_now(&machine)).expect("a core in memory");
    let mut broker = FuzzBroker { core, mutations: script, buffers: BTreeMap::new() };
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
    let (producer, mut sender) = build(builder, &machine).expect("sound settings");
    let over = Rc::new(Cell::new(0));
    let mut executor = Executor::new();
    for n in 0..RECORD_COUNT {
        executor.spawn(send_record(producer.clone(), n, over.clone()));
    }
    let begun = machine.now();
    for _ in 0..MAX_ROUNDS {
        executor.run(machine.now());
        let mut until = sender.send_producer_data();
        if over.get() == RECORD_COUNT && memory_balance(&producer) == BUFFER_MEMORY as i64 {
            sender.abort();
            return;
        }
        if executor.run(machine.now()) {
            until = Tick(0);
        }
        if !machine.would_wake() {
            let next = machine.next_event().unwrap_or(Tick::NEVER).min(until);
            assert_ne!(
                next,
                Tick::NEVER,
                "nothing will ever happen, and {} records ended",
                over.get()
            );
            if next > machine.now() {
                machine.advance(next);
            }
        }
        let spent = machine.now().since(begun);
        assert!(spent < Duration::from_secs(120), "it took {spent:?}: {} ended", over.get());
        assert!(sender.poll_and_handle(), "the sender ended by itself");
        broker.serve(&machine);
    }
    panic!("the sender spins: {} records ended at {:?}", over.get(), machine.now());
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_protocol::wire::TestRng;

    /// A sample of what fuzzing kept, and a thousand and a half of streams more.
    #[test]
    fn streams_of_anything_end_every_record() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/stream");
        let mut kept: Vec<Vec<u8>> = (std::fs::read_dir(corpus).into_iter().flatten())
            .map(|e| std::fs::read(e.unwrap().path()).unwrap())
            .collect();
        kept.sort();
        assert!(kept.len() >= 10, "the corpus is there");
        kept.iter().for_each(|input| fuzz_responses(input));
        let mut g = TestRng::new(21);
        for _ in 0..1500 {
            let mut input = match g.next_below(3) {
                0 => Vec::new(),
                _ => kept[g.next_below(kept.len() as u64) as usize].clone(),
            };
            input.truncate(g.next_below(input.len() as u64 + 1) as usize);
            input.extend((0..g.next_below(60)).map(|_| g.next_u64() as u8));
            fuzz_responses(&input);
        }
    }
}
