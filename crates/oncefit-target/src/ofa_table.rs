//! The latency tables of the Once-for-All authors (`ofa/note10` of `han-cai/files`).
//!
//! One file for each device and input size, a small subset of YAML: a key, and under it `count`,
//! `mean` and `std` (or `var`) in milliseconds. An inverted-residual block is one entry.
//!
//! ```text
//! expanded_conv-input:112x112x24-output:56x56x32-expand:72-kernel:3-stride:2-idskip:0-se:0-hs:0:
//!   count: 56
//!   mean: 1.9
//!   std: 0.1
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use oncefit_space::{Activation, FeatureShape};

use crate::error::{Result, TargetError};
use crate::operator::{Operator, OperatorKind};
use crate::table::check_time;

/// One entry of such a table.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct OfaEntry {
    /// How often it was measured.
    pub count: f64,
    /// Mean, in milliseconds.
    pub mean_ms: f64,
    /// Standard deviation, in milliseconds.
    pub std_ms: f64,
}

/// The entries of a file.
///
/// # Errors
/// If the file cannot be read or is no such table.
pub(crate) fn load_ofa_entries(path: &Path) -> Result<BTreeMap<String, OfaEntry>> {
    let text = std::fs::read_to_string(path).map_err(|source| TargetError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    parse_ofa_table(&text).map_err(|reason| TargetError::Malformed {
        path: path.to_owned(),
        reason,
    })
}

/// The entries of a table's text.
///
/// # Errors
/// The line that cannot be read, and why.
pub fn parse_ofa_table(text: &str) -> std::result::Result<BTreeMap<String, OfaEntry>, String> {
    let mut found: BTreeMap<String, (usize, BTreeMap<String, f64>)> = BTreeMap::new();
    let mut current: Option<String> = None;
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let content = line.split(" #").next().unwrap_or_default().trim_end();
        let trimmed = content.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') || trimmed == "---" {
            continue;
        }
        if content.starts_with([' ', '\t']) {
            let Some(key) = &current else {
                return Err(format!("line {number}: a value without a key above it"));
            };
            insert_fields(&mut found, key, trimmed)
                .map_err(|reason| format!("line {number}: {reason}"))?;
            continue;
        }
        // Keys hold colons themselves: the last one ends the key, unless the fields follow in
        // braces.
        let (key, fields) = match (trimmed.split_once(": {"), trimmed.strip_suffix(':')) {
            (Some((key, fields)), _) if trimmed.ends_with('}') => {
                (key, fields.trim_end_matches('}'))
            }
            (_, Some(key)) => (key, ""),
            _ => {
                return Err(format!(
                    "line {number}: `{}` is no key; a key ends in a colon, its count, mean and std stand below it, indented",
                    trimmed.chars().take(60).collect::<String>()
                ));
            }
        };
        let key = key.trim().trim_matches(['\'', '"']).to_owned();
        if found
            .insert(key.clone(), (number, BTreeMap::new()))
            .is_some()
        {
            return Err(format!("line {number}: `{key}` stands twice"));
        }
        for field in fields.split(',').filter(|field| !field.trim().is_empty()) {
            insert_fields(&mut found, &key, field.trim())
                .map_err(|reason| format!("line {number}: {reason}"))?;
        }
        current = Some(key);
    }
    if found.is_empty() {
        return Err("it holds no entries".into());
    }
    let mut entries = BTreeMap::new();
    for (key, (line, fields)) in found {
        let Some(&mean_ms) = fields.get("mean") else {
            return Err(format!(
                "line {line}: `{key}` has no mean: the table is cut short"
            ));
        };
        check_time("mean", mean_ms).map_err(|reason| format!("line {line}: `{key}`: {reason}"))?;
        let deviation = fields.get("std").copied();
        let variance = fields.get("var").copied();
        entries.insert(
            key,
            OfaEntry {
                count: fields.get("count").copied().unwrap_or(1.0),
                mean_ms,
                std_ms: deviation.or(variance.map(f64::sqrt)).unwrap_or(0.0),
            },
        );
    }
    Ok(entries)
}

fn insert_fields(
    found: &mut BTreeMap<String, (usize, BTreeMap<String, f64>)>,
    key: &str,
    field: &str,
) -> std::result::Result<(), String> {
    let Some((name, value)) = field.split_once(':') else {
        return Err(format!("`{field}` is no `name: number`"));
    };
    let name = name.trim();
    if !matches!(name, "count" | "mean" | "std" | "var") {
        return Err(format!("`{name}` is none of count, mean, std, var"));
    }
    let value: f64 = match value.trim().parse() {
        Ok(value) if f64::is_finite(value) => value,
        _ => {
            return Err(format!(
                "{name} of `{key}` is `{}`, no number",
                value.trim()
            ));
        }
    };
    let fields = found.get_mut(key).map(|(_, fields)| fields);
    match fields.and_then(|fields| fields.insert(name.to_owned(), value)) {
        Some(_) => Err(format!("{name} of `{key}` stands twice")),
        None => Ok(()),
    }
}

/// The key of an operator.
pub(crate) fn key(operator: &Operator) -> String {
    let Operator {
        kind,
        kernel,
        stride,
        input,
        output,
        ..
    } = *operator;
    let shape =
        |shape: FeatureShape| format!("{}x{}x{}", shape.height, shape.width, shape.channels);
    let between = format!("input:{}-output:{}", shape(input), shape(output));
    match kind {
        OperatorKind::Convolution if kernel > 1 => format!("Conv-{between}"),
        OperatorKind::Convolution if input.height * input.width == 1 => format!("Conv_2-{between}"),
        OperatorKind::Convolution => format!("Conv_1-{between}"),
        OperatorKind::GlobalAveragePool => format!("AvgPool2D-{between}"),
        OperatorKind::Linear => {
            format!("Logits-input:{}-output:{}", shape(input), output.channels)
        }
        OperatorKind::InvertedResidual => format!(
            "expanded_conv-{between}-expand:{}-kernel:{kernel}-stride:{stride}-idskip:{}-se:{}-hs:{}",
            operator.middle,
            u8::from(operator.shortcut),
            u8::from(operator.squeeze),
            u8::from(operator.activation == Activation::HardSwish)
        ),
        _ => operator.to_string(),
    }
}

/// Whether these tables count nothing for an operator.
pub(crate) fn is_free(operator: &Operator) -> bool {
    operator.kind == OperatorKind::Activation
}
