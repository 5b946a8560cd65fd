//! A space written in Rust: prints its text, its number of members and its costs. Takes a moment.
//!
//! `cargo run --release -p oncefit-space --example write_space > own.space` makes a file that
//! `oncefit space`, `oncefit train` and every other command reads.

use oncefit_space::builder::{Block, SpaceBuilder, Term};
use oncefit_space::{Activation, SpaceError};

/// A function of Rust is a template that leaves no trace in the text.
fn normalised_conv(block: &mut Block, out: &Term, kernel: i64) {
    block.conv(out).kernel(kernel);
    block.batch_norm();
    block.activation(Activation::Relu);
}

fn main() -> Result<(), SpaceError> {
    let mut own = SpaceBuilder::new("own");
    let channels = own.parameter("channels", 1);
    let classes = own.parameter("classes", 10);
    // A template of a family, and one of our own.
    let mbconv = own.import("fm-nano", "mbconv")?;
    let stage = own.define("stage", ["widest"], |stage, [widest]| {
        let width = stage.decide("width", [&widest / 2, widest]);
        stage
            .label("block")
            .repeat("depth", 1..=3)
            .of_each("i", |block, i| {
                let stride = i.equals(0).select(2, 1);
                block.call(&mbconv, (&width, stride, Activation::Relu, false));
            });
    });
    let space = own.build(|net| {
        let width = net.decide("stem_width", [8, 12, 16]);
        net.input(28, 28, &channels);
        net.label("stem").seq(|stem| {
            stem.choice("kernel")
                .branch("k3", |branch| normalised_conv(branch, &width, 3))
                .branch("k5", |branch| normalised_conv(branch, &width, 5));
        });
        net.label("stage1").call(&stage, [16]);
        net.label("stage2").call(&stage, [32]);
        net.global_average_pool();
        net.linear(&classes);
    })?;
    print!("{}", space.to_text());
    let (smallest, largest) = (space.smallest()?, space.largest()?);
    println!("# {} members", space.count()?);
    println!(
        "# MACs from {} to {}",
        smallest.graph().macs(),
        largest.graph().macs()
    );
    Ok(())
}
