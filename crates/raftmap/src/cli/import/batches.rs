//! Lines in requests, and requests to the cluster.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::try_join_all;
use raftmap_client::{Client, Error};

use super::lines::{Line, LineError};
use super::progress::Witness;
use crate::cli::exit::Failure;

/// Lines of one request.
const BATCH_LINES_MAX: usize = 64;
/// Keys and values of one request, in bytes; one line always may.
const BATCH_BYTES_MAX: usize = 64 << 10;

/// Lines of distinct keys, in requests.
pub(super) struct Batches<I> {
    lines: I,
    next: Option<Line>,
}

impl<I> Batches<I> {
    pub(super) fn of(lines: I) -> Self {
        Self { lines, next: None }
    }
}

impl<I: Iterator<Item = Result<Line, LineError>>> Iterator for Batches<I> {
    type Item = Result<Vec<Line>, LineError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut batch: Vec<Line> = Vec::new();
        let mut bytes = 0;
        loop {
            let line = match self.next.take().map(Ok).or_else(|| self.lines.next()) {
                Some(Ok(line)) => line,
                Some(Err(error)) => return Some(Err(error)),
                None => break,
            };
            let line_bytes = line.key.len() + line.value.len();
            if !batch.is_empty() && (batch.len() == BATCH_LINES_MAX || bytes + line_bytes > BATCH_BYTES_MAX) {
                self.next = Some(line);
                break;
            }
            bytes += line_bytes;
            batch.push(line);
        }
        (!batch.is_empty()).then_some(Ok(batch))
    }
}

/// A request that is acknowledged.
pub(super) struct Written {
    /// Which, in the order of the file.
    pub(super) request: u64,
    pub(super) lines: u64,
    /// Lines of these that were left out, because their time is over.
    pub(super) expired: u64,
    /// The last of its lines.
    pub(super) through: u64,
    /// One of its lines that stays.
    pub(super) witness: Option<Witness>,
}

/// Writes some lines of distinct keys.
///
/// # Errors
/// With the line that is to blame, and what to do.
pub(super) async fn write_batch(client: &Client, request: u64, batch: Vec<Line>) -> Result<Written, Failure> {
    let (lines, through) = (batch.len() as u64, batch.last().map_or(0, |line| line.number));
    let (staying, expiring): (Vec<_>, Vec<_>) =
        batch.into_iter().partition(|line| line.expires_at_ms.is_none());
    // Each expires at a time of its own, and a request has one.
    let each = try_join_all(expiring.iter().map(|line| put_for_a_time(client, line)));
    let (witness, in_time) = tokio::try_join!(put_to_stay(client, &staying), each)?;
    let expired = in_time.iter().filter(|in_time| !**in_time).count() as u64;
    Ok(Written { request, lines, expired, through, witness })
}

async fn put_to_stay(client: &Client, lines: &[Line]) -> Result<Option<Witness>, Failure> {
    let Some(last) = lines.last() else { return Ok(None) };
    let entries = lines.iter().map(|line| (line.key.clone(), line.value.clone()));
    let error = match client.put_many(entries).await {
        Ok(written) => return Ok(Some(Witness::new(&last.key, written.revision))),
        Err(error) => error,
    };
    // The request was refused as a whole: which line is to blame?
    if matches!(Failure::from(error.clone()), Failure::Usage(_)) && lines.len() > 1 {
        let mut revision = 0;
        for line in lines {
            let written = client.put(line.key.clone(), line.value.clone()).await;
            revision = written.map_err(|error| failure(&error, line))?.revision;
        }
        return Ok(Some(Witness::new(&last.key, revision)));
    }
    Err(failure(&error, &lines[0]))
}

/// Writes a line that expires, unless its time is over by now: says whether it was not.
async fn put_for_a_time(client: &Client, line: &Line) -> Result<bool, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let until = Duration::from_millis(line.expires_at_ms.unwrap_or(u64::MAX));
    let Some(ttl) = until.checked_sub(now).filter(|ttl| ttl.as_millis() > 0) else { return Ok(false) };
    let put = client.put(line.key.clone(), line.value.clone()).ttl(ttl).await;
    put.map(|_| true).map_err(|error| failure(&error, line))
}

fn failure(error: &Error, line: &Line) -> Failure {
    let message = format!("line {}: {error}", line.number);
    match Failure::from(error.clone()) {
        Failure::Usage(_) => Failure::Usage(format!(
            "{message}\nOther lines were written: correct this one and run the import again."
        )),
        Failure::OutcomeUnknown(_) => Failure::OutcomeUnknown(format!(
            "{message}\nRun the import again: it may write a line twice without harm."
        )),
        _ => Failure::Failed(format!("{message}\nSome lines were written: run the import again.")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::lines::{Format, Lines};
    use super::*;

    fn batches(text: &str) -> Vec<Vec<u64>> {
        let lines = Lines::new(text.as_bytes(), Format::Tsv);
        let batches = Batches::of(lines);
        batches.map(|batch| batch.unwrap().iter().map(|line| line.number).collect()).collect()
    }

    #[test]
    fn batches_end_at_their_limits_and_lose_no_line() {
        let short: String = (0..150).map(|n| format!("k{n}\tv\n")).collect();
        let numbers = batches(&short);
        assert_eq!(numbers.iter().map(Vec::len).collect::<Vec<_>>(), [64, 64, 22]);
        assert_eq!(numbers.concat(), (1..=150).collect::<Vec<_>>());

        let large = "v".repeat(BATCH_BYTES_MAX);
        assert_eq!(batches(&format!("a\tv\nb\t{large}\nc\tv\n")), [[1], [2], [3]]);
    }
}
