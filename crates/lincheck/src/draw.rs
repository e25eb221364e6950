//! Operations as text, and their time line.

use std::fmt::Write as _;

use crate::history::{Expected, Operation, Outcome, Record, Request, Response, Step};

/// Longer keys and values are cut.
const TEXT_CHARS_MAX: usize = 24;

/// More keys, steps and records of one operation are cut.
const ITEMS_MAX: usize = 6;

/// Columns from one moment to the next.
const COLUMNS: usize = 4;

/// A key or value in quotes; hexadecimal if it is no text.
pub(crate) fn quoted(bytes: &[u8]) -> String {
    let (mut text, quote) = match std::str::from_utf8(bytes) {
        Ok(text) => (text.escape_debug().to_string(), "\""),
        Err(_) => (bytes.iter().fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}")), ""),
    };
    if let Some((cut, _)) = text.char_indices().nth(TEXT_CHARS_MAX) {
        text.truncate(cut);
        text.push('…');
    }
    format!("{quote}{text}{quote}")
}

/// A value and the revision that set it.
pub(crate) fn record(value: &[u8], revision: u64) -> String {
    format!("{}@{revision}", quoted(value))
}

fn seen(seen: Option<&Record>) -> String {
    seen.map_or_else(|| "nothing".to_owned(), |seen| record(&seen.value, seen.revision))
}

fn list(items: impl Iterator<Item = String>) -> String {
    let mut items: Vec<String> = items.collect();
    if items.len() > ITEMS_MAX {
        let more = items.len() - ITEMS_MAX;
        items.truncate(ITEMS_MAX);
        items.push(format!("… {more} more"));
    }
    items.join(", ")
}

/// What was asked.
fn asked(request: &Request) -> String {
    let keys = |keys: &[bytes::Bytes]| list(keys.iter().map(|key| quoted(key)));
    match request {
        Request::Get { keys: asked } => format!("get {}", keys(asked)),
        Request::Put { entries } => {
            format!(
                "put {}",
                list(entries.iter().map(|(key, value)| format!("{}={}", quoted(key), quoted(value))))
            )
        }
        Request::Delete { keys: asked } => format!("delete {}", keys(asked)),
        Request::Txn { conditions, then, otherwise } => {
            let conditions = list(conditions.iter().map(|condition| {
                let key = quoted(&condition.key);
                match &condition.expected {
                    Expected::Exists(true) => format!("{key} exists"),
                    Expected::Exists(false) | Expected::Revision(0) => format!("{key} is absent"),
                    Expected::Revision(revision) => format!("{key} is of {revision}"),
                    Expected::Value(value) => format!("{key} is {}", quoted(value)),
                }
            }));
            let mut text =
                if conditions.is_empty() { "txn ".to_owned() } else { format!("if {conditions}: ") };
            text.push_str(&steps(then));
            if !otherwise.is_empty() {
                let _ = write!(text, " else {}", steps(otherwise));
            }
            text
        }
        Request::Scan { start, end, limit } => {
            let end = if end.is_empty() { "the end".to_owned() } else { quoted(end) };
            let limit = if *limit == 0 { String::new() } else { format!(", {limit} at most") };
            format!("scan {} to {end}{limit}", quoted(start))
        }
    }
}

fn steps(steps: &[Step]) -> String {
    let text = list(steps.iter().map(|step| match step {
        Step::Put(key, value) => format!("put {}={}", quoted(key), quoted(value)),
        Step::Delete(key) => format!("delete {}", quoted(key)),
        Step::Get(key) => format!("get {}", quoted(key)),
    }));
    if text.is_empty() { "nothing".to_owned() } else { text }
}

/// What came back, but for the revision.
fn answered(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Unknown | Outcome::NotApplied | Outcome::Done(Response::Put { .. }) => String::new(),
        Outcome::Done(Response::Got { records, .. }) => {
            format!(" → {}", list(records.iter().map(|record| seen(record.as_ref()))))
        }
        Outcome::Done(Response::Deleted { existed, .. }) => format!(" → {existed} removed"),
        Outcome::Done(Response::Txn { succeeded, results, .. }) => {
            let saw = list(results.iter().map(|record| seen(record.as_ref())));
            let branch = if *succeeded { "held" } else { "failed" };
            if saw.is_empty() { format!(" → {branch}") } else { format!(" → {branch}, saw {saw}") }
        }
        Outcome::Done(Response::Scanned { records, .. }) => {
            let found = records.iter().map(|(key, found)| format!("{}={}", quoted(key), seen(Some(found))));
            let found = list(found);
            if found.is_empty() { " → nothing".to_owned() } else { format!(" → {found}") }
        }
    }
}

/// One line of the drawing: what of the operation matters, and what it was when it was recorded.
pub(crate) struct Row<'a> {
    pub(crate) part: &'a Operation,
    pub(crate) whole: &'a Operation,
    /// Its place in the history.
    pub(crate) source: usize,
}

impl Row<'_> {
    fn text(&self) -> String {
        let mut text = match (&self.whole.request, &self.part.request, &self.part.outcome) {
            (
                scan @ Request::Scan { .. },
                Request::Get { keys },
                Outcome::Done(Response::Got { records, .. }),
            ) => {
                let found = keys.iter().zip(records);
                let found = found.map(|(key, found)| format!("{}={}", quoted(key), seen(found.as_ref())));
                format!("{} → {}", asked(scan), list(found))
            }
            _ => asked(&self.part.request) + &answered(&self.part.outcome),
        };
        if self.part.request != self.whole.request {
            text.push_str(" …");
        }
        text
    }

    fn when(&self) -> String {
        match &self.part.outcome {
            Outcome::Done(response) => format!("revision {}", response.revision()),
            Outcome::Unknown => "unknown".to_owned(),
            Outcome::NotApplied => "not applied".to_owned(),
        }
    }

    fn end(&self) -> Option<u64> {
        self.part.end.filter(|_| matches!(self.part.outcome, Outcome::Done(_)))
    }
}

/// A line for each operation, by call: its number, who, what, its revision, and from when to when.
pub(crate) fn time_line(rows: &[Row<'_>]) -> String {
    let mut rows: Vec<&Row<'_>> = rows.iter().collect();
    rows.sort_by_key(|row| (row.part.call, row.end().unwrap_or(u64::MAX), row.source));
    let mut moments: Vec<u64> =
        rows.iter().flat_map(|row| [Some(row.part.call), row.end()]).flatten().collect();
    moments.sort_unstable();
    moments.dedup();
    let column = |moment: u64| moments.partition_point(|before| *before < moment) * COLUMNS;
    let cells: Vec<[String; 4]> = rows
        .iter()
        .map(|row| {
            [format!("#{}", row.source), format!("client {}", row.part.client), row.text(), row.when()]
        })
        .collect();
    let mut widths = [0; 4];
    for (place, width) in widths.iter_mut().enumerate() {
        *width = cells.iter().map(|cells| cells[place].chars().count()).max().unwrap_or(0);
    }
    let mut drawing = String::new();
    for (row, cells) in rows.iter().zip(&cells) {
        for (cell, width) in cells.iter().zip(widths) {
            let _ = write!(drawing, "{cell:width$}  ");
        }
        let from = column(row.part.call);
        let bar = match row.end() {
            Some(end) if end == row.part.call => "│".to_owned(),
            Some(end) => format!("├{}┤", "─".repeat(column(end) - from - 1)),
            None => format!("├{} ?", "─".repeat(moments.len() * COLUMNS - from - 2)),
        };
        let _ = writeln!(drawing, "{}{bar}", " ".repeat(from));
    }
    drawing
}
