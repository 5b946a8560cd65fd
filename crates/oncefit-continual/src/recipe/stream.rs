//! `[stream]`: in which tasks the images come.

use serde::{Deserialize, Serialize};

use super::illegal;
use crate::error::{Result, setting};
use crate::stream::{ClassOrder, Scenario};

/// The kinds of stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamKind {
    /// New classes in every task: class- and task-incremental accuracies in one run.
    #[default]
    Classes,
    /// All classes in every task, under another permutation of the pixels.
    PermutedPixels,
    /// All classes in every task, turned by another angle.
    RotatedPixels,
}

/// `[stream]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamRecipe {
    /// What changes from task to task.
    pub scenario: StreamKind,
    /// `classes`: those of the first task; `increment` where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<usize>,
    /// `classes`: those of each later task; 2 where it and `tasks` are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub increment: Option<usize>,
    /// Tasks of `permuted-pixels` and `rotated-pixels`, 10 where it is left out; of `classes`,
    /// instead of `base` and `increment`: into how many equal tasks they are parted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks: Option<usize>,
    /// `rotated-pixels`: upper end of the angles.
    pub largest_degrees: f32,
    /// `"natural"`, `"seeded"` or a list of names of classes, which may leave some out.
    pub class_order: toml::Value,
    /// Training images of each class in the tasks after the first; all where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub later_shots: Option<usize>,
}

impl Default for StreamRecipe {
    fn default() -> Self {
        Self {
            scenario: StreamKind::Classes,
            base: None,
            increment: None,
            tasks: None,
            largest_degrees: 180.0,
            class_order: toml::Value::String("natural".into()),
            later_shots: None,
        }
    }
}

impl StreamRecipe {
    pub(super) fn validate(&self) -> std::result::Result<(), String> {
        let degrees = self.largest_degrees;
        if !(degrees > 0.0 && degrees <= 360.0) {
            return illegal(
                "stream.largest_degrees",
                degrees.to_string(),
                "above 0, to 360",
            );
        }
        let has_parts = self.base.is_some() || self.increment.is_some();
        match self.scenario {
            StreamKind::Classes if has_parts && self.tasks.is_some() => {
                Err("`stream.tasks` parts the classes evenly; it cannot stand beside `stream.base` or `stream.increment`".into())
            }
            StreamKind::PermutedPixels | StreamKind::RotatedPixels if has_parts => {
                Err("`stream.base` and `stream.increment` belong to `scenario = \"classes\"`; the others have all classes in every task, in `stream.tasks` tasks".into())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn class_order(&self) -> Result<ClassOrder> {
        let wrong = || {
            let legal = "\"natural\", \"seeded\" or a list of names of classes";
            setting("`stream.class_order`", &self.class_order, legal)
        };
        match &self.class_order {
            toml::Value::String(text) => match text.as_str() {
                "natural" => Ok(ClassOrder::Natural),
                "seeded" => Ok(ClassOrder::Seeded),
                _ => Err(wrong()),
            },
            toml::Value::Array(names) => names
                .iter()
                .map(|name| name.as_str().map(str::to_owned).ok_or_else(wrong))
                .collect::<Result<_>>()
                .map(ClassOrder::Named),
            _ => Err(wrong()),
        }
    }

    /// The scenario for so many classes.
    pub(super) fn scenario(&self, classes: usize) -> Result<Scenario> {
        let tasks = self.tasks.unwrap_or(10);
        Ok(match self.scenario {
            StreamKind::Classes => match self.tasks {
                Some(tasks) if !classes.is_multiple_of(tasks) => {
                    let legal = format!("a divisor of the {classes} classes");
                    return Err(setting("`stream.tasks`", tasks, legal));
                }
                Some(tasks) => Scenario::Classes {
                    base: classes / tasks,
                    increment: classes / tasks,
                },
                None => {
                    let increment = self.increment.unwrap_or(2);
                    Scenario::Classes {
                        base: self.base.unwrap_or(increment),
                        increment,
                    }
                }
            },
            StreamKind::PermutedPixels => Scenario::PermutedPixels { tasks },
            StreamKind::RotatedPixels => Scenario::RotatedPixels {
                tasks,
                largest_degrees: self.largest_degrees,
            },
        })
    }
}
