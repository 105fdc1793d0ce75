//! Compares docs/EVENTS.md with the events in the code, and with those that a producer logs.
//!
//! Alone in its process: the subscriber is a global one.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use ottla::{Error, Producer, Record};
use ottla_broker::{ApiKey, EmbeddedBroker, ResponseAction};
use proc_macro2::{TokenStream, TokenTree};
use syn::visit::Visit;
use tracing::field::Field;
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Metadata, Subscriber};

/// What the page says about an event, or what the code logs.
#[derive(Debug, Default, PartialEq, Eq)]
struct EventShape {
    target: String,
    levels: BTreeSet<String>,
    /// The fields, without the message.
    fields: BTreeSet<String>,
}

type EventShapes = BTreeMap<String, EventShape>;

const SUPPRESSED: &str = "suppressed";

fn repository_file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Returns the texts between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Returns the events of the page's tables. The names before the first target are those of the
/// events that are limited to one a second.
fn documented_events() -> EventShapes {
    let page = fs::read_to_string(repository_file("docs/EVENTS.md")).unwrap();
    let (introduction, sections) = page.split_once("\n## ").unwrap();
    let limited: Vec<&str> = quoted(introduction).filter(|q| q.starts_with("ottla.")).collect();
    let mut events = EventShapes::new();
    for section in sections.split("\n## ") {
        let target = quoted(section).next().unwrap();
        let mut documented = BTreeSet::new();
        for row in section.lines().filter(|l| l.starts_with("| `ottla.")) {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let name = quoted(cells[1]).next().unwrap();
            documented.insert(name);
            let mut fields: BTreeSet<String> = quoted(cells[3]).map(str::to_owned).collect();
            if limited.contains(&name) {
                fields.insert(SUPPRESSED.to_owned());
            }
            let levels = cells[2].split(", ").map(str::to_owned).collect();
            let shape = EventShape { target: target.to_owned(), levels, fields };
            assert!(events.insert(name.to_owned(), shape).is_none(), "{name} is in two tables");
        }
        let explained: BTreeSet<&str> = (section.lines())
            .filter_map(|line| Some(line.strip_prefix("**")?.rsplit_once("**:")?.0))
            .flat_map(quoted)
            .collect();
        assert_eq!(explained, documented, "each event of {target} has a text below its table");
    }
    events
}

/// Collects the events that the library's source logs.
struct SourceEvents {
    file: String,
    events: EventShapes,
}

impl Visit<'_> for SourceEvents {
    fn visit_macro(&mut self, call: &syn::Macro) {
        let path: Vec<String> = call.path.segments.iter().map(|s| s.ident.to_string()).collect();
        if let [first, level] = &path[..]
            && first == "tracing"
        {
            self.add(level, call.tokens.clone());
        }
    }
}

impl SourceEvents {
    fn add(&mut self, level: &str, tokens: TokenStream) {
        let arguments = split_arguments(tokens);
        let argument = |name: &str| {
            let starts = |a: &&Vec<TokenTree>| {
                matches!(&a[..2], [n, TokenTree::Punct(colon)]
                if n.to_string() == name && colon.as_char() == ':')
            };
            let found = arguments.iter().find(|a| a.len() == 3 && starts(a))?;
            Some(found[2].to_string().trim_matches('"').to_owned())
        };
        let Some(name) = argument("name") else {
            let is_internal = matches!(level, "debug" | "trace");
            assert!(is_internal, "{}: an event of level {level} without a name", self.file);
            return;
        };
        let target = argument("target").unwrap_or_else(|| panic!("{name} has no target"));
        // `field = value` or the name of a variable; the message is a literal.
        let field = |a: &Vec<TokenTree>| match &a[..] {
            [TokenTree::Ident(name)] => Some(name.to_string()),
            [TokenTree::Ident(name), TokenTree::Punct(p), ..] if p.as_char() == '=' => {
                Some(name.to_string())
            }
            _ => None,
        };
        let is_message = |a: &&Vec<TokenTree>| matches!(a[0], TokenTree::Literal(_));
        let before_message = arguments.iter().take_while(|a| !is_message(a));
        let fields: BTreeSet<String> = before_message.filter_map(field).collect();
        let event = self.events.entry(name.clone()).or_default();
        if !event.target.is_empty() {
            assert_eq!(event.target, target, "{name} has one target");
        }
        event.target = target;
        event.levels.insert(level.to_owned());
        event.fields.extend(fields);
    }
}

/// Splits the arguments of a macro at its commas.
fn split_arguments(tokens: TokenStream) -> Vec<Vec<TokenTree>> {
    let mut arguments = vec![Vec::new()];
    for token in tokens {
        match &token {
            TokenTree::Punct(p) if p.as_char() == ',' => arguments.push(Vec::new()),
            _ => arguments.last_mut().unwrap().push(token),
        }
    }
    arguments.retain(|a| !a.is_empty());
    arguments
}

fn source_events() -> EventShapes {
    let mut found = SourceEvents { file: String::new(), events: EventShapes::new() };
    let mut folders = vec![repository_file("crates/ottla/src")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files += 1;
                found.file = path.display().to_string();
                found.visit_file(&syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap());
            }
        }
    }
    assert!(files > 100, "found only {files} files");
    found.events
}

#[test]
fn page_has_every_event_of_the_code_and_no_other() {
    let (documented, logged) = (documented_events(), source_events());
    for (name, shape) in &logged {
        assert_eq!(documented.get(name), Some(shape), "{name} in docs/EVENTS.md");
    }
    let names = |events: &EventShapes| events.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&documented), names(&logged));
}

/// An event that a producer has logged.
#[derive(Debug, Default)]
struct LoggedEvent {
    name: &'static str,
    target: String,
    level: String,
    /// The fields with their values, and the message.
    fields: BTreeMap<&'static str, String>,
}

impl tracing::field::Visit for LoggedEvent {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }
}

struct Recorder(Mutex<Sender<LoggedEvent>>);

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("ottla::") && *metadata.level() <= Level::INFO
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let level = metadata.level().to_string().to_lowercase();
        let (name, target) = (metadata.name(), metadata.target().to_owned());
        let mut logged = LoggedEvent { name, target, level, ..LoggedEvent::default() };
        event.record(&mut logged);
        let _ = self.0.lock().unwrap().send(logged);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Waits for an event, and compares it and those before it with the page.
fn next_event(events: &Receiver<LoggedEvent>, name: &str) -> LoggedEvent {
    let documented = documented_events();
    loop {
        let event = events.recv().unwrap();
        let shape = documented.get(event.name);
        let shape = shape.unwrap_or_else(|| panic!("{event:?} is not in docs/EVENTS.md"));
        assert_eq!(event.target, shape.target, "{event:?}");
        assert!(shape.levels.contains(&event.level), "{event:?}");
        for field in event.fields.keys().filter(|f| **f != "message") {
            assert!(shape.fields.contains(*field), "{event:?}: {field} is not in docs/EVENTS.md");
        }
        if event.name == name {
            return event;
        }
    }
}

#[test]
fn producer_logs_notices_rebootstrap_drop_and_close_as_documented() -> Result<(), Error> {
    let (sender, events) = mpsc::channel();
    tracing::subscriber::set_global_default(Recorder(Mutex::new(sender))).unwrap();
    let broker = EmbeddedBroker::start().unwrap();
    let builder = || Producer::builder().bootstrap_servers(broker.bootstrap_servers());

    let producer = builder().set("statistics.interval.ms", "1000").build()?;
    let notice = next_event(&events, "ottla.notice");
    assert!(notice.fields["message"].contains("Producer::metrics"), "{notice:?}");
    assert_eq!(notice.level, "info");
    let notice = next_event(&events, "ottla.notice");
    assert!(notice.fields["message"].contains("partitioner is not set"), "{notice:?}");
    assert_eq!(notice.level, "warn");

    producer.send(Record::to("orders").value("1"))?.wait()?;
    broker.stop_node(1);
    let delivery = producer.send(Record::to("orders").value("2"))?;
    next_event(&events, "ottla.rebootstrap");
    broker.start_node(1).unwrap();
    delivery.wait()?;
    producer.close(Duration::from_secs(10))?;

    // From here on no response to a Produce request arrives.
    let (produced, requests) = mpsc::channel();
    let guard = broker.intercept_responses(move |response, frame| {
        if response.api == ApiKey::PRODUCE {
            let _ = produced.send(());
            return ResponseAction::Stall;
        }
        ResponseAction::Send(frame)
    });
    let producer = builder().client_id("closed").build()?;
    producer.send(Record::to("orders").value("3"))?;
    requests.recv().unwrap();
    let report = producer.close(Duration::ZERO)?;
    assert_eq!((report.undelivered, report.possibly_persisted), (1, 1));
    assert_eq!(next_event(&events, "ottla.closed_in_flight").fields["records"], "1");
    assert_eq!(next_event(&events, "ottla.batch_failed").fields["records"], "1");

    // The drop waits for 5 s here.
    let producer = builder().client_id("dropped").build()?;
    producer.send(Record::to("orders").value("4"))?;
    requests.recv().unwrap();
    drop(producer);
    let dropped = next_event(&events, "ottla.dropped");
    assert_eq!(dropped.fields["client"], "\"dropped\"");
    assert_eq!(dropped.fields["records"], "1");
    assert_eq!(next_event(&events, "ottla.batch_failed").fields["records"], "1");
    let undelivered = next_event(&events, "ottla.dropped_undelivered");
    assert_eq!(undelivered.fields["records"], "1");
    assert_eq!(undelivered.fields["possibly_persisted"], "1");

    // A record that was awaited is not left, although its memory may not be free yet.
    drop(guard);
    for _ in 0..50 {
        let producer = builder().client_id("awaited").build()?;
        producer.send(Record::to("orders").value("5"))?.wait()?;
        drop(producer);
    }
    let later: Vec<LoggedEvent> = events.try_iter().collect();
    assert!(later.iter().all(|e| e.name != "ottla.dropped"), "{later:?}");
    Ok(())
}
