//! Objectives that are programs.
//!
//! For each trial the program is started once. It reads one JSON object from standard input
//!
//! ```text
//! {"number": 3, "subnet": "depth=2:kernel=3,5", "values": {"unit1.depth": 2, …}, "budget": 256}
//! ```
//!
//! and writes one to standard output: `{"score": 0.91}`, or `{"scores": [0.91, -3.2], "constraints":
//! [-0.5]}`, or `{"failed": "why"}`. Any other output, an exit code other than 0, or a longer time
//! than allowed is a failure.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use oncefit_space::Space;
use serde::Deserialize;

use crate::outcome::{Outcome, Trial};
use crate::search::Evaluate;

/// How long output may still arrive after the program has ended.
const AFTER_END: Duration = Duration::from_secs(2);
/// How many characters of the error output are shown.
const SHOWN: usize = 300;

/// Scores trials by a program.
#[derive(Clone, Debug)]
pub struct CommandObjective {
    space: Space,
    program: String,
    arguments: Vec<String>,
    timeout: Duration,
    at_once: usize,
}

/// What the program answers.
#[derive(Deserialize)]
struct Answer {
    score: Option<f64>,
    scores: Option<Vec<f64>>,
    #[serde(default)]
    constraints: Vec<f64>,
    failed: Option<String>,
}

impl CommandObjective {
    /// A program for the members of a space; it is stopped when it takes longer than `timeout`.
    pub fn new(space: &Space, program: &str, arguments: &[&str], timeout: Duration) -> Self {
        Self {
            space: space.clone(),
            program: program.to_owned(),
            arguments: arguments.iter().map(|one| (*one).to_owned()).collect(),
            timeout,
            at_once: 1,
        }
    }

    /// The same with up to `count` programs running at once.
    #[must_use]
    pub fn at_once(self, count: usize) -> Self {
        Self {
            at_once: count.max(1),
            ..self
        }
    }

    fn outcome(&self, trial: &Trial) -> Outcome {
        match self.answer(trial) {
            Ok(outcome) => outcome.checked(),
            Err(reason) => Outcome::Failed(format!("`{}` {reason}", self.program)),
        }
    }

    fn answer(&self, trial: &Trial) -> Result<Outcome, String> {
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot be started: {error}"))?;
        let request = self.request(trial);
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read its input is no error; one that reads slowly must not
            // hold up the clock.
            std::thread::spawn(move || stdin.write_all(request.as_bytes()));
        }
        let output = child.stdout.take().map(read_all);
        let errors = child.stderr.take().map(read_all);
        let status = self.wait(&mut child)?;
        let receive = |stream: Option<Receiver<String>>| {
            stream.and_then(|stream| stream.recv_timeout(AFTER_END).ok())
        };
        let output = receive(output).ok_or("did not close its output")?;
        if !status.success() {
            let errors = receive(errors).unwrap_or_default();
            return Err(format!("ended with {status}: {}", end_of(&errors)));
        }
        let answer: Answer = serde_json::from_str(output.trim()).map_err(|error| {
            // JSON has no such numbers, but programs write them.
            match ["NaN", "Infinity", "nan", "inf"]
                .iter()
                .any(|word| output.contains(word))
            {
                true => format!("gave a score that is not a number: {}", end_of(&output)),
                false => format!("gave no answer ({error}): {}", end_of(&output)),
            }
        })?;
        match answer {
            Answer {
                failed: Some(reason),
                ..
            } => Err(format!("failed: {reason}")),
            Answer {
                scores: Some(scores),
                constraints,
                ..
            } => Ok(Outcome::with_constraints(scores, constraints)),
            Answer {
                score: Some(score),
                constraints,
                ..
            } => Ok(Outcome::with_constraints(vec![score], constraints)),
            _ => Err("gave an answer without `score`, `scores` or `failed`".into()),
        }
    }

    fn request(&self, trial: &Trial) -> String {
        let trace = self.space.trace_of(&trial.candidate);
        let values: serde_json::Map<String, serde_json::Value> = trace
            .choices
            .iter()
            .map(|choice| (choice.path.clone(), serde_json::json!(choice.value)))
            .collect();
        let mut request = serde_json::json!({
            "number": trial.number,
            "subnet": trace.text(),
            "values": values,
            "budget": trial.budget,
        });
        if let Some(rung) = trial.rung {
            request["rung"] = serde_json::json!(rung);
        }
        // A member whose shapes do not meet has no settings; the program may say so.
        if let Ok(subnet) = self.space.subnet_of(&trial.candidate)
            && !subnet.settings().is_empty()
        {
            let settings = subnet.settings().iter();
            let settings = settings.map(|(name, value)| (name.clone(), serde_json::json!(value)));
            request["settings"] = serde_json::Value::Object(settings.collect());
        }
        format!("{request}\n")
    }

    fn wait(&self, child: &mut Child) -> Result<ExitStatus, String> {
        let start = Instant::now();
        let mut pause = Duration::from_micros(200);
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if start.elapsed() >= self.timeout => {
                    // Killing fails only if the program has just ended; waiting frees it either way.
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!(
                        "took longer than {} s and was stopped",
                        self.timeout.as_secs_f64()
                    ));
                }
                Ok(None) => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
                Err(error) => return Err(format!("cannot be waited for: {error}")),
            }
        }
    }
}

impl Evaluate for CommandObjective {
    fn evaluate(&mut self, trials: &[Trial]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(trials.len());
        for chunk in trials.chunks(self.at_once) {
            let this = &*self;
            std::thread::scope(|scope| {
                let running: Vec<_> = chunk
                    .iter()
                    .map(|trial| scope.spawn(move || this.outcome(trial)))
                    .collect();
                outcomes.extend(running.into_iter().map(|one| {
                    one.join()
                        .unwrap_or_else(|_| Outcome::Failed("the objective panicked".into()))
                }));
            });
        }
        outcomes
    }
}

/// Reads a stream to its end beside the main thread, so that no program is held up by a full pipe.
fn read_all(mut stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is still worth showing.
        let _ = stream.read_to_end(&mut bytes);
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

fn end_of(text: &str) -> String {
    let text = text.trim();
    let skipped = text.chars().count().saturating_sub(SHOWN);
    text.chars().skip(skipped).collect()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn outcome_of(script: &str, timeout: Duration) -> Outcome {
        let space = Space::builtin("fm-nano").unwrap();
        let mut objective = CommandObjective::new(&space, "sh", &["-c", script], timeout);
        let trial = Trial {
            number: 7,
            candidate: space.candidate(|_, _| 0).unwrap(),
            budget: Some(256),
            rung: None,
        };
        objective.evaluate(&[trial]).remove(0)
    }

    #[test]
    fn answers_and_failures_are_told_apart() {
        let long = Duration::from_secs(20);
        assert_eq!(
            outcome_of(r#"echo '{"score": 0.5}'"#, long),
            Outcome::of(0.5)
        );
        assert_eq!(
            outcome_of(
                r#"read x; case "$x" in *'"budget":256'*'"subnet":"resolution=20:'*) echo '{"scores": [1, -2], "constraints": [0.5]}';; esac"#,
                long
            ),
            Outcome::with_constraints(vec![1.0, -2.0], vec![0.5])
        );
        for (script, part) in [
            ("echo broken >&2; exit 3", "exit status: 3: broken"),
            ("echo hello", "gave no answer"),
            ("echo '{}'", "without `score`"),
            (r#"echo '{"failed": "no memory"}'"#, "failed: no memory"),
        ] {
            let Outcome::Failed(reason) = outcome_of(script, long) else {
                panic!("{script}");
            };
            assert!(reason.contains(part), "{reason}");
        }
    }

    #[test]
    fn a_program_that_takes_too_long_is_stopped() {
        let start = Instant::now();
        let outcome = outcome_of("exec sleep 30", Duration::from_millis(100));
        let Outcome::Failed(reason) = outcome else {
            panic!();
        };
        assert!(reason.contains("took longer"), "{reason}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
