//! CIFAR-10 and CIFAR-100 in their binary version: records of one label (CIFAR-100: a coarse and a
//! fine one) and 3,072 bytes, the red, green and blue plane of 32×32 pixels.

use std::path::Path;

use crate::archive::{Entry, Listing};
use crate::dataset::{Dataset, ImageShape};
use crate::error::{DataError, Result};
use crate::source::LoadedData;

/// Rows and columns of every image.
pub(crate) const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

/// Whether a folder or archive holds CIFAR in one of its forms.
pub(crate) fn is_cifar(listing: &Listing) -> bool {
    let files = listing.files.iter();
    files
        .map(own_name)
        .any(|name| name.starts_with("data_batch_") || name == "train.bin")
}

/// Reads CIFAR-10 (`data_batch_*.bin`, `test_batch.bin`) or CIFAR-100 (`train.bin`, `test.bin`).
pub(crate) fn cifar(path: &Path, listing: &Listing) -> Result<LoadedData> {
    let named = |wanted: &dyn Fn(&str) -> bool| -> Vec<&Entry> {
        let files = listing.files.iter();
        files.filter(|entry| wanted(own_name(entry))).collect()
    };
    let fails = |reason: &str| DataError::Archive {
        file: path.to_owned(),
        reason: reason.into(),
    };
    let fine = named(&|name| name == "train.bin");
    let (train, test, names, labels) = match fine.is_empty() {
        false => (
            fine,
            named(&|name| name == "test.bin"),
            named(&|name| name == "fine_label_names.txt"),
            2,
        ),
        true => (
            named(&|name| name.starts_with("data_batch_") && name.ends_with(".bin")),
            named(&|name| name == "test_batch.bin"),
            named(&|name| name == "batches.meta.txt"),
            1,
        ),
    };
    if train.is_empty() {
        return Err(fails(
            "this is the Python version of CIFAR; expected the binary version (data_batch_1.bin …)",
        ));
    }
    if test.is_empty() {
        return Err(fails("the file of test images is missing"));
    }
    let classes: Vec<String> = match names.first() {
        Some(entry) => {
            let bytes = entry.read()?;
            let text = String::from_utf8_lossy(&bytes);
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            lines.map(str::to_owned).collect()
        }
        None => (0..if labels == 2 { 100 } else { 10 })
            .map(|class| class.to_string())
            .collect(),
    };
    let name = if labels == 2 { "cifar100" } else { "cifar10" };
    let read = |part: &str, entries: &[&Entry]| -> Result<Dataset> {
        let record = labels + 3 * PLANE;
        let (mut images, mut of_images) = (Vec::new(), Vec::new());
        for entry in entries {
            let bytes = entry.read()?;
            if bytes.is_empty() || bytes.len() % record != 0 {
                return Err(DataError::Archive {
                    file: path.join(&entry.name),
                    reason: format!(
                        "it has {} bytes, expected a multiple of {record}: it is cut short or no CIFAR file",
                        bytes.len()
                    ),
                });
            }
            for record in bytes.chunks_exact(record) {
                of_images.push(u32::from(record[labels - 1]));
                let planes = &record[labels..];
                for pixel in 0..PLANE {
                    images.extend([0, 1, 2].map(|plane| planes[plane * PLANE + pixel]));
                }
            }
        }
        let shape = ImageShape {
            height: SIDE,
            width: SIDE,
            channels: 3,
        };
        Dataset::new(
            format!("{name}/{part}"),
            shape,
            images,
            of_images,
            classes.clone(),
        )
    };
    LoadedData::new(read("train", &train)?, read("test", &test)?)
}

fn own_name(entry: &Entry) -> &str {
    entry.name.rsplit('/').next().unwrap_or_default()
}
