//! The fixtures of the tests over real sockets, against the embedded broker.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use ottla::{Producer, ProducerBuilder};
use ottla_broker::EmbeddedBroker;

/// How long a test waits for a result before it fails.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// Starts a broker with the topic `t` alone.
pub(crate) fn start_broker(partitions: i32) -> EmbeddedBroker {
    EmbeddedBroker::builder().topic("t", partitions).auto_create_topics(false).start().unwrap()
}

pub(crate) fn producer_builder(broker: &EmbeddedBroker) -> ProducerBuilder {
    Producer::builder()
        .bootstrap_servers(broker.bootstrap_servers())
        .max_block(Duration::from_secs(5))
}

/// A waker that unparks a thread.
struct ThreadWaker(Thread);

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let waker = Waker::from(Arc::new(ThreadWaker(thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(out) => return out,
            Poll::Pending => thread::park(),
        }
    }
}
