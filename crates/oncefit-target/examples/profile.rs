//! Profiles this machine for a family: `profile FAMILY ENGINE SECONDS [RESOLUTION]`. With tract
//! and fm-nano the median error on unseen networks should be below 0.1 after 20 seconds.

use std::error::Error;
use std::time::{Duration, Instant};

use oncefit_space::{Space, Value};
use oncefit_target::{Engine, ProfileOptions, profile};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |index: usize, default: &str| {
        arguments
            .get(index)
            .cloned()
            .unwrap_or_else(|| default.to_owned())
    };
    let mut space = Space::builtin(&argument(0, "fm-nano"))?;
    if let Some(resolution) = arguments.get(3) {
        space = space.restrict("resolution", &[Value::Int(resolution.parse()?)])?;
    }
    let engine = match argument(1, "tract").as_str() {
        "tract" => Engine::Tract,
        "oncefit" => Engine::Oncefit,
        _ => Engine::Onnxruntime,
    };
    let options = ProfileOptions {
        time_limit: Some(Duration::from_secs(argument(2, "20").parse()?)),
        ..Default::default()
    };
    let start = Instant::now();
    let target = profile(&space, engine, &options, &mut |progress| {
        eprint!(
            "\r{} {}/{}    ",
            progress.stage, progress.done, progress.total
        );
    })?;
    eprintln!();
    println!("{:.1} s", start.elapsed().as_secs_f64());
    println!("intercept {} ms", target.intercept_ms);
    println!("{:#?}\n{:#?}", target.measured, target.validation);
    println!("{:#?}", target.estimate);
    Ok(())
}
