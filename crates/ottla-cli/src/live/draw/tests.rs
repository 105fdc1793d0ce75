use std::collections::VecDeque;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;

use super::*;
use crate::live::figures::{Batches, Memory, Second};

const PLAIN: OutputStyle = OutputStyle { unicode: true, colours: false };

fn render(columns: u16, rows: u16, screen: &Screen<'_>) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    terminal.draw(|frame| draw(frame, screen)).unwrap();
    terminal.backend().buffer().clone()
}

fn lines(buffer: &Buffer) -> Vec<String> {
    let rows = buffer.content.chunks(usize::from(buffer.area.width));
    rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>())
        .map(|line| line.trim_end().to_owned())
        .collect()
}

fn partition(topic: &str, partition: i32, oldest_ms: u64, reason: &str) -> PartitionRow {
    PartitionRow {
        topic: topic.into(),
        partition,
        leader: Some(1),
        oldest: Duration::from_millis(oldest_ms),
        queued_batches: 3,
        in_flight_batches: 1,
        bytes: 49_152,
        reason: reason.into(),
    }
}

fn figures() -> Figures {
    let broker = |id, state: &str, last_error: Option<&str>| BrokerRow {
        id: Some(id),
        address: format!("kafka-{id}.example.org:9092"),
        state: state.into(),
        in_flight: 5,
        round_trip: Some(Duration::from_micros(1_234)),
        throttle: Duration::ZERO,
        last_error: last_error.map(str::to_owned),
    };
    Figures {
        elapsed: Duration::from_secs(3_723),
        records: Records {
            acknowledged: 12_345_678,
            failed: 12,
            possibly_persisted: Some(2),
            outstanding: 12_000,
            expected: Some(20_000_000),
        },
        second: Some(Second {
            records: 1_234_567.0,
            bytes: 123_456_700.0,
            requests: 1_234.0,
            latency_us: Some([2_100, 8_000, 30_100]),
        }),
        p99_us: VecDeque::from([Some(1_000), None, Some(4_000), Some(8_000)]),
        batches: Batches {
            mean_bytes: Some(16_281.6),
            records_per_batch: Some(158.7),
            compression_ratio: Some(0.45),
            records_retried: 1_500,
            splits: 0,
            throttle_ms: Some(120.0),
        },
        memory: Memory { used: 12 << 20, total: 32 << 20, waiting_callers: 1 },
        brokers: vec![
            broker(1, "ready", None),
            broker(2, "disconnected for 95 ms", Some("connection refused (os error 111)")),
        ],
        partitions: vec![
            partition("orders", 12, 1_500, "broker not connected"),
            partition("a-topic-with-a-long-name", 3, 80, "muted by batches in flight"),
            partition("orders", 2, 4, "lingering for 1 ms"),
        ],
        awaited_topics: Vec::new(),
        stale: None,
    }
}

fn screen<'a>(figures: &'a Figures, messages: &'a [String]) -> Screen<'a> {
    Screen {
        title: "ottla perf - topic orders",
        figures,
        messages,
        first_partition: 0,
        only_messages: false,
        style: PLAIN,
    }
}

#[test]
fn all_figures_fit_on_80_columns_and_24_rows() {
    let messages = ["3 records failed: NOT_ENOUGH_REPLICAS".to_owned(), "second".to_owned()];
    let buffer = render(80, 24, &screen(&figures(), &messages));
    let expected = [
        " ottla perf - topic orders                                              1:02:03",
        " records   12,345,678 acknowledged   12 failed (2 possibly persisted)   61 %",
        " rate      1,234,567 records/s   123.5 MB/s   1,234 requests/s",
        " latency   p50 2.10 ms   p99 8.00 ms   max 30.1 ms   throttled up to 120 ms",
        "           ▂ ▅█  p99 of each second, at most 8.00 ms",
        " batches   15.9 KiB   159 records   compressed to 45 %   1,500 retried",
        " memory    12,000 records   12.0 MiB of 32.0 MiB   1 callers wait",
        " NODE ADDRESS                       STATE                    IN FLIGHT      RTT",
        "    1 kafka-1.example.org:9092      ready                            5  1.23 ms",
        "    2 kafka-2.example.org:9092      disconnected for 95 ms           5  1.23 ms",
        "      last error: connection refused (os error 111)",
        " PARTITION             OLDEST QUEUED FLIGHT      SIZE WAITS FOR",
        " orders-12              1.5 s      3      1  48.0 KiB broker not connected",
        " …with-a-long-name-3  80.0 ms      3      1  48.0 KiB muted by batches in flight",
        " orders-2             4.00 ms      3      1  48.0 KiB lingering for 1 ms",
        "",
        "",
        "",
        "",
        " MESSAGES",
        " 3 records failed: NOT_ENOUGH_REPLICAS",
        " second",
        "",
        " q leave the view · ↑↓ partitions · m messages · Ctrl-C end the run",
    ];
    assert_eq!(lines(&buffer), expected);
    assert!(buffer.content.iter().all(|cell| cell.fg == Color::Reset), "a colour without colours");
}

#[test]
fn screen_in_docs_is_one_of_this_version() {
    let page = include_str!("../../../../../docs/MONITORING.md");
    let (_, rest) = page.split_once("<!-- screen: docs/pictures.sh -->\n```text\n").unwrap();
    let (documented, _) = rest.split_once("```").unwrap();
    let shown = lines(&render(80, 24, &screen(&figures(), &[])));
    // The headers of the tables and the line of keys contain no figures.
    for start in [" NODE", " PARTITION", " MESSAGES", " q leave"] {
        let line = shown.iter().find(|line| line.starts_with(start)).unwrap();
        assert!(documented.lines().any(|l| l == line), "run docs/pictures.sh: no {line:?}");
    }
}

#[test]
fn without_utf8_the_screen_is_ascii() {
    let figures = figures();
    let style = OutputStyle { unicode: false, colours: false };
    let buffer = render(80, 24, &Screen { style, ..screen(&figures, &[]) });
    assert!(lines(&buffer).iter().all(|line| line.is_ascii()), "{:?}", lines(&buffer));
    assert_eq!(lines(&buffer)[4], "           . =#  p99 of each second, at most 8.00 ms");
}

#[test]
fn screens_of_any_size_are_drawn() {
    let figures = figures();
    let messages = vec!["a message that is longer than a narrow screen".to_owned(); 20];
    // Around each limit of the layout.
    for columns in [1, 2, 9, 10, 20, 49, 50, 51, 79, 80, 99, 100, 101, 200] {
        for rows in [1, 2, 3, 8, 13, 14, 15, 16, 20, 23, 24, 40] {
            for only_messages in [false, true] {
                let screen = Screen { only_messages, ..screen(&figures, &messages) };
                let buffer = render(columns, rows, &screen);
                // The most important figure is there, unless the screen has no room for it.
                let text = lines(&buffer).join("\n");
                let is_there = text.contains("12,345,678") || only_messages;
                assert!(is_there || columns < 10, "{columns} x {rows}: {text}");
            }
        }
    }
}

#[test]
fn wide_screens_have_leaders_and_longer_names() {
    let figures = figures();
    let text = lines(&render(120, 30, &screen(&figures, &[]))).join("\n");
    assert!(text.contains("LEADER") && text.contains(" a-topic-with-a-long-name-3 "), "{text}");
}

#[test]
fn brokers_that_do_not_fit_are_counted() {
    let mut figures = figures();
    figures.brokers = vec![figures.brokers[0].clone(); 50];
    let shown = lines(&render(80, 24, &screen(&figures, &[])));
    let brokers = shown.iter().filter(|line| line.contains("example.org")).count();
    let more = shown.iter().find(|line| line.contains("lines more")).expect("the rest is counted");
    assert_eq!(more.trim(), format!("{} lines more", 50 - brokers));
    assert!(shown.iter().any(|line| line.contains("orders-12")), "{shown:?}");
}

#[test]
fn partitions_can_be_scrolled_to_the_last_one() {
    let figures = figures();
    for (first, visible) in [(1, 2), (2, 1), (99, 1)] {
        let screen = Screen { first_partition: first, ..screen(&figures, &[]) };
        let text = lines(&render(80, 24, &screen)).join("\n");
        assert_eq!(text.matches("48.0 KiB").count(), visible, "{text}");
    }
}

#[test]
fn long_messages_take_several_rows_and_the_last_one_is_shown() {
    let figures = figures();
    let messages = ["first".to_owned(), format!("{}end \u{1b}[31mred", "x".repeat(100))];
    let screen = Screen { only_messages: true, ..screen(&figures, &messages) };
    let shown = lines(&render(80, 24, &screen));
    let text = shown.join("\n");
    assert!(text.contains("end [31mred") && text.contains("first"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn waits_for_metadata_and_a_busy_thread_are_shown() {
    let mut figures = figures();
    figures.partitions.clear();
    figures.awaited_topics = vec!["2 callers wait for metadata of order: UNKNOWN_TOPIC".into()];
    figures.stale = Some("the producer's thread is busy with callbacks".into());
    let text = lines(&render(80, 24, &screen(&figures, &[]))).join("\n");
    for expected in ["wait for metadata of order: UNKNOWN", "busy with callbacks", "no records are"]
    {
        assert!(text.contains(expected), "no {expected:?} in {text}");
    }
}

#[test]
fn failures_and_faults_have_colours() {
    let figures = figures();
    let style = OutputStyle { unicode: true, colours: true };
    let buffer = render(80, 24, &Screen { style, ..screen(&figures, &[]) });
    let colour_of = |text: &str| {
        let rows = lines(&buffer);
        let y = rows.iter().position(|line| line.contains(text)).expect("the text is shown");
        let x = rows[y].chars().collect::<String>().find(text).expect("the text is shown");
        buffer[(x as u16, y as u16)].fg
    };
    assert_eq!(colour_of("12 failed"), Color::Red);
    assert_eq!(colour_of("disconnected"), Color::Yellow);
    assert_eq!(colour_of("ready"), Color::Reset);
    assert_eq!(colour_of("last error"), Color::Red);
}
