//! Where a run came from: enough to repeat it and to judge its numbers.

use std::path::Path;

use oncefit_continual::LearningRun;
use oncefit_data::LoadedData;
use oncefit_nn::{Cpu, InstructionSet};
use oncefit_train::{Run, RunData, write_atomically};
use serde::Serialize;

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
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Machine {
    processor: String,
    threads: usize,
    instructions: String,
    system: &'static str,
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
            system: std::env::consts::OS,
        }
    }
}

/// Writes `provenance.json`, unless the run has one: a resumed run keeps its origin.
///
/// # Errors
/// If it cannot be written.
pub fn write(run: &Run, data: &RunData, space_hash: &str, command: &str) -> Result<()> {
    if run.file("provenance.json").exists() {
        return Ok(());
    }
    let provenance = Provenance {
        oncefit: env!("CARGO_PKG_VERSION"),
        command: command.to_owned(),
        started: jiff::Timestamp::now().to_string(),
        seed: run.recipe().seed,
        space_hash: Some(space_hash.to_owned()),
        train_data_hash: data.train.hash().to_string(),
        validation_data_hash: Some(data.validation.hash().to_string()),
        test_data_hash: data.test.hash().to_string(),
        machine: Machine::this(),
    };
    save(&run.file("provenance.json"), &provenance)
}

/// As [`write`], for continual learning: what it learns from and what it is measured on.
///
/// # Errors
/// If it cannot be written.
pub fn write_learning(run: &LearningRun, data: &LoadedData, command: &str) -> Result<()> {
    let path = run.file("provenance.json");
    if path.exists() {
        return Ok(());
    }
    let provenance = Provenance {
        oncefit: env!("CARGO_PKG_VERSION"),
        command: command.to_owned(),
        started: jiff::Timestamp::now().to_string(),
        seed: run.recipe().seed,
        space_hash: None,
        train_data_hash: data.train.hash().to_string(),
        validation_data_hash: None,
        test_data_hash: data.test.hash().to_string(),
        machine: Machine::this(),
    };
    save(&path, &provenance)
}

fn save(path: &Path, provenance: &Provenance) -> Result<()> {
    let text = serde_json::to_string_pretty(provenance).expect("provenance is plain data");
    Ok(write_atomically(path, text.as_bytes())?)
}
