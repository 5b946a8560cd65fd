//! Checkpoints: weights, the optimiser's buffers and the few numbers of a run's state in one
//! safetensors file.
//!
//! The file is readable without Oncefit: weights are stored under their names, the optimiser's
//! buffers under `momentum/<name>`, `mean/<name>`, `square/<name>`, a moving average of the weights
//! under `average/<name>`, the state as metadata. Equal states give equal bytes.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use oncefit_nn::{Parameter, Parameters};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::error::{Result, TrainError};
use crate::files::{remove_unfinished, sync_folder, write_atomically};

/// The state of a training between two steps.
#[derive(Clone, PartialEq, Debug)]
pub struct Checkpoint {
    /// Steps done.
    pub step: u64,
    /// Multiply-accumulates spent on training so far.
    pub train_macs: u64,
    /// Running mean of the loss that the divergence guard watches.
    pub mean_loss: f64,
    /// Sum of the losses since the last whole epoch.
    pub epoch_loss: f64,
    /// Hash of the recipe it belongs to.
    pub recipe_hash: String,
    /// Steps of the optimiser since its buffers were empty.
    pub optimiser_steps: u64,
    /// The weights.
    pub weights: Parameters,
    /// Their moving average, where one is kept.
    pub average: Option<Parameters>,
    /// The optimiser's buffers, by name.
    pub buffers: Vec<(String, Parameters)>,
}

const FORMAT: &str = "oncefit checkpoint 2";
const AVERAGE: &str = "average";
const BEST: &str = "best.safetensors";

impl Checkpoint {
    /// The bytes of the file.
    ///
    /// # Errors
    /// Never for tensors whose data fits their shape.
    fn to_bytes(&self, path: &Path) -> Result<Vec<u8>> {
        let named = |prefix: &str, parameters: &Parameters| {
            parameters
                .iter()
                .map(|tensor| {
                    let bytes: Vec<u8> = tensor
                        .data
                        .iter()
                        .flat_map(|value| value.to_le_bytes())
                        .collect();
                    (
                        format!("{prefix}{}", tensor.name),
                        tensor.shape.clone(),
                        bytes,
                    )
                })
                .collect::<Vec<_>>()
        };
        let mut tensors = named("", &self.weights);
        if let Some(average) = &self.average {
            tensors.extend(named(&format!("{AVERAGE}/"), average));
        }
        for (name, set) in &self.buffers {
            tensors.extend(named(&format!("{name}/"), set));
        }
        let views = tensors
            .iter()
            .map(|(name, shape, bytes)| {
                TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name.as_str(), view))
            })
            .collect::<std::result::Result<Vec<_>, _>>();
        // One metadata entry: the order of several is not fixed, and equal states must give equal
        // bytes.
        let state = serde_json::json!({
            "format": FORMAT,
            "step": self.step,
            "train_macs": self.train_macs,
            "mean_loss_bits": self.mean_loss.to_bits(),
            "epoch_loss_bits": self.epoch_loss.to_bits(),
            "recipe_hash": self.recipe_hash,
            "optimiser_steps": self.optimiser_steps,
            "average": self.average.is_some(),
            "buffers": self.buffers.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        });
        let metadata = HashMap::from([("oncefit".to_owned(), state.to_string())]);
        views
            .and_then(|views| safetensors::serialize(views, Some(metadata)))
            .map_err(|error| unusable(path, &error.to_string()))
    }

    /// Writes it to a file.
    ///
    /// # Errors
    /// If it cannot be written; what was there stays.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_atomically(path, &self.to_bytes(path)?)
    }

    /// The weights that are evaluated: the moving average where one is kept.
    pub fn into_evaluated(self) -> Parameters {
        self.average.unwrap_or(self.weights)
    }

    /// Reads a checkpoint whose weights are laid out like `layout`.
    ///
    /// # Errors
    /// If the file is cut short, is something else or belongs to another space.
    pub fn load(path: &Path, layout: &Parameters) -> Result<Self> {
        let bytes = fs::read(path).map_err(TrainError::file("read checkpoint", path))?;
        let fails = |reason: &str| unusable(path, reason);
        let (_, header) = SafeTensors::read_metadata(&bytes)
            .map_err(|error| fails(&format!("it is cut short or no safetensors file ({error})")))?;
        let state: serde_json::Value = header
            .metadata()
            .as_ref()
            .and_then(|metadata| metadata.get("oncefit"))
            .and_then(|text| serde_json::from_str(text).ok())
            .ok_or_else(|| fails("it has no Oncefit state"))?;
        if state["format"] != FORMAT {
            return Err(fails(&format!(
                "its format is {}, not \"{FORMAT}\"",
                state["format"]
            )));
        }
        let number = |key: &str| {
            state[key]
                .as_u64()
                .ok_or_else(|| fails(&format!("its state lacks `{key}`")))
        };
        let tensors = SafeTensors::deserialize(&bytes)
            .map_err(|error| fails(&format!("it is cut short or damaged ({error})")))?;
        let read = |prefix: &str| -> Result<Parameters> {
            let mut parameters = Parameters::default();
            for expected in layout.iter() {
                let name = format!("{prefix}{}", expected.name);
                let view = tensors
                    .tensor(&name)
                    .map_err(|_| fails(&format!("it lacks tensor `{name}`")))?;
                if view.shape() != expected.shape || view.dtype() != Dtype::F32 {
                    return Err(fails(&format!(
                        "tensor `{name}` is {:?} {:?}, but this space needs F32 {:?}",
                        view.dtype(),
                        view.shape(),
                        expected.shape
                    )));
                }
                let (values, _) = view.data().as_chunks::<4>();
                parameters.insert(Parameter {
                    data: values
                        .iter()
                        .map(|bytes| f32::from_le_bytes(*bytes))
                        .collect(),
                    ..expected.clone()
                });
            }
            Ok(parameters)
        };
        Ok(Self {
            step: number("step")?,
            train_macs: number("train_macs")?,
            mean_loss: f64::from_bits(number("mean_loss_bits")?),
            epoch_loss: f64::from_bits(number("epoch_loss_bits")?),
            recipe_hash: state["recipe_hash"].as_str().unwrap_or_default().to_owned(),
            optimiser_steps: number("optimiser_steps")?,
            weights: read("")?,
            average: match state[AVERAGE].as_bool() {
                Some(true) => Some(read(&format!("{AVERAGE}/"))?),
                _ => None,
            },
            buffers: state["buffers"]
                .as_array()
                .ok_or_else(|| fails("its state lacks `buffers`"))?
                .iter()
                .filter_map(|name| name.as_str())
                .map(|name| Ok((name.to_owned(), read(&format!("{name}/"))?)))
                .collect::<Result<_>>()?,
        })
    }
}

fn unusable(path: &Path, reason: &str) -> TrainError {
    TrainError::Checkpoint {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

/// The `checkpoints/` folder of a run.
#[derive(Clone, Debug)]
pub struct CheckpointFolder {
    folder: PathBuf,
    keep: usize,
}

impl CheckpointFolder {
    /// The folder, made if it is missing and freed of what a killed process left unfinished.
    ///
    /// # Errors
    /// If it cannot be made or read.
    pub fn open(folder: &Path, keep: usize) -> Result<Self> {
        fs::create_dir_all(folder).map_err(TrainError::file("create", folder))?;
        remove_unfinished(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            keep,
        })
    }

    /// A folder to read from only: nothing in it is changed.
    pub fn open_to_read(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            keep: usize::MAX,
        }
    }

    /// The checkpoints, oldest first.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn list(&self) -> Result<Vec<PathBuf>> {
        if !self.folder.exists() {
            return Ok(Vec::new());
        }
        let entries = fs::read_dir(&self.folder).map_err(TrainError::file("read", &self.folder))?;
        let mut paths: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with("step-") && name.ends_with(".safetensors")
            })
            .collect();
        paths.sort();
        Ok(paths)
    }

    /// Saves a checkpoint and removes the oldest ones beyond the number to keep.
    ///
    /// # Errors
    /// If it cannot be written; the older ones are then all kept.
    pub fn save(&self, checkpoint: &Checkpoint) -> Result<PathBuf> {
        let path = self
            .folder
            .join(format!("step-{:09}.safetensors", checkpoint.step));
        checkpoint.save(&path)?;
        let all = self.list()?;
        for old in &all[..all.len().saturating_sub(self.keep)] {
            fs::remove_file(old).map_err(TrainError::file("remove", old))?;
        }
        sync_folder(&self.folder)?;
        Ok(path)
    }

    /// Saves the checkpoint with the best validation accuracy so far, instead of the one before.
    ///
    /// # Errors
    /// If it cannot be written; the one before is then kept.
    pub fn save_best(&self, checkpoint: &Checkpoint) -> Result<()> {
        checkpoint.save(&self.folder.join(BEST))
    }

    /// The checkpoint with the best validation accuracy, if one was saved.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn best(&self, layout: &Parameters) -> Result<Option<Checkpoint>> {
        let path = self.folder.join(BEST);
        match path.exists() {
            true => Checkpoint::load(&path, layout).map(Some),
            false => Ok(None),
        }
    }

    /// The newest checkpoint that can be used, and the newer ones that cannot, with the reasons.
    ///
    /// # Errors
    /// If there are checkpoints and none can be used, or the folder cannot be read.
    pub fn newest(&self, layout: &Parameters) -> Result<(Option<Checkpoint>, Vec<TrainError>)> {
        let mut damaged = Vec::new();
        for path in self.list()?.iter().rev() {
            match Checkpoint::load(path, layout) {
                Ok(checkpoint) => return Ok((Some(checkpoint), damaged)),
                Err(error) => damaged.push(error),
            }
        }
        match damaged.is_empty() {
            true => Ok((None, damaged)),
            false => Err(damaged.remove(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oncefit_nn::ParameterKind;

    fn parameters(value: f32) -> Parameters {
        let mut parameters = Parameters::default();
        for name in ["b.weight", "a.weight"] {
            parameters.insert(Parameter {
                name: name.into(),
                kind: ParameterKind::LinearWeight,
                shape: vec![2, 3],
                data: (0..6).map(|index| value + index as f32).collect(),
            });
        }
        parameters
    }

    fn checkpoint(step: u64) -> Checkpoint {
        Checkpoint {
            step,
            train_macs: u64::MAX - 1,
            mean_loss: 0.1 + 0.2,
            epoch_loss: 1.0 / 3.0,
            recipe_hash: "abc".into(),
            optimiser_steps: 3,
            weights: parameters(1.0),
            average: Some(parameters(0.25)),
            buffers: vec![
                ("mean".into(), parameters(-0.5)),
                ("square".into(), parameters(2.0)),
            ],
        }
    }

    #[test]
    fn a_checkpoint_reads_back_exactly_and_has_stable_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = CheckpointFolder::open(folder.path(), 2).unwrap();
        let path = checkpoints.save(&checkpoint(7)).unwrap();
        assert_eq!(
            Checkpoint::load(&path, &parameters(0.0)).unwrap(),
            checkpoint(7)
        );
        let bytes = fs::read(&path).unwrap();
        checkpoints.save(&checkpoint(7)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn the_newest_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = CheckpointFolder::open(folder.path(), 2).unwrap();
        for step in [1, 20, 3] {
            checkpoints.save(&checkpoint(step)).unwrap();
        }
        let (newest, damaged) = checkpoints.newest(&parameters(0.0)).unwrap();
        assert_eq!((newest.unwrap().step, damaged.len()), (20, 0));
        assert_eq!(checkpoints.list().unwrap().len(), 2);
    }

    #[test]
    fn a_cut_checkpoint_is_refused_and_the_one_before_it_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = CheckpointFolder::open(folder.path(), 3).unwrap();
        checkpoints.save(&checkpoint(1)).unwrap();
        let path = checkpoints.save(&checkpoint(2)).unwrap();
        let bytes = fs::read(&path).unwrap();
        for length in [0, 5, 100, bytes.len() / 2, bytes.len() - 1] {
            fs::write(&path, &bytes[..length]).unwrap();
            let error = Checkpoint::load(&path, &parameters(0.0))
                .unwrap_err()
                .to_string();
            assert!(error.contains("cut short"), "{length}: {error}");
            let (newest, damaged) = checkpoints.newest(&parameters(0.0)).unwrap();
            assert_eq!((newest.unwrap().step, damaged.len()), (1, 1));
        }
        fs::remove_file(folder.path().join("step-000000001.safetensors")).unwrap();
        assert!(
            checkpoints.newest(&parameters(0.0)).is_err(),
            "nothing usable is left"
        );
    }

    #[test]
    fn weights_of_another_space_are_refused_by_name_and_shape() {
        let folder = tempfile::tempdir().unwrap();
        let path = CheckpointFolder::open(folder.path(), 1)
            .unwrap()
            .save(&checkpoint(1))
            .unwrap();
        let mut layout = parameters(0.0);
        layout.at_mut(1).shape = vec![3, 2];
        let error = Checkpoint::load(&path, &layout).unwrap_err().to_string();
        assert!(
            error.contains("`a.weight`") && error.contains("[3, 2]"),
            "{error}"
        );
    }
}
