//! A plan for inference: layers whose outputs are stored as they are read, and blocks of them.
//!
//! A convolution takes in the batch-norm behind it (its weight is scaled), its activation, and the sum
//! with a residual where it is the last to make one of the addends; a depthwise convolution also takes
//! the means that a squeeze-excite begins with. Blocks are formed from such layers where that is
//! faster; they give the bits of the layers.

mod building;

use oncefit_kernels as kernels;
use oncefit_kernels::{Cpu, FoldedConvolution, FoldedDepthwise, InvertedResidual};

use self::building::Building;
use crate::execute::{AppliedNorm, Executor, Tape};
use crate::parameters::Parameters;
use crate::plan::{Plan, Step, View};

/// When a block runs as one operation. All ways give the same bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blocks {
    /// Each layer by itself.
    Never,
    /// By the size of the tensor inside.
    WhereFaster,
    /// Wherever there is one.
    Always,
}

/// What a session does, in its order.
#[derive(Debug)]
pub(crate) struct Program {
    layers: Vec<Layer>,
    /// For each layer, the tensors that no later one reads.
    last_reads: Vec<Vec<usize>>,
    /// The norms that were not folded; nothing in the place of the others.
    norms: Vec<AppliedNorm>,
}

/// A layer or a block; `out` is the tensor it makes.
#[derive(Debug)]
enum Layer {
    Convolution {
        source: View,
        layer: FoldedConvolution,
        addend: Option<usize>,
        out: usize,
    },
    Depthwise {
        source: View,
        /// What makes the channels from the source, where they are not stored.
        expand: Option<FoldedConvolution>,
        layer: FoldedDepthwise,
        out: usize,
        means: Option<usize>,
    },
    InvertedResidual {
        source: View,
        expand: FoldedConvolution,
        depthwise: FoldedDepthwise,
        project: FoldedConvolution,
        addend: Option<usize>,
        out: usize,
    },
    Bottleneck {
        source: View,
        reduce: FoldedConvolution,
        spatial: FoldedConvolution,
        restore: FoldedConvolution,
        addend: Option<usize>,
        out: usize,
    },
    /// A step of the plan, by its index, as training executes it.
    Step(usize, Step),
}

impl Layer {
    /// The views that it reads, but for an addend, which is read as it is stored.
    fn views(&self) -> Vec<View> {
        match self {
            Self::Convolution { source, .. }
            | Self::Depthwise { source, .. }
            | Self::InvertedResidual { source, .. }
            | Self::Bottleneck { source, .. } => vec![*source],
            Self::Step(_, step) => step.views().collect(),
        }
    }

    /// The tensors that it reads.
    fn reads(&self) -> Vec<usize> {
        let addend = match self {
            Self::Convolution { addend, .. }
            | Self::InvertedResidual { addend, .. }
            | Self::Bottleneck { addend, .. } => *addend,
            Self::Depthwise { .. } | Self::Step(..) => None,
        };
        let views = self.views().into_iter();
        let tensors = views.flat_map(|view| [Some(view.tensor), view.gate]);
        tensors.chain([addend]).flatten().collect()
    }
}

impl Program {
    /// Folds the norms of a plan into its weights and forms blocks.
    pub fn new(
        cpu: Cpu,
        plan: &Plan,
        parameters: &Parameters,
        norms: &[AppliedNorm],
        blocks: Blocks,
    ) -> Self {
        let layers = Building::new(cpu, plan, parameters, norms, blocks).into_layers();
        let mut last = vec![None; plan.tensors.len()];
        for (index, layer) in layers.iter().enumerate() {
            for tensor in layer.reads() {
                last[tensor] = Some(index);
            }
        }
        last[plan.output] = None;
        let mut last_reads = vec![Vec::new(); layers.len()];
        for (tensor, last) in last.into_iter().enumerate() {
            if let Some(layer) = last {
                last_reads[layer].push(tensor);
            }
        }
        let mut left = vec![AppliedNorm::default(); norms.len()];
        for norm in layers
            .iter()
            .flat_map(Layer::views)
            .filter_map(|view| view.norm)
        {
            left[norm] = norms[norm].clone();
        }
        Self {
            layers,
            last_reads,
            norms: left,
        }
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        let is_block = |layer: &&Layer| match layer {
            Layer::Depthwise { expand, .. } => expand.is_some(),
            Layer::InvertedResidual { .. } | Layer::Bottleneck { .. } => true,
            Layer::Convolution { .. } | Layer::Step(..) => false,
        };
        self.layers.iter().filter(is_block).count()
    }

    /// Runs all layers on the images of a tape.
    pub fn run(&self, executor: &mut Executor, plan: &Plan, tape: &mut Tape) {
        tape.norms.clone_from(&self.norms);
        for (layer, last_reads) in self.layers.iter().zip(&self.last_reads) {
            layer.run(executor, plan, tape);
            for tensor in last_reads {
                if let Some(buffer) = tape.tensors[*tensor].take() {
                    executor.pool.give(buffer);
                }
            }
        }
    }
}

impl Layer {
    fn run(&self, executor: &mut Executor, plan: &Plan, tape: &mut Tape) {
        let cpu = executor.cpu;
        let count = tape.images.count;
        let mut take = |tensor: usize| executor.pool.take(count * plan.tensors[tensor].shape.len());
        match self {
            Self::Convolution {
                source,
                layer,
                addend,
                out,
            } => {
                let mut output = take(*out);
                let addend = addend.map(|tensor| tape.data(tensor));
                let source = tape.source(plan, *source);
                kernels::folded_convolution(cpu, source, layer, addend, &mut output);
                tape.tensors[*out] = Some(output);
            }
            Self::Depthwise {
                source,
                expand,
                layer,
                out,
                means,
            } => {
                let mut output = take(*out);
                let mut pooled = means.map(&mut take);
                let source = tape.source(plan, *source);
                let to = pooled.as_deref_mut();
                match expand {
                    Some(expand) => {
                        kernels::expanded_depthwise(cpu, source, expand, layer, &mut output, to);
                    }
                    None => kernels::folded_depthwise(cpu, source, layer, &mut output, to),
                }
                tape.tensors[*out] = Some(output);
                if let (Some(means), Some(pooled)) = (means, pooled) {
                    tape.tensors[*means] = Some(pooled);
                }
            }
            Self::InvertedResidual {
                source,
                expand,
                depthwise,
                project,
                addend,
                out,
            } => {
                let mut output = take(*out);
                let block = InvertedResidual {
                    expand,
                    depthwise,
                    project,
                };
                let addend = addend.map(|tensor| tape.data(tensor));
                let source = tape.source(plan, *source);
                kernels::inverted_residual(cpu, source, block, addend, &mut output);
                tape.tensors[*out] = Some(output);
            }
            Self::Bottleneck {
                source,
                reduce,
                spatial,
                restore,
                addend,
                out,
            } => {
                let mut output = take(*out);
                let block = kernels::Bottleneck {
                    reduce,
                    spatial,
                    restore,
                };
                let addend = addend.map(|tensor| tape.data(tensor));
                let source = tape.source(plan, *source);
                kernels::bottleneck(cpu, source, block, addend, &mut output);
                tape.tensors[*out] = Some(output);
            }
            Self::Step(index, step) => {
                // Steps that are left have no parameters.
                executor.run(plan, &Parameters::default(), tape, *index, step, false);
            }
        }
    }
}
