//! Progress of long work: a live bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use oncefit_continual::Told;
use oncefit_train::{Event, StepReport};

use crate::format::{duration, percent};

/// Seconds between plain lines.
const LINE_SECONDS: f64 = 5.0;
/// Time between two redrawings of a live display.
const REDRAW: Duration = Duration::from_millis(100);

/// Shows how far a piece of work is, on standard error.
pub struct Progress {
    name: &'static str,
    bar: Option<ProgressBar>,
    total: u64,
    started: Instant,
    start_position: u64,
    last_line: Instant,
}

impl Progress {
    /// Progress of `total` parts of which `position` are done.
    pub fn new(name: &'static str, position: u64, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let template = "{prefix} {bar:24} {pos}/{len}  {msg}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_prefix(name);
            bar.set_position(position);
            bar.reset_eta();
            bar
        });
        Self {
            name,
            bar,
            total,
            started: Instant::now(),
            start_position: position,
            last_line: Instant::now() - Duration::from_secs(3600),
        }
    }

    /// How far the work is, and what to say about it.
    pub fn update(&mut self, position: u64, message: impl Fn() -> String) {
        let left = self.seconds_left(position);
        self.update_with(position, left, message);
    }

    /// As [`Progress::update`], with the seconds that are left, if that is known.
    fn update_with(&mut self, position: u64, left: Option<f64>, message: impl Fn() -> String) {
        let left = || left.map_or(String::new(), |left| format!("{} left  ", duration(left)));
        match &self.bar {
            Some(bar) => {
                bar.set_position(position);
                // Drawing is limited by the bar; making the text is limited here.
                if self.last_line.elapsed() >= REDRAW || position == self.total {
                    bar.set_message(format!("{}{}", left(), message()));
                    self.last_line = Instant::now();
                }
            }
            None if self.last_line.elapsed().as_secs_f64() >= LINE_SECONDS
                || position == self.total =>
            {
                let (name, total) = (self.name, self.total);
                eprintln!("{name} {position}/{total}  {}{}", left(), message());
                self.last_line = Instant::now();
            }
            None => {}
        }
    }

    /// Whether it is drawn on a terminal.
    fn is_live(&self) -> bool {
        self.bar.is_some()
    }

    /// Redraws a live display now, before work that tells nothing.
    fn redraw(&mut self, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(message.to_owned());
            bar.tick();
            self.last_line = Instant::now();
        }
    }

    /// Says something that stays.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }

    /// Ends the display.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }

    /// By what was done since the display began; unknown as long as that is nothing.
    fn seconds_left(&self, position: u64) -> Option<f64> {
        let done = position.saturating_sub(self.start_position);
        let left = self.total.saturating_sub(position) as f64;
        (done > 0).then(|| self.started.elapsed().as_secs_f64() / done as f64 * left)
    }
}

/// Shows a training's events: on a terminal a block of lines that is redrawn.
#[derive(Default)]
pub struct TrainingProgress {
    progress: Option<Progress>,
    started: Option<Instant>,
    first_work: f64,
    images: usize,
    phase: String,
    losses: Vec<f64>,
    accuracies: Vec<(String, f64)>,
    best: Vec<f64>,
}

/// How many of the latest losses the small curve shows, each the mean of as many steps as needed.
const CURVE_POINTS: usize = 48;

impl TrainingProgress {
    /// Shows one event.
    pub fn observe(&mut self, event: Event) {
        match event {
            Event::Started {
                step, steps, work, ..
            } => {
                if step > 0 {
                    eprintln!("continuing after step {step} of {steps}");
                }
                self.progress = Some(Progress::new("training", step, steps));
                self.started = Some(Instant::now());
                self.first_work = work;
            }
            Event::CheckpointSkipped { reason } => eprintln!("{reason}; an older one is used"),
            Event::Initialised {
                loaded,
                fresh,
                unused,
            } => {
                let line = format!(
                    "{loaded} tensors are from the given weights, {} are fresh{}; {} of the file were not needed",
                    fresh.len(),
                    fresh
                        .first()
                        .map_or(String::new(), |name| format!(" ({name} …)")),
                    unused.len()
                );
                match &self.progress {
                    Some(progress) => progress.say(&line),
                    None => eprintln!("{line}"),
                }
            }
            Event::Phase {
                number,
                of,
                name,
                epochs,
            } => {
                self.phase = format!("phase {number} of {of}, {name}");
                if let Some(progress) = &self.progress {
                    progress.say(&format!("{}: {epochs} epochs", self.phase));
                }
            }
            Event::Step { report, work } => {
                self.images += report.images;
                self.losses.push(report.loss);
                let seconds = self
                    .started
                    .map_or(0.0, |started| started.elapsed().as_secs_f64());
                let done = (work - self.first_work).max(1e-9);
                let left = seconds * (1.0 - work).max(0.0) / done;
                let rate = self.images as f64 / seconds.max(1e-9);
                if let Some(mut progress) = self.progress.take() {
                    let is_live = progress.is_live();
                    let lines = || self.lines(&report, rate, is_live);
                    progress.update_with(report.step, Some(left), lines);
                    self.progress = Some(progress);
                }
            }
            Event::Evaluated {
                accuracies,
                is_best,
                ..
            } => {
                self.accuracies = accuracies.to_vec();
                if is_best {
                    self.best = accuracies.iter().map(|(_, found)| *found).collect();
                }
            }
            Event::Saved { .. } => {}
        }
    }

    /// What there is to say after a step: one line, or on a terminal a few.
    fn lines(&self, report: &StepReport, rate: f64, is_live: bool) -> String {
        let networks = match report.networks {
            1 => String::new(),
            count => format!("  {count} networks a step"),
        };
        let state = format!(
            "epoch {:.1}  loss {:.3}  learning rate {:.4}  {rate:.0} images/s{networks}",
            report.epoch, report.loss, report.learning_rate
        );
        let accuracies: Vec<String> = self
            .accuracies
            .iter()
            .map(|(name, accuracy)| format!("{name} {}", percent(*accuracy)))
            .collect();
        let accuracies = accuracies.join(", ");
        if !is_live {
            return format!("{state}  {accuracies}").trim_end().to_owned();
        }
        let mut lines = vec![state];
        if !self.phase.is_empty() {
            lines.push(self.phase.clone());
        }
        lines.push(format!("loss {}", curve(&self.losses)));
        if !accuracies.is_empty() {
            let best: Vec<String> = self.best.iter().map(|found| percent(*found)).collect();
            lines.push(format!(
                "validation: {accuracies}  (best {})",
                best.join(", ")
            ));
        }
        lines.join("\n  ")
    }

    /// Ends the display.
    pub fn finish(self) {
        if let Some(progress) = self.progress {
            progress.finish();
        }
    }
}

/// Shows continual learning: the accuracy matrix as it grows.
pub struct LearningProgress {
    name: String,
    progress: Option<Progress>,
    rows: Vec<Vec<f64>>,
    losses: Vec<f64>,
    /// Right before they were learnt, and seen, of the task's images since the start.
    online: (usize, usize),
    task: usize,
}

impl LearningProgress {
    /// Nothing is shown before the first event.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            progress: None,
            rows: Vec::new(),
            losses: Vec::new(),
            online: (0, 0),
            task: 0,
        }
    }

    /// Shows one event.
    pub fn observe(&mut self, told: Told) {
        match told {
            Told::Started {
                done,
                batches,
                finished,
            } => {
                match done {
                    0 => eprintln!("{}: {batches} batches", self.name),
                    _ => eprintln!("{}: continuing after batch {done} of {batches}", self.name),
                }
                self.rows = finished.class_incremental.rows.clone();
                self.task = self.rows.len();
                self.progress = Some(Progress::new("learning", done as u64, batches as u64));
            }
            Told::Step {
                report,
                done,
                task,
                tasks,
            } => {
                if task != self.task {
                    (self.task, self.online) = (task, (0, 0));
                }
                self.losses.push(report.loss);
                self.online.0 += report.correct;
                self.online.1 += report.new_images;
                if let Some(mut progress) = self.progress.take() {
                    let is_live = progress.is_live();
                    progress.update(done as u64, || self.lines(task, tasks, is_live));
                    self.progress = Some(progress);
                }
            }
            Told::Task { task, finished } => {
                self.rows = finished.class_incremental.rows.clone();
                let Some(mut progress) = self.progress.take() else {
                    return;
                };
                match (progress.is_live(), self.rows.last()) {
                    (true, _) => {
                        let text = format!("task {} is learnt{}", task + 1, self.block());
                        progress.redraw(&text);
                    }
                    (false, Some(row)) => progress.say(&row_text(row, task)),
                    (false, None) => {}
                }
                self.progress = Some(progress);
            }
        }
    }

    fn lines(&self, task: usize, tasks: usize, is_live: bool) -> String {
        let state = format!(
            "task {} of {tasks}  loss {:.3}  {} right before learning",
            task + 1,
            self.losses.last().copied().unwrap_or(0.0),
            percent(self.online.0 as f64 / self.online.1.max(1) as f64)
        );
        if !is_live {
            return state;
        }
        format!("\n  {state}{}", self.block())
    }

    /// The curve of losses and the accuracy matrix as far as it fits a small terminal.
    fn block(&self) -> String {
        let mut lines = vec![String::new(), format!("loss {}", curve(&self.losses))];
        let hidden = self.rows.len().saturating_sub(MOST_TASKS_SHOWN);
        if !self.rows.is_empty() {
            lines.push("accuracy in % on each task, among all classes seen".into());
        }
        let rows = self.rows.iter().enumerate().skip(hidden);
        lines.extend(rows.map(|(learnt, row)| row_text(row, learnt)));
        lines.join("\n  ")
    }

    /// Ends the display.
    pub fn finish(self) {
        if let Some(progress) = self.progress {
            progress.finish();
        }
    }
}

/// Latest rows and columns of an accuracy matrix that a live display shows.
const MOST_TASKS_SHOWN: usize = 8;

/// Accuracies of the tasks learnt so far, in %, the latest of many.
fn row_text(row: &[f64], learnt: usize) -> String {
    let row = &row[..=learnt];
    let hidden = row.len().saturating_sub(MOST_TASKS_SHOWN);
    let cells = row[hidden..].iter();
    let cells: String = cells
        .map(|share| format!(" {:5.1}", 100.0 * share))
        .collect();
    let mean = row.iter().sum::<f64>() / row.len() as f64;
    let left_out = if hidden > 0 { " …" } else { "" };
    let name = format!("after task {}", learnt + 1);
    format!("{name:<13}{left_out}{cells}  mean {:.1}", 100.0 * mean)
}

/// A curve of bars, each the mean of an equal part of the values.
fn curve(values: &[f64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let width = values.len().div_ceil(CURVE_POINTS).max(1);
    let means: Vec<f64> = values
        .chunks(width)
        .map(|part| part.iter().sum::<f64>() / part.len() as f64)
        .collect();
    let least = means.iter().copied().fold(f64::INFINITY, f64::min);
    let most = means.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let bar = |mean: &f64| {
        let share = (mean - least) / (most - least).max(1e-12);
        BARS[((share * 7.0).round().max(0.0) as usize).min(7)]
    };
    means.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_long_streams_show_their_latest_tasks() {
        assert_eq!(
            row_text(&[1.0, 0.5, 0.0], 1),
            "after task 2  100.0  50.0  mean 75.0"
        );
        let long: Vec<f64> = (0..20).map(|task| f64::from(task) / 100.0).collect();
        let shown = row_text(&long, 19);
        assert!(shown.starts_with("after task 20 …  12.0  13.0"), "{shown}");
        assert!(shown.ends_with("19.0  mean 9.5") && shown.chars().count() < 78);
    }

    #[test]
    fn curves_span_the_bars_and_keep_their_width() {
        assert_eq!(curve(&[2.0, 1.0, 0.0]), "█▅▁");
        assert_eq!(curve(&[]), "");
        assert_eq!(curve(&[1.0]), "▁");
        let long: Vec<f64> = (0..1000).map(f64::from).collect();
        let drawn = curve(&long);
        assert!((40..=CURVE_POINTS).contains(&drawn.chars().count()));
        assert!(drawn.starts_with('▁') && drawn.ends_with('█'));
    }
}
