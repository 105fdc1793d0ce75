//! Virtual callers: tasks that run when they are woken, and sleep on the virtual clock.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use ottla::sim::{SimMachine, Tick};

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

/// Sleepers, by the time they are due.
#[derive(Clone, Default)]
pub(crate) struct Timers(Rc<RefCell<BTreeMap<(Tick, u64), Waker>>>);

/// Runs tasks.
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

    /// Runs whoever is woken, until nobody is; true if anybody ran.
    pub(crate) fn run(&mut self, now: Tick) -> bool {
        self.timers.wake_expired(now);
        let mut ran = false;
        loop {
            let mut progress = false;
            for slot in &mut self.tasks {
                let Some(task) = slot else { continue };
                if !task.woken.0.swap(false, Ordering::SeqCst) {
                    continue;
                }
                progress = true;
                let waker = Waker::from(task.woken.clone());
                if task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                    *slot = None;
                }
            }
            if !progress {
                return ran;
            }
            ran = true;
        }
    }

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
        self.0.borrow().first_key_value().map(|(k, _)| k.0)
    }

    /// Sleeps until then.
    pub(crate) fn sleep_until(&self, machine: &SimMachine, at: Tick) -> Sleep {
        Sleep { timers: self.clone(), machine: machine.clone(), deadline: at }
    }
}

/// A virtual sleep.
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
        let n = timers.len() as u64 + self.machine.random() % 1_000_000_007;
        timers.insert((self.deadline, n), cx.waker().clone());
        Poll::Pending
    }
}
