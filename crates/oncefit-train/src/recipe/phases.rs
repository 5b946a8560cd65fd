//! From the keys of `[schedule]` to the phases of a training.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use oncefit_nn::AlphaDivergence;
use oncefit_space::{DecisionSlot, Space, Value};

use super::schedule::{
    DistillationKind, PhaseRecipe, SamplerKind, ScheduleKind, ScheduleRecipe, SortKind,
};
use super::sections::{DecayKind, OptimiserRecipe};
use super::space_value;
use crate::error::{Result, TrainError};
use crate::learning_rate::{Decay, LearningRate};
use crate::sampler::{Pick, RESOLUTION, Sampler, StepSpace};
use crate::schedule::{ChannelSort, Distance, Lesson, Networks, Phase, Sandwich, Schedule};

/// Epochs of Once-for-All's phases (Cai et al. 2020, appendix B): the largest network; a phase that
/// opens all values; one that opens the next value on the way there.
const LARGEST_EPOCHS: f64 = 180.0;
const ALL_EPOCHS: f64 = 125.0;
const NEXT_EPOCHS: f64 = 25.0;
/// Their learning rates as shares of the first phase's 2.6: the kernel phase's 0.96, then 0.24 and
/// 0.08.
const KERNEL_RATE: f64 = 0.96 / 2.6;
const ALL_RATE: f64 = 0.24 / 2.6;
const NEXT_RATE: f64 = 0.08 / 2.6;
/// Share of a phase's epochs that is warm-up, where there is one: 5 of 125.
const WARM_UP_SHARE: f64 = 0.04;
/// A warm-up begins with the learning rate of one of 32 processors.
const WARM_UP_FACTOR: f64 = 1.0 / 32.0;

impl ScheduleRecipe {
    /// The phases for a space.
    ///
    /// # Errors
    /// If a name or value does not exist in the space, or there are too few epochs for the phases.
    pub(super) fn build(&self, optimiser: &OptimiserRecipe, space: &Space) -> Result<Schedule> {
        self.check_names(space)?;
        let phases = match self.kind {
            ScheduleKind::Plain | ScheduleKind::Sandwich | ScheduleKind::Deps => {
                vec![self.only_phase(optimiser, space)?]
            }
            ScheduleKind::Progressive if !self.phases.is_empty() => {
                self.build_phases(&self.phases, optimiser, space)?
            }
            ScheduleKind::Progressive => {
                self.build_phases(&self.progressive(space)?, optimiser, space)?
            }
            ScheduleKind::Compofa => self.build_phases(&self.compofa(space)?, optimiser, space)?,
        };
        Ok(Schedule {
            phases: phases.into_iter().map(Arc::new).collect(),
            aggregation: self.aggregation,
        })
    }

    /// Whether the decisions that it names exist; the usual ones may be missing, but not all.
    fn check_names(&self, space: &Space) -> Result<()> {
        let usual = Self::default();
        let opens = self.kind == ScheduleKind::Progressive && self.phases.is_empty();
        let follows = matches!(self.sampler(), Sampler::Compound { .. });
        for (key, is_used, names, usual) in [
            ("order", opens, &self.order, usual.order),
            ("compound", follows, &self.compound, usual.compound),
        ] {
            let is_known = |name: &&String| slots(space, name).next().is_some();
            let may_miss = names.iter().any(|name| is_known(&name));
            let mut missing = names.iter().filter(|name| !is_known(name));
            let unknown = missing.find(|name| !(may_miss && usual.contains(name)));
            if let (true, Some(unknown)) = (is_used, unknown) {
                return Err(TrainError::Recipe(format!(
                    "`schedule.{key}` names `{unknown}`, which is no decision of space `{}`; its decisions: {}",
                    space.name(),
                    decision_names(space)
                )));
            }
        }
        Ok(())
    }

    fn sampler(&self) -> Sampler {
        let pick = match (self.kind, self.sampler) {
            (ScheduleKind::Compofa, _) | (_, SamplerKind::Compound) => {
                return Sampler::Compound {
                    follow: self.compound.clone(),
                };
            }
            (_, SamplerKind::Uniform) => return Sampler::Uniform,
            (_, SamplerKind::BestOf) => Pick::Best,
            (_, SamplerKind::WorstOf) => Pick::Worst,
        };
        Sampler::BestOf {
            candidates: self.candidates,
            pick,
        }
    }

    /// The phase of a schedule that has one.
    fn only_phase(&self, optimiser: &OptimiserRecipe, space: &Space) -> Result<Phase> {
        let sandwich = Sandwich {
            networks: self.networks,
            smallest: self.smallest,
            delay: 0.0,
            ramp: 0.0,
            multiplier: self.multiplier,
        };
        let (name, networks) = match self.kind {
            ScheduleKind::Plain => ("one network", Networks::One(self.subnet.clone())),
            ScheduleKind::Deps => {
                let delayed = Sandwich {
                    delay: self.delay * f64::from(self.epochs),
                    ramp: self.ramp_epochs,
                    ..sandwich
                };
                ("delayed shrinking", Networks::Sandwich(delayed))
            }
            _ => ("sandwich", Networks::Sandwich(sandwich)),
        };
        // A network whose text names a resolution is trained at it.
        let mut open = BTreeMap::new();
        if self.kind == ScheduleKind::Plain && self.subnet.contains(RESOLUTION) {
            let subnet = space.parse_subnet(&self.subnet)?;
            let value = subnet.trace().get(RESOLUTION).cloned();
            open.extend(value.map(|value| (RESOLUTION.to_owned(), vec![value])));
        }
        let lesson = match self.distillation {
            DistillationKind::CrossEntropy => Lesson::Largest(Distance::CrossEntropy {
                temperature: self.temperature,
            }),
            DistillationKind::Alpha => Lesson::Largest(Distance::Alpha(AlphaDivergence::default())),
            DistillationKind::None => Lesson::Labels,
        };
        let sort = match (self.kind, self.sort_channels) {
            (ScheduleKind::Deps, SortKind::Global) => ChannelSort::Global,
            (ScheduleKind::Deps, SortKind::Tiered) => ChannelSort::Tiered(space.clone()),
            _ => ChannelSort::No,
        };
        Ok(Phase {
            name: name.into(),
            epochs: self.epochs,
            learning_rate: learning_rate(optimiser, 1.0, self.epochs, None),
            space: StepSpace::new(space, &open, self.sampler())?,
            dropout: self.kind == ScheduleKind::Plain,
            networks,
            lesson,
            sort,
        })
    }

    /// Once-for-All's phases in its proportions.
    fn progressive(&self, space: &Space) -> Result<Vec<PhaseRecipe>> {
        let mut phases = vec![largest_alone()];
        let mut shares = vec![LARGEST_EPOCHS];
        let mut open: BTreeMap<String, toml::Value> = BTreeMap::new();
        let mut networks = 1;
        for name in &self.order {
            let most = slots(space, name)
                .map(|slot| slot.domain.values.len())
                .max();
            let Some(most @ 2..) = most else { continue };
            let is_first = phases.len() == 1;
            // The first decision opens at once with one network a step; the others value by value.
            let stages = match is_first {
                true => vec![0],
                false => (0..most - 1).rev().collect(),
            };
            for stage in stages {
                let rate = match (stage, is_first) {
                    (0, true) => KERNEL_RATE,
                    (0, false) => ALL_RATE,
                    _ => NEXT_RATE,
                };
                open.extend(by_name_or_path(space, name, |slot| {
                    let mut values = slot.domain.values.clone();
                    values.sort();
                    let values = values.split_off(stage.min(values.len() - 1));
                    toml::Value::Array(values.iter().map(toml_value).collect())
                }));
                phases.push(PhaseRecipe {
                    name: format!(
                        "elastic {name}{}",
                        if stage > 0 { ", next value" } else { "" }
                    ),
                    open: open.clone(),
                    networks,
                    learning_rate: rate,
                    warm_up_epochs: if stage == 0 { WARM_UP_SHARE } else { 0.0 },
                    ..PhaseRecipe::default()
                });
                shares.push(if stage == 0 { ALL_EPOCHS } else { NEXT_EPOCHS });
            }
            networks *= 2;
        }
        if phases.len() == 1 {
            return Err(TrainError::Recipe(format!(
                "`schedule.order` ({}) opens nothing in space `{}`, whose decisions are {}",
                self.order.join(", "),
                space.name(),
                decision_names(space)
            )));
        }
        self.share_epochs(phases, &shares)
    }

    /// CompOFA's phases in its proportions (the authors' `train_ofa_net.py`): kernels stay at their
    /// largest.
    fn compofa(&self, space: &Space) -> Result<Vec<PhaseRecipe>> {
        let names = space.decisions().iter().map(|slot| slot.name.clone());
        let open: BTreeMap<String, toml::Value> = names
            .filter(|name| name != "kernel")
            .map(|name| (name, toml::Value::String(ALL.into())))
            .collect();
        let phase = |name: &str, learning_rate, warm_up_epochs| PhaseRecipe {
            name: name.into(),
            open: open.clone(),
            networks: 4,
            learning_rate,
            warm_up_epochs,
            ..PhaseRecipe::default()
        };
        let phases = vec![
            largest_alone(),
            phase("compound, first", NEXT_RATE, 0.0),
            phase("compound, second", ALL_RATE, WARM_UP_SHARE),
        ];
        self.share_epochs(phases, &[LARGEST_EPOCHS, NEXT_EPOCHS, ALL_EPOCHS])
    }

    /// Gives each phase its part of the epochs; a warm-up is a share of it until then.
    fn share_epochs(
        &self,
        mut phases: Vec<PhaseRecipe>,
        shares: &[f64],
    ) -> Result<Vec<PhaseRecipe>> {
        if (self.epochs as usize) < phases.len() {
            return Err(TrainError::Recipe(format!(
                "`schedule.epochs` is {}, but this schedule has {} phases; give at least one epoch to each",
                self.epochs,
                phases.len()
            )));
        }
        let total: f64 = shares.iter().sum();
        // One for each; what is left by largest remainder.
        let left = f64::from(self.epochs) - phases.len() as f64;
        let wanted: Vec<f64> = shares
            .iter()
            .map(|share| (share / total * f64::from(self.epochs) - 1.0).max(0.0))
            .collect();
        let scale = left / wanted.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        let exact: Vec<f64> = wanted.iter().map(|part| part * scale).collect();
        let mut epochs: Vec<u32> = exact.iter().map(|part| 1 + part.floor() as u32).collect();
        let mut by_remainder: Vec<usize> = (0..phases.len()).collect();
        by_remainder.sort_by(|&a, &b| {
            exact[b]
                .fract()
                .total_cmp(&exact[a].fract())
                .then(a.cmp(&b))
        });
        let missing = self.epochs.saturating_sub(epochs.iter().sum());
        for &index in by_remainder.iter().take(missing as usize) {
            epochs[index] += 1;
        }
        for (phase, epochs) in phases.iter_mut().zip(epochs) {
            phase.epochs = epochs;
            phase.warm_up_epochs *= f64::from(epochs);
        }
        Ok(phases)
    }

    fn build_phases(
        &self,
        recipes: &[PhaseRecipe],
        optimiser: &OptimiserRecipe,
        space: &Space,
    ) -> Result<Vec<Phase>> {
        let mut phases: Vec<Phase> = Vec::new();
        let mut before: Option<Space> = None;
        for (index, recipe) in recipes.iter().enumerate() {
            let open = recipe.opened(space)?;
            let mut opened = space.clone();
            for (name, values) in &open {
                opened = opened.restrict(name, values)?;
            }
            let widens = match &before {
                Some(before) => widens(before, &opened)?,
                None => false,
            };
            let sort = match before.take() {
                Some(trained) if widens && self.sort_channels != SortKind::No => {
                    ChannelSort::Tiered(trained)
                }
                _ => ChannelSort::No,
            };
            before = Some(opened);
            let learns = recipe.teacher.unwrap_or(index > 0) && self.teacher_weight > 0.0;
            let lesson = match learns {
                true => Lesson::Teacher {
                    weight: self.teacher_weight,
                    temperature: self.temperature,
                },
                false => Lesson::Labels,
            };
            phases.push(Phase {
                name: match recipe.name.is_empty() {
                    true => format!("phase {}", index + 1),
                    false => recipe.name.clone(),
                },
                epochs: recipe.epochs,
                learning_rate: learning_rate(
                    optimiser,
                    recipe.learning_rate,
                    recipe.epochs,
                    Some(recipe.warm_up_epochs),
                ),
                space: StepSpace::new(space, &open, self.sampler())?,
                networks: Networks::Random(recipe.networks),
                lesson,
                dropout: recipe.dropout,
                sort,
            });
        }
        Ok(phases)
    }
}

/// What stands for every value of a decision.
const ALL: &str = "all";

impl PhaseRecipe {
    /// The values of every decision that is not wholly open.
    fn opened(&self, space: &Space) -> Result<BTreeMap<String, Vec<Value>>> {
        let known = |name: &str| {
            let mut decisions = space.decisions().iter();
            decisions.any(|slot| slot.name == name || slot.path == name)
        };
        let mut values = BTreeMap::new();
        for (name, given) in &self.open {
            if !known(name) {
                // Says which there are.
                space.restrict(name, &[])?;
            }
            match given {
                toml::Value::String(word) if word == ALL => {}
                toml::Value::Array(given) => {
                    let given = given.iter().map(space_value).collect::<Result<Vec<_>>>()?;
                    values.insert(name.clone(), given);
                }
                other => {
                    return Err(TrainError::Recipe(format!(
                        "`schedule.phases.open.{name}` is {other}, but must be a list of values or \"{ALL}\""
                    )));
                }
            }
        }
        for slot in space.decisions() {
            let names = [&slot.name, &slot.path];
            let is_open =
                slot.name == RESOLUTION || names.iter().any(|name| self.open.contains_key(*name));
            if !is_open {
                values.extend(by_name_or_path(space, &slot.name, |slot| {
                    let largest = slot.domain.values.iter().max().cloned();
                    largest.into_iter().collect()
                }));
            }
        }
        Ok(values)
    }
}

fn largest_alone() -> PhaseRecipe {
    PhaseRecipe {
        name: "largest network".into(),
        dropout: false,
        ..PhaseRecipe::default()
    }
}

/// Whether an operation has more widths among the members of one space than of another.
fn widens(before: &Space, after: &Space) -> Result<bool> {
    let (before, after) = (before.envelope()?, after.envelope()?);
    let choices: HashMap<&str, usize> = before
        .nodes
        .iter()
        .map(|node| (node.path.as_str(), node.out_channel_choices.len()))
        .collect();
    Ok(after.nodes.iter().any(|node| {
        let choices = choices.get(node.path.as_str());
        choices.is_some_and(|count| node.out_channel_choices.len() > *count)
    }))
}

/// The decisions of a name.
fn slots<'s>(space: &'s Space, name: &'s str) -> impl Iterator<Item = &'s DecisionSlot> {
    space
        .decisions()
        .iter()
        .filter(move |slot| slot.name == name)
}

/// What the decisions of a name are narrowed to: all by their name, or each by its path where that
/// differs.
fn by_name_or_path<T: PartialEq>(
    space: &Space,
    name: &str,
    narrowed: impl Fn(&DecisionSlot) -> T,
) -> Vec<(String, T)> {
    let mut each: Vec<(String, T)> = slots(space, name)
        .map(|slot| (slot.path.clone(), narrowed(slot)))
        .collect();
    if each.windows(2).all(|pair| pair[0].1 == pair[1].1) {
        each.truncate(1);
        each.iter_mut().for_each(|(key, _)| name.clone_into(key));
    }
    each
}

/// The names of a space's decisions, for messages.
fn decision_names(space: &Space) -> String {
    let mut names: Vec<&str> = Vec::new();
    for slot in space.decisions() {
        if !names.contains(&slot.name.as_str()) {
            names.push(&slot.name);
        }
    }
    names.join(", ")
}

fn toml_value(value: &Value) -> toml::Value {
    match value {
        Value::Bool(value) => toml::Value::Boolean(*value),
        Value::Int(value) => toml::Value::Integer(*value),
        Value::Real(value) => toml::Value::Float(*value),
        Value::Text(value) => toml::Value::String(value.clone()),
    }
}

/// The learning rate of a phase; a phase with a warm-up of its own warms up as Once-for-All's do.
fn learning_rate(
    recipe: &OptimiserRecipe,
    share: f64,
    epochs: u32,
    warm_up_epochs: Option<f64>,
) -> LearningRate {
    LearningRate {
        base: share * recipe.learning_rate,
        floor: share * recipe.learning_rate_floor,
        warm_up_epochs: warm_up_epochs.unwrap_or(recipe.warm_up_epochs),
        warm_up_factor: match warm_up_epochs {
            Some(_) => WARM_UP_FACTOR,
            None => recipe.warm_up_factor,
        },
        epochs: f64::from(epochs),
        decay: match recipe.decay {
            DecayKind::Cosine => Decay::Cosine,
            DecayKind::Step => Decay::Step {
                milestones: recipe.milestones.clone(),
                factor: recipe.decay_factor,
            },
            DecayKind::Exponential => Decay::Exponential {
                factor: recipe.decay_factor,
                every: recipe.decay_epochs,
            },
            DecayKind::Constant => Decay::Constant,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(text: &str) -> Result<Schedule> {
        build_for("fm-nano", text)
    }

    fn build_for(family: &str, text: &str) -> Result<Schedule> {
        let text = format!("[space]\nfamily = \"{family}\"\n{text}");
        let recipe = super::super::Recipe::parse(&text, "r.toml")?;
        recipe.build_schedule(&recipe.build_space(1, 10)?)
    }

    /// Once-for-All's 605 epochs (appendix B).
    #[test]
    fn progressive_shrinking_has_the_phases_of_the_paper() {
        let schedule = build(
            "[schedule]\nkind = \"progressive\"\nepochs = 605\n[optimiser]\nlearning_rate = 2.6",
        )
        .unwrap();
        let epochs: Vec<u32> = schedule.phases.iter().map(|phase| phase.epochs).collect();
        assert_eq!(epochs, [180, 125, 25, 125, 25, 125]);
        let rates: Vec<f64> = schedule
            .phases
            .iter()
            .map(|phase| (phase.learning_rate.base * 1e4).round() / 1e4)
            .collect();
        assert_eq!(rates, [2.6, 0.96, 0.08, 0.24, 0.08, 0.24]);
        let networks: Vec<&Networks> = schedule
            .phases
            .iter()
            .map(|phase| &phase.networks)
            .collect();
        assert_eq!(
            networks,
            [1, 1, 2, 2, 4, 4]
                .map(Networks::Random)
                .iter()
                .collect::<Vec<_>>()
        );
        let warm_up: Vec<f64> = schedule
            .phases
            .iter()
            .map(|phase| phase.learning_rate.warm_up_epochs)
            .collect();
        assert_eq!(warm_up, [0.0, 5.0, 0.0, 5.0, 0.0, 5.0]);
        let smallest: Vec<String> = schedule
            .phases
            .iter()
            .map(|phase| phase.space.smallest(2).text())
            .collect();
        let texts = ["kernel=3", "depth=2", "depth=1", "expand=4", "expand=3"];
        assert!(!smallest[0].contains("kernel=3"), "{}", smallest[0]);
        for (text, smallest) in texts.iter().zip(&smallest[1..]) {
            assert!(smallest.contains(text), "{smallest}");
        }
        let sorts: Vec<bool> = schedule
            .phases
            .iter()
            .map(|phase| matches!(phase.sort, ChannelSort::Tiered(_)))
            .collect();
        assert_eq!(sorts, [false, false, false, false, true, true]);
        assert_eq!(schedule.teacher_phase(), Some(1));
    }

    #[test]
    fn few_epochs_are_shared_and_too_few_refused() {
        let schedule = build("[schedule]\nkind = \"progressive\"\nepochs = 28").unwrap();
        let epochs: Vec<u32> = schedule.phases.iter().map(|phase| phase.epochs).collect();
        assert_eq!(epochs.iter().sum::<u32>(), 28);
        assert!(epochs[0] >= 8 && epochs[2] >= 1, "{epochs:?}");
        let error = build("[schedule]\nkind = \"progressive\"\nepochs = 5").unwrap_err();
        assert!(error.to_string().contains("6 phases"), "{error}");
    }

    #[test]
    fn compofa_has_three_phases_of_compound_networks() {
        let schedule = build("[schedule]\nkind = \"compofa\"\nepochs = 330").unwrap();
        let epochs: Vec<u32> = schedule.phases.iter().map(|phase| phase.epochs).collect();
        assert_eq!(epochs, [180, 25, 125]);
        let phase = &schedule.phases[1];
        let networks = phase.step_networks(1, 5, 0.5).unwrap();
        assert_eq!(networks.len(), 4);
        assert!(
            networks
                .iter()
                .all(|network| network.candidates[0].text().contains("kernel=7"))
        );
    }

    /// Widths of `vgg-nano` differ from stage to stage.
    #[test]
    fn decisions_of_one_name_open_each_in_its_own_values() {
        let smallest = |text: &str| -> Vec<String> {
            let schedule = build_for("vgg-nano", text).unwrap();
            let each = schedule.phases.iter();
            each.map(|phase| phase.space.smallest(0).text()).collect()
        };
        let usual = smallest("[schedule]\nkind = \"progressive\"\nepochs = 9");
        assert_eq!(usual.len(), 3);
        assert!(
            usual.iter().all(|text| text.contains("width=8,16,32")),
            "{usual:?}"
        );
        let widths = smallest(
            "[schedule]\nkind = \"progressive\"\nepochs = 9\norder = [\"depth\", \"width\"]",
        );
        assert_eq!(widths.len(), 4);
        for (text, part) in widths
            .iter()
            .zip(["8,16,32", "8,16,32", "6,12,24", "4,8,16"])
        {
            assert!(text.contains(&format!("width={part}")), "{text}");
        }
        let compound = "[schedule]\nkind = \"compofa\"\nepochs = 9\ncompound = [\"width\"]";
        assert!(smallest(compound)[1].contains("width=4,8,16"));
    }

    #[test]
    fn names_that_open_nothing_are_refused() {
        for (family, keys, part) in [
            (
                "fm-nano",
                "order = [\"foo\"]",
                "`schedule.order` names `foo`",
            ),
            (
                "fm-nano",
                "order = [\"kernel\", \"foo\"]",
                "its decisions: resolution, ",
            ),
            ("fm-nano", "order = []", "opens nothing"),
            ("genetic-nano", "", "`schedule.order` names `kernel`"),
            (
                "fm-nano",
                "sampler = \"compound\"\ncompound = [\"expnad\"]",
                "names `expnad`",
            ),
            (
                "vgg-nano",
                "sampler = \"compound\"",
                "`schedule.compound` names `expand`",
            ),
        ] {
            let text = format!("[schedule]\nkind = \"progressive\"\n{keys}");
            let error = build_for(family, &text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn phases_can_be_written_out() {
        let text = r#"[schedule]
kind = "progressive"
[[schedule.phases]]
epochs = 3
[[schedule.phases]]
name = "all depths"
epochs = 2
open = { depth = "all", kernel = [5, 7] }
networks = 2
learning_rate = 0.1
"#;
        let schedule = build(text).unwrap();
        assert_eq!(schedule.epochs(), 5);
        assert_eq!(schedule.phases[1].name, "all depths");
        let text = schedule.phases[1].space.smallest(0).text();
        assert!(
            text.contains("kernel=5") && text.contains("depth=1"),
            "{text}"
        );
        for (from, to, part) in [
            ("depth = \"all\"", "deep = [1]", "kernel"),
            ("kernel = [5, 7]", "kernel = [4]", "3, 5, 7"),
            ("kernel = [5, 7]", "kernel = 5", "list of values"),
            ("networks = 2", "netwroks = 2", "did you mean `networks`"),
            ("epochs = 2", "epochs = 0", "schedule.phases.epochs"),
            ("\"progressive\"", "\"deps\"", "kind = \"progressive\""),
        ] {
            let text = r#"[schedule]
kind = "progressive"
[[schedule.phases]]
epochs = 2
open = { depth = "all", kernel = [5, 7] }
networks = 2
"#;
            assert!(text.contains(from));
            let error = build(&text.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
