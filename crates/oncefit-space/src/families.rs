//! The families that come with Oncefit, as `.space` files.

use crate::error::{Result, SpaceError, suggestion};
use crate::space::Space;
use crate::value::Value;

const FAMILIES: [(&str, &str); 14] = [
    ("fm-nano", include_str!("../spaces/fm-nano.space")),
    ("cifar-nano", include_str!("../spaces/cifar-nano.space")),
    (
        "ofa-mobilenet-v3",
        include_str!("../spaces/ofa-mobilenet-v3.space"),
    ),
    (
        "ofa-proxylessnas",
        include_str!("../spaces/ofa-proxylessnas.space"),
    ),
    (
        "ofa-resnet50d",
        include_str!("../spaces/ofa-resnet50d.space"),
    ),
    ("mobilenet-v2", include_str!("../spaces/mobilenet-v2.space")),
    (
        "mobilenet-v3-large",
        include_str!("../spaces/mobilenet-v3-large.space"),
    ),
    (
        "mobilenet-v3-small",
        include_str!("../spaces/mobilenet-v3-small.space"),
    ),
    ("vgg-nano", include_str!("../spaces/vgg-nano.space")),
    (
        "densenet-nano",
        include_str!("../spaces/densenet-nano.space"),
    ),
    ("genetic-nano", include_str!("../spaces/genetic-nano.space")),
    ("nasnet-nano", include_str!("../spaces/nasnet-nano.space")),
    ("resnet50", include_str!("../spaces/resnet50.space")),
    (
        "deps-cifar-mobilenet-v3",
        include_str!("../spaces/deps-cifar-mobilenet-v3.space"),
    ),
];

impl Space {
    /// The names of the families.
    pub fn builtin_names() -> Vec<&'static str> {
        FAMILIES.iter().map(|(name, _)| *name).collect()
    }

    /// A family.
    ///
    /// # Errors
    /// If there is no family of that name; the message lists them.
    pub fn builtin(name: &str) -> Result<Self> {
        Self::builtin_with(name, &[])
    }

    /// A family with some of its parameters set.
    ///
    /// # Errors
    /// If there is no family of that name or it has no such parameter.
    pub fn builtin_with(name: &str, parameters: &[(&str, Value)]) -> Result<Self> {
        match FAMILIES.iter().find(|(family, _)| *family == name) {
            Some((family, text)) => Self::parse_with(text, &format!("{family}.space"), parameters),
            None => {
                let names = Self::builtin_names();
                let hint = suggestion(name, names.iter().copied());
                Err(SpaceError::Illegal(format!(
                    "there is no family `{name}`{hint}; families: {}",
                    names.join(", ")
                )))
            }
        }
    }
}
