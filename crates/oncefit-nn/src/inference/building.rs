//! From the steps of a plan to layers and blocks.

use oncefit_kernels as kernels;
use oncefit_kernels::{ConvWeight, Cpu, FoldedConvolution, FoldedDepthwise};

use super::{Blocks, Layer};
use crate::buffers::BufferPool;
use crate::execute::{AppliedNorm, bake_kernel, kernel_activation};
use crate::parameters::Parameters;
use crate::plan::{Plan, Step, View};

/// Pixels of an expanded tensor that is not stored, at least.
const EXPANDED_PIXELS: usize = 128;
/// Values of an image, between depthwise convolution and projection, that are not stored: more than these.
const LARGE: usize = 1 << 17;
/// Pixels of a bottleneck that runs as one operation, at least.
const BOTTLENECK_PIXELS: usize = 64;

/// Layers on the way, and which tensors they make.
pub(super) struct Building<'a> {
    cpu: Cpu,
    plan: &'a Plan,
    parameters: &'a Parameters,
    norms: &'a [AppliedNorm],
    blocks: Blocks,
    /// `None` where a layer became part of another.
    layers: Vec<Option<Layer>>,
    /// Which layer makes each tensor.
    maker: Vec<Option<usize>>,
    /// How many layers read each tensor.
    uses: Vec<usize>,
    /// Whether a tensor is stored as its readers want it, but for a gate.
    is_finished: Vec<bool>,
}

impl<'a> Building<'a> {
    /// One layer for each step, but for those that another layer does on the way.
    pub fn new(
        cpu: Cpu,
        plan: &'a Plan,
        parameters: &'a Parameters,
        norms: &'a [AppliedNorm],
        blocks: Blocks,
    ) -> Self {
        let mut building = Self {
            cpu,
            plan,
            parameters,
            norms,
            blocks,
            layers: Vec::with_capacity(plan.steps.len()),
            maker: vec![None; plan.tensors.len()],
            uses: plan.tensors.iter().map(|info| info.uses).collect(),
            is_finished: vec![false; plan.tensors.len()],
        };
        for (index, step) in plan.steps.iter().enumerate() {
            building.add(index, step);
        }
        building
    }

    /// The layers, with the blocks that are asked for.
    pub fn into_layers(mut self) -> Vec<Layer> {
        if self.blocks != Blocks::Never {
            self.form_blocks();
        }
        self.layers.into_iter().flatten().collect()
    }

    /// A view of the plan, without what the maker of the tensor has done.
    fn read(&self, view: View) -> View {
        match self.is_finished[view.tensor] {
            true => View {
                gate: view.gate,
                ..View::stored(view.tensor)
            },
            false => view,
        }
    }

    fn push(&mut self, layer: Layer, out: usize) {
        self.maker[out] = Some(self.layers.len());
        self.layers.push(Some(layer));
    }

    fn add(&mut self, index: usize, step: &Step) {
        match step {
            Step::Convolution { source, out, .. } => {
                let source = self.read(*source);
                let layer = self.convolution(step, source.tensor, *out);
                self.is_finished[*out] = true;
                let addend = None;
                let out = *out;
                self.push(
                    Layer::Convolution {
                        source,
                        layer,
                        addend,
                        out,
                    },
                    out,
                );
            }
            Step::Depthwise { source, out, .. } => {
                let source = self.read(*source);
                let layer = self.depthwise(step, *out);
                self.is_finished[*out] = true;
                let out = *out;
                self.push(
                    Layer::Depthwise {
                        source,
                        expand: None,
                        layer,
                        out,
                        means: None,
                    },
                    out,
                );
            }
            Step::Gate { .. } => {}
            Step::GlobalAveragePool { source, out } if self.takes_means(*source, *out) => {}
            Step::Add { left, right, out } if self.takes_addend(*left, *right, *out) => {}
            _ => {
                let mut step = step.clone();
                step.views_mut().for_each(|view| *view = self.read(*view));
                let out = step.tensors().last().expect("a step makes a tensor");
                self.push(Layer::Step(index, step), out);
            }
        }
    }

    /// The layer that makes what `view` reads, if it is read as it is stored.
    fn maker_of(&self, view: View) -> Option<usize> {
        let view = self.read(view);
        view.is_plain().then(|| self.maker[view.tensor]).flatten()
    }

    /// Lets a depthwise convolution take the means of what it makes.
    fn takes_means(&mut self, source: View, out: usize) -> bool {
        let Some(maker) = self.maker_of(source) else {
            return false;
        };
        let Some(Layer::Depthwise { means, .. }) = &mut self.layers[maker] else {
            return false;
        };
        if means.is_some() {
            return false;
        }
        *means = Some(out);
        self.maker[out] = Some(maker);
        self.uses[source.tensor] -= 1;
        true
    }

    /// Lets the convolution that makes one of two addends, the later one, add the other.
    fn takes_addend(&mut self, left: View, right: View, out: usize) -> bool {
        let view = self.plan.tensors[out].view;
        let pair = [(left, right), (right, left)];
        let found = pair.into_iter().find_map(|(own, other)| {
            let maker = self.maker_of(own)?;
            let is_stored = self.read(other).is_plain();
            let is_earlier = self.maker[other.tensor].is_none_or(|other| other < maker);
            let is_free = matches!(
                &self.layers[maker],
                Some(Layer::Convolution { layer, addend: None, .. })
                    if layer.activation() == kernels::Activation::Identity
            );
            let is_own = self.uses[own.tensor] == 1;
            (is_stored && is_earlier && is_free && is_own).then_some((maker, other.tensor))
        });
        let Some((maker, other)) = found.filter(|_| view.norm.is_none()) else {
            return false;
        };
        let Some(Layer::Convolution {
            layer,
            addend,
            out: made,
            ..
        }) = &mut self.layers[maker]
        else {
            return false;
        };
        layer.set_activation(kernel_activation(view.activation));
        *addend = Some(other);
        *made = out;
        self.maker[out] = Some(maker);
        self.is_finished[out] = true;
        true
    }

    /// The weight of a convolution with the batch-norm and the activation that follow it.
    fn convolution(&self, step: &Step, source: usize, out: usize) -> FoldedConvolution {
        let Step::Convolution {
            window,
            weight,
            out_stride,
            in_stride,
            bias,
            ..
        } = step
        else {
            unreachable!("called with a convolution");
        };
        let in_channels = self.plan.tensors[source].shape.channels;
        let info = &self.plan.tensors[out];
        let channels = info.shape.channels;
        let mut data = self.parameters.at(*weight).data.clone();
        let mut bias = bias.map(|bias| self.parameters.at(bias).data[..channels].to_vec());
        if let Some(norm) = info.view.norm.map(|norm| &self.norms[norm]) {
            for (row, scale) in data.chunks_mut(*out_stride).zip(&norm.scale) {
                row.iter_mut().for_each(|value| *value *= scale);
            }
            let start = bias.unwrap_or_else(|| vec![0.0; channels]);
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
        FoldedConvolution::new(
            self.cpu,
            weight,
            *window,
            in_channels,
            channels,
            bias.as_deref(),
            kernel_activation(info.view.activation),
        )
    }

    /// The baked kernel of a depthwise convolution with what follows it.
    fn depthwise(&self, step: &Step, out: usize) -> FoldedDepthwise {
        let Step::Depthwise { window, .. } = step else {
            unreachable!("called with a depthwise convolution");
        };
        let info = &self.plan.tensors[out];
        let channels = info.shape.channels;
        let mut pool = BufferPool::default();
        let mut baked = bake_kernel(self.cpu, &mut pool, self.parameters, self.plan, step);
        let mut kernel = baked.pop().expect("baking makes at least one kernel");
        let norm = info.view.norm.map(|norm| &self.norms[norm]);
        if let Some(norm) = norm {
            for tap in kernel.chunks_exact_mut(channels) {
                tap.iter_mut()
                    .zip(&norm.scale)
                    .for_each(|(value, scale)| *value *= scale);
            }
        }
        FoldedDepthwise::new(
            self.cpu,
            (&kernel[..], channels),
            *window,
            channels,
            norm.map(|norm| &norm.shift[..]),
            kernel_activation(info.view.activation),
        )
    }

    /// Forms blocks where they are faster than their layers.
    fn form_blocks(&mut self) {
        for index in 0..self.layers.len() {
            self.form_expanded_depthwise(index);
        }
        for index in 0..self.layers.len() {
            self.form_inverted_residual(index);
            self.form_bottleneck(index);
        }
    }

    /// The only reader's source: the layer that makes it, if that is a convolution without an addend.
    fn only_for(&self, source: View) -> Option<usize> {
        let maker = self.maker_of(source)?;
        let is_only = self.uses[source.tensor] == 1;
        let is_plain = matches!(
            &self.layers[maker],
            Some(Layer::Convolution { addend: None, .. } | Layer::Depthwise { means: None, .. })
        );
        (is_only && is_plain).then_some(maker)
    }

    fn form_expanded_depthwise(&mut self, index: usize) {
        let Some(Layer::Depthwise { source, .. }) = &self.layers[index] else {
            return;
        };
        let Some(maker) = self.only_for(*source) else {
            return;
        };
        let is_expansion = matches!(
            &self.layers[maker],
            Some(Layer::Convolution { layer, .. }) if layer.is_pointwise()
        );
        if !is_expansion || !self.has_pixels(source.tensor, EXPANDED_PIXELS) {
            return;
        }
        let Some(Layer::Convolution {
            source: from,
            layer: expansion,
            ..
        }) = self.layers[maker].take()
        else {
            return;
        };
        if let Some(Layer::Depthwise { source, expand, .. }) = &mut self.layers[index] {
            *source = from;
            *expand = Some(expansion);
        }
    }

    fn form_inverted_residual(&mut self, index: usize) {
        let Some(Layer::Convolution { source, layer, .. }) = &self.layers[index] else {
            return;
        };
        let Some(maker) = self.only_for(*source).filter(|_| layer.is_pointwise()) else {
            return;
        };
        let is_expanded = matches!(
            &self.layers[maker],
            Some(Layer::Depthwise {
                expand: Some(_),
                ..
            })
        );
        if !is_expanded || !self.is_large(source.tensor) {
            return;
        }
        if let (
            Some(Layer::Depthwise {
                source,
                expand: Some(expand),
                layer: depthwise,
                ..
            }),
            Some(Layer::Convolution {
                layer: project,
                addend,
                out,
                ..
            }),
        ) = (self.layers[maker].take(), self.layers[index].take())
        {
            self.layers[index] = Some(Layer::InvertedResidual {
                source,
                expand,
                depthwise,
                project,
                addend,
                out,
            });
        }
    }

    /// The first and the middle layer of the bottleneck that ends at `index`.
    fn bottleneck_at(&self, index: usize) -> Option<[usize; 2]> {
        let convolution = |at: usize, is_pointwise: bool| match &self.layers[at] {
            Some(Layer::Convolution { source, layer, .. }) => {
                (layer.is_pointwise() == is_pointwise).then_some(*source)
            }
            _ => None,
        };
        let middle = self.only_for(convolution(index, true)?)?;
        let reduced = convolution(middle, false)?;
        let first = self.only_for(reduced)?;
        convolution(first, true)?;
        self.has_pixels(reduced.tensor, BOTTLENECK_PIXELS)
            .then_some([first, middle])
    }

    fn form_bottleneck(&mut self, index: usize) {
        let found = self.bottleneck_at(index);
        let Some([first, middle]) = found else {
            return;
        };
        if let (
            Some(Layer::Convolution {
                source,
                layer: reduce,
                ..
            }),
            Some(Layer::Convolution { layer: spatial, .. }),
            Some(Layer::Convolution {
                layer: restore,
                addend,
                out,
                ..
            }),
        ) = (
            self.layers[first].take(),
            self.layers[middle].take(),
            self.layers[index].take(),
        ) {
            self.layers[index] = Some(Layer::Bottleneck {
                source,
                reduce,
                spatial,
                restore,
                addend,
                out,
            });
        }
    }

    /// Whether a tensor inside a block has at least so many pixels in an image: with fewer, a product over
    /// all images reads the weights less often.
    fn has_pixels(&self, tensor: usize, least: usize) -> bool {
        let shape = self.plan.tensors[tensor].shape;
        self.blocks == Blocks::Always || shape.height * shape.width >= least
    }

    /// Whether a tensor inside a block, of one image, is so large that it should not be stored.
    fn is_large(&self, tensor: usize) -> bool {
        self.blocks == Blocks::Always || self.plan.tensors[tensor].shape.len() > LARGE
    }
}
