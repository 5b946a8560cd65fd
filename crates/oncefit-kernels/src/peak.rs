//! What the machine can do at most: multiply-adds on registers, with nothing to load or store.

use std::hint::black_box;
use std::time::Instant;

use crate::cpu::{Cpu, Kernel};
use crate::simd::Simd;

/// Floating-point operations (a multiply-add counts two) per second that all threads of the pool
/// together reach on registers: the median of `rounds` measurements of some 10 ms.
///
/// It is what the machine gives *now*; other programs and the clock's changes make it less.
pub fn peak_operations_per_second(cpu: Cpu, rounds: usize) -> f64 {
    const STEPS: usize = 1 << 20;
    let mut rates: Vec<f64> = (0..rounds.max(1))
        .map(|_| {
            let started = Instant::now();
            let operations = rayon::broadcast(|_| cpu.run(MultiplyAdds { steps: STEPS }));
            let seconds = started.elapsed().as_secs_f64();
            operations.into_iter().sum::<usize>() as f64 / seconds
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

struct MultiplyAdds {
    steps: usize,
}

impl Kernel for MultiplyAdds {
    /// Operations done.
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> usize {
        /// Sums that do not wait for each other: latency times instructions of a cycle, and a few.
        const SUMS: usize = 12;
        let factor = simd.splat(black_box(0.5));
        let addend = simd.splat(black_box(1.0));
        let mut sums = [addend; SUMS];
        for _ in 0..self.steps {
            for sum in &mut sums {
                *sum = simd.fma(*sum, factor, addend);
            }
        }
        let mut lanes = [0.0f32; 16];
        for sum in sums {
            // SAFETY: no instruction set has more than 16 lanes.
            unsafe { simd.store(lanes.as_mut_ptr(), sum) };
            black_box(&lanes);
        }
        2 * self.steps * SUMS * S::LANES
    }
}
