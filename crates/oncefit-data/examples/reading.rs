//! Images per second of reading and of augmenting, on all cores; takes about half a minute.
//!
//! `cargo run --release -p oncefit-data --example reading [ARCHIVE]`; without an archive the images
//! are 10,000 of 32×32×3 random pixels and reading is not measured.

use std::time::{Duration, Instant};

use oncefit_data::{
    Augmentation, AutoAugmentPolicy, DataError, DataSource, Dataset, ImageShape, Loader,
    Normalisation,
};

const BATCH_SIZE: usize = 128;
const ROUNDS: usize = 7;

fn main() -> Result<(), DataError> {
    println!("{} threads", rayon::current_num_threads());
    let dataset = match std::env::args_os().nth(1) {
        Some(path) => {
            let source = DataSource::Images {
                path: path.into(),
                image_size: None,
                test_fraction: None,
            };
            let start = Instant::now();
            let data = source.load()?;
            let images = data.train.len() + data.test.len();
            println!(
                "reading: {images} images in {:.2} s",
                start.elapsed().as_secs_f64()
            );
            data.train
        }
        None => random_images()?,
    };
    println!("augmenting {}, batches of {BATCH_SIZE}:", dataset.shape());
    let crop = Augmentation {
        crop_padding: 4,
        horizontal_flip: true,
        ..Augmentation::NONE
    };
    let policy = Augmentation {
        auto_augment: Some(AutoAugmentPolicy::Cifar10),
        ..crop
    };
    let jitter = Augmentation {
        brightness: 0.4,
        contrast: 0.4,
        saturation: 0.4,
        hue: 0.1,
        ..policy
    };
    let resized = Augmentation {
        resized_crop: 0.08,
        horizontal_flip: true,
        ..Augmentation::NONE
    };
    let mixup = Augmentation { mixup: 0.2, ..crop };
    let cutmix = Augmentation {
        cutmix: 1.0,
        ..crop
    };
    for (name, augmentation) in [
        ("none", Augmentation::NONE),
        ("crop, flip", crop),
        ("crop, flip, AutoAugment", policy),
        ("crop, flip, AutoAugment, colour jitter", jitter),
        ("resized crop, flip", resized),
        ("crop, flip, mixup", mixup),
        ("crop, flip, cutmix", cutmix),
    ] {
        let rate = images_per_second(&dataset, augmentation)?;
        println!("{rate:>10.0} images/s  {name}");
    }
    Ok(())
}

fn random_images() -> Result<Dataset, DataError> {
    let shape = ImageShape {
        height: 32,
        width: 32,
        channels: 3,
    };
    let mut draws = oncefit_random::Draws::new(0, "rates", 0, 0);
    let images = 10_000;
    let bytes = (0..images * shape.bytes()).map(|_| draws.next_u32() as u8);
    Dataset::new(
        "random",
        shape,
        bytes.collect(),
        vec![0; images],
        vec!["x".into()],
    )
}

/// The median of a few rounds, each of at least half a second.
fn images_per_second(dataset: &Dataset, augmentation: Augmentation) -> Result<f64, DataError> {
    let normalisation = Normalisation::of(dataset)?;
    let resolution = dataset.height();
    let loader = Loader::new(
        dataset.clone(),
        BATCH_SIZE,
        0,
        augmentation,
        normalisation,
        true,
    )?;
    let mut batch = loader.batch(0, resolution)?;
    let mut step = 0;
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let (start, first) = (Instant::now(), step);
        while start.elapsed() < Duration::from_millis(500) {
            loader.fill(step % loader.steps_per_epoch(), resolution, &mut batch)?;
            step += 1;
        }
        let images = (step - first) as f64 * BATCH_SIZE as f64;
        rates.push(images / start.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    Ok(rates[ROUNDS / 2])
}
