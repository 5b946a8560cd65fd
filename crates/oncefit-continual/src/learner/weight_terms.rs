//! Weight-space terms: importances, anchors, path integrals, penalties.

use super::*;

/// A quadratic form `½ Σ F (θ − θ*)²`.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Anchor {
    pub importance: Parameters,
    pub weights: Parameters,
}

impl Learner {
    /// Adds `β F (θ − θ*)` of every weight term.
    pub(super) fn add_penalties(&mut self) {
        for (term, anchor) in self.method.weights.iter().zip(&self.anchors) {
            let (Some(anchor), true) = (anchor, term.weight != 0.0) else {
                continue;
            };
            let beta = term.weight as f32;
            for position in 0..self.parameters.len() {
                let weights = self.parameters.at(position).data.iter();
                let anchors = &anchor.weights.at(position).data;
                let importance = &anchor.importance.at(position).data;
                let gradient = self.gradients.at_mut(position).iter_mut();
                let parts = gradient.zip(weights).zip(anchors).zip(importance);
                parts.for_each(|(((g, w), a), f)| *g += beta * f * (w - a));
            }
        }
    }

    /// Weights and gradients before a step, if a term follows their paths.
    pub(super) fn before_paths(&self) -> Option<(Gradients, Parameters)> {
        let has_paths = self.paths.iter().any(Option::is_some);
        has_paths.then(|| (self.gradients.clone(), self.parameters.clone()))
    }

    /// Adds `g (θ_before − θ)` to the path integrals.
    pub(super) fn follow_paths(&mut self, gradients: &Gradients, before: &Parameters) {
        for (omega, _) in self.paths.iter_mut().flatten() {
            for (position, tensor) in omega.iter_mut().enumerate() {
                let moved = before
                    .at(position)
                    .data
                    .iter()
                    .zip(&self.parameters.at(position).data);
                let parts = tensor
                    .data
                    .iter_mut()
                    .zip(gradients.at(position))
                    .zip(moved);
                parts.for_each(|((sum, gradient), (old, new))| *sum += gradient * (old - new));
            }
        }
    }

    /// Path integrals begin anew.
    pub(super) fn begin_paths(&mut self) {
        for (omega, start) in self.paths.iter_mut().flatten() {
            omega.iter_mut().for_each(|tensor| tensor.data.fill(0.0));
            *start = self.parameters.clone();
        }
    }

    /// The quadratic forms after a task.
    pub(super) fn anchor(&mut self, examples: &Examples) -> Result<()> {
        for index in 0..self.method.weights.len() {
            let term = self.method.weights[index].clone();
            if term.weight != 0.0 {
                let found = self.importance(index, &term.importance, examples)?;
                self.anchors[index] = Some(self.anchored(index, &term.importance, found));
            }
        }
        Ok(())
    }

    fn importance(
        &mut self,
        index: usize,
        importance: &Importance,
        task: &Examples,
    ) -> Result<Parameters> {
        let range = self.classes_of_head();
        let passes_of_image = match importance {
            Importance::Fisher {
                estimator: FisherEstimator::Exact,
                ..
            } => 3 * range.len() as u64,
            _ => 3,
        };
        match importance {
            Importance::Identity => {
                let mut ones = self.parameters.clone();
                ones.iter_mut().for_each(|tensor| tensor.data.fill(1.0));
                Ok(ones)
            }
            Importance::Fisher {
                estimator,
                examples: limit,
                ..
            } => {
                let (images, labels) = self.chosen("importance", task, *limit);
                self.train_macs += passes_of_image * labels.len() as u64 * self.model.macs();
                let executor = &mut self.executor;
                fisher(
                    executor,
                    &self.model,
                    &self.parameters,
                    (&images, &labels),
                    &range,
                    *estimator,
                    Mode::Train { dropout: None },
                )
            }
            Importance::OutputSensitivity { examples: limit } => {
                let (images, labels) = self.chosen("importance", task, *limit);
                self.train_macs += passes_of_image * labels.len() as u64 * self.model.macs();
                let executor = &mut self.executor;
                output_sensitivity(
                    executor,
                    &self.model,
                    &self.parameters,
                    &images,
                    labels.len(),
                    &range,
                )
            }
            Importance::PathIntegral { damping } => {
                let mut found = self.parameters.zeros();
                if let Some((omega, start)) = &self.paths[index] {
                    for (position, tensor) in found.iter_mut().enumerate() {
                        let now = &self.parameters.at(position).data;
                        let ways = now.iter().zip(&start.at(position).data);
                        let parts = tensor
                            .data
                            .iter_mut()
                            .zip(&omega.at(position).data)
                            .zip(ways);
                        for ((value, omega), (now, start)) in parts {
                            let moved = f64::from(now - start);
                            *value = (f64::from(*omega) / (moved * moved + damping)) as f32;
                        }
                    }
                }
                Ok(found)
            }
        }
    }

    /// The quadratic form after a task whose importance is `found`.
    fn anchored(&self, index: usize, importance: &Importance, mut found: Parameters) -> Anchor {
        let mut weights = self.parameters.clone();
        let Some(before) = &self.anchors[index] else {
            return Anchor {
                importance: found,
                weights,
            };
        };
        let (decay, keeps_anchors) = match importance {
            Importance::Identity => (0.0, false),
            Importance::Fisher { decay: None, .. } => (1.0, true),
            Importance::Fisher {
                decay: Some(decay), ..
            } => (*decay as f32, false),
            Importance::PathIntegral { .. } | Importance::OutputSensitivity { .. } => (1.0, false),
        };
        for (position, tensor) in found.iter_mut().enumerate() {
            let old = before.importance.at(position).data.iter();
            let anchors = before.weights.at(position).data.iter();
            let now = weights.at_mut(position).data.iter_mut();
            for (((new, old), anchor), now) in tensor.data.iter_mut().zip(old).zip(anchors).zip(now)
            {
                let sum = decay * old + *new;
                if keeps_anchors {
                    // ΣF_t(θ−θ_t)² = (ΣF_t)(θ−θ̄)² + constant, θ̄ the mean weighted by F.
                    let share = if sum > 0.0 { *new / sum } else { 0.0 };
                    *now = anchor + share * (*now - anchor);
                }
                *new = sum;
            }
        }
        Anchor {
            importance: found,
            weights,
        }
    }
}
