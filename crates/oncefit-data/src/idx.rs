//! The IDX format of MNIST and its relatives: a magic number, big-endian 32-bit extents, bytes.
//!
//! `00 00 08 D`, then D extents, then their product of unsigned bytes. D is 3 for images
//! (count, height, width) and 1 for labels. A file may be gzip; its first two bytes tell. Nothing
//! is allocated because a header says so: buffers grow with the bytes that arrive.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::dataset::{Dataset, ImageShape};
use crate::error::{DataError, Result};

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// `00 00`, then the type code of unsigned bytes, then room for the number of dimensions.
const IDX_MAGIC: u32 = 0x0000_0800;

/// The content of an IDX file of unsigned bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdxArray {
    /// The file it came from, for messages.
    pub file: PathBuf,
    /// Extents, outermost first; each at least 1.
    pub extents: Vec<usize>,
    /// As many bytes as the product of the extents.
    pub bytes: Vec<u8>,
}

/// Reads an IDX file, raw or gzip, with this number of dimensions (3 for images, 1 for labels).
///
/// # Errors
/// If the file cannot be read, is cut short or damaged, goes on after its content, or is not an
/// IDX file of unsigned bytes with `dimensions` dimensions.
pub fn read_idx(file: &Path, dimensions: u8) -> Result<IdxArray> {
    let opened = File::open(file).map_err(|source| DataError::Read {
        file: file.to_owned(),
        source,
    })?;
    parse_idx(file, BufReader::new(opened), dimensions)
}

/// As [`read_idx`], from any source of bytes; `file` is its name in messages.
///
/// # Errors
/// As [`read_idx`].
pub fn parse_idx(file: &Path, mut source: impl BufRead, dimensions: u8) -> Result<IdxArray> {
    let mut start = Vec::new();
    source
        .by_ref()
        .take(GZIP_MAGIC.len() as u64)
        .read_to_end(&mut start)
        .map_err(|source| DataError::Read {
            file: file.to_owned(),
            source,
        })?;
    let is_gzip = start == GZIP_MAGIC;
    let whole = Cursor::new(start).chain(source);
    if is_gzip {
        Parser {
            file,
            source: MultiGzDecoder::new(whole),
            is_gzip,
            position: 0,
        }
        .parse(dimensions)
    } else {
        Parser {
            file,
            source: whole,
            is_gzip,
            position: 0,
        }
        .parse(dimensions)
    }
}

struct Parser<'f, R> {
    file: &'f Path,
    source: R,
    is_gzip: bool,
    /// Bytes read so far, decompressed.
    position: u64,
}

impl<R: Read> Parser<'_, R> {
    fn parse(mut self, dimensions: u8) -> Result<IdxArray> {
        let header = 4 + 4 * u64::from(dimensions);
        let magic = big_endian(&self.take(4, header)?);
        let expected = IDX_MAGIC | u32::from(dimensions);
        if magic != expected {
            return Err(DataError::Magic {
                file: self.file.to_owned(),
                dimensions,
                expected,
                found: magic,
            });
        }
        let extents: Vec<u32> = self
            .take(header - 4, header)?
            .chunks_exact(4)
            .map(big_endian)
            .collect();
        let bytes = extents
            .iter()
            .try_fold(1u64, |all, extent| all.checked_mul(u64::from(*extent)))
            .filter(|bytes| *bytes > 0 && isize::try_from(*bytes).is_ok())
            .ok_or_else(|| DataError::Extents {
                file: self.file.to_owned(),
                extents: extents.clone(),
            })?;
        let total = header + bytes;
        let bytes = self.take(bytes, total)?;
        // Reading past the end also makes the gzip decoder compare its checksum.
        if !self.read_up_to(1, total)?.is_empty() {
            return Err(DataError::TrailingBytes {
                file: self.file.to_owned(),
                expected: total,
            });
        }
        let extents = extents.into_iter().map(|extent| extent as usize).collect();
        Ok(IdxArray {
            file: self.file.to_owned(),
            extents,
            bytes,
        })
    }

    /// Exactly `count` bytes of a content that has `total`.
    fn take(&mut self, count: u64, total: u64) -> Result<Vec<u8>> {
        let bytes = self.read_up_to(count, total)?;
        if (bytes.len() as u64) < count {
            return Err(DataError::Truncated {
                file: self.file.to_owned(),
                expected: total,
                found: self.position,
            });
        }
        Ok(bytes)
    }

    fn read_up_to(&mut self, count: u64, total: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let result = self.source.by_ref().take(count).read_to_end(&mut bytes);
        self.position += bytes.len() as u64;
        let file = self.file.to_owned();
        match result {
            Ok(_) => Ok(bytes),
            Err(source) if self.is_gzip => Err(DataError::Gzip {
                file,
                expected: total,
                found: self.position,
                source,
            }),
            Err(source) => Err(DataError::Read { file, source }),
        }
    }
}

/// The number in four bytes.
fn big_endian(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// An image file with its label file.
pub(crate) struct LabelledFiles {
    images: IdxArray,
    labels: IdxArray,
}

impl LabelledFiles {
    /// Reads both files.
    pub(crate) fn read(images: &Path, labels: &Path) -> Result<Self> {
        Self::new(read_idx(images, 3)?, read_idx(labels, 1)?)
    }

    /// Pairs images (count, height, width) with labels (count).
    pub(crate) fn new(images: IdxArray, labels: IdxArray) -> Result<Self> {
        if images.extents[0] != labels.extents[0] {
            return Err(DataError::Counts {
                images: images.extents[0],
                images_file: images.file,
                labels: labels.extents[0],
                labels_file: labels.file,
            });
        }
        Ok(Self { images, labels })
    }

    /// One more than the largest label.
    pub(crate) fn classes(&self) -> usize {
        self.labels
            .bytes
            .iter()
            .max()
            .map_or(0, |label| usize::from(*label) + 1)
    }

    /// The data set, grey images.
    pub(crate) fn into_dataset(self, name: &str, class_names: Vec<String>) -> Result<Dataset> {
        let Self { images, labels } = self;
        let shape = ImageShape {
            height: images.extents[1],
            width: images.extents[2],
            channels: 1,
        };
        let values = labels.bytes.into_iter().map(u32::from).collect();
        Dataset::new(name, shape, images.bytes, values, class_names).map_err(|source| {
            DataError::InFile {
                file: labels.file,
                source: source.into(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    /// Two images of 2 x 3 pixels.
    fn images() -> Vec<u8> {
        let mut file = vec![0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3];
        file.extend(10..22);
        file
    }

    fn labels(values: &[u8]) -> Vec<u8> {
        let mut file = vec![0, 0, 8, 1, 0, 0, 0, values.len() as u8];
        file.extend_from_slice(values);
        file
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn parse(bytes: &[u8], dimensions: u8) -> Result<IdxArray> {
        parse_idx(Path::new("some-file"), bytes, dimensions)
    }

    #[test]
    fn raw_and_gzip_read_the_same() {
        let raw = parse(&images(), 3).unwrap();
        assert_eq!(raw.extents, [2, 2, 3]);
        assert_eq!(raw.bytes, (10..22).collect::<Vec<u8>>());
        assert_eq!(raw, parse(&gzip(&images()), 3).unwrap());
        let file = images();
        let members = [gzip(&file[..7]), gzip(&file[7..])].concat();
        assert_eq!(raw, parse(&members, 3).unwrap());
    }

    #[test]
    fn truncation_at_every_byte_is_an_error_that_names_the_file() {
        for (file, is_gzip) in [(images(), false), (gzip(&images()), true)] {
            for end in 0..file.len() {
                let error = parse(&file[..end], 3).unwrap_err();
                assert!(error.to_string().contains("some-file"), "{end}: {error}");
                match error {
                    DataError::Truncated { found, .. } => assert_eq!(found, end as u64),
                    DataError::Gzip { .. } if is_gzip => {}
                    other => panic!("cut at {end}: {other}"),
                }
            }
        }
        assert_eq!(
            parse(&images()[..20], 3).unwrap_err().to_string(),
            "some-file is cut short: expected 28 bytes (decompressed), found 20"
        );
    }

    #[test]
    fn wrong_kind_extents_and_length_are_errors() {
        assert_eq!(
            parse(&labels(&[1]), 3).unwrap_err().to_string(),
            "some-file is not an IDX file of unsigned bytes with 3 dimension(s): \
             expected it to begin with 0x00000803, found 0x00000801"
        );
        assert!(matches!(
            parse(b"PK\x03\x04 an archive", 1),
            Err(DataError::Magic { .. })
        ));
        for last in [[0; 4], [0xff; 4]] {
            let mut file = [0xff; 16];
            file[..4].copy_from_slice(&[0, 0, 8, 3]);
            file[12..].copy_from_slice(&last);
            assert!(matches!(parse(&file, 3), Err(DataError::Extents { .. })));
        }
        let mut huge = labels(&[1, 2]);
        huge[4] = 0xff;
        assert!(matches!(
            parse(&huge, 1),
            Err(DataError::Truncated { found: 10, .. })
        ));
        for more in [
            [labels(&[1]), vec![9]].concat(),
            gzip(&[labels(&[1]), vec![9]].concat()),
        ] {
            assert!(matches!(
                parse(&more, 1),
                Err(DataError::TrailingBytes { expected: 9, .. })
            ));
        }
        assert!(matches!(
            parse(&[gzip(&labels(&[1])), vec![9]].concat(), 1),
            Err(DataError::Gzip { found: 9, .. })
        ));
    }

    #[test]
    fn a_damaged_gzip_checksum_is_found() {
        let mut file = gzip(&images());
        let checksum = file.len() - 8;
        file[checksum] ^= 1;
        let error = parse(&file, 3).unwrap_err();
        assert!(
            matches!(
                error,
                DataError::Gzip {
                    expected: 28,
                    found: 28,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn counts_and_labels_that_disagree_name_the_files() {
        let pair = |values: &[u8]| {
            let mut labels = parse(&labels(values), 1).unwrap();
            labels.file = "label-file".into();
            LabelledFiles::new(parse(&images(), 3).unwrap(), labels)
        };
        let error = pair(&[1, 2, 3]).err().unwrap().to_string();
        assert!(
            error.starts_with("some-file has 2 images but label-file has 3 labels"),
            "{error}"
        );
        let files = pair(&[0, 4]).unwrap();
        assert_eq!(files.classes(), 5);
        let error = files
            .into_dataset("d", vec!["only".into()])
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("label-file: label 4 at index 1 of data set `d`"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn mutated_files_never_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            is_gzip: bool,
        ) {
            let mut file = if is_gzip { gzip(&images()) } else { images() };
            for (place, value) in changes {
                let place = place.index(file.len());
                file[place] = value;
            }
            if let Ok(array) = parse(&file, 3) {
                prop_assert_eq!(array.extents.iter().product::<usize>(), array.bytes.len());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(file: Vec<u8>, dimensions in 0u8..5) {
            if let Ok(array) = parse(&file, dimensions) {
                prop_assert_eq!(array.extents.len(), usize::from(dimensions));
            }
        }
    }
}
