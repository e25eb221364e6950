//! The run as a picture: requests a second and latency over time, and latency by percentile.

use std::path::Path;

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use super::super::exit::Failure;
use super::record::Second;
use super::report::Report;

const SIZE: (u32, u32) = (900, 1000);
const FONT: (&str, u32) = ("sans-serif", 14);
const CAPTION: (&str, u32) = ("sans-serif", 16);
const MARGIN: u32 = 16;
const LABELS_LEFT: u32 = 80;
const LABELS_BELOW: u32 = 40;

/// Colours that are told apart by those who see red and green alike, too (Okabe and Ito).
const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(230, 159, 0);

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

/// One line of a panel.
struct Curve<'a> {
    name: &'a str,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

/// Draws `report` into an SVG file, which is replaced if it is there.
pub(super) fn write(report: &Report, path: &Path) -> Result<(), Failure> {
    let mut svg = String::new();
    let drawn = draw(report, SVGBackend::with_string(&mut svg, SIZE));
    drawn.map_err(|error| Failure::Failed(format!("no plot: {error}")))?;
    std::fs::write(path, svg)
        .map_err(|error| Failure::Failed(format!("no plot at {}: {error}", path.display())))
}

fn draw<'a>(report: &Report, backend: SVGBackend<'a>) -> Drawn<'a> {
    let root = backend.into_drawing_area();
    root.fill(&WHITE)?;
    let panels = root.titled(&report.title(), FONT)?.split_evenly((3, 1));
    let seconds = report.seconds();
    let over_time = |name, colour, of: fn(&Second) -> f64| {
        let points = seconds.iter().map(|second| (second.ended.as_secs_f64(), of(second))).collect();
        Curve { name, colour, points }
    };
    let end = report.measured().as_secs_f64().max(1.0);
    let rate = over_time("all requests", BLUE, |second| second.per_second);
    panel(&panels[0], ["Requests a second", "seconds", ""], 0.0..end, &[rate])?;
    let p50 = over_time("p50", BLUE, |second| in_ms(second.p50_us));
    let p99 = over_time("p99", ORANGE, |second| in_ms(second.p99_us));
    panel(&panels[1], ["Latency over time", "seconds", "ms"], 0.0..end, &[p50, p99])?;
    let by_kind = report.kinds().into_iter().zip([BLUE, ORANGE]).map(|((name, calls), colour)| {
        let points = by_nines(|percentile| calls.latency_us(percentile));
        Curve { name, colour, points }
    });
    let curves: Vec<_> = by_kind.collect();
    panel(&panels[2], ["Latency by percentile", "percentile", "ms"], Nines, &curves)?;
    root.present()
}

/// One panel: `labels` are its caption and those of its axes.
fn panel<'a, X>(area: &Area<'a>, labels: [&str; 3], horizontal: X, curves: &[Curve<'_>]) -> Drawn<'a>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
{
    let top = curves.iter().flat_map(|curve| &curve.points).map(|(_, y)| *y).fold(0.0, f64::max);
    let [caption, below, left] = labels;
    let mut chart = ChartBuilder::on(area)
        .caption(caption, CAPTION)
        .margin(MARGIN)
        .x_label_area_size(LABELS_BELOW)
        .y_label_area_size(LABELS_LEFT)
        .build_cartesian_2d(horizontal, 0.0..(top * 1.1).max(f64::MIN_POSITIVE))?;
    chart
        .configure_mesh()
        .x_desc(below)
        .y_desc(left)
        .label_style(FONT)
        .light_line_style(TRANSPARENT)
        .draw()?;
    for Curve { name, colour, points } in curves {
        let line = chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
        line.label(*name).legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    let legend = &mut chart.configure_series_labels();
    legend.position(SeriesLabelPosition::UpperLeft).background_style(WHITE.mix(0.8)).label_font(FONT).draw()
}

#[expect(clippy::cast_precision_loss, reason = "less than a minute")]
fn in_ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

/// How many nines the axis of percentiles has: up to 99.99.
const NINES: f64 = 4.0;

/// Latencies by percentile: where 99 % are no longer is twice as far to the right as where 90 % are.
fn by_nines(latency_us: impl Fn(f64) -> u64) -> Vec<(f64, f64)> {
    let steps = 100;
    let at = |step: i32| f64::from(step) / f64::from(steps) * NINES;
    (0..=steps).map(at).map(|nines| (nines, in_ms(latency_us(percentile(nines))))).collect()
}

fn percentile(nines: f64) -> f64 {
    100.0 - 100.0 * 10_f64.powf(-nines)
}

/// The axis of percentiles, marked at whole nines.
struct Nines;

impl AsRangedCoord for Nines {
    type CoordDescType = NinesAxis;
    type Value = f64;
}

impl From<Nines> for NinesAxis {
    fn from(_: Nines) -> Self {
        Self((0.0..NINES).into())
    }
}

struct NinesAxis(plotters::coord::types::RangedCoordf64);

impl Ranged for NinesAxis {
    type FormatOption = plotters::coord::ranged1d::NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.0.map(value, limit)
    }

    fn key_points<Hint: plotters::coord::ranged1d::KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        vec![0.0, 1.0, 2.0, 3.0, NINES]
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.0.range()
    }
}

impl ValueFormatter<f64> for NinesAxis {
    fn format(value: &f64) -> String {
        format!("{}", percentile(*value))
    }
}
