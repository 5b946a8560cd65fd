//! Predictors of made-up accuracies.

use std::fs;

use oncefit_random::{Draws, fnv1a64};
use oncefit_space::Space;
use oncefit_target::*;

/// Accuracies that follow depth, kernels and widths, each decision by its own amount, with a
/// little noise; MACs alone do not explain them.
fn samples(space: &Space, count: u64) -> Vec<Sample> {
    let names = space.encoding_names();
    let worth = |name: &str| (fnv1a64(name.as_bytes()) % 1000) as f64 / 1e5;
    (0..count)
        .map(|index| {
            let mut draws = Draws::new(11, "samples", index, 0);
            let subnet = space.sample(&mut draws).unwrap();
            let mut sample = Sample::new(space, &subnet, 0.0);
            let sum: f64 = sample
                .code
                .iter()
                .map(|&one| worth(&names[one as usize]))
                .sum();
            sample.accuracy = 0.7 + sum + 0.001 * draws.normal();
            sample
        })
        .collect()
}

fn quick() -> PredictorOptions {
    PredictorOptions {
        hidden: vec![64, 64],
        steps: 300,
        ..Default::default()
    }
}

#[test]
fn a_predictor_learns_what_macs_do_not_tell() {
    let space = Space::builtin("fm-nano").unwrap();
    let samples = samples(&space, 400);
    let predictor = Predictor::train(&space, &samples, &quick()).unwrap();
    let quality = predictor.quality();
    assert_eq!(quality.held_out, 80);
    assert!(quality.beats_log_macs(), "{quality:?}");
    assert!(quality.predictor.kendall > 0.7, "{quality:?}");
    let points: Vec<usize> = quality.curve.iter().map(|point| point.samples).collect();
    assert_eq!(points, [40, 80, 160, 320]);
    assert!(quality.curve[3].rmse < quality.curve[0].rmse, "{quality:?}");
    assert_eq!(quality.scatter.len(), 80);
}

#[test]
fn where_only_macs_count_the_line_is_as_good() {
    let space = Space::builtin("fm-nano").unwrap();
    let mut samples = samples(&space, 60);
    for sample in &mut samples {
        sample.accuracy = 0.1 + 0.05 * (sample.macs as f64).ln();
    }
    let predictor = Predictor::train(&space, &samples, &quick()).unwrap();
    assert!(!predictor.quality().beats_log_macs());
    assert!(predictor.quality().log_macs.rmse < 1e-9);
}

#[test]
fn predictors_are_the_same_bytes_for_one_seed_and_read_back() {
    let space = Space::builtin("fm-nano").unwrap();
    let samples = samples(&space, 50);
    let train = |seed: u64| {
        let options = PredictorOptions {
            seed,
            steps: 40,
            ..quick()
        };
        Predictor::train(&space, &samples, &options).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.safetensors");
    let predictor = train(1);
    predictor.save(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    train(1).save(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
    train(2).save(&path).unwrap();
    assert_ne!(fs::read(&path).unwrap(), bytes);
    predictor.save(&path).unwrap();
    let again = Predictor::load(&path).unwrap();
    assert_eq!(again, predictor);
    let subnet = space.smallest().unwrap();
    let one = predictor.predict(&space, &subnet).unwrap();
    // A batch gives what single predictions give.
    let mut codes = Codes::default();
    samples.iter().for_each(|sample| codes.push(&sample.code));
    codes.push(&Sample::new(&space, &subnet, 0.0).code);
    assert_eq!(predictor.predict_codes(&codes)[50], one);
    // Damage is an answer, not a panic.
    for length in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&path, &bytes[..length]).unwrap();
        let error = Predictor::load(&path).unwrap_err().to_string();
        assert!(error.contains("no predictor"), "{error}");
    }
}

#[test]
fn bad_samples_are_answered_clearly() {
    let space = Space::builtin("fm-nano").unwrap();
    let good = samples(&space, 20);
    let error = |samples: &[Sample]| {
        Predictor::train(&space, samples, &quick())
            .unwrap_err()
            .to_string()
    };
    assert!(error(&good[..9]).contains("too few"));
    for accuracy in [f64::NAN, -0.1, 61.0] {
        let mut bad = good.clone();
        bad[4].accuracy = accuracy;
        assert!(error(&bad).contains("sample 4"));
    }
    let mut bad = good.clone();
    bad[3].code.push(100_000);
    assert!(error(&bad).contains("another space"));
    let other = Space::builtin("ofa-mobilenet-v3").unwrap();
    let predictor = Predictor::train(&space, &good, &quick()).unwrap();
    let message = predictor
        .predict(&other, &other.smallest().unwrap())
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("fm-nano") && message.contains("train one"),
        "{message}"
    );
    let options = PredictorOptions {
        hidden: vec![],
        ..quick()
    };
    assert!(Predictor::train(&space, &good, &options).is_err());
}
