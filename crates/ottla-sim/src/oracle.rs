//! What must hold of a run: one table of demands, each with the settings it follows from. The oracle judges, never
//! the scenario.

use std::collections::{BTreeMap, BTreeSet};

use ottla::sim::Tick;
use ottla::{ErrorKind, RecordStatus};
use ottla_broker::{AppendedBatch, Core, LogBatch};
use ottla_protocol::record::Batches;

use crate::callers::headers;
use crate::history::{Ended, Heard, History, Sent, token};
use crate::scenario::Scenario;

/// A partition of one topic of that name: name, id, partition.
type Place = (String, [u8; 16], i32);

/// Logs as they stood at the end, or when their topic was deleted, and everything any leader ever appended.
#[derive(Default)]
pub(crate) struct Logs {
    kept: BTreeMap<Place, Vec<LogBatch>>,
    journal: Vec<AppendedBatch>,
}

/// A record in a log.
#[derive(Debug, PartialEq, Eq)]
struct Logged {
    offset: i64,
    timestamp: i64,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    key: Option<Vec<u8>>,
    value: Vec<u8>,
}

/// What stands in the logs, record by record.
pub(crate) struct Read {
    logs: BTreeMap<Place, Vec<Logged>>,
    /// Values ever appended to a topic's partition: at which offsets.
    ever: BTreeMap<(String, i32), BTreeMap<Vec<u8>, Vec<i64>>>,
}

impl Logs {
    /// Keeps a topic's logs as they are now.
    pub(crate) fn keep(&mut self, core: &Core, topic: &str) {
        let Some((id, count)) = core.describe_topic(topic) else { return };
        for p in 0..count {
            let batches = core.batches(topic, p).unwrap_or_default();
            self.kept.insert((topic.to_owned(), id.0, p), batches);
        }
    }

    pub(crate) fn journal(&mut self, journal: Vec<AppendedBatch>) {
        self.journal = journal;
    }

    pub(crate) fn read(&self) -> Result<Read, String> {
        let mut logs = BTreeMap::new();
        for (place, batches) in &self.kept {
            let mut list = Vec::new();
            for b in batches {
                read_into(&b.bytes, 0, &mut list).map_err(|e| {
                    format!("the log of {}-{} cannot be read: {e}", place.0, place.2)
                })?;
            }
            logs.insert(place.clone(), list);
        }
        let mut ever: BTreeMap<(String, i32), BTreeMap<Vec<u8>, Vec<i64>>> = BTreeMap::new();
        for j in &self.journal {
            let mut list = Vec::new();
            read_into(&j.records, j.base_offset, &mut list)?;
            let of = ever.entry((j.topic.clone(), j.partition)).or_default();
            for l in list {
                of.entry(l.value).or_default().push(l.offset);
            }
        }
        Ok(Read { logs, ever })
    }
}

fn read_into(bytes: &[u8], base: i64, list: &mut Vec<Logged>) -> Result<(), String> {
    for view in Batches::new(bytes) {
        let view = view.map_err(|e| e.to_string())?;
        let records = view.records(1 << 30).map_err(|e| e.to_string())?;
        for r in records.to_vec().map_err(|e| e.to_string())? {
            list.push(Logged {
                offset: base + r.offset,
                timestamp: r.timestamp,
                headers: (r.headers.iter())
                    .map(|(name, value)| (name.to_vec(), value.map(<[u8]>::to_vec)))
                    .collect(),
                key: r.key.map(<[u8]>::to_vec),
                value: r.value.unwrap_or_default().to_vec(),
            });
        }
    }
    Ok(())
}

impl Read {
    /// The logs of a partition under any id its topic had.
    fn of<'r>(&'r self, topic: &'r str, partition: i32) -> impl Iterator<Item = &'r [Logged]> + 'r {
        let mine = move |place: &Place| place.0 == topic && place.2 == partition;
        self.logs.iter().filter(move |(place, _)| mine(place)).map(|(_, log)| log.as_slice())
    }
}

/// Everything there is to judge by.
pub(crate) struct Case<'a> {
    pub(crate) s: &'a Scenario,
    pub(crate) history: &'a History,
    pub(crate) heard: BTreeMap<u64, Heard>,
    pub(crate) logs: &'a Read,
    pub(crate) memory_left: u64,
    pub(crate) slept: &'a [(Tick, Tick)],
    /// Partitions the topics had in the end.
    pub(crate) partitions: BTreeMap<String, i32>,
    /// When the world healed.
    pub(crate) healed_at: Tick,
    /// Producer ids the cluster gave.
    pub(crate) ids_given: u64,
}

impl Case<'_> {
    /// Whether the record was sent while every node was gone.
    fn in_the_dark(&self, sent: &Sent) -> bool {
        sent.caller == self.s.callers + 1
    }

    /// When something that may take so long is over at the latest. A machine that sleeps meanwhile can only see to
    /// it when it wakes.
    fn due(&self, from: Tick, ms: u64) -> Tick {
        let mut latest = Tick(from.0 + (ms + 1) * 1_000_000);
        for (slept, woke) in self.slept {
            if (*slept..=*woke).contains(&latest) {
                latest = Tick(woke.0 + 1_000_000);
            }
        }
        latest
    }
}

type Check = fn(&Case<'_>) -> Result<(), String>;

/// A demand.
struct Demand {
    /// In words; checks made while the run goes on report under it.
    what: &'static str,
    /// Which settings it follows from, in words and as a test.
    #[cfg_attr(not(test), allow(dead_code, reason = "for the page"))]
    when: &'static str,
    applies: fn(&Scenario) -> bool,
    check: Check,
}

const ALWAYS: fn(&Scenario) -> bool = |_| true;
const SEEN: Check = |_| Ok(());

#[rustfmt::skip]
const DEMANDS: &[Demand] = &[
    Demand { what: "every accepted record ends exactly once, told alike to its delivery, its callback and the handler", when: "always", applies: ALWAYS, check: ends_once },
    Demand { what: "no end is a bug of the producer's own", when: "always", applies: ALWAYS, check: none_internal },
    Demand { what: "a record goes to the partition it asks for", when: "always", applies: ALWAYS, check: SEEN },
    Demand { what: "nothing is claimed but that a record went out", when: "acks=0", applies: |s| s.acks == "0", check: nothing_claimed },
    Demand { what: "everything accepted is acknowledged", when: "nothing goes wrong, and there is time", applies: Scenario::is_calm, check: all_acknowledged },
    Demand { what: "what was sent while nobody was there was not written", when: "acks=1 or all", applies: |s| s.acks != "0", check: not_in_the_dark },
    Demand { what: "records end in time: creation of their batch + delivery.timeout.ms + one loop", when: "always", applies: ALWAYS, check: ends_in_time },
    Demand { what: "blocked callers are let go in time: max.block.ms + one loop", when: "always", applies: ALWAYS, check: let_go_in_time },
    Demand { what: "requests in flight are as many as allowed", when: "always", applies: ALWAYS, check: SEEN },
    Demand { what: "a flush waits for all there was", when: "always", applies: ALWAYS, check: SEEN },
    Demand { what: "memory is all back", when: "always", applies: ALWAYS, check: memory_back },
    Demand { what: "memory is never above its cap but by what one batch that is being split takes three times", when: "always", applies: ALWAYS, check: SEEN },
    Demand { what: "the sender goes round only for what happens, and rests when nothing does", when: "always", applies: ALWAYS, check: SEEN },
    Demand { what: "memory is first come, first served", when: "always", applies: ALWAYS, check: first_come },
    Demand { what: "what is in a log is byte for byte what was sent there", when: "always", applies: ALWAYS, check: only_what_was_sent },
    Demand { what: "what is said not to be written is in no log", when: "always", applies: ALWAYS, check: not_written },
    Demand { what: "a stated offset holds that record in the log of the leader that answered, when it answered", when: "acks=1 or all", applies: |s| s.acks != "0", check: offset_holds },
    Demand { what: "what is acknowledged is in the log, and stays there through every leader move that keeps the ISR", when: "acks=all, no unclean election", applies: |s| s.acks == "all" && !s.unclean, check: acknowledged_stays },
    Demand { what: "nothing is twice, in one topic or in those made anew under its name", when: "idempotent", applies: |s| s.idempotent, check: nothing_twice },
    Demand { what: "of each caller and partition the log has the order of append", when: "idempotent", applies: |s| s.idempotent, check: in_order },
    Demand { what: "of each caller and partition the log has what was acknowledged in the order of append", when: "not idempotent, one request in flight", applies: |s| !s.idempotent && s.in_flight == 1, check: in_order },
    Demand { what: "what has time left when the world heals is acknowledged, or refused by a broker", when: "acks=1 or all, retries without end, no fatal error, not closed before", applies: |s| s.acks != "0" && s.retries > 100 && !s.fatal_fault && s.close_at_ms == 0, check: time_left },
    Demand { what: "a healed world takes what is sent to it", when: "no fatal error, not closed before", applies: |s| !s.fatal_fault && s.close_at_ms == 0, check: healed },
];

/// What was broken first, in words; else a number of everything that was seen.
pub(crate) fn judge(case: &Case<'_>) -> Result<u64, String> {
    if let Some((what, how)) = case.history.broken.first() {
        debug_assert!(DEMANDS.iter().any(|d| d.what == *what), "{what}");
        return Err(format!("{what}: {how}"));
    }
    for d in DEMANDS.iter().filter(|d| (d.applies)(case.s)) {
        (d.check)(case).map_err(|how| format!("{}: {how}", d.what))?;
    }
    let mut fingerprint = 0xcbf2_9ce4_8422_2325_u64;
    for (sent, ended) in &case.history.records {
        let ok = ended.as_ref().is_some_and(|e| e.result.is_ok());
        let at = case.heard.get(&token(sent.caller, sent.n)).map_or(0, |h| h.at.0);
        for word in [sent.accepted.0, at, u64::from(ok)] {
            fingerprint = (fingerprint ^ word).wrapping_mul(0x0100_0000_01b3);
        }
    }
    Ok(fingerprint)
}

/// The table as a page.
#[cfg(test)]
pub(crate) fn page() -> String {
    let mut out = String::from("| demand | of which runs |\n|---|---|\n");
    for d in DEMANDS {
        out.push_str(&format!("| {} | {} |\n", d.what, d.when));
    }
    out
}

fn who(sent: &Sent) -> String {
    format!("record {} of caller {} on {}-{}", sent.n, sent.caller, sent.topic, sent.partition)
}

fn acknowledged(ended: Option<&Ended>) -> bool {
    ended.is_some_and(|e| e.result.is_ok())
}

fn ends_once(case: &Case<'_>) -> Result<(), String> {
    for (sent, ended) in &case.history.records {
        let token = token(sent.caller, sent.n);
        let Some(ended) = ended else {
            return Err(format!("{} never ended", who(sent)));
        };
        match case.heard.get(&token) {
            Some(h) if h.times == 1 && h.ok == ended.result.is_ok() => {}
            other => return Err(format!("{}: the handler heard {other:?}", who(sent))),
        }
        let told = match &ended.result {
            Ok(m) => Ok(m.offset()),
            Err(e) => Err(e.to_string()),
        };
        let called = case.history.callbacks.get(&token).map_or(&[][..], Vec::as_slice);
        let expected: &[_] = if sent.with_callback { &[told] } else { &[] };
        if called != expected {
            return Err(format!("{}: its callback was told {called:?}", who(sent)));
        }
    }
    if case.heard.len() != case.history.records.len() {
        return Err("an end was heard of a record that was not accepted".to_owned());
    }
    Ok(())
}

fn none_internal(case: &Case<'_>) -> Result<(), String> {
    for (sent, ended) in &case.history.records {
        if let Some(Err(e)) = ended.as_ref().map(|e| &e.result)
            && e.kind() == ErrorKind::Internal
        {
            return Err(format!("{}: {e}", who(sent)));
        }
    }
    Ok(())
}

fn nothing_claimed(case: &Case<'_>) -> Result<(), String> {
    for (sent, ended) in &case.history.records {
        if let Some(Ok(m)) = ended.as_ref().map(|e| &e.result)
            && m.offset().is_some()
        {
            return Err(format!("{} is said to be at {:?}", who(sent), m.offset()));
        }
    }
    Ok(())
}

fn all_acknowledged(case: &Case<'_>) -> Result<(), String> {
    for (sent, ended) in &case.history.records {
        if let Some(Err(e)) = ended.as_ref().map(|e| &e.result)
            && !case.in_the_dark(sent)
        {
            return Err(format!("{}: {e}", who(sent)));
        }
    }
    Ok(())
}

fn not_in_the_dark(case: &Case<'_>) -> Result<(), String> {
    for (sent, ended) in case.history.records.iter().filter(|(r, _)| case.in_the_dark(r)) {
        match ended.as_ref().map(|e| &e.result) {
            Some(Err(e)) if e.record_status() == RecordStatus::NotPersisted => {}
            other => return Err(format!("{}: {other:?}", who(sent))),
        }
    }
    Ok(())
}

fn ends_in_time(case: &Case<'_>) -> Result<(), String> {
    for (sent, _) in &case.history.records {
        let Some(heard) = case.heard.get(&token(sent.caller, sent.n)) else { continue };
        // Its batch is not younger than it is itself.
        let latest = case.due(sent.accepted, case.s.delivery_ms);
        if heard.at > latest {
            return Err(format!(
                "{} accepted at {:?}, ended at {:?}",
                who(sent),
                sent.accepted,
                heard.at
            ));
        }
    }
    Ok(())
}

fn let_go_in_time(case: &Case<'_>) -> Result<(), String> {
    for (asked, at) in &case.history.waits {
        if *at > case.due(*asked, case.s.block_ms) {
            return Err(format!("a call waited from {asked:?} to {at:?}"));
        }
    }
    Ok(())
}

fn memory_back(case: &Case<'_>) -> Result<(), String> {
    if case.memory_left == case.s.buffer_memory {
        return Ok(());
    }
    Err(format!("{} of {}", case.memory_left, case.s.buffer_memory))
}

/// Whoever waited for memory in vain was not passed by: what was accepted of later calls meanwhile fitted into
/// batches that were open already.
fn first_come(case: &Case<'_>) -> Result<(), String> {
    let s = case.s;
    // What is open is a batch a partition, of its size or of one record, and no more than there is memory; those who
    // waited before may each open another.
    let (partitions, batch) = (s.topics * (s.partitions + 3), s.batch_size.max(s.value_max + 200));
    let room = (partitions * batch).min(s.buffer_memory) + s.callers * batch;
    for refused in case.history.refused.iter().filter(|r| r.no_memory) {
        let later = case
            .history
            .records
            .iter()
            .filter(|(r, _)| r.asked > refused.asked && r.accepted < refused.at);
        let bytes: u64 = later.map(|(r, _)| r.value.len() as u64 + 7).sum();
        if bytes > room {
            return Err(format!(
                "a call waited in vain from {:?} to {:?}; {bytes} bytes of later calls were accepted",
                refused.asked, refused.at
            ));
        }
    }
    Ok(())
}

/// Whether a record in a log is the one that was sent, beside its value.
fn same(sent: &Sent, logged: &Logged) -> bool {
    let headers = if sent.with_headers { &headers(&sent.value)[..] } else { &[] };
    sent.key == logged.key
        && sent.timestamp.is_none_or(|at| at == logged.timestamp)
        && headers.len() == logged.headers.len()
        && headers.iter().zip(&logged.headers).all(|(sent, logged)| {
            (sent.key.as_bytes(), sent.value) == (logged.0.as_slice(), logged.1.as_deref())
        })
}

fn only_what_was_sent(case: &Case<'_>) -> Result<(), String> {
    let mut sent = BTreeMap::new();
    for (r, _) in &case.history.records {
        sent.insert((r.topic.as_str(), r.partition, r.value.as_slice()), r);
    }
    for ((topic, _, partition), log) in &case.logs.logs {
        for (i, l) in log.iter().enumerate() {
            if l.offset != i as i64 {
                return Err(format!("{topic}-{partition} has offset {} at place {i}", l.offset));
            }
            match sent.get(&(topic.as_str(), *partition, l.value.as_slice())) {
                Some(r) if same(r, l) => {}
                Some(_) => {
                    let what = "key, headers or timestamp are others";
                    return Err(format!("{topic}-{partition} at {i}: {what}"));
                }
                None => return Err(format!("{topic}-{partition} at {i}: nobody sent that there")),
            }
        }
    }
    Ok(())
}

fn not_written(case: &Case<'_>) -> Result<(), String> {
    for (sent, ended) in &case.history.records {
        let Some(Err(e)) = ended.as_ref().map(|e| &e.result) else { continue };
        if e.record_status() != RecordStatus::NotPersisted {
            continue;
        }
        let found = |log: &[Logged]| log.iter().any(|l| l.value == sent.value);
        if case.logs.of(&sent.topic, sent.partition).any(found) {
            return Err(format!("{} ({e})", who(sent)));
        }
    }
    Ok(())
}

fn offset_holds(case: &Case<'_>) -> Result<(), String> {
    for (sent, ended) in &case.history.records {
        let Some(Ok(m)) = ended.as_ref().map(|e| &e.result) else { continue };
        if (m.topic(), m.partition()) != (sent.topic.as_str(), sent.partition) {
            return Err(format!("{} is said to be on {}-{}", who(sent), m.topic(), m.partition()));
        }
        let ever = case.logs.ever.get(&(sent.topic.clone(), sent.partition));
        match (ever.and_then(|e| e.get(&sent.value)), m.offset()) {
            (None, _) => return Err(format!("{} was never appended", who(sent))),
            (Some(at), Some(offset)) if !at.contains(&offset) => {
                return Err(format!("{} is said to be at {offset}, was at {at:?}", who(sent)));
            }
            _ => {}
        }
    }
    Ok(())
}

fn acknowledged_stays(case: &Case<'_>) -> Result<(), String> {
    for (sent, _) in case.history.records.iter().filter(|(_, e)| acknowledged(e.as_ref())) {
        let found = |log: &[Logged]| log.iter().any(|l| l.value == sent.value);
        if !case.logs.of(&sent.topic, sent.partition).any(found) {
            return Err(format!("{} is in no log", who(sent)));
        }
    }
    Ok(())
}

fn nothing_twice(case: &Case<'_>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for ((topic, _, partition), log) in &case.logs.logs {
        for l in log {
            if !seen.insert((topic, partition, &l.value)) {
                let text = String::from_utf8_lossy(&l.value);
                return Err(format!("{topic}-{partition} at {}: {text:.20}", l.offset));
            }
        }
    }
    Ok(())
}

fn in_order(case: &Case<'_>) -> Result<(), String> {
    let mut of = BTreeMap::new();
    for (r, e) in &case.history.records {
        // What failed as possibly written may come late where nothing fences it: without sequences, or under an id
        // that was given up for another.
        let counts = acknowledged(e.as_ref()) || (case.s.idempotent && case.ids_given <= 1);
        of.insert((r.topic.as_str(), r.partition, r.value.as_slice()), (r.caller, r.n, counts));
    }
    for ((topic, _, partition), log) in &case.logs.logs {
        let (mut last, mut first_seen) = (BTreeMap::new(), BTreeSet::new());
        for l in log {
            let found = of.get(&(topic.as_str(), *partition, l.value.as_slice()));
            let Some((caller, n, true)) = found else { continue };
            if !first_seen.insert((caller, n)) {
                continue;
            }
            if let Some(before) = last.insert(*caller, *n).filter(|before| before > n) {
                return Err(format!(
                    "{topic}-{partition} at {}: {n} of caller {caller} stands behind {before}",
                    l.offset
                ));
            }
        }
    }
    Ok(())
}

/// Longer than any connection, request or backoff from before may still take.
const HEALING_MS: u64 = 20_000;

fn time_left(case: &Case<'_>) -> Result<(), String> {
    for (sent, ended) in &case.history.records {
        let Some(Err(e)) = ended.as_ref().map(|e| &e.result) else { continue };
        let end = sent.accepted.0 + case.s.delivery_ms * 1_000_000;
        // A topic that was made anew may lack the partition; what was sent while nobody was there has no time left.
        let in_the_dark = sent.caller == case.s.callers + 1;
        if in_the_dark
            || case.partitions.get(&sent.topic).is_none_or(|count| sent.partition >= *count)
        {
            continue;
        }
        if e.kind() == ErrorKind::DeliveryTimeout && end > case.due(case.healed_at, HEALING_MS).0 {
            return Err(format!("{} failed all the same: {e}", who(sent)));
        }
    }
    Ok(())
}

fn healed(case: &Case<'_>) -> Result<(), String> {
    for (place, result) in &case.history.probes {
        result.as_ref().map_err(|e| format!("a record for {place} sent after all: {e}"))?;
    }
    Ok(())
}
