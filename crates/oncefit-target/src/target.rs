//! A target: a device with an engine, and what operators cost there. Its file is TOML.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oncefit_space::Space;
use serde::{Deserialize, Serialize};

use crate::additive::{AdditiveModel, Measurements, Validation};
use crate::error::{Result, TargetError};
use crate::ofa_table::{OfaEntry, load_ofa_entries};
use crate::operator::Operator;
use crate::table::{Estimate, KeyStyle, OperatorTable, check_time};

/// The version of the file's form.
pub const FORMAT: &str = "oncefit-target 1";

/// What runs the networks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// `tract`, on exported files.
    Tract,
    /// Oncefit's own kernels.
    Oncefit,
    /// onnxruntime, on exported files.
    Onnxruntime,
    /// Whatever ran the probes that were imported.
    Imported,
}

impl Engine {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tract => "tract",
            Self::Oncefit => "oncefit",
            Self::Onnxruntime => "onnxruntime",
            Self::Imported => "imported",
        }
    }
}

/// The machine that measured, as far as it is known.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Machine {
    /// Its processor.
    pub processor: String,
    /// Instruction set: `x86_64`.
    pub architecture: String,
    /// Operating system: `linux`.
    pub operating_system: String,
    /// Threads that can run at once; 0 if unknown.
    pub cores: usize,
}

impl Machine {
    /// This machine.
    pub fn this() -> Self {
        let information = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = information
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Self {
            processor: name.map_or(String::new(), |(_, name)| name.trim().to_owned()),
            architecture: std::env::consts::ARCH.into(),
            operating_system: std::env::consts::OS.into(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
        }
    }
}

/// How the measurements went.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Networks measured, those of the validation included.
    pub networks: usize,
    /// Operators measured alone.
    pub operators: usize,
    /// Timed runs of each.
    pub repetitions: usize,
    /// Milliseconds of a file that does next to nothing.
    pub overhead_ms: f64,
    /// Median over the networks of each one's standard deviation as a share of its median.
    pub spread: f64,
    /// Standard deviation of one network's medians, measured again and again, as a share of their
    /// mean: how much the machine itself wandered.
    pub drift: f64,
}

/// An operator of a target.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorEntry {
    /// The operator ([`Operator`]).
    pub key: String,
    /// Its milliseconds within a network, as fitted.
    pub ms: f64,
    /// Repetitions alone; 0 if it was only measured within networks.
    pub count: usize,
    /// Mean alone, in milliseconds.
    pub mean_ms: f64,
    /// Standard deviation alone, in milliseconds.
    pub std_ms: f64,
}

/// A device with an engine, and what operators cost there.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// [`FORMAT`].
    pub format: String,
    /// What it is called.
    pub device: String,
    /// What runs the networks.
    pub engine: Engine,
    /// The engine's version, where known.
    pub engine_version: String,
    /// Threads that it uses.
    pub threads: usize,
    /// Images at once; times are for the whole batch.
    pub batch: usize,
    /// Name of the space that it was measured for.
    pub space: String,
    /// Hash of that space.
    pub space_hash: String,
    /// Milliseconds of every network, whatever its operators.
    pub intercept_ms: f64,
    /// Who measured.
    pub machine: Machine,
    /// How it went.
    pub measured: Measured,
    /// Errors on networks that the fit never saw.
    pub validation: Validation,
    /// Costs of operators that were not measured, for those who allow estimates.
    #[serde(default)]
    pub estimate: Estimate,
    /// The operators, in the order of their keys.
    #[serde(rename = "operator")]
    pub operators: Vec<OperatorEntry>,
    /// How the operators are named: as in its own files, unless it was read from a table of the
    /// Once-for-All authors.
    #[serde(skip)]
    style: KeyStyle,
}

/// What a target is called and belongs to.
pub(crate) struct Identity {
    pub device: String,
    pub engine: Engine,
    pub engine_version: String,
    pub threads: usize,
    pub batch: usize,
    pub space: String,
    pub space_hash: String,
    pub machine: Machine,
}

impl Target {
    pub(crate) fn new(
        identity: Identity,
        measurements: &Measurements,
        measured: Measured,
        model: AdditiveModel,
        validation: Validation,
    ) -> Self {
        let mut operators: Vec<OperatorEntry> = model
            .operators
            .iter()
            .map(|(operator, &ms)| {
                let alone = measurements
                    .operators
                    .iter()
                    .find(|time| time.operator == *operator);
                OperatorEntry {
                    key: operator.to_string(),
                    ms,
                    count: alone.map_or(0, |alone| alone.count),
                    mean_ms: alone.map_or(0.0, |alone| alone.mean_ms),
                    std_ms: alone.map_or(0.0, |alone| alone.std_ms),
                }
            })
            .collect();
        operators.sort_by(|left, right| left.key.cmp(&right.key));
        Self {
            format: FORMAT.into(),
            device: identity.device,
            engine: identity.engine,
            engine_version: identity.engine_version,
            threads: identity.threads,
            batch: identity.batch,
            space: identity.space,
            space_hash: identity.space_hash,
            intercept_ms: model.intercept_ms,
            machine: identity.machine,
            measured,
            validation,
            estimate: model.estimate,
            operators,
            style: KeyStyle::default(),
        }
    }

    /// A table of the Once-for-All authors as a target, named after its file; or a folder of such
    /// tables, one for each input size. An operator that stands in several of them costs their
    /// mean. Which space the tables fit shows when operators are looked up.
    ///
    /// # Errors
    /// If a file cannot be read or is no such table, or a folder has none.
    pub fn load_ofa_tables(path: &Path) -> Result<Self> {
        let mut found: BTreeMap<String, Vec<OfaEntry>> = BTreeMap::new();
        for file in ofa_files(path)? {
            for (key, entry) in load_ofa_entries(&file)? {
                found.entry(key).or_default().push(entry);
            }
        }
        let operators = found.into_iter().map(|(key, entries)| {
            let mean = |of: fn(&OfaEntry) -> f64| {
                entries.iter().map(of).sum::<f64>() / entries.len() as f64
            };
            let mean_ms = mean(|entry| entry.mean_ms);
            OperatorEntry {
                key,
                ms: mean_ms,
                count: entries.iter().map(|entry| entry.count as usize).sum(),
                mean_ms,
                std_ms: mean(|entry| entry.std_ms),
            }
        });
        Ok(Self {
            format: FORMAT.into(),
            device: path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into(),
            engine: Engine::Imported,
            engine_version: "unknown".into(),
            threads: 1,
            batch: 1,
            space: String::new(),
            space_hash: String::new(),
            intercept_ms: 0.0,
            machine: Machine::default(),
            measured: Measured::default(),
            validation: Validation::default(),
            estimate: Estimate::default(),
            operators: operators.collect(),
            style: KeyStyle::OnceForAll,
        })
    }

    /// Whether it was read from tables of the Once-for-All authors, which have one input size each:
    /// networks of other sizes are not for this device.
    pub fn is_of_ofa_tables(&self) -> bool {
        self.style == KeyStyle::OnceForAll
    }

    /// Its text.
    pub fn to_text(&self) -> String {
        let body = toml::to_string(self).unwrap_or_default();
        format!(
            "# Times of operators on one device, measured by Oncefit. All times are milliseconds for\n# one batch. `ms` is what an operator adds to a network; count, mean and std are those of\n# the operator alone.\n{body}"
        )
    }

    /// Reads a target's text.
    ///
    /// # Errors
    /// What is wrong, with the line where it can be told.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let target: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        target.check()?;
        Ok(target)
    }

    fn check(&self) -> std::result::Result<(), String> {
        if self.format != FORMAT {
            return Err(format!(
                "its format is `{}`; this version reads `{FORMAT}`",
                self.format
            ));
        }
        if self.threads == 0 || self.batch == 0 {
            return Err("threads and batch are at least 1".into());
        }
        check_time("intercept_ms", self.intercept_ms)?;
        check_time("measured.overhead_ms", self.measured.overhead_ms)?;
        let validation = &self.validation;
        for (name, value, from, to) in [
            ("median_error", validation.median_error, 0.0, f64::MAX),
            ("mean_error", validation.mean_error, 0.0, f64::MAX),
            ("spearman", validation.spearman, -1.0, 1.0),
            ("kendall", validation.kendall, -1.0, 1.0),
        ] {
            let margin = 1e-9;
            if !(value >= from - margin && value <= to + margin) {
                return Err(format!("validation.{name} cannot be {value}"));
            }
        }
        for (kind, cost) in &self.estimate.kinds {
            let known = crate::OperatorKind::ALL.map(|(name, _)| name);
            if !known.contains(&kind.as_str()) {
                return Err(format!(
                    "estimate.{kind}: there is no such kind of operator; kinds: {}",
                    known.join(", ")
                ));
            }
            check_time(&format!("estimate.{kind}.ms"), cost.ms)?;
            for (name, slope) in [
                ("ms_per_million_macs", cost.ms_per_million_macs),
                ("ms_per_million_bytes", cost.ms_per_million_bytes),
            ] {
                check_time(&format!("estimate.{kind}.{name}"), slope)?;
            }
        }
        if self.operators.is_empty() {
            return Err("it has no operators".into());
        }
        let mut seen = std::collections::HashSet::new();
        for entry in &self.operators {
            let key = &entry.key;
            key.parse::<Operator>().map_err(|error| error.to_string())?;
            for (name, time) in [
                ("ms", entry.ms),
                ("mean_ms", entry.mean_ms),
                ("std_ms", entry.std_ms),
            ] {
                check_time(name, time).map_err(|reason| format!("operator `{key}`: {reason}"))?;
            }
            if !seen.insert(key) {
                return Err(format!("operator `{key}` stands twice"));
            }
        }
        Ok(())
    }

    /// Reads a target's file.
    ///
    /// # Errors
    /// If the file cannot be read or is no target.
    pub fn load(path: &Path) -> Result<Self> {
        if path.is_dir() || is_yaml(path) {
            return Self::load_ofa_tables(path);
        }
        let text = std::fs::read_to_string(path).map_err(|source| TargetError::File {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text).map_err(|reason| TargetError::Malformed {
            path: path.to_owned(),
            reason: format!("it is no target file of `oncefit profile`: {reason}"),
        })
    }

    /// Writes its file: all of it or, if that fails, nothing.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_atomically(path, self.to_text().as_bytes())
    }

    /// Checks that it was measured for the family of `space`. A narrowed space, or one with other
    /// parameters, is of the same family; whether its operators are in the table shows when they
    /// are looked up.
    ///
    /// # Errors
    /// If it was measured for another family.
    pub fn check_space(&self, space: &Space) -> Result<()> {
        if self.space == space.name() || self.style == KeyStyle::OnceForAll {
            return Ok(());
        }
        Err(TargetError::OtherSpace {
            what: format!("the table of {}", self.device),
            found: self.space.clone(),
            wanted: space.name().to_owned(),
            hint: "profile the device with this space",
        })
    }

    /// Its times of operators.
    ///
    /// # Errors
    /// If a time is none.
    pub fn table(&self) -> Result<OperatorTable> {
        let entries = self.operators.iter();
        OperatorTable::new(
            &self.device,
            self.style,
            self.intercept_ms,
            entries.map(|entry| (entry.key.clone(), entry.ms)),
        )
    }

    /// As [`Target::table`]; operators that it lacks are estimated from their work, and latencies
    /// with such a part are marked.
    ///
    /// # Errors
    /// As [`Target::table`].
    pub fn table_with_estimates(&self) -> Result<OperatorTable> {
        Ok(self.table()?.with_estimates(self.estimate.clone()))
    }
}

fn is_yaml(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml")
}

/// A file, or the tables of a folder in the order of their names.
fn ofa_files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let fails = |source| TargetError::File {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(fails)? {
        let file = entry.map_err(fails)?.path();
        files.extend(is_yaml(&file).then_some(file));
    }
    files.sort();
    if files.is_empty() {
        return Err(TargetError::Malformed {
            path: path.to_owned(),
            reason: "a target is a .toml file of `oncefit profile`, or a .yaml table of the Once-for-All authors, or a folder of such tables; this folder has no .yaml files".into(),
        });
    }
    Ok(files)
}

/// Writes a file next to its place and moves it there.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let fails = |source| TargetError::File {
        action: "write",
        path: path.to_owned(),
        source,
    };
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let mut file =
        tempfile::NamedTempFile::new_in(parent.unwrap_or(Path::new("."))).map_err(fails)?;
    file.write_all(bytes).map_err(fails)?;
    file.as_file().sync_all().map_err(fails)?;
    file.persist(path).map_err(|error| fails(error.error))?;
    Ok(())
}
