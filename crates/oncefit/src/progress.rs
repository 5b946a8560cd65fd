//! Progress of long work: a live bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use oncefit_train::Event;

use crate::format::{duration, percent};

/// Seconds between plain lines.
const LINE_SECONDS: f64 = 5.0;

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
        match &self.bar {
            Some(bar) => {
                bar.set_position(position);
                bar.set_message(format!("{}  {} left", message(), duration(left)));
            }
            None if self.last_line.elapsed().as_secs_f64() >= LINE_SECONDS
                || position == self.total =>
            {
                let (name, total) = (self.name, self.total);
                eprintln!(
                    "{name} {position}/{total}  {}  {} left",
                    message(),
                    duration(left)
                );
                self.last_line = Instant::now();
            }
            None => {}
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

    fn seconds_left(&self, position: u64) -> f64 {
        let done = position.saturating_sub(self.start_position).max(1) as f64;
        let left = self.total.saturating_sub(position) as f64;
        self.started.elapsed().as_secs_f64() / done * left
    }
}

/// Shows a training's events.
#[derive(Default)]
pub struct TrainingProgress {
    progress: Option<Progress>,
    started: Option<Instant>,
    images: usize,
    accuracies: String,
}

impl TrainingProgress {
    /// Shows one event.
    pub fn observe(&mut self, event: Event) {
        match event {
            Event::Started { step, steps, .. } => {
                if step > 0 {
                    eprintln!("continuing after step {step} of {steps}");
                }
                self.progress = Some(Progress::new("training", step, steps));
                self.started = Some(Instant::now());
            }
            Event::CheckpointSkipped { reason } => eprintln!("{reason}; an older one is used"),
            Event::Step(report) => {
                self.images += report.images;
                let seconds = self
                    .started
                    .map_or(0.0, |started| started.elapsed().as_secs_f64());
                let rate = self.images as f64 / seconds.max(1e-9);
                if let Some(progress) = &mut self.progress {
                    progress.update(report.step, || {
                        format!(
                            "epoch {:.1}  loss {:.3}  rate {:.4}  {rate:.0} images/s{}",
                            report.epoch, report.loss, report.learning_rate, self.accuracies
                        )
                    });
                }
            }
            Event::Evaluated { accuracies, .. } => {
                let parts: Vec<String> = accuracies
                    .iter()
                    .map(|(name, accuracy)| format!("{name} {}", percent(*accuracy)))
                    .collect();
                self.accuracies = format!("  {}", parts.join(", "));
            }
            Event::Saved { .. } => {}
        }
    }

    /// Ends the display.
    pub fn finish(self) {
        if let Some(progress) = self.progress {
            progress.finish();
        }
    }
}
