//! Where a run came from: enough to repeat it and to judge its numbers.

use std::fmt::Display;
use std::path::Path;

use oncefit_continual::LearningRun;
use oncefit_data::LoadedData;
use oncefit_nn::{Cpu, InstructionSet};
use oncefit_train::{Run, RunData, write_atomically};
use serde::{Deserialize, Serialize};

use crate::error::Result;

#[derive(Serialize)]
struct Provenance<'a> {
    oncefit: &'a str,
    command: String,
    started: String,
    seed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    space_hash: Option<String>,
    train_data_hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    validation_data_hash: Option<String>,
    test_data_hash: String,
    machine: Machine,
}

/// The machine that numbers were measured on.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    processor: String,
    threads: usize,
    instructions: String,
    system: String,
}

impl Machine {
    /// This machine, with the threads that are in use.
    pub fn this() -> Self {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = info
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or(std::env::consts::ARCH, |(_, name)| name);
        let instructions = match Cpu::detect().instruction_set() {
            InstructionSet::Avx512 => "AVX-512",
            InstructionSet::Avx2 => "AVX2",
            InstructionSet::Portable => "portable",
        };
        Self {
            processor: processor.to_owned(),
            threads: rayon::current_num_threads(),
            instructions: instructions.to_owned(),
            system: std::env::consts::OS.to_owned(),
        }
    }
}

/// Which version measured something, where and when.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Origin {
    oncefit: String,
    machine: Machine,
    finished: String,
}

impl Origin {
    /// Of what is finished now, here.
    pub fn now() -> Self {
        Self {
            oncefit: env!("CARGO_PKG_VERSION").to_owned(),
            machine: Machine::this(),
            finished: jiff::Timestamp::now().to_string(),
        }
    }
}

impl Provenance<'_> {
    fn new(command: &str, seed: u64, train: impl Display, test: impl Display) -> Self {
        Self {
            oncefit: env!("CARGO_PKG_VERSION"),
            command: command.to_owned(),
            started: jiff::Timestamp::now().to_string(),
            seed,
            space_hash: None,
            train_data_hash: train.to_string(),
            validation_data_hash: None,
            test_data_hash: test.to_string(),
            machine: Machine::this(),
        }
    }

    /// Writes it, unless there is one: a resumed run keeps its origin.
    fn save(&self, path: &Path) -> Result<()> {
        if path.exists() {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(self).expect("provenance is plain data");
        Ok(write_atomically(path, text.as_bytes())?)
    }
}

const FILE: &str = "provenance.json";

/// Writes `provenance.json` of a training, unless the run has one.
///
/// # Errors
/// If it cannot be written.
pub fn write(run: &Run, data: &RunData, space_hash: &str, command: &str) -> Result<()> {
    let (train, test) = (data.train.hash(), data.test.hash());
    let provenance = Provenance {
        space_hash: Some(space_hash.to_owned()),
        validation_data_hash: Some(data.validation.hash().to_string()),
        ..Provenance::new(command, run.recipe().seed, train, test)
    };
    provenance.save(&run.file(FILE))
}

/// As [`write`], for continual learning: what it learns from and what it is measured on.
///
/// # Errors
/// If it cannot be written.
pub fn write_learning(run: &LearningRun, data: &LoadedData, command: &str) -> Result<()> {
    let (train, test) = (data.train.hash(), data.test.hash());
    Provenance::new(command, run.recipe().seed, train, test).save(&run.file(FILE))
}
