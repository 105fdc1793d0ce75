//! Three real Kafka nodes under steady load while each in turn is killed, stopped and started, and leaders are moved
//! by hand. `TEST_CHAOS_SECONDS=300` for the long run. Skipped, loudly, without a JDK and Maven.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ottla::{Certainty, Producer, Record};
use ottla_testkit::{Cluster, Jars, ReadRecord};

const TOPIC: &str = "chaos";
const PARTITIONS: u32 = 6;
const CALLERS: u64 = 2;

fn seconds() -> u64 {
    std::env::var("TEST_CHAOS_SECONDS").ok().and_then(|n| n.parse().ok()).unwrap_or(50)
}

/// How a record ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// At this offset, where it was told.
    Acknowledged(Option<i64>),
    NotWritten,
    PossiblyWritten,
}

type Ends = Arc<Mutex<HashMap<u64, (i32, End)>>>;

fn producer(cluster: &Cluster, ends: &Ends) -> Producer {
    let heard = ends.clone();
    Producer::builder()
        .bootstrap_servers(&cluster.bootstrap)
        .set("linger.ms", "5")
        .set("request.timeout.ms", "5000")
        .set("delivery.timeout.ms", "60000")
        .set("buffer.memory", "8000000")
        .delivery_handler(move |report| {
            let mut heard = heard.lock().expect("ends");
            for (i, token) in report.tokens.iter().enumerate() {
                let end = match &report.result {
                    Ok(base) => End::Acknowledged(base.map(|b| b + i as i64)),
                    Err(e) if e.certainty() == Certainty::NotWritten => End::NotWritten,
                    Err(_) => End::PossiblyWritten,
                };
                let old = heard.insert(*token, (report.partition, end));
                assert!(old.is_none(), "record {token} ended twice");
            }
        })
        .build()
        .expect("a producer")
}

/// Sends until told to stop; how many were accepted, and how many refused.
fn load(producer: &Producer, caller: u64, stop: &AtomicBool) -> (u64, u64) {
    let (mut n, mut refused) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let token = caller << 32 | n;
        let value = format!("{token}/{:>80}", n % 977);
        let partition = (n % u64::from(PARTITIONS)) as i32;
        match producer.send(Record::to(TOPIC).partition(partition).value(&value).token(token)) {
            Ok(_) => n += 1,
            Err(_) => refused += 1,
        }
        if n.is_multiple_of(16) {
            thread::sleep(Duration::from_millis(5));
        }
    }
    (n, refused)
}

/// What happens to the cluster, until the time is over: to each node in turn a kill and a stop of twenty seconds (in a
/// short run, of six), and leaders moved in between.
fn trouble(cluster: &mut Cluster, until: Instant) -> (u32, u32, u32) {
    let long = seconds() >= 200;
    let (frozen, pause) = if long { (20, 5) } else { (6, 2) };
    let (mut kills, mut stops, mut moves, mut turn) = (0, 0, 0, 0);
    let rest = |s| thread::sleep(Duration::from_secs(s));
    while Instant::now() < until {
        let node = (turn % 3 + 1) as usize;
        cluster.kill(node);
        kills += 1;
        rest(pause);
        cluster.start_node(node);
        rest(pause + 4);
        moves += u32::from(cluster.move_leaders(TOPIC, PARTITIONS, turn));
        if Instant::now() >= until {
            break;
        }
        let node = ((turn + 1) % 3 + 1) as usize;
        cluster.freeze(node, true);
        stops += 1;
        rest(frozen);
        cluster.freeze(node, false);
        rest(pause);
        turn += 1;
    }
    (kills, stops, moves)
}

#[test]
fn every_acknowledged_record_is_there_once_and_in_order() {
    let Some(jars) = Jars::get() else { return };
    let mut cluster = Cluster::start(&jars, "");
    cluster.create_topic(TOPIC, PARTITIONS, &["min.insync.replicas=2"]);
    let ends = Ends::default();
    let producer = producer(&cluster, &ends);
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (producer, stop) = (producer.clone(), stop.clone());
            thread::spawn(move || load(&producer, caller, &stop))
        })
        .collect();
    let until = Instant::now() + Duration::from_secs(seconds());
    let (kills, stops, moves) = trouble(&mut cluster, until);
    stop.store(true, Ordering::Relaxed);
    let counts: Vec<(u64, u64)> =
        callers.into_iter().map(|c| c.join().expect("a caller")).collect();
    producer.close(Duration::from_secs(90)).expect("it closes");
    let ends = std::mem::take(&mut *ends.lock().expect("ends"));
    let accepted: u64 = counts.iter().map(|c| c.0).sum();
    assert_eq!(ends.len() as u64, accepted, "every accepted record ended");
    let log = cluster.read(TOPIC);
    let (acknowledged, possibly) = check(&ends, &log);
    println!(
        "{accepted} records accepted, {acknowledged} acknowledged, {possibly} possibly written, {} not written, {} \
         refused; {} in the log; {kills} kills, {stops} stops, {moves} times leaders moved",
        accepted - acknowledged - possibly,
        counts.iter().map(|c| c.1).sum::<u64>(),
        log.len(),
    );
    assert!(acknowledged > 1000 && kills > 0 && stops > 0);
}

/// Holds what Java's consumer read against how each record ended.
fn check(ends: &HashMap<u64, (i32, End)>, log: &[ReadRecord]) -> (u64, u64) {
    let mut seen: HashMap<u64, i64> = HashMap::new();
    let mut last: BTreeMap<(i32, u64), u64> = BTreeMap::new();
    for r in log {
        let text = String::from_utf8(r.value.clone().expect("a value")).expect("text");
        let token: u64 = text.split('/').next().and_then(|t| t.parse().ok()).expect("a token");
        let (partition, end) = ends.get(&token).unwrap_or_else(|| panic!("{token} was never sent"));
        assert_eq!(*partition, r.partition, "{token} is on another partition");
        assert_ne!(*end, End::NotWritten, "{token} was said not to be written");
        if let End::Acknowledged(Some(offset)) = end {
            assert_eq!(*offset, r.offset, "{token} is at another offset");
        }
        assert!(seen.insert(token, r.offset).is_none(), "{token} is there twice");
        if let Some(before) = last.insert((r.partition, token >> 32), token) {
            assert!(before < token, "{token} stands behind {before} on {}", r.partition);
        }
    }
    let (mut acknowledged, mut possibly) = (0, 0);
    for (token, (_, end)) in ends {
        match end {
            End::Acknowledged(_) => {
                assert!(seen.contains_key(token), "{token} was acknowledged and is not there");
                acknowledged += 1;
            }
            End::PossiblyWritten => possibly += 1,
            End::NotWritten => {}
        }
    }
    (acknowledged, possibly)
}
