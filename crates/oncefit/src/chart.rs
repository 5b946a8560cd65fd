//! Charts as SVG: lines and points over two axes, in one style for every report.
//!
//! Colours are CSS variables of the page around them, so a chart follows light and dark mode.

use std::fmt::Write;

/// How a series is drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// A line through the points.
    Line,
    /// Small dots.
    Dots,
    /// Large dots.
    Discs,
    /// A staircase: the best so far.
    Steps,
}

/// Points of one kind.
#[derive(Clone, Debug)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// How it is drawn.
    pub mark: Mark,
    /// Number of the colour, 0 to 4.
    pub colour: usize,
    /// x, y and what is shown when pointed at.
    pub points: Vec<(f64, f64, String)>,
}

/// A chart.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What it shows, for readers that cannot see it.
    pub title: String,
    /// Name and unit of the horizontal axis.
    pub x_label: String,
    /// Name and unit of the vertical axis.
    pub y_label: String,
    /// The series, first drawn first.
    pub series: Vec<Series>,
}

const WIDTH: f64 = 500.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 52.0;

impl Chart {
    /// The SVG element. Points that are not finite are left out.
    pub fn to_svg(&self) -> String {
        let points = || {
            let all = self.series.iter().flat_map(|series| &series.points);
            all.filter(|(x, y, _)| x.is_finite() && y.is_finite())
        };
        let x = Axis::around(points().map(|point| point.0), LEFT, WIDTH - RIGHT);
        let y = Axis::around(points().map(|point| point.1), HEIGHT - BOTTOM, TOP);
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\" class=\"chart\">",
            escape(&self.title)
        );
        for tick in &x.ticks {
            let at = x.place(*tick);
            let bottom = HEIGHT - BOTTOM;
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 18.0,
                x.label(*tick)
            );
        }
        for tick in &y.ticks {
            let at = y.place(*tick);
            let right = WIDTH - RIGHT;
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 8.0,
                at + 4.0,
                y.label(*tick)
            );
        }
        let _ = write!(
            svg,
            "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text class=\"axis\" transform=\"translate(14 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 12.0,
            escape(&self.x_label),
            (TOP + HEIGHT - BOTTOM) / 2.0,
            escape(&self.y_label)
        );
        let mut legend = LEFT;
        for series in &self.series {
            let _ = write!(
                svg,
                "<circle class=\"c{0}\" cx=\"{1:.1}\" cy=\"16\" r=\"5\"/><text x=\"{2:.1}\" y=\"20\">{3}</text>",
                series.colour,
                legend + 5.0,
                legend + 15.0,
                escape(&series.name)
            );
            legend += 34.0 + 6.8 * series.name.chars().count() as f64;
        }
        for series in &self.series {
            draw(series, &x, &y, &mut svg);
        }
        svg.push_str("</svg>");
        svg
    }
}

fn draw(series: &Series, x: &Axis, y: &Axis, svg: &mut String) {
    let places: Vec<(f64, f64, &str)> = series
        .points
        .iter()
        .filter(|(x, y, _)| x.is_finite() && y.is_finite())
        .map(|(px, py, text)| (x.place(*px), y.place(*py), text.as_str()))
        .collect();
    if matches!(series.mark, Mark::Line | Mark::Steps) && !places.is_empty() {
        let mut path = String::new();
        for (index, (px, py, _)) in places.iter().enumerate() {
            match (index, series.mark) {
                (0, _) => _ = write!(path, "M{px:.1} {py:.1}"),
                (_, Mark::Steps) => _ = write!(path, "H{px:.1}V{py:.1}"),
                _ => _ = write!(path, "L{px:.1} {py:.1}"),
            }
        }
        let _ = write!(
            svg,
            "<path class=\"line s{}\" d=\"{path}\"/>",
            series.colour
        );
    }
    let radius = match series.mark {
        Mark::Line | Mark::Steps => 2.5,
        Mark::Dots => 3.0,
        Mark::Discs => 7.0,
    };
    for (px, py, text) in places {
        let _ = write!(
            svg,
            "<circle class=\"c{} {}\" cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"{radius}\"><title>{}</title></circle>",
            series.colour,
            if series.mark == Mark::Dots {
                "faint"
            } else {
                ""
            },
            escape(text)
        );
    }
}

/// A linear scale with round ticks.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    step: f64,
    ticks: Vec<f64>,
}

impl Axis {
    fn around(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values {
            low = low.min(value);
            high = high.max(value);
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        let span = if high > low {
            high - low
        } else {
            high.abs().max(1.0)
        };
        // The round step that gives between 4 and 9 ticks.
        let rough = span / 6.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|factor| factor * power)
            .into_iter()
            .find(|step| *step >= rough)
            .unwrap_or(power);
        let (first, last) = ((low / step).floor() as i64, (high / step).ceil() as i64);
        let ticks: Vec<f64> = (first..=last.max(first + 1))
            .map(|tick| tick as f64 * step)
            .collect();
        let (low, high) = (ticks[0], ticks[ticks.len() - 1]);
        Self {
            low,
            high,
            from,
            to,
            step,
            ticks,
        }
    }

    fn place(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    fn label(&self, value: f64) -> String {
        let decimals = (-self.step.log10().floor()).clamp(0.0, 6.0) as usize;
        let text = format!("{value:.decimals$}");
        if text
            .trim_start_matches('-')
            .chars()
            .all(|c| c == '0' || c == '.')
        {
            "0".into()
        } else {
            text
        }
    }
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_ticks_around_the_values() {
        let axis = Axis::around([0.37, 0.91].into_iter(), 0.0, 100.0);
        let labels: Vec<String> = axis.ticks.iter().map(|tick| axis.label(*tick)).collect();
        assert_eq!(
            labels,
            ["0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1.0"]
        );
        assert_eq!(axis.place(axis.low), 0.0);
        assert_eq!(axis.place(axis.high), 100.0);
        for values in [vec![], vec![3.0], vec![0.0, 0.0], vec![-2.0, 1e9]] {
            let axis = Axis::around(values.into_iter(), 0.0, 1.0);
            assert!((2..=12).contains(&axis.ticks.len()), "{:?}", axis.ticks);
        }
    }

    #[test]
    fn charts_leave_out_what_is_not_finite_and_escape_texts() {
        let chart = Chart {
            title: "a < b".into(),
            x_label: "x".into(),
            y_label: "y".into(),
            series: vec![Series {
                name: "s".into(),
                mark: Mark::Line,
                colour: 0,
                points: vec![
                    (0.0, 1.0, "\"first\"".into()),
                    (1.0, f64::NAN, "gone".into()),
                ],
            }],
        };
        let svg = chart.to_svg();
        assert!(svg.contains("a &lt; b") && svg.contains("&quot;first&quot;"));
        assert!(!svg.contains("NaN") && !svg.contains("gone"));
    }
}
