//! Trains predictors on the evaluations of a run: `predict FAMILY RUN/evaluations.jsonl`. Prints
//! errors on held-out subnets beside those of a line through log-MACs, mean of three seeds; takes
//! about 30 seconds for 300 evaluations.

use std::collections::HashMap;
use std::error::Error;
use std::time::Instant;

use oncefit_space::Space;
use oncefit_target::{Predictor, PredictorOptions, Sample};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [family, path] = &arguments[..] else {
        println!("predict FAMILY RUN/evaluations.jsonl");
        return Ok(());
    };
    let space = Space::builtin(family)?;
    let mut accuracies: HashMap<String, f64> = HashMap::new();
    let mut samples = Vec::new();
    for line in std::fs::read_to_string(path)?.lines() {
        let row: serde_json::Value = serde_json::from_str(line)?;
        let (Some(text), Some(accuracy)) = (row["subnet"].as_str(), row["accuracy"].as_f64())
        else {
            continue;
        };
        if row["split"] == "validation" && accuracies.insert(text.into(), accuracy).is_none() {
            samples.push(Sample::new(&space, &space.parse_subnet(text)?, accuracy));
        }
    }
    println!("{} samples", samples.len());
    for hidden in [vec![400; 3], vec![200; 3], vec![100; 3], vec![100; 2]] {
        for steps in [100, 200] {
            let start = Instant::now();
            let mut sums = [0.0; 4];
            let mut curve = String::new();
            for seed in 0..3 {
                let options = PredictorOptions {
                    hidden: hidden.clone(),
                    steps,
                    seed,
                    ..Default::default()
                };
                let predictor = Predictor::train(&space, &samples, &options)?;
                let quality = predictor.quality();
                let (network, line) = (quality.predictor, quality.log_macs);
                let found = [network.rmse, network.kendall, line.rmse, line.kendall];
                sums.iter_mut()
                    .zip(found)
                    .for_each(|(sum, found)| *sum += found / 3.0);
                let points = quality.curve.iter();
                curve = points
                    .map(|point| format!(" {}:{:.4}", point.samples, point.rmse))
                    .collect();
            }
            println!(
                "{hidden:?}, {steps} steps: RMSE {:.5} tau {:.3}, line RMSE {:.5} tau {:.3}; curve{curve}; {:.1} s",
                sums[0],
                sums[1],
                sums[2],
                sums[3],
                start.elapsed().as_secs_f64() / 3.0
            );
        }
    }
    Ok(())
}
