//! A screen out of what was seen: servers, rates, latency, and what happened.
//!
//! Colours are the terminal's own sixteen, so that it looks as its owner likes it, light or dark; nothing is said by colour alone.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use raftmap::survey::{ClusterView, MemberView};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Cell, Clear, Paragraph, Row, Sparkline, Table, Wrap};

use super::super::status;
use super::history::{Happened, History, Kind};

/// What is shown.
pub(crate) struct Screen<'a> {
    pub(crate) title: &'a str,
    pub(crate) age: Duration,
    pub(crate) history: &'a History,
    /// The server that keys act on.
    pub(crate) selected: Option<u64>,
    /// What was done to servers, in a word each.
    pub(crate) done_to: &'a BTreeMap<u64, &'static str>,
    pub(crate) promise: Option<Promise>,
    pub(crate) latency: Option<Latency<'a>>,
    /// Keys, and what they do.
    pub(crate) keys: &'a [(&'a str, &'a str)],
    pub(crate) overlay: Option<Overlay<'a>>,
}

/// Whether the map keeps what it promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Promise {
    pub(crate) acked: u64,
    pub(crate) verified: u64,
    pub(crate) lost: u64,
}

/// How long writes take, seen from a client.
pub(crate) struct Latency<'a> {
    /// Of the last second, in microseconds.
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    /// The longest time so far in which no write was acknowledged.
    pub(crate) longest_gap: Duration,
    /// The p99 of each second, the latest last.
    pub(crate) p99s: &'a VecDeque<u64>,
}

/// What lies above the rest.
pub(crate) struct Overlay<'a> {
    pub(crate) title: String,
    pub(crate) lines: Vec<String>,
    /// How many lines to leave out at the end.
    pub(crate) up: usize,
    pub(crate) hint: &'a str,
}

impl Screen<'_> {
    /// Draws it.
    pub(crate) fn draw(&self, frame: &mut Frame) {
        let servers = u16::try_from(self.history.view().members.len().max(1)).unwrap_or(u16::MAX);
        let [head, table, graphs, events, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(servers.saturating_add(3)),
            Constraint::Length(6),
            Constraint::Min(3),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        self.draw_head(frame, head);
        self.draw_servers(frame, table);
        self.draw_graphs(frame, graphs);
        self.draw_events(frame, events);
        frame.render_widget(keys(self.keys), foot);
        if let Some(overlay) = &self.overlay {
            overlay.draw(frame);
        }
    }

    fn draw_head(&self, frame: &mut Frame, area: Rect) {
        let view = self.history.view();
        let leads = match view.leader {
            Some(leader) => format!("server {leader} leads in term {}", view.leader_term()),
            None => "no server leads".to_owned(),
        };
        let age = status::uptime(u64::try_from(self.age.as_millis()).unwrap_or(u64::MAX));
        let left = Line::from(vec![
            Span::styled(
                format!(" {} ", self.title),
                Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD),
            ),
            Span::raw(format!("  {leads} · {age}")),
        ]);
        frame.render_widget(left, area);
        if let Some(promise) = self.promise {
            frame.render_widget(promise.line().alignment(Alignment::Right), area);
        }
    }

    fn draw_servers(&self, frame: &mut Frame, area: Rect) {
        let view = self.history.view();
        let head =
            ["", "ID", "ROLE", "TERM", "LOG", "COMMIT", "APPLIED", "LAG", "SYNC P99", "MEMORY", "UP", ""];
        let widths = [1, 3, 13, 5, 10, 10, 10, 6, 9, 8, 6].map(Constraint::Length);
        let rows = view.members.iter().map(|member| self.server(member, view));
        let table = Table::new(rows, widths.into_iter().chain([Constraint::Fill(1)]))
            .header(Row::new(head).style(Style::new().add_modifier(Modifier::DIM)))
            .block(framed(" servers "));
        frame.render_widget(table, area);
    }

    fn server(&self, member: &MemberView, view: &ClusterView) -> Row<'static> {
        let done_to = self.done_to.get(&member.id.0).copied();
        let is_selected = self.selected == Some(member.id.0);
        let number = |number: Option<u64>| number.map_or_else(|| "–".to_owned(), grouped);
        let own = member.own.as_ref();
        let leads = view.leader == Some(member.id);
        let (sign, role, colour) = match own {
            None => ("✖", done_to.unwrap_or("no answer"), Color::Red),
            Some(_) if leads => ("●", "leader", Color::Green),
            Some(own) => ("○", status::role(own), Color::Cyan),
        };
        let lag = if leads { Some(0) } else { member.by_leader.as_ref().map(|told| told.lag) };
        let noted = match (own, done_to) {
            (Some(_), Some(done)) => done.to_owned(),
            (None, _) => member.silence.clone().unwrap_or_default(),
            _ => status::notes(member, view).join("; "),
        };
        let cells = [
            if is_selected { "▶".to_owned() } else { String::new() },
            member.id.to_string(),
            format!("{sign} {role}"),
            number(own.map(|own| own.term)),
            number(member.last_log_index()),
            number(own.map(|own| own.commit_index)),
            number(own.map(|own| own.applied_index)),
            number(lag),
            own.filter(|own| own.log_write_p99_us > 0)
                .map_or_else(|| "–".to_owned(), |own| micros(own.log_write_p99_us)),
            own.filter(|own| own.memory_bytes > 0)
                .map_or_else(|| "–".to_owned(), |own| format!("{} MiB", own.memory_bytes >> 20)),
            own.map_or_else(|| "–".to_owned(), |own| status::uptime(own.uptime_ms)),
            noted,
        ];
        let cells = cells.into_iter().enumerate().map(|(column, text)| match column {
            2 => Cell::new(text).style(Style::new().fg(colour).add_modifier(Modifier::BOLD)),
            11 => Cell::new(text).style(Style::new().fg(Color::Yellow)),
            _ => Cell::new(text),
        });
        let style = if is_selected { Style::new().add_modifier(Modifier::BOLD) } else { Style::new() };
        Row::new(cells).style(style)
    }

    fn draw_graphs(&self, frame: &mut Frame, area: Rect) {
        let latest = |rates: &VecDeque<u64>| rates.back().copied().unwrap_or_default();
        let writes = format!(" {} writes a second ", grouped(latest(&self.history.writes)));
        let reads = format!(" {} reads a second ", grouped(latest(&self.history.reads)));
        let mut graphs =
            vec![(writes, &self.history.writes, Color::Green), (reads, &self.history.reads, Color::Blue)];
        if let Some(latency) = &self.latency {
            let title = format!(
                " a write: p50 {} · p99 {} · longest gap {} ",
                micros(latency.p50_us),
                micros(latency.p99_us),
                micros(u64::try_from(latency.longest_gap.as_micros()).unwrap_or(u64::MAX))
            );
            graphs.push((title, latency.p99s, Color::Magenta));
        }
        let weights = if graphs.len() == 3 { vec![3, 3, 5] } else { vec![1, 1] };
        let areas = Layout::horizontal(weights.into_iter().map(Constraint::Fill)).split(area);
        for ((title, data, colour), area) in graphs.into_iter().zip(areas.iter()) {
            let block = framed(title);
            let inner = block.inner(*area);
            frame.render_widget(block, *area);
            let shown = data.len().saturating_sub(usize::from(inner.width));
            let line = Sparkline::default().data(data.iter().skip(shown)).style(Style::new().fg(colour));
            frame.render_widget(line, inner);
        }
    }

    fn draw_events(&self, frame: &mut Frame, area: Rect) {
        let block = framed(" what happened ");
        let room = usize::from(block.inner(area).height);
        let events = &self.history.events;
        let lines: Vec<Line> = events.iter().skip(events.len().saturating_sub(room)).map(event).collect();
        frame.render_widget(Paragraph::new(lines).block(block), area);
    }
}

impl Promise {
    fn line(self) -> Line<'static> {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let lost = match self.lost {
            0 => bold.fg(Color::Green),
            _ => bold.fg(Color::Red).add_modifier(Modifier::REVERSED),
        };
        Line::from(vec![
            Span::styled(format!("acked {}", grouped(self.acked)), bold),
            Span::raw(" · "),
            Span::styled(format!("verified {}", grouped(self.verified)), bold),
            Span::raw(" · "),
            Span::styled(format!("LOST {} ", grouped(self.lost)), lost),
        ])
    }
}

impl Overlay<'_> {
    fn draw(&self, frame: &mut Frame) {
        let whole = frame.area();
        let longest = self.lines.iter().map(|line| line.chars().count()).max().unwrap_or_default();
        let width =
            u16::try_from(longest + 4).unwrap_or(u16::MAX).clamp(40, whole.width.saturating_sub(4).max(40));
        let inner = usize::from(width.saturating_sub(2)).max(1);
        let rows: usize = self.lines.iter().map(|line| (line.chars().count() + 1).div_ceil(inner)).sum();
        let height = u16::try_from(rows + 2).unwrap_or(u16::MAX).min(whole.height.saturating_sub(2));
        let area = whole.centered(Constraint::Length(width), Constraint::Length(height));
        let block = framed(format!(" {} ", self.title))
            .title_bottom(Line::from(format!(" {} ", self.hint)).right_aligned());
        let room = usize::from(block.inner(area).height);
        let end = self.lines.len().saturating_sub(self.up).max(room.min(self.lines.len()));
        let lines: Vec<Line> = self.lines[end.saturating_sub(room)..end]
            .iter()
            .map(|line| Line::from(format!(" {line}")))
            .collect();
        frame.render_widget(Clear, area);
        frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }).block(block), area);
    }
}

fn event(happened: &Happened) -> Line<'_> {
    let (sign, colour) = match happened.kind {
        Kind::Good => ("+", Color::Green),
        Kind::Done => ("·", Color::Yellow),
        Kind::Bad => ("!", Color::Red),
    };
    Line::from(vec![
        Span::styled(
            format!(" {:8.2} s  ", happened.at.as_secs_f64()),
            Style::new().add_modifier(Modifier::DIM),
        ),
        Span::styled(format!("{sign} "), Style::new().fg(colour).add_modifier(Modifier::BOLD)),
        Span::raw(happened.text.as_str()),
    ])
}

fn keys<'a>(keys: &'a [(&'a str, &'a str)]) -> Line<'a> {
    let key = Style::new().add_modifier(Modifier::REVERSED);
    let spans =
        keys.iter().flat_map(|(name, does)| [Span::styled(*name, key), Span::raw(format!(" {does}  "))]);
    Line::from(spans.collect::<Vec<_>>())
}

fn framed<'a>(title: impl Into<Line<'a>>) -> Block<'a> {
    Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(Style::new().add_modifier(Modifier::DIM))
        .title(title)
}

/// A time in the unit that people would choose.
fn micros(us: u64) -> String {
    match us {
        0..1000 => format!("{us} µs"),
        1000..10_000 => format!("{}.{} ms", us / 1000, us / 100 % 10),
        10_000..10_000_000 => format!("{} ms", us / 1000),
        _ => format!("{} s", us / 1_000_000),
    }
}

/// `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use raftmap_client::MemberStatus;
    use raftmap_proto::v1::member_status::State;
    use raftmap_raft::NodeId;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn history() -> History {
        let began = Instant::now();
        let mut history = History::new(began);
        let member = |id, state: State| MemberView {
            own: Some(MemberStatus {
                id,
                state: state.into(),
                term: 7,
                last_log_index: 12_345,
                memory_bytes: 34 << 20,
                log_write_p99_us: 1_234,
                ..MemberStatus::default()
            }),
            ..MemberView::unknown(NodeId(id), format!("h{id}:1"))
        };
        let mut members =
            vec![member(1, State::LEADER), member(2, State::FOLLOWER), member(3, State::FOLLOWER)];
        members[2].own = None;
        members[2].silence = Some("connection refused".to_owned());
        history.see(began, ClusterView { leader: Some(NodeId(1)), term: 7, members, silent: Vec::new() });
        history.note(began, Kind::Done, "server 3 is killed".to_owned());
        history
    }

    fn drawn(width: u16, height: u16, overlay: Option<Overlay<'_>>) -> String {
        let history = history();
        let (done_to, p99s) = (BTreeMap::from([(3, "killed")]), VecDeque::from([1, 2, 3]));
        let screen = Screen {
            title: "raftmap demo",
            age: Duration::from_secs(61),
            history: &history,
            selected: Some(2),
            done_to: &done_to,
            promise: Some(Promise { acked: 1_234_567, verified: 1_234_000, lost: 0 }),
            latency: Some(Latency {
                p50_us: 800,
                p99_us: 4_100,
                longest_gap: Duration::from_millis(23),
                p99s: &p99s,
            }),
            keys: &[("k", "kill"), ("q", "quit")],
            overlay,
        };
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn all_that_counts_is_in_sight() {
        let text = drawn(140, 30, None);
        for part in [
            "raftmap demo",
            "server 1 leads in term 7 · 1m01s",
            "acked 1,234,567 · verified 1,234,000 · LOST 0",
            "● leader",
            "▶ 2   ○ follower",
            "12,345",
            "1.2 ms",
            "34 MiB",
            "✖ killed",
            "connection refused",
            "a write: p50 800 µs · p99 4.1 ms · longest gap 23 ms",
            "server 3 is killed",
            "k kill",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn small_terminals_and_no_terminals_at_all_are_survived() {
        for (width, height) in [(80, 24), (40, 10), (10, 3), (1, 1)] {
            drawn(width, height, None);
            let lines = (0..50).map(|n| format!("line {n}")).collect();
            drawn(width, height, Some(Overlay { title: "log".to_owned(), lines, up: 3, hint: "esc: close" }));
        }
    }

    #[test]
    fn an_overlay_shows_the_end_or_what_is_before_it() {
        let overlay = |up| {
            let lines = (0..50).map(|n| format!("line {n}.")).collect();
            drawn(
                100,
                20,
                Some(Overlay { title: "log of server 2".to_owned(), lines, up, hint: "esc: close" }),
            )
        };
        let text = overlay(0);
        assert!(
            text.contains("log of server 2") && text.contains("line 49.") && !text.contains("line 3."),
            "{text}"
        );
        let text = overlay(1000);
        assert!(text.contains("line 0.") && !text.contains("line 49."), "{text}");
    }

    #[test]
    fn numbers_are_as_people_write_them() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([5, 1_500, 15_000, 12_000_000].map(micros), ["5 µs", "1.5 ms", "15 ms", "12 s"]);
    }
}
