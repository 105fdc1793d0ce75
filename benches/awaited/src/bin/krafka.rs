//! krafka: each task awaits `send`.

use std::time::Duration;

use awaited::{Args, measure_tasks, runtime};
use krafka::producer::Acks;
use krafka::{Kafka, Record};

fn main() {
    let args = Args::parse();
    let runtime = runtime();
    let producer = runtime.block_on(async {
        let kafka = Kafka::builder(args.bootstrap.as_str()).connect().await.expect("connect");
        let producer = kafka
            .producer()
            .acks(Acks::All)
            .idempotent(true)
            .linger(Duration::from_millis(args.linger_ms))
            .build()
            .await
            .expect("build the producer");
        producer.partitions_for(&args.topic).await.expect("find the topic");
        std::sync::Arc::new(producer)
    });
    let value = bytes::Bytes::from(vec![b'x'; args.size]);
    let (topic, sender) = (args.topic.clone(), producer.clone());
    measure_tasks("krafka", "0.28.1", &args, &runtime, move || {
        let (producer, topic, value) = (sender.clone(), topic.clone(), value.clone());
        async move { producer.send(Record::new(topic.as_str(), value)).await.is_ok() }
    });
    runtime.block_on(producer.close()).expect("close the producer");
}
