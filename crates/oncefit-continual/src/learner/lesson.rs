//! What a step learns from: the new images and those that the memory gives.

use super::*;

/// What a step learns from.
pub(super) struct Lesson {
    /// The new images and each draw that a term needs.
    pub segments: Vec<Segment>,
    /// Their pixels as the networks see them.
    pub inputs: Vec<f32>,
    /// On which networks, the largest first.
    pub networks: Vec<StepNetwork>,
}

/// The images of one forward pass and where its parts lie.
pub(super) struct Segment {
    /// Which draw from the memory; the new images are of none.
    pub draw: Option<u64>,
    pub places: Vec<usize>,
    pub labels: Vec<u32>,
    pub rows: std::ops::Range<usize>,
}

impl Learner {
    /// Places of the memory that BiC keeps out of this task's draws.
    pub(super) fn held_out(&self) -> Vec<usize> {
        match (&self.memory, &self.method.correction) {
            (Some(memory), Some(correction)) => {
                let count = correction.images_of_class(memory.capacity(), self.old);
                memory.some_of_each_class(count, self.task)
            }
            _ => Vec::new(),
        }
    }

    /// Places of the memory that draw number `draw` of the coming step takes.
    pub fn drawn_places(&self, count: usize, draw: u64) -> Vec<usize> {
        let Some(memory) = &self.memory else {
            return Vec::new();
        };
        let held_out = self.held_out();
        match self.settings.replays_in_passes {
            true => memory.part_of_pass(&held_out, count, (self.task, self.batches), draw),
            false => memory.draw_without(&held_out, count, self.step, draw),
        }
    }

    /// Pixels as the network sees them in a training step.
    pub(super) fn inputs(&self, pixels: Vec<u8>, purpose: &'static str) -> Vec<f32> {
        let normalisation = &self.settings.normalisation;
        let Some(changes) = &self.settings.augmentation else {
            return normalised(&pixels, normalisation);
        };
        let means = normalisation.mean.iter();
        let fill: Vec<u8> = means.map(|mean| (mean * 255.0).round() as u8).collect();
        let address = (self.settings.seed, purpose, self.step);
        let augmentation = changes.augmentation;
        let changed = augmentation.images(&pixels, changes.shape, &fill, address);
        normalised(&changed, normalisation)
    }

    /// The new batch and each draw that a term of the step needs, one after the other.
    pub(super) fn segments(&self, examples: &Examples) -> (Vec<u8>, Vec<Segment>) {
        let mut pixels = examples.images.clone();
        let mut segments = vec![Segment {
            draw: None,
            places: Vec::new(),
            labels: examples.labels.clone(),
            rows: 0..examples.len(),
        }];
        let Some(memory) = self.memory.as_ref().filter(|memory| !memory.is_empty()) else {
            return (pixels, segments);
        };
        for term in self.method.outputs.iter().filter(|term| term.weight != 0.0) {
            let Images::Memory { draw, count } = term.images else {
                continue;
            };
            if segments.iter().any(|segment| segment.draw == Some(draw)) {
                continue;
            }
            let places = self.drawn_places(count, draw);
            let drawn = memory.examples(&places);
            let start = segments[segments.len() - 1].rows.end;
            segments.push(Segment {
                draw: Some(draw),
                rows: start..start + drawn.len(),
                labels: drawn.labels,
                places,
            });
            pixels.extend_from_slice(&drawn.images);
        }
        (pixels, segments)
    }
}
