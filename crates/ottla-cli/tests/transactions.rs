//! Copies a topic in transactions (consume, transform, produce), while real nodes are killed and
//! paused. Java's `read_committed` consumer must see exactly the records that were reported.
//!
//! Without `TEST_TRANSACTIONS_SECONDS=180` there are two faults. `TEST_LOG=ottla=info` prints the
//! producers' events. Without a JDK and Maven the test reports that it is skipped.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use ottla::{
    ConsumerGroupMetadata, Delivery, Error, ErrorKind, OffsetAndMetadata, Producer, Record,
    Transaction,
};
use ottla_testkit::{Jars, KafkaCluster, print_line};

const PARTITIONS: i32 = 3;
const GROUP: &str = "copy";
/// The topic of the coordinators' state. With one partition, its leader is the coordinator.
const COORDINATOR_TOPIC: &str = "__transaction_state";
const ONE_COORDINATOR: &str =
    "transaction.state.log.num.partitions=1\noffsets.topic.num.partitions=1\n";
/// Records of a transaction, at most.
const BATCH_RECORDS: usize = 40;
/// How long the copier may take to read the rest of the input when all nodes run again.
const CATCH_UP_TIME: Duration = Duration::from_secs(120);

fn test_seconds() -> u64 {
    std::env::var("TEST_TRANSACTIONS_SECONDS").ok().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// A record of the topic `in`.
#[derive(Debug, Clone)]
struct InputRecord {
    partition: i32,
    offset: i64,
    value: String,
}

/// Kafka's console consumer, which reads the topic `in` while records are appended.
struct InputConsumer {
    process: Child,
    records: mpsc::Receiver<InputRecord>,
}

impl InputConsumer {
    fn start(jars: &Jars, bootstrap: &str) -> InputConsumer {
        let args = ["--bootstrap-server", bootstrap, "--topic", "in", "--from-beginning"];
        let print = ["--formatter-property", "print.partition=true"];
        let print_offset = ["--formatter-property", "print.offset=true"];
        let mut process = jars
            .tool_command(
                "org.apache.kafka.tools.consumer.ConsoleConsumer",
                &[&args[..], &print, &print_offset].concat(),
            )
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the consumer starts");
        let output = BufReader::new(process.stdout.take().expect("its output is a pipe"));
        let (sender, records) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines() {
                let line = line.expect("its output is text");
                let record = parse_record(&line).unwrap_or_else(|| panic!("not a record: {line}"));
                if sender.send(record).is_err() {
                    return;
                }
            }
        });
        InputConsumer { process, records }
    }

    /// Returns the records that have arrived, or none after a while.
    fn poll(&self) -> Vec<InputRecord> {
        let mut timeout = Duration::from_millis(200);
        let mut records = Vec::new();
        while records.len() < BATCH_RECORDS
            && let Ok(record) = self.records.recv_timeout(timeout)
        {
            records.push(record);
            timeout = Duration::ZERO;
        }
        records
    }
}

impl Drop for InputConsumer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Parses `Partition:0<tab>Offset:12<tab>VALUE`.
fn parse_record(line: &str) -> Option<InputRecord> {
    let mut fields = line.splitn(3, '\t');
    let partition = fields.next()?.strip_prefix("Partition:")?.parse().ok()?;
    let offset = fields.next()?.strip_prefix("Offset:")?.parse().ok()?;
    Some(InputRecord { partition, offset, value: fields.next()?.to_owned() })
}

/// Sends numbered records to the topic `in` until `stop` is set. Returns how many.
fn send_input(bootstrap: &str, stop: &AtomicBool) -> u64 {
    let producer = Producer::builder()
        .bootstrap_servers(bootstrap)
        .set("request.timeout.ms", "5000")
        .build()
        .expect("the producer is built");
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let partition = (count % PARTITIONS as u64) as i32;
        let value = format!("record {count}");
        producer.send(Record::to("in").partition(partition).value(&value)).expect("it is accepted");
        count += 1;
        thread::sleep(Duration::from_millis(3));
    }
    producer.flush().expect("all records complete");
    assert_eq!(producer.totals().record_error_total, 0, "records of the input failed");
    count
}

/// How an attempt to copy records in one transaction ended.
enum Attempt {
    Committed(Vec<Delivery>),
    /// The transaction was aborted: as the test wants, or because it failed.
    Aborted,
    /// The producer has failed. The coordinator knows whether the transaction was committed.
    Unknown(Vec<Delivery>),
}

#[derive(Debug, Default)]
struct AttemptCounts {
    committed: u64,
    aborted: u64,
    failed: u64,
    /// Commits whose result only the group's offsets show, and how many of them were committed.
    unknown: u64,
    unknown_committed: u64,
}

/// Copies records from `in` to `out`, each to the partition that it comes from.
struct Copier {
    jars: Jars,
    bootstrap: String,
    producer: Producer,
    /// The next offset of each partition of the input.
    next_offsets: BTreeMap<i32, i64>,
    /// The values of committed records, by partition and offset of the output.
    committed: BTreeMap<(i32, i64), String>,
    counts: AttemptCounts,
    /// All records of the input that are copied; other threads read it.
    copied: Arc<AtomicU64>,
}

impl Copier {
    fn new(jars: &Jars, bootstrap: &str) -> Copier {
        Copier {
            jars: jars.clone(),
            bootstrap: bootstrap.to_owned(),
            producer: start_producer(bootstrap),
            next_offsets: (0..PARTITIONS).map(|p| (p, 0)).collect(),
            committed: BTreeMap::new(),
            counts: AttemptCounts::default(),
            copied: Arc::default(),
        }
    }

    /// Copies records until all `total` are copied; `total` is 0 while more are sent.
    fn run(mut self, input: InputConsumer, total: &AtomicU64) -> Copier {
        let mut deadline = None;
        loop {
            let total = total.load(Ordering::Acquire);
            let copied = self.copied.load(Ordering::Relaxed);
            if total > 0 && copied == total {
                return self;
            }
            if total > 0 {
                let deadline = deadline.get_or_insert_with(|| Instant::now() + CATCH_UP_TIME);
                let (now, counts) = (Instant::now(), &self.counts);
                assert!(now < *deadline, "{copied} of {total} records are copied: {counts:?}");
            }
            let mut records = input.poll();
            // A consumer whose group was rebalanced reads records again.
            records.retain(|r| r.offset >= self.next_offsets[&r.partition]);
            if !records.is_empty() {
                self.copy(&records);
            }
        }
    }

    /// Copies the records, in as many transactions as it takes until one is committed.
    fn copy(&mut self, records: &[InputRecord]) {
        let mut next_offsets = self.next_offsets.clone();
        for record in records {
            let next = next_offsets.get_mut(&record.partition).expect("a partition");
            assert_eq!(record.offset, *next, "partition {}", record.partition);
            *next += 1;
        }
        let deliveries = loop {
            match self.try_copy(records, &next_offsets) {
                Attempt::Committed(deliveries) => break deliveries,
                Attempt::Aborted => {}
                Attempt::Unknown(deliveries) => {
                    self.counts.unknown += 1;
                    // Its init_transactions completes the transaction of the failed producer.
                    self.producer = start_producer(&self.bootstrap);
                    if committed_offsets(&self.jars, &self.bootstrap, &next_offsets) {
                        self.counts.unknown_committed += 1;
                        break deliveries;
                    }
                }
            }
        };
        for (delivery, record) in deliveries.into_iter().zip(records) {
            let metadata = delivery.wait().expect("a record of a committed transaction");
            let position = (metadata.partition(), metadata.offset().expect("acks=all"));
            assert_eq!(position.0, record.partition);
            let previous = self.committed.insert(position, record.value.clone());
            assert_eq!(previous, None, "two committed records at {position:?}");
        }
        self.next_offsets = next_offsets;
        self.counts.committed += 1;
        self.copied.fetch_add(records.len() as u64, Ordering::Relaxed);
    }

    fn try_copy(&mut self, records: &[InputRecord], next: &BTreeMap<i32, i64>) -> Attempt {
        let mut deliveries = Vec::new();
        let begun = repeat_after_timeout(|| self.producer.begin_transaction());
        let result = match begun {
            Ok(mut transaction) => {
                self.send_and_commit(&mut transaction, records, next, &mut deliveries)
            }
            Err(e) => Err(e),
        };
        match result {
            Ok(true) => Attempt::Committed(deliveries),
            Ok(false) => {
                self.counts.aborted += 1;
                Attempt::Aborted
            }
            Err(e) if e.is_fatal() => {
                print_line(&format!("the producer has failed: {e}"));
                Attempt::Unknown(deliveries)
            }
            // The drop of the transaction has aborted it, and the next one waits for that.
            Err(_) => {
                self.counts.failed += 1;
                Attempt::Aborted
            }
        }
    }

    /// Returns whether the transaction was committed. Every fifth attempt aborts it.
    fn send_and_commit(
        &self,
        transaction: &mut Transaction,
        records: &[InputRecord],
        next: &BTreeMap<i32, i64>,
        deliveries: &mut Vec<Delivery>,
    ) -> Result<bool, Error> {
        for r in records {
            let record = Record::to("out").partition(r.partition).value(&r.value);
            deliveries.push(self.producer.send(record)?);
        }
        let offsets: Vec<OffsetAndMetadata> =
            next.iter().map(|(p, next)| OffsetAndMetadata::new("in", *p, *next)).collect();
        transaction.send_offsets(&offsets, &ConsumerGroupMetadata::new(GROUP))?;
        let attempts = self.counts.committed + self.counts.aborted + self.counts.failed;
        if attempts % 5 == 4 {
            // An abort drops what is not sent yet, so this waits for the brokers.
            self.producer.flush()?;
            repeat_after_timeout(|| transaction.abort())?;
            return Ok(false);
        }
        repeat_after_timeout(|| transaction.commit())?;
        Ok(true)
    }
}

/// Repeats a call that timed out: it continues in the background.
fn repeat_after_timeout<T>(mut call: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let deadline = Instant::now() + CATCH_UP_TIME;
    loop {
        match call() {
            Err(e) if e.kind() == ErrorKind::TransactionTimeout => {
                assert!(Instant::now() < deadline, "no progress: {e}");
            }
            result => return result,
        }
    }
}

fn start_producer(bootstrap: &str) -> Producer {
    let producer = Producer::builder()
        .bootstrap_servers(bootstrap)
        .transactional_id("copy")
        .set("request.timeout.ms", "5000")
        .set("max.block.ms", "10000")
        .build()
        .expect("the producer is built");
    repeat_after_timeout(|| producer.init_transactions()).expect("the producer id");
    producer
}

/// Returns the group's committed offsets, as Kafka's tool prints them.
fn group_offsets(jars: &Jars, bootstrap: &str) -> BTreeMap<i32, i64> {
    let args = ["--bootstrap-server", bootstrap, "--describe", "--group", GROUP];
    let class = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
    let deadline = Instant::now() + CATCH_UP_TIME;
    loop {
        // A coordinator that has moved is loading its state for a while.
        let out = jars.try_run_tool(class, &[&args[..], &["--timeout", "20000"]].concat());
        if out.status.success() {
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            let rows = text.lines().filter(|l| l.starts_with(GROUP));
            return rows.filter_map(parse_group_row).collect();
        }
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(Instant::now() < deadline, "{text}");
    }
}

/// Parses `GROUP TOPIC PARTITION OFFSET …`. A partition without an offset has none.
fn parse_group_row(row: &str) -> Option<(i32, i64)> {
    let fields: Vec<&str> = row.split_whitespace().collect();
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
}

/// Returns whether the transaction that stores these offsets was committed.
fn committed_offsets(jars: &Jars, bootstrap: &str, next: &BTreeMap<i32, i64>) -> bool {
    group_offsets(jars, bootstrap) == *next
}

/// Kills and pauses the coordinator and a leader, one after the other, at least two of the four.
/// Returns the faults.
fn inject_faults(cluster: &mut KafkaCluster, deadline: Instant) -> Vec<String> {
    let sleep = |s| thread::sleep(Duration::from_secs(s));
    let targets =
        [(COORDINATOR_TOPIC, true), ("out", false), (COORDINATOR_TOPIC, false), ("out", true)];
    let mut faults = Vec::new();
    for (topic, is_kill) in targets.into_iter().cycle() {
        if Instant::now() >= deadline && faults.len() >= 2 {
            break;
        }
        assert!(Instant::now() < deadline + CATCH_UP_TIME, "no leader of {topic}-0: {faults:?}");
        let Some(node) = cluster.leader(topic, 0) else {
            sleep(1);
            continue;
        };
        let name = if is_kill { "SIGKILL" } else { "SIGSTOP" };
        faults.push(format!("{name} of {node}, the leader of {topic}-0"));
        if is_kill {
            cluster.kill_node(node);
            sleep(2);
            cluster.start_node(node);
            sleep(4);
        } else {
            cluster.pause_node(node);
            // Longer than the request timeout.
            sleep(6);
            cluster.resume_node(node);
            sleep(2);
        }
    }
    faults
}

/// Ends the threads also when the test panics: the scope waits for them.
struct StopGuard<'a> {
    stop: &'a AtomicBool,
    total: &'a AtomicU64,
}

impl Drop for StopGuard<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.stop.store(true, Ordering::Relaxed);
            // More than is sent: the copier gives up.
            self.total.store(u64::MAX, Ordering::Release);
        }
    }
}

#[test]
fn each_record_is_copied_once_while_coordinator_and_leader_are_killed_and_paused() {
    let Some(jars) = Jars::find_or_fetch() else { return };
    if let Ok(filter) = std::env::var("TEST_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).init();
    }
    let jars = jars.with_version("4.4.0");
    let mut cluster = KafkaCluster::start(&jars, ONE_COORDINATOR);
    for topic in ["in", "out"] {
        cluster.create_topic(topic, PARTITIONS as u32, &["min.insync.replicas=2"]);
    }
    let bootstrap = cluster.bootstrap.clone();
    let (stop, total) = (AtomicBool::new(false), AtomicU64::new(0));
    let copier = Copier::new(&jars, &bootstrap);
    let copied = copier.copied.clone();
    let input = InputConsumer::start(&jars, &bootstrap);
    let (copier, faults) = thread::scope(|scope| {
        let sender = scope.spawn(|| send_input(&bootstrap, &stop));
        let copier = scope.spawn(|| copier.run(input, &total));
        let _guard = StopGuard { stop: &stop, total: &total };
        // The consumer takes a while to start.
        while copied.load(Ordering::Relaxed) == 0 && !copier.is_finished() {
            thread::sleep(Duration::from_millis(100));
        }
        let deadline = Instant::now() + Duration::from_secs(test_seconds());
        let faults = inject_faults(&mut cluster, deadline);
        stop.store(true, Ordering::Relaxed);
        total.store(sender.join().expect("the input is sent"), Ordering::Release);
        (copier.join().expect("the input is copied"), faults)
    });
    check(&cluster, &copier, total.into_inner());
    faults.iter().for_each(|f| print_line(f));
}

/// Checks that consumers see what the copier has reported, and the whole input once.
fn check(cluster: &KafkaCluster, copier: &Copier, total: u64) {
    let counts = &copier.counts;
    print_line(&format!("{total} records: {counts:?}"));
    let log = cluster.read_committed("out");
    let text =
        |value: &Option<Vec<u8>>| String::from_utf8(value.clone().expect("a value")).unwrap();
    let seen: BTreeMap<(i32, i64), String> =
        log.iter().map(|r| ((r.partition, r.offset), text(&r.value))).collect();
    assert_eq!(seen.len(), log.len());
    assert!(seen == copier.committed, "a consumer sees {} records", seen.len());
    // The input in order, partition by partition.
    let mut numbers: BTreeMap<i32, Vec<u64>> = BTreeMap::new();
    for ((partition, _), value) in &seen {
        let number = value.strip_prefix("record ").and_then(|n| n.parse().ok()).expect("a number");
        numbers.entry(*partition).or_default().push(number);
    }
    for (partition, numbers) in numbers {
        let expected = (partition as u64..total).step_by(PARTITIONS as usize);
        assert!(numbers.into_iter().eq(expected), "partition {partition}");
    }
    assert_eq!(seen.len() as u64, total);
    let all = cluster.read_topic("out").len();
    assert!(counts.aborted > 0 && all > log.len(), "{all} records, of which none is aborted");
    assert_eq!(group_offsets(&copier.jars, &copier.bootstrap), copier.next_offsets);
}
