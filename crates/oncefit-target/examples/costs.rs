//! Rates of costing, predicting and fitting: `costs [FAMILY]`. On one core some 1,000,000 subnets
//! a second should be costed, and 100,000 predicted and costed with the default network; takes
//! about 20 seconds.

use std::error::Error;
use std::time::Instant;

use oncefit_random::{Draws, fnv1a64};
use oncefit_space::Space;
use oncefit_target::{
    Codes, Coster, KeyStyle, OperatorTable, Predictor, PredictorOptions, Sample, TargetError,
    median,
};

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let family = std::env::args().nth(1);
    let families = match &family {
        Some(family) => vec![family.as_str()],
        None => vec!["fm-nano", "ofa-mobilenet-v3", "ofa-resnet50d"],
    };
    // One core, whatever the machine has.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    pool.install(|| families.into_iter().try_for_each(measure))
}

/// Members as indices, every decision uniform.
fn members(space: &Space, count: u64, seed: u64) -> Vec<Vec<usize>> {
    let member = |index| {
        let mut draws = Draws::new(seed, "members", index, 0);
        let slots = space.decisions().iter();
        slots
            .map(|slot| draws.below(slot.domain.values.len()))
            .collect()
    };
    (0..count).map(member).collect()
}

fn measure(family: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    let space = Space::builtin(family)?;
    println!("{family}: {} decisions", space.decisions().len());
    let start = Instant::now();
    let mut coster = Coster::new(&space);
    let operators = coster.explore(1_000_000)?;
    println!(
        "  explored {} cases, {} operators in {:.2} s",
        coster.known_cases(),
        operators.len(),
        start.elapsed().as_secs_f64()
    );
    let entries = operators.iter().map(|operator| {
        let key = operator.to_string();
        let time = (fnv1a64(key.as_bytes()) % 1000) as f64 / 1e3;
        (key, time)
    });
    let table = OperatorTable::new("device", KeyStyle::Oncefit, 0.1, entries)?;
    let start = Instant::now();
    coster.set_table(Some(&table));
    println!(
        "  another table: {:.1} ms",
        start.elapsed().as_secs_f64() * 1e3
    );
    let all = members(&space, 100_000, 1);
    let mut fresh = Coster::with_table(&space, &table);
    let start = Instant::now();
    for indices in &all[..20_000] {
        fresh.cost(indices)?;
    }
    println!(
        "  cost, first 20,000 with a new coster: {:.0} per second",
        2e4 / start.elapsed().as_secs_f64()
    );
    let mut sum = 0.0;
    let mut rates = Vec::new();
    for _ in 0..7 {
        let start = Instant::now();
        for indices in &all {
            sum += coster.cost(indices)?.latency_ms.unwrap_or(0.0);
        }
        rates.push(all.len() as f64 / start.elapsed().as_secs_f64());
    }
    println!(
        "  cost: {:.0} per second (mean {:.3} ms)",
        median(&rates),
        sum / 7e5
    );
    let samples: Vec<Sample> = members(&space, 500, 2)
        .iter()
        .map(|indices| {
            let mut code = Vec::new();
            let cost = coster.cost_and_code(indices, &mut code)?;
            let accuracy = 0.5 + 0.02 * (cost.macs as f64).ln() % 0.5;
            Ok::<_, TargetError>(Sample {
                code,
                macs: cost.macs,
                accuracy,
            })
        })
        .collect::<Result<_, _>>()?;
    for hidden in [vec![400; 3], vec![200; 3], vec![128; 2]] {
        let options = PredictorOptions {
            hidden,
            ..Default::default()
        };
        let start = Instant::now();
        let predictor = Predictor::train(&space, &samples, &options)?;
        let training = start.elapsed().as_secs_f64();
        let mut rates = Vec::new();
        for batch in [100usize, 1000] {
            let mut codes = Codes::default();
            let mut code = Vec::new();
            let mut times = Vec::new();
            for _ in 0..5 {
                let start = Instant::now();
                for block in all[..20_000].chunks(batch) {
                    codes.clear();
                    for indices in block {
                        sum += coster.cost_and_code(indices, &mut code)?.macs as f64;
                        codes.push(&code);
                    }
                    sum += predictor.predict_codes(&codes)[0];
                }
                times.push(2e4 / start.elapsed().as_secs_f64());
            }
            rates.push(median(&times));
        }
        println!(
            "  {:?}: costed and predicted {:.0} per second in hundreds, {:.0} in thousands; judged and trained on 500 samples in {training:.1} s",
            options.hidden, rates[0], rates[1]
        );
    }
    assert!(sum.is_finite());
    Ok(())
}
