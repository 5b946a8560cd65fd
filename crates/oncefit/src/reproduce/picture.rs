//! A claim as a picture: for each comparison the differences by seed, their mean with its 95 % interval,
//! and where nothing differs.

use std::fmt::Write;

use super::{Comparison, Finding, Verdict};
use crate::chart::escape;
use crate::format::with_interval;

const WIDTH: f64 = 640.0;
const LEFT: f64 = 20.0;
const RIGHT: f64 = 620.0;
const TOP: f64 = 40.0;
const ROW: f64 = 92.0;

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#222}.head{font-weight:600}\
.tick{font-size:11px;fill:#666}.axis{stroke:#bbb}.zero{stroke:#666;stroke-dasharray:4 3}\
.seed{fill:#2a6fb0;fill-opacity:.45}.range{stroke-width:3}.reproduced{stroke:#1a7f37;fill:#1a7f37}\
.not{stroke:#c0392b;fill:#c0392b}.open{stroke:#8a6d00;fill:#8a6d00}\
@media(prefers-color-scheme:dark){text{fill:#ddd}.tick{fill:#999}.axis{stroke:#555}.zero{stroke:#999}\
.seed{fill:#6db3f2}.reproduced{stroke:#3fb950;fill:#3fb950}.not{stroke:#f47067;fill:#f47067}\
.open{stroke:#d4a72c;fill:#d4a72c}}";

/// The SVG file of a claim; none if it compares nothing.
pub fn picture(finding: &Finding) -> Option<String> {
    let rows = &finding.comparisons;
    if rows.is_empty() {
        return None;
    }
    let height = TOP + ROW * rows.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\"><title>{id}: {verdict}</title><style>{STYLE}</style>\
         <text class=\"head\" x=\"{LEFT}\" y=\"24\">{id}: {verdict}</text>",
        id = escape(&finding.id),
        verdict = finding.verdict.name()
    );
    for (index, comparison) in rows.iter().enumerate() {
        row(comparison, TOP + ROW * index as f64, &mut svg);
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

fn row(comparison: &Comparison, top: f64, svg: &mut String) {
    let pairs = comparison.one.iter().zip(&comparison.other);
    let differences: Vec<f64> = pairs.map(|(one, other)| one - other).collect();
    let (from, to) = (
        comparison.mean - comparison.half_width,
        comparison.mean + comparison.half_width,
    );
    let ends = differences.iter().copied().chain([from, to, 0.0]);
    let (low, high) = ends
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
    let span = if high > low { high - low } else { 1.0 };
    let place = |value: f64| LEFT + 10.0 + (value - low) / span * (RIGHT - LEFT - 20.0);
    let (middle, bottom) = (top + 42.0, top + 62.0);
    let kind = match Verdict::of(comparison.mean, comparison.half_width) {
        Verdict::Reproduced => "reproduced",
        Verdict::NotReproduced => "not",
        _ => "open",
    };
    let _ = write!(
        svg,
        "<text x=\"{LEFT}\" y=\"{:.1}\">{} = {}</text>\
         <line class=\"axis\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{bottom:.1}\" y2=\"{bottom:.1}\"/>\
         <line class=\"zero\" x1=\"{zero:.1}\" x2=\"{zero:.1}\" y1=\"{:.1}\" y2=\"{bottom:.1}\"/>\
         <text class=\"tick\" x=\"{zero:.1}\" y=\"{:.1}\" text-anchor=\"middle\">0</text>",
        top + 14.0,
        escape(&comparison.what),
        with_interval(comparison.mean, comparison.half_width),
        top + 24.0,
        bottom + 14.0,
        zero = place(0.0)
    );
    for (value, anchor) in [(low, "start"), (high, "end")] {
        // A number beside the zero would lie on it.
        if (place(value) - place(0.0)).abs() > 60.0 {
            let _ = write!(
                svg,
                "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{value:+.3}</text>",
                place(value),
                bottom + 14.0
            );
        }
    }
    for (seed, difference) in differences.iter().enumerate() {
        // Seeds one above the other, so that equal ones are seen.
        let _ = write!(
            svg,
            "<circle class=\"seed\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"/>",
            place(*difference),
            middle - 8.0 + 4.0 * (seed % 5) as f64
        );
    }
    let _ = write!(
        svg,
        "<line class=\"range {kind}\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>\
         <circle class=\"{kind}\" cx=\"{:.1}\" cy=\"{middle:.1}\" r=\"6\"/>",
        place(from),
        place(to),
        place(comparison.mean)
    );
}

#[cfg(test)]
mod tests {
    use super::super::{Cost, Origin};
    use super::*;

    #[test]
    fn a_picture_has_a_dot_for_each_seed_and_the_interval_on_its_side_of_zero() {
        let (comparison, verdict) =
            Comparison::new("with < without", vec![2.0, 3.0, 2.5], vec![1.0, 1.0, 1.0]).unwrap();
        let mut finding = Finding {
            id: "paper.1".into(),
            verdict,
            seeds: (1000, 3),
            comparisons: vec![comparison],
            notes: Vec::new(),
            seconds: 1.0,
            runs: Cost::default(),
            command: String::new(),
            origin: Origin::default(),
        };
        let svg = picture(&finding).unwrap();
        assert_eq!(svg.matches("class=\"seed\"").count(), 3);
        assert!(svg.contains("with &lt; without = +1.50 ± 1.24"), "{svg}");
        assert!(svg.contains("range reproduced"), "{svg}");
        finding.comparisons.clear();
        assert_eq!(picture(&finding), None);
    }
}
