//! Three real Kafka nodes under steady load from producers of every kind at once, while each node in turn is killed,
//! stopped and started, and leaders are moved by hand: what each setting promises holds. `TEST_CHAOS_SECONDS=300` for
//! the long run, `TEST_LOG=ottla=info` for what the producers say. Skipped, loudly, without a JDK and Maven.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ottla::{Producer, Record, RecordStatus};
use ottla_testkit::{ConsumerRecord, Jars, KafkaCluster, print_line};

const PARTITIONS: u32 = 3;

fn test_seconds() -> u64 {
    std::env::var("TEST_CHAOS_SECONDS").ok().and_then(|n| n.parse().ok()).unwrap_or(50)
}

/// A kind of producer, and what is promised to it.
#[derive(Debug, Clone, Copy)]
struct ProducerProfile {
    /// Its topic, too.
    name: &'static str,
    acks: &'static str,
    idempotent: bool,
    tls: bool,
    /// What is acknowledged is in the log, whatever node was lost.
    is_durable: bool,
}

const PROFILES: [ProducerProfile; 5] = [
    ProducerProfile {
        name: "idempotent",
        acks: "all",
        idempotent: true,
        tls: false,
        is_durable: true,
    },
    ProducerProfile {
        name: "idempotent-tls",
        acks: "all",
        idempotent: true,
        tls: true,
        is_durable: true,
    },
    ProducerProfile { name: "all", acks: "all", idempotent: false, tls: false, is_durable: true },
    ProducerProfile { name: "leader", acks: "1", idempotent: false, tls: true, is_durable: false },
    ProducerProfile { name: "none", acks: "0", idempotent: false, tls: false, is_durable: false },
];

/// How a record ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RecordOutcome {
    /// At this offset, where it was told.
    Acknowledged(Option<i64>),
    NotPersisted,
    PossiblyPersisted,
}

/// Where it was to go, how it ended, and when.
type RecordOutcomes = Arc<Mutex<HashMap<u64, (i32, RecordOutcome, Instant)>>>;

fn build_producer(
    kind: &ProducerProfile,
    cluster: &KafkaCluster,
    ends: &RecordOutcomes,
) -> Producer {
    let heard = ends.clone();
    let ca = cluster.dir().join("ca.pem").display().to_string();
    let (bootstrap, protocol) = match kind.tls {
        true => (&cluster.ssl_bootstrap, "SSL"),
        false => (&cluster.bootstrap, "PLAINTEXT"),
    };
    Producer::builder()
        .bootstrap_servers(bootstrap)
        .set("security.protocol", protocol)
        .set("ssl.truststore.location", &ca)
        .set("acks", kind.acks)
        .set("enable.idempotence", &kind.idempotent.to_string())
        .set("linger.ms", "5")
        .set("request.timeout.ms", "5000")
        .set("delivery.timeout.ms", "60000")
        .set("buffer.memory", "8000000")
        .delivery_handler(move |report| {
            let (now, mut heard) = (Instant::now(), heard.lock().expect("ends"));
            for (i, token) in report.tokens.iter().enumerate() {
                let end = match &report.result {
                    Ok(base) => RecordOutcome::Acknowledged(base.map(|b| b + i as i64)),
                    Err(e) if e.record_status() == RecordStatus::NotPersisted => {
                        RecordOutcome::NotPersisted
                    }
                    Err(_) => RecordOutcome::PossiblyPersisted,
                };
                let old = heard.insert(*token, (report.partition, end, now));
                assert!(old.is_none(), "record {token} ended twice");
            }
        })
        .build()
        .expect("a producer")
}

/// Sends until told to stop; when each accepted record was sent, and how many were refused.
fn send_until_stopped(
    kind: &ProducerProfile,
    producer: &Producer,
    stop: &AtomicBool,
) -> (Vec<Instant>, u64) {
    let (mut sent, mut refused) = (Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        let token = sent.len() as u64;
        let value = format!("{token}/{:>80}", token % 977);
        let partition = (token % u64::from(PARTITIONS)) as i32;
        let at = Instant::now();
        match producer.send(Record::to(kind.name).partition(partition).value(&value).token(token)) {
            Ok(_) => sent.push(at),
            Err(_) => refused += 1,
        }
        if token.is_multiple_of(8) {
            thread::sleep(Duration::from_millis(8));
        }
    }
    (sent, refused)
}

/// What happens to the cluster, until the time is over: to each node in turn a kill and a stop of twenty seconds (in a
/// short run, of six), and leaders moved in between.
fn inject_faults(cluster: &mut KafkaCluster, until: Instant) -> Vec<(String, Instant)> {
    let long = test_seconds() >= 200;
    let (frozen, pause) = if long { (20, 5) } else { (6, 2) };
    let (mut faults, mut turn) = (Vec::new(), 0);
    let rest = |s| thread::sleep(Duration::from_secs(s));
    while Instant::now() < until {
        let node = (turn % 3 + 1) as usize;
        faults.push((format!("SIGKILL of {node}"), Instant::now()));
        cluster.kill_node(node);
        rest(pause);
        cluster.start_node(node);
        rest(pause + 4);
        for kind in PROFILES.iter().take(2) {
            let at = Instant::now();
            if cluster.move_leaders(kind.name, PARTITIONS, turn) {
                faults.push((format!("leaders of {} moved", kind.name), at));
            }
        }
        if Instant::now() >= until {
            break;
        }
        let node = ((turn + 1) % 3 + 1) as usize;
        faults.push((format!("SIGSTOP of {node} for {frozen} s"), Instant::now()));
        cluster.set_node_paused(node, true);
        rest(frozen);
        cluster.set_node_paused(node, false);
        rest(pause);
        turn += 1;
    }
    faults
}

#[test]
fn what_each_setting_promises_holds_whatever_happens_to_nodes() {
    let Some(jars) = Jars::find_or_fetch() else { return };
    if let Ok(filter) = std::env::var("TEST_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).init();
    }
    let mut cluster = KafkaCluster::start(&jars, "");
    let begun: Vec<(ProducerProfile, RecordOutcomes, Producer)> = (PROFILES.iter())
        .map(|kind| {
            cluster.create_topic(kind.name, PARTITIONS, &["min.insync.replicas=2"]);
            let ends = RecordOutcomes::default();
            let producer = build_producer(kind, &cluster, &ends);
            (*kind, ends, producer)
        })
        .collect();
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (begun.iter())
        .map(|(kind, _, producer)| {
            let (kind, producer, stop) = (*kind, producer.clone(), stop.clone());
            thread::spawn(move || send_until_stopped(&kind, &producer, &stop))
        })
        .collect();
    let until = Instant::now() + Duration::from_secs(test_seconds());
    let faults = inject_faults(&mut cluster, until);
    stop.store(true, Ordering::Relaxed);
    let counts: Vec<(Vec<Instant>, u64)> =
        callers.into_iter().map(|c| c.join().expect("a caller")).collect();
    assert!(faults.len() >= 3, "{faults:?}");
    print_line(&format!(
        "{:<15} {:>8} {:>8} {:>6} {:>6} {:>7} {:>8} {:>6} {:>6} {:>9}",
        "producer",
        "accepted",
        "acked",
        "maybe",
        "not",
        "refused",
        "in log",
        "twice",
        "lost",
        "p99.9 ms"
    ));
    let mut recovered: Vec<Vec<String>> = Vec::new();
    for ((kind, ends, producer), (sent, refused)) in begun.into_iter().zip(counts) {
        producer.close(Duration::from_secs(90)).expect("it closes");
        let ends = std::mem::take(&mut *ends.lock().expect("ends"));
        assert_eq!(ends.len(), sent.len(), "{}: every accepted record ended", kind.name);
        let log = cluster.read_topic(kind.name);
        let t = check_log(&kind, &ends, &log);
        let mut took: Vec<u128> = (ends.iter())
            .filter(|(_, e)| matches!(e.1, RecordOutcome::Acknowledged(_)))
            .map(|(token, e)| (e.2 - sent[*token as usize]).as_millis())
            .collect();
        took.sort_unstable();
        let p999 = took.get(took.len() * 999 / 1000).copied().unwrap_or(0);
        let not = sent.len() as u64 - t.acknowledged - t.possibly_persisted;
        print_line(&format!(
            "{:<15} {:>8} {:>8} {:>6} {not:>6} {refused:>7} {:>8} {:>6} {:>6} {p999:>9}",
            kind.name,
            sent.len(),
            t.acknowledged,
            t.possibly_persisted,
            log.len(),
            t.duplicated,
            t.lost
        ));
        assert!(t.acknowledged > 1000, "{}", kind.name);
        recovered.push(faults.iter().map(|f| recovery_time(f.1, &ends, &sent)).collect());
    }
    print_line(
        "milliseconds from a fault until every partition acknowledged a record sent after it:",
    );
    let names: Vec<&str> = PROFILES.iter().map(|k| k.name).collect();
    print_line(&format!("{:<32} {}", "fault", names.join(" / ")));
    for (i, (name, _)) in faults.iter().enumerate() {
        let each: Vec<&str> = recovered.iter().map(|r| r[i].as_str()).collect();
        print_line(&format!("{name:<32} {}", each.join(" / ")));
    }
}

/// How long it took until every partition had acknowledged something that was sent after a fault.
fn recovery_time(
    fault: Instant,
    ends: &HashMap<u64, (i32, RecordOutcome, Instant)>,
    sent: &[Instant],
) -> String {
    let mut first: BTreeMap<i32, Instant> = BTreeMap::new();
    for (token, (partition, end, at)) in ends {
        if sent[*token as usize] >= fault && matches!(end, RecordOutcome::Acknowledged(_)) {
            let known = first.entry(*partition).or_insert(*at);
            *known = (*known).min(*at);
        }
    }
    match first.values().max() {
        Some(last) if first.len() == PARTITIONS as usize => (*last - fault).as_millis().to_string(),
        _ => "never".to_owned(),
    }
}

#[derive(Default)]
struct OutcomeCounts {
    acknowledged: u64,
    possibly_persisted: u64,
    duplicated: u64,
    lost: u64,
}

/// Holds what Java's consumer read against how each record ended.
fn check_log(
    kind: &ProducerProfile,
    ends: &HashMap<u64, (i32, RecordOutcome, Instant)>,
    log: &[ConsumerRecord],
) -> OutcomeCounts {
    let (name, mut t) = (kind.name, OutcomeCounts::default());
    let mut seen: HashMap<u64, Vec<i64>> = HashMap::new();
    let mut last: BTreeMap<i32, u64> = BTreeMap::new();
    for r in log {
        let text = String::from_utf8(r.value.clone().expect("a value")).expect("text");
        let token: u64 = text.split('/').next().and_then(|t| t.parse().ok()).expect("a token");
        let (partition, end, _) =
            ends.get(&token).unwrap_or_else(|| panic!("{name}: {token} was never sent"));
        assert_eq!(*partition, r.partition, "{name}: {token} is on another partition");
        assert_ne!(*end, RecordOutcome::NotPersisted, "{name}: {token} was said not to be written");
        seen.entry(token).or_default().push(r.offset);
        if !kind.idempotent {
            continue;
        }
        if let RecordOutcome::Acknowledged(Some(offset)) = end {
            assert_eq!(*offset, r.offset, "{name}: {token} is at another offset");
        }
        if let Some(before) = last.insert(r.partition, token) {
            assert!(before < token, "{name}: {token} stands behind {before} on {}", r.partition);
        }
    }
    t.duplicated = seen.values().filter(|at| at.len() > 1).count() as u64;
    assert!(!kind.idempotent || t.duplicated == 0, "{name}: {} are there twice", t.duplicated);
    for (token, (_, end, _)) in ends {
        match end {
            RecordOutcome::Acknowledged(offset) => {
                t.acknowledged += 1;
                // Without acks, and with the leader's alone, a node takes with it what only it had.
                let there = seen.get(token).is_some_and(|at| {
                    offset.is_none_or(|told| at.contains(&told)) || !kind.is_durable
                });
                assert!(
                    there || !kind.is_durable,
                    "{name}: {token} was acknowledged and is not there"
                );
                t.lost += u64::from(!there);
            }
            RecordOutcome::PossiblyPersisted => t.possibly_persisted += 1,
            RecordOutcome::NotPersisted => {}
        }
    }
    t
}
