#![allow(clippy::disallowed_methods)]

use std::pin::Pin;
use std::task::{Context, Poll};

use super::*;
use crate::wakeup::lifecycle::Lifecycle;
use proptest::prelude::*;

fn poll(future: &mut AllocateFuture) -> Poll<Result<PooledBuf, Error>> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn expect_ready(future: &mut AllocateFuture) -> PooledBuf {
    match poll(future) {
        Poll::Ready(Ok(buf)) => buf,
        other => panic!("{other:?}"),
    }
}

// CASES: BP1.
#[test]
fn freed_buffer_of_poolable_size_is_reused() {
    let pool = BufferPool::new(64 * 1024, 1024, Arc::default());
    let mut buf = pool.try_allocate(1024).unwrap().unwrap();
    assert_eq!((pool.available_memory(), pool.unallocated_memory()), (63 * 1024, 63 * 1024));
    buf.bytes.push(1);
    let address = buf.bytes.as_ptr();
    drop(buf);
    assert_eq!((pool.available_memory(), pool.unallocated_memory()), (64 * 1024, 63 * 1024));
    let buf = pool.try_allocate(1024).unwrap().unwrap();
    assert!(buf.bytes.is_empty() && buf.bytes.capacity() == 1024);
    assert_eq!(buf.bytes.as_ptr(), address);
}

// CASES: BP2.
#[test]
fn freed_buffer_of_another_size_is_not_kept() {
    let pool = BufferPool::new(4096, 512, Arc::default());
    drop(pool.try_allocate(1024).unwrap().unwrap());
    assert_eq!(pool.unallocated_memory(), 4096);
}

// CASES: BP3.
#[test]
fn size_above_buffer_memory_is_rejected_with_both_numbers() {
    let pool = BufferPool::new(4096, 512, Arc::default());
    assert!(pool.try_allocate(4096).unwrap().is_some());
    let e = pool.try_allocate(4097).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::RecordTooLarge);
    assert!(e.to_string().contains("4097") && e.to_string().contains("4096"), "{e}");
}

// CASES: BP4, BP9.
#[test]
fn large_waiter_accumulates_memory_and_is_not_overtaken() {
    let pool = BufferPool::new(1024, 256, Arc::default());
    let held: Vec<_> = (0..4).map(|_| pool.try_allocate(256).unwrap().unwrap()).collect();
    let (mut large, mut small) = (pool.allocate(1000), pool.allocate(10));
    assert!(poll(&mut large).is_pending() && poll(&mut small).is_pending());
    assert!(pool.try_allocate(1).unwrap().is_none(), "a new caller does not overtake the waiters");
    assert_eq!(pool.waiting(), 2);
    for buf in held {
        assert!(poll(&mut small).is_pending());
        drop(buf);
    }
    let large = expect_ready(&mut large);
    let small = expect_ready(&mut small);
    assert_eq!(pool.available_memory(), 1024 - 1010);
    drop((large, small));
    assert_eq!(pool.available_memory(), 1024);
}

// CASES: BP6, BP7.
#[test]
fn memory_of_a_dropped_waiter_goes_to_the_next() {
    let pool = BufferPool::new(2, 1, Arc::default());
    let held = pool.try_allocate(1).unwrap().unwrap();
    let (mut first, mut second) = (pool.allocate(2), pool.allocate(1));
    assert!(poll(&mut first).is_pending());
    assert!(poll(&mut second).is_pending());
    drop(first);
    let second = expect_ready(&mut second);
    assert_eq!((pool.waiting(), pool.available_memory()), (0, 0));
    drop((second, held));
    assert_eq!(pool.available_memory(), 2);
}

#[test]
fn grant_that_is_not_collected_goes_to_the_next_waiter_when_revoked() {
    let pool = BufferPool::new(10, 5, Arc::default());
    let held = pool.try_allocate(10).unwrap().unwrap();
    let (mut a, mut b) = (pool.allocate(10), pool.allocate(10));
    assert!(poll(&mut a).is_pending() && poll(&mut b).is_pending());
    drop(held);
    pool.revoke(a.pool_waiter_id().load(Ordering::Relaxed));
    let b = expect_ready(&mut b);
    assert!(matches!(poll(&mut a), Poll::Ready(Err(e)) if e.kind() == ErrorKind::BufferExhausted));
    drop((a, b));
    assert_eq!(pool.available_memory(), 10);
}

// CASES: BP11.
#[test]
fn pool_of_twenty_gigabytes_does_not_overflow() {
    let pool = BufferPool::new(20_000_000_000, 2_000_000_000, Arc::default());
    pool.state.lock().unallocated -= 2_000_000_000;
    assert_eq!(pool.available_memory(), 18_000_000_000);
    pool.deallocate(2_000_000_000, Vec::new());
    assert_eq!(pool.available_memory(), 20_000_000_000);
}

// CASES: BP13.
#[test]
fn close_fails_all_waiters_and_buffers_still_return() {
    let lifecycle = Arc::<LifecycleCell>::default();
    let pool = BufferPool::new(2, 1, lifecycle.clone());
    let held = pool.try_allocate(2).unwrap().unwrap();
    let mut waiter = pool.allocate(1);
    assert!(poll(&mut waiter).is_pending());
    lifecycle.transition(&Lifecycle::Closed);
    pool.fail_waiters();
    assert!(matches!(poll(&mut waiter), Poll::Ready(Err(e)) if e.kind() == ErrorKind::Closed));
    assert!(pool.try_allocate(1).is_err());
    drop((waiter, held));
    assert_eq!(pool.available_memory(), 2);
}

// CASES: BP10.
#[test]
fn concurrent_allocations_return_all_memory() {
    let pool = BufferPool::new(5 * 1024, 1024, Arc::default());
    std::thread::scope(|s| {
        for t in 0..8u64 {
            let pool = &pool;
            s.spawn(move || {
                let mut random = ottla_protocol::wire::TestRng::new(t);
                for _ in 0..3000 {
                    let size = if random.next_below(2) == 0 {
                        1024
                    } else {
                        1 + random.next_below(1024) as usize
                    };
                    let mut future = pool.allocate(size);
                    loop {
                        match poll(&mut future) {
                            Poll::Ready(buf) => break drop(buf.unwrap()),
                            Poll::Pending => std::thread::yield_now(),
                        }
                    }
                }
            });
        }
    });
    assert_eq!((pool.available_memory(), pool.waiting()), (5 * 1024, 0));
}

proptest! {
    /// Checks the pool against a simple model: first come, first served; never more than the total
    /// in use; all memory returns.
    #[test]
    fn waiters_are_served_in_order(ops in proptest::collection::vec((0u8..4, 1usize..40), 1..80)) {
        let pool = BufferPool::new(40, 8, Arc::default());
        let (mut held, mut waiters) = (Vec::<PooledBuf>::new(), VecDeque::<AllocateFuture>::new());
        for (op, n) in ops {
            match op {
                0 | 1 => {
                    let mut future = pool.allocate(if op == 0 { 8 } else { n });
                    match poll(&mut future) {
                        Poll::Ready(buf) => {
                            prop_assert!(waiters.is_empty(), "overtook the waiters");
                            held.push(buf.unwrap());
                        }
                        Poll::Pending => waiters.push_back(future),
                    }
                }
                2 if !held.is_empty() => drop(held.swap_remove(n % held.len())),
                3 if !waiters.is_empty() => drop(waiters.remove(n % waiters.len())),
                _ => {}
            }
            // Only the first waiters may be ready.
            while let Some(first) = waiters.front_mut() {
                match poll(first) {
                    Poll::Ready(buf) => held.push(buf.unwrap()),
                    Poll::Pending => break,
                }
                waiters.pop_front();
            }
            for later in &mut waiters {
                prop_assert!(poll(later).is_pending(), "overtook the first waiter");
            }
            let in_use: u64 = held.iter().map(|b| b.charge).sum();
            prop_assert!(in_use + pool.available_memory() <= 40);
        }
        drop(waiters);
        drop(held);
        prop_assert_eq!(pool.available_memory(), 40);
    }
}

/// A split charges memory without waiting. Until usage is back under the limit, no waiter is
/// served.
#[test]
fn excess_charge_is_repaid_before_any_waiter_is_served() {
    let pool = BufferPool::new(300, 100, Arc::default());
    let (a, b) =
        (pool.try_allocate(100).unwrap().unwrap(), pool.try_allocate(100).unwrap().unwrap());
    let c = pool.try_allocate(100).unwrap().unwrap();
    let mut granted = pool.allocate(100);
    assert!(poll(&mut granted).is_pending());
    drop(c);
    // The memory of `c` is granted, but not collected. The parts take more than the pool has.
    let parts = pool.allocate_over_limit(150);
    assert_eq!((pool.balance(), pool.available_memory()), (-150, 0));
    drop(granted);
    assert_eq!(pool.balance(), -50, "returned memory reduces the excess");
    let mut waiter = pool.allocate(100);
    assert!(poll(&mut waiter).is_pending());
    drop(a);
    assert_eq!((pool.balance(), pool.waiting()), (0, 1), "the waiter has accumulated 50 bytes");
    assert!(poll(&mut waiter).is_pending());
    drop(parts);
    let buf = expect_ready(&mut waiter);
    drop((b, buf));
    assert_eq!((pool.balance(), pool.available_memory()), (300, 300));
}
