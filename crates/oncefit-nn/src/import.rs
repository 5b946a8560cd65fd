//! Weights from a file: a network that was trained elsewhere becomes a supernet.
//!
//! The file is a safetensors file whose tensors have either our names (a checkpoint of a run of the
//! same space) or those of another library, which a [`NameMap`] translates. Layouts are translated
//! by what a parameter is for:
//!
//! ```text
//! dense convolution   theirs [out, in, k, k]        ours [out, k, k, in]
//! depthwise           theirs [channels, 1, k, k]    ours [k, k, channels]
//! linear              theirs [out, in]              ours [out, in]
//! kernel transforms   theirs none                   ours the identity
//! ```

use std::collections::HashMap;

use half::{bf16, f16};
use oncefit_space::Space;
use safetensors::{Dtype, SafeTensors};

use crate::calibration::{Calibration, ChannelStatistics};
use crate::error::{NnError, Result};
use crate::name_map::NameMap;
use crate::parameters::{Parameter, ParameterKind, Parameters};
use crate::plan::Plan;
use crate::supernet::Supernet;

/// How weights are taken from a file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ImportSettings {
    /// The names in the file; without it our own, or torchvision's for a family that has them.
    pub names: Option<NameMap>,
    /// Leaves the last linear layer as it is in a fresh supernet: for another number of classes.
    pub fresh_classifier: bool,
    /// Seed of what stays fresh.
    pub seed: u64,
}

/// Weights that were taken from a file.
#[derive(Clone, PartialEq, Debug)]
pub struct Imported {
    /// The supernet.
    pub parameters: Parameters,
    /// The file's running statistics, for the largest network, where it has them.
    pub calibration: Option<Calibration>,
    /// How many tensors of ours were in the file.
    pub loaded: usize,
    /// Those that stay as they are in a fresh supernet.
    pub fresh: Vec<String>,
    /// Tensors of the file that were not needed.
    pub unused: Vec<String>,
}

/// Takes the weights of `space` from the bytes of a safetensors file; `file_name` is for messages.
///
/// # Errors
/// If the file is cut short or no safetensors file, a tensor is missing, has another shape or type,
/// or holds values that are not finite.
pub fn import_weights(
    space: &Space,
    bytes: &[u8],
    file_name: &str,
    settings: &ImportSettings,
) -> Result<Imported> {
    let fails = |reason: String| NnError::Weights(format!("{file_name}: {reason}"));
    let file = SafeTensors::deserialize(bytes)
        .map_err(|error| fails(format!("it is cut short or no safetensors file ({error})")))?;
    let fresh = Supernet::initialise(space, settings.seed)?;
    let largest = space.largest()?;
    let reader = Reader {
        file: &file,
        file_name,
        names: names(space, &file, &fresh.parameters, settings),
    };
    let classifier = last_linear(&fresh.parameters);
    let mut parameters = Parameters::default();
    let (mut kept, mut used) = (Vec::new(), Vec::new());
    let mut missing = Vec::new();
    for parameter in fresh.parameters.iter() {
        let is_classifier = settings.fresh_classifier
            && classifier
                .is_some_and(|path| parameter.name.rsplit_once('.').map(|(p, _)| p) == Some(path));
        let name = reader.name_of(parameter);
        let is_there = name.as_ref().is_some_and(|name| file.tensor(name).is_ok());
        let stays =
            is_classifier || (parameter.kind == ParameterKind::KernelTransform && !is_there);
        match name.filter(|_| is_there && !stays) {
            Some(name) => {
                parameters.insert(reader.read(parameter, &name)?);
                used.push(name);
            }
            None => {
                if !stays {
                    missing.push((parameter, reader.name_of(parameter)));
                }
                kept.push(parameter.name.clone());
                parameters.insert(parameter.clone());
            }
        }
    }
    if let Some((parameter, name)) = missing.first() {
        let theirs = match name {
            Some(name) => format!("`{name}`"),
            None => "no rule of the name map fits".into(),
        };
        return Err(fails(format!(
            "{} of {} weights of `{}` are not in it, the first of them `{}` ({theirs}); it has {} tensors{}",
            missing.len(),
            fresh.parameters.len(),
            space.name(),
            parameter.name,
            file.len(),
            match used.is_empty() {
                true => format!(
                    ": are they of another family? Name maps are built in for {}; others are given as a file",
                    NameMap::built_in_names().join(", ")
                ),
                false => String::new(),
            }
        )));
    }
    let plan = Plan::new(largest.graph(), &parameters)?;
    let mut statistics = HashMap::new();
    for norm in &plan.norms {
        let Some(name) = reader.names.as_ref().and_then(|map| map.theirs(&norm.path)) else {
            continue;
        };
        let vector = |role: &str| -> Result<Option<Vec<f32>>> {
            let name = format!("{name}.{role}");
            match file.tensor(&name) {
                Ok(_) => reader.values(&name, &[norm.channels]).map(Some),
                Err(_) => Ok(None),
            }
        };
        if let (Some(mean), Some(variance)) = (vector("running_mean")?, vector("running_var")?) {
            used.extend([
                format!("{name}.running_mean"),
                format!("{name}.running_var"),
            ]);
            statistics.insert(norm.path.clone(), ChannelStatistics { mean, variance });
        }
    }
    let is_whole = statistics.len() == plan.norms.len() && !statistics.is_empty();
    let mut unused: Vec<String> = file
        .names()
        .into_iter()
        .filter(|name| !used.iter().any(|other| other == name))
        .map(str::to_owned)
        .collect();
    unused.sort();
    Ok(Imported {
        calibration: is_whole.then(|| Calibration::BatchNorm {
            graph_id: plan.graph_id().to_owned(),
            images: 0,
            statistics,
        }),
        loaded: parameters.len() - kept.len(),
        parameters,
        fresh: kept,
        unused,
    })
}

/// The map that fits the file: none if it has our names.
fn names(
    space: &Space,
    file: &SafeTensors,
    parameters: &Parameters,
    settings: &ImportSettings,
) -> Option<NameMap> {
    if settings.names.is_some() {
        return settings.names.clone();
    }
    let ours = parameters
        .iter()
        .filter(|parameter| file.tensor(&parameter.name).is_ok());
    match ours.count() {
        0 => NameMap::built_in(space.name()),
        _ => None,
    }
}

/// Path of the last linear layer.
fn last_linear(parameters: &Parameters) -> Option<&str> {
    let linear = parameters
        .iter()
        .filter(|parameter| parameter.kind == ParameterKind::LinearWeight);
    let (path, _) = linear.last()?.name.rsplit_once('.')?;
    Some(path)
}

struct Reader<'f> {
    file: &'f SafeTensors<'f>,
    file_name: &'f str,
    /// None: the file has our names and layouts.
    names: Option<NameMap>,
}

impl Reader<'_> {
    /// The file's name of a parameter, whether it is there or not.
    fn name_of(&self, parameter: &Parameter) -> Option<String> {
        let Some(names) = &self.names else {
            return Some(parameter.name.clone());
        };
        let (path, role) = parameter.name.rsplit_once('.')?;
        Some(format!("{}.{role}", names.theirs(path)?))
    }

    fn read(&self, parameter: &Parameter, name: &str) -> Result<Parameter> {
        let shape = &parameter.shape;
        let data = match (&self.names, parameter.kind) {
            (Some(_), ParameterKind::ConvolutionWeight) => {
                let [outputs, kernel, inputs] = [shape[0], shape[1], shape[3]];
                let taps = kernel * kernel;
                let values = self.convolution(name, [outputs, inputs, kernel])?;
                let mut data = vec![0.0; values.len()];
                for output in 0..outputs {
                    for tap in 0..taps {
                        for input in 0..inputs {
                            data[(output * taps + tap) * inputs + input] =
                                values[(output * inputs + input) * taps + tap];
                        }
                    }
                }
                data
            }
            (Some(_), ParameterKind::DepthwiseWeight) => {
                let [kernel, channels] = [shape[0], shape[2]];
                let taps = kernel * kernel;
                let values = self.values(name, &[channels, 1, kernel, kernel])?;
                (0..values.len())
                    .map(|at| values[at % channels * taps + at / channels])
                    .collect()
            }
            _ => self.values(name, shape)?,
        };
        Ok(Parameter {
            data,
            ..parameter.clone()
        })
    }

    /// A dense convolution; a 1×1 one may be stored as a linear layer.
    fn convolution(&self, name: &str, [outputs, inputs, kernel]: [usize; 3]) -> Result<Vec<f32>> {
        let is_linear = self
            .file
            .tensor(name)
            .is_ok_and(|view| view.shape().len() == 2);
        match is_linear && kernel == 1 {
            true => self.values(name, &[outputs, inputs]),
            false => self.values(name, &[outputs, inputs, kernel, kernel]),
        }
    }

    /// The values of a tensor of a shape.
    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let fails = |reason: String| {
            NnError::Weights(format!("{}: tensor `{name}` {reason}", self.file_name))
        };
        let view = self
            .file
            .tensor(name)
            .map_err(|error| fails(error.to_string()))?;
        if view.shape() != shape {
            return Err(fails(format!(
                "has shape {:?}, but {shape:?} is needed: it is of another family, or of another number of classes (then ask for a fresh classifier)",
                view.shape()
            )));
        }
        let pairs = || view.data().as_chunks::<2>().0.iter();
        let values: Vec<f32> = match view.dtype() {
            Dtype::F32 => {
                let quads = view.data().as_chunks::<4>().0.iter();
                quads.map(|bytes| f32::from_le_bytes(*bytes)).collect()
            }
            Dtype::F16 => pairs()
                .map(|bytes| f16::from_le_bytes(*bytes).to_f32())
                .collect(),
            Dtype::BF16 => pairs()
                .map(|bytes| bf16::from_le_bytes(*bytes).to_f32())
                .collect(),
            other => {
                return Err(fails(format!(
                    "has type {other:?}; F32, F16 and BF16 can be read"
                )));
            }
        };
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(fails(format!("holds {} at index {index}", values[index]))),
            None => Ok(values),
        }
    }
}
