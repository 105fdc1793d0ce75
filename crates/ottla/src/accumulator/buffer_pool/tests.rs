#![allow(clippy::disallowed_methods)]

use super::*;
use proptest::prelude::*;

fn poll(a: &mut AllocateFuture) -> Poll<Result<PooledBuf, Error>> {
    Pin::new(a).poll(&mut Context::from_waker(Waker::noop()))
}

fn expect_ready(a: &mut AllocateFuture) -> PooledBuf {
    match poll(a) {
        Poll::Ready(Ok(buf)) => buf,
        other => panic!("{other:?}"),
    }
}

#[test]
fn bp1_a_poolable_buffer_goes_to_the_free_list_and_comes_back() {
    let pool = BufferPool::new(64 * 1024, 1024);
    let mut buf = pool.try_allocate(1024).unwrap().unwrap();
    assert_eq!((pool.available_memory(), pool.unallocated_memory()), (63 * 1024, 63 * 1024));
    buf.bytes.push(1);
    let place = buf.bytes.as_ptr();
    drop(buf);
    assert_eq!((pool.available_memory(), pool.unallocated_memory()), (64 * 1024, 63 * 1024));
    let buf = pool.try_allocate(1024).unwrap().unwrap();
    assert!(buf.bytes.is_empty() && buf.bytes.capacity() == 1024);
    assert_eq!(buf.bytes.as_ptr(), place);
}

#[test]
fn bp2_other_sizes_are_not_kept_and_bp3_more_than_all_is_refused_with_both_numbers() {
    let pool = BufferPool::new(4096, 512);
    drop(pool.try_allocate(1024).unwrap().unwrap());
    assert_eq!(pool.unallocated_memory(), 4096);
    assert!(pool.try_allocate(4096).unwrap().is_some());
    let e = pool.try_allocate(4097).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::RecordTooLarge);
    assert!(e.to_string().contains("4097") && e.to_string().contains("4096"), "{e}");
}

#[test]
fn bp4_bp9_a_large_waiter_gathers_pieces_and_is_never_overtaken() {
    let pool = BufferPool::new(1024, 256);
    let held: Vec<_> = (0..4).map(|_| pool.try_allocate(256).unwrap().unwrap()).collect();
    let (mut large, mut small) = (pool.allocate(1000), pool.allocate(10));
    assert!(poll(&mut large).is_pending() && poll(&mut small).is_pending());
    assert!(pool.try_allocate(1).unwrap().is_none(), "nobody overtakes the line");
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

#[test]
fn bp6_bp7_a_dropped_waiter_gives_back_and_hands_on() {
    let pool = BufferPool::new(2, 1);
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
fn a_grant_that_nobody_collects_is_handed_on_when_dropped_or_revoked() {
    let pool = BufferPool::new(10, 5);
    let held = pool.try_allocate(10).unwrap().unwrap();
    let (mut a, mut b) = (pool.allocate(10), pool.allocate(10));
    assert!(poll(&mut a).is_pending() && poll(&mut b).is_pending());
    drop(held);
    pool.revoke(a.shared_waiter_id().load(Ordering::Relaxed));
    let b = expect_ready(&mut b);
    assert!(matches!(poll(&mut a), Poll::Ready(Err(e)) if e.kind() == ErrorKind::BufferExhausted));
    drop((a, b));
    assert_eq!(pool.available_memory(), 10);
}

#[test]
fn bp11_arithmetic_holds_at_twenty_gigabytes() {
    let pool = BufferPool::new(20_000_000_000, 2_000_000_000);
    pool.state.lock().unallocated -= 2_000_000_000;
    assert_eq!(pool.available_memory(), 18_000_000_000);
    pool.deallocate(2_000_000_000, Vec::new());
    assert_eq!(pool.available_memory(), 20_000_000_000);
}

#[test]
fn bp13_close_wakes_everyone_and_memory_still_comes_back() {
    let pool = BufferPool::new(2, 1);
    let held = pool.try_allocate(2).unwrap().unwrap();
    let mut waiting = pool.allocate(1);
    assert!(poll(&mut waiting).is_pending());
    pool.close(&Error::closed());
    assert!(matches!(poll(&mut waiting), Poll::Ready(Err(e)) if e.kind() == ErrorKind::Closed));
    assert!(pool.try_allocate(1).is_err());
    drop((waiting, held));
    assert_eq!(pool.available_memory(), 2);
}

#[test]
fn bp10_threads_never_lose_memory() {
    let pool = BufferPool::new(5 * 1024, 1024);
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
    /// Against the plain rule: first come first served, nothing over the total, all of it back.
    #[test]
    fn the_line_is_served_in_order(ops in proptest::collection::vec((0u8..4, 1usize..40), 1..80)) {
        let pool = BufferPool::new(40, 8);
        let (mut held, mut line): (Vec<PooledBuf>, VecDeque<AllocateFuture>) = Default::default();
        for (op, n) in ops {
            match op {
                0 | 1 => {
                    let mut a = pool.allocate(if op == 0 { 8 } else { n });
                    match poll(&mut a) {
                        Poll::Ready(buf) => {
                            prop_assert!(line.is_empty(), "overtook the line");
                            held.push(buf.unwrap());
                        }
                        Poll::Pending => line.push_back(a),
                    }
                }
                2 if !held.is_empty() => drop(held.swap_remove(n % held.len())),
                3 if !line.is_empty() => drop(line.remove(n % line.len())),
                _ => {}
            }
            // Only a prefix of the line may be ready.
            while let Some(head) = line.front_mut() {
                match poll(head) {
                    Poll::Ready(buf) => held.push(buf.unwrap()),
                    Poll::Pending => break,
                }
                line.pop_front();
            }
            for later in &mut line {
                prop_assert!(poll(later).is_pending(), "overtook the head");
            }
            let out: u64 = held.iter().map(|b| b.charge).sum();
            prop_assert!(out + pool.available_memory() <= 40);
        }
        drop(line);
        drop(held);
        prop_assert_eq!(pool.available_memory(), 40);
    }
}

/// A split charges without waiting: until that is repaid nobody is served, whatever comes back and how.
#[test]
fn a_debt_is_repaid_before_anybody_is_served() {
    let pool = BufferPool::new(300, 100);
    let (a, b) =
        (pool.try_allocate(100).unwrap().unwrap(), pool.try_allocate(100).unwrap().unwrap());
    let c = pool.try_allocate(100).unwrap().unwrap();
    let mut granted = pool.allocate(100);
    assert!(poll(&mut granted).is_pending());
    drop(c);
    // It is granted and not fetched; parts of a batch take more than there is.
    let parts = pool.charge(150);
    assert_eq!((pool.balance(), pool.available_memory()), (-150, 0));
    drop(granted);
    assert_eq!(pool.balance(), -50, "what comes back pays the debt");
    let mut waits = pool.allocate(100);
    assert!(poll(&mut waits).is_pending());
    drop(a);
    assert_eq!((pool.balance(), pool.waiting()), (0, 1), "50 are left, and gathered");
    assert!(poll(&mut waits).is_pending());
    drop(parts);
    let got = expect_ready(&mut waits);
    drop((b, got));
    assert_eq!((pool.balance(), pool.available_memory()), (300, 300));
}
