//! The crate's mutex and the atomics that are shared between threads.
//!
//! Debug builds check each lock: a thread never holds two (so there is no lock order to get wrong),
//! and holds none while it runs foreign code such as wakers, callbacks and interceptors. One lock
//! is not of this type: `TokenManager::fetch_lock` is held while the token provider runs, on a
//! worker thread. Callers and the sender never wait for it.
//!
//! With `--cfg ottla_loom`, the mutex and the atomics are loom's: `accumulator::loom_tests` then
//! runs every interleaving of its threads with at most three preemptions.

#[cfg(not(ottla_loom))]
use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

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
type InnerMutex<T> = parking_lot::Mutex<T>;
#[cfg(ottla_loom)]
type InnerGuard<'a, T> = loom::sync::MutexGuard<'a, T>;
#[cfg(not(ottla_loom))]
type InnerGuard<'a, T> = parking_lot::MutexGuard<'a, T>;

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
        MutexGuard(self.0.lock())
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
}
