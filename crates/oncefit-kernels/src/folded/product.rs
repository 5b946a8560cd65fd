//! The product of inference: rows that may lie anywhere, sums that are finished in registers.
//!
//! ```text
//! out = act(A·B + bias + addend)
//! ```
//!
//! A row of `A` is some runs of neighbouring values: one for a pixel of a 1×1 convolution, `k` for the
//! window of a `k×k` one in padded rows, which therefore needs no copy of its own. Every sum starts at
//! the bias and goes through its products in one order, by fused multiply-adds, whatever blocks of
//! rows, columns and depth it is cut into: all ways of cutting give the same bits.

use std::marker::PhantomData;
use std::ops::Range;

use crate::activation::{Function, Pass, specialise};
use crate::cpu::{Cpu, Kernel};
use crate::simd::Simd;
use crate::types::Activation;

/// Where rows begin.
#[derive(Clone, Copy)]
pub(crate) enum Starts<'a> {
    /// At multiples of a distance.
    Every(usize),
    /// At these places.
    At(&'a [u32]),
}

impl Starts<'_> {
    /// # Safety
    /// A list must have such a row.
    #[inline(always)]
    unsafe fn of(&self, row: usize) -> usize {
        match self {
            Self::Every(distance) => row * distance,
            // SAFETY: the caller's.
            Self::At(starts) => unsafe { *starts.get_unchecked(row) as usize },
        }
    }

    /// The last of the places where `rows` rows begin.
    fn last(&self, rows: usize) -> usize {
        match self {
            Self::Every(distance) => (rows - 1) * distance,
            Self::At(starts) => starts[..rows].iter().max().map_or(0, |last| *last as usize),
        }
    }
}

/// The values of a row of `A`.
#[derive(Clone, Copy)]
pub(crate) struct Runs {
    pub count: usize,
    pub length: usize,
    /// Between the beginnings of runs.
    pub step: usize,
}

impl Runs {
    pub fn one(length: usize) -> Self {
        Self {
            count: 1,
            length,
            step: length,
        }
    }

    fn depth(&self) -> usize {
        self.count * self.length
    }
}

/// The operands of [`multiply_finish`].
pub(crate) struct Product<'a> {
    pub a: &'a [f32],
    pub starts: Starts<'a>,
    pub rows: usize,
    pub runs: Runs,
    /// Packed, from the first of these columns and of this depth on.
    pub b: &'a [f32],
    /// Values between panels of `b`.
    pub panel: usize,
    /// Of whole panels.
    pub bias: &'a [f32],
    /// Columns.
    pub n: usize,
    /// Whether sums start at the bias, or at what lies in the output.
    pub is_first: bool,
    /// What is done with complete sums; `None` where more of the depth follows.
    pub finish: Option<Finish<'a>>,
}

/// What is done with complete sums.
#[derive(Clone, Copy)]
pub(crate) struct Finish<'a> {
    pub activation: Activation,
    /// Laid out like the output; added before the activation.
    pub addend: Option<&'a [f32]>,
}

/// Where the product goes.
pub(crate) struct Target<'a> {
    values: *mut f32,
    length: usize,
    starts: Starts<'a>,
    /// Values between vectors of columns.
    panel: usize,
    life: PhantomData<&'a mut [f32]>,
}

impl<'a> Target<'a> {
    /// Vectors of columns, `panel` values apart: side by side, or in planes.
    pub fn of(values: &'a mut [f32], starts: Starts<'a>, panel: usize) -> Self {
        // SAFETY: borrowed mutably for as long as the target lives.
        unsafe { Self::new(values.as_mut_ptr(), values.len(), starts, panel) }
    }

    /// # Safety
    /// Nobody else may use what the product writes, for as long as the target lives.
    pub unsafe fn new(values: *mut f32, length: usize, starts: Starts<'a>, panel: usize) -> Self {
        Self {
            values,
            length,
            starts,
            panel,
            life: PhantomData,
        }
    }
}

/// Depth after which a product begins anew, with the sums so far as start values: three panels of
/// `B` this deep stay in the first-level cache while the rows of a tile go by.
const DEPTH: usize = 256;
/// Values of a `B` that is asked for ahead of its use: smaller ones stay in the second-level cache.
const FAR: usize = 1 << 16;

/// Rows of a tile, whose operands stay in cache while the panels of `B` go by: of about 64 KB, or of
/// most of a second-level cache where `B`, which each tile reads, does not fit beside them.
pub(crate) fn tile_rows(depth: usize, n: usize) -> usize {
    let values = if depth * n > 1 << 17 { 196_608 } else { 16_384 };
    (values / (depth + n)).clamp(48, 240) / 48 * 48
}

/// Computes a product. It is compiled once for each instruction set, whoever calls it.
pub(crate) fn multiply_finish(cpu: Cpu, product: &Product, target: &Target) {
    if product.rows > 0 && product.n > 0 {
        cpu.run(Multiplication { product, target });
    }
}

struct Multiplication<'a> {
    product: &'a Product<'a>,
    target: &'a Target<'a>,
}

impl Kernel for Multiplication<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (p, target) = (self.product, self.target);
        self.check(S::LANES);
        let depth = p.runs.depth();
        let panels = p.n.div_ceil(S::LANES);
        let tile = tile_rows(depth, p.n);
        let mut start = 0;
        while start < p.rows {
            let end = p.rows.min(start + tile);
            let mut panel = 0;
            while panel < panels {
                let vectors = match panels - panel {
                    1 => 1,
                    2 | 4 => 2,
                    _ => S::MOST_VECTORS,
                };
                match (vectors, depth * p.n > FAR) {
                    (1, false) => panel_rows::<S, 1, false>(simd, p, start..end, panel, target),
                    (2, false) => panel_rows::<S, 2, false>(simd, p, start..end, panel, target),
                    (_, false) => panel_rows::<S, 3, false>(simd, p, start..end, panel, target),
                    (1, true) => panel_rows::<S, 1, true>(simd, p, start..end, panel, target),
                    (2, true) => panel_rows::<S, 2, true>(simd, p, start..end, panel, target),
                    (_, true) => panel_rows::<S, 3, true>(simd, p, start..end, panel, target),
                }
                panel += vectors;
            }
            start = end;
        }
    }
}

impl Multiplication<'_> {
    /// Whether the operands hold all rows and columns.
    fn check(&self, lanes: usize) {
        let (p, target) = (self.product, self.target);
        let depth = p.runs.depth();
        assert!(depth > 0, "product: depth");
        let panels = p.n.div_ceil(lanes);
        let row_end = (p.runs.count - 1) * p.runs.step + p.runs.length;
        assert!(p.a.len() >= p.starts.last(p.rows) + row_end, "product: A");
        assert!(
            p.b.len() >= (panels - 1) * p.panel + depth * lanes,
            "product: B"
        );
        assert!(p.bias.len() >= panels * lanes, "product: bias");
        let columns_end = (panels - 1) * target.panel + p.n - (panels - 1) * lanes;
        let end = target.starts.last(p.rows) + columns_end;
        assert!(target.length >= end, "product: output");
        if let Some(Finish {
            addend: Some(addend),
            ..
        }) = p.finish
        {
            assert!(addend.len() >= end, "product: addend");
        }
    }
}

/// Some of the depth: `count` runs of `length` values, from `place` in a row and from `depth` on.
struct Piece {
    place: usize,
    depth: usize,
    count: usize,
    length: usize,
}

impl Piece {
    fn depth_end(&self) -> usize {
        self.depth + self.count * self.length
    }

    /// The piece from `depth` on: whole runs, or a part of a long one.
    fn at(runs: &Runs, depth: usize) -> Self {
        let (run, within) = (depth / runs.length, depth % runs.length);
        let place = run * runs.step + within;
        if runs.length >= 2 * DEPTH {
            let left = runs.length - within;
            let length = if left < 2 * DEPTH { left } else { DEPTH };
            return Self {
                place,
                depth,
                count: 1,
                length,
            };
        }
        let most = (DEPTH / runs.length).max(1);
        let left = runs.count - run;
        Self {
            place,
            depth,
            count: if left < 2 * most { left } else { most },
            length: runs.length,
        }
    }
}

#[inline(always)]
fn panel_rows<S: Simd, const NV: usize, const AHEAD: bool>(
    simd: S,
    p: &Product,
    tile: Range<usize>,
    panel: usize,
    target: &Target,
) {
    let depth = p.runs.depth();
    let mut start = 0;
    loop {
        let piece = Piece::at(&p.runs, start);
        let mut row = tile.start;
        while row < tile.end {
            let left = tile.end - row;
            let block = Block {
                piece: &piece,
                tile: &tile,
                row,
                panel,
            };
            // SAFETY: the operands hold these rows and panels, as checked.
            row += unsafe {
                if const { S::BLOCK_ROWS[NV - 1] >= 12 } && left >= 12 {
                    block.run::<S, 12, NV, AHEAD>(simd, p, target)
                } else if const { S::BLOCK_ROWS[NV - 1] >= 8 } && left >= 8 {
                    block.run::<S, 8, NV, AHEAD>(simd, p, target)
                } else if const { S::BLOCK_ROWS[NV - 1] >= 6 } && left >= 6 {
                    block.run::<S, 6, NV, AHEAD>(simd, p, target)
                } else if left >= 4 {
                    block.run::<S, 4, NV, AHEAD>(simd, p, target)
                } else if left >= 2 {
                    block.run::<S, 2, NV, AHEAD>(simd, p, target)
                } else {
                    block.run::<S, 1, NV, AHEAD>(simd, p, target)
                }
            };
        }
        start = piece.depth_end();
        if start == depth {
            return;
        }
    }
}

/// Some rows and vectors of columns.
struct Block<'a> {
    piece: &'a Piece,
    tile: &'a Range<usize>,
    row: usize,
    panel: usize,
}

impl Block<'_> {
    /// Adds the products of a piece of the depth; returns the number of rows. With `AHEAD`, the blocks
    /// of all rows of a tile together ask for the part of `B` that is read next.
    ///
    /// # Safety
    /// The operands hold the rows, panels and depth.
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize, const NV: usize, const AHEAD: bool>(
        &self,
        simd: S,
        p: &Product,
        target: &Target,
    ) -> usize {
        let Self {
            piece, tile, row, ..
        } = *self;
        let lanes = S::LANES;
        let first = self.panel * lanes;
        let last_count = lanes.min(p.n - first - (NV - 1) * lanes);
        let count = |vector: usize| if vector + 1 == NV { last_count } else { lanes };
        let mut sums = [[simd.zero(); NV]; MR];
        // SAFETY: the caller's promise; the last vector is loaded and stored only where it has columns.
        unsafe {
            let mut places = [0; MR];
            let mut from = [p.a.as_ptr(); MR];
            for (index, (place, from)) in places.iter_mut().zip(&mut from).enumerate() {
                *place = target.starts.of(row + index) + self.panel * target.panel;
                *from = from.add(p.starts.of(row + index) + piece.place);
            }
            if piece.depth > 0 || !p.is_first {
                for (index, sum) in sums.iter_mut().enumerate() {
                    for (vector, value) in sum.iter_mut().enumerate() {
                        let at = target.values.add(places[index] + vector * target.panel);
                        *value = simd.load_some(at, count(vector));
                    }
                }
            } else {
                for vector in 0..NV {
                    let start = simd.load(p.bias.as_ptr().add(first + vector * lanes));
                    for sum in &mut sums {
                        sum[vector] = start;
                    }
                }
            }
            let b = p.b.as_ptr().add(self.panel * p.panel);
            let next = match piece.depth_end() == p.runs.depth() {
                true => b.wrapping_add(NV * p.panel),
                false => b.add(piece.depth_end() * lanes),
            };
            let rows = tile.len();
            let share = piece.count * piece.length * (row - tile.start) / rows;
            let mut next = next.wrapping_add(share * lanes);
            let share = lanes * MR / rows.max(MR);
            let mut b = b.add(piece.depth * lanes);
            for _ in 0..piece.count {
                for k in 0..piece.length {
                    if AHEAD {
                        for vector in 0..NV {
                            simd.ask_for(next.wrapping_add(vector * p.panel));
                        }
                        next = next.wrapping_add(share);
                    }
                    let mut columns = [simd.zero(); NV];
                    for (vector, column) in columns.iter_mut().enumerate() {
                        *column = simd.load(b.add(vector * p.panel));
                    }
                    b = b.add(lanes);
                    for (from, sum) in from.iter().zip(&mut sums) {
                        let value = simd.splat(*from.add(k));
                        for vector in 0..NV {
                            sum[vector] = simd.fma(value, columns[vector], sum[vector]);
                        }
                    }
                }
                for from in &mut from {
                    *from = from.wrapping_add(p.runs.step);
                }
            }
            if piece.depth_end() == p.runs.depth()
                && let Some(finish) = p.finish
            {
                if let Some(addend) = finish.addend {
                    for (index, sum) in sums.iter_mut().enumerate() {
                        for (vector, value) in sum.iter_mut().enumerate() {
                            let at = places[index] + vector * target.panel;
                            let more = simd.load_some(addend.as_ptr().add(at), count(vector));
                            *value = simd.add(*value, more);
                        }
                    }
                }
                activate_all(simd, finish.activation, sums.as_flattened_mut());
            }
            for (index, sum) in sums.iter().enumerate() {
                for (vector, value) in sum.iter().enumerate() {
                    let at = target.values.add(places[index] + vector * target.panel);
                    simd.store_some(at, count(vector), *value);
                }
            }
        }
        MR
    }
}

/// Applies an activation to some vectors.
#[inline(always)]
pub(crate) fn activate_all<S: Simd>(simd: S, activation: Activation, values: &mut [S::V]) {
    specialise(simd, activation, ActivateAll(values));
}

struct ActivateAll<'a, V>(&'a mut [V]);

impl<S: Simd> Pass<S> for ActivateAll<'_, S::V> {
    #[inline(always)]
    fn run<F: Function>(self, simd: S) {
        if F::ACTIVATION != Activation::Identity {
            for value in self.0 {
                *value = F::value(simd, *value);
            }
        }
    }
}
