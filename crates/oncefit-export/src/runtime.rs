//! Running an exported file in `tract`, and comparing it with what it was made from.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use tract_onnx::prelude::*;
use tract_onnx::tract_hir::infer::Factoid;

use crate::error::{ExportError, Result};

/// The engine that checks files.
pub const ENGINE: &str = "tract 0.23";

/// Largest difference that counts as equal, as a share of the largest logit.
pub const TOLERANCE: f32 = 1e-4;

type Run = dyn Fn(Tensor) -> TractResult<Vec<f32>>;

/// A model file, loaded for one batch size.
pub struct OnnxModel {
    path: PathBuf,
    shape: [usize; 4],
    run: Box<Run>,
}

impl std::fmt::Debug for OnnxModel {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter
            .debug_struct("OnnxModel")
            .field("path", &self.path)
            .field("shape", &self.shape)
            .finish()
    }
}

impl OnnxModel {
    /// Loads a file and prepares it for `batch` images at once.
    ///
    /// # Errors
    /// If the file cannot be read, is damaged, or is no network of one image input.
    pub fn load(path: &Path, batch: usize) -> Result<Self> {
        if let Err(source) = std::fs::metadata(path) {
            return Err(ExportError::File {
                action: "read",
                path: path.to_owned(),
                source,
            });
        }
        let fails = |reason: String| ExportError::Model {
            path: path.to_owned(),
            reason,
        };
        // A damaged file must not take the program down, whatever the engine makes of it.
        match catch_unwind(AssertUnwindSafe(|| Self::prepare(path, batch))) {
            Ok(Ok(model)) => Ok(model),
            Ok(Err(error)) => Err(fails(format!("{error:#}"))),
            Err(_) => Err(fails("the engine panicked while loading it".into())),
        }
    }

    fn prepare(path: &Path, batch: usize) -> TractResult<Self> {
        let mut model = tract_onnx::onnx().model_for_path(path)?;
        let input = model.input_outlets()?.first().copied();
        let input = input.ok_or_else(|| TractError::msg("it has no input"))?;
        let fact = model.outlet_fact(input)?.clone();
        let extents: Vec<Option<usize>> = fact
            .shape
            .dims()
            .map(|extent| {
                extent
                    .concretize()
                    .and_then(|extent| usize::try_from(extent.to_i64().ok()?).ok())
            })
            .collect();
        let [_, Some(channels), Some(height), Some(width)] = extents[..] else {
            return Err(TractError::msg(
                "its input is not batch × channels × height × width",
            ));
        };
        let shape = [batch, channels, height, width];
        model.set_input_fact(0, f32::fact(shape).into())?;
        let runnable = model.into_optimized()?.into_runnable()?;
        let run = move |tensor: Tensor| {
            let outputs = runnable.run(tvec!(tensor.into()))?;
            let view = outputs[0].to_plain_array_view::<f32>()?;
            Ok(view.iter().copied().collect())
        };
        Ok(Self {
            path: path.to_owned(),
            shape,
            run: Box::new(run),
        })
    }

    /// Batch, channels, height and width of the input.
    pub fn input_shape(&self) -> [usize; 4] {
        self.shape
    }

    /// Logits of a batch of images, `batch × c × h × w`.
    ///
    /// # Errors
    /// If the number of values is wrong or the engine fails.
    pub fn run(&self, images: &[f32]) -> Result<Vec<f32>> {
        let needed = self.shape.iter().product();
        if images.len() != needed {
            let [batch, channels, height, width] = self.shape;
            return Err(ExportError::Input {
                path: self.path.clone(),
                found: images.len(),
                needed,
                detail: format!("{batch} images of {channels}×{height}×{width}"),
            });
        }
        Tensor::from_shape(&self.shape, images)
            .and_then(|tensor| (self.run)(tensor))
            .map_err(|error| ExportError::Model {
                path: self.path.clone(),
                reason: format!("{error:#}"),
            })
    }
}

/// How a file compared with its network.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Verification {
    /// The engine that ran the file.
    pub engine: &'static str,
    /// Images compared.
    pub images: usize,
    /// Largest difference of a logit.
    pub largest_difference: f32,
    /// Largest absolute logit.
    pub largest_logit: f32,
}

/// Runs the file on `images` (`n × c × h × w`) and compares the logits.
///
/// # Errors
/// If the file cannot be run, or its logits differ by more than [`TOLERANCE`] of the largest.
pub fn verify(path: &Path, images: &[f32], count: usize, expected: &[f32]) -> Result<Verification> {
    let found = OnnxModel::load(path, count)?.run(images)?;
    if found.len() != expected.len() {
        return Err(ExportError::Model {
            path: path.to_owned(),
            reason: format!(
                "it gives {} logits instead of {}",
                found.len(),
                expected.len()
            ),
        });
    }
    let largest_of = |values: &mut dyn Iterator<Item = f32>| {
        // NaN must not pass for a small difference.
        values.fold(0.0f32, |largest, value| {
            if value.is_nan() {
                f32::INFINITY
            } else {
                largest.max(value)
            }
        })
    };
    let largest_logit = largest_of(&mut expected.iter().map(|value| value.abs()));
    let largest_difference = largest_of(
        &mut found
            .iter()
            .zip(expected)
            .map(|(found, expected)| (found - expected).abs()),
    );
    let is_equal = largest_difference <= TOLERANCE * largest_logit;
    if !is_equal || !largest_logit.is_finite() {
        return Err(ExportError::Mismatch {
            path: path.to_owned(),
            engine: ENGINE,
            difference: largest_difference,
            largest: largest_logit,
        });
    }
    Ok(Verification {
        engine: ENGINE,
        images: count,
        largest_difference,
        largest_logit,
    })
}
