//! What the clients measure, gathered every second: for the line that shows how it goes, for the plot, and for the report.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::time::sleep_until;

use super::load::Load;
use super::report::{Calls, Report, ms};

/// Among how many the clients are shared out: with histograms for each, those would be most of what the processor's caches hold.
const SHARES: usize = 4;

const SECOND: Duration = Duration::from_secs(1);

/// What is left at the end and shorter than this tells no rate.
const SHORTEST: Duration = Duration::from_millis(100);

/// What some of the clients have measured since it was gathered.
pub(super) struct Worked {
    pub(super) puts: Calls,
    pub(super) gets: Calls,
}

impl Worked {
    pub(super) fn new() -> Self {
        Self { puts: Calls::new(), gets: Calls::new() }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.puts.add(&other.puts);
        self.gets.add(&other.gets);
    }

    fn clear(&mut self) {
        self.puts.clear();
        self.gets.clear();
    }
}

/// A second of the run; the last one may be shorter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Second {
    /// When it ended, since the measurement began.
    pub(super) ended: Duration,
    /// Answered requests a second.
    pub(super) per_second: f64,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    pub(super) max_us: u64,
}

impl Second {
    #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
    pub(super) fn new(worked: &Worked, began: Duration, ended: Duration) -> Self {
        let mut calls = Calls::new();
        calls.add(&worked.puts);
        calls.add(&worked.gets);
        let took = ended.saturating_sub(began).as_secs_f64();
        Self {
            ended,
            per_second: if took > 0.0 { calls.count() as f64 / took } else { 0.0 },
            p50_us: calls.latency_us(50.0),
            p99_us: calls.latency_us(99.0),
            max_us: calls.latency_us(100.0),
        }
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "ended_s": self.ended.as_secs_f64(),
            "per_second": self.per_second,
            "p50_us": self.p50_us,
            "p99_us": self.p99_us,
            "max_us": self.max_us,
        })
    }
}

/// Where all clients put what they measure.
pub(super) struct Recorder {
    shares: Vec<Arc<Mutex<Worked>>>,
    begin: Instant,
    report: Report,
    progress: ProgressBar,
}

impl Recorder {
    /// The measurement begins when the load has run for as long as it takes to warm up.
    pub(super) fn new(load: Load) -> Self {
        let share = || Arc::new(Mutex::new(Worked::new()));
        let progress = if load.progress { progress_line() } else { ProgressBar::hidden() };
        progress.set_message("warming up");
        Self {
            shares: std::iter::repeat_with(share).take(SHARES).collect(),
            begin: Instant::now() + load.warm_up,
            report: Report::new(load),
            progress,
        }
    }

    /// What was sent earlier does not count.
    pub(super) fn begin(&self) -> Instant {
        self.begin
    }

    /// Where client `n` puts what it measures.
    pub(super) fn share(&self, n: usize) -> Arc<Mutex<Worked>> {
        Arc::clone(&self.shares[n % SHARES])
    }

    /// Gathers at the end of each second.
    pub(super) async fn every_second(&mut self) -> Infallible {
        let mut end = self.begin;
        loop {
            end += SECOND;
            sleep_until(end.into()).await;
            let second = self.gather();
            self.progress.set_message(format!(
                "{:>4.0} s  {:>9.0} requests/s  p50 {} ms  p99 {} ms  longest {} ms",
                second.ended.as_secs_f64(),
                second.per_second,
                ms(second.p50_us),
                ms(second.p99_us),
                ms(second.max_us),
            ));
        }
    }

    fn gather(&mut self) -> Second {
        let (began, ended) = (self.report.measured(), self.begin.elapsed());
        let mut all = Worked::new();
        for share in &self.shares {
            let mut worked = share.lock().unwrap_or_else(PoisonError::into_inner);
            all.add(&worked);
            worked.clear();
        }
        let second = Second::new(&all, began, ended);
        self.report.add(&all, ended, (ended.saturating_sub(began) >= SHORTEST).then_some(second));
        second
    }

    /// The measurement is over.
    pub(super) fn finish(mut self) -> Report {
        let _rest = self.gather();
        self.progress.finish_and_clear();
        self.report
    }
}

fn progress_line() -> ProgressBar {
    let style = ProgressStyle::with_template("{msg}").expect("the template is well-formed");
    ProgressBar::new_spinner().with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_tells_the_rate_and_the_latency_of_all_its_requests() {
        let mut worked = Worked::new();
        (1..=100).for_each(|us| worked.puts.record(Duration::from_micros(us)));
        (101..=200).for_each(|us| worked.gets.record(Duration::from_micros(us)));
        let second = Second::new(&worked, SECOND, SECOND * 3 / 2);
        let expected =
            Second { ended: SECOND * 3 / 2, per_second: 400.0, p50_us: 100, p99_us: 198, max_us: 200 };
        assert_eq!(second, expected);
        let nothing = Second::new(&Worked::new(), SECOND, SECOND);
        assert_eq!((nothing.per_second, nothing.p50_us, nothing.max_us), (0.0, 0, 0));
    }
}
