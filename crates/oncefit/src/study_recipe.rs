//! Study files: which members of which space are tried, by which searcher, and what scores them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oncefit_search::{
    Bracket, Evolution, EvolutionSettings, ExhaustiveSearch, HalvingSettings, HyperbandSettings,
    Limit, Mcts, MctsSettings, Metric, Nsga2, Nsga2Settings, RandomKind, RandomSearch, Region,
    RegularisedEvolution, RegularisedSettings, Screening, Searcher, Smbo, SmboSettings,
};
use oncefit_space::Space;
use oncefit_train::{Recipe, Run, RunData, SpaceRecipe, field_names, parse_strictly};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::loaded::{LoadedRun, WhichCheckpoint};
use crate::recipe_kind::RecipeKind;

/// Trials for each seed, where a study does not say how many.
const TRIALS: usize = 64;
/// Rounds of successive halving after the first, where its settings do not say how many.
const MOST_ROUNDS: usize = 3;

/// What decides a study.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct StudyRecipe {
    /// Name of the study; by default that of the file.
    pub name: String,
    /// One study for each seed.
    pub seeds: Vec<u64>,
    /// Trials for each seed; by default 64, or as many as successive halving and Hyperband have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trials: Option<usize>,
    /// The space; not needed where a run has one.
    pub space: SpaceRecipe,
    /// Who proposes members.
    pub searcher: SearcherRecipe,
    /// What a member may cost.
    pub limits: LimitsRecipe,
    /// What scores members.
    pub objective: ObjectiveRecipe,
}

impl Default for StudyRecipe {
    fn default() -> Self {
        Self {
            name: String::new(),
            seeds: vec![0],
            trials: None,
            space: SpaceRecipe::default(),
            searcher: SearcherRecipe::default(),
            limits: LimitsRecipe::default(),
            objective: ObjectiveRecipe::default(),
        }
    }
}

/// `[searcher]`
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SearcherRecipe {
    /// Which algorithm.
    pub kind: SearcherName,
    /// Its settings, where they are not the usual ones.
    pub settings: toml::Table,
}

/// The algorithms.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SearcherName {
    /// Every decision uniform.
    Random,
    /// Every member equally likely.
    RandomLeaf,
    /// Monte-Carlo tree search with bisection of ordered decisions.
    TreeSearch,
    /// Sequential model-based optimisation with a linear surrogate.
    #[default]
    Surrogate,
    /// Evolution in which the oldest dies.
    RegularisedEvolution,
    /// Once-for-All's evolution.
    Evolution,
    /// For two objectives or more.
    NsgaIi,
    /// Every member in order.
    Exhaustive,
    /// Many members at a small budget, the best of them at larger ones.
    SuccessiveHalving,
    /// Successive halving from several smallest budgets.
    Hyperband,
}

impl SearcherName {
    /// Whether trials have budgets.
    pub fn has_budgets(self) -> bool {
        matches!(self, Self::SuccessiveHalving | Self::Hyperband)
    }
}

/// `[limits]`, on costs of the graph.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitsRecipe {
    /// Most multiply-accumulates for one image; 0: no limit.
    pub macs: u64,
    /// Most weights; 0: no limit.
    pub parameters: u64,
    /// Most bytes of live activations; 0: no limit.
    pub peak_memory: u64,
}

/// What scores a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectiveKind {
    /// Training it from scratch by a recipe: accuracy on the validation images.
    #[default]
    Train,
    /// A supernet's run: calibrated accuracy on the validation images, without training.
    Run,
    /// A table in JSON or CSV.
    Table,
    /// A program that reads a member and writes its score, both as JSON.
    Command,
}

/// `[objective]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ObjectiveRecipe {
    /// Which.
    pub kind: ObjectiveKind,
    /// What is scored, the main objective first; a leading `-` means that less is better. `train` and
    /// `run` know `accuracy`, `macs`, `parameters` and `peak_memory`; a table its columns; a command
    /// gives as many scores as there are names.
    pub names: Vec<String>,
    /// `train`: the recipe; its space and schedule are replaced by the member.
    pub recipe: PathBuf,
    /// `train`: passes over the training images; 0: the recipe's.
    pub epochs: u32,
    /// `run`: the run folder.
    pub run: PathBuf,
    /// `table`: the file, .json or .csv.
    pub table: PathBuf,
    /// `table`: what its keys are, `text` or `digits`.
    pub keys: String,
    /// `table` with learning curves: for each budget the columns of `names`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub budgets: BTreeMap<String, Columns>,
    /// `command`: the program.
    pub program: String,
    /// `command`: its arguments.
    pub arguments: Vec<String>,
    /// `command`: seconds after which it is stopped.
    pub timeout: f64,
    /// `command`: programs at once; `run`: members measured at once.
    pub at_once: usize,
    /// `command`: names of its constraints, violated above 0.
    pub constraints: Vec<String>,
}

/// Columns of a table, one for each objective.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(untagged, expecting = "the name of a column, or a list of names")]
pub enum Columns {
    /// Of the only objective.
    One(String),
    /// Of each objective, in the order of `names`.
    Each(Vec<String>),
}

impl Columns {
    /// Their names.
    pub fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Each(names) => names,
        }
    }
}

impl Default for ObjectiveRecipe {
    fn default() -> Self {
        Self {
            kind: ObjectiveKind::default(),
            names: vec!["accuracy".into()],
            recipe: PathBuf::new(),
            epochs: 0,
            run: PathBuf::new(),
            table: PathBuf::new(),
            keys: "text".into(),
            budgets: BTreeMap::new(),
            program: String::new(),
            arguments: Vec::new(),
            timeout: 3600.0,
            at_once: 1,
            constraints: Vec::new(),
        }
    }
}

impl StudyRecipe {
    /// Reads a study file; paths in it are relative to its folder.
    ///
    /// # Errors
    /// If it cannot be read, has unknown keys, or asks for what makes no sense.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::File {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        let mut recipe: Self = parse_strictly(&text, &path.display().to_string(), &keys)?;
        if recipe.name.is_empty() {
            let stem = path.file_stem().unwrap_or_default();
            recipe.name = stem.to_string_lossy().into_owned();
        }
        let parent = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let folder = parent.unwrap_or(Path::new("."));
        let folder = std::path::absolute(folder).map_err(|source| Error::File {
            action: "find",
            path: folder.to_owned(),
            source,
        })?;
        let objective = &mut recipe.objective;
        for file in [
            &mut objective.recipe,
            &mut objective.run,
            &mut objective.table,
        ] {
            if !file.as_os_str().is_empty() {
                *file = folder.join(&*file);
            }
        }
        if let Some(file) = &mut recipe.space.file {
            *file = folder.join(&*file);
        }
        recipe.check()?;
        recipe.resolve()?;
        Ok(recipe)
    }

    /// Trials for each seed.
    pub fn trials(&self) -> usize {
        self.trials.unwrap_or(TRIALS)
    }

    /// Writes out what follows from the objective: the budgets of a screening, the number of trials.
    fn resolve(&mut self) -> Result<()> {
        if !self.searcher.kind.has_budgets() {
            self.trials.get_or_insert(TRIALS);
            return Ok(());
        }
        if !self.searcher.settings.contains_key("largest_budget") {
            let full = i64::try_from(self.full_budget()?).unwrap_or(i64::MAX);
            self.searcher
                .settings
                .insert("largest_budget".into(), full.into());
        }
        let of_table: Vec<u64> = self
            .table_budgets()?
            .iter()
            .map(|(budget, _)| *budget)
            .collect();
        let number = |settings: &toml::Table, key: &str| {
            let found = settings.get(key).and_then(toml::Value::as_integer);
            found.and_then(|found| u64::try_from(found).ok())
        };
        let settings = &mut self.searcher.settings;
        settings.entry("factor").or_insert(toml::Value::Integer(3));
        // Wrong types are found when the settings are read.
        if let (Some(largest), Some(factor @ 2..)) = (
            number(settings, "largest_budget"),
            number(settings, "factor"),
        ) {
            let smallest = match self.searcher.kind {
                SearcherName::Hyperband => "smallest_budget",
                _ => "budget",
            };
            let mut usual = |key: &str, value: u64| {
                let value = i64::try_from(value).unwrap_or(i64::MAX);
                settings.entry(key).or_insert(toml::Value::Integer(value));
            };
            let share = (0..MOST_ROUNDS).fold(1u64, |share, _| share.saturating_mul(factor));
            let of_table = of_table.first().copied();
            usual(smallest, of_table.unwrap_or(largest.div_ceil(share).max(1)));
            if self.searcher.kind == SearcherName::SuccessiveHalving {
                // As many as leave one at the largest budget.
                let smallest = number(settings, "budget").unwrap_or(1).max(1);
                let (mut budget, mut candidates) = (smallest, 1u64);
                while budget < largest {
                    budget = budget.saturating_mul(factor);
                    candidates = candidates.saturating_mul(factor);
                }
                let candidates = i64::try_from(candidates).unwrap_or(i64::MAX);
                settings
                    .entry("candidates")
                    .or_insert(toml::Value::Integer(candidates));
            }
        }
        let brackets = self.brackets()?;
        let unknown = brackets
            .iter()
            .flatten()
            .find(|(_, budget)| !of_table.is_empty() && !of_table.contains(budget));
        if let Some((_, budget)) = unknown {
            return Err(Error::Request(format!(
                "study `{}`: a round has budget {budget}, for which [objective.budgets] has no column; it has {of_table:?}; rounds follow from [searcher.settings]",
                self.name
            )));
        }
        let planned = brackets.iter().flatten().map(|(count, _)| count).sum();
        self.trials.get_or_insert(planned);
        Ok(())
    }

    /// What a full evaluation is, in the unit of budgets.
    fn full_budget(&self) -> Result<u64> {
        let objective = &self.objective;
        Ok(match objective.kind {
            ObjectiveKind::Train if objective.epochs > 0 => objective.epochs.into(),
            ObjectiveKind::Train => Recipe::load(&objective.recipe)?.schedule.epochs.into(),
            ObjectiveKind::Run => {
                Run::open_to_read(&objective.run)?.recipe().data.validation as u64
            }
            ObjectiveKind::Table => {
                let budgets = self.table_budgets()?;
                budgets.last().map_or(1, |(budget, _)| *budget)
            }
            ObjectiveKind::Command => {
                return Err(Error::Request(format!(
                    "study `{}`: [searcher.settings] needs `largest_budget`: how much a full evaluation spends, in a unit of your own; the program gets the `budget` of each trial",
                    self.name
                )));
            }
        })
    }

    /// The budgets of a table of learning curves, rising, with their columns; none of other tables.
    ///
    /// # Errors
    /// If a budget is no number, or has another number of columns than there are objectives.
    pub fn table_budgets(&self) -> Result<Vec<(u64, &[String])>> {
        let objective = &self.objective;
        let mut budgets = Vec::new();
        for (key, columns) in &objective.budgets {
            let columns = columns.names();
            let budget = key.parse::<u64>().ok().filter(|budget| *budget > 0);
            match budget {
                Some(budget) if columns.len() == objective.names.len() => {
                    budgets.push((budget, columns));
                }
                Some(budget) => {
                    return Err(Error::Request(format!(
                        "study `{}`: [objective.budgets] has {} columns for budget {budget}; `objective.names` has {}",
                        self.name,
                        columns.len(),
                        objective.names.len()
                    )));
                }
                None => {
                    return Err(Error::Request(format!(
                        "study `{}`: [objective.budgets]: a budget is an integer from 1, this is `{key}`",
                        self.name
                    )));
                }
            }
        }
        budgets.sort_unstable();
        Ok(budgets)
    }

    /// The brackets of a screening: rounds of how many members at which budget. None for other
    /// searchers.
    ///
    /// # Errors
    /// If a setting is unknown or illegal.
    pub fn brackets(&self) -> Result<Vec<Bracket>> {
        Ok(match self.searcher.kind {
            SearcherName::SuccessiveHalving => {
                vec![self.searcher.settings::<HalvingSettings>()?.bracket()?]
            }
            SearcherName::Hyperband => self.searcher.settings::<HyperbandSettings>()?.brackets()?,
            _ => Vec::new(),
        })
    }

    /// The largest budget of a screening.
    ///
    /// # Errors
    /// As [`StudyRecipe::brackets`].
    pub fn largest_budget(&self) -> Result<Option<u64>> {
        let brackets = self.brackets()?;
        Ok(brackets.iter().flatten().map(|(_, budget)| *budget).max())
    }

    /// As it stands in the study's folder.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a study is plain data")
    }

    fn check(&self) -> Result<()> {
        let fails =
            |message: &str| Err(Error::Request(format!("study `{}`: {message}", self.name)));
        let mut seeds = self.seeds.clone();
        seeds.sort_unstable();
        seeds.dedup();
        if seeds.is_empty() || seeds.len() < self.seeds.len() {
            return fails("`seeds` needs at least one seed, each once");
        }
        if self.trials == Some(0) {
            return fails("`trials` must be at least 1");
        }
        let objective = &self.objective;
        if objective.names.is_empty() {
            return fails("`objective.names` needs at least one name");
        }
        if self.searcher.kind == SearcherName::NsgaIi && objective.names.len() < 2 {
            return fails("searcher `nsga-ii` needs two names in `objective.names` or more");
        }
        let has_curves = !objective.budgets.is_empty();
        if has_curves && objective.kind != ObjectiveKind::Table {
            return fails("[objective.budgets] names columns of a table; this objective has none");
        }
        if self.searcher.kind.has_budgets() && objective.kind == ObjectiveKind::Table && !has_curves
        {
            return fails(
                "`successive-halving` and `hyperband` need a table with a column for each budget: [objective.budgets] names them, as in `3 = \"accuracy_3\"`",
            );
        }
        self.table_budgets()?;
        match objective.kind {
            ObjectiveKind::Train if objective.recipe.as_os_str().is_empty() => {
                fails("objective `train` needs `recipe`, a recipe of `oncefit train`")
            }
            ObjectiveKind::Run if objective.run.as_os_str().is_empty() => {
                fails("objective `run` needs `run`, a run folder")
            }
            ObjectiveKind::Table if objective.table.as_os_str().is_empty() => {
                fails("objective `table` needs `table`, a .json or .csv file")
            }
            ObjectiveKind::Command if objective.program.is_empty() => {
                fails("objective `command` needs `program`")
            }
            _ if !matches!(objective.keys.as_str(), "text" | "digits") => {
                fails("`objective.keys` is `text` or `digits`")
            }
            _ if !(objective.timeout > 0.0 && objective.timeout < 1e9) => {
                fails("`objective.timeout` must be a number of seconds above 0")
            }
            _ => Ok(()),
        }
    }

    /// Whether the program of an objective `command` is there: a file, or one in PATH.
    ///
    /// # Errors
    /// If it is not.
    pub fn find_program(&self) -> Result<()> {
        let program = Path::new(&self.objective.program);
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let is_there = match program.components().count() {
            1 => std::env::split_paths(&folders).any(|folder| folder.join(program).is_file()),
            _ => program.is_file(),
        };
        match self.objective.kind == ObjectiveKind::Command && !is_there {
            true => Err(Error::Request(format!(
                "study `{}`: `objective.program`: there is no program `{}`; write its name, if it is in PATH, or its path from the folder of the call",
                self.name, self.objective.program
            ))),
            false => Ok(()),
        }
    }

    /// The space whose members are tried.
    ///
    /// # Errors
    /// If it cannot be read or built.
    pub fn build_space(&self) -> Result<Space> {
        let names_one = self.space.family.is_some() || self.space.file.is_some();
        match self.objective.kind {
            ObjectiveKind::Run => {
                Ok(LoadedRun::open(&self.objective.run, WhichCheckpoint::Newest)?.space)
            }
            ObjectiveKind::Train => {
                let path = &self.objective.recipe;
                let recipe = RecipeKind::Training.expect(path, Recipe::load(path))?;
                let data = RunData::load(&recipe)?;
                let space = if names_one {
                    &self.space
                } else {
                    &recipe.space
                };
                let classes = data.train.class_names().len();
                let space = space.build(data.train.channels(), classes)?;
                recipe.check_settings(&space)?;
                Ok(space)
            }
            _ => match (&self.space.family, &self.space.file) {
                (Some(family), None) => Ok(Space::builtin(family)?),
                (None, Some(file)) => super::commands::space_of(&file.display().to_string()),
                _ => Err(Error::Request(format!(
                    "study `{}`: [space] needs either `family` (one of {}) or `file`",
                    self.name,
                    Space::builtin_names().join(", ")
                ))),
            },
        }
    }

    /// The searcher of a seed.
    ///
    /// # Errors
    /// If no member is within the limits, or a setting is unknown.
    pub fn build_searcher(&self, space: &Space, seed: u64) -> Result<Box<dyn Searcher>> {
        const MOST_MEMBERS: u64 = 1_000_000;
        let limits = [
            (Metric::Macs, self.limits.macs),
            (Metric::Parameters, self.limits.parameters),
            (Metric::PeakMemory, self.limits.peak_memory),
        ];
        let limits: Vec<Limit> = limits
            .into_iter()
            .filter(|(_, at_most)| *at_most > 0)
            .map(|(metric, at_most)| Limit { metric, at_most })
            .collect();
        let region = Region::of_graph_limits(space, &limits)?;
        let recipe = &self.searcher;
        Ok(match recipe.kind {
            SearcherName::Random => {
                recipe.without_settings()?;
                Box::new(RandomSearch::within(region, RandomKind::Paths, seed))
            }
            SearcherName::RandomLeaf => {
                recipe.without_settings()?;
                Box::new(RandomSearch::within(region, RandomKind::Leaves, seed))
            }
            SearcherName::TreeSearch => Box::new(Mcts::within(
                region,
                recipe.settings::<MctsSettings>()?,
                seed,
            )),
            SearcherName::Surrogate => Box::new(Smbo::within(
                region,
                recipe.settings::<SmboSettings>()?,
                seed,
            )),
            SearcherName::RegularisedEvolution => Box::new(RegularisedEvolution::within(
                region,
                recipe.settings::<RegularisedSettings>()?,
                seed,
            )),
            SearcherName::Evolution => Box::new(Evolution::within(
                region,
                recipe.settings::<EvolutionSettings>()?,
                seed,
            )),
            SearcherName::NsgaIi => Box::new(Nsga2::within(
                region,
                recipe.settings::<Nsga2Settings>()?,
                seed,
            )),
            SearcherName::SuccessiveHalving => Box::new(Screening::halving(
                region,
                recipe.settings::<HalvingSettings>()?,
                seed,
            )?),
            SearcherName::Hyperband => Box::new(Screening::hyperband(
                region,
                recipe.settings::<HyperbandSettings>()?,
                seed,
            )?),
            SearcherName::Exhaustive => {
                recipe.without_settings()?;
                Box::new(ExhaustiveSearch::within(region, MOST_MEMBERS)?)
            }
        })
    }

    /// How long a command may take.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.objective.timeout)
    }
}

impl SearcherRecipe {
    fn without_settings(&self) -> Result<()> {
        match self.settings.keys().next() {
            None => Ok(()),
            Some(key) => Err(Error::Request(format!(
                "[searcher.settings]: unknown key `{key}`; this searcher has no settings"
            ))),
        }
    }

    fn settings<T: Default + DeserializeOwned + Serialize>(&self) -> Result<T> {
        let invalid = |reason: String| Error::Request(format!("[searcher.settings]: {reason}"));
        let usual =
            toml::Table::try_from(T::default()).map_err(|error| invalid(error.to_string()))?;
        if let Some(key) = self.settings.keys().find(|key| !usual.contains_key(*key)) {
            let legal: Vec<&str> = usual.keys().map(String::as_str).collect();
            return Err(invalid(format!(
                "unknown key `{key}`; legal keys: {}",
                legal.join(", ")
            )));
        }
        let value = toml::Value::Table(self.settings.clone());
        value
            .try_into()
            .map_err(|error: toml::de::Error| invalid(error.to_string()))
    }
}

/// The legal keys of a section.
fn keys(section: &str) -> &'static [&'static str] {
    match section {
        "" => field_names::<StudyRecipe>(),
        "space" => field_names::<SpaceRecipe>(),
        "searcher" => field_names::<SearcherRecipe>(),
        "limits" => field_names::<LimitsRecipe>(),
        "objective" => field_names::<ObjectiveRecipe>(),
        _ => &[],
    }
}
