//! The backward direction: gradients of a taped pass.
//!
//! Each stored tensor has one gradient buffer. Consumers, visited last to first, write or add the
//! gradient of the value they read. Where a tensor has one consumer, that consumer writes the
//! gradient `dz` of the batch-norm's output at once and takes the sums that batch-norm's backward
//! needs; otherwise the tensor's producer converts the buffer before it uses it.

use oncefit_kernels as kernels;
use oncefit_kernels::{BatchNormGradient, ChannelSums, ConvWeight, InputGradient, OutputGradient};

use crate::buffers::Buffer;
use crate::error::{NnError, Result};
use crate::execute::{Executor, Tape, apply_dropout, gathered, multiply_pixels};
use crate::parameters::{Gradients, Parameters};
use crate::plan::{Plan, PoolKind, Step, TensorInfo, View};

/// The gradient of one stored tensor while it is being made.
#[derive(Default)]
struct TensorGradient {
    buffer: Option<Buffer>,
    /// Σdz and Σdz·y; there once the buffer holds `dz`.
    sums: Option<ChannelSums>,
    is_converted: bool,
}

impl TensorInfo {
    /// Whether its only consumer can write `dz` instead of the gradient of the value.
    fn is_converted_by_consumer(&self) -> bool {
        self.uses == 1 && self.view.gate.is_none() && !self.view.is_plain()
    }
}

impl Executor {
    /// Adds the gradients of a pass to `gradients`, given `d loss / d output`
    /// (`count × features`), and recycles the tape.
    ///
    /// # Errors
    /// If the tape was not made in training mode or `output_gradient` has another size.
    pub fn backward(
        &mut self,
        plan: &Plan,
        parameters: &Parameters,
        tape: Tape,
        output_gradient: &[f32],
        gradients: &mut Gradients,
    ) -> Result<()> {
        self.backward_as(plan, parameters, tape, output_gradient, None, gradients)
    }

    /// Adds `Σ_images f(gradient of the image)` to `sums`, given `d loss / d output` (`count × features`),
    /// and recycles the tape. `f` must be multiplicative, `f(ab) = f(a)·f(b)`, as squares and
    /// magnitudes are: the gradient of one image is the outer product of a layer's input and its
    /// output's gradient, so the sum over images is one matrix product.
    ///
    /// # Errors
    /// As [`Executor::backward`], and if not [`Plan::separates_images`].
    pub fn backward_of_each(
        &mut self,
        plan: &Plan,
        parameters: &Parameters,
        tape: Tape,
        output_gradient: &[f32],
        f: fn(f32) -> f32,
        sums: &mut Gradients,
    ) -> Result<()> {
        if !plan.separates_images() {
            return Err(NnError::Unsupported {
                path: "gradients of each image".into(),
                reason: "only networks of linear layers and activations have them in one pass"
                    .into(),
            });
        }
        self.backward_as(plan, parameters, tape, output_gradient, Some(f), sums)
    }

    fn backward_as(
        &mut self,
        plan: &Plan,
        parameters: &Parameters,
        tape: Tape,
        output_gradient: &[f32],
        of_each: Option<fn(f32) -> f32>,
        gradients: &mut Gradients,
    ) -> Result<()> {
        if !tape.is_training {
            return Err(NnError::Unsupported {
                path: "backward".into(),
                reason: "the forward pass was not run in training mode".into(),
            });
        }
        if output_gradient.len() != tape.output().len() {
            return Err(NnError::BatchSize {
                what: "the output gradient",
                found: output_gradient.len(),
                needed: tape.output().len(),
                detail: "images × features".into(),
            });
        }
        let mut seed = self.pool.take(output_gradient.len());
        seed.copy_from_slice(output_gradient);
        let mut pass = Pass {
            plan,
            parameters,
            grads: (0..plan.tensors.len())
                .map(|_| TensorGradient::default())
                .collect(),
            executor: self,
            tape,
            of_each,
            gradients,
        };
        pass.grads[plan.output].buffer = Some(seed);
        oncefit_kernels::in_pool(|| {
            for index in (0..plan.steps.len()).rev() {
                pass.restore(index);
                pass.step(index);
            }
        });
        let Pass { tape, grads, .. } = pass;
        for grad in grads {
            if let Some(buffer) = grad.buffer {
                self.pool.give(buffer);
            }
        }
        self.recycle(tape);
        Ok(())
    }
}

struct Pass<'a, 't> {
    plan: &'a Plan,
    parameters: &'a Parameters,
    executor: &'a mut Executor,
    tape: Tape<'t>,
    grads: Vec<TensorGradient>,
    /// What is summed of the weights' gradients of each image, instead of the gradients.
    of_each: Option<fn(f32) -> f32>,
    gradients: &'a mut Gradients,
}

/// Where a consumer puts the gradient of what it read: a buffer taken from the tensor's state.
struct Sink {
    view: View,
    buffer: Buffer,
    kind: SinkKind,
    sums: ChannelSums,
}

#[derive(Clone, Copy, PartialEq)]
enum SinkKind {
    Skip,
    Overwrite,
    Accumulate,
    PreActivation,
}

impl Sink {
    fn as_input_gradient(&mut self) -> InputGradient<'_> {
        match self.kind {
            SinkKind::Skip => InputGradient::Skip,
            SinkKind::Overwrite => InputGradient::Overwrite(&mut self.buffer),
            SinkKind::Accumulate => InputGradient::Accumulate(&mut self.buffer),
            SinkKind::PreActivation => InputGradient::PreActivation {
                dz: &mut self.buffer,
                sums: &mut self.sums,
            },
        }
    }
}

impl Pass<'_, '_> {
    /// Makes what a step reads and was not kept.
    fn restore(&mut self, index: usize) {
        let plan = self.plan;
        for tensor in plan.steps[index].tensors() {
            if let (Some(by), None) = (
                plan.tensors[tensor].expansion_by,
                &self.tape.tensors[tensor],
            ) {
                let step = &plan.steps[by];
                let tape = &mut self.tape;
                self.executor
                    .run(plan, self.parameters, tape, by, step, false);
            }
        }
    }

    fn step(&mut self, index: usize) {
        let plan = self.plan;
        match &plan.steps[index] {
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
                let Some((dz, norm)) = self.output_gradient(*out) else {
                    return;
                };
                let mut sink = self.sink(*source);
                if let Some(gather) = gather {
                    let pool = &mut self.executor.pool;
                    let own = gathered(pool, self.parameters, plan, *weight, *out, gather);
                    let mut gradient = pool.take(own.data.len());
                    gradient.fill(0.0);
                    let bias_gradient = bias.map(|bias| {
                        &mut self.gradients.at_mut(bias)[..plan.tensors[*out].shape.channels]
                    });
                    kernels::convolution_backward(
                        self.executor.cpu,
                        self.tape.source(plan, *source),
                        *window,
                        own.as_weight(),
                        plan.tensors[*out].shape.channels,
                        OutputGradient {
                            dz: &dz,
                            batch_norm: norm.as_gradient(&self.tape, *out),
                        },
                        sink.as_input_gradient(),
                        Some((&mut gradient, own.out_stride, own.in_stride)),
                        bias_gradient,
                    );
                    gather.scatter_add(&gradient, self.gradients.at_mut(*weight), *in_stride);
                    self.executor.pool.give(gradient);
                    self.executor.pool.give(own.data);
                    self.settle(sink);
                    self.release(*out, dz);
                    return;
                }
                let channels = plan.tensors[*out].shape.channels;
                let read = self.tape.source(plan, *source);
                let kept = ConvWeight {
                    data: &self.parameters.at(*weight).data,
                    out_stride: *out_stride,
                    in_stride: *in_stride,
                };
                let (weight_gradient, bias_gradient) = match bias {
                    Some(bias) => {
                        let (weight, bias) = self.gradients.pair_mut(*weight, *bias);
                        (weight, Some(&mut bias[..channels]))
                    }
                    None => (self.gradients.at_mut(*weight), None),
                };
                let weight_gradient = Some((weight_gradient, *out_stride, *in_stride));
                let cpu = self.executor.cpu;
                let gradient = OutputGradient {
                    dz: &dz,
                    batch_norm: norm.as_gradient(&self.tape, *out),
                };
                let (of_weight, of_bias) = match self.of_each {
                    None => (weight_gradient, bias_gradient),
                    Some(f) => {
                        let pool = &mut self.executor.pool;
                        let mut input = pool.take(read.data.len());
                        kernels::materialise(cpu, read, &mut input);
                        input.iter_mut().for_each(|value| *value = f(*value));
                        let mut output = pool.take(dz.len());
                        output.copy_from_slice(&dz);
                        output.iter_mut().for_each(|value| *value = f(*value));
                        kernels::convolution_backward(
                            cpu,
                            kernels::Source::plain(&input, read.shape),
                            *window,
                            kept,
                            channels,
                            OutputGradient {
                                dz: &output,
                                batch_norm: None,
                            },
                            InputGradient::Skip,
                            weight_gradient,
                            bias_gradient,
                        );
                        pool.give(input);
                        pool.give(output);
                        (None, None)
                    }
                };
                kernels::convolution_backward(
                    cpu,
                    read,
                    *window,
                    kept,
                    channels,
                    gradient,
                    sink.as_input_gradient(),
                    of_weight,
                    of_bias,
                );
                self.settle(sink);
                self.release(*out, dz);
            }
            Step::Depthwise {
                source,
                window,
                weight,
                stored_kernel,
                stored_channels,
                channels: places,
                links,
                out,
            } => {
                let Some((dz, norm)) = self.output_gradient(*out) else {
                    return;
                };
                let mut sink = self.sink(*source);
                let baked = std::mem::take(&mut self.tape.kernels[index]);
                let channels = plan.tensors[*out].shape.channels;
                let kernel = &baked[baked.len() - 1];
                let mut gradient = self.executor.pool.take(kernel.len());
                gradient.fill(0.0);
                kernels::depthwise_backward(
                    self.executor.cpu,
                    self.tape.source(plan, *source),
                    *window,
                    kernel,
                    OutputGradient {
                        dz: &dz,
                        batch_norm: norm.as_gradient(&self.tape, *out),
                    },
                    sink.as_input_gradient(),
                    Some(&mut gradient),
                );
                self.settle(sink);
                self.release(*out, dz);
                // Back through the chain of kernels, smallest first.
                for (position, link) in links.iter().enumerate().rev() {
                    let from = if position == 0 {
                        *stored_kernel
                    } else {
                        links[position - 1].kernel
                    };
                    let mut larger = self.executor.pool.take(from * from * channels);
                    larger.fill(0.0);
                    let matrix = link.transform.map(|at| &self.parameters.at(at).data[..]);
                    let matrix_gradient = link.transform.map(|at| self.gradients.at_mut(at));
                    kernels::kernel_transform_backward(
                        self.executor.cpu,
                        &baked[position],
                        from,
                        link.kernel,
                        channels,
                        matrix,
                        &gradient,
                        &mut larger,
                        matrix_gradient,
                    );
                    self.executor
                        .pool
                        .give(std::mem::replace(&mut gradient, larger));
                }
                let stored = self.gradients.at_mut(*weight);
                places.scatter_add(&gradient, stored, *stored_channels);
                self.executor.pool.give(gradient);
                baked
                    .into_iter()
                    .for_each(|buffer| self.executor.pool.give(buffer));
            }
            Step::GlobalAveragePool { source, out } => {
                let Some((pooled, _)) = self.output_gradient(*out) else {
                    return;
                };
                if plan.tensors[source.tensor].view.gate.is_some() {
                    self.convert_gated(source.tensor, &pooled);
                } else {
                    let mut sink = self.sink(View {
                        gate: None,
                        ..*source
                    });
                    let shape = self.tape.source(plan, *source).shape;
                    let adds = sink.kind == SinkKind::Accumulate;
                    kernels::global_average_pool_backward(
                        self.executor.cpu,
                        &pooled,
                        shape,
                        &mut sink.buffer,
                        adds,
                    );
                    self.convert_in_place(&mut sink);
                    self.settle(sink);
                }
                self.release(*out, pooled);
            }
            Step::Pool {
                source,
                kind,
                window,
                out,
            } => {
                let Some((gradient, _)) = self.output_gradient(*out) else {
                    return;
                };
                let mut sink = self.sink(*source);
                if sink.kind != SinkKind::Skip {
                    let shape = self.tape.source(plan, *source).shape;
                    let adds = sink.kind == SinkKind::Accumulate;
                    let cpu = self.executor.cpu;
                    let input = &mut sink.buffer;
                    match kind {
                        PoolKind::Average => kernels::average_pool_backward(
                            cpu, &gradient, *window, false, shape, input, adds,
                        ),
                        PoolKind::Max => {
                            let winners = &self.tape.winners[index];
                            kernels::max_pool_backward(
                                cpu, winners, &gradient, *window, shape, input, adds,
                            );
                        }
                    }
                    self.convert_in_place(&mut sink);
                }
                self.settle(sink);
                self.release(*out, gradient);
            }
            Step::Add { left, right, out } => {
                let Some((gradient, _)) = self.output_gradient(*out) else {
                    return;
                };
                for view in [left, right] {
                    self.pass_through(*view, &gradient);
                }
                self.release(*out, gradient);
            }
            Step::Concat { left, right, out } => {
                let Some((gradient, _)) = self.output_gradient(*out) else {
                    return;
                };
                let width = plan.tensors[*out].shape.channels;
                let first = plan.tensors[left.tensor].shape.channels;
                for (view, start, own) in [(left, 0, first), (right, first, width - first)] {
                    let mut part = self.executor.pool.take(gradient.len() / width * own);
                    for (own, pixel) in part.chunks_exact_mut(own).zip(gradient.chunks_exact(width))
                    {
                        own.copy_from_slice(&pixel[start..start + own.len()]);
                    }
                    self.pass_through(*view, &part);
                    self.executor.pool.give(part);
                }
                self.release(*out, gradient);
            }
            Step::Activate { source, out } => {
                let Some((mut gradient, norm)) = self.output_gradient(*out) else {
                    return;
                };
                // The gradient at the stored tensor, where a batch-norm reads it.
                if let Some(norm) = norm.as_gradient(&self.tape, *out) {
                    let channels = norm.a.len();
                    for (dz, y) in gradient
                        .chunks_exact_mut(channels)
                        .zip(norm.y.chunks_exact(channels))
                    {
                        for channel in 0..channels {
                            dz[channel] = norm.a[channel] * dz[channel]
                                + norm.b[channel] * y[channel]
                                + norm.c[channel];
                        }
                    }
                }
                if source.gate.is_some() {
                    // A gated tensor is converted when its pool is reached; until then its buffer
                    // holds the gradient of the gated value.
                    self.add_gradient(source.tensor, &gradient);
                } else {
                    self.pass_through(*source, &gradient);
                }
                self.release(*out, gradient);
            }
            Step::Gate { feature, gate } => {
                let length = self.tape.data(*gate).len();
                let mut gate_gradient = self.executor.pool.take(length);
                let gradient = self.grads[feature.tensor]
                    .buffer
                    .as_deref()
                    .expect("the gated tensor's consumers come after its gate");
                kernels::gate_gradient(
                    self.executor.cpu,
                    self.tape.source(plan, *feature),
                    gradient,
                    &mut gate_gradient,
                );
                self.grads[*gate].buffer = Some(gate_gradient);
            }
            Step::Scale {
                feature,
                factor,
                out,
            } => {
                let Some((mut gradient, _)) = self.output_gradient(*out) else {
                    return;
                };
                let count = self.tape.images.count;
                let [features, factors] = [feature, factor].map(|view| {
                    let source = self.tape.source(plan, *view);
                    let mut values = self.executor.pool.take(source.data.len());
                    kernels::materialise(self.executor.cpu, source, &mut values);
                    values
                });
                // Of the factor: the sum over the image's pixels.
                let (image, channels) = (features.len() / count, factors.len() / count);
                let mut of_factor = self.executor.pool.take(factors.len());
                of_factor.fill(0.0);
                for (index, sums) in of_factor.chunks_exact_mut(channels).enumerate() {
                    let pixels = index * image..(index + 1) * image;
                    let values = features[pixels.clone()].chunks_exact(channels);
                    let gradients = gradient[pixels].chunks_exact(channels);
                    for (values, gradients) in values.zip(gradients) {
                        let products = values.iter().zip(gradients);
                        for (sum, (value, gradient)) in sums.iter_mut().zip(products) {
                            *sum += value * gradient;
                        }
                    }
                }
                multiply_pixels(&mut gradient, &factors, count);
                self.pass_through(*feature, &gradient);
                self.pass_through(*factor, &of_factor);
                for buffer in [features, factors, of_factor] {
                    self.executor.pool.give(buffer);
                }
                self.release(*out, gradient);
            }
            Step::Dropout { source, rate, out } => {
                let Some((mut gradient, _)) = self.output_gradient(*out) else {
                    return;
                };
                if let Some(draws) = self.tape.dropout {
                    apply_dropout(draws, index, *rate, &mut gradient);
                }
                self.pass_through(*source, &gradient);
                self.release(*out, gradient);
            }
        }
    }

    /// The gradient buffer of a stored tensor as its producer needs it: `dz`, with batch-norm's
    /// coefficients, whose own gradients are added here.
    fn output_gradient(&mut self, tensor: usize) -> Option<(Buffer, NormCoefficients)> {
        let view = self.plan.tensors[tensor].view;
        let state = std::mem::take(&mut self.grads[tensor]);
        let mut buffer = state.buffer?;
        let mut sums = state.sums;
        if !state.is_converted && !view.is_plain() {
            let channels = self.plan.tensors[tensor].shape.channels;
            let mut found = ChannelSums::new(channels);
            kernels::activation_backward_in_place(
                self.executor.cpu,
                self.tape.source(self.plan, View { gate: None, ..view }),
                &mut buffer,
                Some(&mut found),
            );
            sums = Some(found);
        }
        let coefficients = match (view.norm, sums) {
            (Some(norm), Some(sums)) => self.norm_coefficients(tensor, norm, &sums),
            _ => NormCoefficients::default(),
        };
        Some((buffer, coefficients))
    }

    fn norm_coefficients(
        &mut self,
        tensor: usize,
        norm: usize,
        sums: &ChannelSums,
    ) -> NormCoefficients {
        let info = &self.plan.norms[norm];
        let shape = self.plan.tensors[tensor].shape;
        let count = self.tape.images.count * shape.height * shape.width;
        let applied = &self.tape.norms[norm];
        let mut found = kernels::batch_norm_backward(
            sums,
            count,
            &applied.mean,
            &applied.variance,
            &info.vector(self.parameters, info.scale),
            info.epsilon,
        );
        if self.tape.is_calibrated {
            // b and c are what flows through the statistics.
            found.b.fill(0.0);
            found.c.fill(0.0);
        }
        let (scale, shift) = self.gradients.pair_mut(info.scale, info.shift);
        for (stored, own) in [(scale, &found.dgamma), (shift, &found.dbeta)] {
            match &info.gather {
                None => stored
                    .iter_mut()
                    .zip(own)
                    .for_each(|(value, addend)| *value += addend),
                Some(gather) => {
                    let stride = stored.len();
                    gather.scatter_add(own, stored, stride);
                }
            }
        }
        NormCoefficients(Some([found.a, found.b, found.c]))
    }

    fn sink(&mut self, view: View) -> Sink {
        let info = &self.plan.tensors[view.tensor];
        let channels = info.shape.channels;
        let (buffer, kind) = if view.tensor == 0 {
            (Buffer::default(), SinkKind::Skip)
        } else if let Some(buffer) = self.grads[view.tensor].buffer.take() {
            (buffer, SinkKind::Accumulate)
        } else {
            let buffer = self.executor.pool.take(self.tape.data(view.tensor).len());
            let converts = info.is_converted_by_consumer();
            (
                buffer,
                if converts {
                    SinkKind::PreActivation
                } else {
                    SinkKind::Overwrite
                },
            )
        };
        Sink {
            view,
            buffer,
            kind,
            sums: ChannelSums::new(channels),
        }
    }

    /// Puts a filled sink back into its tensor's state.
    fn settle(&mut self, sink: Sink) {
        if sink.kind == SinkKind::Skip {
            return;
        }
        let is_converted = sink.kind == SinkKind::PreActivation;
        self.grads[sink.view.tensor] = TensorGradient {
            buffer: Some(sink.buffer),
            sums: is_converted.then_some(sink.sums),
            is_converted,
        };
    }

    /// Turns a sink whose buffer holds the gradient of the value into `dz` where that is due.
    fn convert_in_place(&mut self, sink: &mut Sink) {
        if sink.kind == SinkKind::PreActivation {
            kernels::activation_backward_in_place(
                self.executor.cpu,
                self.tape.source(self.plan, sink.view),
                &mut sink.buffer,
                Some(&mut sink.sums),
            );
        }
    }

    /// Hands the gradient of a value on to the tensor it is read from.
    fn pass_through(&mut self, view: View, gradient: &[f32]) {
        let mut sink = self.sink(view);
        match sink.kind {
            SinkKind::Skip => {}
            SinkKind::Accumulate => {
                sink.buffer
                    .iter_mut()
                    .zip(gradient)
                    .for_each(|(value, addend)| *value += addend);
            }
            SinkKind::Overwrite => sink.buffer.copy_from_slice(gradient),
            SinkKind::PreActivation => kernels::activation_backward(
                self.executor.cpu,
                self.tape.source(self.plan, view),
                gradient,
                &mut sink.buffer,
                Some(&mut sink.sums),
            ),
        }
        self.settle(sink);
    }

    fn add_gradient(&mut self, tensor: usize, gradient: &[f32]) {
        match &mut self.grads[tensor].buffer {
            Some(buffer) => {
                buffer
                    .iter_mut()
                    .zip(gradient)
                    .for_each(|(value, addend)| *value += addend);
            }
            None => {
                let mut buffer = self.executor.pool.take(gradient.len());
                buffer.copy_from_slice(gradient);
                self.grads[tensor].buffer = Some(buffer);
            }
        }
    }

    /// From the gradient of the gated value to `dz` of a tensor that is gated by its own pool.
    fn convert_gated(&mut self, tensor: usize, pooled: &[f32]) {
        let view = self.plan.tensors[tensor].view;
        let mut sums = ChannelSums::new(self.plan.tensors[tensor].shape.channels);
        let mut buffer = self.grads[tensor]
            .buffer
            .take()
            .expect("the gated tensor's consumers come after its pool");
        kernels::gated_backward_in_place(
            self.executor.cpu,
            self.tape.source(self.plan, view),
            &mut buffer,
            pooled,
            Some(&mut sums),
        );
        self.grads[tensor] = TensorGradient {
            buffer: Some(buffer),
            sums: Some(sums),
            is_converted: true,
        };
    }

    fn release(&mut self, tensor: usize, gradient: Buffer) {
        self.executor.pool.give(gradient);
        // A gate's value is read again when the pool of the map it gates is reached.
        if self
            .plan
            .tensors
            .iter()
            .any(|info| info.view.gate == Some(tensor))
        {
            return;
        }
        if let Some(buffer) = self.tape.tensors[tensor].take() {
            self.executor.pool.give(buffer);
        }
    }
}

/// The coefficients of `dy = a·dz + b·y + c`, where a tensor has a batch-norm.
#[derive(Default)]
struct NormCoefficients(Option<[Vec<f32>; 3]>);

impl NormCoefficients {
    fn as_gradient<'s>(&'s self, tape: &'s Tape, tensor: usize) -> Option<BatchNormGradient<'s>> {
        self.0.as_ref().map(|[a, b, c]| BatchNormGradient {
            y: tape.data(tensor),
            a,
            b,
            c,
        })
    }
}
