//! The whole state of a learner as the bytes of one safetensors file.
//!
//! Weights are stored under their names, everything else under a prefix; counters are metadata.
//! Equal states give equal bytes, and a restored learner goes on with the same bits.

use std::collections::HashMap;

use oncefit_nn::{Parameter, Parameters};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::correction::Correction;
use crate::error::{ContinualError, Result};
use crate::learner::{Anchor, Learner};
use crate::onpro::Centres;
use crate::stream::Examples;

const FORMAT: &str = "oncefit learner 4";

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    /// Method and settings: a state fits no other.
    configuration: String,
    step: u64,
    task: usize,
    batches: usize,
    images: u64,
    train_macs: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    correction: Option<Correction>,
    seen: Vec<u32>,
    old: usize,
    offered: u64,
    offered_of_class: Vec<u64>,
    arrived: Vec<u32>,
    anchors: Vec<bool>,
    has_previous: bool,
    #[serde(default)]
    has_fisher: bool,
    /// What the keeper of the state wants to know beside it.
    #[serde(default)]
    note: String,
}

fn fails(reason: impl Into<String>) -> ContinualError {
    ContinualError::State {
        reason: reason.into(),
    }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn numbers(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

impl Learner {
    fn configuration(&self) -> Result<String> {
        let elastic = self.elastic.as_ref().map(|elastic| &elastic.settings);
        let nodes = self.graph().nodes.len();
        let all = (&self.method, &self.settings, nodes, elastic);
        serde_json::to_string(&all).map_err(|error| fails(error.to_string()))
    }

    /// The sets of weights that make up the state, by prefix.
    fn sets(&self) -> Vec<(String, &Parameters)> {
        let mut sets = vec![(String::new(), &self.parameters)];
        let names = self.optimiser.rule.buffer_names().iter();
        for (name, buffer) in names.zip(&self.optimiser.buffers) {
            sets.push((format!("{name}/"), buffer));
        }
        if let Some(previous) = &self.previous {
            sets.push(("previous/".into(), previous));
        }
        if let Some(fisher) = &self.fisher {
            sets.push(("fisher/".into(), fisher));
        }
        for (index, anchor) in self.anchors.iter().enumerate() {
            if let Some(anchor) = anchor {
                sets.push((format!("importance/{index}/"), &anchor.importance));
                sets.push((format!("anchor/{index}/"), &anchor.weights));
            }
        }
        for (index, path) in self.paths.iter().enumerate() {
            if let Some((omega, start)) = path {
                sets.push((format!("path/{index}/"), omega));
                sets.push((format!("path-start/{index}/"), start));
            }
        }
        sets
    }

    /// The state between two steps.
    ///
    /// # Errors
    /// Never for a learner that was made by this crate.
    pub fn state(&self) -> Result<Vec<u8>> {
        self.state_with_note("")
    }

    /// As [`Learner::state`], with a text that [`Learner::restore_with_note`] gives back.
    ///
    /// # Errors
    /// Never for a learner that was made by this crate.
    pub fn state_with_note(&self, note: &str) -> Result<Vec<u8>> {
        let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
        for (prefix, set) in self.sets() {
            for tensor in set.iter() {
                let name = format!("{prefix}{}", tensor.name);
                tensors.push((name, Dtype::F32, tensor.shape.clone(), floats(&tensor.data)));
            }
        }
        let mut bytes = |name: &str, dtype, count: usize, data: Vec<u8>| {
            if count > 0 {
                tensors.push((name.into(), dtype, vec![count], data));
            }
        };
        if let Some(memory) = &self.memory {
            bytes(
                "memory/images",
                Dtype::U8,
                memory.images.len(),
                memory.images.clone(),
            );
            bytes(
                "memory/labels",
                Dtype::U32,
                memory.labels.len(),
                numbers(&memory.labels),
            );
            bytes(
                "memory/tasks",
                Dtype::U32,
                memory.tasks.len(),
                numbers(&memory.tasks),
            );
            bytes(
                "memory/logits",
                Dtype::F32,
                memory.logits.len(),
                floats(&memory.logits),
            );
        }
        let centres = &self.centres;
        let rows = floats(&centres.rows);
        bytes("centres/rows", Dtype::F32, centres.rows.len(), rows);
        let classes = numbers(&centres.classes);
        bytes(
            "centres/classes",
            Dtype::U32,
            centres.classes.len(),
            classes,
        );
        let recent = &self.recent;
        bytes(
            "recent/images",
            Dtype::U8,
            recent.images.len(),
            recent.images.clone(),
        );
        bytes(
            "recent/labels",
            Dtype::U32,
            recent.labels.len(),
            numbers(&recent.labels),
        );
        let memory = self.memory.as_ref();
        let header = Header {
            format: FORMAT.into(),
            configuration: self.configuration()?,
            step: self.step,
            task: self.task,
            batches: self.batches,
            images: self.images,
            train_macs: self.train_macs,
            correction: self.correction.clone(),
            seen: self.seen.clone(),
            old: self.old,
            offered: memory.map_or(0, |memory| memory.offered),
            offered_of_class: memory
                .map_or_else(Vec::new, |memory| memory.offered_of_class.clone()),
            arrived: memory.map_or_else(Vec::new, |memory| memory.arrived.clone()),
            anchors: self.anchors.iter().map(Option::is_some).collect(),
            has_previous: self.previous.is_some(),
            has_fisher: self.fisher.is_some(),
            note: note.to_owned(),
        };
        let header = serde_json::to_string(&header).map_err(|error| fails(error.to_string()))?;
        // One metadata entry: the order of several is not fixed.
        let metadata = HashMap::from([("oncefit".to_owned(), header)]);
        tensors
            .iter()
            .map(|(name, dtype, shape, data)| {
                TensorView::new(*dtype, shape.clone(), data).map(|view| (name.as_str(), view))
            })
            .collect::<std::result::Result<Vec<_>, _>>()
            .and_then(|views| safetensors::serialize(views, Some(metadata)))
            .map_err(|error| fails(error.to_string()))
    }

    /// Makes this learner, of the same network, method and settings, the one that was saved.
    ///
    /// # Errors
    /// If the bytes are damaged or of another learner; this one is unchanged then.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<()> {
        self.restore_with_note(bytes).map(|_| ())
    }

    /// As [`Learner::restore`]; returns the text that was saved with the state.
    ///
    /// # Errors
    /// As [`Learner::restore`].
    pub fn restore_with_note(&mut self, bytes: &[u8]) -> Result<String> {
        let header = header(bytes)?;
        if header.format != FORMAT {
            return Err(fails(format!(
                "its format is `{}`, not `{FORMAT}`",
                header.format
            )));
        }
        if header.configuration != self.configuration()? {
            return Err(fails(
                "it was saved with another method, network or other settings",
            ));
        }
        if header.anchors.len() != self.anchors.len() || header.old > header.seen.len() {
            return Err(fails("its counters contradict each other"));
        }
        let tensors = SafeTensors::deserialize(bytes)
            .map_err(|error| fails(format!("it is cut short or damaged ({error})")))?;
        let read = |prefix: &str| -> Result<Parameters> {
            let mut found = Parameters::default();
            for expected in self.parameters.iter() {
                let name = format!("{prefix}{}", expected.name);
                let view = tensors
                    .tensor(&name)
                    .map_err(|_| fails(format!("it lacks tensor `{name}`")))?;
                if view.shape() != expected.shape || view.dtype() != Dtype::F32 {
                    return Err(fails(format!("tensor `{name}` has another shape or type")));
                }
                found.insert(Parameter {
                    data: words(view.data()).map(f32::from_le_bytes).collect(),
                    ..expected.clone()
                });
            }
            Ok(found)
        };
        let raw = |name: &str, dtype: Dtype| -> Result<Vec<u8>> {
            match tensors.tensor(name) {
                Err(_) => Ok(Vec::new()),
                Ok(view) if view.dtype() == dtype => Ok(view.data().to_vec()),
                Ok(_) => Err(fails(format!("tensor `{name}` has another type"))),
            }
        };
        let labels = |name: &str| -> Result<Vec<u32>> {
            Ok(words(&raw(name, Dtype::U32)?)
                .map(u32::from_le_bytes)
                .collect())
        };
        let parameters = read("")?;
        let names = self.optimiser.rule.buffer_names().iter();
        let buffers = names.map(|name| read(&format!("{name}/")));
        let buffers = buffers.collect::<Result<_>>()?;
        let previous = header.has_previous.then(|| read("previous/")).transpose()?;
        let fisher = header.has_fisher.then(|| read("fisher/")).transpose()?;
        let mut anchors = Vec::new();
        for (index, is_there) in header.anchors.iter().enumerate() {
            anchors.push(match is_there {
                true => Some(Anchor {
                    importance: read(&format!("importance/{index}/"))?,
                    weights: read(&format!("anchor/{index}/"))?,
                }),
                false => None,
            });
        }
        let mut paths = Vec::new();
        for (index, path) in self.paths.iter().enumerate() {
            paths.push(match path {
                Some(_) => Some((
                    read(&format!("path/{index}/"))?,
                    read(&format!("path-start/{index}/"))?,
                )),
                None => None,
            });
        }
        let recent = Examples {
            images: raw("recent/images", Dtype::U8)?,
            labels: labels("recent/labels")?,
        };
        let centres = Centres {
            classes: labels("centres/classes")?,
            rows: words(&raw("centres/rows", Dtype::F32)?)
                .map(f32::from_le_bytes)
                .collect(),
        };
        let mut memory = self.memory.clone();
        if let Some(memory) = &mut memory {
            memory.images = raw("memory/images", Dtype::U8)?;
            memory.labels = labels("memory/labels")?;
            memory.tasks = labels("memory/tasks")?;
            memory.logits = words(&raw("memory/logits", Dtype::F32)?)
                .map(f32::from_le_bytes)
                .collect();
            let stored = memory.labels.len();
            let logits = if memory.stores_logits {
                stored * memory.classes
            } else {
                0
            };
            let fits = stored <= memory.capacity
                && memory.images.len() == stored * memory.image_bytes
                && memory.tasks.len() == stored
                && memory.logits.len() == logits
                && header.offered_of_class.len() == memory.classes
                && memory
                    .labels
                    .iter()
                    .all(|label| (*label as usize) < memory.classes);
            if !fits {
                return Err(fails("the parts of its memory do not fit together"));
            }
            memory.offered = header.offered;
            memory.offered_of_class = header.offered_of_class;
            memory.arrived = header.arrived;
        }
        self.parameters = parameters;
        self.optimiser.buffers = buffers;
        self.optimiser.steps = header.step;
        self.centres = centres;
        self.previous = previous;
        self.fisher = fisher;
        self.anchors = anchors;
        self.paths = paths;
        self.recent = recent;
        self.memory = memory;
        self.seen = header.seen;
        self.old = header.old;
        self.step = header.step;
        self.task = header.task;
        self.batches = header.batches;
        self.images = header.images;
        self.train_macs = header.train_macs;
        self.correction = header.correction;
        Ok(header.note)
    }
}

fn header(bytes: &[u8]) -> Result<Header> {
    let (_, metadata) = SafeTensors::read_metadata(bytes)
        .map_err(|error| fails(format!("it is cut short or no safetensors file ({error})")))?;
    metadata
        .metadata()
        .as_ref()
        .and_then(|metadata| metadata.get("oncefit"))
        .and_then(|text| serde_json::from_str(text).ok())
        .ok_or_else(|| fails("it has no state of a learner"))
}

/// The text that was saved with a state.
pub(crate) fn note(bytes: &[u8]) -> Result<String> {
    Ok(header(bytes)?.note)
}

fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> + '_ {
    bytes.as_chunks::<4>().0.iter().copied()
}
