//! Operations that read one or two stored tensors pixel by pixel.

use std::ops::Range;

use crate::cpu::{Cpu, Kernel};
use crate::parallel::{Parts, chunk_range, for_each_chunk, merge_sums};
use crate::simd::Simd;
use crate::types::{Activation, Affine, ChannelSums, Source};

/// Rows that a chunk holds at least.
const CHUNK_ROWS: usize = 256;

/// Chunks of a pass over `rows` pixels: enough for many threads, not too small.
pub(crate) fn row_chunks(rows: usize) -> usize {
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
        cpu.run(LoadRows {
            source,
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
            right,
            rows,
            output,
        });
    });
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
    dz.copy_from_slice(gradient);
    activation_backward_in_place(cpu, source, dz, sums);
}

/// As [`activation_backward`], the gradient becoming `dz`.
pub fn activation_backward_in_place(
    cpu: Cpu,
    source: Source,
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
    let mut partial = vec![0.0f64; chunks * 2 * shape.channels];
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
        let data = &source.data[rows.start * shape.channels..rows.end * shape.channels];
        let (affine, activation) = (source.affine, source.activation);
        cpu.run(PreActivationRows {
            data,
            affine,
            activation,
            gradient,
            sums,
        });
    });
    if let Some(sums) = sums {
        merge_sums(&partial, sums);
    }
}

/// Loads rows of a source into `output`, row distance = channels.
pub(crate) struct LoadRows<'a> {
    pub source: Source<'a>,
    pub rows: Range<usize>,
    pub output: &'a mut [f32],
}

impl Kernel for LoadRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        load_rows(simd, self.source, self.rows, self.output);
    }
}

/// One vector of channels of an affine: (scale, shift), or (1, 0).
///
/// # Safety
/// `first + count` is at most the number of channels.
#[inline(always)]
pub(crate) unsafe fn load_affine<S: Simd>(
    simd: S,
    affine: Option<Affine>,
    first: usize,
    count: usize,
) -> (S::V, S::V) {
    match affine {
        // SAFETY: the caller's.
        Some(Affine { scale, shift }) => unsafe {
            (
                simd.load_some(scale.as_ptr().add(first), count),
                simd.load_some(shift.as_ptr().add(first), count),
            )
        },
        None => (simd.splat(1.0), simd.zero()),
    }
}

#[inline(always)]
pub(crate) fn load_rows<S: Simd>(simd: S, source: Source, rows: Range<usize>, output: &mut [f32]) {
    let channels = source.shape.channels;
    let pixels = source.shape.height * source.shape.width;
    assert!(rows.end <= source.shape.rows() && output.len() >= rows.len() * channels);
    let mut first = 0;
    while first < channels {
        let count = S::LANES.min(channels - first);
        // SAFETY: rows and channels lie in source, affine, gate and output, as checked.
        unsafe {
            let (scale, shift) = load_affine(simd, source.affine, first, count);
            let mut from = source.data.as_ptr().add(rows.start * channels + first);
            let mut to = output.as_mut_ptr().add(first);
            for row in rows.clone() {
                let x = simd.load_some(from, count);
                let z = if source.affine.is_some() {
                    simd.fma(x, scale, shift)
                } else {
                    x
                };
                let mut value = simd.activate(source.activation, z);
                if let Some(gate) = source.gate {
                    let gate = gate.as_ptr().add(row / pixels * channels + first);
                    value = simd.mul(value, simd.load_some(gate, count));
                }
                simd.store_some(to, count, value);
                from = from.add(channels);
                to = to.add(channels);
            }
        }
        first += S::LANES;
    }
}

struct AddRows<'a> {
    left: Source<'a>,
    right: Source<'a>,
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
        assert!(rows.end <= left.shape.rows() && output.len() >= rows.len() * channels);
        let mut first = 0;
        while first < channels {
            let count = S::LANES.min(channels - first);
            // SAFETY: rows and channels lie in both sources and the output, as checked.
            unsafe {
                let (left_scale, left_shift) = load_affine(simd, left.affine, first, count);
                let (right_scale, right_shift) = load_affine(simd, right.affine, first, count);
                for (index, row) in rows.clone().enumerate() {
                    let at = row * channels + first;
                    let x = simd.load_some(left.data.as_ptr().add(at), count);
                    let y = simd.load_some(right.data.as_ptr().add(at), count);
                    let x = simd.activate(left.activation, simd.fma(x, left_scale, left_shift));
                    let y = simd.activate(right.activation, simd.fma(y, right_scale, right_shift));
                    let to = output.as_mut_ptr().add(index * channels + first);
                    simd.store_some(to, count, simd.add(x, y));
                }
            }
            first += S::LANES;
        }
    }
}

/// `gradient ·= act'(scale·x + shift)`; adds Σdz and Σdz·x to `sums` (first all of one, then all
/// of the other).
pub(crate) struct PreActivationRows<'a> {
    pub data: &'a [f32],
    pub affine: Option<Affine<'a>>,
    pub activation: Activation,
    pub gradient: &'a mut [f32],
    pub sums: &'a mut [f64],
}

impl Kernel for PreActivationRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        pre_activation_rows(simd, self);
    }
}

#[inline(always)]
pub(crate) fn pre_activation_rows<S: Simd>(simd: S, pass: PreActivationRows) {
    let PreActivationRows {
        data,
        affine,
        activation,
        gradient,
        sums,
    } = pass;
    let channels = sums.len() / 2;
    assert_eq!(data.len(), gradient.len());
    let rows = data.len() / channels;
    let mut first = 0;
    while first < channels {
        let count = S::LANES.min(channels - first);
        let (mut sum, mut product) = (simd.zero(), simd.zero());
        // SAFETY: rows and channels lie in data, affine and gradient.
        unsafe {
            let (scale, shift) = load_affine(simd, affine, first, count);
            for row in 0..rows {
                let at = row * channels + first;
                let x = simd.load_some(data.as_ptr().add(at), count);
                let z = simd.fma(x, scale, shift);
                let to = gradient.as_mut_ptr().add(at);
                let dz = simd.activation_gradient(activation, z, simd.load_some(to, count));
                simd.store_some(to, count, dz);
                sum = simd.add(sum, dz);
                product = simd.fma(dz, x, product);
            }
        }
        add_lanes(simd, sum, &mut sums[first..first + count]);
        add_lanes(
            simd,
            product,
            &mut sums[channels + first..channels + first + count],
        );
        first += S::LANES;
    }
}

/// Adds the first lanes of a vector to f64 sums.
#[inline(always)]
pub(crate) fn add_lanes<S: Simd>(simd: S, vector: S::V, sums: &mut [f64]) {
    let mut lanes = [0.0f32; 16];
    // SAFETY: no instruction set has more than 16 lanes.
    unsafe { simd.store(lanes.as_mut_ptr(), vector) };
    for (sum, lane) in sums.iter_mut().zip(lanes) {
        *sum += f64::from(lane);
    }
}
