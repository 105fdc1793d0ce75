//! Ottla without async: each thread waits for the delivery of its record.

use std::time::Duration;

use awaited::{Args, measure_threads};

fn main() {
    let args = Args::parse();
    let producer = ottla::Producer::builder()
        .bootstrap_servers(&args.bootstrap)
        .set("linger.ms", args.linger_ms.to_string())
        .build()
        .expect("build the producer");
    producer.partitions_for(&args.topic).expect("find the topic");
    let topic = producer.topic(&args.topic).expect("name the topic");
    let value = vec![b'x'; args.size];
    measure_threads("ottla-blocking", env!("CARGO_PKG_VERSION"), &args, |_| {
        topic.send(topic.record().value(&value)).and_then(|delivery| delivery.wait()).is_ok()
    });
    producer.close(Duration::from_secs(10)).expect("close the producer");
}
