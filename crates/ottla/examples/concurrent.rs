//! Sends records from async code without a runtime: one thread awaits many deliveries at once.
//!
//! Run it with `cargo run --example concurrent -- localhost:9092 orders`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use ottla::{Producer, Record};

/// Unparks the thread that runs [`block_on`].
struct ThreadWaker {
    thread: std::thread::Thread,
}

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.thread.unpark();
    }
}

/// Runs a future on this thread. A real program uses its runtime instead.
#[allow(clippy::disallowed_methods)]
fn block_on<T>(mut future: Pin<Box<dyn Future<Output = T>>>) -> T {
    let waker = Waker::from(Arc::new(ThreadWaker { thread: std::thread::current() }));
    let mut cx = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

async fn run(servers: String, topic: String) -> Result<(), ottla::Error> {
    let producer = Producer::builder().bootstrap_servers(&servers).build()?;
    let mut deliveries = Vec::new();
    for i in 0..100 {
        let value = format!("order {i}");
        deliveries.push(producer.send_async(Record::to(&topic).value(&value)).await?);
    }
    for delivery in deliveries {
        println!("at {:?}", delivery.await?.offset());
    }
    producer.close_async(Duration::from_secs(10)).await.map(drop)
}

fn main() -> Result<(), ottla::Error> {
    let mut args = std::env::args().skip(1);
    let servers = args.next().unwrap_or_else(|| "localhost:9092".into());
    let topic = args.next().unwrap_or_else(|| "orders".into());
    block_on(Box::pin(run(servers, topic)))
}
