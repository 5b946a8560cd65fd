//! A run's predictor of accuracies, learnt from some measured subnets.

use std::time::{Duration, Instant};

use oncefit_random::Draws;
use oncefit_space::{Space, Subnet};
use oncefit_target::{Predictor, PredictorOptions, Sample};
use oncefit_train::Split;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::loaded::LoadedRun;

/// What a predictor is learnt from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PredictorSettings {
    /// Subnets that are measured for it.
    pub samples: usize,
    /// When to stop measuring; at least [`oncefit_target::FEWEST_SAMPLES`] are.
    pub time_limit: Option<Duration>,
    /// Seed of the choice of subnets, and of the predictor.
    pub seed: u64,
}

/// Which weights and samples a saved predictor belongs to.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Origin {
    weights_hash: String,
    samples: usize,
    seed: u64,
}

/// Name of the saved predictor in a run folder.
pub const PREDICTOR: &str = "predictor.safetensors";
const ORIGIN: &str = "predictor.json";

/// The run's predictor: the saved one if it is of these weights and settings, or a new one.
/// `observe` is told how many subnets are measured.
///
/// # Errors
/// If a subnet cannot be measured or a file not be written.
pub fn predictor(
    run: &mut LoadedRun,
    settings: PredictorSettings,
    observe: &mut dyn FnMut(usize),
) -> Result<Predictor> {
    let (path, origin_path) = (run.run.file(PREDICTOR), run.run.file(ORIGIN));
    let wanted = Origin {
        weights_hash: run.weights_hash().to_owned(),
        samples: settings.samples,
        seed: settings.seed,
    };
    let saved = std::fs::read_to_string(&origin_path).ok();
    let saved = saved.and_then(|text| serde_json::from_str::<Origin>(&text).ok());
    if saved.as_ref() == Some(&wanted)
        && let Ok(predictor) = Predictor::load(&path)
        && predictor.check_space(&run.space).is_ok()
    {
        return Ok(predictor);
    }
    let space = run.space.clone();
    let started = Instant::now();
    let mut subnets: Vec<Subnet> = Vec::new();
    let mut samples = Vec::new();
    // Drawn and measured in parts, so that a time limit can end it.
    const PART: usize = 16;
    while samples.len() < settings.samples {
        let is_late = settings
            .time_limit
            .is_some_and(|limit| started.elapsed() >= limit);
        if is_late && samples.len() >= oncefit_target::FEWEST_SAMPLES {
            break;
        }
        let mut part = Vec::new();
        while part.len() < PART.min(settings.samples - samples.len()) {
            let index = subnets.len();
            let subnet = match index {
                0 => space.largest()?,
                1 => space.smallest()?,
                _ => spread(&space, settings.seed, index as u64)?,
            };
            part.push(subnet.clone());
            subnets.push(subnet);
        }
        let rows = run.evaluate(&part, Split::Validation)?;
        let measured = part.iter().zip(rows);
        samples.extend(measured.map(|(subnet, row)| Sample::new(&space, subnet, row.accuracy)));
        observe(samples.len());
    }
    let options = PredictorOptions {
        seed: settings.seed,
        ..PredictorOptions::default()
    };
    let predictor = Predictor::train(&space, &samples, &options)?;
    // Without its origin a predictor is not used again: so none is there while it is replaced.
    if origin_path.exists() {
        std::fs::remove_file(&origin_path).map_err(|source| Error::File {
            action: "remove",
            path: origin_path.clone(),
            source,
        })?;
    }
    predictor.save(&path)?;
    // One that the clock stopped early is learnt again by whoever asks for more samples.
    let origin = Origin {
        samples: samples.len(),
        ..wanted
    };
    let text = serde_json::to_string_pretty(&origin).expect("plain data");
    run.run.write(ORIGIN, &text)?;
    Ok(predictor)
}

/// A random subnet: half of them with every decision uniform, half leaning towards small or large
/// values, since a search looks at small and large networks too.
fn spread(space: &Space, seed: u64, index: u64) -> Result<Subnet> {
    let mut draws = Draws::new(seed, "predictor samples", index, 0);
    let lean = match index.is_multiple_of(2) {
        true => 0.0,
        false => 2.0 * draws.unit_f64() - 1.0,
    };
    Ok(space.build(&mut |slot| {
        let values = &slot.domain.values;
        if !draws.chance(lean.abs()) {
            return draws.below(values.len());
        }
        let order = |index: &usize| &values[*index];
        let indices = 0..values.len();
        let end = match lean > 0.0 {
            true => indices.max_by_key(order),
            false => indices.min_by_key(order),
        };
        end.unwrap_or(0)
    })?)
}
