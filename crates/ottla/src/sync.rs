//! The crate's mutex and the atomics that are shared between threads.
//!
//! Debug builds check each lock: a thread never holds two (so there is no lock order to get wrong),
//! and holds none while it runs foreign code such as wakers, callbacks and interceptors. One lock
//! is not of this type: `TokenManager::fetch_lock` is held while the token provider runs, on a
//! worker thread. Callers and the sender never wait for it.
//!
//! The mutex spins, yields, and then sleeps for moments. It does not park: to wake a parked thread,
//! each unlock would have to find out whether there is one, by an atomic exchange. Such an exchange
//! waits until the processor has written all that was stored before, which is the record. A plain
//! store need not wait, and `send` takes a lock for each record.
//!
//! With `--cfg ottla_loom`, the mutex and the atomics are loom's: `accumulator::loom_tests` then
//! runs every interleaving of its threads with at most three preemptions.

#[cfg(not(ottla_loom))]
use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;
#[cfg(not(ottla_loom))]
use std::time::Duration;

use crate::log_limiter::EventCount;

#[cfg(ottla_loom)]
pub(crate) use loom::sync::atomic;
#[cfg(not(ottla_loom))]
pub(crate) use std::sync::atomic;

#[cfg(not(ottla_loom))]
thread_local! {
    /// The number of locks that this thread holds; counted in debug builds only.
    static HELD_LOCKS: Cell<u32> = const { Cell::new(0) };
}

/// Returns a small number that is unique to the calling thread.
///
/// Threads are numbered from 0, in the order of their first call. The number selects the thread's
/// stripe of sticky partitions. It is the only thread-local state that influences what the producer
/// does. A simulation has one thread and therefore still replays.
pub(crate) fn thread_number() -> usize {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    NUMBER.with(|n| *n)
}

#[cfg(ottla_loom)]
type InnerMutex<T> = loom::sync::Mutex<T>;
#[cfg(not(ottla_loom))]
type InnerMutex<T> = spin::mutex::SpinMutex<T>;
#[cfg(ottla_loom)]
type InnerGuard<'a, T> = loom::sync::MutexGuard<'a, T>;
#[cfg(not(ottla_loom))]
type InnerGuard<'a, T> = spin::mutex::SpinMutexGuard<'a, T>;

/// How often a thread looks at a lock that another thread holds, before it yields. It is held for a
/// few instructions, so this is enough if its holder runs.
#[cfg(not(ottla_loom))]
const SPINS: u32 = 10;
/// How often a thread yields its processor, to the lock's holder if that waits for one.
#[cfg(not(ottla_loom))]
const YIELDS: u32 = 10;
/// How long a thread sleeps then. It must sleep: a thread with real-time priority that only yields
/// would keep a holder with a lower one from running.
#[cfg(not(ottla_loom))]
const LOCK_SLEEP: Duration = Duration::from_micros(50);

/// A mutex that is held for a few instructions only. It is never poisoned.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(InnerMutex<T>);

/// Unlocks its [`Mutex`] when dropped.
pub(crate) struct MutexGuard<'a, T>(InnerGuard<'a, T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
        Mutex(InnerMutex::new(value))
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        register_lock();
        #[cfg(ottla_loom)]
        return MutexGuard(self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        #[cfg(not(ottla_loom))]
        MutexGuard(self.0.try_lock().unwrap_or_else(|| self.lock_contended()))
    }

    /// Waits until another thread has released the lock, and takes it.
    #[cfg(not(ottla_loom))]
    #[cold]
    #[allow(clippy::disallowed_methods, reason = "a lock waits in real time, as any mutex does")]
    fn lock_contended(&self) -> InnerGuard<'_, T> {
        loop {
            for attempt in 0..SPINS + YIELDS {
                // A look does not take the cache line from the holder, as an attempt would.
                if !self.0.is_locked()
                    && let Some(guard) = self.0.try_lock()
                {
                    return guard;
                }
                if attempt < SPINS {
                    std::hint::spin_loop();
                } else {
                    std::thread::yield_now();
                }
            }
            std::thread::sleep(LOCK_SLEEP);
        }
    }

    /// Takes the lock; `None` if another thread holds it.
    #[inline]
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        #[cfg(ottla_loom)]
        let guard = self.0.try_lock().ok()?;
        #[cfg(not(ottla_loom))]
        let guard = self.0.try_lock()?;
        register_lock();
        Some(MutexGuard(guard))
    }
}

/// Checks, in debug builds, that this thread holds no other lock, and counts the new one.
#[inline]
fn register_lock() {
    #[cfg(all(debug_assertions, not(ottla_loom)))]
    HELD_LOCKS.with(|held| {
        debug_assert_eq!(held.get(), 0, "this thread already holds a lock");
        held.set(held.get() + 1);
    });
}

/// Checks, in debug builds, that this thread holds no lock.
///
/// Called before foreign code runs: wakers, callbacks, handlers, interceptors. Such code may call
/// the producer again, and would then deadlock on a lock that its own thread holds.
#[inline]
pub(crate) fn assert_unlocked() {
    #[cfg(all(debug_assertions, not(ottla_loom)))]
    HELD_LOCKS.with(|held| debug_assert_eq!(held.get(), 0, "foreign code runs under a lock"));
}

/// The wakers of this process that have panicked.
static WAKER_PANICS: EventCount = EventCount::new();

/// Wakes all of these wakers. A waker is foreign code: if one panics, the others are still woken.
pub(crate) fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    assert_unlocked();
    for waker in wakers {
        if catch_unwind(AssertUnwindSafe(|| waker.wake())).is_err()
            && let Some(panics) = WAKER_PANICS.check()
        {
            tracing::error!(
                name: "ottla.waker_panicked",
                target: "ottla::producer",
                panics,
                "a waker panicked"
            );
        }
    }
}

/// Counts the wake-ups of a waker.
#[cfg(all(test, not(ottla_loom)))]
#[derive(Debug, Default)]
pub(crate) struct CountingWaker(std::sync::atomic::AtomicUsize);

#[cfg(all(test, not(ottla_loom)))]
impl CountingWaker {
    pub(crate) fn count(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}

#[cfg(all(test, not(ottla_loom)))]
impl std::task::Wake for CountingWaker {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        #[cfg(all(debug_assertions, not(ottla_loom)))]
        HELD_LOCKS.with(|held| held.set(held.get().saturating_sub(1)));
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

#[cfg(all(test, not(ottla_loom)))]
#[allow(clippy::disallowed_methods, reason = "locks are tested with real threads")]
mod tests {
    use super::*;

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "already holds a lock")]
    fn taking_a_second_lock_panics_in_debug_builds() {
        let (first, second) = (Mutex::new(1), Mutex::new(2));
        let _first_guard = first.lock();
        let _second_guard = second.lock();
    }

    #[test]
    fn threads_take_turns() {
        let counter = Mutex::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let mut count = counter.lock();
                        // Another thread that is let in here would count from the same number.
                        let before = *count;
                        std::hint::spin_loop();
                        *count = before + 1;
                    }
                });
            }
        });
        assert_eq!(*counter.lock(), 80_000);
    }

    #[test]
    fn waiting_thread_sleeps_until_the_holder_is_done() {
        let mutex = Mutex::new(0);
        let mut guard = mutex.lock();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| *mutex.lock());
            // Long enough for many rounds of the waiter.
            std::thread::sleep(LOCK_SLEEP * 100);
            assert!(mutex.try_lock().is_none(), "the lock is held");
            *guard = 7;
            drop(guard);
            assert_eq!(waiter.join().unwrap(), 7);
        });
    }
}
