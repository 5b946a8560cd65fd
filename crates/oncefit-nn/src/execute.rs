//! The forward direction: running a plan on a batch.

use std::borrow::Cow;

use oncefit_kernels as kernels;
use oncefit_kernels::{Affine, ChannelSums, ConvWeight, Cpu, Shape, Source};
use oncefit_random::Draws;

use crate::buffers::{Buffer, BufferPool};
use crate::calibration::Calibration;
use crate::channels::WeightPart;
use crate::error::{NnError, Result};
use crate::parameters::Parameters;
use crate::plan::{NormInfo, Plan, PoolKind, Step, View};

/// Images of a batch: `count × height × width × channels`, channels-last, normalised.
#[derive(Clone, Copy, Debug)]
pub struct Images<'a> {
    /// The values.
    pub data: &'a [f32],
    /// How many images.
    pub count: usize,
}

/// Address of a step's dropout masks.
#[derive(Clone, Copy, Debug)]
pub struct DropoutDraws {
    /// Seed of the run.
    pub seed: u64,
    /// The training step.
    pub step: u64,
    /// Which network of the step.
    pub network: u64,
}

impl DropoutDraws {
    /// The endless mask of one dropout of a plan ([`Plan::dropout_sites`]): 0 with probability
    /// `rate` and `1 / (1 − rate)` otherwise, for `count × height × width × channels` values in
    /// that order.
    pub fn mask(self, site: usize, rate: f32) -> impl Iterator<Item = f32> {
        let index = self.network << 32 | site as u64;
        let mut draws = Draws::new(self.seed, "dropout", self.step, index);
        let kept = 1.0 / (1.0 - rate);
        std::iter::repeat_with(move || if draws.unit_f32() < rate { 0.0 } else { kept })
    }
}

/// Where batch-norm takes its statistics from, and whether dropout is on.
#[derive(Clone, Copy, Debug)]
pub enum Mode<'a> {
    /// Statistics of the batch; everything that a backward pass needs is kept.
    Train {
        /// Dropout is off when this is `None`.
        dropout: Option<DropoutDraws>,
    },
    /// Statistics of a calibration, which are constants to the backward pass: rows do not see each
    /// other, so gradients of single images have a meaning. Dropout is off.
    TrainCalibrated(&'a Calibration),
    /// Statistics of the batch; nothing is kept but the statistics.
    BatchStatistics,
    /// Statistics of a calibration.
    Evaluate(&'a Calibration),
}

/// A batch-norm as it was applied in one pass.
#[derive(Clone, Debug, Default)]
pub(crate) struct AppliedNorm {
    pub mean: Vec<f32>,
    pub variance: Vec<f32>,
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
}

impl AppliedNorm {
    pub fn new(parameters: &Parameters, info: &NormInfo, mean: &[f32], variance: &[f32]) -> Self {
        let (scale, shift) = kernels::batch_norm_affine(
            mean,
            variance,
            &info.vector(parameters, info.scale),
            &info.vector(parameters, info.shift),
            info.epsilon,
        );
        Self {
            mean: mean.to_vec(),
            variance: variance.to_vec(),
            scale,
            shift,
        }
    }
}

/// Runs plans; owns the memory that passes reuse.
#[derive(Debug)]
pub struct Executor {
    pub(crate) cpu: Cpu,
    pub(crate) pool: BufferPool,
    /// For the winners of max-pools.
    winners: BufferPool<u32>,
    pub(crate) recomputes: bool,
}

impl Default for Executor {
    fn default() -> Self {
        Self::new(Cpu::detect())
    }
}

/// What a forward pass leaves behind: the output and, in training, what the backward pass needs.
#[derive(Debug)]
pub struct Tape<'a> {
    pub(crate) images: Images<'a>,
    pub(crate) tensors: Vec<Option<Buffer>>,
    pub(crate) norms: Vec<AppliedNorm>,
    /// Baked depthwise kernels, by step: one for each link of the chain, the last is used.
    pub(crate) kernels: Vec<Vec<Buffer>>,
    /// Which pixel won each window of a max-pool, by step.
    pub(crate) winners: Vec<Buffer<u32>>,
    pub(crate) dropout: Option<DropoutDraws>,
    pub(crate) is_training: bool,
    /// Whether batch-norm's statistics are constants.
    pub(crate) is_calibrated: bool,
    output: usize,
}

impl Tape<'_> {
    /// The output: `count × features`.
    pub fn output(&self) -> &[f32] {
        self.tensors[self.output]
            .as_deref()
            .unwrap_or(self.images.data)
    }

    /// Mean and biased variance that each batch-norm of the plan used, in plan order.
    pub fn statistics(&self) -> impl Iterator<Item = (&[f32], &[f32])> {
        self.norms
            .iter()
            .map(|norm| (&norm.mean[..], &norm.variance[..]))
    }
}

impl Executor {
    /// An executor that uses the instructions of `cpu`.
    pub fn new(cpu: Cpu) -> Self {
        Self {
            cpu,
            pool: BufferPool::default(),
            winners: BufferPool::default(),
            recomputes: false,
        }
    }

    /// Whether training keeps the wide tensors of inverted residuals and bottlenecks or makes them
    /// again in the backward pass, from the narrow ones before them: less memory, a little more
    /// time, the same bits.
    pub fn recompute(&mut self, recomputes: bool) {
        self.recomputes = recomputes;
    }

    /// Bytes that it holds between passes: the most that its passes needed at once.
    pub fn held_bytes(&self) -> usize {
        self.pool.bytes() + self.winners.bytes()
    }

    /// The processor whose instructions it uses.
    pub fn cpu(&self) -> Cpu {
        self.cpu
    }

    /// Runs `plan` with `parameters` (the ones it was compiled against) on a batch.
    ///
    /// # Errors
    /// If the batch does not fit the plan's input, or a calibration belongs to another network.
    pub fn forward<'a>(
        &mut self,
        plan: &Plan,
        parameters: &Parameters,
        images: Images<'a>,
        mode: Mode,
    ) -> Result<Tape<'a>> {
        let input = plan.input_shape();
        let needed = images.count * input.height * input.width * input.channels;
        if images.data.len() != needed || images.count == 0 {
            return Err(NnError::BatchSize {
                what: "the image batch",
                found: images.data.len(),
                needed: needed.max(1),
                detail: format!(
                    "{} images of {}×{}×{}",
                    images.count, input.height, input.width, input.channels
                ),
            });
        }
        let mut tape = Tape::new(plan, images);
        match mode {
            Mode::Evaluate(calibration) | Mode::TrainCalibrated(calibration) => {
                tape.is_calibrated = true;
                tape.is_training = matches!(mode, Mode::TrainCalibrated(_));
                for (norm, info) in tape.norms.iter_mut().zip(&plan.norms) {
                    let (mean, variance) = calibration.statistics(plan, info)?;
                    *norm = AppliedNorm::new(parameters, info, mean, variance);
                }
            }
            Mode::Train { dropout } => {
                tape.dropout = dropout;
                tape.is_training = true;
            }
            Mode::BatchStatistics => {}
        }
        let takes_statistics = !tape.is_calibrated;
        kernels::in_pool(|| self.run_all(plan, parameters, &mut tape, takes_statistics));
        Ok(tape)
    }

    pub(crate) fn run_all(
        &mut self,
        plan: &Plan,
        parameters: &Parameters,
        tape: &mut Tape,
        takes_statistics: bool,
    ) {
        for (index, step) in plan.steps.iter().enumerate() {
            self.run(plan, parameters, tape, index, step, takes_statistics);
            if tape.is_training && !self.recomputes {
                continue;
            }
            for (tensor, info) in plan.tensors.iter().enumerate() {
                if info.last_use == index
                    && (!tape.is_training || info.expansion_by.is_some())
                    && let Some(buffer) = tape.tensors[tensor].take()
                {
                    self.pool.give(buffer);
                }
            }
        }
    }

    /// Takes the memory of a tape back; a tape that is dropped instead costs an allocation later.
    pub fn recycle(&mut self, tape: Tape) {
        for buffer in tape
            .tensors
            .into_iter()
            .flatten()
            .chain(tape.kernels.into_iter().flatten())
        {
            self.pool.give(buffer);
        }
        let winners = tape.winners.into_iter();
        winners
            .filter(|winners| !winners.is_empty())
            .for_each(|winners| self.winners.give(winners));
    }

    pub(crate) fn run(
        &mut self,
        plan: &Plan,
        parameters: &Parameters,
        tape: &mut Tape,
        index: usize,
        step: &Step,
        takes_statistics: bool,
    ) {
        let count = tape.images.count;
        let mut new_tensor = |tensor: usize| {
            let shape = plan.tensors[tensor].shape;
            self.pool
                .take(count * shape.height * shape.width * shape.channels)
        };
        match step {
            Step::Convolution {
                source,
                window,
                weight,
                out_stride,
                in_stride,
                gather,
                bias,
                out,
            } => {
                let mut output = new_tensor(*out);
                let gathered = gather
                    .as_ref()
                    .map(|part| gathered(&mut self.pool, parameters, plan, *weight, *out, part));
                let channels = plan.tensors[*out].shape.channels;
                let mut sums = norm_sums(plan, *out, takes_statistics);
                let weight = gathered.as_ref().map_or(
                    ConvWeight {
                        data: &parameters.at(*weight).data,
                        out_stride: *out_stride,
                        in_stride: *in_stride,
                    },
                    GatheredWeight::as_weight,
                );
                let bias = bias.map(|bias| &parameters.at(bias).data[..channels]);
                kernels::convolution_forward(
                    self.cpu,
                    tape.source(plan, *source),
                    *window,
                    weight,
                    channels,
                    bias,
                    &mut output,
                    sums.as_mut(),
                );
                if let Some(own) = gathered {
                    self.pool.give(own.data);
                }
                tape.tensors[*out] = Some(output);
                tape.take_statistics(plan, parameters, *out, sums);
            }
            Step::Depthwise {
                source,
                window,
                out,
                ..
            } => {
                tape.kernels[index] = bake_kernel(self.cpu, &mut self.pool, parameters, plan, step);
                let shape = plan.tensors[*out].shape;
                let mut output = self
                    .pool
                    .take(count * shape.height * shape.width * shape.channels);
                let mut sums = norm_sums(plan, *out, takes_statistics);
                let kernel = tape.kernels[index]
                    .last()
                    .expect("baking makes at least one kernel");
                kernels::depthwise_forward(
                    self.cpu,
                    tape.source(plan, *source),
                    *window,
                    kernel,
                    &mut output,
                    sums.as_mut(),
                );
                tape.tensors[*out] = Some(output);
                tape.take_statistics(plan, parameters, *out, sums);
            }
            Step::GlobalAveragePool { source, out } => {
                let mut output = new_tensor(*out);
                kernels::global_average_pool(self.cpu, tape.source(plan, *source), &mut output);
                tape.tensors[*out] = Some(output);
            }
            Step::Pool {
                source,
                kind,
                window,
                out,
            } => {
                let mut output = new_tensor(*out);
                let source = tape.source(plan, *source);
                match kind {
                    PoolKind::Average => {
                        kernels::average_pool(self.cpu, source, *window, false, &mut output);
                    }
                    PoolKind::Max => {
                        let mut winners = self.winners.take(output.len());
                        kernels::max_pool(self.cpu, source, *window, &mut output, &mut winners);
                        tape.winners[index] = winners;
                    }
                }
                tape.tensors[*out] = Some(output);
            }
            Step::Add { left, right, out } => {
                let mut output = new_tensor(*out);
                let (left, right) = (tape.source(plan, *left), tape.source(plan, *right));
                kernels::add(self.cpu, left, right, &mut output);
                tape.tensors[*out] = Some(output);
            }
            Step::Concat { left, right, out } => {
                let mut output = new_tensor(*out);
                let widths = [left, right].map(|view| plan.tensors[view.tensor].shape.channels);
                let width = widths[0] + widths[1];
                for (view, start, own) in [(left, 0, widths[0]), (right, widths[0], widths[1])] {
                    let source = tape.source(plan, *view);
                    let mut part = self.pool.take(source.data.len());
                    kernels::materialise(self.cpu, source, &mut part);
                    for (pixel, own) in output.chunks_exact_mut(width).zip(part.chunks_exact(own)) {
                        pixel[start..start + own.len()].copy_from_slice(own);
                    }
                    self.pool.give(part);
                }
                tape.tensors[*out] = Some(output);
            }
            Step::Activate { source, out } => {
                let mut output = new_tensor(*out);
                kernels::materialise(self.cpu, tape.source(plan, *source), &mut output);
                let mut sums = norm_sums(plan, *out, takes_statistics);
                if let Some(sums) = &mut sums {
                    add_sums(&output, sums);
                }
                tape.tensors[*out] = Some(output);
                tape.take_statistics(plan, parameters, *out, sums);
            }
            Step::Gate { .. } => {}
            Step::Scale {
                feature,
                factor,
                out,
            } => {
                let mut output = new_tensor(*out);
                kernels::materialise(self.cpu, tape.source(plan, *feature), &mut output);
                let factor = tape.source(plan, *factor);
                let mut factors = self.pool.take(factor.data.len());
                kernels::materialise(self.cpu, factor, &mut factors);
                multiply_pixels(&mut output, &factors, count);
                self.pool.give(factors);
                tape.tensors[*out] = Some(output);
            }
            Step::Dropout { source, rate, out } => {
                let mut output = new_tensor(*out);
                kernels::materialise(self.cpu, tape.source(plan, *source), &mut output);
                if let Some(draws) = tape.dropout {
                    apply_dropout(draws, index, *rate, &mut output);
                }
                tape.tensors[*out] = Some(output);
            }
        }
    }
}

impl<'a> Tape<'a> {
    pub(crate) fn new(plan: &Plan, images: Images<'a>) -> Self {
        Self {
            images,
            tensors: vec![None; plan.tensors.len()],
            norms: vec![AppliedNorm::default(); plan.norms.len()],
            kernels: vec![Vec::new(); plan.steps.len()],
            winners: vec![Buffer::default(); plan.steps.len()],
            dropout: None,
            is_training: false,
            is_calibrated: false,
            output: plan.output,
        }
    }

    /// The stored tensor of `view` with all that its reader applies.
    pub(crate) fn source<'s>(&'s self, plan: &Plan, view: View) -> Source<'s> {
        let shape = plan.tensors[view.tensor].shape;
        Source {
            data: self.data(view.tensor),
            shape: Shape {
                images: self.images.count,
                height: shape.height,
                width: shape.width,
                channels: shape.channels,
            },
            affine: view.norm.map(|norm| Affine {
                scale: &self.norms[norm].scale,
                shift: &self.norms[norm].shift,
            }),
            activation: kernel_activation(view.activation),
            gate: view.gate.map(|gate| self.data(gate)),
        }
    }

    /// Tensor 0 is the batch itself.
    pub(crate) fn data(&self, tensor: usize) -> &[f32] {
        match &self.tensors[tensor] {
            Some(data) => data,
            None => {
                assert_eq!(tensor, 0, "a step reads tensor {tensor} before it is made");
                self.images.data
            }
        }
    }

    fn take_statistics(
        &mut self,
        plan: &Plan,
        parameters: &Parameters,
        tensor: usize,
        sums: Option<ChannelSums>,
    ) {
        let (Some(sums), Some(norm)) = (sums, plan.tensors[tensor].view.norm) else {
            return;
        };
        let shape = plan.tensors[tensor].shape;
        let count = self.images.count * shape.height * shape.width;
        let (mean, variance) = kernels::batch_norm_statistics(&sums, count);
        let info = &plan.norms[norm];
        self.norms[norm] = AppliedNorm::new(parameters, info, &mean, &variance);
    }
}

impl NormInfo {
    /// This batch-norm's part of its stored scale or shift.
    pub(crate) fn vector<'p>(&self, parameters: &'p Parameters, at: usize) -> Cow<'p, [f32]> {
        let stored = &parameters.at(at).data;
        match &self.gather {
            None => Cow::Borrowed(&stored[..self.channels]),
            Some(gather) => Cow::Owned(gather.gather(stored, 1, stored.len())),
        }
    }
}

/// A convolution's weight with the kernel and the input channels of one subnet only.
pub(crate) struct GatheredWeight {
    pub data: Buffer,
    pub out_stride: usize,
    pub in_stride: usize,
}

impl GatheredWeight {
    pub fn as_weight(&self) -> ConvWeight<'_> {
        ConvWeight {
            data: &self.data,
            out_stride: self.out_stride,
            in_stride: self.in_stride,
        }
    }
}

/// The weight of a convolution behind a concatenation, or with a smaller kernel than the stored one.
pub(crate) fn gathered(
    pool: &mut BufferPool,
    parameters: &Parameters,
    plan: &Plan,
    weight: usize,
    out: usize,
    part: &WeightPart,
) -> GatheredWeight {
    let stored = parameters.at(weight);
    let outputs = plan.tensors[out].shape.channels;
    let taps = stored.shape[0] * part.stored_kernel * part.stored_kernel;
    let stride = stored.data.len() / taps;
    let in_stride = part.channels.count();
    let mut data = pool.take(part.len(outputs));
    part.gather(&stored.data, stride, &mut data);
    GatheredWeight {
        data,
        out_stride: part.kernel * part.kernel * in_stride,
        in_stride,
    }
}

/// Adds Σy and Σy² of each channel, pixel by pixel.
fn add_sums(values: &[f32], sums: &mut ChannelSums) {
    for pixel in values.chunks_exact(sums.first.len()) {
        for ((first, second), value) in sums.first.iter_mut().zip(&mut sums.second).zip(pixel) {
            *first += f64::from(*value);
            *second += f64::from(*value) * f64::from(*value);
        }
    }
}

fn norm_sums(plan: &Plan, tensor: usize, takes_statistics: bool) -> Option<ChannelSums> {
    let info = &plan.tensors[tensor];
    (takes_statistics && info.view.norm.is_some()).then(|| ChannelSums::new(info.shape.channels))
}

/// The kernels of a depthwise convolution's links, from the stored one down; a kernel of the stored
/// size is a plain copy. Of other steps there are none.
pub(crate) fn bake_kernel(
    cpu: Cpu,
    pool: &mut BufferPool,
    parameters: &Parameters,
    plan: &Plan,
    step: &Step,
) -> Vec<Buffer> {
    let &Step::Depthwise {
        weight,
        stored_kernel,
        stored_channels,
        channels: ref places,
        ref links,
        out,
        ..
    } = step
    else {
        return Vec::new();
    };
    let channels = plan.tensors[out].shape.channels;
    let stored = &parameters.at(weight).data;
    let mut kernel = pool.take(stored_kernel * stored_kernel * channels);
    for (tap, taps) in kernel.chunks_exact_mut(channels).enumerate() {
        let mut start = 0;
        for range in places.ranges() {
            let part = &stored[tap * stored_channels..][range.clone()];
            taps[start..start + part.len()].copy_from_slice(part);
            start += part.len();
        }
    }
    let mut baked = vec![kernel];
    let mut from = stored_kernel;
    for link in links {
        let mut smaller = pool.take(link.kernel * link.kernel * channels);
        kernels::kernel_transform_forward(
            cpu,
            &baked[baked.len() - 1],
            from,
            link.kernel,
            channels,
            link.transform.map(|matrix| &parameters.at(matrix).data[..]),
            &mut smaller,
        );
        baked.push(smaller);
        from = link.kernel;
    }
    baked
}

/// Multiplies each pixel of `count` images by a pixel of the image.
pub(crate) fn multiply_pixels(values: &mut [f32], factors: &[f32], count: usize) {
    let (image, channels) = (values.len() / count, factors.len() / count);
    let images = values.chunks_exact_mut(image);
    for (image, factors) in images.zip(factors.chunks_exact(channels)) {
        for pixel in image.chunks_exact_mut(channels) {
            let values = pixel.iter_mut().zip(factors);
            values.for_each(|(value, factor)| *value *= factor);
        }
    }
}

/// Multiplies by the mask of a site.
pub(crate) fn apply_dropout(address: DropoutDraws, site: usize, rate: f32, values: &mut [f32]) {
    for (value, factor) in values.iter_mut().zip(address.mask(site, rate)) {
        *value *= factor;
    }
}

pub(crate) fn kernel_activation(activation: oncefit_space::Activation) -> kernels::Activation {
    use oncefit_space::Activation as A;
    match activation {
        A::Identity => kernels::Activation::Identity,
        A::Relu => kernels::Activation::Relu,
        A::Relu6 => kernels::Activation::Relu6,
        A::HardSwish => kernels::Activation::HardSwish,
        A::HardSigmoid => kernels::Activation::HardSigmoid,
    }
}
