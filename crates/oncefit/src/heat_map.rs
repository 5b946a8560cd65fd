//! A matrix drawn as coloured cells: confusion matrices, accuracies by task.
//!
//! Like charts, it takes its colours from the page around it.

use std::fmt::Write;

use crate::chart::escape;

/// A matrix with names.
#[derive(Clone, Debug)]
pub struct HeatMap {
    /// What it shows, for readers that cannot see it.
    pub title: String,
    /// Names of the rows.
    pub rows: Vec<String>,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Shares, 0 to 1, row by row; `None` stays empty.
    pub cells: Vec<Vec<Option<f64>>>,
}

const CELL: f64 = 34.0;
const LABEL: f64 = 104.0;
/// Room for the last column's name, which leans out.
const MARGIN: f64 = 52.0;

impl HeatMap {
    /// The SVG element; a cell shows its percentage.
    pub fn to_svg(&self) -> String {
        let width = LABEL + CELL * self.columns.len() as f64 + MARGIN;
        let height = LABEL + CELL * self.rows.len() as f64 + 4.0;
        let mut svg = format!(
            "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\" class=\"chart heat\">",
            escape(&self.title)
        );
        for (index, name) in self.columns.iter().enumerate() {
            let x = LABEL + CELL * (index as f64 + 0.5) + 4.0;
            let _ = write!(
                svg,
                "<text transform=\"translate({x:.1} {:.1}) rotate(-60)\">{}</text>",
                LABEL - 8.0,
                escape(name)
            );
        }
        for (row, (name, cells)) in self.rows.iter().zip(&self.cells).enumerate() {
            let y = LABEL + CELL * row as f64;
            let _ = write!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LABEL - 8.0,
                y + CELL / 2.0 + 4.0,
                escape(name)
            );
            for (column, share) in cells.iter().enumerate() {
                let Some(share) = share else { continue };
                let x = LABEL + CELL * column as f64;
                let _ = write!(
                    svg,
                    "<g><title>{} → {}: {:.1} %</title><rect class=\"cell\" x=\"{x}\" y=\"{y}\" width=\"{CELL}\" height=\"{CELL}\" fill-opacity=\"{:.3}\"/>",
                    escape(name),
                    escape(&self.columns[column]),
                    100.0 * share,
                    share.clamp(0.0, 1.0)
                );
                if *share >= 0.005 {
                    let class = if *share > 0.55 { "on" } else { "off" };
                    let _ = write!(
                        svg,
                        "<text class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{:.0}</text>",
                        x + CELL / 2.0,
                        y + CELL / 2.0 + 4.0,
                        100.0 * share
                    );
                }
                svg.push_str("</g>");
            }
        }
        svg.push_str("</svg>");
        svg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_show_their_share_and_empty_ones_nothing() {
        let map = HeatMap {
            title: "t".into(),
            rows: vec!["a<b".into()],
            columns: vec!["x".into(), "y".into(), "z".into()],
            cells: vec![vec![Some(0.755), None, Some(0.001)]],
        };
        let svg = map.to_svg();
        assert!(svg.contains("a&lt;b → x: 75.5 %") && svg.contains(">76</text>"));
        assert_eq!(svg.matches("<rect").count(), 2);
        assert!(!svg.contains(">0</text>"));
    }
}
