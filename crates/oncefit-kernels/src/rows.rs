//! Passes over whole rows of pixels, as one run of values.
//!
//! Coefficients of channels are repeated until they fill a whole number of vectors; a row of 24
//! channels and vectors of 16 lanes give a period of 96 values, for example. Every vector but the
//! last is then full, whatever the number of channels.

use std::ops::Range;

use crate::activation::{Function, Pass, specialise};
use crate::scratch::Scratch;
use crate::simd::Simd;
use crate::types::{OutputGradient, Source};

/// Vectors of a period at least, so that sums of neighbouring vectors do not wait for each other.
const PERIOD_VECTORS: usize = 4;

/// Values after which both channels and vectors begin anew.
pub(crate) fn period(channels: usize, lanes: usize) -> usize {
    let (mut divisor, mut rest) = (channels, lanes);
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    let common = channels / divisor * lanes;
    common * (PERIOD_VECTORS * lanes).div_ceil(common)
}

/// One period of the values of channels; of `otherwise` where there are none.
pub(crate) fn repeated(values: Option<&[f32]>, otherwise: f32, period: usize) -> Scratch {
    let mut to = Scratch::take(period);
    match values {
        Some(values) => repeat(values, &mut to),
        None => to.fill(otherwise),
    }
    to
}

fn repeat(values: &[f32], to: &mut [f32]) {
    to.chunks_exact_mut(values.len())
        .for_each(|to| to.copy_from_slice(values));
}

/// Reads rows of a source through its batch-norm, activation and gate.
pub(crate) struct Prologue<'a> {
    source: Source<'a>,
    scale: Scratch,
    shift: Scratch,
    /// Empty where there is none.
    gate: Scratch,
}

impl<'a> Prologue<'a> {
    pub fn new<S: Simd>(_: S, source: Source<'a>) -> Self {
        let period = period(source.shape.channels, S::LANES);
        Self {
            source,
            scale: repeated(source.affine.map(|affine| affine.scale), 1.0, period),
            shift: repeated(source.affine.map(|affine| affine.shift), 0.0, period),
            gate: Scratch::take(if source.gate.is_some() { period } else { 0 }),
        }
    }

    /// `to = value(rows)`
    #[inline(always)]
    pub fn load<S: Simd>(&mut self, simd: S, rows: Range<usize>, to: &mut [f32]) {
        self.pass::<S, false>(simd, rows, to);
    }

    /// `to += value(rows)`
    #[inline(always)]
    pub fn add<S: Simd>(&mut self, simd: S, rows: Range<usize>, to: &mut [f32]) {
        self.pass::<S, true>(simd, rows, to);
    }

    #[inline(always)]
    fn pass<S: Simd, const ADDS: bool>(&mut self, simd: S, rows: Range<usize>, to: &mut [f32]) {
        let shape = self.source.shape;
        let (channels, pixels) = (shape.channels, shape.height * shape.width);
        let mut row = rows.start;
        while row < rows.end {
            let image = row / pixels;
            let end = match self.source.gate {
                Some(gate) => {
                    repeat(
                        &gate[image * channels..(image + 1) * channels],
                        &mut self.gate,
                    );
                    rows.end.min((image + 1) * pixels)
                }
                None => rows.end,
            };
            let pass = LoadRows::<ADDS> {
                from: &self.source.data[row * channels..end * channels],
                scale: &self.scale,
                shift: &self.shift,
                gate: &self.gate,
                to: &mut to[(row - rows.start) * channels..(end - rows.start) * channels],
            };
            specialise(simd, self.source.activation, pass);
            row = end;
        }
    }
}

struct LoadRows<'a, const ADDS: bool> {
    from: &'a [f32],
    /// One period each; the gate may be empty.
    scale: &'a [f32],
    shift: &'a [f32],
    gate: &'a [f32],
    to: &'a mut [f32],
}

impl<S: Simd, const ADDS: bool> Pass<S> for LoadRows<'_, ADDS> {
    #[inline(always)]
    fn run<F: Function>(self, simd: S) {
        if self.gate.is_empty() {
            self.load::<S, F, false>(simd);
        } else {
            self.load::<S, F, true>(simd);
        }
    }
}

impl<const ADDS: bool> LoadRows<'_, ADDS> {
    #[inline(always)]
    fn load<S: Simd, F: Function, const GATED: bool>(mut self, simd: S) {
        let (length, period) = (self.from.len(), self.scale.len());
        assert_eq!(self.to.len(), length);
        assert!(self.shift.len() == period && (!GATED || self.gate.len() == period));
        let mut start = 0;
        while start < length {
            let end = length.min(start + period);
            let mut at = start;
            // SAFETY: `at` lies below the length, and its place in the period below the period.
            unsafe {
                while at + S::LANES <= end {
                    self.vector::<S, F, GATED>(simd, at, at - start, S::LANES);
                    at += S::LANES;
                }
                if at < end {
                    self.vector::<S, F, GATED>(simd, at, at - start, end - at);
                }
            }
            start = end;
        }
    }

    /// # Safety
    /// `count` values lie from `at` on, a vector of coefficients from `place` on.
    #[inline(always)]
    unsafe fn vector<S: Simd, F: Function, const GATED: bool>(
        &mut self,
        simd: S,
        at: usize,
        place: usize,
        count: usize,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let x = simd.load_some(self.from.as_ptr().add(at), count);
            let scale = simd.load(self.scale.as_ptr().add(place));
            let shift = simd.load(self.shift.as_ptr().add(place));
            let mut value = F::value(simd, simd.fma(x, scale, shift));
            if GATED {
                value = simd.mul(value, simd.load(self.gate.as_ptr().add(place)));
            }
            let to = self.to.as_mut_ptr().add(at);
            if ADDS {
                value = simd.add(simd.load_some(to, count), value);
            }
            simd.store_some(to, count, value);
        }
    }
}

/// Forms rows of `a·dz + b·y + c`.
pub(crate) struct GradientRows<'a> {
    gradient: OutputGradient<'a>,
    channels: usize,
    a: Scratch,
    b: Scratch,
    c: Scratch,
}

impl<'a> GradientRows<'a> {
    pub fn new<S: Simd>(_: S, gradient: OutputGradient<'a>, channels: usize) -> Self {
        let period = if gradient.batch_norm.is_some() {
            period(channels, S::LANES)
        } else {
            0
        };
        let norm = gradient.batch_norm;
        Self {
            gradient,
            channels,
            a: repeated(norm.map(|norm| norm.a), 1.0, period),
            b: repeated(norm.map(|norm| norm.b), 0.0, period),
            c: repeated(norm.map(|norm| norm.c), 0.0, period),
        }
    }

    /// The rows: dz's own memory where there is no batch-norm.
    #[inline(always)]
    pub fn load<'s, S: Simd>(
        &'s self,
        simd: S,
        rows: Range<usize>,
        scratch: &'s mut [f32],
    ) -> &'s [f32] {
        let values = rows.start * self.channels..rows.end * self.channels;
        let dz = &self.gradient.dz[values.clone()];
        let Some(norm) = self.gradient.batch_norm else {
            return dz;
        };
        let y = &norm.y[values];
        let (length, period) = (dz.len(), self.a.len());
        let scratch = &mut scratch[..length];
        let mut start = 0;
        while start < length {
            let end = length.min(start + period);
            let mut at = start;
            while at < end {
                let count = S::LANES.min(end - at);
                let place = at - start;
                // SAFETY: `at` lies below the length, and its place in the period below the period.
                unsafe {
                    let dz = simd.load_some(dz.as_ptr().add(at), count);
                    let y = simd.load_some(y.as_ptr().add(at), count);
                    let a = simd.load(self.a.as_ptr().add(place));
                    let b = simd.load(self.b.as_ptr().add(place));
                    let c = simd.load(self.c.as_ptr().add(place));
                    let dy = simd.fma(dz, a, simd.fma(y, b, c));
                    simd.store_some(scratch.as_mut_ptr().add(at), count, dy);
                }
                at += S::LANES;
            }
            start = end;
        }
        scratch
    }
}
