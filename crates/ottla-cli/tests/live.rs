//! `--live` in a pseudo-terminal: what is on the screen, what the keys and signals do, and what the
//! terminal shows afterwards.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use ottla_broker::EmbeddedBroker;
use ottla_testkit::{Jars, Kafka};
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

/// How long a test waits for a screen or for the end of the command before it fails.
const DEADLINE: Duration = Duration::from_secs(60);

/// What a terminal has received.
struct Received {
    parser: vt100::Parser,
    bytes: Vec<u8>,
    /// The other end is closed.
    has_ended: bool,
}

/// A shell in a pseudo-terminal of 80 columns and 24 rows.
struct Terminal {
    master: Box<dyn MasterPty + Send>,
    keyboard: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    received: Arc<(Mutex<Received>, Condvar)>,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(rows: u16, cols: u16) -> PtySize {
    PtySize { rows, cols, pixel_width: 0, pixel_height: 0 }
}

fn positive(n: u16) -> NonZeroU16 {
    NonZeroU16::new(n).unwrap()
}

impl Terminal {
    /// Runs a script in which `$OTTLA` is the command. After it stand the terminal's modes before
    /// and after, and the exit status of the script.
    fn run(script: &str, variables: &[(&str, &str)]) -> Terminal {
        let script = format!(
            "trap : INT; before=$(stty -g); {script}\nstatus=$?; after=$(stty -g); \
             [ \"$before\" = \"$after\" ] && echo modes restored; echo status $status"
        );
        let pty = native_pty_system().openpty(size(24, 80)).unwrap();
        let mut command = CommandBuilder::new("bash");
        command.args(["-c", &script]);
        command.env("OTTLA", assert_cmd::cargo::cargo_bin!("ottla"));
        command.env("TERM", "xterm-256color");
        command.env("LC_ALL", "C.UTF-8");
        command.env_remove("NO_COLOR");
        variables.iter().for_each(|(name, value)| command.env(name, value));
        let child = pty.slave.spawn_command(command).unwrap();
        drop(pty.slave);
        let parser = vt100::Parser::new(positive(24), positive(80), 1000);
        let received = Received { parser, bytes: Vec::new(), has_ended: false };
        let received = Arc::new((Mutex::new(received), Condvar::new()));
        let (mut output, shared) = (pty.master.try_clone_reader().unwrap(), received.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let n = output.read(&mut buffer).unwrap_or(0);
                let mut received = shared.0.lock().unwrap();
                received.parser.process(&buffer[..n]);
                received.bytes.extend(&buffer[..n]);
                received.has_ended = n == 0;
                shared.1.notify_all();
                if n == 0 {
                    return;
                }
            }
        });
        let keyboard = pty.master.take_writer().unwrap();
        Terminal { master: pty.master, keyboard, child, received }
    }

    /// Waits until what was received satisfies a condition.
    fn wait(&self, what: &str, is_met: impl Fn(&Received) -> bool) -> String {
        let deadline = Instant::now() + DEADLINE;
        let mut received = self.received.0.lock().unwrap();
        while !is_met(&received) {
            let left = deadline.saturating_duration_since(Instant::now());
            let screen = received.parser.screen().contents();
            assert!(!left.is_zero() && !received.has_ended, "no {what} on the screen:\n{screen}");
            received = self.received.1.wait_timeout(received, left).unwrap().0;
        }
        received.parser.screen().contents()
    }

    /// Waits until the view is there with a text, and returns the screen.
    fn wait_for_view(&self, text: &str) -> String {
        self.wait(text, |r| {
            r.parser.screen().alternate_screen() && r.parser.screen().contents().contains(text)
        })
    }

    /// Waits for a text outside the view.
    fn wait_for_text(&self, text: &str) -> String {
        self.wait(text, |r| {
            !r.parser.screen().alternate_screen() && r.parser.screen().contents().contains(text)
        })
    }

    /// Waits for the end, and checks the terminal's state.
    fn finish(&self, status: i32) -> String {
        let screen = self.wait_for_text("status ");
        assert!(screen.contains("modes restored"), "{screen}");
        assert!(screen.contains(&format!("status {status}")), "{screen}");
        assert!(!self.received.0.lock().unwrap().parser.screen().hide_cursor(), "no cursor");
        screen
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
        self.keyboard.flush().unwrap();
    }

    fn resize(&self, rows: u16, cols: u16) {
        let mut received = self.received.0.lock().unwrap();
        received.parser.screen_mut().set_size(positive(rows), positive(cols));
        drop(received);
        self.master.resize(size(rows, cols)).unwrap();
    }
}

/// A run of some seconds, which ends early if a test needs it no more.
fn perf(broker: &EmbeddedBroker, records: u64, more: &str) -> String {
    format!(
        "$OTTLA perf -b {} --topic t --num-records {records} --throughput 1000 --record-size 100 \
         --reporting-interval 100 {more}",
        broker.bootstrap_servers()
    )
}

fn start_broker() -> EmbeddedBroker {
    EmbeddedBroker::builder().topic("t", 3).start().unwrap()
}

#[test]
fn q_leaves_the_view_and_the_run_continues() {
    let broker = start_broker();
    let mut terminal = Terminal::run(&perf(&broker, 10_000_000, "--live"), &[]);
    let view = terminal.wait_for_view("requests/s");
    for text in ["ottla perf - topic t", "NODE ADDRESS", "WAITS FOR", "q leave the view"] {
        assert!(view.contains(text), "no {text:?} on:\n{view}");
    }
    // The lines of progress are messages while the view covers the terminal.
    terminal.wait_for_view("records sent, ");
    terminal.press("q");
    terminal.wait_for_text("records sent, ");
    let lines_of = |r: &Received| String::from_utf8_lossy(&r.bytes).matches("sent, ").count();
    let lines = lines_of(&terminal.received.0.lock().unwrap());
    terminal.wait("further progress", |r| lines_of(r) > lines);
    terminal.press("\u{3}");
    let end = terminal.finish(0);
    assert!(end.contains("ms 99.9th."), "{end}");
}

#[test]
fn messages_of_the_view_are_printed_after_it() {
    let broker = EmbeddedBroker::builder().topic("t", 1).auto_create_topics(false).start().unwrap();
    // The keyboard is the terminal, although the input is a pipe.
    let script = format!(
        "(echo '{{\"topic\":\"missing\",\"value\":\"a\"}}'; \
         echo '{{\"topic\":\"t\",\"value\":\"b\"}}'; exec sleep 1000) | \
         $OTTLA produce -b {} --format json --max-block-ms 500 --on-error skip --live -v",
        broker.bootstrap_servers()
    );
    let mut terminal = Terminal::run(&script, &[]);
    terminal.wait_for_view("1 acknowledged   1 failed");
    terminal.press("m");
    terminal.wait_for_view("m figures");
    let messages = terminal.wait_for_view("INFO");
    let message = messages.lines().find(|line| line.contains("INFO")).unwrap().trim().to_owned();
    terminal.press("q");
    let text = terminal.wait_for_text("INFO");
    assert!(text.contains(&message) && !text.contains("MESSAGES"), "no {message:?} in {text}");
    terminal.press("\u{3}");
    let end = terminal.finish(1);
    assert!(end.contains("1 records acknowledged") && end.contains("1 failed"), "{end}");
}

#[test]
fn ctrl_c_ends_the_run_with_its_results() {
    let broker = start_broker();
    let mut terminal = Terminal::run(&perf(&broker, 10_000_000, "--live"), &[]);
    terminal.wait_for_view("requests/s");
    terminal.press("\u{3}");
    let end = terminal.finish(0);
    assert!(end.contains("interrupted: waiting for the records sent so far"), "{end}");
    assert!(end.contains("ms 99.9th."), "{end}");
}

#[test]
fn second_signal_ends_the_process_and_restores_the_terminal() {
    // No broker responds, so the first signal does not end the run.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let script = format!("yes | $OTTLA produce -b {} -t t --live", silent.local_addr().unwrap());
    // A signal before the first line is read ends the run at once: nothing is left to send.
    let ended_late = (0..10).any(|_| {
        let mut terminal = Terminal::run(&script, &[]);
        terminal.wait_for_view("q leave the view");
        terminal.press("\u{3}");
        let screen = terminal.wait("the first signal", |r| {
            let contents = r.parser.screen().contents();
            contents.contains("status 0")
                || r.parser.screen().alternate_screen()
                    && contents.contains("interrupted: sending the records read so far")
        });
        if screen.contains("status 0") {
            assert!(screen.contains("0 records acknowledged"), "{screen}");
            return false;
        }
        terminal.press("\u{3}");
        let end = terminal.finish(130);
        assert!(end.contains("interrupt again to quit"), "{end}");
        true
    });
    assert!(ended_late, "no run has read a line before the signal");
}

#[test]
fn screen_follows_the_size_of_the_terminal() {
    let broker = start_broker();
    let mut terminal = Terminal::run(&perf(&broker, 10_000_000, "--live"), &[]);
    terminal.wait_for_view("requests/s");
    terminal.resize(6, 30);
    let small = terminal.wait_for_view("80x24 shows all");
    assert!(!small.contains("NODE"), "{small}");
    terminal.resize(30, 120);
    let wide = terminal.wait_for_view("LEADER");
    assert!(wide.contains("NODE ADDRESS"), "{wide}");
    terminal.press("\u{3}");
    terminal.finish(0);
}

#[test]
fn no_color_shows_no_colours() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let colours_with = |variables: &[(&str, &str)]| {
        let script =
            format!("echo a | $OTTLA produce -b {} -t t --live", silent.local_addr().unwrap());
        let mut terminal = Terminal::run(&script, variables);
        // A broker that is not ready is yellow.
        terminal.wait_for_view("checking API versions");
        terminal.press("\u{3}\u{3}");
        let received = terminal.received.0.lock().unwrap();
        let screen = received.parser.screen();
        let cells = (0..24).flat_map(|y| (0..80).filter_map(move |x| screen.cell(y, x)));
        cells.filter(|cell| cell.fgcolor() != vt100::Color::Default).count()
    };
    assert_eq!(colours_with(&[("NO_COLOR", "1")]), 0);
    assert_ne!(colours_with(&[]), 0);
}

#[test]
fn terminals_that_cannot_show_the_view_are_refused() {
    let produce = "$OTTLA produce -b 127.0.0.1:1 -t t";
    for (script, term, reason) in [
        (format!("echo a | {produce} --live"), "dumb", "TERM is \"dumb\""),
        (format!("{produce} --live"), "xterm", "--live reads keys from the terminal"),
        (format!("echo a | {produce} --live --json"), "xterm", "--live covers the terminal"),
        // A new session has no terminal.
        (format!("echo a | setsid -w {produce} --live"), "xterm", "cannot open /dev/tty"),
    ] {
        let terminal = Terminal::run(&script, &[("TERM", term)]);
        let end = terminal.finish(2);
        assert!(end.contains(reason), "no {reason:?} in {end}");
        let received = terminal.received.0.lock().unwrap();
        assert!(!received.bytes.contains(&0x1b), "an escape sequence");
    }
}

#[test]
fn view_and_report_of_a_real_kafka_name_its_broker_and_release() {
    let Some(jars) = Jars::find_or_fetch() else { return };
    let kafka = Kafka::start(&jars, "");
    kafka.create_topic("t", 3, &[]);
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("run.json");
    let script = format!(
        "$OTTLA perf -b {} --topic t --num-records 10000000 --throughput 1000 --record-size 100 \
         --reporting-interval 100 --live --report {}",
        kafka.bootstrap,
        report.display()
    );
    let mut terminal = Terminal::run(&script, &[]);
    let has_samples = |r: &Received| {
        let screen = r.parser.screen().contents();
        let acknowledged = screen.lines().find(|line| line.contains(" acknowledged"));
        acknowledged.is_some_and(|line| !line.contains(" 0 acknowledged"))
            && screen.contains("records sent, ")
    };
    let view = terminal.wait("acknowledged records", has_samples);
    assert!(view.contains(&kafka.bootstrap), "{view}");
    terminal.press("\u{3}");
    let end = terminal.finish(0);
    assert!(end.contains("ms 99.9th."), "{end}");

    let text = std::fs::read_to_string(&report).unwrap();
    let run: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(run["totals"]["records"].as_u64().unwrap() > 0, "{run}");
    let cluster = &run["cluster"];
    assert_eq!(cluster["release"], "Kafka 4.3");
    assert_eq!(cluster["brokers"], "1");
    let features = cluster["features"].as_str().unwrap();
    assert!(features.contains("metadata.version 30"), "{features}");
    // The id that the test has formatted the storage with.
    let properties = std::fs::read_to_string(kafka.dir.join("data/meta.properties")).unwrap();
    let id = properties.lines().find_map(|line| line.strip_prefix("cluster.id=")).unwrap();
    assert_eq!(cluster["id"], id);
}
