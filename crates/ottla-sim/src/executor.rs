//! A single-threaded executor for the virtual callers, with timers on the virtual clock.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use ottla::sim::{SimMachine, Tick};

/// A waker that sets a flag.
struct WakeFlag(AtomicBool);

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct Task {
    future: Pin<Box<dyn Future<Output = ()>>>,
    woken: Arc<WakeFlag>,
}

/// Sleeping tasks, by deadline and a random number that distinguishes equal deadlines.
#[derive(Clone, Default)]
pub(crate) struct Timers(Rc<RefCell<BTreeMap<(Tick, u64), Waker>>>);

/// How a caller drives the future of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AwaitMode {
    /// Await it to its end.
    ToEnd,
    /// Poll it once, then drop it.
    PollOnce,
}

/// Returns the future's output, or `None` if `mode` dropped it while it was pending.
pub(crate) async fn await_or_drop<F: Future>(future: F, mode: AwaitMode) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    if mode == AwaitMode::ToEnd {
        return Some(future.await);
    }
    std::future::poll_fn(|cx| {
        Poll::Ready(match future.as_mut().poll(cx) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}

/// Runs tasks; a task that has ended is `None`.
pub(crate) struct Executor {
    tasks: Vec<Option<Task>>,
    pub(crate) timers: Timers,
}

impl Executor {
    pub(crate) fn new() -> Executor {
        Executor { tasks: Vec::new(), timers: Timers::default() }
    }

    pub(crate) fn spawn(&mut self, future: impl Future<Output = ()> + 'static) {
        let woken = Arc::new(WakeFlag(AtomicBool::new(true)));
        self.tasks.push(Some(Task { future: Box::pin(future), woken }));
    }

    /// Polls woken tasks until no task is woken. Returns whether it polled any.
    pub(crate) fn run(&mut self, now: Tick) -> bool {
        self.timers.wake_expired(now);
        let mut polled_any = false;
        loop {
            let mut polled = false;
            for entry in &mut self.tasks {
                let Some(task) = entry else { continue };
                if !task.woken.0.swap(false, Ordering::SeqCst) {
                    continue;
                }
                polled = true;
                let waker = Waker::from(task.woken.clone());
                if task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                    *entry = None;
                }
            }
            if !polled {
                return polled_any;
            }
            polled_any = true;
        }
    }

    /// Returns whether every task has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.tasks.iter().all(Option::is_none)
    }
}

impl Timers {
    fn wake_expired(&self, now: Tick) {
        loop {
            let mut timers = self.0.borrow_mut();
            match timers.first_entry() {
                Some(first) if first.key().0 <= now => {
                    let waker = first.remove();
                    drop(timers);
                    waker.wake();
                }
                _ => return,
            }
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Tick> {
        self.0.borrow().first_key_value().map(|((deadline, _), _)| *deadline)
    }

    /// Returns a future that is ready at `deadline`.
    pub(crate) fn sleep_until(&self, machine: &SimMachine, deadline: Tick) -> Sleep {
        Sleep { timers: self.clone(), machine: machine.clone(), deadline }
    }
}

/// A sleep on the virtual clock.
pub(crate) struct Sleep {
    timers: Timers,
    machine: SimMachine,
    deadline: Tick,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.machine.now() >= self.deadline {
            return Poll::Ready(());
        }
        let mut timers = self.timers.0.borrow_mut();
        // This draw comes from the machine's generator: without it, every seed would change.
        let tie_breaker = timers.len() as u64 + self.machine.random() % 1_000_000_007;
        timers.insert((self.deadline, tie_breaker), cx.waker().clone());
        Poll::Pending
    }
}
