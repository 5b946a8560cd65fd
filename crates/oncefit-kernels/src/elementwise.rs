//! Operations that read one or two stored tensors pixel by pixel.

use std::ops::Range;

use crate::cpu::{Cpu, Kernel};
use crate::parallel::{Parts, chunk_range, for_each_chunk, merge_sums};
use crate::rows::Prologue;
use crate::scratch::ScratchSums;
use crate::simd::Simd;
use crate::sums::PreActivation;
use crate::types::{Activation, ChannelSums, Shape, Source};

/// Rows that a chunk holds at least.
const CHUNK_ROWS: usize = 256;
/// Values of a tile that stays in the first-level cache between two passes over it.
const TILE_VALUES: usize = 4096;

/// Chunks of a pass over `rows` pixels: enough for many threads, not too small.
fn row_chunks(rows: usize) -> usize {
    (rows / CHUNK_ROWS).clamp(1, 64)
}

/// `output = value(source)`.
pub fn materialise(cpu: Cpu, source: Source, output: &mut [f32]) {
    source.check();
    assert_eq!(output.len(), source.data.len(), "materialise: output");
    let channels = source.shape.channels;
    let chunks = row_chunks(source.shape.rows());
    let parts = Parts::new(output);
    for_each_chunk(chunks, 4 * source.data.len(), |chunk| {
        let rows = chunk_range(source.shape.rows(), chunks, chunk);
        // SAFETY: chunks are disjoint ranges of rows.
        let output = unsafe { parts.part(rows.start * channels..rows.end * channels) };
        cpu.run(AddRows {
            left: source,
            right: None,
            rows,
            output,
        });
    });
}

/// `output = value(left) + value(right)`; neither may be gated.
pub fn add(cpu: Cpu, left: Source, right: Source, output: &mut [f32]) {
    left.check();
    right.check();
    assert_eq!(left.shape, right.shape, "add: shapes");
    assert!(
        left.gate.is_none() && right.gate.is_none(),
        "add: gated sources are not supported"
    );
    assert_eq!(output.len(), left.data.len(), "add: output");
    let channels = left.shape.channels;
    let chunks = row_chunks(left.shape.rows());
    let parts = Parts::new(output);
    for_each_chunk(chunks, 4 * left.data.len(), |chunk| {
        let rows = chunk_range(left.shape.rows(), chunks, chunk);
        // SAFETY: chunks are disjoint ranges of rows.
        let output = unsafe { parts.part(rows.start * channels..rows.end * channels) };
        cpu.run(AddRows {
            left,
            right: Some(right),
            rows,
            output,
        });
    });
}

/// `output = act(x)`, for tensors without batch-norm.
pub fn activate(cpu: Cpu, x: &[f32], activation: Activation, output: &mut [f32]) {
    materialise(cpu, values(x, activation), output);
}

/// `gradient ·= act'(x)`.
pub fn activate_backward_in_place(
    cpu: Cpu,
    x: &[f32],
    activation: Activation,
    gradient: &mut [f32],
) {
    activation_backward_in_place(cpu, values(x, activation), gradient, None);
}

/// Values as a tensor of one channel.
fn values(x: &[f32], activation: Activation) -> Source<'_> {
    let shape = Shape {
        images: 1,
        height: 1,
        width: x.len(),
        channels: 1,
    };
    Source {
        activation,
        ..Source::plain(x, shape)
    }
}

/// `dz = gradient · act'(scale·x + shift)` and, where asked for, Σdz and Σdz·x.
pub fn activation_backward(
    cpu: Cpu,
    source: Source,
    gradient: &[f32],
    dz: &mut [f32],
    sums: Option<&mut ChannelSums>,
) {
    assert_eq!(gradient.len(), dz.len(), "activation_backward: gradient");
    backward(cpu, source, Some(gradient), dz, sums);
}

/// As [`activation_backward`], the gradient becoming `dz`.
pub fn activation_backward_in_place(
    cpu: Cpu,
    source: Source,
    gradient: &mut [f32],
    sums: Option<&mut ChannelSums>,
) {
    backward(cpu, source, None, gradient, sums);
}

fn backward(
    cpu: Cpu,
    source: Source,
    from: Option<&[f32]>,
    gradient: &mut [f32],
    sums: Option<&mut ChannelSums>,
) {
    source.check();
    assert!(
        source.gate.is_none(),
        "activation_backward: gated sources have their own kernel"
    );
    assert_eq!(
        gradient.len(),
        source.data.len(),
        "activation_backward: gradient"
    );
    let shape = source.shape;
    let chunks = row_chunks(shape.rows());
    let mut partial = ScratchSums::zeros(chunks * 2 * shape.channels);
    let (parts, partials) = (Parts::new(gradient), Parts::new(&mut partial));
    for_each_chunk(chunks, 6 * source.data.len(), |chunk| {
        let rows = chunk_range(shape.rows(), chunks, chunk);
        // SAFETY: chunks are disjoint ranges of rows and of partial sums.
        let (gradient, sums) = unsafe {
            (
                parts.part(rows.start * shape.channels..rows.end * shape.channels),
                partials.part(chunk * 2 * shape.channels..(chunk + 1) * 2 * shape.channels),
            )
        };
        cpu.run(BackwardRows {
            source,
            rows,
            from,
            gradient,
            sums,
        });
    });
    if let Some(sums) = sums {
        merge_sums(&partial, sums);
    }
}

/// Ranges of rows of about [`TILE_VALUES`] values.
fn tiles(rows: Range<usize>, channels: usize) -> impl Iterator<Item = Range<usize>> {
    let size = (TILE_VALUES / channels.max(1)).max(1);
    rows.clone()
        .step_by(size)
        .map(move |start| start..rows.end.min(start + size))
}

struct AddRows<'a> {
    left: Source<'a>,
    right: Option<Source<'a>>,
    rows: Range<usize>,
    output: &'a mut [f32],
}

impl Kernel for AddRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self {
            left,
            right,
            rows,
            output,
        } = self;
        let channels = left.shape.channels;
        let mut left = Prologue::new(simd, left);
        let Some(right) = right else {
            left.load(simd, rows, output);
            return;
        };
        let mut right = Prologue::new(simd, right);
        for tile in tiles(rows.clone(), channels) {
            let values = (tile.start - rows.start) * channels..(tile.end - rows.start) * channels;
            let output = &mut output[values];
            left.load(simd, tile.clone(), output);
            right.add(simd, tile, output);
        }
    }
}

struct BackwardRows<'a> {
    source: Source<'a>,
    rows: Range<usize>,
    /// The gradient of values, where it is not already in `gradient`.
    from: Option<&'a [f32]>,
    gradient: &'a mut [f32],
    sums: &'a mut [f64],
}

impl Kernel for BackwardRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self {
            source,
            rows,
            from,
            gradient,
            sums,
        } = self;
        let channels = source.shape.channels;
        let mut pass = PreActivation::new(simd, source);
        for tile in tiles(rows.clone(), channels) {
            let values = (tile.start - rows.start) * channels..(tile.end - rows.start) * channels;
            let gradient = &mut gradient[values];
            if let Some(from) = from {
                gradient.copy_from_slice(&from[tile.start * channels..tile.end * channels]);
            }
            pass.run(simd, tile, gradient, sums);
        }
    }
}
