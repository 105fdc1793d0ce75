//! Tests with real threads.
#![allow(clippy::disallowed_methods)]

use super::*;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::metrics::Counters;
use crate::sender::drain::DrainRequest;

struct AppendCounts {
    appended: u64,
    completed: u64,
    /// Appends that found their partition's lock held by another caller.
    contentions: u64,
}

/// Appends `records` records on each of `callers` threads. The calling thread drains and
/// acknowledges the batches until all threads have ended.
fn append_concurrently(callers: usize, records: u64, keyed: bool) -> AppendCounts {
    let settings = AccumulatorSettings {
        batch_size: 16 * 1024,
        linger: Duration::ZERO,
        buffer_memory: 64 << 20,
        ..settings()
    };
    let mut fixture = AccumulatorFixture::new(settings, &[1; 12]);
    let (running, completed) = (AtomicU64::new(callers as u64), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    let accumulator = fixture.accumulator.clone();
    let topic = fixture.topic();
    thread::scope(|scope| {
        for t in 0..callers as u64 {
            let (accumulator, topic, running) = (&accumulator, &topic, &running);
            scope.spawn(move || {
                for n in 0..records {
                    let value = [0u8; 92];
                    let key = t.wrapping_mul(31).wrapping_add(n).to_be_bytes();
                    let mut record = Record::to("t").value(&value).timestamp(0);
                    if keyed {
                        record = record.key(&key);
                    }
                    let prepared = PreparedRecord::new(&record, || 0).unwrap();
                    let mut options = DeliveryOptions::default();
                    let mut state = AppendState::default();
                    // `send` takes the same two steps.
                    if accumulator.try_append(topic, &prepared, &mut options).is_some() {
                        continue;
                    }
                    loop {
                        match accumulator
                            .append(topic, &prepared, &mut options, &mut state)
                            .unwrap()
                        {
                            AppendResult::Appended => break,
                            AppendResult::NeedsNewBatch(size)
                            | AppendResult::NeedsChainBuffer(size) => {
                                match accumulator.pool.try_allocate(size).unwrap() {
                                    Some(buf) => state.spare_buffer = Some(buf),
                                    None => std::thread::yield_now(),
                                }
                            }
                        }
                    }
                }
                running.fetch_sub(1, Ordering::SeqCst);
            });
        }
        while !stop.load(Ordering::Relaxed) {
            let all_ended = running.load(Ordering::SeqCst) == 0;
            fixture.pressure.flush_up_to = if all_ended { u64::MAX } else { 0 };
            let mut events = Vec::new();
            fixture.accumulator.events().drain(&mut events);
            for event in events {
                if let Event::BatchOpened(p) | Event::BatchReady(p) = event {
                    fixture.track(p);
                }
            }
            fixture.ready.set_pressure(fixture.pressure);
            let cx = DrainContext {
                accumulator: &fixture.accumulator,
                cluster: &fixture.cluster,
                now: fixture.machine.now(),
            };
            fixture.ready.refresh(cx, &fixture.producer_state);
            let (state, discovery) = (&mut fixture.producer_state, &fixture.discovery);
            let request = DrainRequest { node: 1, max_size: usize::MAX, include_lingering: false };
            let out = fixture.ready.drain(cx, state, discovery, request);
            let is_idle = out.batches.is_empty();
            for batch in out.batches {
                completed.fetch_add(batch.closed.meta.record_count as u64, Ordering::Relaxed);
                acknowledge(batch, 0);
            }
            stop.store(all_ended && is_idle && fixture.ready.is_empty(), Ordering::Relaxed);
            if is_idle {
                std::thread::yield_now();
            }
        }
    });
    assert_eq!(fixture.accumulator.pool.balance(), 64 << 20, "all memory is freed");
    AppendCounts {
        appended: callers as u64 * records,
        completed: completed.load(Ordering::Relaxed),
        contentions: fixture.topic().sticky_partition.contentions.load(Ordering::Relaxed),
    }
}

// CASES: RA30.
#[test]
fn every_record_of_concurrent_callers_completes_once() {
    for keyed in [false, true] {
        let counts = append_concurrently(5, 10_000, keyed);
        assert_eq!(counts.appended, counts.completed, "keyed: {keyed}");
    }
}

/// Split stripes keep callers apart: fewer than one append in a hundred finds the lock held.
#[test]
fn callers_without_keys_rarely_contend() {
    for callers in [2, 4] {
        let counts = append_concurrently(callers, 200_000 / callers as u64, false);
        let AppendCounts { appended, completed, contentions } = counts;
        assert_eq!(appended, completed);
        assert!(contentions * 100 < appended, "{callers} callers: {contentions} of {appended}");
    }
}

fn new_caller_context() -> Arc<CallerContext> {
    CallerContext::new(Arc::new(SimMachine::new(1, Faults::NONE)), false)
}

#[test]
fn thread_in_a_callback_must_not_block_after_an_inner_callback_ends() {
    let (context, counters) = (new_caller_context(), Counters::default());
    context.run_callback(&counters, || {
        context.run_callback(&counters, || assert!(context.must_not_block()));
        assert!(context.must_not_block());
    });
    context.run_callback(&counters, || panic!("a callback panics"));
    assert!(!context.must_not_block());
    assert_eq!(counters.callback_panic_total.load(Ordering::Relaxed), 1);
}

#[test]
fn callback_that_ends_on_one_thread_leaves_that_of_another_thread_marked() {
    let (context, counters) = (new_caller_context(), Counters::default());
    let barrier = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            context.run_callback(&counters, || {
                barrier.wait();
            });
        });
        // Both callbacks run at the barrier, and the other thread's ends first.
        context.run_callback(&counters, || {
            barrier.wait();
            while context.callback_threads.lock().len() > 1 {
                thread::yield_now();
            }
            assert!(context.must_not_block());
        });
    });
    assert!(!context.must_not_block());
    assert_eq!(counters.callback_panic_total.load(Ordering::Relaxed), 0);
}
