//! Formula landscapes: objectives with known optima, for tests and comparisons.
//!
//! ```text
//! S stages, V widths, w_s = (i_s + 1)/V;  a_s ~ U(.02, .08), τ_s ~ U(.15, .5), c_s ~ U(.02, .06)
//! f = .95 − Σ a_s e^(−w_s/τ_s) − .03 Σ_{s≥1} max(0, w_s − 2 w_{s−1}) − Σ c_s w_s w_{s−1},  w_{−1} = .5
//! measured: f + N(0, .002²);  regret = (best − f) / (best − mean of the space)
//! ```
//!
//! They are ours: ordered widths, cheap, for tests of searchers and claim P3 of DeepArchitect.

use oncefit_random::Draws;
use oncefit_space::{Candidate, Space};

use crate::error::Result;

/// Standard deviation of a measurement.
const NOISE: f64 = 0.002;

/// An objective over ordered widths.
#[derive(Clone, Debug)]
pub struct Landscape {
    space: Space,
    widths: usize,
    /// a, τ and c of each stage.
    stages: Vec<[f64; 3]>,
    best: f64,
    mean: f64,
}

impl Landscape {
    /// The landscape of a seed. Every member is evaluated to know the best: keep `widths` to the
    /// power of `stages` below a million.
    ///
    /// # Errors
    /// If there is no stage or no width.
    pub fn new(stages: usize, widths: usize, seed: u64) -> Result<Self> {
        let text = format!(
            "space landscape\ninput(1, 1, 1)\nbody: repeat stages in ({stages}) {{\n  decide width in 1..={widths} step 1\n  conv(width)\n}}\n"
        );
        let space = Space::parse(&text, "landscape")?;
        let mut draws = Draws::new(seed, "landscape", 0, 0);
        let mut uniform = |low: f64, high: f64| low + (high - low) * draws.unit_f64();
        let stages = (0..stages)
            .map(|_| [uniform(0.02, 0.08), uniform(0.15, 0.5), uniform(0.02, 0.06)])
            .collect();
        let mut landscape = Self {
            space,
            widths,
            stages,
            best: f64::NEG_INFINITY,
            mean: 0.0,
        };
        let mut next = Some(landscape.space.candidate(|_, _| 0)?);
        let (mut sum, mut count) = (0.0, 0.0);
        while let Some(candidate) = next {
            let value = landscape.value(&candidate);
            landscape.best = landscape.best.max(value);
            sum += value;
            count += 1.0;
            next = landscape.space.next_candidate(&candidate)?;
        }
        landscape.mean = sum / count;
        Ok(landscape)
    }

    /// Its space.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// The true value of a member.
    pub fn value(&self, candidate: &Candidate) -> f64 {
        let mut value = 0.95;
        let mut before = 0.5;
        for (stage, [a, tau, c]) in self.stages.iter().enumerate() {
            let index = candidate.get(stage).unwrap_or(0);
            let width = (index + 1) as f64 / self.widths as f64;
            value -= a * (-width / tau).exp() + c * width * before;
            if stage > 0 {
                value -= 0.03 * (width - 2.0 * before).max(0.0);
            }
            before = width;
        }
        value
    }

    /// A noisy measurement; the same for the same member and seed.
    pub fn measure(&self, candidate: &Candidate, seed: u64) -> f64 {
        let bytes: Vec<u8> = candidate
            .positions()
            .iter()
            .flat_map(|index| index.to_le_bytes())
            .collect();
        let address = oncefit_random::fnv1a64(&bytes);
        self.value(candidate) + NOISE * Draws::new(seed, "measurement", address, 0).normal()
    }

    /// The normalised regret of a member: 0 for the best, 1 for the mean of the space.
    pub fn regret(&self, candidate: &Candidate) -> f64 {
        (self.best - self.value(candidate)) / (self.best - self.mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_regret_of_a_space_is_one_and_the_least_is_zero() {
        let landscape = Landscape::new(3, 5, 1).unwrap();
        let space = landscape.space();
        assert_eq!(space.count().unwrap(), 125u32.into());
        let mut next = Some(space.candidate(|_, _| 0).unwrap());
        let mut regrets = Vec::new();
        while let Some(candidate) = next {
            regrets.push(landscape.regret(&candidate));
            next = space.next_candidate(&candidate).unwrap();
        }
        assert!((regrets.iter().sum::<f64>() / 125.0 - 1.0).abs() < 1e-9);
        assert_eq!(regrets.iter().copied().fold(f64::INFINITY, f64::min), 0.0);
    }
}
