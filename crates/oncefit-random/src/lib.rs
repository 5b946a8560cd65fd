//! Random draws that are functions of their address.
//!
//! A draw is addressed by (seed, purpose, step, index): the four numbers are the key of a
//! ChaCha8 generator, so no generator state is ever stored. Resuming a run, changing the number
//! of threads or spreading the work over processes cannot change what is drawn.
//!
//! The distributions are written out here because those of the `rand` crates may change between
//! versions; golden values in the tests pin them.
//!
//! ```
//! use oncefit_random::Draws;
//! let a = Draws::new(7, "augmentation", 3, 11).next_u32();
//! let b = Draws::new(7, "augmentation", 3, 11).next_u32();
//! assert_eq!(a, b);
//! assert_ne!(a, Draws::new(7, "augmentation", 3, 12).next_u32());
//! ```

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// FNV-1a, 64 bits: the fixed hash used wherever a short name must become a number that is the
/// same in every process and version.
pub fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The draws at one address.
#[derive(Clone, Debug)]
pub struct Draws {
    generator: ChaCha8Rng,
}

impl Draws {
    /// The draws of `purpose` at (`step`, `index`) under `seed`.
    pub fn new(seed: u64, purpose: &str, step: u64, index: u64) -> Self {
        let mut key = [0u8; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&fnv1a64(purpose.as_bytes()).to_le_bytes());
        key[16..24].copy_from_slice(&step.to_le_bytes());
        key[24..].copy_from_slice(&index.to_le_bytes());
        Self {
            generator: ChaCha8Rng::from_seed(key),
        }
    }

    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        self.generator.next_u32()
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.generator.next_u64()
    }

    /// A uniform integer in `0..bound`, without bias.
    ///
    /// # Panics
    /// If `bound` is 0: there is nothing to draw from.
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "cannot draw an integer below 0");
        let bound = bound as u64;
        // Rejecting the incomplete last interval keeps every value equally likely.
        let limit = u64::MAX - u64::MAX % bound;
        loop {
            let draw = self.next_u64();
            if draw < limit {
                return (draw % bound) as usize;
            }
        }
    }

    /// A uniform number in `[0, 1)` with 24 random bits.
    pub fn unit_f32(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 / (1u32 << 24) as f32
    }

    /// A uniform number in `[0, 1)` with 53 random bits.
    pub fn unit_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A uniform number in `[low, high)`.
    pub fn uniform_f32(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit_f32()
    }

    /// True with probability `probability`.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit_f64() < probability
    }

    /// A normal number with mean 0 and standard deviation 1 (Box–Muller; one value a call).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit_f64()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit_f64()).cos()
    }

    /// A gamma number of the given shape and scale 1 (Marsaglia and Tsang 2000).
    ///
    /// # Panics
    /// If `shape` is not above 0.
    pub fn gamma(&mut self, shape: f64) -> f64 {
        assert!(shape > 0.0, "the shape of a gamma distribution is above 0");
        if shape < 1.0 {
            // A gamma of shape + 1 times a uniform number to the power of 1/shape.
            let uniform = 1.0 - self.unit_f64();
            return self.gamma(shape + 1.0) * uniform.powf(1.0 / shape);
        }
        let base = shape - 1.0 / 3.0;
        let spread = 1.0 / (9.0 * base).sqrt();
        loop {
            let normal = self.normal();
            let cube = (1.0 + spread * normal).powi(3);
            let uniform = 1.0 - self.unit_f64();
            let accepts = cube > 0.0
                && uniform.ln() < 0.5 * normal * normal + base * (1.0 - cube + cube.ln());
            if accepts {
                return base * cube;
            }
        }
    }

    /// A beta number, in `[0, 1]`.
    pub fn beta(&mut self, first: f64, second: f64) -> f64 {
        let (first, second) = (self.gamma(first), self.gamma(second));
        // Both can be too small for a float; then the mean is as good as any.
        match first + second > 0.0 {
            true => first / (first + second),
            false => 0.5,
        }
    }

    /// Shuffles `items` uniformly (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// An element of `items`, or `None` if there is none.
    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() {
            None
        } else {
            Some(&items[self.below(items.len())])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv1a64_has_its_published_values() {
        assert_eq!(fnv1a64(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a64(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a64(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn golden_values_pin_generator_and_distributions() {
        let mut draws = Draws::new(1, "golden", 2, 3);
        let got = format!(
            "{} {} {} {:.6} {:.6} {:.6}",
            draws.next_u32(),
            draws.next_u64(),
            draws.below(1000),
            draws.unit_f32(),
            draws.unit_f64(),
            draws.normal()
        );
        let mut order: Vec<u32> = (0..8).collect();
        draws.shuffle(&mut order);
        assert_eq!(got, GOLDEN);
        assert_eq!(order, GOLDEN_ORDER);
    }
    const GOLDEN: &str = "2052184555 10045323410594894023 996 0.249449 0.996481 -0.671433";
    const GOLDEN_ORDER: [u32; 8] = [1, 3, 7, 5, 6, 0, 4, 2];

    #[test]
    fn each_part_of_the_address_matters() {
        let base = Draws::new(1, "a", 2, 3).next_u64();
        for other in [
            Draws::new(0, "a", 2, 3),
            Draws::new(1, "b", 2, 3),
            Draws::new(1, "a", 0, 3),
            Draws::new(1, "a", 2, 0),
        ] {
            assert_ne!(base, other.clone().next_u64());
        }
    }

    #[test]
    fn below_is_uniform_by_chi_square() {
        let mut draws = Draws::new(5, "chi-square", 0, 0);
        let (cells, total) = (7, 70_000);
        let mut counts = vec![0f64; cells];
        for _ in 0..total {
            counts[draws.below(cells)] += 1.0;
        }
        let expected = total as f64 / cells as f64;
        let chi_square: f64 = counts
            .iter()
            .map(|c| (c - expected).powi(2) / expected)
            .sum();
        // 99.9 % quantile of chi-square with 6 degrees of freedom.
        assert!(chi_square < 22.46, "chi-square {chi_square}");
    }

    #[test]
    fn normal_has_mean_zero_and_variance_one() {
        let mut draws = Draws::new(6, "normal", 0, 0);
        let values: Vec<f64> = (0..100_000).map(|_| draws.normal()).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
        assert!(
            mean.abs() < 0.015 && (variance - 1.0).abs() < 0.02,
            "{mean} {variance}"
        );
    }

    #[test]
    fn gamma_and_beta_have_their_moments() {
        let count = 20_000;
        let moments = |draw: &dyn Fn(u64) -> f64| {
            let values: Vec<f64> = (0..count).map(draw).collect();
            let mean = values.iter().sum::<f64>() / count as f64;
            let squares = values.iter().map(|value| (value - mean).powi(2));
            (mean, squares.sum::<f64>() / count as f64)
        };
        for shape in [0.2, 1.0, 3.5] {
            // Mean and variance of a gamma distribution are its shape.
            let (mean, variance) =
                moments(&|index| Draws::new(1, "test gamma", 0, index).gamma(shape));
            assert!(
                (mean - shape).abs() < 0.05 * shape + 0.01,
                "{shape}: {mean}"
            );
            assert!(
                (variance - shape).abs() < 0.1 * shape + 0.01,
                "{shape}: {variance}"
            );
            // β(a, a): mean ½, variance 1 / (4·(2a + 1)).
            let (mean, variance) =
                moments(&|index| Draws::new(2, "test beta", 0, index).beta(shape, shape));
            assert!((mean - 0.5).abs() < 0.01, "{shape}: {mean}");
            let expected = 0.25 / (2.0 * shape + 1.0);
            assert!(
                (variance - expected).abs() < 0.05 * expected,
                "{shape}: {variance}"
            );
        }
    }
}
