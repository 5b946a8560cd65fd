//! A network as a picture: one box for each layer from top to bottom, straight lines to the next
//! layer, arcs to layers further down. Batch-norms are part of the box above when that is what they
//! read.

use std::fmt::Write;

use oncefit_space::{Graph, Op};

use crate::chart::escape;
use crate::commands::operation_name;

const WIDTH: usize = 420;
const HEIGHT: usize = 24;
const GAP: usize = 16;
/// Arcs reach at most so far from the boxes.
const REACH: usize = 120;

/// The SVG file of a graph.
pub(crate) fn drawing(title: &str, graph: &Graph) -> String {
    // The box of each node.
    let mut boxes: Vec<usize> = Vec::with_capacity(graph.nodes.len());
    let mut labels: Vec<String> = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let is_part = matches!(node.op, Op::BatchNorm { .. } | Op::Activation(_))
            && node.inputs.first().is_some_and(|&input| input + 1 == index);
        if is_part && let Some(label) = labels.last_mut() {
            let _ = write!(label, " · {}", operation_name(&node.op));
        } else {
            labels.push(operation_name(&node.op));
        }
        boxes.push(labels.len() - 1);
    }
    let tall = labels.len() * (HEIGHT + GAP) + 2 * GAP;
    let total = WIDTH + REACH + 3 * GAP;
    let title = escape(title);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {total} {tall}\" width=\"{total}\" height=\"{tall}\" font-family=\"sans-serif\" font-size=\"11\"><title>{title}</title><rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
    );
    let top = |at: usize| GAP + at * (HEIGHT + GAP);
    for (index, node) in graph.nodes.iter().enumerate() {
        for &input in &node.inputs {
            let (from, to) = (boxes[input], boxes[index]);
            let (start, end) = (top(from) + HEIGHT, top(to));
            if from + 1 == to {
                let x = WIDTH / 2;
                let _ = write!(
                    svg,
                    "<line x1=\"{x}\" x2=\"{x}\" y1=\"{start}\" y2=\"{end}\" stroke=\"#555\"/>"
                );
            } else if from < to {
                let x = WIDTH + GAP;
                let out = x + (8 * (to - from)).min(REACH);
                let (start, end) = (start - HEIGHT / 2, end + HEIGHT / 2);
                let _ = write!(
                    svg,
                    "<path d=\"M{x} {start}C{out} {start} {out} {end} {x} {end}\" fill=\"none\" stroke=\"#b40\"/>"
                );
            }
        }
    }
    for (at, label) in labels.iter().enumerate() {
        // The last node of a box gives its output.
        let Some(last) = boxes.iter().rposition(|&own| own == at) else {
            continue;
        };
        let node = &graph.nodes[last];
        let (y, text) = (top(at), top(at) + HEIGHT - 8);
        let _ = write!(
            svg,
            "<g><title>{}</title><rect x=\"{GAP}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"4\" fill=\"#eef3fa\" stroke=\"#88a\"/><text x=\"{}\" y=\"{text}\">{}</text><text x=\"{}\" y=\"{text}\" text-anchor=\"end\" fill=\"#555\">{}</text></g>",
            escape(&node.path),
            GAP + 8,
            escape(label),
            GAP + WIDTH - 8,
            node.shape
        );
    }
    svg.push_str("</svg>\n");
    svg
}
