//! The one door to locks: a mutex that debug builds watch, since no two are ever held together (so there is
//! no order to get wrong) and none is held while foreign code runs.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

thread_local! {
    static HELD: Cell<u32> = const { Cell::new(0) };
}

/// A lock for a few instructions.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(parking_lot::Mutex<T>);

/// Holds a [`Mutex`].
pub(crate) struct Guard<'a, T>(parking_lot::MutexGuard<'a, T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Mutex<T> {
        Mutex(parking_lot::Mutex::new(value))
    }

    #[inline]
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        entered();
        Guard(self.0.lock())
    }
}

#[inline]
fn entered() {
    if cfg!(debug_assertions) {
        HELD.with(|held| {
            debug_assert_eq!(held.get(), 0, "a second lock while one is held");
            held.set(held.get() + 1);
        });
    }
}

/// Called where foreign code is about to run: wakers, callbacks, handlers, dropped buffers.
#[inline]
pub(crate) fn assert_unlocked() {
    if cfg!(debug_assertions) {
        HELD.with(|held| debug_assert_eq!(held.get(), 0, "foreign code under a lock"));
    }
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

impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if cfg!(debug_assertions) {
            HELD.with(|held| held.set(held.get().saturating_sub(1)));
        }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

#[cfg(test)]
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
