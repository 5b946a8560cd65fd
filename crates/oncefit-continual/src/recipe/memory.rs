//! `[memory]`: which images of the stream are kept.

use serde::{Deserialize, Serialize};

use crate::memory::MemoryPolicy;

/// Which images a memory keeps; see [`MemoryPolicy`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyKind {
    /// Every image of the stream alike.
    Reservoir,
    /// The latest of each class.
    Ring,
    /// A reservoir for each class.
    ClassBalanced,
    /// GDumb's.
    GreedyBalanced,
    /// Nearest to the class's mean feature first.
    Herding,
}

impl From<PolicyKind> for MemoryPolicy {
    fn from(kind: PolicyKind) -> Self {
        match kind {
            PolicyKind::Reservoir => Self::Reservoir,
            PolicyKind::Ring => Self::Ring,
            PolicyKind::ClassBalanced => Self::ClassBalanced,
            PolicyKind::GreedyBalanced => Self::GreedyBalanced,
            PolicyKind::Herding => Self::Herding,
        }
    }
}

/// When a memory takes images.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FillKind {
    /// Each batch after it was learnt.
    Batch,
    /// A task's images at its end, with the logits of the network as it is then.
    TaskEnd,
}

/// How replayed images are drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DrawKind {
    /// Each step draws anew.
    Independent,
    /// In shuffled passes through the memory, each image once in a pass (data loaders of other
    /// libraries); the memory must be filled at task ends.
    Passes,
}

/// `[memory]`; methods without memory have none whatever it says.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryRecipe {
    /// Images that it holds.
    pub capacity: usize,
    /// Which ones, instead of the method's own policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyKind>,
    /// When; `batch` where it is left out. A herding memory always takes them at a task's end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fill: Option<FillKind>,
    /// How replayed images are drawn; `independent` where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draws: Option<DrawKind>,
}

impl Default for MemoryRecipe {
    fn default() -> Self {
        Self {
            capacity: 200,
            policy: None,
            fill: None,
            draws: None,
        }
    }
}
