//! A network drawn as blocks: one bar for each convolution, depthwise convolution and linear layer,
//! as high as its feature map and as wide as its channels; for any family.

use std::fmt::Write;

use oncefit_space::{Graph, Op};

use crate::chart::escape;

const HEIGHT: f64 = 84.0;
const GAP: f64 = 2.0;
/// Width of a bar for the root of its channels.
const WIDTH: f64 = 2.2;

/// The SVG element.
pub fn drawing(graph: &Graph, title: &str) -> String {
    let tallest = graph.input_shape().height.max(2) as f64;
    let mut bars = String::new();
    let mut x = 0.0;
    for node in &graph.nodes {
        let (class, what) = match node.op {
            Op::Convolution { kernel: 1, .. } => ("c3", "1×1 convolution".to_owned()),
            Op::Convolution { kernel, .. } => ("c0", format!("{kernel}×{kernel} convolution")),
            Op::Depthwise { kernel, .. } => ("c1", format!("{kernel}×{kernel} depthwise")),
            Op::Linear { .. } => ("c2", "linear".to_owned()),
            _ => continue,
        };
        // Sizes span powers of two; so do the bars.
        let size = (node.shape.height as f64 + 1.0).log2() / (tallest + 1.0).log2();
        let height = (HEIGHT * size).max(4.0);
        let width = (WIDTH * (node.shape.channels as f64).sqrt()).max(4.0);
        let kernel = match node.op {
            Op::Depthwise { kernel, .. } => kernel,
            _ => 0,
        };
        let _ = write!(
            bars,
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"><title>{} · {what} · {}</title></rect>",
            HEIGHT - height,
            escape(&node.path),
            node.shape
        );
        if kernel > 0 && width >= 7.0 {
            let _ = write!(
                bars,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{kernel}</text>",
                x + width / 2.0,
                HEIGHT + 12.0
            );
        }
        x += width + GAP;
    }
    format!(
        "<svg viewBox=\"0 0 {:.1} {:.1}\" role=\"img\" aria-label=\"{}\" class=\"chart blocks\">{bars}</svg>",
        x.max(1.0),
        HEIGHT + 16.0,
        escape(title)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_with_weights_is_a_bar() {
        for family in ["fm-nano", "resnet50"] {
            let space = oncefit_space::Space::builtin(family).unwrap();
            let largest = space.largest().unwrap();
            let svg = drawing(largest.graph(), "t");
            let layers = largest.graph().nodes.iter().filter(|node| {
                let op = &node.op;
                matches!(
                    op,
                    Op::Convolution { .. } | Op::Depthwise { .. } | Op::Linear { .. }
                )
            });
            assert_eq!(svg.matches("<rect").count(), layers.count());
            assert!(!svg.contains("NaN") && !svg.contains("inf"));
        }
    }
}
