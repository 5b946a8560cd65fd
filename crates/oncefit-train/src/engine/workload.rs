//! How the work of a training is spread over its steps.

use crate::error::Result;
use crate::schedule::Schedule;

/// Train-MACs for one image up to each of some steps, from the schedule alone.
#[derive(Clone, Debug)]
pub(super) struct Workload {
    steps: u64,
    /// At `i · steps / (len − 1)`; between them the work is taken as even.
    cumulative: Vec<f64>,
}

/// How many steps stand for all.
const SAMPLES: u64 = 128;

impl Workload {
    /// The plan of a schedule of `steps` steps.
    pub fn new(schedule: &Schedule, seed: u64, steps: u64, steps_per_epoch: u64) -> Result<Self> {
        let samples = SAMPLES.min(steps.max(1));
        let mut cumulative = vec![0.0];
        for sample in 0..samples {
            let step = (2 * sample + 1) * steps / (2 * samples);
            let place = schedule.place(step, steps_per_epoch);
            let phase = &schedule.phases[place.phase];
            let macs = phase.step_macs(seed, step, place.epoch)? as f64;
            let before = cumulative[sample as usize];
            cumulative.push(before + macs * steps as f64 / samples as f64);
        }
        Ok(Self { steps, cumulative })
    }

    /// Train-MACs for one image of all steps.
    pub fn total(&self) -> f64 {
        self.cumulative[self.cumulative.len() - 1]
    }

    /// The share of the work that is done after `step` steps.
    pub fn share(&self, step: u64) -> f64 {
        let place = step as f64 / self.steps.max(1) as f64 * (self.cumulative.len() - 1) as f64;
        let (index, rest) = (place.floor() as usize, place.fract());
        let at = |index: usize| self.cumulative[index.min(self.cumulative.len() - 1)];
        (at(index) + rest * (at(index + 1) - at(index))) / self.total()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_the_cost_of_the_steps() {
        let text = "[space]\nfamily = \"fm-nano\"\nfix = { resolution = [28] }";
        let recipe = crate::Recipe::parse(text, "r").unwrap();
        let schedule = recipe
            .build_schedule(&recipe.build_space(1, 10).unwrap())
            .unwrap();
        let workload = Workload::new(&schedule, 0, 2000, 100).unwrap();
        assert_eq!((workload.share(0), workload.share(2000)), (0.0, 1.0));
        // Half of the steps run the largest network alone; later ones cost more.
        let alone = 3.0
            * recipe
                .build_space(1, 10)
                .unwrap()
                .largest()
                .unwrap()
                .graph()
                .macs() as f64;
        let half = workload.share(900) * workload.total();
        assert!((half / (900.0 * alone) - 1.0).abs() < 0.02, "{half}");
        assert!(workload.share(1000) < 0.4);
        assert!(workload.share(1500) > workload.share(1499));
    }
}
