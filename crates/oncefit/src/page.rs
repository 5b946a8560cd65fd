//! What all pages share: frame, style, figures.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::chart::Chart;

/// A whole page.
pub fn page(title: &str, body: Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " · Oncefit" }
                style { (PreEscaped(include_str!("report.css"))) }
            }
            body { (body) }
        }
    };
    page.into_string()
}

/// A chart with a caption.
pub fn figure(chart: &Chart, caption: &str) -> Markup {
    html! { figure { (PreEscaped(chart.to_svg())) figcaption { (caption) } } }
}

/// What the drawings of networks mean.
pub const BLOCKS_EXPLAINED: PreEscaped<&str> = PreEscaped(
    "<p>Bars: 3×3 and larger convolutions (blue), 1×1 convolutions (grey), depthwise convolutions \
     with their kernel (orange), linear layers (green); as high as the feature map, as wide as its \
     channels.</p>",
);
