//! Async sends without any runtime: many deliveries awaited at once on one thread:
//! `cargo run --example concurrent -- localhost:9092 orders`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use ottla::{Producer, Record};

struct ThreadWaker(std::thread::Thread);

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor there is; in a program, your runtime's.
#[allow(clippy::disallowed_methods)]
fn block_on<T>(mut future: Pin<Box<dyn Future<Output = T>>>) -> T {
    let waker = Waker::from(Arc::new(ThreadWaker(std::thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(out) => return out,
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
    producer.close_async(std::time::Duration::from_secs(10)).await
}

fn main() -> Result<(), ottla::Error> {
    let mut args = std::env::args().skip(1);
    let servers = args.next().unwrap_or_else(|| "localhost:9092".into());
    let topic = args.next().unwrap_or_else(|| "orders".into());
    block_on(Box::pin(run(servers, topic)))
}
