//! Smaller depthwise kernels out of larger ones (Once-for-All §3.3).
//!
//! ```text
//! w_to[j, c] = Σ_i M[j, i] · centre(w_from)[i, c]
//! ```
//!
//! Kernels are `[taps][channels]`; the matrix is shared by all channels.

use crate::cpu::Cpu;

/// The tap of the larger kernel at tap `index` of its centre.
fn centre_tap(from: usize, to: usize, index: usize) -> usize {
    let start = from / 2 - to / 2;
    (start + index / to) * from + start + index % to
}

fn check(
    from: usize,
    to: usize,
    channels: usize,
    larger: usize,
    smaller: usize,
    matrix: Option<usize>,
) {
    assert!(
        to <= from && (from - to).is_multiple_of(2),
        "kernel_transform: {from} to {to}"
    );
    assert_eq!(
        larger,
        from * from * channels,
        "kernel_transform: larger kernel"
    );
    assert_eq!(
        smaller,
        to * to * channels,
        "kernel_transform: smaller kernel"
    );
    assert!(
        matrix.is_none_or(|length| length == to.pow(4)),
        "kernel_transform: matrix"
    );
}

/// The centre of the first `active` channels of a kernel that stores `stored` of them:
/// `[from²][stored]` to `[to²][active]`.
pub fn crop_center(
    kernel: &[f32],
    from: usize,
    to: usize,
    stored: usize,
    active: usize,
    out: &mut [f32],
) {
    assert!(
        to <= from && (from - to).is_multiple_of(2) && 0 < active && active <= stored,
        "crop_center: {from} to {to}, {active} of {stored} channels"
    );
    assert_eq!(kernel.len(), from * from * stored, "crop_center: kernel");
    assert_eq!(out.len(), to * to * active, "crop_center: out");
    for (index, out) in out.chunks_exact_mut(active).enumerate() {
        let at = centre_tap(from, to, index) * stored;
        out.copy_from_slice(&kernel[at..at + active]);
    }
}

/// Makes the `to`×`to` kernel; without a matrix it is the plain centre.
pub fn kernel_transform_forward(
    _cpu: Cpu,
    kernel: &[f32],
    from: usize,
    to: usize,
    channels: usize,
    matrix: Option<&[f32]>,
    smaller: &mut [f32],
) {
    check(
        from,
        to,
        channels,
        kernel.len(),
        smaller.len(),
        matrix.map(<[f32]>::len),
    );
    let taps = to * to;
    for (j, out) in smaller.chunks_exact_mut(channels.max(1)).enumerate() {
        match matrix {
            None => out.copy_from_slice(&kernel[centre_tap(from, to, j) * channels..][..channels]),
            Some(matrix) => {
                out.fill(0.0);
                for i in 0..taps {
                    let source = &kernel[centre_tap(from, to, i) * channels..][..channels];
                    let factor = matrix[j * taps + i];
                    out.iter_mut()
                        .zip(source)
                        .for_each(|(sum, value)| *sum += factor * value);
                }
            }
        }
    }
}

/// Adds the gradients of the larger kernel and of the matrix, given that of the smaller kernel.
#[allow(
    clippy::too_many_arguments,
    reason = "the operands of one formula and their gradients"
)]
pub fn kernel_transform_backward(
    _cpu: Cpu,
    kernel: &[f32],
    from: usize,
    to: usize,
    channels: usize,
    matrix: Option<&[f32]>,
    smaller_gradient: &[f32],
    kernel_gradient: &mut [f32],
    matrix_gradient: Option<&mut [f32]>,
) {
    check(
        from,
        to,
        channels,
        kernel.len(),
        smaller_gradient.len(),
        matrix.map(<[f32]>::len),
    );
    assert_eq!(
        kernel_gradient.len(),
        kernel.len(),
        "kernel_transform: gradient"
    );
    let taps = to * to;
    let gradients = || smaller_gradient.chunks_exact(channels.max(1)).enumerate();
    for (j, gradient) in gradients() {
        for i in 0..taps {
            let factor = match matrix {
                Some(matrix) => matrix[j * taps + i],
                None if i == j => 1.0,
                None => continue,
            };
            let target = &mut kernel_gradient[centre_tap(from, to, i) * channels..][..channels];
            target
                .iter_mut()
                .zip(gradient)
                .for_each(|(sum, value)| *sum += factor * value);
        }
    }
    if let Some(matrix_gradient) = matrix_gradient {
        assert_eq!(
            matrix_gradient.len(),
            taps * taps,
            "kernel_transform: matrix gradient"
        );
        for (j, gradient) in gradients() {
            for i in 0..taps {
                let source = &kernel[centre_tap(from, to, i) * channels..][..channels];
                let dot: f32 = source
                    .iter()
                    .zip(gradient)
                    .map(|(left, right)| left * right)
                    .sum();
                matrix_gradient[j * taps + i] += dot;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, salt: f32) -> Vec<f32> {
        (0..count)
            .map(|index| ((index as f32 + salt) * 0.7).sin())
            .collect()
    }

    #[test]
    fn the_identity_gives_the_exact_centre() {
        let channels = 3;
        let kernel = values(49 * channels, 0.0);
        let identity: Vec<f32> = (0..625)
            .map(|index| if index % 26 == 0 { 1.0 } else { 0.0 })
            .collect();
        let (mut plain, mut transformed) = (vec![0.0; 25 * channels], vec![9.0; 25 * channels]);
        let cpu = Cpu::detect();
        kernel_transform_forward(cpu, &kernel, 7, 5, channels, None, &mut plain);
        kernel_transform_forward(
            cpu,
            &kernel,
            7,
            5,
            channels,
            Some(&identity),
            &mut transformed,
        );
        assert_eq!(plain, transformed);
        assert_eq!(
            plain[..channels],
            kernel[8 * channels..9 * channels],
            "row 1, column 1 of 7×7"
        );
    }

    #[test]
    fn the_centre_of_fewer_channels_is_the_centre_of_the_slice() {
        let kernel = values(49 * 5, 0.0);
        let slice: Vec<f32> = kernel
            .chunks_exact(5)
            .flat_map(|tap| tap[..3].to_vec())
            .collect();
        let (mut found, mut expected) = (vec![0.0; 9 * 3], vec![0.0; 9 * 3]);
        crop_center(&kernel, 7, 3, 5, 3, &mut found);
        kernel_transform_forward(Cpu::detect(), &slice, 7, 3, 3, None, &mut expected);
        assert_eq!(found, expected);
    }

    #[test]
    fn gradients_are_finite_differences() {
        let (from, to, channels) = (5, 3, 2);
        let (kernel, matrix) = (values(25 * channels, 0.0), values(81, 5.0));
        let weights = values(9 * channels, 9.0);
        let cpu = Cpu::detect();
        let loss = |kernel: &[f32], matrix: &[f32]| -> f64 {
            let mut smaller = vec![0.0; 9 * channels];
            kernel_transform_forward(cpu, kernel, from, to, channels, Some(matrix), &mut smaller);
            smaller
                .iter()
                .zip(&weights)
                .map(|(w, g)| f64::from(*w) * f64::from(*g))
                .sum()
        };
        let (mut dkernel, mut dmatrix) = (vec![0.0; kernel.len()], vec![0.0; 81]);
        kernel_transform_backward(
            cpu,
            &kernel,
            from,
            to,
            channels,
            Some(&matrix),
            &weights,
            &mut dkernel,
            Some(&mut dmatrix),
        );
        let moved = |values: &[f32], index: usize, by: f32| {
            let mut moved = values.to_vec();
            moved[index] += by;
            moved
        };
        // The function is linear in each operand, so a large step is exact but for rounding.
        for (index, found) in dkernel.iter().enumerate() {
            let expected = loss(&moved(&kernel, index, 0.5), &matrix)
                - loss(&moved(&kernel, index, -0.5), &matrix);
            assert!(
                (f64::from(*found) - expected).abs() < 1e-4,
                "kernel {index}"
            );
        }
        for (index, found) in dmatrix.iter().enumerate() {
            let expected = loss(&kernel, &moved(&matrix, index, 0.5))
                - loss(&kernel, &moved(&matrix, index, -0.5));
            assert!(
                (f64::from(*found) - expected).abs() < 1e-4,
                "matrix {index}"
            );
        }
    }
}
