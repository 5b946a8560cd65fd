//! Target tables: one or more unit vectors for each class, with where they come from, as JSON.
//!
//! ```text
//! {"format": "oncefit-targets-1", "name": …, "template": "{}", "model": {name, hash, licence},
//!  "transforms": [], "width": 384, "hash": …,
//!  "classes": [{"name": "Coat", "texts": ["coat"], "vectors": [[…]]}, …]}
//! ```
//!
//! `hash` is BLAKE3 of the file with an empty `hash`: a table that was changed by hand is refused.
//! Values are rounded to 6 decimals, so that the file is short and the same everywhere.

use std::path::Path;

use oncefit_random::Draws;
use serde::{Deserialize, Serialize};

use crate::encoder::TextEncoder;
use crate::error::{Result, TextError};
use crate::names::{NameList, phrase};
use crate::quality::{Group, Quality, cosine};

const FORMAT: &str = "oncefit-targets-1";
const PLACE: &str = "{}";

/// Vectors of classes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetTable {
    format: String,
    /// What it is called.
    pub name: String,
    /// What `{}` in it is replaced by a class's text.
    pub template: String,
    /// The model that made it.
    pub model: Source,
    /// What was done to the model's vectors, in order.
    pub transforms: Vec<String>,
    /// Values of a vector.
    pub width: usize,
    hash: String,
    /// Classes that lie near each other, as was checked.
    pub groups: Vec<Group>,
    /// The classes.
    pub classes: Vec<TargetClass>,
}

/// A model.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// BLAKE3 of its weights' file.
    pub hash: String,
    /// Its licence, as the person who built the table says.
    pub licence: String,
}

/// A class of a table.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetClass {
    /// As the data set calls it.
    pub name: String,
    /// What was encoded, before the template.
    pub texts: Vec<String>,
    /// A vector of unit length for each text.
    pub vectors: Vec<Vec<f32>>,
}

/// How a table is built.
#[derive(Clone, PartialEq, Debug)]
pub struct BuildSettings {
    /// What is encoded; `{}` stands for the text.
    pub template: String,
    /// Whether the vector of the template without a text is subtracted.
    pub centre: bool,
    /// Width to bring vectors to by a random orthonormal matrix, and its seed.
    pub rotate: Option<(usize, u64)>,
    /// Licence of the model.
    pub licence: String,
}

impl Default for BuildSettings {
    fn default() -> Self {
        Self {
            template: PLACE.into(),
            centre: false,
            rotate: None,
            licence: "not stated".into(),
        }
    }
}

const BUILTIN: [(&str, &str); 4] = [
    (
        "fashion-mnist",
        include_str!("../targets/fashion-mnist.json"),
    ),
    ("mnist", include_str!("../targets/mnist.json")),
    ("cifar10", include_str!("../targets/cifar10.json")),
    ("icons", include_str!("../targets/icons.json")),
];

impl TargetTable {
    /// Encodes the texts of a list.
    ///
    /// # Errors
    /// If the template has no `{}`, a text cannot be encoded, a width is not legal, or classes that
    /// must lie near each other do not.
    pub fn build(list: &NameList, encoder: &TextEncoder, settings: &BuildSettings) -> Result<Self> {
        let wrong = |reason: String| TextError::Table {
            file: list.name.clone(),
            reason,
        };
        if !settings.template.contains(PLACE) {
            let template = &settings.template;
            return Err(wrong(format!(
                "the template is `{template}`, but must have `{{}}` where the class's text goes"
            )));
        }
        let encode = |text: &str| encoder.encode(&settings.template.replace(PLACE, text));
        let mut transforms = Vec::new();
        let anchor = match settings.centre {
            true => {
                transforms.push("centre".to_owned());
                Some(encode("")?)
            }
            false => None,
        };
        let basis = match settings.rotate {
            Some((width, seed)) => {
                if width == 0 || width > encoder.width() {
                    return Err(wrong(format!(
                        "the width to rotate to is {width}, but must be 1 to {}",
                        encoder.width()
                    )));
                }
                transforms.push(format!("rotate to {width}, seed {seed}"));
                Some(orthonormal(width, encoder.width(), seed))
            }
            None => None,
        };
        let mut classes = Vec::new();
        for class in &list.classes {
            let mut vectors = Vec::new();
            for text in &class.texts {
                let mut vector = encode(text)?;
                if let Some(anchor) = &anchor {
                    let pairs = vector.iter_mut().zip(anchor);
                    pairs.for_each(|(value, centre)| *value -= centre);
                }
                if let Some(basis) = &basis {
                    let turned = basis.iter().map(|row| cosine(row, &vector) as f32);
                    vector = turned.collect();
                }
                let unit = to_unit(&vector).ok_or_else(|| {
                    wrong(format!("nothing is left of `{text}` after the transforms"))
                })?;
                let rounded = unit.iter().map(|value| (value * 1e6).round() / 1e6);
                vectors.push(rounded.collect());
            }
            classes.push(TargetClass {
                name: class.name.clone(),
                texts: class.texts.clone(),
                vectors,
            });
        }
        let mut table = Self {
            format: FORMAT.into(),
            name: list.name.clone(),
            template: settings.template.clone(),
            model: Source {
                name: encoder.name().into(),
                hash: encoder.hash().into(),
                licence: settings.licence.clone(),
            },
            transforms,
            width: settings.rotate.map_or(encoder.width(), |(width, _)| width),
            hash: String::new(),
            groups: list.groups.clone(),
            classes,
        };
        table.check_groups(&list.name)?;
        table.hash = table.content_hash();
        Ok(table)
    }

    /// The names of the tables inside this crate.
    pub const BUILTIN: [&str; 4] = NameList::BUILTIN;

    /// The table of a shipped data set; `None` for another name.
    ///
    /// ```
    /// let table = oncefit_text::TargetTable::builtin("fashion-mnist").unwrap();
    /// assert_eq!((table.classes.len(), table.width), (10, 384));
    /// ```
    pub fn builtin(name: &str) -> Option<Self> {
        let (name, text) = BUILTIN.iter().find(|(known, _)| *known == name)?;
        Some(Self::parse(text, name).expect("the shipped tables are legal"))
    }

    /// Reads a file, or takes a shipped table where `word` is its name.
    ///
    /// # Errors
    /// If it cannot be read or is no table.
    pub fn open(word: &str) -> Result<Self> {
        if let Some(table) = Self::builtin(word) {
            return Ok(table);
        }
        let path = Path::new(word);
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, word),
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => Err(TextError::Table {
                file: word.into(),
                reason: format!(
                    "there is no such file, and no shipped table of that name: {}",
                    Self::BUILTIN.join(", ")
                ),
            }),
            Err(source) => Err(TextError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Parses a table; `file` is for messages.
    ///
    /// # Errors
    /// If it is no table, its hash is another, or a vector has another width or is not of unit
    /// length.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        let wrong = |reason: String| TextError::Table {
            file: file.into(),
            reason,
        };
        let table: Self = serde_json::from_str(text).map_err(|error| {
            wrong(format!(
                "it is no target file of `oncefit targets build`: {error}"
            ))
        })?;
        if table.format != FORMAT {
            let found = &table.format;
            return Err(wrong(format!(
                "the format is `{found}`, but must be `{FORMAT}`"
            )));
        }
        let content = table.content_hash();
        if table.hash != content {
            return Err(wrong(format!(
                "its content has the hash {content}, but it says {}; it was changed after `oncefit targets build`",
                table.hash
            )));
        }
        if table.classes.is_empty() {
            return Err(wrong("it has no class".into()));
        }
        for class in &table.classes {
            if class.vectors.is_empty() {
                return Err(wrong(format!("class `{}` has no vector", class.name)));
            }
            for vector in &class.vectors {
                let length = cosine(vector, vector).sqrt();
                if vector.len() != table.width || (length - 1.0).abs() > 1e-4 {
                    return Err(wrong(format!(
                        "class `{}` has a vector of {} values and length {length:.4}, but it must be {} values of length 1",
                        class.name,
                        vector.len(),
                        table.width
                    )));
                }
            }
        }
        Ok(table)
    }

    /// The file, one class's vector a line.
    pub fn to_json(&self) -> String {
        let mut text = format!(
            "{{\n\"format\": {},\n\"name\": {},\n\"template\": {},\n\"model\": {},\n\"transforms\": {},\n\"width\": {},\n\"hash\": {},\n\"groups\": {},\n\"classes\": [\n",
            json(&self.format),
            json(&self.name),
            json(&self.template),
            json(&self.model),
            json(&self.transforms),
            self.width,
            json(&self.hash),
            json(&self.groups),
        );
        let lines: Vec<String> = self.classes.iter().map(json).collect();
        text += &lines.join(",\n");
        text + "\n]\n}\n"
    }

    /// BLAKE3 of the content.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    fn content_hash(&self) -> String {
        let bare = Self {
            hash: String::new(),
            ..self.clone()
        };
        blake3::hash(bare.to_json().as_bytes()).to_hex().to_string()
    }

    /// One unit vector for each class of the table: the mean of its vectors, at unit length.
    ///
    /// # Errors
    /// If the vectors of a class cancel out.
    pub fn rows(&self) -> Result<Vec<Vec<f32>>> {
        let rows = self.classes.iter().map(|class| {
            if let [only] = &class.vectors[..] {
                return Ok(only.clone());
            }
            let mut sum = vec![0.0f32; self.width];
            for vector in &class.vectors {
                sum.iter_mut().zip(vector).for_each(|(sum, v)| *sum += v);
            }
            to_unit(&sum).ok_or_else(|| TextError::Table {
                file: self.name.clone(),
                reason: format!("the vectors of class `{}` cancel out", class.name),
            })
        });
        rows.collect()
    }

    /// The rows of a data set's classes in the data set's order. A class is found by its name, or by
    /// its name as a phrase ([`phrase`]) among the table's names and first texts.
    ///
    /// # Errors
    /// If the table lacks a class.
    pub fn rows_for(&self, names: &[String]) -> Result<Vec<Vec<f32>>> {
        let rows = self.rows()?;
        let found = names.iter().map(|name| {
            let exact = self.classes.iter().position(|class| class.name == *name);
            let wanted = phrase(name);
            let alike = || {
                let is_alike = |class: &TargetClass| {
                    phrase(&class.name) == wanted || phrase(&class.texts[0]) == wanted
                };
                self.classes.iter().position(is_alike)
            };
            let index = exact.or_else(alike).ok_or_else(|| {
                let known: Vec<&str> = self
                    .classes
                    .iter()
                    .map(|class| class.name.as_str())
                    .collect();
                TextError::Table {
                    file: self.name.clone(),
                    reason: format!("no vector for class `{name}`; it has {}", known.join(", ")),
                }
            })?;
            Ok(rows[index].clone())
        });
        found.collect()
    }

    /// How the rows lie; `None` for one class.
    ///
    /// # Errors
    /// As [`TargetTable::rows`].
    pub fn quality(&self) -> Result<Option<Quality>> {
        Ok(Quality::of(&self.rows()?))
    }

    fn check_groups(&self, file: &str) -> Result<()> {
        let names: Vec<&str> = self
            .classes
            .iter()
            .map(|class| class.name.as_str())
            .collect();
        let rows = self.rows()?;
        let found: Vec<String> = self
            .groups
            .iter()
            .flat_map(|group| group.violations(&names, &rows))
            .collect();
        match found.is_empty() {
            true => Ok(()),
            false => Err(TextError::Table {
                file: file.into(),
                reason: format!(
                    "classes that should lie near each other do not: {}",
                    found.join("; ")
                ),
            }),
        }
    }
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("a table holds plain data")
}

fn to_unit(vector: &[f32]) -> Option<Vec<f32>> {
    let length = cosine(vector, vector).sqrt();
    let is_legal = length > 1e-6 && length.is_finite();
    is_legal.then(|| {
        let scaled = vector
            .iter()
            .map(|&value| (f64::from(value) / length) as f32);
        scaled.collect()
    })
}

/// `count` orthonormal rows of `width` values, out of Gaussian draws.
fn orthonormal(count: usize, width: usize, seed: u64) -> Vec<Vec<f32>> {
    let normals = (0..count).map(|row| normal_row(width, seed, "rotation", row));
    gram_schmidt(normals)
}

fn normal_row(width: usize, seed: u64, purpose: &str, row: usize) -> Vec<f32> {
    let mut draws = Draws::new(seed, purpose, row as u64, 0);
    (0..width).map(|_| draws.normal() as f32).collect()
}

/// Each row without its parts along the rows before it, at unit length; a row of which nothing is
/// left, as after `width` rows, becomes 0.
fn gram_schmidt(rows: impl Iterator<Item = Vec<f32>>) -> Vec<Vec<f32>> {
    let mut basis: Vec<Vec<f32>> = Vec::new();
    for row in rows {
        let mut rest: Vec<f64> = row.iter().map(|&value| f64::from(value)).collect();
        // Twice, because one pass leaves rounding errors.
        for _ in 0..2 {
            for known in &basis {
                let pairs = rest.iter().zip(known);
                let along: f64 = pairs.map(|(a, b)| a * f64::from(*b)).sum();
                let pairs = rest.iter_mut().zip(known);
                pairs.for_each(|(value, b)| *value -= along * f64::from(*b));
            }
        }
        let rest: Vec<f32> = rest.iter().map(|&value| value as f32).collect();
        basis.push(to_unit(&rest).unwrap_or_else(|| vec![0.0; row.len()]));
    }
    basis
}

/// The control that keeps only that targets differ: rows made orthogonal in their order of arrival
/// (Gram–Schmidt; LingoCL, table 3), so that a later row never changes an earlier one. `order` lists
/// the rows that arrive, each at most once; others stay as they are.
///
/// # Errors
/// If more rows arrive than a row has values, or one depends on those before it.
pub fn orthogonal_rows(rows: &[Vec<f32>], order: &[usize]) -> Result<Vec<Vec<f32>>> {
    let made = gram_schmidt(order.iter().map(|&row| rows[row].clone()));
    let mut all = rows.to_vec();
    for (row, values) in order.iter().zip(made) {
        if values.iter().all(|&value| value == 0.0) {
            return Err(TextError::Table {
                file: "made orthogonal".into(),
                reason: format!(
                    "row {row} depends on the rows before it; there are {} rows of {} values",
                    order.len(),
                    values.len()
                ),
            });
        }
        all[*row] = values;
    }
    Ok(all)
}

/// The control that keeps the vectors and gives them to wrong classes: no class of two or more keeps
/// its own.
pub fn shuffled_rows(rows: &[Vec<f32>], seed: u64) -> Vec<Vec<f32>> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    Draws::new(seed, "target-shuffle", 0, 0).shuffle(&mut order);
    // One cycle through all classes in a random order.
    let mut shuffled = rows.to_vec();
    for (at, &class) in order.iter().enumerate() {
        shuffled[class] = rows[order[(at + 1) % order.len()]].clone();
    }
    shuffled
}

/// The control that knows nothing of names: Gaussian directions, one for each class, at unit length.
pub fn random_rows(classes: usize, width: usize, seed: u64) -> Vec<Vec<f32>> {
    let rows = (0..classes).map(|class| {
        let row = normal_row(width, seed, "random-target", class);
        to_unit(&row).unwrap_or(row)
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> TextEncoder {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tiny-bert");
        TextEncoder::load(&folder).unwrap()
    }

    fn list(text: &str) -> NameList {
        NameList::parse("tiny", text).unwrap()
    }

    #[test]
    fn a_table_is_read_back_and_a_changed_one_refused() {
        let list = list("Coat: coat | ankle coat\nT-shirt/top: t shirt\nboot");
        let settings = BuildSettings::default();
        let table = TargetTable::build(&list, &tiny(), &settings).unwrap();
        let text = table.to_json();
        assert_eq!(TargetTable::parse(&text, "t").unwrap(), table);
        assert_eq!(table.classes[0].vectors.len(), 2);
        let names = ["boot", "coat", "T_Shirt"].map(str::to_owned);
        let rows = table.rows_for(&names).unwrap();
        assert_eq!(rows[0], table.classes[2].vectors[0]);
        assert_eq!(rows[2], table.classes[1].vectors[0]);
        let vectors = &table.classes[0].vectors;
        let alike: Vec<f64> = vectors.iter().map(|v| cosine(&rows[1], v)).collect();
        assert!(
            (alike[0] - alike[1]).abs() < 1e-5 && alike[0] > 0.0,
            "{alike:?}"
        );
        let missing = table.rows_for(&["hat".to_owned()]).unwrap_err().to_string();
        assert!(missing.contains("class `hat`; it has Coat"), "{missing}");
        let value = format!("{}", table.classes[0].vectors[0][0]);
        for (from, to, part) in [
            (value.as_str(), "0.5", "changed after"),
            ("\"t shirt\"", "\"t shirts\"", "changed after"),
            (FORMAT, "oncefit-targets-2", "must be `oncefit-targets-1`"),
            ("\"width\"", "\"widht\"", "unknown field `widht`"),
        ] {
            let changed = text.replacen(from, to, 1);
            let found = TargetTable::parse(&changed, "t").unwrap_err().to_string();
            assert!(found.contains(part), "{found}");
        }
        let found = TargetTable::open("no-such").unwrap_err().to_string();
        assert!(
            found.contains("fashion-mnist, mnist, cifar10, icons"),
            "{found}"
        );
    }

    #[test]
    fn transforms_are_what_they_say() {
        let encoder = tiny();
        let list = list("coat\nboot\nshirt");
        let build = |settings: BuildSettings| TargetTable::build(&list, &encoder, &settings);
        let template = BuildSettings {
            template: "top {}".into(),
            ..BuildSettings::default()
        };
        let plain = build(template.clone()).unwrap().rows().unwrap();
        let centred = BuildSettings {
            centre: true,
            ..template.clone()
        };
        let centred = build(centred).unwrap().rows().unwrap();
        let (anchor, coat) = (
            encoder.encode("top ").unwrap(),
            encoder.encode("top coat").unwrap(),
        );
        let difference: Vec<f32> = coat.iter().zip(&anchor).map(|(a, b)| a - b).collect();
        let wanted = to_unit(&difference).unwrap();
        assert!(
            centred[0]
                .iter()
                .zip(&wanted)
                .all(|(a, b)| (a - b).abs() < 1e-6)
        );
        // A whole rotation keeps every cosine.
        let turned = |width| BuildSettings {
            rotate: Some((width, 3)),
            ..template.clone()
        };
        let whole = build(turned(12)).unwrap().rows().unwrap();
        for (left, right) in [(0, 1), (0, 2), (1, 2)] {
            let change = cosine(&plain[left], &plain[right]) - cosine(&whole[left], &whole[right]);
            assert!(change.abs() < 1e-5, "{change}");
        }
        assert_ne!(whole, plain);
        assert_eq!(build(turned(5)).unwrap().rows().unwrap()[0].len(), 5);
        let error = build(turned(13)).unwrap_err().to_string();
        assert!(error.contains("must be 1 to 12"), "{error}");
        let without = BuildSettings {
            template: "a".into(),
            ..BuildSettings::default()
        };
        assert!(
            build(without)
                .unwrap_err()
                .to_string()
                .contains("must have `{}`")
        );
    }

    #[test]
    fn a_group_that_does_not_hold_fails_the_build() {
        let encoder = tiny();
        let words = ["coat", "boot", "shirt", "top"];
        // One of the ways to pair four words is not as near as the others.
        let pairs = [(0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2)];
        let built = pairs.map(|(a, b, c, d)| {
            let [a, b, c, d] = [a, b, c, d].map(|at: usize| words[at]);
            let text = format!("group g: {a}, {b} < {c}, {d}\n{}", words.join("\n"));
            TargetTable::build(&list(&text), &encoder, &BuildSettings::default())
        });
        let errors: Vec<String> = built
            .iter()
            .filter_map(|built| Some(built.as_ref().err()?.to_string()))
            .collect();
        assert!(!errors.is_empty());
        assert!(
            errors
                .iter()
                .all(|error| error.contains("a mean cosine of")),
            "{errors:?}"
        );
    }

    #[test]
    fn controls() {
        let rows = TargetTable::builtin("fashion-mnist")
            .unwrap()
            .rows()
            .unwrap();
        let order = [3, 1, 0, 7];
        let orthogonal = orthogonal_rows(&rows, &order).unwrap();
        for left in order {
            for right in order {
                let wanted = f64::from(u8::from(left == right));
                let found = cosine(&orthogonal[left], &orthogonal[right]);
                assert!((found - wanted).abs() < 1e-5, "{found}");
            }
        }
        // The first to arrive keeps its row, later ones change no earlier one, others stay.
        assert!(cosine(&orthogonal[3], &rows[3]) > 0.999_99);
        let longer = orthogonal_rows(&rows, &[3, 1, 0, 7, 2, 9]).unwrap();
        assert!(order.iter().all(|&row| longer[row] == orthogonal[row]));
        assert_eq!(orthogonal[5], rows[5]);
        let doubled = [rows[0].clone(), rows[0].clone()];
        assert!(orthogonal_rows(&doubled, &[0, 1]).is_err());
        let shuffled = shuffled_rows(&rows, 1);
        assert!(shuffled.iter().zip(&rows).all(|(a, b)| a != b));
        assert!(rows.iter().all(|row| shuffled.contains(row)));
        assert_ne!(shuffled, shuffled_rows(&rows, 2));
        let random = random_rows(10, 384, 1);
        assert_eq!(random[..4], random_rows(4, 384, 1));
        assert!(
            random
                .iter()
                .all(|row| (cosine(row, row) - 1.0).abs() < 1e-5)
        );
        assert!(cosine(&random[0], &random[1]).abs() < 0.25);
    }

    #[test]
    fn shipped_tables_hold_what_their_lists_say() {
        for name in TargetTable::BUILTIN {
            let (table, list) = (
                TargetTable::builtin(name).unwrap(),
                NameList::builtin(name).unwrap(),
            );
            table.check_groups(name).unwrap();
            assert_eq!(table.groups, list.groups);
            assert_eq!(table.classes.len(), list.classes.len());
            for (class, texts) in table.classes.iter().zip(&list.classes) {
                assert_eq!((&class.name, &class.texts), (&texts.name, &texts.texts));
            }
        }
    }
}
