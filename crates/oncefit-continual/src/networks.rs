//! The usual networks of the field as single-member spaces.

use oncefit_space::{Space, Subnet, Value};

use crate::error::{Result, setting};

fn parsed(text: &str, name: &str, parameters: &[(&str, usize)]) -> Result<Space> {
    let values: Vec<(&str, Value)> = parameters
        .iter()
        .map(|(name, value)| (*name, Value::Int(*value as i64)))
        .collect();
    Ok(Space::parse_with(text, name, &values)?)
}

/// `pixels-hidden-hidden-classes` with ReLU; mammoth's `MNISTMLP` has 784 pixels, 100 hidden units.
///
/// # Errors
/// If a size is not legal.
pub fn mlp(pixels: usize, hidden: usize, classes: usize) -> Result<Space> {
    let text = include_str!("../spaces/mlp.space");
    parsed(
        text,
        "mlp.space",
        &[("pixels", pixels), ("hidden", hidden), ("classes", classes)],
    )
}

/// Three strided convolutions without batch-norm, for square images.
///
/// # Errors
/// If a size is not legal.
pub fn small_cnn(side: usize, channels: usize, width: usize, classes: usize) -> Result<Space> {
    let text = include_str!("../spaces/small-cnn.space");
    parsed(
        text,
        "small-cnn.space",
        &[
            ("side", side),
            ("channels", channels),
            ("width", width),
            ("classes", classes),
        ],
    )
}

/// As [`small_cnn`], with batch-norms instead of biases.
///
/// # Errors
/// If a size is not legal.
pub fn small_cnn_with_norms(
    side: usize,
    channels: usize,
    width: usize,
    classes: usize,
) -> Result<Space> {
    let text = include_str!("../spaces/small-cnn-norms.space");
    parsed(
        text,
        "small-cnn-norms.space",
        &[
            ("side", side),
            ("channels", channels),
            ("width", width),
            ("classes", classes),
        ],
    )
}

/// ResNet-18 for small images; `width` 64 is the usual one, 20 the reduced one.
///
/// # Errors
/// If a size is not legal.
pub fn resnet18(side: usize, channels: usize, width: usize, classes: usize) -> Result<Space> {
    let text = include_str!("../spaces/resnet18.space");
    parsed(
        text,
        "resnet18.space",
        &[
            ("side", side),
            ("channels", channels),
            ("width", width),
            ("classes", classes),
        ],
    )
}

/// The space whose only member is `subnet`, a member of `space`.
///
/// # Errors
/// If the space's decisions cannot be narrowed one by one to those of the subnet.
pub fn space_of_member(space: &Space, subnet: &Subnet) -> Result<Space> {
    let mut narrowed = space.clone();
    for choice in &subnet.trace().choices {
        narrowed = narrowed.restrict(&choice.path, std::slice::from_ref(&choice.value))?;
    }
    match single_member(&narrowed)?.graph() == subnet.graph() {
        true => Ok(narrowed),
        false => Err(setting(
            "the subnet",
            format!("{:?}", subnet.trace()),
            "one whose top-level decisions do not share their names with others",
        )),
    }
}

/// The member of a space that has one.
///
/// # Errors
/// If it has several: then a subnet must be chosen.
pub fn single_member(space: &Space) -> Result<Subnet> {
    let largest = space.largest()?;
    if largest != space.smallest()? {
        return Err(setting(
            "the space of a single network",
            space.name(),
            "a space without decisions; choose a subnet of this one",
        ));
    }
    Ok(largest)
}
