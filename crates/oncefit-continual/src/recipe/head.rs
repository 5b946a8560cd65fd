//! `[head]`: from features to logits.

use oncefit_data::LoadedData;
use oncefit_text::{TargetTable, orthogonal_rows, random_rows, shuffled_rows};
use serde::{Deserialize, Serialize};

use super::LearningRecipe;
use crate::error::{Result, setting};
use crate::head::{HeadKind, HeadSettings, Rows, Targets};

/// The kinds of head; see [`HeadKind`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadKindName {
    /// The network's own last layer.
    Linear,
    /// Inner products, without bias.
    InnerProduct,
    /// Scaled cosines.
    Cosine,
}

/// Whether given rows are learnt from there on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RowsKind {
    /// They stay as they are: LingoCL.
    #[default]
    Frozen,
    /// They are where learning starts.
    Learnt,
}

/// What stands in the place of the targets, to see which part of them helps (LingoCL, table 3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlKind {
    /// The targets made orthogonal in the classes' order of arrival: distinct, without meaning.
    Orthogonal,
    /// The targets of other classes.
    Shuffled,
    /// Gaussian directions.
    Random,
}

/// `[head]`; what is left out is the method's, or that of a linear head.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HeadRecipe {
    /// Which kind; `linear` where it is left out, `cosine` with targets and for `lucir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<HeadKindName>,
    /// `cosine`: the scale η at the start, 10 where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f32>,
    /// `cosine`: whether η is learnt; it is where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learns_scale: Option<bool>,
    /// `inner-product`, `cosine`: width of a learnt linear layer without bias before the head; none
    /// where it is left out, with targets theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub neck: Option<usize>,
    /// Whether a class is in no softmax before its first image comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only_seen: Option<bool>,
    /// `inner-product`, `cosine`: whether the features come without the last nonlinearity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drops_last_activation: Option<bool>,
    /// `inner-product`, `cosine`: vectors of the class names as rows: a file of `oncefit targets
    /// build`, or the name of a shipped one (`fashion-mnist`, `mnist`, `cifar10`, `icons`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<String>,
    /// With targets: the hash of their file, which another file is refused by; a run keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets_hash: Option<String>,
    /// With targets: whether they are frozen, as they are where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<RowsKind>,
    /// With targets: what stands in their place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control: Option<ControlKind>,
}

impl HeadRecipe {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl LearningRecipe {
    fn head_kind(&self) -> HeadKindName {
        let is_cosine = self.method.name == "lucir" || self.head.targets.is_some();
        let of_method = match is_cosine {
            true => HeadKindName::Cosine,
            false => HeadKindName::Linear,
        };
        self.head.kind.unwrap_or(of_method)
    }

    /// The head on the classes of `data`.
    pub(super) fn build_head(&self, data: &LoadedData) -> Result<HeadSettings> {
        let head = self.head_without_targets();
        let Some(table) = self.target_table()? else {
            return Ok(head);
        };
        let rows = table.rows_for(data.train.class_names())?;
        let rows = match self.head.control {
            None => rows,
            Some(ControlKind::Orthogonal) => {
                let stream = self.build_stream(data)?;
                let tasks = stream.tasks().iter();
                let mut arrivals: Vec<usize> = Vec::new();
                for &class in tasks.flat_map(|task| &task.classes) {
                    if !arrivals.contains(&(class as usize)) {
                        arrivals.push(class as usize);
                    }
                }
                orthogonal_rows(&rows, &arrivals)?
            }
            Some(ControlKind::Shuffled) => shuffled_rows(&rows, self.seed),
            Some(ControlKind::Random) => random_rows(rows.len(), table.width, self.seed),
        };
        let targets = Targets::new(table.width, rows.concat())?;
        let are_frozen = self.head.rows.unwrap_or_default() == RowsKind::Frozen;
        let head = HeadSettings {
            neck: head.neck.or(Some(table.width)),
            ..head
        };
        Ok(head.with_targets(targets, are_frozen))
    }

    fn target_table(&self) -> Result<Option<TargetTable>> {
        let Some(word) = &self.head.targets else {
            return Ok(None);
        };
        let table = TargetTable::open(word)?;
        match &self.head.targets_hash {
            Some(hash) if hash != table.hash() => {
                let found = format!("{} (targets {word})", table.hash());
                let legal =
                    format!("{hash}, as `head.targets_hash` says: that of the run's beginning");
                Err(setting("the hash of the head's targets", found, legal))
            }
            _ => Ok(Some(table)),
        }
    }

    /// Notes the hash of the target file, so that a run does not go on with other targets.
    pub(crate) fn pin_targets(&mut self) -> Result<()> {
        let table = self.target_table()?;
        self.head.targets_hash = table.map(|table| table.hash().to_owned());
        Ok(())
    }

    fn head_without_targets(&self) -> HeadSettings {
        let recipe = &self.head;
        let is_lucir = self.method.name == "lucir";
        let kind = match self.head_kind() {
            HeadKindName::Linear => HeadKind::Network,
            HeadKindName::InnerProduct => HeadKind::InnerProduct,
            HeadKindName::Cosine => HeadKind::Cosine {
                scale: recipe.scale.unwrap_or(10.0),
                learns_scale: recipe.learns_scale.unwrap_or(true),
            },
        };
        HeadSettings {
            kind,
            neck: recipe.neck,
            rows: Rows::Learnt,
            only_seen: recipe
                .only_seen
                .unwrap_or(is_lucir || self.method.name == "bic"),
            drops_last_activation: recipe.drops_last_activation.unwrap_or(is_lucir),
        }
    }

    pub(super) fn validate_head(&self) -> std::result::Result<(), String> {
        let (recipe, kind) = (&self.head, self.head_kind());
        let only_cosine = kind == HeadKindName::Cosine;
        let not_linear = kind != HeadKindName::Linear;
        let owners = [
            ("scale", recipe.scale.is_some(), only_cosine, "`cosine`"),
            (
                "learns_scale",
                recipe.learns_scale.is_some(),
                only_cosine,
                "`cosine`",
            ),
            (
                "targets",
                recipe.targets.is_some(),
                not_linear,
                "`inner-product`, `cosine`",
            ),
            (
                "neck",
                recipe.neck.is_some(),
                not_linear,
                "`inner-product`, `cosine`",
            ),
            (
                "drops_last_activation",
                recipe.drops_last_activation == Some(true),
                not_linear,
                "`inner-product`, `cosine`",
            ),
        ];
        for (key, is_given, is_legal, kinds) in owners {
            if is_given && !is_legal {
                return Err(format!("`head.{key}` belongs to the kinds of head {kinds}"));
            }
        }
        let of_targets = [
            ("targets_hash", recipe.targets_hash.is_some()),
            ("rows", recipe.rows.is_some()),
            ("control", recipe.control.is_some()),
        ];
        for (key, is_given) in of_targets {
            if is_given && recipe.targets.is_none() {
                return Err(format!("`head.{key}` needs `head.targets`"));
            }
        }
        if recipe.targets.is_some() && recipe.only_seen == Some(false) {
            let reason = "a head with targets has only the classes seen";
            return Err(format!("`head.only_seen` is false, but {reason}"));
        }
        let head = self.head_without_targets();
        head.check().map_err(|error| error.to_string())
    }
}
