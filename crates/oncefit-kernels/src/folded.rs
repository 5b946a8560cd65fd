//! Layers and blocks of inference: batch-norm is in the weights, activations and sums of residuals are
//! applied while a layer's sums are in registers, and what is stored is read as it is.
//!
//! A block runs several layers over a band of rows or over some channels at a time, so that the tensor
//! between them stays in cache. It is the equal of its composition: every sum runs in the same order, so
//! the bits are the same, for any number of threads.

mod blocks;
mod convolution;
mod depthwise;
mod product;

pub use blocks::{Bottleneck, InvertedResidual, bottleneck, expanded_depthwise, inverted_residual};
pub use convolution::{FoldedConvolution, folded_convolution};
pub use depthwise::{FoldedDepthwise, folded_depthwise};

use std::ops::Range;

use crate::parallel::is_alone;
use crate::rows::Prologue;
use crate::scratch::Scratch;
use crate::simd::Simd;
use crate::types::Source;

/// Parts that work is cut into: one if this thread is alone with it, else a few for each thread, of
/// `least` items at least. What is computed does not depend on it.
pub(crate) fn parts(items: usize, least: usize) -> usize {
    const PER_THREAD: usize = 3;
    let threads = if is_alone() {
        1
    } else {
        rayon::current_num_threads()
    };
    match threads {
        1 => 1,
        _ => (items / least.max(1)).clamp(1, PER_THREAD * threads),
    }
}

/// Values of a vector on `cpu`, which layers are laid out for.
pub(crate) use crate::convolution::lanes;

/// Pixels of a source as its reader wants them: the source's own memory where it is read as stored.
pub(crate) struct Pixels<'a> {
    source: Source<'a>,
    prologue: Prologue<'a>,
    scratch: Scratch,
}

impl<'a> Pixels<'a> {
    #[inline(always)]
    pub fn new<S: Simd>(simd: S, source: Source<'a>) -> Self {
        Self {
            source,
            prologue: Prologue::new(simd, source),
            scratch: Scratch::take(0),
        }
    }

    #[inline(always)]
    pub fn load<S: Simd>(&mut self, simd: S, pixels: Range<usize>) -> &[f32] {
        let channels = self.source.shape.channels;
        let values = pixels.start * channels..pixels.end * channels;
        if self.source.is_plain() {
            return &self.source.data[values];
        }
        if self.scratch.len() < values.len() {
            self.scratch = Scratch::take(values.len());
        }
        let scratch = &mut self.scratch[..values.len()];
        self.prologue.load(simd, pixels, scratch);
        scratch
    }

    /// The pixels to a place of their own.
    #[inline(always)]
    pub fn copy<S: Simd>(&mut self, simd: S, pixels: Range<usize>, to: &mut [f32]) {
        let channels = self.source.shape.channels;
        if self.source.is_plain() {
            to.copy_from_slice(&self.source.data[pixels.start * channels..pixels.end * channels]);
        } else {
            self.prologue.load(simd, pixels, to);
        }
    }
}
