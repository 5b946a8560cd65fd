//! `oncefit learn --dry-run`: what a recipe would cost, from a few steps of its first two tasks.

use std::time::Instant;

use oncefit_continual::{Learner, LearningRecipe, Stream};
use oncefit_data::LoadedData;

use super::print;
use crate::error::Result;
use crate::format::{count, duration};

/// Steps of a task that are measured, after one that is not.
const STEPS: usize = 3;
/// Test images that are measured.
const IMAGES: usize = 200;

/// Prints steps, train-MACs and times.
pub fn estimate(recipe: &LearningRecipe, data: &LoadedData) -> Result<()> {
    let stream = recipe.build_stream(data)?;
    let mut learner = recipe.build_learner(data)?;
    let tasks = stream.tasks().len();
    let batches =
        |tasks: std::ops::Range<usize>| -> usize { tasks.map(|task| stream.batches(task)).sum() };
    let (mut seconds, mut macs) = (0.0, 0.0);
    for task in 0..tasks.min(2) {
        let step = mean_step(&mut learner, &stream, task)?;
        // Later tasks are like the second, which has a memory and a network before it.
        let alike = match task {
            0 => batches(0..1),
            _ => batches(1..tasks),
        };
        seconds += step.0 * alike as f64;
        macs += step.1 * alike as f64;
        let few = stream.iterate(task, 0).next();
        if let Some(few) = few.filter(|_| task == 0) {
            learner.end_task(&few)?;
        }
    }
    let evaluation = evaluation_seconds(&mut learner, &stream)?;
    print(&format!(
        "{tasks} tasks, {} steps: about {} train-MACs, about {} here (without what ends tasks)",
        batches(0..tasks),
        count(macs as u64),
        duration(seconds)
    ));
    let evaluations = tasks + 1;
    print(&format!(
        "{evaluations} evaluations: about {} here",
        duration(evaluation * evaluations as f64)
    ));
    Ok(())
}

/// Seconds and train-MACs of a step of a task.
fn mean_step(learner: &mut Learner, stream: &Stream, task: usize) -> Result<(f64, f64)> {
    learner.expect(stream.batches_per_epoch(task));
    let mut batches = stream.iterate(task, 0);
    if let Some(first) = batches.next() {
        learner.step(&first)?;
    }
    let (started, before) = (Instant::now(), learner.train_macs());
    let mut steps = 0.0;
    for examples in batches.take(STEPS) {
        learner.step(&examples)?;
        steps += 1.0;
    }
    let macs = (learner.train_macs() - before) as f64;
    let steps = f64::max(steps, 1.0);
    Ok((started.elapsed().as_secs_f64() / steps, macs / steps))
}

/// Of one evaluation on all tasks, of every subnet that is measured.
fn evaluation_seconds(learner: &mut Learner, stream: &Stream) -> Result<f64> {
    let task = &stream.tasks()[0];
    let few = &task.test[..task.test.len().min(IMAGES)];
    let images = stream.test_examples(0, few).images;
    let started = Instant::now();
    learner.predictions(&images)?;
    let seconds = started.elapsed().as_secs_f64() / few.len().max(1) as f64;
    let all: usize = stream.tasks().iter().map(|task| task.test.len()).sum();
    let watched = learner.watched().iter();
    let macs: u64 = watched.map(|one| one.subnet.graph().macs()).sum();
    let share = match macs {
        0 => 1.0,
        macs => macs as f64 / learner.model().macs() as f64,
    };
    Ok(seconds * all as f64 * share)
}
