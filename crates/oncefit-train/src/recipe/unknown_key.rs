//! Reading TOML whose unknown keys are errors, and the message about such a key.

use serde::de::DeserializeOwned;

use super::*;
use crate::field_names::field_names;

/// Reads a recipe of any kind from TOML.
///
/// # Arguments
/// - `file_name`: for messages
/// - `keys`: the legal keys of a section, `""` being the top level
///
/// # Errors
/// If it is not TOML, a value has the wrong type, or a key is unknown: the message shows its place,
/// its line, the closest legal key and all of them.
pub fn parse_strictly<T: DeserializeOwned>(
    text: &str,
    file_name: &str,
    keys: &dyn Fn(&str) -> &'static [&'static str],
) -> Result<T> {
    let invalid = |message: String| TrainError::Recipe(format!("{file_name}: {message}"));
    let deserializer =
        toml::Deserializer::parse(text).map_err(|error| invalid(error.to_string()))?;
    let mut unknown = Vec::new();
    // A section that may be left out has a step of its own in the path.
    let mut found = |path: serde_ignored::Path| unknown.push(path.to_string().replace(".?", ""));
    let recipe = serde_ignored::deserialize(deserializer, &mut found)
        .map_err(|error| invalid(error.to_string()))?;
    match unknown.first() {
        Some(path) => Err(TrainError::Recipe(unknown_key(text, file_name, path, keys))),
        None => Ok(recipe),
    }
}

/// The keys of a training recipe's sections.
pub(super) fn keys(section: &str) -> &'static [&'static str] {
    match section {
        "" => field_names::<Recipe>(),
        "data" => field_names::<DataRecipe>(),
        "space" => field_names::<SpaceRecipe>(),
        "init" => field_names::<InitRecipe>(),
        "schedule" => field_names::<ScheduleRecipe>(),
        "schedule.phases" => field_names::<PhaseRecipe>(),
        "optimiser" => field_names::<OptimiserRecipe>(),
        "training" => field_names::<TrainingRecipe>(),
        "augmentation" => field_names::<Augmentation>(),
        "evaluation" => field_names::<EvaluationRecipe>(),
        "checkpoint" => field_names::<CheckpointRecipe>(),
        _ => &[],
    }
}

/// The message about an unknown key: its place, its line, the closest legal key and all of them.
fn unknown_key(
    text: &str,
    file_name: &str,
    path: &str,
    keys: &dyn Fn(&str) -> &'static [&'static str],
) -> String {
    let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
    // `schedule.phases.2` is the third table of `[[schedule.phases]]`.
    let section = section.trim_end_matches(|letter: char| letter.is_ascii_digit());
    let section = section.trim_end_matches('.');
    let legal = keys(section);
    let place = key_offset(text, path).map(|offset| {
        let line_start = text[..offset].rfind('\n').map_or(0, |at| at + 1);
        let line = text[line_start..].lines().next().unwrap_or_default();
        let number = text[..offset].matches('\n').count() + 1;
        let column = text[line_start..offset].chars().count() + 1;
        let caret = " ".repeat(column - 1) + &"^".repeat(key.chars().count().max(1));
        (
            format!(":{number}:{column}"),
            format!("\n  | {line}\n  | {caret}"),
        )
    });
    let (position, excerpt) = place.unwrap_or_default();
    let closest = legal
        .iter()
        .map(|candidate| (strsim::jaro_winkler(key, candidate), candidate))
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .filter(|(similarity, _)| *similarity > 0.75);
    let hint = closest
        .map(|(_, name)| format!("; did you mean `{name}`?"))
        .unwrap_or_default();
    let place = if section.is_empty() {
        "at the top level".into()
    } else {
        format!("in [{section}]")
    };
    format!(
        "{file_name}{position}: unknown key `{key}` {place}{hint}{excerpt}\n  legal keys: {}",
        legal.join(", ")
    )
}

fn key_offset(text: &str, path: &str) -> Option<usize> {
    let document = toml_edit::Document::parse(text).ok()?;
    let mut table = document.as_table() as &dyn toml_edit::TableLike;
    let mut parts = path.split('.').peekable();
    while let Some(part) = parts.next() {
        let (key, item) = table.get_key_value(part)?;
        if parts.peek().is_none() {
            return key.span().map(|span| span.start);
        }
        table = match item.as_array_of_tables() {
            Some(tables) => tables.get(parts.next()?.parse().ok()?)?,
            None => item.as_table_like()?,
        };
    }
    None
}
