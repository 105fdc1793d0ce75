//! What only real threads can do.
#![allow(clippy::disallowed_methods)]

use super::*;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Callers on threads of their own, and a sender that drains and settles until they are done: records appended,
/// records settled, appends that found their partition's lock held.
fn append_concurrently(callers: usize, records: u64, keyed: bool) -> (u64, u64, u64) {
    let all = AccumulatorSettings { batch_size: 16 * 1024, linger: Duration::ZERO, ..settings() };
    let mut bed =
        AccumulatorFixture::new(AccumulatorSettings { buffer_memory: 64 << 20, ..all }, &[1; 12]);
    let (left, seen) = (AtomicU64::new(callers as u64), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    let acc = bed.accumulator.clone();
    let topic = bed.topic();
    std::thread::scope(|scope| {
        for t in 0..callers as u64 {
            let (acc, topic, left) = (&acc, &topic, &left);
            scope.spawn(move || {
                for n in 0..records {
                    let value = [0u8; 92];
                    let key = (t, n).0.wrapping_mul(31).wrapping_add(n).to_be_bytes();
                    let mut record = Record::to("t").value(&value).timestamp(0);
                    if keyed {
                        record = record.key(&key);
                    }
                    let prepared = PreparedRecord::new(&record, || 0).unwrap();
                    let (mut watch, mut attempt) =
                        (DeliveryOptions::default(), AppendState::default());
                    // As `send` does it: at once if that can be, else step by step.
                    if acc.try_append(topic, &prepared, &mut watch).is_some() {
                        continue;
                    }
                    loop {
                        match acc.append(topic, &prepared, &mut watch, &mut attempt).unwrap() {
                            AppendResult::Appended(_) => break,
                            AppendResult::NeedsBuffer(size)
                            | AppendResult::NeedsChainBuffer(size) => {
                                match acc.pool.try_allocate(size).unwrap() {
                                    Some(buf) => attempt.spare_buffer = Some(buf),
                                    None => std::thread::yield_now(),
                                }
                            }
                        }
                    }
                }
                left.fetch_sub(1, Ordering::SeqCst);
            });
        }
        while !stop.load(Ordering::Relaxed) {
            let last = left.load(Ordering::SeqCst) == 0;
            bed.pressure.flush_up_to = if last { u64::MAX } else { 0 };
            let mut mail = Vec::new();
            bed.accumulator.events().drain(&mut mail);
            for event in mail {
                if let Event::BatchOpened(p) | Event::BatchClosed(p) = event {
                    bed.ready.insert(p);
                }
            }
            bed.ready.set_pressure(bed.pressure);
            let view = DrainContext {
                accumulator: &bed.accumulator,
                cluster: &bed.cluster,
                now: bed.machine.now(),
            };
            bed.ready.refresh(view, &bed.policy);
            let out = bed.ready.drain(view, &mut bed.policy, (usize::MAX, false), 1);
            let none = out.batches.is_empty();
            for batch in out.batches {
                seen.fetch_add(batch.closed.meta.record_count as u64, Ordering::Relaxed);
                acknowledge(batch, 0);
            }
            stop.store(last && none && bed.ready.is_empty(), Ordering::Relaxed);
            if none {
                std::thread::yield_now();
            }
        }
    });
    assert_eq!(bed.accumulator.pool.balance(), 64 << 20, "memory is all back");
    let met = bed.topic().sticky_partition.contentions.load(Ordering::Relaxed);
    (callers as u64 * records, seen.load(Ordering::Relaxed), met)
}

#[test]
fn ra30_every_record_of_many_threads_ends_once() {
    for keyed in [false, true] {
        let (appended, settled, _) = append_concurrently(5, 10_000, keyed);
        assert_eq!(appended, settled, "keyed: {keyed}");
    }
}

/// Callers that met go apart, and so meet no more: fewer than one append in a hundred finds the lock held.
#[test]
fn callers_without_keys_hardly_ever_meet() {
    for callers in [2, 4] {
        let (appended, settled, met) =
            append_concurrently(callers, 200_000 / callers as u64, false);
        assert_eq!(appended, settled);
        assert!(met * 100 < appended, "{callers} callers: {met} of {appended}");
    }
}
