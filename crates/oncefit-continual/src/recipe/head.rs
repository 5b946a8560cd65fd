//! `[head]`: from features to logits.

use serde::{Deserialize, Serialize};

use super::LearningRecipe;
use crate::head::{HeadKind, HeadSettings, Rows};

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

/// `[head]`; what is left out is the method's, or that of a linear head.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HeadRecipe {
    /// Which kind; `linear` where it is left out, `cosine` for `lucir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<HeadKindName>,
    /// `cosine`: the scale η at the start, 10 where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f32>,
    /// `cosine`: whether η is learnt; it is where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learns_scale: Option<bool>,
    /// `inner-product`, `cosine`: width of a learnt linear layer without bias before the head; none
    /// where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub neck: Option<usize>,
    /// Whether a class is in no softmax before its first image comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only_seen: Option<bool>,
    /// `inner-product`, `cosine`: whether the features come without the last nonlinearity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drops_last_activation: Option<bool>,
}

impl HeadRecipe {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl LearningRecipe {
    fn head_kind(&self) -> HeadKindName {
        let of_method = match self.method.name.as_str() {
            "lucir" => HeadKindName::Cosine,
            _ => HeadKindName::Linear,
        };
        self.head.kind.unwrap_or(of_method)
    }

    /// The head.
    pub(super) fn build_head(&self) -> HeadSettings {
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

    pub(super) fn validate_head(&self) -> Result<(), String> {
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
        self.build_head().check().map_err(|error| error.to_string())
    }
}
