//! CPU kernels for elastic convolutional networks: f32, channels-last, sliced weights.
//!
//! A training step stores only the raw outputs of convolutions. Batch-norm, activation and gate of
//! a tensor are applied by its consumer while it loads ([`Source`]), batch-norm's sums are taken by
//! its producer while it stores ([`ChannelSums`]), and the backward pass of batch-norm,
//! `dy = a·dz + b·y + c` per channel, is formed on load too ([`OutputGradient`]).
//!
//! Every kernel takes the processor ([`Cpu`]) as a value and gives the same bits for any number of
//! threads: work is cut into chunks whose borders follow from the shapes alone, and partial sums
//! are merged in order. A sliced weight gives the same bits as a compact copy of the slice.
//! Plain loops beside the kernels ([`mod@reference`]) say what each must compute.
//!
//! Lengths are checked on entry; a mismatch is a bug of the caller and panics.

mod activation;
mod allocations;
mod batch_norm;
mod columns;
mod convolution;
mod cpu;
mod depthwise;
mod elementwise;
mod folded;
mod gemm;
mod int8;
mod kernel_transform;
mod loss;
mod optimiser;
mod parallel;
mod peak;
mod pooling;
pub mod reference;
mod rows;
mod scratch;
mod simd;
mod sums;
mod team;
mod tiles;
mod types;
mod window_pooling;

pub use allocations::NotingAllocator;
pub use batch_norm::{
    BatchNormBackward, batch_norm_affine, batch_norm_backward, batch_norm_statistics,
};
pub use convolution::{ForwardWeight, PackedWeight, convolution_backward, convolution_forward};
pub use cpu::{Cpu, InstructionSet};
pub use depthwise::{depthwise_backward, depthwise_forward};
pub use elementwise::{
    activate, activate_backward_in_place, activation_backward, activation_backward_in_place, add,
    materialise,
};
pub use folded::{
    Bottleneck, FoldedConvolution, FoldedDepthwise, InvertedResidual, bottleneck,
    expanded_depthwise, folded_convolution, folded_depthwise, inverted_residual,
};
pub use int8::{
    LayerFinish, Quantisation, QuantisedConvolution, QuantisedDepthwise, QuantisedGate,
    QuantisedOutput, QuantisedTensor, dequantise, quantise, quantised_add, quantised_average_pool,
    quantised_convolution, quantised_depthwise, quantised_global_average_pool, quantised_map,
    quantised_max_pool,
};
pub use kernel_transform::{crop_center, kernel_transform_backward, kernel_transform_forward};
pub use loss::{AlphaDivergence, Target, softmax, softmax_cross_entropy};
pub use optimiser::{AdamStep, RmsPropStep, SgdStep, adam_step, rms_prop_step, sgd_step};
pub use parallel::{in_pool, on_one_thread};
pub use peak::peak_operations_per_second;
pub use pooling::{
    gate_gradient, gated_backward_in_place, global_average_pool, global_average_pool_backward,
};
pub use team::in_team;
pub use types::{
    Activation, Affine, BatchNormGradient, ChannelSums, ConvWeight, InputGradient, OutputGradient,
    Shape, Source, Window,
};
pub use window_pooling::{
    PoolWindow, average_pool, average_pool_backward, max_pool, max_pool_backward,
};
