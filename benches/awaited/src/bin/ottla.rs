//! Ottla in async code: each task awaits the delivery of its record.

use std::time::Duration;

use awaited::{Args, measure_tasks, runtime};

fn main() {
    let args = Args::parse();
    let producer = ottla::Producer::builder()
        .bootstrap_servers(&args.bootstrap)
        .set("linger.ms", args.linger_ms.to_string())
        .build()
        .expect("build the producer");
    producer.partitions_for(&args.topic).expect("find the topic");
    let topic = producer.topic(&args.topic).expect("name the topic");
    let (runtime, value) = (runtime(), bytes::Bytes::from(vec![b'x'; args.size]));
    measure_tasks("ottla", env!("CARGO_PKG_VERSION"), &args, &runtime, move || {
        let (topic, value) = (topic.clone(), value.clone());
        async move {
            match topic.send_async(topic.record().value(&value)).await {
                Ok(delivery) => delivery.await.is_ok(),
                Err(_) => false,
            }
        }
    });
    producer.close(Duration::from_secs(10)).expect("close the producer");
}
