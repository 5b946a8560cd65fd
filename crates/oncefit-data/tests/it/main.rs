//! The whole way from a source to batches, on the embedded data.

mod image_sources;

use oncefit_data::{
    Augmentation, Batch, DataSource, DatasetSummary, Loader, Normalisation, Prefetch, Split,
    ValidationSplit, calibration_batches, contact_sheet, evaluation_batches,
};

const AUGMENTATION: Augmentation = Augmentation {
    crop_padding: 2,
    horizontal_flip: true,
    random_erasing: 0.25,
    ..Augmentation::NONE
};

fn split() -> Split {
    let data = DataSource::Embedded.load().unwrap();
    data.split(ValidationSplit {
        size: 1000,
        seed: 3,
    })
    .unwrap()
}

fn loader(split: &Split) -> Loader {
    let normalisation = Normalisation::of(&split.train).unwrap();
    Loader::new(
        split.train.clone(),
        96,
        11,
        AUGMENTATION,
        normalisation,
        true,
    )
    .unwrap()
}

fn resolution_of(step: u64) -> usize {
    16 + 4 * (step as usize % 4)
}

/// Some of every kind of batch, on a pool of `threads` threads.
fn batches(threads: usize) -> Vec<Batch> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap();
    pool.install(|| {
        let split = split();
        let loader = loader(&split);
        let normalisation = Normalisation::of(&split.train).unwrap();
        let mut batches: Vec<Batch> = (70..76)
            .map(|step| loader.batch(step, resolution_of(step)).unwrap())
            .collect();
        batches.extend(evaluation_batches(&split.validation, 300, 24, &normalisation).unwrap());
        batches.extend(
            calibration_batches(&split.train, 500, 200, 20, &normalisation, 5, AUGMENTATION)
                .unwrap(),
        );
        batches
    })
}

#[test]
fn batches_are_the_same_bytes_on_any_number_of_threads() {
    let one = batches(1);
    assert_eq!(
        one.iter().map(|batch| batch.images_count).sum::<usize>(),
        6 * 96 + 1000 + 500
    );
    for threads in [2, 5] {
        assert!(one == batches(threads), "{threads} threads");
    }
}

#[test]
fn batches_are_the_same_bytes_as_ever() {
    let mut hasher = blake3::Hasher::new();
    for batch in batches(2) {
        for value in &batch.images {
            hasher.update(&value.to_le_bytes());
        }
        for label in &batch.labels {
            hasher.update(&label.to_le_bytes());
        }
    }
    assert_eq!(hasher.finalize().to_hex().as_str(), BATCHES_HASH);
}
const BATCHES_HASH: &str = "489c62a82c93b3ba386816b18a195b34a1ea120f1998bb192bf6ee12adc179f4";

#[test]
fn a_resumed_training_gets_the_batches_of_an_uninterrupted_one() {
    let split = split();
    let steps = loader(&split).steps_per_epoch();
    let range = steps - 3..steps + 3;
    let whole = Prefetch::new(loader(&split), range.clone(), 2, resolution_of);
    let resumed = Prefetch::new(loader(&split), steps..range.end, 1, resolution_of);
    let rest: Vec<Batch> = whole.skip(3).map(Result::unwrap).collect();
    assert_eq!(rest.len(), 3);
    assert!(rest == resumed.map(Result::unwrap).collect::<Vec<_>>());
}

#[test]
fn normalised_training_images_have_mean_zero_and_variance_one() {
    let split = split();
    let normalisation = Normalisation::of(&split.train).unwrap();
    let batches = evaluation_batches(&split.train, 1000, 28, &normalisation).unwrap();
    let (mut count, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for value in batches
        .iter()
        .flat_map(|batch| &batch.images)
        .map(|value| f64::from(*value))
    {
        count += 1.0;
        sum += value;
        squares += value * value;
    }
    let mean = sum / count;
    assert!(mean.abs() < 1e-5, "{mean}");
    assert!((squares / count - mean * mean - 1.0).abs() < 1e-5);
}

#[test]
fn the_embedded_data_can_be_summed_up_and_drawn() {
    let test = DataSource::Embedded.load().unwrap().test;
    let summary = DatasetSummary::of(&test);
    assert_eq!(summary.images, 2000);
    assert!(summary.classes.iter().all(|class| class.images == 200));
    assert_eq!(
        (summary.classes[0].name.as_str(), summary.mean.len()),
        ("T-shirt/top", 1)
    );
    let sheet = contact_sheet(&test, 12).unwrap();
    assert_eq!((sheet.width, sheet.height), (2 + 12 * 30, 2 + 10 * 30));
}
