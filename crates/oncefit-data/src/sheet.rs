//! A picture of examples: one row per class.

use std::io::Write;

use flate2::write::ZlibEncoder;
use flate2::{Compression, Crc};

use crate::dataset::{Dataset, ImageShape};
use crate::error::{DataError, Result, at_least_one};

/// Pixels between images and around them.
const GAP: usize = 2;
const BACKGROUND: u8 = 255;

/// A grey or RGB picture.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ContactSheet {
    /// Columns, in pixels.
    pub width: usize,
    /// Rows, in pixels.
    pub height: usize,
    /// 1 for grey, 3 for red, green and blue.
    pub channels: usize,
    /// (height, width, channels).
    pub pixels: Vec<u8>,
}

/// The first `per_class` images of each class, a row per class in the order of the labels, on
/// white; a class with fewer images leaves the rest of its row empty.
///
/// # Errors
/// If `per_class` is 0, or the images are neither grey nor RGB.
pub fn contact_sheet(dataset: &Dataset, per_class: usize) -> Result<ContactSheet> {
    at_least_one("examples per class", per_class)?;
    let ImageShape {
        height,
        width,
        channels,
    } = dataset.shape();
    if ![1, 3].contains(&channels) {
        return Err(DataError::setting(
            "channels of a picture",
            channels,
            "1 (grey) or 3 (RGB)",
        ));
    }
    let by_class = dataset.indices_by_class();
    let most = by_class.iter().map(Vec::len).max().unwrap_or(0);
    let columns = per_class.min(most);
    let mut sheet = ContactSheet {
        width: GAP + columns * (width + GAP),
        height: GAP + by_class.len() * (height + GAP),
        channels,
        pixels: Vec::new(),
    };
    sheet
        .pixels
        .resize(sheet.width * sheet.height * channels, BACKGROUND);
    for (class, indices) in by_class.iter().enumerate() {
        for (column, &index) in indices.iter().take(columns).enumerate() {
            let left = GAP + column * (width + GAP);
            let top = GAP + class * (height + GAP);
            for (row, pixels) in dataset
                .image(index)
                .chunks_exact(width * channels)
                .enumerate()
            {
                let start = ((top + row) * sheet.width + left) * channels;
                sheet.pixels[start..][..pixels.len()].copy_from_slice(pixels);
            }
        }
    }
    Ok(sheet)
}

impl ContactSheet {
    /// The picture as a PNG file: 8 bits per value, rows without a filter.
    pub fn to_png(&self) -> Vec<u8> {
        let colour_type = if self.channels == 1 { 0 } else { 2 };
        let mut header = Vec::new();
        header.extend((self.width as u32).to_be_bytes());
        header.extend((self.height as u32).to_be_bytes());
        // Bit depth, colour type, then the only legal compression and filter methods, not interlaced.
        header.extend([8, colour_type, 0, 0, 0]);

        let mut rows = Vec::with_capacity(self.pixels.len() + self.height);
        for row in self.pixels.chunks_exact(self.width * self.channels) {
            rows.push(0);
            rows.extend_from_slice(row);
        }
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        let compressed = encoder
            .write_all(&rows)
            .and_then(|()| encoder.finish())
            .expect("writing into a vector cannot fail");

        let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
        write_chunk(&mut file, b"IHDR", &header);
        for part in compressed.chunks(1 << 20) {
            write_chunk(&mut file, b"IDAT", part);
        }
        write_chunk(&mut file, b"IEND", &[]);
        file
    }
}

/// Length, kind, data and CRC-32 of kind and data (PNG specification, section 5.3).
fn write_chunk(file: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    let mut crc = Crc::new();
    crc.update(kind);
    crc.update(data);
    file.extend((data.len() as u32).to_be_bytes());
    file.extend(kind);
    file.extend(data);
    file.extend(crc.sum().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::ZlibDecoder;
    use std::io::Read;

    fn dataset(channels: usize) -> Dataset {
        let shape = ImageShape {
            height: 1,
            width: 2,
            channels,
        };
        let images = (0..3 * 2 * channels as u8).collect();
        let names = ["a", "b"].map(String::from).to_vec();
        Dataset::new("d", shape, images, vec![1, 0, 1], names).unwrap()
    }

    #[test]
    fn each_class_is_a_row() {
        let sheet = contact_sheet(&dataset(1), 9).unwrap();
        assert_eq!((sheet.width, sheet.height, sheet.channels), (10, 8, 1));
        let w = BACKGROUND;
        let row = |top: usize| sheet.pixels[10 * top..][..10].to_vec();
        assert_eq!(row(2), [w, w, 2, 3, w, w, w, w, w, w]);
        assert_eq!(row(5), [w, w, 0, 1, w, w, 4, 5, w, w]);
        for top in [0, 1, 3, 4, 6, 7] {
            assert_eq!(row(top), [w; 10]);
        }
        assert_eq!(contact_sheet(&dataset(1), 1).unwrap().width, 6);
    }

    #[test]
    fn a_png_holds_the_pixels() {
        for (channels, colour_type) in [(1, 0), (3, 2)] {
            let sheet = contact_sheet(&dataset(channels), 2).unwrap();
            let png = sheet.to_png();
            assert_eq!(png[..16], *b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR");
            assert_eq!(
                png[16..29],
                [0, 0, 0, 10, 0, 0, 0, 8, 8, colour_type, 0, 0, 0]
            );
            assert_eq!(png[37..41], *b"IDAT");
            let mut rows = Vec::new();
            ZlibDecoder::new(&png[41..]).read_to_end(&mut rows).unwrap();
            let stripped: Vec<u8> = rows
                .chunks_exact(10 * channels + 1)
                .flat_map(|row| row[1..].to_vec())
                .collect();
            assert_eq!(stripped, sheet.pixels);
            // The CRC of an empty IEND is a published constant.
            assert_eq!(png[png.len() - 12..], *b"\0\0\0\0IEND\xae\x42\x60\x82");
        }
    }

    #[test]
    fn illegal_requests_are_errors() {
        let error = contact_sheet(&dataset(2), 1).unwrap_err().to_string();
        assert_eq!(
            error,
            "channels of a picture is 2; expected 1 (grey) or 3 (RGB)"
        );
        assert!(contact_sheet(&dataset(1), 0).is_err());
    }
}
