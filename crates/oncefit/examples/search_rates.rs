//! Time of the search by prediction for one target and for forty: `search_rates [FAMILY]`. Costs
//! and accuracies are made up; the work is that of `oncefit fit`. Takes about half a minute.

use std::error::Error;
use std::time::Instant;

use oncefit::finder::{Budget, Finder, Scope};
use oncefit_random::{Draws, fnv1a64};
use oncefit_search::Limit;
use oncefit_space::Space;
use oncefit_target::{
    Coster, KeyStyle, OperatorTable, Predictor, PredictorOptions, Sample, median,
};

fn main() -> Result<(), Box<dyn Error>> {
    let family = std::env::args().nth(1);
    let families = match &family {
        Some(family) => vec![family.as_str()],
        None => vec!["fm-nano", "ofa-mobilenet-v3"],
    };
    families.into_iter().try_for_each(measure)
}

fn measure(family: &str) -> Result<(), Box<dyn Error>> {
    const SAMPLES: u64 = 200;
    const TARGETS: u64 = 40;
    let space = Space::builtin(family)?;
    let operators = Coster::new(&space).explore(1_000_000)?;
    let samples = (0..SAMPLES).map(|index| {
        let subnet = space.sample(&mut Draws::new(0, "samples", index, 0))?;
        let accuracy = 0.5 + 0.02 * (subnet.graph().macs() as f64).ln();
        Ok::<_, Box<dyn Error>>(Sample::new(&space, &subnet, accuracy))
    });
    let samples = samples.collect::<Result<Vec<_>, _>>()?;
    let predictor = Predictor::train(&space, &samples, &PredictorOptions::default())?;
    let budget = |target: u64| -> Result<Budget, Box<dyn Error>> {
        let entries = operators.iter().map(|operator| {
            let key = operator.to_string();
            let time = (fnv1a64(format!("{target} {key}").as_bytes()) % 1000) as f64 / 1e4;
            (key, time)
        });
        let table = OperatorTable::new("device", KeyStyle::Oncefit, 0.1, entries)?;
        let of = |subnet: oncefit_space::Subnet| table.latency(subnet.graph());
        // Half way between the smallest and the largest: a limit that matters.
        let (small, large) = (of(space.smallest()?)?, of(space.largest()?)?);
        let middle = 0.5 * (small.milliseconds + large.milliseconds);
        Ok(Budget {
            limits: vec![Limit::latency_ms(middle)],
            table: Some(table),
            ..Budget::default()
        })
    };
    let budgets = (0..TARGETS).map(budget).collect::<Result<Vec<_>, _>>()?;
    let mut finder = Finder::new(&space, &predictor)?;
    let mut times = Vec::new();
    let whole = Instant::now();
    for budget in &budgets {
        let start = Instant::now();
        finder.find(budget, Scope::Evolution { seed: 0 }, 16)?;
        times.push(start.elapsed().as_secs_f64());
    }
    let seconds = whole.elapsed().as_secs_f64();
    let exact = Instant::now();
    let found = finder.find(&budgets[0], Scope::Sums { seed: 0 }, 16)?;
    assert!(!found.is_empty());
    let exact = exact.elapsed().as_secs_f64();
    println!(
        "{family}: one target {:.2} s (median), {TARGETS} targets {:.1} s; exact, one target {exact:.1} s",
        median(&times),
        seconds
    );
    Ok(())
}
