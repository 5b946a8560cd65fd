//! Time of a forward and backward pass of subnets of a family, medians on all threads.
//!
//! `cargo run --release -p oncefit-train --example step_time [FAMILY] [BATCH]`

use std::time::Instant;

use oncefit_nn::*;
use oncefit_space::Space;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let family = arguments.get(1).map_or("fm-nano", String::as_str);
    let count: usize = arguments.get(2).map_or(Ok(64), |text| text.parse())?;
    let space = Space::builtin(family)?;
    let supernet = Supernet::initialise(&space, 0)?;
    let mut executor = Executor::default();
    let mut gradients = Gradients::zeros(&supernet.parameters);
    println!(
        "{family}, batch {count}, {} threads",
        rayon::current_num_threads()
    );
    for (name, subnet) in [
        ("largest", space.largest()?),
        ("smallest", space.smallest()?),
    ] {
        let shape = subnet.graph().input_shape();
        let classes = subnet.graph().output_shape().channels;
        let data: Vec<f32> = (0..count * shape.len())
            .map(|index| (index % 13) as f32 / 6.0 - 1.0)
            .collect();
        let labels: Vec<u32> = (0..count).map(|index| (index % classes) as u32).collect();
        let mut times = Vec::new();
        for _ in 0..25 {
            let started = Instant::now();
            let plan = supernet.plan(&subnet)?;
            let images = Images { data: &data, count };
            let mode = Mode::Train { dropout: None };
            let tape = executor.forward(&plan, &supernet.parameters, images, mode)?;
            let mut gradient = vec![0.0; tape.output().len()];
            let target = Target::Labels {
                labels: &labels,
                smoothing: 0.1,
            };
            softmax_cross_entropy(tape.output(), classes, target, &mut gradient, 1.0);
            let forward = started.elapsed().as_secs_f64();
            executor.backward(&plan, &supernet.parameters, tape, &gradient, &mut gradients)?;
            times.push((started.elapsed().as_secs_f64(), forward));
        }
        times.sort_by(|left, right| left.0.total_cmp(&right.0));
        let (whole, forward) = times[times.len() / 2];
        let rate = 3.0 * subnet.graph().macs() as f64 * count as f64 / whole / 1e9;
        println!(
            "{name:<9} {:7.2} ms (forward {:6.2} ms), {rate:6.1} GMAC/s",
            whole * 1e3,
            forward * 1e3
        );
    }
    Ok(())
}
