//! A cache whose entries are looked up once, however many callers ask at the same time.
//!
//! Threads wait for the one that looks up; futures have the lookup run on a thread of its own.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::{Condvar, Mutex};

use crate::error::{SchemaError, SchemaErrorKind};

/// Results by key. Errors are not kept: the next caller looks up again.
pub(crate) struct Lookups<K, V> {
    entries: Mutex<BTreeMap<K, Entry<V>>>,
}

enum Entry<V> {
    Known(V),
    Pending(Arc<Pending<V>>),
}

/// A lookup in progress.
struct Pending<V> {
    state: Mutex<PendingState<V>>,
    completed: Condvar,
}

struct PendingState<V> {
    result: Option<Result<V, SchemaError>>,
    wakers: Vec<Waker>,
}

/// What a caller finds.
enum Found<V> {
    Known(V),
    /// Another caller looks up.
    Pending(Arc<Pending<V>>),
    /// This caller has to look up.
    Missing(Arc<Pending<V>>),
}

impl<K, V> Default for Lookups<K, V> {
    fn default() -> Self {
        Lookups { entries: Mutex::new(BTreeMap::new()) }
    }
}

impl<K: Ord + Clone, V: Clone> Lookups<K, V> {
    /// Returns the entry if it is known.
    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        match self.entries.lock().get(key)? {
            Entry::Known(value) => Some(value.clone()),
            Entry::Pending(_) => None,
        }
    }

    /// Forgets an entry. A lookup in progress continues.
    pub(crate) fn remove_known(&self, key: &K) {
        let mut entries = self.entries.lock();
        if matches!(entries.get(key), Some(Entry::Known(_))) {
            entries.remove(key);
        }
    }

    /// Returns the entry, which `look_up` provides on this thread if it is not known. A second
    /// caller waits for the first one.
    pub(crate) fn get_or_look_up(
        &self,
        key: &K,
        look_up: impl FnOnce() -> Result<V, SchemaError>,
    ) -> Result<V, SchemaError> {
        match self.find(key) {
            Found::Known(value) => Ok(value),
            Found::Pending(pending) => pending.wait(),
            Found::Missing(pending) => self.run(key, pending, look_up),
        }
    }

    fn find(&self, key: &K) -> Found<V> {
        let mut entries = self.entries.lock();
        match entries.get(key) {
            Some(Entry::Known(value)) => Found::Known(value.clone()),
            Some(Entry::Pending(pending)) => Found::Pending(pending.clone()),
            None => {
                let pending = Arc::new(Pending::new());
                entries.insert(key.clone(), Entry::Pending(pending.clone()));
                Found::Missing(pending)
            }
        }
    }

    fn run(
        &self,
        key: &K,
        pending: Arc<Pending<V>>,
        look_up: impl FnOnce() -> Result<V, SchemaError>,
    ) -> Result<V, SchemaError> {
        let mut completion = Completion { lookups: self, key, pending, result: None };
        let result = look_up();
        completion.result = Some(result.clone());
        result
    }
}

impl<K, V> Lookups<K, V>
where
    K: Ord + Clone + Send + 'static,
    V: Clone + Send + 'static,
{
    /// Like [`get_or_look_up`](Lookups::get_or_look_up), without blocking the caller: a thread of
    /// its own looks up.
    pub(crate) async fn get_or_look_up_async(
        self: &Arc<Self>,
        key: &K,
        look_up: impl FnOnce() -> Result<V, SchemaError> + Send + 'static,
    ) -> Result<V, SchemaError> {
        let pending = match self.find(key) {
            Found::Known(value) => return Ok(value),
            Found::Pending(pending) => pending,
            Found::Missing(pending) => {
                let (lookups, key, started) = (self.clone(), key.clone(), pending.clone());
                // If no thread can start, dropping the closure completes the lookup.
                let completion = OwnedCompletion { lookups, key, pending: started, result: None };
                #[allow(clippy::disallowed_methods)] // A thread for each lookup that is not cached.
                let spawned =
                    std::thread::Builder::new().name("ottla-schema".to_owned()).spawn(move || {
                        // The whole of it moves to the thread, so that its drop runs there.
                        let mut completion = completion;
                        completion.result = Some(look_up());
                    });
                drop(spawned);
                pending
            }
        };
        PendingFuture(pending).await
    }
}

/// Completes a lookup when it is dropped, also after a panic of the lookup.
struct Completion<'a, K: Ord, V: Clone> {
    lookups: &'a Lookups<K, V>,
    key: &'a K,
    pending: Arc<Pending<V>>,
    result: Option<Result<V, SchemaError>>,
}

impl<K: Ord, V: Clone> Drop for Completion<'_, K, V> {
    fn drop(&mut self) {
        let result = self.result.take().unwrap_or_else(|| Err(abandoned()));
        {
            let mut entries = self.lookups.entries.lock();
            match (&result, entries.get_mut(self.key)) {
                (Ok(value), Some(entry)) => *entry = Entry::Known(value.clone()),
                _ => drop(entries.remove(self.key)),
            }
        }
        self.pending.complete(result);
    }
}

/// A [`Completion`] that owns what it needs, for another thread.
struct OwnedCompletion<K: Ord, V: Clone> {
    lookups: Arc<Lookups<K, V>>,
    key: K,
    pending: Arc<Pending<V>>,
    result: Option<Result<V, SchemaError>>,
}

impl<K: Ord, V: Clone> Drop for OwnedCompletion<K, V> {
    fn drop(&mut self) {
        let (lookups, key) = (&self.lookups, &self.key);
        let pending = self.pending.clone();
        drop(Completion { lookups, key, pending, result: self.result.take() });
    }
}

fn abandoned() -> SchemaError {
    SchemaError::new(
        SchemaErrorKind::Unavailable,
        "the lookup ended without a result: its thread could not start, or it panicked",
    )
}

impl<V: Clone> Pending<V> {
    fn new() -> Pending<V> {
        let state = PendingState { result: None, wakers: Vec::new() };
        Pending { state: Mutex::new(state), completed: Condvar::new() }
    }

    fn complete(&self, result: Result<V, SchemaError>) {
        let wakers = {
            let mut state = self.state.lock();
            state.result = Some(result);
            std::mem::take(&mut state.wakers)
        };
        self.completed.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }

    fn wait(&self) -> Result<V, SchemaError> {
        let mut state = self.state.lock();
        loop {
            if let Some(result) = &state.result {
                return result.clone();
            }
            self.completed.wait(&mut state);
        }
    }
}

struct PendingFuture<V>(Arc<Pending<V>>);

impl<V: Clone> Future for PendingFuture<V> {
    type Output = Result<V, SchemaError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.state.lock();
        if let Some(result) = &state.result {
            return Poll::Ready(result.clone());
        }
        if !state.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn concurrent_callers_look_up_once() {
        let lookups = Lookups::<u8, usize>::default();
        let (count, barrier) = (AtomicUsize::new(0), Barrier::new(8));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    barrier.wait();
                    let look_up = || Ok(count.fetch_add(1, Ordering::SeqCst));
                    assert_eq!(lookups.get_or_look_up(&1, look_up).unwrap(), 0);
                });
            }
        });
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn errors_are_not_kept() {
        let lookups = Lookups::<u8, u8>::default();
        assert!(lookups.get_or_look_up(&1, || Err(SchemaError::value("no"))).is_err());
        assert_eq!(lookups.get_or_look_up(&1, || Ok(7)).unwrap(), 7);
        assert_eq!(lookups.get(&1), Some(7));
        lookups.remove_known(&1);
        assert_eq!(lookups.get(&1), None);
    }

    #[test]
    fn panic_of_a_lookup_is_an_error_for_those_who_wait() {
        let lookups = Arc::new(Lookups::<u8, u8>::default());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let e = runtime.block_on(lookups.get_or_look_up_async(&1, || panic!("a bug"))).unwrap_err();
        assert!(e.to_string().contains("without a result"), "{e}");
        let value = runtime.block_on(lookups.get_or_look_up_async(&1, || Ok(3))).unwrap();
        assert_eq!((value, lookups.get(&1)), (3, Some(3)));
    }
}
