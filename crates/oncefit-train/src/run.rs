//! The run folder: everything a training produced, readable without Oncefit.
//!
//! ```text
//! recipe.toml        the resolved recipe
//! space.txt          the space, in its text form
//! checkpoints/       step-NNNNNNNNN.safetensors, the last few; best.safetensors
//! teacher.safetensors  what phases of progressive shrinking learn from
//! metrics.jsonl      one JSON object a line, by step
//! evaluations.jsonl  measured subnets
//! predictor.safetensors, predictor.json  accuracies, learnt from them
//! fits.jsonl         networks that were chosen and exported
//! provenance.json    version, seeds, hashes, machine, command
//! report.html
//! ```

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};
use crate::files::write_atomically;
use crate::recipe::Recipe;

/// A folder with a `recipe.toml`, locked while it is held for writing: two processes cannot write to
/// one run.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    _lock: Option<File>,
}

const RECIPE: &str = "recipe.toml";

impl RunFolder {
    /// Makes a new one and writes its recipe.
    ///
    /// # Errors
    /// If there is a run already, or the folder cannot be written.
    pub fn create(path: &Path, recipe: &str) -> Result<Self> {
        let file = path.join(RECIPE);
        if file.exists() {
            return Err(TrainError::Run {
                path: path.to_owned(),
                reason: "there is a run already; `--resume` continues it, `--overwrite` removes it first".into(),
            });
        }
        fs::create_dir_all(path).map_err(TrainError::file("create", path))?;
        let lock = lock_folder(path)?;
        write_atomically(&file, recipe.as_bytes())?;
        Ok(Self {
            path: path.to_owned(),
            _lock: Some(lock),
        })
    }

    /// Opens one to read it, as others may do at the same time; returns the recipe's text and the
    /// name of its file. `command` makes such folders.
    ///
    /// # Errors
    /// If it is no run folder.
    pub fn open_to_read(path: &Path, command: &str) -> Result<(Self, String, String)> {
        let file = path.join(RECIPE);
        if !file.exists() {
            return Err(TrainError::Run {
                path: path.to_owned(),
                reason: format!(
                    "it is no run folder (it has no {RECIPE}); `oncefit {command} RECIPE` makes one"
                ),
            });
        }
        let text = fs::read_to_string(&file).map_err(TrainError::file("read", &file))?;
        let folder = Self {
            path: path.to_owned(),
            _lock: None,
        };
        Ok((folder, text, file.display().to_string()))
    }

    /// Holds it for writing.
    ///
    /// # Errors
    /// If another process has it.
    pub fn locked(self) -> Result<Self> {
        Ok(Self {
            _lock: Some(lock_folder(&self.path)?),
            ..self
        })
    }

    /// Removes its recipe and the files and folders of these names, and nothing else. Nothing is done
    /// in a folder without a recipe.
    ///
    /// # Errors
    /// If it is another process's or cannot be removed.
    pub fn remove(path: &Path, names: &[&str]) -> Result<()> {
        if !path.join(RECIPE).exists() {
            return Ok(());
        }
        let _lock = lock_folder(path)?;
        // The recipe last: what is left of an interrupted removal can be removed.
        for name in names.iter().chain([&RECIPE]) {
            let path = path.join(name);
            let removed = match (path.is_dir(), path.exists()) {
                (true, _) => fs::remove_dir_all(&path),
                (false, true) => fs::remove_file(&path),
                (false, false) => Ok(()),
            };
            removed.map_err(TrainError::file("remove", &path))?;
        }
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// The folder of a training.
#[derive(Debug)]
pub struct Run {
    folder: RunFolder,
    recipe: Recipe,
}

impl Run {
    /// Makes a new run folder for a resolved recipe.
    ///
    /// # Errors
    /// If there is a run already, or the folder cannot be written.
    pub fn create(folder: &Path, recipe: &Recipe) -> Result<Self> {
        Ok(Self {
            folder: RunFolder::create(folder, &recipe.to_toml())?,
            recipe: recipe.clone(),
        })
    }

    /// Opens a run to continue it.
    ///
    /// # Errors
    /// If it is no run folder, another process has it, or its recipe is damaged.
    pub fn open(folder: &Path) -> Result<Self> {
        let Self { folder, recipe } = Self::open_to_read(folder)?;
        let folder = folder.locked()?;
        Ok(Self { folder, recipe })
    }

    /// Opens a run to read it; others may do so at the same time.
    ///
    /// # Errors
    /// If it is no run folder or its recipe is damaged.
    pub fn open_to_read(folder: &Path) -> Result<Self> {
        let (folder, text, name) = RunFolder::open_to_read(folder, "train")?;
        let recipe = Recipe::parse(&text, &name)?;
        Ok(Self { folder, recipe })
    }

    /// Removes what a run consists of, and nothing else, from a folder.
    ///
    /// # Errors
    /// If it is another process's or cannot be removed.
    pub fn remove(folder: &Path) -> Result<()> {
        let names = [
            "space.txt",
            METRICS,
            EVALUATIONS,
            TEACHER,
            "fits.jsonl",
            "predictor.safetensors",
            "predictor.json",
            "provenance.json",
            "report.html",
            CHECKPOINTS,
        ];
        RunFolder::remove(folder, &names)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The resolved recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// The folder of its checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.file(CHECKPOINTS)
    }

    /// A file of the run.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.file(name)
    }

    /// Writes a text file of the run.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, name: &str, contents: &str) -> Result<()> {
        write_atomically(&self.file(name), contents.as_bytes())
    }

    /// The rows of `metrics.jsonl`.
    ///
    /// # Errors
    /// If the file cannot be read. An unfinished last line is left out.
    pub fn metrics(&self) -> Result<Vec<MetricsRow>> {
        read_rows(&self.file(METRICS))
    }
}

/// Name of the metrics log.
pub const METRICS: &str = "metrics.jsonl";
/// Name of the log of evaluations.
pub const EVALUATIONS: &str = "evaluations.jsonl";
/// Name of the teacher's weights.
pub(crate) const TEACHER: &str = "teacher.safetensors";
const CHECKPOINTS: &str = "checkpoints";

/// Locks a run folder until the file is dropped.
///
/// # Errors
/// If another process holds it, or the lock cannot be made.
pub fn lock_folder(folder: &Path) -> Result<File> {
    let path = folder.join(".lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(TrainError::file("create", &path))?;
    file.try_lock().map_err(|_| TrainError::Run {
        path: folder.to_owned(),
        reason: "another process is working on this run".into(),
    })?;
    Ok(file)
}

/// What training logs every so many steps.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MetricsRow {
    /// Steps done.
    pub step: u64,
    /// Epochs done.
    pub epoch: f64,
    /// Name of the schedule's phase.
    #[serde(default)]
    pub phase: String,
    /// Mean loss of the steps' first networks since the row before.
    pub loss: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Weight β of the small networks.
    pub small_network_weight: f64,
    /// Multiply-accumulates spent on training so far.
    pub train_macs: u64,
    /// Seconds of training so far; not part of what a resumed run repeats exactly.
    pub seconds: f64,
    /// Validation accuracy of some subnets, where they were measured, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accuracies: Vec<(String, f64)>,
}

/// A log of JSON rows that grows by whole lines.
#[derive(Debug)]
pub struct RowLog {
    path: PathBuf,
    file: File,
}

impl RowLog {
    /// Opens a log to append to it.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn append(path: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .map_err(TrainError::file("open", path))?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// Appends a row.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn push<T: Serialize>(&mut self, row: &T) -> Result<()> {
        let mut line = serde_json::to_string(row).expect("rows are plain data");
        line.push('\n');
        self.file
            .write_all(line.as_bytes())
            .map_err(TrainError::file("write", &self.path))
    }
}

/// The rows of a log; an unfinished last line is left out, a missing file is empty.
///
/// # Errors
/// If the file cannot be read or a whole line is no row.
pub fn read_rows<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Vec<T>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(TrainError::file("read", path)(error)),
    };
    let lines: Vec<&str> = text.lines().collect();
    let mut rows = Vec::with_capacity(lines.len());
    for (index, line) in lines.iter().enumerate() {
        match serde_json::from_str(line) {
            Ok(row) => rows.push(row),
            Err(_) if index + 1 == lines.len() && !text.ends_with('\n') => {}
            Err(error) => {
                return Err(TrainError::Run {
                    path: path.to_owned(),
                    reason: format!("line {} is no row: {error}", index + 1),
                });
            }
        }
    }
    Ok(rows)
}

/// Drops the metrics after `step`: a resumed run writes them again.
///
/// # Errors
/// If the log cannot be read or written.
pub(crate) fn truncate_metrics(path: &Path, step: u64) -> Result<Vec<MetricsRow>> {
    let mut rows: Vec<MetricsRow> = read_rows(path)?;
    rows.retain(|row| row.step <= step);
    let text: String = rows
        .iter()
        .map(|row| serde_json::to_string(row).expect("rows are plain data") + "\n")
        .collect();
    write_atomically(path, text.as_bytes())?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64) -> MetricsRow {
        MetricsRow {
            step,
            epoch: step as f64 / 10.0,
            phase: "sandwich".into(),
            loss: 0.1 + 0.2,
            learning_rate: 1e-3,
            small_network_weight: 0.0,
            train_macs: 5,
            seconds: 1.5,
            accuracies: vec![("largest".into(), 0.5)],
        }
    }

    #[test]
    fn logs_forgive_an_unfinished_last_line_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS);
        let mut log = RowLog::append(&path).unwrap();
        (1..=3).for_each(|step| log.push(&row(step)).unwrap());
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 4]).unwrap();
        assert_eq!(read_rows::<MetricsRow>(&path).unwrap(), [row(1), row(2)]);
        assert_eq!(truncate_metrics(&path, 1).unwrap(), [row(1)]);
        assert_eq!(read_rows::<MetricsRow>(&path).unwrap(), [row(1)]);
        fs::write(&path, format!("{{}}\n{whole}")).unwrap();
        assert!(
            read_rows::<MetricsRow>(&path)
                .unwrap_err()
                .to_string()
                .contains("line 1")
        );
    }

    #[test]
    fn a_run_is_made_once_opened_by_one_and_removed_whole() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("run");
        let recipe = Recipe::parse("[space]\nfamily = \"fm-nano\"", "r").unwrap();
        let run = Run::create(&folder, &recipe).unwrap();
        assert!(
            Run::create(&folder, &recipe)
                .unwrap_err()
                .to_string()
                .contains("--resume")
        );
        assert!(
            Run::open(&folder)
                .unwrap_err()
                .to_string()
                .contains("another process")
        );
        assert_eq!(Run::open_to_read(&folder).unwrap().recipe(), &recipe);
        drop(run);
        drop(Run::open(&folder).unwrap());
        fs::write(folder.join("mine.txt"), "kept").unwrap();
        Run::remove(&folder).unwrap();
        assert!(
            Run::open(&folder)
                .unwrap_err()
                .to_string()
                .contains("no run folder")
        );
        assert!(folder.join("mine.txt").exists());
    }
}
