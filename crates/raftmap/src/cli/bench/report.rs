//! What was measured, as text and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::load::{Load, histogram};
use super::record::{Second, Worked};

/// Requests of one kind.
pub(super) struct Calls {
    latency_us: Histogram<u64>,
    failed: u64,
    first_failure: Option<String>,
}

/// The percentiles that are shown.
const PERCENTILES: [(&str, f64); 4] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];

impl Calls {
    pub(super) fn new() -> Self {
        Self { latency_us: histogram(), failed: 0, first_failure: None }
    }

    pub(super) fn record(&mut self, latency: Duration) {
        self.latency_us.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    pub(super) fn fail(&mut self, error: String) {
        self.failed += 1;
        self.first_failure.get_or_insert(error);
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.latency_us.add(&other.latency_us).expect("all histograms have the same bounds");
        self.failed += other.failed;
        if self.first_failure.is_none() {
            self.first_failure.clone_from(&other.first_failure);
        }
    }

    pub(super) fn clear(&mut self) {
        self.latency_us.reset();
        (self.failed, self.first_failure) = (0, None);
    }

    /// How many were answered.
    pub(super) fn count(&self) -> u64 {
        self.latency_us.len()
    }

    /// The latency at a percentile, in microseconds.
    pub(super) fn latency_us(&self, percentile: f64) -> u64 {
        self.latency_us.value_at_percentile(percentile)
    }

    fn is_empty(&self) -> bool {
        self.latency_us.is_empty() && self.failed == 0
    }

    fn json(&self, measured: Duration) -> Value {
        let mut object = json!({
            "count": self.latency_us.len(),
            "per_second": self.per_second(measured),
            "failed": self.failed,
            "max_us": self.latency_us.max(),
        });
        for (name, percentile) in PERCENTILES {
            object[format!("{}_us", name.replace('.', "_"))] = self.latency_us(percentile).into();
        }
        object
    }

    #[expect(clippy::cast_precision_loss, reason = "a count of requests, shown to a few digits")]
    fn per_second(&self, measured: Duration) -> f64 {
        (self.latency_us.len() as f64 / measured.as_secs_f64() * 10.0).round() / 10.0
    }

    fn row(&self, name: &str, measured: Duration) -> String {
        let mut row = format!("{name:<5}{:>12.0}", self.per_second(measured));
        let values = PERCENTILES.iter().map(|(_, percentile)| self.latency_us(*percentile));
        for value in values.chain([self.latency_us.max()]) {
            write!(row, "{:>10}", ms(value)).expect("writing to a string cannot fail");
        }
        write!(row, "{:>9}", self.failed).expect("writing to a string cannot fail");
        row
    }
}

/// Microseconds as milliseconds, two digits behind the point.
pub(super) fn ms(us: u64) -> String {
    let hundredths = us.saturating_add(5) / 10;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// The whole measurement.
pub(super) struct Report {
    load: Load,
    all: Worked,
    measured: Duration,
    seconds: Vec<Second>,
}

impl Report {
    pub(super) fn new(load: Load) -> Self {
        Self { load, all: Worked::new(), measured: Duration::ZERO, seconds: Vec::new() }
    }

    /// Adds what was measured since the last time, and what that was as a `second`, if it was about one. So much was `measured`
    /// by then.
    pub(super) fn add(&mut self, worked: &Worked, measured: Duration, second: Option<Second>) {
        self.all.add(worked);
        self.measured = measured;
        self.seconds.extend(second);
    }

    /// How long was measured.
    pub(super) fn measured(&self) -> Duration {
        self.measured
    }

    /// The run, second by second.
    pub(super) fn seconds(&self) -> &[Second] {
        &self.seconds
    }

    /// The kinds of requests that there were.
    pub(super) fn kinds(&self) -> Vec<(&'static str, &Calls)> {
        let kinds = [("puts", &self.all.puts), ("gets", &self.all.gets)];
        kinds.into_iter().filter(|(_, calls)| !calls.is_empty()).collect()
    }

    pub(super) fn json(&self) -> Value {
        let load = &self.load;
        let calls = |calls: &Calls| if calls.is_empty() { Value::Null } else { calls.json(self.measured()) };
        json!({
            "clients": load.clients,
            "connections": load.connections,
            "value_bytes": load.value_bytes,
            "keys": load.keys,
            "distribution": format!("{:?}", load.distribution).to_lowercase(),
            "gets_percent": load.mix.gets_percent,
            "rate": load.rate,
            "warm_up_seconds": load.warm_up.as_secs(),
            "seconds": self.measured().as_secs_f64().round(),
            "puts": calls(&self.all.puts),
            "gets": calls(&self.all.gets),
            "each_second": self.seconds.iter().map(Second::json).collect::<Vec<_>>(),
        })
    }

    /// What was run, in a line.
    pub(super) fn title(&self) -> String {
        let load = &self.load;
        let rate = load.rate.map(|rate| format!(", {rate} requests a second")).unwrap_or_default();
        format!(
            "clients {}, connections {}, value bytes {}, keys {} ({:?}){rate}, measured for {} s after {} s of warm-up",
            load.clients,
            load.connections,
            load.value_bytes,
            load.keys,
            load.distribution,
            self.measured().as_secs_f64().round(),
            load.warm_up.as_secs(),
        )
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("{}\n     {:>12}", self.title(), "per second");
        for name in PERCENTILES.iter().map(|(name, _)| *name).chain(["max"]) {
            write!(text, "{:>10}", format!("{name} ms")).expect("writing to a string cannot fail");
        }
        text.push_str("   failed");
        for (name, calls) in self.kinds() {
            text.push('\n');
            text.push_str(&calls.row(name, self.measured()));
        }
        text
    }

    /// The latency of puts at a percentile, in microseconds.
    #[expect(clippy::cast_precision_loss, reason = "less than a minute")]
    pub(super) fn put_us(&self, percentile: f64) -> f64 {
        self.all.puts.latency_us(percentile) as f64
    }

    /// What went wrong, if anything did.
    pub(super) fn failure(&self) -> Option<String> {
        let Worked { puts, gets } = &self.all;
        let failed = puts.failed + gets.failed;
        let first = puts.first_failure.as_ref().or(gets.first_failure.as_ref())?;
        Some(format!("{failed} requests failed; the first: {first}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::Distribution;
    use super::super::load::Mix;
    use super::*;

    fn report() -> Report {
        let second = Duration::from_secs(1);
        let mix = Mix { gets_percent: 50 };
        let load = Load {
            clients: 2,
            connections: 1,
            warm_up: second,
            measured: 2 * second,
            progress: false,
            value_bytes: 128,
            keys: 10,
            distribution: Distribution::Uniform,
            mix,
            rate: None,
        };
        let mut report = Report::new(load);
        for us in 1..=1000 {
            let mut worked = Worked::new();
            worked.puts.record(Duration::from_micros(us));
            report.add(&worked, Duration::from_millis(2 * us), None);
        }
        report
    }

    #[test]
    fn figures_of_all_clients_are_added_up() {
        let json = report().json();
        assert_eq!(json["puts"]["count"], 1000);
        assert_eq!(json["puts"]["per_second"], 500.0);
        assert_eq!(
            (json["puts"]["p50_us"].as_u64(), json["puts"]["p99_us"].as_u64()),
            (Some(500), Some(990))
        );
        let p99_9_us = json["puts"]["p99_9_us"].as_u64();
        assert!(p99_9_us.is_some_and(|us| (999..=1000).contains(&us)), "{p99_9_us:?}");
        assert_eq!(json["puts"]["max_us"].as_u64(), Some(1000));
        assert_eq!(json["gets"], Value::Null);
    }

    #[test]
    fn the_table_has_a_row_for_each_kind_of_request() {
        let text = report().text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        let cells: Vec<_> = lines[2].split_whitespace().collect();
        assert_eq!(cells, ["puts", "500", "0.50", "0.90", "0.99", "1.00", "1.00", "0"]);
    }

    #[test]
    fn times_are_rounded_to_a_hundredth_of_a_millisecond() {
        assert_eq!([0, 4, 5, 994, 995, 12_345].map(ms), ["0.00", "0.00", "0.01", "0.99", "1.00", "12.35"]);
    }
}
