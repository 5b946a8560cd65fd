//! The two hooks of refresh learning: before a step, and at the end of a task.

use super::*;
use crate::importance::FisherEstimator;
use crate::refresh::{FisherNorms, Refresh, UnlearntLoss};

/// What unlearning cost, and the weights before it, should the step fail.
pub(super) struct Unlearnt {
    pub parameters: Parameters,
    pub cost: Cost,
}

impl Learner {
    /// Moves the weights up the loss, if this step is one that refreshes. Where it fails, the learner
    /// is as it was.
    pub(super) fn unlearn(&mut self, lesson: &Lesson) -> Result<Option<Unlearnt>> {
        let Some(refresh) = self.method.refresh.clone() else {
            return Ok(None);
        };
        let passes = refresh.passes(self.step);
        if passes == 0 {
            return Ok(None);
        }
        let mut unlearnt = Unlearnt {
            parameters: self.parameters.clone(),
            cost: Cost::default(),
        };
        for pass in 0..passes {
            if let Err(error) = self.unlearn_once(&refresh, lesson, pass, &mut unlearnt.cost) {
                self.parameters = unlearnt.parameters;
                return Err(error);
            }
        }
        Ok(Some(unlearnt))
    }

    fn unlearn_once(
        &mut self,
        refresh: &Refresh,
        lesson: &Lesson,
        pass: usize,
        cost: &mut Cost,
    ) -> Result<()> {
        match refresh.loss {
            UnlearntLoss::Host => {
                let found = self.output_gradients(lesson)?;
                cost.images += found.cost.images;
                cost.train_macs += found.cost.train_macs;
                self.add_penalties();
            }
            UnlearntLoss::Batch => {
                let new = &lesson.segments[0];
                let inputs = &lesson.inputs[..new.rows.len() * self.model.input_shape().len()];
                let mut gradients = Gradients::zeros(&self.parameters);
                let networks = &lesson.networks;
                self.plain_gradients(networks, inputs, &new.labels, &mut gradients, cost)?;
                self.gradients = gradients;
            }
        }
        if let Some(position) = self.gradients.first_not_finite() {
            return Err(ContinualError::NotFinite {
                what: "the gradient of unlearning",
                step: self.step,
                detail: format!("parameter `{}`", self.parameters.at(position).name),
            });
        }
        let address = (self.settings.seed, self.step, pass);
        let fisher = self.fisher.as_ref();
        refresh.displace(&mut self.parameters, &self.gradients, fisher, address);
        Ok(())
    }

    /// Estimates the Fisher information of the task that ends.
    pub(super) fn end_refresh(&mut self, examples: &Examples) -> Result<()> {
        let Some(refresh) = self.method.refresh.clone().filter(Refresh::is_active) else {
            return Ok(());
        };
        let limit = refresh.fisher_images.unwrap_or(usize::MAX);
        let (images, labels) = self.chosen("refresh fisher", examples, limit);
        let calibration = match refresh.fisher_norms {
            FisherNorms::Calibrated if self.has_norms => Some(self.calibration(false)?),
            _ => None,
        };
        let range = self.classes_of_head();
        let mode = match &calibration {
            Some(calibration) => Mode::TrainCalibrated(calibration),
            None => Mode::Train { dropout: None },
        };
        let found = fisher(
            &mut self.executor,
            &self.model,
            &self.parameters,
            (&images, &labels),
            &range,
            refresh.fisher,
            mode,
        )?;
        let passes = match refresh.fisher {
            FisherEstimator::Exact => labels.len() * range.len(),
            _ => labels.len(),
        };
        self.train_macs += 3 * self.model.macs() * passes as u64;
        self.fisher = Some(refresh.joined(self.fisher.as_ref(), found, self.task));
        Ok(())
    }
}
