//! Draws the live view: from figures to a screen of any size.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Cell, Paragraph, Row, Table};

use super::figures::{BrokerRow, Figures, PartitionRow, Records};
use crate::console::OutputStyle;
use crate::units::{bytes, count, time, time_us};

/// The smallest screen with tables.
const MIN_COLUMNS: u16 = 50;
const MIN_ROWS: u16 = 14;
/// Lines of the totals.
const SUMMARY_ROWS: u16 = 6;
/// From this width on, partitions have a column for their leader.
const WIDE_COLUMNS: u16 = 100;
const LABEL_COLUMNS: usize = 10;

/// What one screen shows.
pub(super) struct Screen<'a> {
    /// The command and the topic.
    pub(super) title: &'a str,
    pub(super) figures: &'a Figures,
    /// The last lines of the output, the oldest first.
    pub(super) messages: &'a [String],
    /// The first partition to show.
    pub(super) first_partition: usize,
    /// The messages have the whole screen.
    pub(super) only_messages: bool,
    pub(super) style: OutputStyle,
}

pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen<'_>) {
    let area = frame.area();
    if area.width < MIN_COLUMNS || area.height < MIN_ROWS {
        frame.render_widget(Paragraph::new(screen.small()), area);
        return;
    }
    let rest = area.height - 2;
    let summary_rows = if screen.only_messages { 0 } else { SUMMARY_ROWS };
    let message_rows =
        if screen.only_messages { rest } else { ((rest - SUMMARY_ROWS) / 4).clamp(2, 10) };
    let table_rows = rest - summary_rows - message_rows;
    let broker_lines = 1 + screen.figures.brokers.iter().map(broker_lines).sum::<usize>();
    let broker_rows = (broker_lines as u16).min(table_rows / 2);
    let areas = Layout::vertical(
        [1, summary_rows, broker_rows, table_rows - broker_rows, message_rows, 1]
            .map(Constraint::Length),
    );
    let [title, summary, brokers, partitions, messages, help] = areas.areas(area);
    frame.render_widget(screen.title_line(area.width), title);
    frame.render_widget(Paragraph::new(screen.summary(area.width)), summary);
    frame.render_widget(screen.brokers(brokers), brokers);
    screen.draw_partitions(frame, partitions);
    frame.render_widget(Paragraph::new(screen.messages(messages)), messages);
    frame.render_widget(Line::styled(screen.help(), screen.faint()), help);
}

/// Returns the number of the last partition that can be the first one on the screen.
pub(super) fn last_first_partition(figures: &Figures) -> usize {
    figures.partitions.len().saturating_sub(1)
}

fn broker_lines(broker: &BrokerRow) -> usize {
    1 + usize::from(broker.last_error.is_some())
}

impl Screen<'_> {
    fn bold(&self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn faint(&self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// Bold, and in a colour if there are colours.
    fn marked(&self, colour: Color) -> Style {
        if self.style.colours { self.bold().fg(colour) } else { self.bold() }
    }

    fn dash(&self) -> String {
        if self.style.unicode { "–".into() } else { "-".into() }
    }

    fn title_line(&self, columns: u16) -> Line<'static> {
        let seconds = self.figures.elapsed.as_secs();
        let clock = format!("{}:{:02}:{:02} ", seconds / 3600, seconds / 60 % 60, seconds % 60);
        let columns = usize::from(columns).saturating_sub(clock.len());
        let title = format!(" {:<columns$.columns$}", self.title, columns = columns - 1);
        Line::styled(title + &clock, self.bold().add_modifier(Modifier::REVERSED))
    }

    fn help(&self) -> String {
        let (arrows, dot) = if self.style.unicode { ("↑↓", "·") } else { ("j k", "-") };
        let messages = if self.only_messages { "m figures" } else { "m messages" };
        format!(
            " q leave the view {dot} {arrows} partitions {dot} {messages} {dot} Ctrl-C end the run"
        )
    }

    /// A screen without tables.
    fn small(&self) -> Text<'static> {
        let Records { acknowledged, failed, .. } = self.figures.records;
        let mut lines = vec![
            Line::raw(format!("{} acknowledged", count(acknowledged))),
            Line::styled(format!("{} failed", count(failed)), self.failed_style()),
        ];
        if let Some(second) = &self.figures.second {
            lines.push(Line::raw(format!("{} records/s", count(second.records as u64))));
        }
        lines.push(Line::styled("q: leave; 80x24 shows all", self.faint()));
        Text::from(lines)
    }

    fn failed_style(&self) -> Style {
        if self.figures.records.failed > 0 { self.marked(Color::Red) } else { Style::new() }
    }

    fn summary(&self, columns: u16) -> Text<'static> {
        let figures = self.figures;
        let lines = [
            ("records", self.records_line()),
            ("rate", vec![Span::raw(self.rate_text())]),
            ("latency", self.latency_line()),
            ("", vec![Span::raw(self.latency_chart(usize::from(columns)))]),
            ("batches", vec![Span::raw(self.batches_text())]),
            ("memory", self.memory_line()),
        ];
        let label =
            |name: &'static str| Span::styled(format!(" {name:<LABEL_COLUMNS$}"), self.faint());
        let mut lines: Vec<Line<'_>> = lines
            .into_iter()
            .map(|(name, spans)| Line::from_iter([vec![label(name)], spans].concat()))
            .collect();
        if let Some(stale) = &figures.stale {
            let text = format!(" out of date below: {stale}");
            lines[SUMMARY_ROWS as usize - 3] = Line::styled(text, self.marked(Color::Yellow));
        }
        Text::from(lines)
    }

    fn records_line(&self) -> Vec<Span<'static>> {
        let records = &self.figures.records;
        let mut failed = format!("{} failed", count(records.failed));
        if let Some(n @ 1..) = records.possibly_persisted {
            failed += &format!(" ({} possibly persisted)", count(n));
        }
        let mut rest = String::new();
        if let Some(expected @ 1..) = records.expected {
            let done = records.acknowledged + records.failed;
            rest = format!("   {} %", done.min(expected) * 100 / expected);
        }
        vec![
            Span::styled(format!("{} acknowledged", count(records.acknowledged)), self.bold()),
            Span::raw("   "),
            Span::styled(failed, self.failed_style()),
            Span::raw(rest),
        ]
    }

    fn rate_text(&self) -> String {
        let Some(second) = &self.figures.second else { return self.dash() };
        format!(
            "{} records/s   {:.1} MB/s   {} requests/s",
            count(second.records as u64),
            second.bytes / 1e6,
            count(second.requests as u64)
        )
    }

    fn latency_line(&self) -> Vec<Span<'static>> {
        let text = match self.figures.second.and_then(|second| second.latency_us) {
            Some(us) => {
                let [p50, p99, max] = us.map(time_us);
                format!("p50 {p50}   p99 {p99}   max {max}")
            }
            None => self.dash(),
        };
        let throttle = self.figures.batches.throttle_ms.filter(|ms| *ms > 0.0);
        let throttle = throttle.map(|ms| {
            Span::styled(format!("   throttled up to {ms:.0} ms"), self.marked(Color::Yellow))
        });
        [Span::raw(text)].into_iter().chain(throttle).collect()
    }

    /// The 99th percentile of each second as a row of bars.
    fn latency_chart(&self, columns: usize) -> String {
        const UNICODE: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        const ASCII: [char; 8] = ['_', '.', ':', '-', '=', '+', '*', '#'];
        let bars = if self.style.unicode { UNICODE } else { ASCII };
        let history = &self.figures.p99_us;
        let Some(max) = history.iter().flatten().max().copied() else { return String::new() };
        let label = format!("  p99 of each second, at most {}", time_us(max));
        let width = columns.saturating_sub(LABEL_COLUMNS + 2 + label.len());
        let shown = history.iter().skip(history.len().saturating_sub(width));
        let chart: String = shown
            .map(|us| us.map_or(' ', |us| bars[(us * 8 / max.max(1)).min(7) as usize]))
            .collect();
        chart + &label
    }

    fn batches_text(&self) -> String {
        let b = &self.figures.batches;
        let (Some(size), Some(records)) = (b.mean_bytes, b.records_per_batch) else {
            return self.dash();
        };
        let ratio = b.compression_ratio.filter(|ratio| *ratio < 0.995);
        let splits = (b.splits > 0).then(|| format!("   {} split", count(b.splits)));
        let ratio = ratio.map(|r| format!("   compressed to {:.0} %", r * 100.0));
        format!(
            "{}   {}{}   {} retried{}",
            bytes(size),
            records_text(records.round() as u64),
            ratio.unwrap_or_default(),
            count(b.records_retried),
            splits.unwrap_or_default()
        )
    }

    fn memory_line(&self) -> Vec<Span<'static>> {
        let memory = &self.figures.memory;
        let used = format!(
            "{}   {} of {}   ",
            records_text(self.figures.records.outstanding),
            bytes(memory.used as f64),
            bytes(memory.total as f64)
        );
        let waiting = format!("{} callers wait", memory.waiting_callers);
        let style =
            if memory.waiting_callers > 0 { self.marked(Color::Yellow) } else { Style::new() };
        vec![Span::raw(used), Span::styled(waiting, style)]
    }

    fn brokers(&self, area: Rect) -> Text<'static> {
        let columns = usize::from(area.width);
        // Node id, state, requests in flight, round trip and throttle take 50 columns.
        let address_columns = columns.saturating_sub(51).clamp(12, 40);
        let header = format!(
            " {:>4} {:<address_columns$} {:<24} {:>9} {:>8}",
            "NODE", "ADDRESS", "STATE", "IN FLIGHT", "RTT"
        );
        let mut lines = vec![Line::styled(header, self.bold())];
        for broker in &self.figures.brokers {
            lines.extend(self.broker(broker, address_columns));
        }
        let hidden = lines.len().saturating_sub(usize::from(area.height));
        if hidden > 0 && area.height > 1 {
            lines.truncate(usize::from(area.height) - 1);
            lines.push(Line::styled(format!("      {} lines more", hidden + 1), self.faint()));
        }
        Text::from(lines)
    }

    fn broker(&self, broker: &BrokerRow, address_columns: usize) -> Vec<Line<'static>> {
        let is_throttled = !broker.throttle.is_zero();
        let state = if is_throttled {
            format!("throttled for {}", time(broker.throttle))
        } else {
            broker.state.clone()
        };
        let is_normal = broker.state == "ready" && !is_throttled;
        let style = if is_normal { Style::new() } else { self.marked(Color::Yellow) };
        let id = broker.id.map_or_else(|| self.dash(), |id| id.to_string());
        let round_trip = broker.round_trip.map_or_else(|| self.dash(), time);
        let address = &broker.address;
        let mut lines = vec![Line::from_iter([
            Span::raw(format!(" {id:>4} {address:<address_columns$.address_columns$} ")),
            Span::styled(format!("{state:<24.24}"), style),
            Span::raw(format!(" {:>9} {round_trip:>8}", broker.in_flight)),
        ])];
        if let Some(e) = &broker.last_error {
            let style = if is_normal { self.faint() } else { self.marked(Color::Red) };
            lines.push(Line::styled(format!("      last error: {e}"), style));
        }
        lines
    }

    fn draw_partitions(&self, frame: &mut Frame<'_>, area: Rect) {
        let figures = self.figures;
        let is_wide = area.width >= WIDE_COLUMNS;
        let mut header =
            vec![" PARTITION", "  OLDEST", "QUEUED", "FLIGHT", "     SIZE", "WAITS FOR"];
        let mut widths = [20, 8, 6, 6, 9].map(Constraint::Length).to_vec();
        if is_wide {
            header.insert(1, "LEADER");
            widths[0] = Constraint::Length(area.width / 4);
            widths.insert(1, Constraint::Length(6));
        }
        widths.push(Constraint::Fill(1));
        let rows = usize::from(area.height).saturating_sub(1);
        let awaited = figures.awaited_topics.iter().take(rows / 2);
        let awaited_rows = awaited.clone().count() as u16;
        let first = self.first_partition.min(last_first_partition(figures));
        let shown = figures.partitions.iter().skip(first).take(rows);
        let rows = shown.map(|p| self.partition(p, is_wide, widths_of_name(area.width, is_wide)));
        let header = Row::new(header).style(self.bold());
        let mut table_area = area;
        table_area.height -= awaited_rows;
        frame.render_widget(Table::new(rows, widths).header(header), table_area);
        if figures.partitions.is_empty() && table_area.height > 1 {
            let line = Rect { y: area.y + 1, height: 1, ..area };
            frame.render_widget(
                Line::styled(" no records are queued or in flight", self.faint()),
                line,
            );
        }
        let style = self.marked(Color::Yellow);
        let lines = Text::from_iter(awaited.map(|text| Line::styled(format!(" {text}"), style)));
        let bottom = Rect { y: table_area.bottom(), height: awaited_rows, ..area };
        frame.render_widget(Paragraph::new(lines), bottom);
    }

    fn partition(&self, p: &PartitionRow, is_wide: bool, name_columns: usize) -> Row<'static> {
        let right = |text: String, width: usize| Cell::from(format!("{text:>width$}"));
        let name = partition_name(&p.topic, p.partition, name_columns, self.style.unicode);
        let mut cells = vec![
            Cell::from(format!(" {name}")),
            right(time(p.oldest), 8),
            right(p.queued_batches.to_string(), 6),
            right(p.in_flight_batches.to_string(), 6),
            right(bytes(p.bytes as f64), 9),
            Cell::from(p.reason.clone()),
        ];
        if is_wide {
            let leader = p.leader.map_or_else(|| self.dash(), |id| id.to_string());
            cells.insert(1, right(leader, 6));
        }
        let is_old = p.oldest >= Duration::from_secs(1);
        Row::new(cells).style(if is_old { self.marked(Color::Yellow) } else { Style::new() })
    }

    fn messages(&self, area: Rect) -> Text<'static> {
        let rows = usize::from(area.height).saturating_sub(1);
        let columns = usize::from(area.width).saturating_sub(2).max(1);
        let mut wrapped: Vec<Line<'static>> = Vec::new();
        // The last lines are the newest ones. A long one takes several rows.
        for message in self.messages.iter().rev() {
            if wrapped.len() >= rows {
                break;
            }
            let characters: Vec<char> = message.chars().filter(|c| !c.is_control()).collect();
            let parts: Vec<String> = characters
                .chunks(columns)
                .map(|part| format!(" {}", String::from_iter(part)))
                .collect();
            wrapped.extend(parts.into_iter().rev().map(Line::raw));
        }
        wrapped.truncate(rows);
        wrapped.push(Line::styled(" MESSAGES", self.bold()));
        wrapped.reverse();
        Text::from(wrapped)
    }
}

fn widths_of_name(columns: u16, is_wide: bool) -> usize {
    usize::from(if is_wide { columns / 4 } else { 20 }) - 1
}

/// Returns `topic-partition`. If that is too long, the start of the topic is left out: the ends of
/// names differ more often.
fn partition_name(topic: &str, partition: i32, columns: usize, unicode: bool) -> String {
    let name = format!("{topic}-{partition}");
    let len = name.chars().count();
    if len <= columns {
        return name;
    }
    let mark = if unicode { "…" } else { "~" };
    let end: String = name.chars().skip(len - columns + 1).collect();
    format!("{mark}{end}")
}

fn records_text(n: u64) -> String {
    format!("{} record{}", count(n), if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests;
