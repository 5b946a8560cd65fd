//! Probes for devices that are not this machine: ONNX files, a manifest, and their times as CSV.
//!
//! ```text
//! DIR/manifest.json   what each file holds        DIR/network-000.onnx, operator-000.onnx, …
//! DIR/probes.csv      the table to fill in: file,count,median_ms,mean_ms,std_ms
//! ```
//!
//! Any program that can run ONNX files can fill in the table; `tools/probes/run_probes.py` does it
//! with onnxruntime.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oncefit_export::{Metadata, onnx_bytes};
use oncefit_nn::Network;
use oncefit_space::Space;
use serde::{Deserialize, Serialize};

use crate::additive::{FEWEST_NETWORKS, Measurements, NetworkTime, OperatorTime, fit};
use crate::error::{Result, TargetError};
use crate::fusion::{Granularity, operators};
use crate::operator::Operator;
use crate::probes::{Prober, operator_network, overhead};
use crate::profile::Progress;
use crate::table::check_time;
use crate::target::{Engine, Identity, Machine, Measured, Target, write_atomically};

/// The version of the manifest's form.
pub const PROBES_FORMAT: &str = "oncefit-probes 1";

/// What a probe is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeKind {
    /// It does next to nothing.
    Overhead,
    /// A whole random network.
    Network,
    /// One operator.
    Operator,
}

/// A file to be timed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Its name within the folder.
    pub file: String,
    /// What it is.
    pub kind: ProbeKind,
    /// Batch, channels, height and width of its input `image`.
    pub input: [usize; 4],
    /// Its operators ([`Operator`]).
    pub operators: Vec<String>,
    /// The subnet's text, if it is a network.
    pub subnet: Option<String>,
}

/// What the files of a folder are.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`PROBES_FORMAT`].
    pub format: String,
    /// Name of the space.
    pub space: String,
    /// Hash of the space.
    pub space_hash: String,
    /// Images at once.
    pub batch: usize,
    /// The probes.
    pub probes: Vec<Probe>,
}

/// Which probes to write.
#[derive(Clone, PartialEq, Debug)]
pub struct ProbeOptions {
    /// Images at once.
    pub batch: usize,
    /// Whole networks; a quarter of them only validates.
    pub networks: usize,
    /// Operators alone, at most.
    pub operators: usize,
    /// Seed of the random networks.
    pub seed: u64,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        Self {
            batch: 1,
            networks: 100,
            operators: 400,
            seed: 0,
        }
    }
}

/// How imported times are to be understood.
#[derive(Clone, PartialEq, Debug)]
pub struct ImportOptions {
    /// What the device is called.
    pub device: String,
    /// What ran the probes, with its version.
    pub engine_version: String,
    /// Threads that it used.
    pub threads: usize,
    /// Whether times may be missing, as long as enough networks are left.
    pub allow_incomplete: bool,
}

/// Writes probes, their manifest and an empty table into a folder, which is made if need be.
///
/// # Errors
/// If there are probes in the folder already, a file cannot be written or a network has no exported form.
pub fn emit_probes(
    space: &Space,
    folder: &Path,
    options: &ProbeOptions,
    observe: &mut dyn FnMut(Progress),
) -> Result<Manifest> {
    if options.networks < FEWEST_NETWORKS || options.batch == 0 {
        return Err(TargetError::Request(format!(
            "probes are at least {FEWEST_NETWORKS} networks with at least 1 image at a time"
        )));
    }
    if folder.join(MANIFEST).exists() {
        return Err(TargetError::Request(format!(
            "{} has probes already, maybe with their times; choose another folder, or remove this one",
            folder.display()
        )));
    }
    std::fs::create_dir_all(folder).map_err(|source| TargetError::File {
        action: "make the folder",
        path: folder.to_owned(),
        source,
    })?;
    let mut prober = Prober::new(space, options.seed)?;
    let mut probes = Vec::new();
    let mut write = |kind, name: String, network: &Network, list: Vec<Operator>, subnet| {
        let file = format!("{name}.onnx");
        let bytes = onnx_bytes(network, &Metadata::default())?;
        write_atomically(&folder.join(&file), &bytes)?;
        let shape = network.graph.input_shape();
        probes.push(Probe {
            file,
            kind,
            input: [options.batch, shape.channels, shape.height, shape.width],
            operators: list.iter().map(Operator::to_string).collect(),
            subnet,
        });
        Ok::<(), TargetError>(())
    };
    let nothing = overhead();
    if let Some(network) = operator_network(&nothing) {
        write(
            ProbeKind::Overhead,
            "overhead".into(),
            &network,
            vec![nothing],
            None,
        )?;
    }
    for index in 0..options.networks {
        let Some(subnet) = prober.next_subnet()? else {
            break;
        };
        let network = prober.network(&subnet)?;
        let list = operators(subnet.graph(), Granularity::Operator);
        let name = format!("network-{index:03}");
        write(
            ProbeKind::Network,
            name,
            &network,
            list,
            Some(subnet.text()),
        )?;
        observe(Progress {
            stage: "networks",
            done: index + 1,
            total: options.networks,
        });
    }
    let mut alone = prober.operators()?;
    alone.truncate(options.operators);
    for (index, operator) in alone.iter().enumerate() {
        if let Some(network) = operator_network(operator) {
            let name = format!("operator-{index:03}");
            write(ProbeKind::Operator, name, &network, vec![*operator], None)?;
        }
        observe(Progress {
            stage: "operators",
            done: index + 1,
            total: alone.len(),
        });
    }
    let manifest = Manifest {
        format: PROBES_FORMAT.into(),
        space: space.name().to_owned(),
        space_hash: space.hash(),
        batch: options.batch,
        probes,
    };
    let mut template = format!("{HEADER}\n");
    for probe in &manifest.probes {
        template.push_str(&format!("{},,,,\n", probe.file));
    }
    write_atomically(&folder.join("probes.csv"), template.as_bytes())?;
    let text = serde_json::to_string_pretty(&manifest)
        .map_err(|error| TargetError::Request(error.to_string()))?;
    write_atomically(&folder.join(MANIFEST), format!("{text}\n").as_bytes())?;
    Ok(manifest)
}

/// Name of the manifest in its folder.
const MANIFEST: &str = "manifest.json";
const HEADER: &str = "file,count,median_ms,mean_ms,std_ms";

/// Times of one probe.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Timing {
    count: usize,
    median_ms: f64,
    mean_ms: f64,
    std_ms: f64,
}

/// Reads the manifest of a folder.
///
/// # Errors
/// If the file cannot be read or is no manifest.
pub fn load_manifest(path: &Path) -> Result<Manifest> {
    let malformed = |reason: String| TargetError::Malformed {
        path: path.to_owned(),
        reason,
    };
    let text = read(path)?;
    let manifest: Manifest =
        serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
    if manifest.format != PROBES_FORMAT {
        return Err(malformed(format!(
            "its format is `{}`; this version reads `{PROBES_FORMAT}`",
            manifest.format
        )));
    }
    Ok(manifest)
}

/// Fits a target to the times of probes.
///
/// # Errors
/// If a file cannot be read, a time is negative, not a number or of an unknown probe, or times are
/// missing: all of those that the manifest lists are needed, unless incomplete ones are allowed.
pub fn import_timings(
    manifest_path: &Path,
    timings_path: &Path,
    options: &ImportOptions,
) -> Result<Target> {
    let manifest = load_manifest(manifest_path)?;
    let malformed = |path: &Path, reason: String| TargetError::Malformed {
        path: PathBuf::from(path),
        reason,
    };
    let timings = parse_timings(&read(timings_path)?, &manifest)
        .map_err(|reason| malformed(timings_path, reason))?;
    let missing: Vec<&str> = manifest
        .probes
        .iter()
        .map(|probe| probe.file.as_str())
        .filter(|file| !timings.contains_key(file))
        .collect();
    if let (Some(first), false) = (missing.first(), options.allow_incomplete) {
        return Err(malformed(
            timings_path,
            format!(
                "it has no times of {} of the {} probes, the first is {first}: the run was cut short; run the rest (the script goes on where it stopped), or allow it by --allow-incomplete",
                missing.len(),
                manifest.probes.len()
            ),
        ));
    }
    let mut measurements = Measurements::default();
    let mut spreads = Vec::new();
    let mut repetitions = usize::MAX;
    for probe in &manifest.probes {
        let Some(timing) = timings.get(probe.file.as_str()) else {
            continue;
        };
        repetitions = repetitions.min(timing.count);
        let list: Result<Vec<Operator>> = probe.operators.iter().map(|key| key.parse()).collect();
        let list = list.map_err(|error| malformed(manifest_path, error.to_string()))?;
        match (probe.kind, &list[..]) {
            (ProbeKind::Overhead, _) => measurements.overhead_ms = timing.median_ms,
            (ProbeKind::Network, _) => {
                spreads.push(timing.std_ms / timing.median_ms);
                measurements.networks.push(NetworkTime {
                    operators: list,
                    milliseconds: timing.median_ms,
                });
            }
            (ProbeKind::Operator, [operator]) => measurements.operators.push(OperatorTime {
                operator: *operator,
                count: timing.count,
                median_ms: timing.median_ms,
                mean_ms: timing.mean_ms,
                std_ms: timing.std_ms,
            }),
            (ProbeKind::Operator, _) => {
                let reason = format!("{} has {} operators instead of 1", probe.file, list.len());
                return Err(malformed(manifest_path, reason));
            }
        }
    }
    let (model, validation) =
        fit(&measurements).map_err(|error| malformed(timings_path, error.to_string()))?;
    let measured = Measured {
        networks: measurements.networks.len(),
        operators: measurements.operators.len(),
        repetitions,
        overhead_ms: measurements.overhead_ms,
        spread: crate::statistics::median(&spreads),
        drift: 0.0,
    };
    let identity = Identity {
        device: options.device.clone(),
        engine: Engine::Imported,
        engine_version: options.engine_version.clone(),
        threads: options.threads.max(1),
        batch: manifest.batch.max(1),
        space: manifest.space.clone(),
        space_hash: manifest.space_hash.clone(),
        machine: Machine::default(),
    };
    Ok(Target::new(
        identity,
        &measurements,
        measured,
        model,
        validation,
    ))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| TargetError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

/// The times of a table; rows without times are left out.
fn parse_timings<'m>(
    text: &str,
    manifest: &'m Manifest,
) -> std::result::Result<HashMap<&'m str, Timing>, String> {
    let known: HashMap<&str, &'m Probe> = manifest
        .probes
        .iter()
        .map(|probe| (probe.file.as_str(), probe))
        .collect();
    let mut lines = text.lines().enumerate();
    let header = lines.next().map_or("", |(_, line)| line.trim());
    let columns: Vec<&str> = header.split(',').map(str::trim).collect();
    let column = |name: &str| columns.iter().position(|column| *column == name);
    let (Some(file_at), Some(median_at)) = (column("file"), column("median_ms")) else {
        return Err(format!(
            "its first line is `{}`; it names the columns, of which `file` and `median_ms` are needed: {HEADER}",
            header.chars().take(80).collect::<String>()
        ));
    };
    let mut found: HashMap<&str, Timing> = HashMap::new();
    for (index, line) in lines {
        let number = index + 1;
        if line.trim().is_empty() {
            continue;
        }
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        if fields.len() != columns.len() {
            return Err(format!(
                "line {number} has {} fields instead of {}",
                fields.len(),
                columns.len()
            ));
        }
        let file = fields[file_at];
        let Some((&file, _)) = known.get_key_value(file) else {
            return Err(format!("line {number}: the manifest has no probe `{file}`"));
        };
        let time = |name: &str, at: Option<usize>| {
            let text = at.map_or("", |at| fields[at]);
            if text.is_empty() {
                return Ok(None);
            }
            let time: f64 = text
                .parse()
                .map_err(|_| format!("line {number}: {name} of {file} is `{text}`, no number"))?;
            let what = format!("line {number}: {name} of {file}");
            check_time(&what, time)?;
            Ok::<_, String>(Some(time))
        };
        let Some(median_ms) = time("median_ms", Some(median_at))? else {
            continue;
        };
        if median_ms == 0.0 {
            return Err(format!(
                "line {number}: {file} took 0 ms; the clock was too coarse, or the unit is not milliseconds"
            ));
        }
        let count = match column("count").map_or("", |at| fields[at]) {
            "" => 1,
            text => text
                .parse()
                .map_err(|_| format!("line {number}: count of {file} is `{text}`"))?,
        };
        let timing = Timing {
            count,
            median_ms,
            mean_ms: time("mean_ms", column("mean_ms"))?.unwrap_or(median_ms),
            std_ms: time("std_ms", column("std_ms"))?.unwrap_or(0.0),
        };
        if found.insert(file, timing).is_some() {
            return Err(format!("line {number}: {file} stands twice"));
        }
    }
    Ok(found)
}
