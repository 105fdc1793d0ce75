//! The one door to locks and to the atomics that threads meet by: a mutex that debug builds watch, since no two
//! are ever held together (so there is no order to get wrong) and none is held while foreign code runs. Built
//! with `--cfg ottla_loom`, both are loom's, which tries every order in which threads may go
//! (`accumulator::loom_tests`).

#[cfg(not(ottla_loom))]
use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

#[cfg(ottla_loom)]
pub(crate) use loom::sync::atomic;
#[cfg(not(ottla_loom))]
pub(crate) use std::sync::atomic;

#[cfg(not(ottla_loom))]
thread_local! {
    static HELD_LOCKS: Cell<u32> = const { Cell::new(0) };
}

/// A number of this thread's own, small and in the order in which threads first ask.
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

/// A lock for a few instructions.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(InnerMutex<T>);

/// Holds a [`Mutex`].
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

    /// The lock if nobody holds it.
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

#[inline]
fn register_lock() {
    #[cfg(all(debug_assertions, not(ottla_loom)))]
    HELD_LOCKS.with(|held| {
        debug_assert_eq!(held.get(), 0, "a second lock while one is held");
        held.set(held.get() + 1);
    });
}

/// Called where foreign code is about to run: wakers, callbacks, handlers, dropped buffers.
#[inline]
pub(crate) fn assert_unlocked() {
    #[cfg(all(debug_assertions, not(ottla_loom)))]
    HELD_LOCKS.with(|held| debug_assert_eq!(held.get(), 0, "foreign code under a lock"));
}

/// Wakes everyone. A waker is foreign code: one that panics takes nobody along.
pub(crate) fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    assert_unlocked();
    for waker in wakers {
        if catch_unwind(AssertUnwindSafe(|| waker.wake())).is_err() {
            tracing::error!("a waker panicked");
        }
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
    #[should_panic(expected = "a second lock")]
    fn two_locks_at_once_are_a_bug_in_debug_builds() {
        let (a, b) = (Mutex::new(1), Mutex::new(2));
        let _a = a.lock();
        let _b = b.lock();
    }
}
