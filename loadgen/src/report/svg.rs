//! Charts as SVG, without a library: lines over a linear or logarithmic axis, and groups of bars.

use std::fmt::Write;

use crate::run::Finished;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 52.0;
/// Okabe and Ito's colours, told apart by everybody.
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999"];

pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Scale {
    /// From zero.
    Linear,
    Log,
    /// The axis of percentiles: values are 1 / (1 - quantile).
    Percentiles,
}

pub struct Lines {
    pub title: String,
    pub x_label: &'static str,
    pub y_label: &'static str,
    pub x_scale: Scale,
    pub y_scale: Scale,
    pub series: Vec<Series>,
}

/// A bar, and the interval that its value lies in.
#[derive(Clone, Copy)]
pub struct Bar {
    pub value: f64,
    pub interval: Option<(f64, f64)>,
}

/// Bars side by side, one group per label; all from zero.
pub struct Bars {
    pub title: String,
    pub y_label: &'static str,
    pub series: Vec<String>,
    /// Label, and one bar per series.
    pub groups: Vec<(String, Vec<Bar>)>,
}

/// Puts charts below each other.
pub fn document(charts: &[String]) -> String {
    let height = HEIGHT * charts.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"#222\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    for (index, chart) in charts.iter().enumerate() {
        let _ = writeln!(out, "<g transform=\"translate(0 {})\">\n{chart}</g>", HEIGHT * index as f64);
    }
    out += "</svg>\n";
    out
}

/// The charts of a run: percentiles of each test, then throughput and latency over time.
pub fn of_tests(tests: &[Finished]) -> String {
    let percentiles = tests.iter().map(|test| {
        let latency = &test.record.total().latency_ns;
        let steps = latency.iter_quantiles(10).filter(|step| step.quantile_iterated_to() < 1.0);
        let points = steps.map(|step| (1.0 / (1.0 - step.quantile_iterated_to()), super::ms(step.value_iterated_to())));
        Series { name: test.plan.workload.name.clone(), points: points.collect() }
    });
    let mut charts = vec![
        Lines {
            title: "Latency by percentile".into(),
            x_label: "percentile",
            y_label: "ms",
            x_scale: Scale::Percentiles,
            y_scale: Scale::Log,
            series: percentiles.collect(),
        }
        .draw(),
        Lines {
            title: "Throughput over time".into(),
            x_label: "seconds",
            y_label: "requests per second",
            x_scale: Scale::Linear,
            y_scale: Scale::Linear,
            series: tests.iter().map(|test| over_time(test, "", |interval| interval.replies_per_second)).collect(),
        }
        .draw(),
    ];
    for test in tests {
        charts.push(
            Lines {
                title: format!("{}: latency over time", test.plan.workload.name),
                x_label: "seconds",
                y_label: "ms",
                x_scale: Scale::Linear,
                y_scale: Scale::Log,
                series: vec![
                    over_time(test, "p50", |interval| interval.latency_ms.p50),
                    over_time(test, "p99", |interval| interval.latency_ms.p99),
                    over_time(test, "p99.9", |interval| interval.latency_ms.p999),
                    over_time(test, "max", |interval| interval.latency_ms.max),
                ],
            }
            .draw(),
        );
    }
    document(&charts)
}

fn over_time(test: &Finished, name: &str, value: impl Fn(&crate::run::Interval) -> f64) -> Series {
    let name = if name.is_empty() { &test.plan.workload.name } else { name };
    let points = test.intervals.iter().map(|interval| (interval.end_seconds, value(interval)));
    Series { name: name.to_owned(), points: points.collect() }
}

/// Maps values to pixels.
struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    start: f64,
    end: f64,
}

impl Axis {
    fn new(scale: Scale, values: impl Iterator<Item = f64> + Clone, start: f64, end: f64) -> Axis {
        let usable = values.filter(|value| value.is_finite() && (scale == Scale::Linear || *value > 0.0));
        let max = usable.clone().fold(f64::NEG_INFINITY, f64::max);
        let min = usable.fold(f64::INFINITY, f64::min);
        let (low, high) = match scale {
            _ if max == f64::NEG_INFINITY => (if scale == Scale::Linear { 0.0 } else { 1.0 }, 10.0),
            Scale::Linear => (0.0, if max > 0.0 { max * 1.05 } else { 1.0 }),
            Scale::Log => (10f64.powf(min.log10().floor()), 10f64.powf((max.log10() + 1e-9).ceil())),
            Scale::Percentiles => (1.0, max.max(100.0)),
        };
        let high = if high > low { high } else { low * 10.0 };
        Axis { scale, low, high, start, end }
    }

    fn place(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            _ => (value.max(self.low) / self.low).ln() / (self.high / self.low).ln(),
        };
        self.start + share.clamp(0.0, 1.0) * (self.end - self.start)
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Linear => {
                let step = nice_step(self.high - self.low);
                let count = ((self.high - self.low) / step).floor() as usize;
                (0..=count).map(|index| self.low + step * index as f64).map(|value| (value, number(value))).collect()
            }
            Scale::Log => {
                let decades = self.low.log10().round() as i32..=self.high.log10().round() as i32;
                decades.map(|decade| 10f64.powi(decade)).map(|value| (value, number(value))).collect()
            }
            Scale::Percentiles => {
                let names = [
                    (1.0, "0 %"),
                    (2.0, "50 %"),
                    (10.0, "90 %"),
                    (100.0, "99 %"),
                    (1e3, "99.9 %"),
                    (1e4, "99.99 %"),
                    (1e5, "99.999 %"),
                    (1e6, "99.9999 %"),
                ];
                names
                    .iter()
                    .filter(|(value, _)| *value <= self.high)
                    .map(|(value, name)| (*value, (*name).to_owned()))
                    .collect()
            }
        }
    }
}

/// 1, 2 or 5 times a power of ten, for about five ticks.
fn nice_step(range: f64) -> f64 {
    let rough = range / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough);
    factor.unwrap_or(10.0) * power
}

fn number(value: f64) -> String {
    let text = |value: f64| {
        let text = format!("{value:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match value.abs() {
        1e6.. => format!("{} M", text(value / 1e6)),
        1e3.. => format!("{} k", text(value / 1e3)),
        0.001.. => text(value),
        _ if value == 0.0 => "0".into(),
        _ => format!("{value:e}"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn frame(out: &mut String, title: &str, y_label: &str, y: &Axis) {
    let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"22\" font-size=\"14\" font-weight=\"600\">{}</text>", escape(title));
    for (value, label) in y.ticks() {
        let at = y.place(value);
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#e4e4e4\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0
        );
    }
    let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
    let _ = writeln!(
        out,
        "<text transform=\"translate(16 {middle}) rotate(-90)\" text-anchor=\"middle\" fill=\"#555\">{}</text>",
        escape(y_label)
    );
}

fn legend(out: &mut String, index: usize, name: &str) {
    let at = TOP + 8.0 + 18.0 * index as f64;
    let short: String = name.chars().take(26).collect();
    let _ = writeln!(
        out,
        "<rect x=\"{}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{}\"/><text x=\"{}\" y=\"{}\">{}</text>",
        WIDTH - RIGHT + 14.0,
        at - 10.0,
        COLOURS[index % COLOURS.len()],
        WIDTH - RIGHT + 32.0,
        at,
        escape(&short)
    );
}

impl Lines {
    pub fn draw(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x = Axis::new(self.x_scale, points().map(|(x, _)| *x), LEFT, WIDTH - RIGHT);
        let y = Axis::new(self.y_scale, points().map(|(_, y)| *y), HEIGHT - BOTTOM, TOP);
        let mut out = String::new();
        frame(&mut out, &self.title, self.y_label, &y);
        for (value, label) in x.ticks() {
            let at = x.place(value);
            let _ = writeln!(
                out,
                "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{}\" stroke=\"#f0f0f0\"/>\
                 <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 18.0
            );
        }
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 14.0,
            escape(self.x_label)
        );
        for (index, series) in self.series.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let place = |(px, py): &(f64, f64)| format!("{:.1},{:.1}", x.place(*px), y.place(*py));
            match &series.points[..] {
                [] => {}
                [point] => {
                    let at = place(point);
                    let (cx, cy) = at.split_once(',').expect("a comma was written");
                    let _ = writeln!(out, "<circle cx=\"{cx}\" cy=\"{cy}\" r=\"3\" fill=\"{colour}\"/>");
                }
                points => {
                    let path: Vec<String> = points.iter().map(place).collect();
                    let _ = writeln!(
                        out,
                        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\"/>",
                        path.join(" ")
                    );
                }
            }
            legend(&mut out, index, &series.name);
        }
        out
    }
}

impl Bars {
    pub fn draw(&self) -> String {
        let bars = || self.groups.iter().flat_map(|(_, bars)| bars);
        let tops = bars().map(|bar| bar.interval.map_or(bar.value, |(_, high)| high.max(bar.value)));
        let y = Axis::new(Scale::Linear, tops, HEIGHT - BOTTOM, TOP);
        let mut out = String::new();
        frame(&mut out, &self.title, self.y_label, &y);
        let group_width = (WIDTH - RIGHT - LEFT) / self.groups.len().max(1) as f64;
        let bar_width = (group_width * 0.8 / self.series.len().max(1) as f64).min(40.0);
        for (index, (label, bars)) in self.groups.iter().enumerate() {
            let middle = LEFT + group_width * (index as f64 + 0.5);
            let first = middle - bar_width * bars.len() as f64 / 2.0;
            for (series, bar) in bars.iter().enumerate().filter(|(_, bar)| bar.value.is_finite()) {
                self.draw_bar(&mut out, &y, series, bar, first + bar_width * series as f64, bar_width);
            }
            for (line, words) in label.split('\n').enumerate() {
                let _ = writeln!(
                    out,
                    "<text x=\"{middle:.1}\" y=\"{}\" text-anchor=\"middle\" font-size=\"10\">{}</text>",
                    HEIGHT - BOTTOM + 15.0 + 12.0 * line as f64,
                    escape(words)
                );
            }
        }
        self.series.iter().enumerate().for_each(|(index, name)| legend(&mut out, index, name));
        out
    }

    fn draw_bar(&self, out: &mut String, y: &Axis, series: usize, bar: &Bar, left: f64, width: f64) {
        let top = y.place(bar.value);
        let middle = left + width * 0.5;
        let _ = writeln!(
            out,
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"><title>{}: {}</title></rect>",
            width - 1.0,
            HEIGHT - BOTTOM - top,
            COLOURS[series % COLOURS.len()],
            escape(&self.series[series]),
            bar.value,
        );
        let mut label_at = top;
        if let Some((low, high)) = bar.interval.filter(|(low, high)| low.is_finite() && high.is_finite()) {
            label_at = y.place(high);
            let _ = writeln!(
                out,
                "<line x1=\"{middle:.1}\" x2=\"{middle:.1}\" y1=\"{:.1}\" y2=\"{label_at:.1}\" stroke=\"#222\"/>",
                y.place(low)
            );
        }
        let _ = writeln!(
            out,
            "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"9\">{}</text>",
            label_at - 3.0,
            number(three_digits(bar.value))
        );
    }
}

/// Rounded to what a label has room for.
fn three_digits(value: f64) -> f64 {
    if value == 0.0 {
        return 0.0;
    }
    let unit = 10f64.powf(value.abs().log10().floor() - 2.0);
    (value / unit).round() * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>, x_scale: Scale, y_scale: Scale) -> String {
        let series = vec![Series { name: "a<b".into(), points }];
        let lines = Lines { title: "t&u".into(), x_label: "x", y_label: "y", x_scale, y_scale, series };
        document(&[lines.draw()])
    }

    /// Every opened element is closed, nothing is NaN, and text is escaped.
    fn check(svg: &str) {
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        let mut open = Vec::new();
        for tag in svg.split('<').skip(1) {
            let (tag, _) = tag.split_once('>').expect("every tag ends");
            let name = tag.split([' ', '/']).find(|name| !name.is_empty()).unwrap();
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "{svg}");
            } else if !tag.ends_with('/') {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn charts_are_well_formed_whatever_is_in_them() {
        for points in
            [vec![], vec![(0.0, 0.0)], vec![(1.0, 5.0)], vec![(1.0, 0.001), (2.0, 1000.0)], vec![(3.0, 3.0); 5]]
        {
            for x_scale in [Scale::Linear, Scale::Log, Scale::Percentiles] {
                for y_scale in [Scale::Linear, Scale::Log] {
                    let svg = chart(points.clone(), x_scale, y_scale);
                    check(&svg);
                    assert!(svg.contains("a&lt;b") && svg.contains("t&amp;u"));
                }
            }
        }
        let bar = |value| Bar { value, interval: None };
        let wide = Bar { value: 2.5, interval: Some((2.0, 3.5)) };
        let groups = vec![("SET\nP 1".into(), vec![bar(1.0), bar(f64::NAN)]), ("GET".into(), vec![bar(0.0), wide])];
        check(&document(&[
            Bars { title: "b".into(), y_label: "µs", series: vec!["a".into(), "b".into()], groups }.draw()
        ]));
    }

    #[test]
    fn places_and_ticks() {
        assert_eq!([1234.0, 0.56789, 99.96, 0.0].map(three_digits).map(number)[..], ["1.23 k", "0.568", "100", "0"]);
        let axis = Axis::new(Scale::Linear, [100.0].into_iter(), 0.0, 210.0);
        assert_eq!(axis.place(0.0), 0.0);
        assert_eq!(axis.place(50.0), 100.0);
        let ticks: Vec<f64> = axis.ticks().into_iter().map(|(value, _)| value).collect();
        assert_eq!(ticks, [0.0, 50.0, 100.0]);
        let log = Axis::new(Scale::Log, [0.02, 7.0].into_iter(), 0.0, 300.0);
        assert_eq!(log.ticks().len(), 4, "0.01, 0.1, 1, 10");
        assert!((log.place(0.1) - 100.0).abs() < 1e-6);
        assert_eq!(["0", "1.5", "20 k", "3 M"], [0.0, 1.5, 20e3, 3e6].map(number)[..]);
    }
}
