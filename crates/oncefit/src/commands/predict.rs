//! `oncefit predict`

use std::path::Path;

use oncefit_data::read_image;
use oncefit_export::{OnnxModel, read_metadata, to_channels_first};
use oncefit_nn::softmax;
use serde::Serialize;

use super::{print, print_json};
use crate::cli::PredictArgs;
use crate::error::{Error, Result};
use crate::format::percent;

/// What a picture was taken for.
#[derive(Debug, Serialize)]
struct Prediction {
    image: String,
    classes: Vec<(String, f64)>,
}

pub fn predict(args: &PredictArgs) -> Result<()> {
    let metadata = read_metadata(&args.model)?;
    let (size, channels) = (metadata.resolution, metadata.mean.len());
    if ![1, 3].contains(&channels) || size == 0 {
        return Err(Error::Request(format!(
            "{} does not say how its images are made; only files that Oncefit wrote do",
            args.model.display()
        )));
    }
    if args.top == 0 {
        return Err(Error::Request("--top must be at least 1".into()));
    }
    let model = OnnxModel::load(&args.model, 1)?;
    let classify = |path: &Path| -> Result<Prediction> {
        let bytes = read_image(path, size, channels)?;
        let values: Vec<f32> = bytes
            .iter()
            .enumerate()
            .map(|(index, value)| {
                let channel = index % channels;
                (f32::from(*value) / 255.0 - metadata.mean[channel]) / metadata.std[channel]
            })
            .collect();
        let logits = model.run(&to_channels_first(&values, size, size, channels))?;
        let mut probabilities = vec![0.0; logits.len()];
        softmax(&logits, logits.len(), 1.0, &mut probabilities);
        let mut classes: Vec<(String, f64)> = probabilities
            .iter()
            .enumerate()
            .map(|(class, probability)| {
                let name = metadata.class_names.get(class).cloned();
                (
                    name.unwrap_or_else(|| class.to_string()),
                    f64::from(*probability),
                )
            })
            .collect();
        classes.sort_by(|left, right| right.1.total_cmp(&left.1));
        classes.truncate(args.top);
        Ok(Prediction {
            image: path.display().to_string(),
            classes,
        })
    };
    let mut predictions = Vec::new();
    let mut failed = 0;
    for path in &args.images {
        match classify(path) {
            Ok(prediction) if args.json => predictions.push(prediction),
            Ok(prediction) => {
                let classes = prediction.classes.iter();
                let classes: Vec<String> = classes
                    .map(|(name, probability)| format!("{name} {}", percent(*probability)))
                    .collect();
                print(&format!("{}: {}", prediction.image, classes.join(", ")));
            }
            // One bad picture does not hide the others.
            Err(error) => {
                eprintln!("oncefit: {error}");
                failed += 1;
            }
        }
    }
    if args.json {
        print_json(&predictions);
    }
    match failed {
        0 => Ok(()),
        _ => Err(Error::Failed(format!(
            "{failed} of {} pictures could not be read",
            args.images.len()
        ))),
    }
}
