//! Inference of a standalone network: everything that does not depend on the images is done once.
//!
//! Batch-norms are folded into weights, weights are packed, small depthwise kernels are baked, and blocks
//! of layers are formed ([`Blocks`]). Many images are shared out to the threads, a few at a time, so that a
//! thread's tensors stay in its cache from one layer to the next; a single image is cut into rows.

use std::sync::{Mutex, PoisonError};

use oncefit_kernels as kernels;
use oncefit_kernels::Cpu;
use rayon::prelude::*;

use crate::error::{NnError, Result};
use crate::execute::{AppliedNorm, Executor, Images, Tape};
use crate::inference::{Blocks, Program};
use crate::plan::Plan;
use crate::supernet::Network;

/// A network that is ready to run.
#[derive(Debug)]
pub struct Session {
    plan: Plan,
    program: Program,
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
        Self::with_blocks(cpu, network, Blocks::WhereFaster)
    }

    /// The same, with a choice of which blocks run as one operation.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn with_blocks(cpu: Cpu, network: &Network, blocks: Blocks) -> Result<Self> {
        let plan = network.plan()?;
        let mut norms = Vec::with_capacity(plan.norms.len());
        for info in &plan.norms {
            let (mean, variance) = network.calibration.statistics(&plan, info)?;
            norms.push(AppliedNorm::new(&network.parameters, info, mean, variance));
        }
        Ok(Self {
            program: Program::new(cpu, &plan, &network.parameters, &norms, blocks),
            plan,
            cpu,
            group: group(network, 4),
            executors: Mutex::default(),
        })
    }

    /// How many blocks run as one operation.
    pub fn blocks(&self) -> usize {
        self.program.blocks()
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
        let mut tape = Tape::new(&self.plan, images);
        self.program.run(&mut executor, &self.plan, &mut tape);
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
