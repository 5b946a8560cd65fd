//! Milliseconds of inference of the largest networks of some families, with blocks as one operation never,
//! where that should be faster, and always, interleaved: medians and the ratio to layer by layer.
//!
//! `cargo run --release -p oncefit-nn --example inference [FAMILY …]` (a minute)

use std::time::Instant;

use oncefit_nn::{Blocks, Cpu, Executor, Images, Session, Supernet};
use oncefit_random::Draws;
use oncefit_space::Space;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const WAYS: [Blocks; 3] = [Blocks::Never, Blocks::WhereFaster, Blocks::Always];

fn main() -> Result<()> {
    let mut names: Vec<String> = std::env::args().skip(1).collect();
    if names.is_empty() {
        let all = [
            "deps-cifar-mobilenet-v3",
            "ofa-mobilenet-v3",
            "mobilenet-v2",
            "ofa-resnet50d",
        ];
        names = all.map(String::from).into();
    }
    for name in names {
        let space = match name.ends_with(".space") {
            true => Space::parse(&std::fs::read_to_string(&name)?, &name)?,
            false => Space::builtin(&name)?,
        };
        let supernet = Supernet::initialise(&space, 0)?;
        let subnet = space.largest()?;
        let image = subnet.graph().input_shape().len();
        let mut draws = Draws::new(0, "images", 0, 0);
        let data: Vec<f32> = (0..32 * image).map(|_| draws.normal() as f32).collect();
        let batch = |count: usize| Images {
            data: &data[..count * image],
            count,
        };
        let plan = supernet.plan(&subnet)?;
        let mut executor = Executor::default();
        let calibration = executor.calibrate(&plan, &supernet.parameters, [batch(4)])?;
        let network = supernet.extract(&subnet, &calibration)?;
        let sessions: Vec<Session> = WAYS
            .iter()
            .map(|way| Session::with_blocks(Cpu::detect(), &network, *way))
            .collect::<std::result::Result<_, _>>()?;
        for count in [1, 32] {
            let mut times = [const { Vec::new() }; WAYS.len()];
            let started = Instant::now();
            while times[0].len() < 5 || started.elapsed().as_secs_f64() < 2.0 {
                for (session, times) in sessions.iter().zip(&mut times) {
                    let started = Instant::now();
                    session.run(batch(count))?;
                    times.push(started.elapsed().as_secs_f64() * 1e3);
                }
            }
            let medians = times.map(|mut times| {
                times.sort_by(f64::total_cmp);
                times[times.len() / 2]
            });
            print!("{name:24} batch {count:2}");
            for ((way, session), median) in WAYS.iter().zip(&sessions).zip(medians) {
                let ratio = medians[0] / median;
                let blocks = session.blocks();
                print!(" | {way:?} ({blocks}) {median:8.3} ms {ratio:5.2}×");
            }
            println!();
        }
    }
    Ok(())
}
