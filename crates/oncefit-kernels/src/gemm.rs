//! Register-blocked products of a small tile with packed weights.
//!
//! Both products work on a tile of rows that lies in cache: `out = A·B` with `B` packed in panels
//! of one vector, and `out += Gᵀ·A` for weight gradients. Each element is summed in a fixed order,
//! whatever the leading dimensions are.

use std::ops::Range;

use crate::parallel::{Parts, for_each_chunk};
use crate::simd::Simd;

/// `B[k][n]` (element at `k·k_stride + n·n_stride`) in panels of `lanes` columns, the last one
/// filled up with zeros: `[panel][k][lane]`.
pub(crate) fn pack(
    from: &[f32],
    (k, k_stride): (usize, usize),
    (n, n_stride): (usize, usize),
    lanes: usize,
    to: &mut [f32],
) {
    /// Panels of a part.
    const PART: usize = 4;
    let panels = n.div_ceil(lanes);
    let parts = panels.div_ceil(PART);
    let length = packed_len(k, n, lanes);
    let to = Parts::new(&mut to[..length]);
    for_each_chunk(parts, length, |part| {
        for panel in part * PART..panels.min((part + 1) * PART) {
            // SAFETY: panels are disjoint.
            let packed = unsafe { to.part(panel * k * lanes..(panel + 1) * k * lanes) };
            pack_panel(from, (k, k_stride), (n, n_stride), lanes, panel, packed);
        }
    });
}

/// One panel of [`pack`].
fn pack_panel(
    from: &[f32],
    (k, k_stride): (usize, usize),
    (n, n_stride): (usize, usize),
    lanes: usize,
    panel: usize,
    packed: &mut [f32],
) {
    let first = panel * lanes;
    let columns = lanes.min(n - first);
    if columns < lanes {
        packed.fill(0.0);
    }
    let from = &from[first * n_stride..];
    if n_stride == 1 {
        for (row, values) in packed.chunks_exact_mut(lanes).enumerate() {
            values[..columns].copy_from_slice(&from[row * k_stride..][..columns]);
        }
    } else if k_stride == 1 {
        transpose(from, n_stride, columns, k, lanes, packed);
    } else {
        for (row, values) in packed.chunks_exact_mut(lanes).enumerate() {
            for (lane, value) in values[..columns].iter_mut().enumerate() {
                *value = from[row * k_stride + lane * n_stride];
            }
        }
    }
}

/// Column `lane` of `to` (row distance `lanes`) is row `lane` of `from` (row distance `stride`).
/// Goes through the rows in short pieces, so that what is written stays in cache.
fn transpose(
    from: &[f32],
    stride: usize,
    rows: usize,
    length: usize,
    lanes: usize,
    to: &mut [f32],
) {
    const PIECE: usize = 16;
    for start in (0..length).step_by(PIECE) {
        let piece = PIECE.min(length - start);
        let to = &mut to[start * lanes..(start + piece) * lanes];
        for row in 0..rows {
            let from = &from[row * stride + start..][..piece];
            for (values, value) in to.chunks_exact_mut(lanes).zip(from) {
                values[row] = *value;
            }
        }
    }
}

/// Values that [`pack`] writes.
pub(crate) fn packed_len(k: usize, n: usize, lanes: usize) -> usize {
    n.div_ceil(lanes) * lanes * k
}

/// The operands of [`multiply`].
pub(crate) struct Multiply<'a> {
    /// `rows × k`, row distance `lda`.
    pub a: &'a [f32],
    pub lda: usize,
    /// Packed `k × n`.
    pub b: &'a [f32],
    /// Start values of each row: `n`, or zeros.
    pub bias: Option<&'a [f32]>,
    pub rows: usize,
    pub k: usize,
    pub n: usize,
}

/// Depth of a product after which it begins anew, with the sums so far as start values: three panels of
/// `B` this deep stay in the first-level cache while all rows go by.
const DEPTH: usize = 256;

/// Values of a `B` that is asked for ahead of its use: smaller ones stay in the second-level cache.
const FAR: usize = 1 << 16;

/// `out[rows × n] = A·B + bias`, row distance of `out` is `ldo`.
#[inline(always)]
pub(crate) fn multiply<S: Simd>(simd: S, m: &Multiply, out: &mut [f32], ldo: usize) {
    if m.rows == 0 || m.n == 0 {
        return;
    }
    assert!(
        m.k == 0 || m.a.len() >= (m.rows - 1) * m.lda + m.k,
        "multiply: A"
    );
    assert!(m.b.len() >= packed_len(m.k, m.n, S::LANES), "multiply: B");
    assert!(out.len() >= (m.rows - 1) * ldo + m.n, "multiply: out");
    let panels = m.n.div_ceil(S::LANES);
    let mut panel = 0;
    while panel < panels {
        let vectors = S::MOST_VECTORS.min(panels - panel);
        match (vectors, m.k * m.n > FAR) {
            (1, false) => panel_rows::<S, 1, false>(simd, m, panel, out, ldo),
            (2, false) => panel_rows::<S, 2, false>(simd, m, panel, out, ldo),
            (_, false) => panel_rows::<S, 3, false>(simd, m, panel, out, ldo),
            (1, true) => panel_rows::<S, 1, true>(simd, m, panel, out, ldo),
            (2, true) => panel_rows::<S, 2, true>(simd, m, panel, out, ldo),
            (_, true) => panel_rows::<S, 3, true>(simd, m, panel, out, ldo),
        }
        panel += vectors;
    }
}

#[inline(always)]
fn panel_rows<S: Simd, const NV: usize, const AHEAD: bool>(
    simd: S,
    m: &Multiply,
    panel: usize,
    out: &mut [f32],
    ldo: usize,
) {
    let mut start = 0;
    loop {
        let end = if m.k - start < 2 * DEPTH {
            m.k
        } else {
            start + DEPTH
        };
        let mut row = 0;
        while row < m.rows {
            let left = m.rows - row;
            let depth = start..end;
            // SAFETY: the operands hold these rows and panels, as checked.
            row += unsafe {
                if const { S::BLOCK_ROWS[NV - 1] == 16 } && left >= 16 {
                    multiply_block::<S, 16, NV, AHEAD>(simd, m, row, panel, depth, out, ldo)
                } else if const { S::BLOCK_ROWS[NV - 1] == 12 } && left >= 12 {
                    multiply_block::<S, 12, NV, AHEAD>(simd, m, row, panel, depth, out, ldo)
                } else if const { S::BLOCK_ROWS[NV - 1] == 8 } && left >= 8 {
                    multiply_block::<S, 8, NV, AHEAD>(simd, m, row, panel, depth, out, ldo)
                } else if const { S::BLOCK_ROWS[NV - 1] == 6 } && left >= 6 {
                    multiply_block::<S, 6, NV, AHEAD>(simd, m, row, panel, depth, out, ldo)
                } else if left >= 4 {
                    multiply_block::<S, 4, NV, AHEAD>(simd, m, row, panel, depth, out, ldo)
                } else {
                    multiply_block::<S, 1, NV, AHEAD>(simd, m, row, panel, depth, out, ldo)
                }
            };
        }
        start = end;
        if start == m.k {
            return;
        }
    }
}

/// A part of the depth of a block of a panel; returns the block's number of rows. With `AHEAD`, the
/// blocks of all rows together ask for the part of `B` that is read next.
///
/// # Safety
/// Rows `row..row + MR`, panels `panel..panel + NV` and `depth` lie in the operands.
#[inline(always)]
unsafe fn multiply_block<S: Simd, const MR: usize, const NV: usize, const AHEAD: bool>(
    simd: S,
    m: &Multiply,
    row: usize,
    panel: usize,
    depth: Range<usize>,
    out: &mut [f32],
    ldo: usize,
) -> usize {
    let lanes = S::LANES;
    let first = panel * lanes;
    let last_count = lanes.min(m.n - first - (NV - 1) * lanes);
    let count = |vector: usize| if vector + 1 == NV { last_count } else { lanes };
    let mut sums = [[simd.zero(); NV]; MR];
    // SAFETY: the caller's promise; the last vector is loaded and stored only where it has columns.
    unsafe {
        if depth.start > 0 {
            let out = out.as_ptr().add(row * ldo + first);
            for (index, sum) in sums.iter_mut().enumerate() {
                for (vector, value) in sum.iter_mut().enumerate() {
                    *value = simd.load_some(out.add(index * ldo + vector * lanes), count(vector));
                }
            }
        } else if let Some(bias) = m.bias {
            let bias = bias.as_ptr().add(first);
            for vector in 0..NV {
                let start = simd.load_some(bias.add(vector * lanes), count(vector));
                for sum in &mut sums {
                    sum[vector] = start;
                }
            }
        }
        let a = m.a.as_ptr().add(row * m.lda);
        let b = m.b.as_ptr().add(panel * m.k * lanes);
        let next = match depth.end == m.k {
            true => b.wrapping_add(NV * m.k * lanes),
            false => b.add(depth.end * lanes),
        };
        let mut next = next.wrapping_add(depth.len() * row / m.rows * lanes);
        let share = lanes * MR / m.rows.max(MR);
        for k in depth {
            if AHEAD {
                for vector in 0..NV {
                    simd.ask_for(next.wrapping_add(vector * m.k * lanes));
                }
                next = next.wrapping_add(share);
            }
            let mut columns = [simd.zero(); NV];
            for (vector, column) in columns.iter_mut().enumerate() {
                *column = simd.load(b.add((vector * m.k + k) * lanes));
            }
            for (index, sum) in sums.iter_mut().enumerate() {
                let value = simd.splat(*a.add(index * m.lda + k));
                for vector in 0..NV {
                    sum[vector] = simd.fma(value, columns[vector], sum[vector]);
                }
            }
        }
        let out = out.as_mut_ptr().add(row * ldo + first);
        for (index, sum) in sums.iter().enumerate() {
            for (vector, value) in sum.iter().enumerate() {
                simd.store_some(out.add(index * ldo + vector * lanes), count(vector), *value);
            }
        }
    }
    MR
}

/// The operands of [`multiply_transposed`].
pub(crate) struct MultiplyTransposed<'a> {
    /// `rows × n`, row distance `ldg`.
    pub g: &'a [f32],
    pub ldg: usize,
    /// `rows × k`, row distance `lda`.
    pub a: &'a [f32],
    pub lda: usize,
    pub rows: usize,
    pub n: usize,
    pub k: usize,
}

/// `out[n × k] += Gᵀ·A`, `out` contiguous.
#[inline(always)]
pub(crate) fn multiply_transposed<S: Simd>(simd: S, m: &MultiplyTransposed, out: &mut [f32]) {
    if m.rows == 0 || m.n == 0 || m.k == 0 {
        return;
    }
    assert!(
        m.g.len() >= (m.rows - 1) * m.ldg + m.n,
        "multiply_transposed: G"
    );
    assert!(
        m.a.len() >= (m.rows - 1) * m.lda + m.k,
        "multiply_transposed: A"
    );
    assert!(out.len() >= m.n * m.k, "multiply_transposed: out");
    let panels = m.k.div_ceil(S::LANES);
    let mut panel = 0;
    while panel < panels {
        let vectors = S::MOST_VECTORS.min(panels - panel);
        match vectors {
            1 => transposed_columns::<S, 1>(simd, m, panel, out),
            2 => transposed_columns::<S, 2>(simd, m, panel, out),
            _ => transposed_columns::<S, 3>(simd, m, panel, out),
        }
        panel += vectors;
    }
}

#[inline(always)]
fn transposed_columns<S: Simd, const NV: usize>(
    simd: S,
    m: &MultiplyTransposed,
    panel: usize,
    out: &mut [f32],
) {
    let mut row = 0;
    while row < m.n {
        let left = m.n - row;
        // SAFETY: the operands hold these rows and panels, as checked.
        row += unsafe {
            if const { S::BLOCK_ROWS[NV - 1] == 16 } && left >= 16 {
                transposed_block::<S, 16, NV>(simd, m, row, panel, out)
            } else if const { S::BLOCK_ROWS[NV - 1] == 12 } && left >= 12 {
                transposed_block::<S, 12, NV>(simd, m, row, panel, out)
            } else if const { S::BLOCK_ROWS[NV - 1] == 8 } && left >= 8 {
                transposed_block::<S, 8, NV>(simd, m, row, panel, out)
            } else if const { S::BLOCK_ROWS[NV - 1] == 6 } && left >= 6 {
                transposed_block::<S, 6, NV>(simd, m, row, panel, out)
            } else if left >= 4 {
                transposed_block::<S, 4, NV>(simd, m, row, panel, out)
            } else {
                transposed_block::<S, 1, NV>(simd, m, row, panel, out)
            }
        };
    }
}

/// A block of the sums; returns its number of rows.
///
/// # Safety
/// Rows `row..row + MR` of the output and panels `panel..panel + NV` lie in the operands.
#[inline(always)]
unsafe fn transposed_block<S: Simd, const MR: usize, const NV: usize>(
    simd: S,
    m: &MultiplyTransposed,
    row: usize,
    panel: usize,
    out: &mut [f32],
) -> usize {
    let lanes = S::LANES;
    let first = panel * lanes;
    let last_count = lanes.min(m.k - first - (NV - 1) * lanes);
    let count = |vector: usize| if vector + 1 == NV { last_count } else { lanes };
    let mut sums = [[simd.zero(); NV]; MR];
    // SAFETY: the caller's promise; the last vector is loaded and stored only where it has columns.
    unsafe {
        let out = out.as_mut_ptr().add(row * m.k + first);
        for (index, sum) in sums.iter_mut().enumerate() {
            for (vector, value) in sum.iter_mut().enumerate() {
                *value = simd.load_some(out.add(index * m.k + vector * lanes), count(vector));
            }
        }
        for sample in 0..m.rows {
            let a = m.a.as_ptr().add(sample * m.lda + first);
            let g = m.g.as_ptr().add(sample * m.ldg + row);
            let mut columns = [simd.zero(); NV];
            for (vector, column) in columns.iter_mut().enumerate() {
                *column = simd.load_some(a.add(vector * lanes), count(vector));
            }
            for (index, sum) in sums.iter_mut().enumerate() {
                let value = simd.splat(*g.add(index));
                for vector in 0..NV {
                    sum[vector] = simd.fma(value, columns[vector], sum[vector]);
                }
            }
        }
        for (index, sum) in sums.iter().enumerate() {
            for (vector, value) in sum.iter().enumerate() {
                simd.store_some(out.add(index * m.k + vector * lanes), count(vector), *value);
            }
        }
    }
    MR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_panels_hold_the_matrix_and_zeros() {
        let values: Vec<f32> = (1..=40 * 40).map(|value| value as f32).collect();
        for lanes in [4, 8, 16] {
            for (k, n) in [(1, 1), (16, 8), (37, 13), (33, 40), (5, 6)] {
                for (k_stride, n_stride) in [(1, 40), (40, 1), (3, 1), (2, 3)] {
                    if (k - 1) * k_stride + (n - 1) * n_stride >= values.len() {
                        continue;
                    }
                    let mut packed = vec![-1.0; packed_len(k, n, lanes)];
                    let matrix = ((k, k_stride), (n, n_stride));
                    pack(&values, matrix.0, matrix.1, lanes, &mut packed);
                    for (at, found) in packed.iter().enumerate() {
                        let (panel, row, lane) = (at / (k * lanes), at / lanes % k, at % lanes);
                        let column = panel * lanes + lane;
                        let wanted = match column < n {
                            true => values[row * k_stride + column * n_stride],
                            false => 0.0,
                        };
                        assert_eq!(*found, wanted, "{k}x{n}, {lanes} lanes, [{at}]");
                    }
                }
            }
        }
    }
}
