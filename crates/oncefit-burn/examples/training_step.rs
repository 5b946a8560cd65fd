//! A training step of a supernet on devices, compared with our own executor.
//!
//! `cargo run --release --features wgpu --example training_step FAMILY IMAGES STEPS DEVICE…`, where
//! a family is the name of a shipped one or a `.space` file.

use oncefit_burn::{Differences, Outcome, TrainingStep, open_device};
use oncefit_nn::Supernet;
use oncefit_random::Draws;
use oncefit_space::{Space, Value};

/// Share of a pixel that the images of the last row are changed by: a few roundings.
const NOISE: f32 = 1e-6;
/// Larger differences are an error.
const LOGITS: f32 = 1e-3;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [family, count, steps, devices @ ..] = &arguments[..] else {
        return Err("give FAMILY IMAGES STEPS DEVICE…, for instance fm-nano 32 5 flex wgpu".into());
    };
    let (count, steps): (usize, usize) = (count.parse()?, steps.parse()?);
    if count == 0 || steps == 0 {
        return Err("IMAGES and STEPS are 1 or more".into());
    }
    let mut space = match family.ends_with(".space") {
        true => Space::parse(&std::fs::read_to_string(family)?, family)?,
        false => Space::builtin(family)?,
    };
    if family.starts_with("ofa-") {
        // The largest images of these families would take minutes on a processor.
        space = space.restrict("resolution", &[Value::Int(128)])?;
    }
    let supernet = Supernet::initialise(&space, 0)?;
    let random = |index| space.sample(&mut Draws::new(0, "members", index, 0));
    let members = [space.largest()?, random(0)?, random(1)?, space.smallest()?];
    let graphs = members.iter().map(|member| member.graph().clone());
    let step = TrainingStep::new(&supernet, graphs.collect(), count, 0);
    println!(
        "{}: largest, two random and smallest member, {count} images each; {} weights, {steps} steps\n",
        space.name(),
        supernet.parameters.values()
    );
    println!(
        "executor         |  logits |    loss | gradients | changes of weights | first step | median of the others"
    );
    let own = step.on_cpu(steps)?;
    println!(
        "own              |         |         |           |                    | {}",
        times(&own)
    );
    let mut too_far = Vec::new();
    for name in devices {
        let (device, words) = open_device(name)?;
        let found = step.on_device(&device, steps)?;
        let differences = step.differences(&found, &own);
        println!("{name:<16} | {} | {}", row(&differences), times(&found));
        println!(
            "    {words}; the worst gradient is {}",
            differences.gradient_name
        );
        if differences.logits > LOGITS {
            too_far.push(name.as_str());
        }
    }
    let noisy = step.with_noise(NOISE).on_cpu(steps)?;
    println!(
        "own, pixels·(1±{NOISE:.0e}) | {}",
        row(&step.differences(&noisy, &own))
    );
    println!("\nloss of the first step {:.6}", own.loss);
    match too_far.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "logits differ by more than {LOGITS:.0e} on {}",
            too_far.join(", ")
        )
        .into()),
    }
}

fn row(differences: &Differences) -> String {
    format!(
        "{:7.1e} | {:7.1e} | {:9.1e} | {:18.1e}",
        differences.logits, differences.loss, differences.gradients, differences.changes
    )
}

fn times(outcome: &Outcome) -> String {
    let mut later = outcome.seconds[1..].to_vec();
    later.sort_by(f64::total_cmp);
    let median = later.get(later.len() / 2);
    let median = median.map_or("–".into(), |seconds| format!("{:.1} ms", seconds * 1e3));
    format!("{:7.1} ms | {median}", outcome.seconds[0] * 1e3)
}
