//! What a model file says about itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use prost::Message;
use serde::{Deserialize, Serialize};

use crate::error::{ExportError, Result};
use crate::onnx::{ModelProto, StringStringEntryProto};

/// Metadata of an exported network; each field is a property `oncefit.<field>` of the file.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Metadata {
    /// Version of Oncefit.
    pub version: String,
    /// Names of the classes, in the order of the logits.
    pub class_names: Vec<String>,
    /// Mean of each channel, in units of [0, 1]: the model reads `(pixel − mean) / std`.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel, likewise.
    pub std: Vec<f32>,
    /// Height and width of the input.
    pub resolution: usize,
    /// Name of the space.
    pub space: String,
    /// Hash of the space.
    pub space_hash: String,
    /// The subnet's text.
    pub subnet: String,
    /// Hash of the supernet's weights.
    pub weights_hash: String,
    /// Multiply-accumulates for one image.
    pub macs: u64,
    /// Weights.
    pub parameters: u64,
    /// Measured accuracies, by split.
    pub accuracies: BTreeMap<String, f64>,
}

const PREFIX: &str = "oncefit.";

impl Metadata {
    pub(crate) fn properties(&self) -> Vec<StringStringEntryProto> {
        let fields = match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(fields)) => fields,
            _ => Default::default(),
        };
        fields
            .into_iter()
            .map(|(name, value)| StringStringEntryProto {
                key: Some(format!("{PREFIX}{name}")),
                value: Some(match value {
                    serde_json::Value::String(text) => text,
                    other => other.to_string(),
                }),
            })
            .collect()
    }
}

/// The metadata of a file that Oncefit wrote.
///
/// # Errors
/// If the file cannot be read, is no ONNX file or was not written by Oncefit.
pub fn read_metadata(path: &Path) -> Result<Metadata> {
    let bytes = fs::read(path).map_err(|source| ExportError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let fails = |reason: String| ExportError::Model {
        path: path.to_owned(),
        reason,
    };
    let model = ModelProto::decode(&bytes[..]).map_err(|error| fails(error.to_string()))?;
    // Strings stand as they are, everything else as JSON.
    let template =
        serde_json::to_value(Metadata::default()).map_err(|error| fails(error.to_string()))?;
    let mut fields = serde_json::Map::new();
    for property in &model.metadata_props {
        let (Some(key), Some(value)) = (&property.key, &property.value) else {
            continue;
        };
        let Some(name) = key.strip_prefix(PREFIX) else {
            continue;
        };
        let value = match &template[name] {
            serde_json::Value::String(_) => serde_json::Value::String(value.clone()),
            _ => serde_json::from_str(value).map_err(|error| fails(format!("{key}: {error}")))?,
        };
        fields.insert(name.to_owned(), value);
    }
    serde_json::from_value(fields.into())
        .map_err(|error| fails(format!("it was not written by Oncefit ({error})")))
}
