//! Sums over whole rows of pixels, per channel: f32 in lanes within a tile, f64 across tiles.

use std::marker::PhantomData;
use std::ops::Range;

use crate::activation::{Function, Pass, specialise};
use crate::rows::{period, repeated};
use crate::scratch::Scratch;
use crate::simd::Simd;
use crate::types::Source;

/// Periods whose sums are taken in registers.
const UNROLLED: usize = 4;

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

/// Two f32 sums for each lane of a period, on their way to f64 sums of channels.
pub(crate) struct LaneSums {
    first: Scratch,
    second: Scratch,
    channels: usize,
}

impl LaneSums {
    pub fn new<S: Simd>(_: S, channels: usize) -> Self {
        let period = period(channels, S::LANES);
        Self {
            first: Scratch::zeros(period),
            second: Scratch::zeros(period),
            channels,
        }
    }

    /// Adds to the sums of channels, first all of one and then all of the other, and clears.
    pub fn flush(&mut self, sums: &mut [f64]) {
        let (first, second) = sums.split_at_mut(self.channels);
        for (lanes, sums) in [(&mut self.first, first), (&mut self.second, second)] {
            for row in lanes.chunks_exact(self.channels) {
                sums.iter_mut()
                    .zip(row)
                    .for_each(|(sum, lane)| *sum += f64::from(*lane));
            }
            lanes.fill(0.0);
        }
    }

    /// Adds Σ first and Σ first·second of `length` values from the start of a row on.
    ///
    /// # Safety
    /// `terms` can be taken at each of them.
    #[inline(always)]
    pub unsafe fn add<S: Simd>(&mut self, simd: S, length: usize, terms: &impl Terms<S>) {
        let period = self.first.len();
        let mut start = 0;
        // SAFETY: places lie below the period, positions below the length.
        unsafe {
            while start + UNROLLED * period <= length {
                let mut place = 0;
                while place < period {
                    self.vectors::<S, UNROLLED>(simd, start, place, S::LANES, terms);
                    place += S::LANES;
                }
                start += UNROLLED * period;
            }
            while start < length {
                let end = length.min(start + period);
                let mut at = start;
                while at + S::LANES <= end {
                    self.vectors::<S, 1>(simd, start, at - start, S::LANES, terms);
                    at += S::LANES;
                }
                if at < end {
                    self.vectors::<S, 1>(simd, start, at - start, end - at, terms);
                }
                start = end;
            }
        }
    }

    /// One vector of `N` periods.
    #[inline(always)]
    unsafe fn vectors<S: Simd, const N: usize>(
        &mut self,
        simd: S,
        start: usize,
        place: usize,
        count: usize,
        terms: &impl Terms<S>,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let (to_sum, to_product) = (
                self.first.as_mut_ptr().add(place),
                self.second.as_mut_ptr().add(place),
            );
            let (mut sum, mut product) = (simd.load(to_sum), simd.load(to_product));
            for index in 0..N {
                let at = start + index * self.first.len() + place;
                let (first, second) = terms.take(simd, at, place, count);
                sum = simd.add(sum, first);
                product = simd.fma(first, second, product);
            }
            simd.store(to_sum, sum);
            simd.store(to_product, product);
        }
    }
}

/// What is summed. `take` must be `#[inline(always)]`.
pub(crate) trait Terms<S: Simd> {
    /// Both factors of `count` values from `at` on, 0 in the other lanes; `place` is where they lie
    /// in the period.
    ///
    /// # Safety
    /// There must be such values.
    unsafe fn take(&self, simd: S, at: usize, place: usize, count: usize) -> (S::V, S::V);
}

/// Σy and Σy².
pub(crate) struct Squares<'a>(pub &'a [f32]);

impl<S: Simd> Terms<S> for Squares<'_> {
    #[inline(always)]
    unsafe fn take(&self, simd: S, at: usize, _: usize, count: usize) -> (S::V, S::V) {
        // SAFETY: the caller's.
        let y = unsafe { simd.load_some(self.0.as_ptr().add(at), count) };
        (y, y)
    }
}

/// Turns gradients of values into gradients before the activation, and sums them.
pub(crate) struct PreActivation<'a> {
    source: Source<'a>,
    scale: Scratch,
    shift: Scratch,
    sums: LaneSums,
}

impl<'a> PreActivation<'a> {
    /// Of a source that is read without its gate.
    pub fn new<S: Simd>(simd: S, source: Source<'a>) -> Self {
        let period = period(source.shape.channels, S::LANES);
        Self {
            source,
            scale: repeated(source.affine.map(|affine| affine.scale), 1.0, period),
            shift: repeated(source.affine.map(|affine| affine.shift), 0.0, period),
            sums: LaneSums::new(simd, source.shape.channels),
        }
    }

    /// `gradient ·= act'(scale·x + shift)`; adds Σdz and Σdz·x to `sums`.
    #[inline(always)]
    pub fn run<S: Simd>(
        &mut self,
        simd: S,
        rows: Range<usize>,
        gradient: &mut [f32],
        sums: &mut [f64],
    ) {
        self.pass::<S, false>(simd, rows, gradient, (&[], &[]), sums);
    }

    /// `gradient = (gradient·factor + addend) · act'(scale·x + shift)`, both per channel; adds Σdz
    /// and Σdz·x to `sums`.
    #[inline(always)]
    pub fn run_scaled<S: Simd>(
        &mut self,
        simd: S,
        rows: Range<usize>,
        gradient: &mut [f32],
        (factor, addend): (&[f32], &[f32]),
        sums: &mut [f64],
    ) {
        let period = self.scale.len();
        let factor = repeated(Some(factor), 0.0, period);
        let addend = repeated(Some(addend), 0.0, period);
        self.pass::<S, true>(simd, rows, gradient, (&factor, &addend), sums);
    }

    #[inline(always)]
    fn pass<S: Simd, const SCALED: bool>(
        &mut self,
        simd: S,
        rows: Range<usize>,
        gradient: &mut [f32],
        (factor, addend): (&[f32], &[f32]),
        sums: &mut [f64],
    ) {
        let channels = self.source.shape.channels;
        let data = &self.source.data[rows.start * channels..rows.end * channels];
        assert_eq!(gradient.len(), data.len());
        let pass = PreActivationPass::<SCALED> {
            data,
            gradient: gradient.as_mut_ptr(),
            scale: &self.scale,
            shift: &self.shift,
            factor,
            addend,
            sums: &mut self.sums,
        };
        specialise(simd, self.source.activation, pass);
        self.sums.flush(sums);
    }
}

struct PreActivationPass<'a, const SCALED: bool> {
    data: &'a [f32],
    /// As many values.
    gradient: *mut f32,
    /// One period each; the last two only if `SCALED`.
    scale: &'a [f32],
    shift: &'a [f32],
    factor: &'a [f32],
    addend: &'a [f32],
    sums: &'a mut LaneSums,
}

impl<S: Simd, const SCALED: bool> Pass<S> for PreActivationPass<'_, SCALED> {
    #[inline(always)]
    fn run<F: Function>(self, simd: S) {
        let Self {
            data,
            gradient,
            scale,
            shift,
            factor,
            addend,
            sums,
        } = self;
        let terms = PreActivationTerms::<F, SCALED> {
            data,
            gradient,
            scale,
            shift,
            factor,
            addend,
            function: PhantomData,
        };
        // SAFETY: data and gradient have the same length, the coefficients one period.
        unsafe { sums.add(simd, data.len(), &terms) };
    }
}

struct PreActivationTerms<'a, F, const SCALED: bool> {
    data: &'a [f32],
    gradient: *mut f32,
    scale: &'a [f32],
    shift: &'a [f32],
    factor: &'a [f32],
    addend: &'a [f32],
    function: PhantomData<F>,
}

impl<S: Simd, F: Function, const SCALED: bool> Terms<S> for PreActivationTerms<'_, F, SCALED> {
    #[inline(always)]
    unsafe fn take(&self, simd: S, at: usize, place: usize, count: usize) -> (S::V, S::V) {
        // SAFETY: the caller's.
        unsafe {
            let x = simd.load_some(self.data.as_ptr().add(at), count);
            let scale = simd.load(self.scale.as_ptr().add(place));
            let shift = simd.load(self.shift.as_ptr().add(place));
            let to = self.gradient.add(at);
            let mut gradient = simd.load_some(to, count);
            if SCALED {
                let factor = simd.load(self.factor.as_ptr().add(place));
                gradient = simd.fma(gradient, factor, simd.load(self.addend.as_ptr().add(place)));
            }
            let dz = F::gradient(simd, simd.fma(x, scale, shift), gradient);
            simd.store_some(to, count, dz);
            (simd.first_lanes(dz, count), x)
        }
    }
}

/// Sums values of a source, and their products with weights, over the pixels of an image.
pub(crate) struct ValueSums<'a> {
    source: Source<'a>,
    scale: Scratch,
    shift: Scratch,
    sums: LaneSums,
}

impl<'a> ValueSums<'a> {
    /// Of a source that is read without its gate.
    pub fn new<S: Simd>(simd: S, source: Source<'a>) -> Self {
        let PreActivation {
            source,
            scale,
            shift,
            sums,
        } = PreActivation::new(simd, source);
        Self {
            source,
            scale,
            shift,
            sums,
        }
    }

    /// Adds Σ value and Σ value·weight over an image to `sums`; `weights` are laid out like the
    /// source.
    #[inline(always)]
    pub fn add<S: Simd>(&mut self, simd: S, image: usize, weights: &[f32], sums: &mut [f64]) {
        let length = self.source.shape.len() / self.source.shape.images;
        let range = image * length..(image + 1) * length;
        let pass = ValuePass {
            data: &self.source.data[range.clone()],
            weights: &weights[range],
            scale: &self.scale,
            shift: &self.shift,
            sums: &mut self.sums,
        };
        specialise(simd, self.source.activation, pass);
        self.sums.flush(sums);
    }
}

struct ValuePass<'a> {
    data: &'a [f32],
    weights: &'a [f32],
    scale: &'a [f32],
    shift: &'a [f32],
    sums: &'a mut LaneSums,
}

impl<S: Simd> Pass<S> for ValuePass<'_> {
    #[inline(always)]
    fn run<F: Function>(self, simd: S) {
        let Self {
            data,
            weights,
            scale,
            shift,
            sums,
        } = self;
        let function = PhantomData::<F>;
        // SAFETY: data and weights have the same length, the coefficients one period.
        unsafe {
            sums.add(
                simd,
                data.len(),
                &ValueTerms {
                    data,
                    weights,
                    scale,
                    shift,
                    function,
                },
            )
        };
    }
}

struct ValueTerms<'a, F> {
    data: &'a [f32],
    weights: &'a [f32],
    scale: &'a [f32],
    shift: &'a [f32],
    function: PhantomData<F>,
}

impl<S: Simd, F: Function> Terms<S> for ValueTerms<'_, F> {
    #[inline(always)]
    unsafe fn take(&self, simd: S, at: usize, place: usize, count: usize) -> (S::V, S::V) {
        // SAFETY: the caller's.
        unsafe {
            let x = simd.load_some(self.data.as_ptr().add(at), count);
            let scale = simd.load(self.scale.as_ptr().add(place));
            let shift = simd.load(self.shift.as_ptr().add(place));
            let value = F::value(simd, simd.fma(x, scale, shift));
            let weight = simd.load_some(self.weights.as_ptr().add(at), count);
            (simd.first_lanes(value, count), weight)
        }
    }
}
