//! Image folders: `train/<class>/*.jpg` and `test/<class>/*.jpg`, in a folder or an archive.
//!
//! - PNG and JPEG, told by their content; other files are passed over.
//! - `val`, `valid` and `validation` stand for `test` where there is no `test`.
//! - Without a `train` folder, `<class>/*` is one set of which a share is split off as the test part.
//! - Classes are the folders' names, sorted.
//! - If any image has colour, grey ones are made RGB.
//! - With an image size, the shorter side is resized to it and the middle cut out; without, all
//!   images must have one size.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;

use crate::archive::{Entry, Listing};
use crate::dataset::{Dataset, ImageShape};
use crate::error::{DataError, Result};
use crate::resize::Resize;
use crate::source::LoadedData;
use crate::split::ValidationSplit;

/// Seed of the choice of test images where the data has no test part.
const TEST_SPLIT_SEED: u64 = 2_147_483_646;

/// Reads an image folder.
pub(crate) fn image_folder(
    path: &Path,
    listing: &Listing,
    image_size: Option<usize>,
    test_fraction: Option<f64>,
) -> Result<LoadedData> {
    let fails = |reason: String| DataError::ImageFolder {
        folder: path.to_owned(),
        reason,
    };
    if let Some(fraction) = test_fraction
        && !(fraction > 0.0 && fraction < 1.0)
    {
        return Err(DataError::setting(
            "`test_fraction`",
            fraction,
            "above 0 and below 1",
        ));
    }
    let images: Vec<&Entry> = listing
        .files
        .iter()
        .filter(|entry| is_image(entry))
        .collect();
    if images.is_empty() {
        return Err(fails("there is no .png, .jpg or .jpeg file in it".into()));
    }
    let part_of = |entry: &Entry| {
        let parts = entry.parts();
        let part = parts.len().checked_sub(3).map(|index| parts[index]);
        part.and_then(Part::of)
    };
    let has = |part| images.iter().any(|entry| part_of(entry) == Some(part));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if !has(Part::Train) {
        let Some(fraction) = test_fraction else {
            return Err(fails(
                "it has no `train` folder; expected train/<class>/… and test/<class>/…, or set \
                 `test_fraction` to split one set of <class>/… folders"
                    .into(),
            ));
        };
        let set = ImageSet::new(path, &images, &listing.folders, None, &[])?;
        let all = set.decode(path, &name, image_size)?;
        let size = ((all.len() as f64 * fraction).round() as usize).max(set.classes.len());
        let (train, test) = all.hold_out(ValidationSplit {
            size,
            seed: TEST_SPLIT_SEED,
        })?;
        let (train_name, test_name) = (format!("{name}/train"), format!("{name}/test"));
        return LoadedData::new(train.renamed(train_name), test.renamed(test_name));
    }
    if test_fraction.is_some() {
        return Err(fails(
            "it has a `train` folder; leave `test_fraction` out".into(),
        ));
    }
    let test_part = match (has(Part::Test), has(Part::Validation)) {
        (true, _) => Part::Test,
        (false, true) => Part::Validation,
        (false, false) => {
            return Err(fails(
                "it has `train` but no `test` (or `val`) folder with images".into(),
            ));
        }
    };
    let of = |part| -> Vec<&Entry> {
        let entries = images.iter().copied();
        entries
            .filter(|entry| part_of(entry) == Some(part))
            .collect()
    };
    let train = ImageSet::new(
        path,
        &of(Part::Train),
        &listing.folders,
        Some(Part::Train),
        &[],
    )?;
    let test = ImageSet::new(
        path,
        &of(test_part),
        &listing.folders,
        Some(test_part),
        &train.classes,
    )?;
    let mut train = train.decode(path, &format!("{name}/train"), image_size)?;
    let mut test = test.decode(path, &format!("{name}/test"), image_size)?;
    if train.channels() < test.channels() {
        train = in_colour(&train)?;
    } else if test.channels() < train.channels() {
        test = in_colour(&test)?;
    }
    LoadedData::new(train, test)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Train,
    Test,
    Validation,
}

impl Part {
    fn of(name: &str) -> Option<Self> {
        match name.to_lowercase().as_str() {
            "train" | "training" => Some(Self::Train),
            "test" => Some(Self::Test),
            "val" | "valid" | "validation" => Some(Self::Validation),
            _ => None,
        }
    }
}

fn is_image(entry: &Entry) -> bool {
    let name = entry.name.to_lowercase();
    [".png", ".jpg", ".jpeg"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// The images of one part, with their labels.
struct ImageSet<'e> {
    entries: Vec<&'e Entry>,
    labels: Vec<u32>,
    classes: Vec<String>,
}

impl<'e> ImageSet<'e> {
    /// Sorts images into classes: those given, or the names of their folders.
    fn new(
        path: &Path,
        images: &[&'e Entry],
        folders: &[String],
        part: Option<Part>,
        classes: &[String],
    ) -> Result<Self> {
        let fails = |reason: String| DataError::ImageFolder {
            folder: path.to_owned(),
            reason,
        };
        let mut by_class: BTreeMap<&str, Vec<&'e Entry>> = BTreeMap::new();
        for entry in images {
            let parts = entry.parts();
            let Some(class) = parts.len().checked_sub(2).map(|index| parts[index]) else {
                return Err(fails(format!(
                    "image `{}` is in no class folder; expected <class>/{}",
                    entry.name, entry.name
                )));
            };
            // The folder's name outlives the parts: it is a piece of the entry's name.
            let start = class.as_ptr() as usize - entry.name.as_ptr() as usize;
            let class = &entry.name[start..start + class.len()];
            by_class.entry(class).or_default().push(entry);
        }
        for folder in folders {
            let parts: Vec<&str> = folder.split('/').filter(|part| *part != ".").collect();
            let is_class = match (part, parts.len().checked_sub(2).map(|index| parts[index])) {
                (Some(part), Some(parent)) => Part::of(parent) == Some(part),
                (None, _) => by_class.values().flatten().any(|entry| {
                    let of_image = entry.parts();
                    of_image.len() == parts.len() + 1
                }),
                _ => false,
            };
            let class = parts.last().copied().unwrap_or_default();
            if is_class && !by_class.contains_key(class) {
                return Err(fails(format!("class folder `{folder}` has no images")));
            }
        }
        let names: Vec<String> = match classes.is_empty() {
            true => by_class.keys().map(|name| (*name).to_owned()).collect(),
            false => classes.to_vec(),
        };
        let (mut entries, mut labels) = (Vec::new(), Vec::new());
        for (class, of_class) in by_class {
            let Some(label) = names.iter().position(|name| name == class) else {
                return Err(fails(format!(
                    "class `{class}` has test images but no training images; classes: {}",
                    names.join(", ")
                )));
            };
            labels.extend(std::iter::repeat_n(label as u32, of_class.len()));
            entries.extend(of_class);
        }
        Ok(Self {
            entries,
            labels,
            classes: names,
        })
    }

    /// Decodes on all cores.
    fn decode(&self, path: &Path, name: &str, image_size: Option<usize>) -> Result<Dataset> {
        let decoded: Vec<Decoded> = self
            .entries
            .par_iter()
            .map(|entry| Decoded::read(path, entry, image_size))
            .collect::<Result<_>>()?;
        let channels = decoded
            .iter()
            .map(|image| image.shape.channels)
            .max()
            .unwrap_or(1);
        let first = decoded[0].shape;
        for (image, entry) in decoded.iter().zip(&self.entries) {
            if (image.shape.height, image.shape.width) != (first.height, first.width) {
                return Err(DataError::ImageFolder {
                    folder: path.to_owned(),
                    reason: format!(
                        "`{}` has {}×{} pixels and `{}` {}×{}; set `image_size` to bring them to one size",
                        self.entries[0].name,
                        first.height,
                        first.width,
                        entry.name,
                        image.shape.height,
                        image.shape.width
                    ),
                });
            }
        }
        let shape = ImageShape { channels, ..first };
        let mut bytes = Vec::with_capacity(decoded.len() * shape.bytes());
        for image in &decoded {
            match image.shape.channels == channels {
                true => bytes.extend_from_slice(&image.bytes),
                false => bytes.extend(image.bytes.iter().flat_map(|value| [*value; 3])),
            }
        }
        Dataset::new(
            name,
            shape,
            bytes,
            self.labels.clone(),
            self.classes.clone(),
        )
    }
}

/// A decoded image, grey or RGB.
struct Decoded {
    shape: ImageShape,
    bytes: Vec<u8>,
}

impl Decoded {
    fn read(path: &Path, entry: &Entry, image_size: Option<usize>) -> Result<Self> {
        let content = entry.read()?;
        let image = image::load_from_memory(&content).map_err(|error| DataError::Image {
            file: path.join(&entry.name),
            reason: error.to_string(),
        })?;
        let (width, height) = (image.width() as usize, image.height() as usize);
        let (bytes, channels) = match image.color().has_color() {
            true => (image.into_rgb8().into_raw(), 3),
            false => (image.into_luma8().into_raw(), 1),
        };
        let shape = ImageShape {
            height,
            width,
            channels,
        };
        let decoded = Self { shape, bytes };
        match image_size {
            Some(size) => decoded.middle(size),
            None => Ok(decoded),
        }
    }

    /// The shorter side resized to `size`, the middle of the longer one.
    fn middle(self, size: usize) -> Result<Self> {
        let ImageShape {
            height,
            width,
            channels,
        } = self.shape;
        let shorter = height.min(width);
        let scaled = |extent: usize| ((extent * size) as f64 / shorter as f64).round() as usize;
        let (rows, columns) = (scaled(height).max(size), scaled(width).max(size));
        let resize = Resize::new(self.shape, rows, columns)?;
        let mut values = vec![0.0; rows * columns * channels];
        resize.apply(&self.bytes, &mut Vec::new(), &mut values);
        let (top, left) = ((rows - size) / 2, (columns - size) / 2);
        let mut bytes = Vec::with_capacity(size * size * channels);
        for row in top..top + size {
            let start = (row * columns + left) * channels;
            let pixels = &values[start..][..size * channels];
            bytes.extend(pixels.iter().map(|value| value.round() as u8));
        }
        let shape = ImageShape {
            height: size,
            width: size,
            channels,
        };
        Ok(Self { shape, bytes })
    }
}

/// Reads one PNG or JPEG file as a square of `size` pixels, (size, size, channels) bytes, as images of
/// a data set with that image size are read; `channels` is 1 or 3.
///
/// # Errors
/// If it is no image.
pub fn read_image(file: &Path, size: usize, channels: usize) -> Result<Vec<u8>> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let entry = Entry::file(file, &name);
    let image = Decoded::read(folder, &entry, Some(size))?;
    Ok(match (image.shape.channels, channels) {
        (1, 3) => image.bytes.iter().flat_map(|value| [*value; 3]).collect(),
        (3, 1) => {
            let pixels = image.bytes.chunks_exact(3);
            let grey = |pixel: &[u8]| {
                let [red, green, blue] = [pixel[0], pixel[1], pixel[2]].map(f32::from);
                (0.299 * red + 0.587 * green + 0.114 * blue).round() as u8
            };
            pixels.map(grey).collect()
        }
        _ => image.bytes,
    })
}

/// A grey data set as RGB.
fn in_colour(dataset: &Dataset) -> Result<Dataset> {
    let shape = ImageShape {
        channels: 3,
        ..dataset.shape()
    };
    let images = dataset.images().iter().flat_map(|value| [*value; 3]);
    Dataset::new(
        dataset.name(),
        shape,
        images.collect(),
        dataset.labels().to_vec(),
        dataset.class_names().to_vec(),
    )
}
