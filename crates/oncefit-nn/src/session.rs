//! Inference of a standalone network: everything that does not depend on the images is done once.
//!
//! Batch-norms behind dense convolutions are folded into their weights, weights are packed, small
//! depthwise kernels are baked. Many images are shared out to the threads, a few at a time, so that a
//! thread's tensors stay in its cache from one layer to the next; a single image is cut into rows.

use std::sync::{Mutex, PoisonError};

use oncefit_kernels as kernels;
use oncefit_kernels::{ConvWeight, Cpu, PackedWeight};
use rayon::prelude::*;

use crate::buffers::BufferPool;
use crate::error::{NnError, Result};
use crate::execute::{AppliedNorm, Executor, Images, bake_kernel};
use crate::plan::{Plan, Step};
use crate::supernet::Network;

/// What a step needs of the weights, ready to be used.
#[derive(Clone, Debug)]
pub(crate) enum Prepared {
    Convolution {
        weight: PackedWeight,
        bias: Option<Vec<f32>>,
    },
    Depthwise(Vec<f32>),
    Nothing,
}

/// A network that is ready to run.
#[derive(Debug)]
pub struct Session {
    network: Network,
    plan: Plan,
    prepared: Vec<Prepared>,
    norms: Vec<AppliedNorm>,
    cpu: Cpu,
    /// Images that run through all layers together.
    group: usize,
    executors: Mutex<Vec<Executor>>,
}

/// Images that a thread takes through all layers together: their tensors should stay in its cache,
/// and their number should pay for reading the weights.
pub(crate) fn group(network: &Network, bytes_of_a_value: u64) -> usize {
    /// About a second-level cache.
    const CACHE: u64 = 1 << 20;
    let graph = &network.graph;
    let values: usize = graph.nodes.iter().map(|node| node.shape.len()).sum();
    let bytes = graph.peak_activation_bytes() / 4 * bytes_of_a_value;
    let by_cache = CACHE / bytes.max(1);
    let by_weights = graph.parameters() / values.max(1) as u64;
    by_cache.max(by_weights).clamp(1, 16) as usize
}

impl Session {
    /// Prepares a network.
    ///
    /// # Errors
    /// If graph and weights do not fit, or it is not calibrated.
    pub fn new(network: &Network) -> Result<Self> {
        Self::on(Cpu::detect(), network)
    }

    /// The same with the instructions of `cpu`.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn on(cpu: Cpu, network: &Network) -> Result<Self> {
        let mut plan = network.plan()?;
        let mut norms = Vec::with_capacity(plan.norms.len());
        for info in &plan.norms {
            let (mean, variance) = network.calibration.statistics(&plan, info)?;
            norms.push(AppliedNorm::new(&network.parameters, info, mean, variance));
        }
        let mut prepared = Vec::with_capacity(plan.steps.len());
        let mut folded = Vec::new();
        for step in &plan.steps {
            prepared.push(match step {
                Step::Convolution { source, out, .. } => {
                    let norm = plan.tensors[*out].view.norm;
                    folded.extend(norm);
                    let in_channels = plan.tensors[source.tensor].shape.channels;
                    let out_channels = plan.tensors[*out].shape.channels;
                    let norm = norm.map(|norm| &norms[norm]);
                    fold(cpu, network, step, norm, in_channels, out_channels)
                }
                Step::Depthwise { .. } => {
                    let mut pool = BufferPool::default();
                    let baked = bake_kernel(cpu, &mut pool, &network.parameters, &plan, step);
                    let last = baked.last().map(|kernel| kernel.to_vec());
                    Prepared::Depthwise(last.unwrap_or_default())
                }
                _ => Prepared::Nothing,
            });
        }
        plan.forget_norms(&folded);
        Ok(Self {
            network: network.clone(),
            plan,
            prepared,
            norms,
            cpu,
            group: group(network, 4),
            executors: Mutex::default(),
        })
    }

    /// The outputs for some images, `count × features`; the same bits for any number of images and
    /// threads.
    ///
    /// # Errors
    /// If the images do not fit the network's input.
    pub fn run(&self, images: Images) -> Result<Vec<f32>> {
        run_in_groups(&self.plan, images, self.group, |images, outputs| {
            self.run_group(images, outputs);
        })
    }

    fn run_group(&self, images: Images, outputs: &mut [f32]) {
        let known = self.executors().pop();
        let mut executor = known.unwrap_or_else(|| Executor::new(self.cpu));
        let tape = executor.run_prepared(
            &self.plan,
            &self.network.parameters,
            images,
            &self.norms,
            &self.prepared,
        );
        outputs.copy_from_slice(tape.output());
        executor.recycle(tape);
        self.executors().push(executor);
    }

    fn executors(&self) -> std::sync::MutexGuard<'_, Vec<Executor>> {
        self.executors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The outputs for some images, which fit the plan or are refused: `run` sees some of them at a time,
/// and where their outputs go.
pub(crate) fn run_in_groups(
    plan: &Plan,
    images: Images,
    group: usize,
    run: impl Fn(Images, &mut [f32]) + Sync,
) -> Result<Vec<f32>> {
    let (input, output) = (plan.input_shape(), plan.output_shape());
    if images.count == 0 || images.data.len() != images.count * input.len() {
        return Err(NnError::BatchSize {
            what: "the image batch",
            found: images.data.len(),
            needed: images.count.max(1) * input.len(),
            detail: format!("{} images of {input}", images.count),
        });
    }
    let mut outputs = vec![0.0; images.count * output.len()];
    let threads = rayon::current_num_threads();
    if images.count < threads || threads == 1 {
        kernels::in_team(|| run(images, &mut outputs));
        return Ok(outputs);
    }
    let group = group.min(images.count.div_ceil(threads));
    let inputs = images.data.par_chunks(group * input.len());
    let parts = inputs.zip(outputs.par_chunks_mut(group * output.len()));
    parts.for_each(|(data, outputs)| {
        let count = data.len() / input.len();
        kernels::on_one_thread(|| run(Images { data, count }, outputs));
    });
    Ok(outputs)
}

/// The weight of a convolution with the batch-norm that follows it.
fn fold(
    cpu: Cpu,
    network: &Network,
    step: &Step,
    norm: Option<&AppliedNorm>,
    in_channels: usize,
    out_channels: usize,
) -> Prepared {
    let Step::Convolution {
        window,
        weight,
        out_stride,
        in_stride,
        bias,
        ..
    } = step
    else {
        return Prepared::Nothing;
    };
    let mut data = network.parameters.at(*weight).data.clone();
    let mut bias = bias.map(|bias| network.parameters.at(bias).data[..out_channels].to_vec());
    if let Some(norm) = norm {
        for (row, scale) in data.chunks_mut(*out_stride).zip(&norm.scale) {
            row.iter_mut().for_each(|value| *value *= scale);
        }
        let start = bias.unwrap_or_else(|| vec![0.0; out_channels]);
        let folded = start.iter().zip(&norm.scale).zip(&norm.shift);
        bias = Some(
            folded
                .map(|((start, scale), shift)| start * scale + shift)
                .collect(),
        );
    }
    let weight = ConvWeight {
        data: &data,
        out_stride: *out_stride,
        in_stride: *in_stride,
    };
    Prepared::Convolution {
        weight: PackedWeight::new(cpu, weight, window.kernel, in_channels, out_channels),
        bias,
    }
}
