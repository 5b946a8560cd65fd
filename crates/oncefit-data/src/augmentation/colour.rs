//! Changes of colour: brightness, contrast, saturation, hue, sharpness and tables of values.
//!
//! Images are bytes (H, W, C), grey or RGB. Blends follow the definition that imaging libraries
//! share: `out = factor · image + (1 − factor) · degenerate`, rounded and limited to a byte, where
//! the degenerate image is black (brightness), the mean grey (contrast), the grey image
//! (saturation) or a smoothed one (sharpness); factor 1 changes nothing.

use oncefit_random::Draws;

use crate::dataset::ImageShape;

/// Grey value of an RGB pixel (ITU-R 601).
fn grey(pixel: &[u8]) -> f32 {
    match pixel {
        [red, green, blue] => {
            0.299 * f32::from(*red) + 0.587 * f32::from(*green) + 0.114 * f32::from(*blue)
        }
        _ => f32::from(pixel[0]),
    }
}

fn blended(value: u8, degenerate: f32, factor: f32) -> u8 {
    // `as` limits to a byte.
    (factor * f32::from(value) + (1.0 - factor) * degenerate).round() as u8
}

/// Towards black (0) or brighter (above 1).
pub(super) fn brightness(image: &mut [u8], factor: f32) {
    image
        .iter_mut()
        .for_each(|value| *value = blended(*value, 0.0, factor));
}

/// Towards the image's mean grey.
pub(super) fn contrast(image: &mut [u8], channels: usize, factor: f32) {
    let sum: f32 = image.chunks_exact(channels).map(grey).sum();
    let mean = (sum / (image.len() / channels) as f32).round();
    image
        .iter_mut()
        .for_each(|value| *value = blended(*value, mean, factor));
}

/// Towards the grey image; grey images stay.
pub(super) fn saturation(image: &mut [u8], channels: usize, factor: f32) {
    if channels != 3 {
        return;
    }
    for pixel in image.chunks_exact_mut(3) {
        let grey = grey(pixel).round();
        pixel
            .iter_mut()
            .for_each(|value| *value = blended(*value, grey, factor));
    }
}

/// Turns the hue by a share of the colour circle, −½ to ½; grey images stay.
pub(super) fn hue(image: &mut [u8], channels: usize, turn: f32) {
    if channels != 3 {
        return;
    }
    for pixel in image.chunks_exact_mut(3) {
        let [red, green, blue] = [pixel[0], pixel[1], pixel[2]].map(|v| f32::from(v) / 255.0);
        let most = red.max(green).max(blue);
        let spread = most - red.min(green).min(blue);
        if spread == 0.0 {
            continue;
        }
        let sixth = if most == red {
            ((green - blue) / spread).rem_euclid(6.0)
        } else if most == green {
            (blue - red) / spread + 2.0
        } else {
            (red - green) / spread + 4.0
        };
        let turned = (sixth + 6.0 * turn).rem_euclid(6.0);
        // A channel at distance d (in sixths) of its own hue has most − spread · clamp(d − 1, 0, 1).
        let channel = |centre: f32| {
            let distance = (turned - centre).abs();
            let distance = distance.min(6.0 - distance);
            let value = most - spread * (distance - 1.0).clamp(0.0, 1.0);
            (255.0 * value).round() as u8
        };
        pixel.copy_from_slice(&[channel(0.0), channel(2.0), channel(4.0)]);
    }
}

/// Towards the image smoothed by the kernel (1 1 1, 1 5 1, 1 1 1) / 13; border pixels stay.
pub(super) fn sharpness(image: &mut [u8], shape: ImageShape, factor: f32) {
    let ImageShape {
        height,
        width,
        channels,
    } = shape;
    if height < 3 || width < 3 {
        return;
    }
    let old = image.to_vec();
    for row in 1..height - 1 {
        for column in 1..width - 1 {
            for channel in 0..channels {
                let at = |row: usize, column: usize| {
                    f32::from(old[(row * width + column) * channels + channel])
                };
                let mut sum = 4.0 * at(row, column);
                for r in row - 1..=row + 1 {
                    for c in column - 1..=column + 1 {
                        sum += at(r, c);
                    }
                }
                let value = &mut image[(row * width + column) * channels + channel];
                *value = blended(*value, (sum / 13.0).round(), factor);
            }
        }
    }
}

/// Replaces each value by its entry in a table.
fn map(image: &mut [u8], channels: usize, channel: usize, table: &[u8; 256]) {
    let values = image.iter_mut().skip(channel).step_by(channels);
    values.for_each(|value| *value = table[*value as usize]);
}

/// 255 minus the value.
pub(super) fn invert(image: &mut [u8]) {
    image.iter_mut().for_each(|value| *value = 255 - *value);
}

/// Inverts values from `threshold` on.
pub(super) fn solarize(image: &mut [u8], threshold: f32) {
    let values = image.iter_mut();
    values
        .filter(|value| f32::from(**value) >= threshold)
        .for_each(|value| *value = 255 - *value);
}

/// Keeps the highest `bits` bits.
pub(super) fn posterize(image: &mut [u8], bits: u32) {
    let mask = !(255u8.checked_shr(bits).unwrap_or(0));
    image.iter_mut().for_each(|value| *value &= mask);
}

/// Stretches each channel to the whole range.
pub(super) fn auto_contrast(image: &mut [u8], channels: usize) {
    for channel in 0..channels {
        let values = image.iter().skip(channel).step_by(channels);
        let (low, high) = values.fold((255u8, 0u8), |(low, high), value| {
            (low.min(*value), high.max(*value))
        });
        if low >= high {
            continue;
        }
        let scale = 255.0 / f32::from(high - low);
        let table =
            std::array::from_fn(|value| ((value as f32 - f32::from(low)) * scale).round() as u8);
        map(image, channels, channel, &table);
    }
}

/// Makes each channel's histogram flat.
pub(super) fn equalize(image: &mut [u8], channels: usize) {
    for channel in 0..channels {
        let mut histogram = [0usize; 256];
        for value in image.iter().skip(channel).step_by(channels) {
            histogram[*value as usize] += 1;
        }
        let last = histogram.iter().rfind(|count| **count > 0).copied();
        let step = (image.len() / channels - last.unwrap_or(0)) / 255;
        if step == 0 {
            continue;
        }
        let mut below = step / 2;
        let table = std::array::from_fn(|value| {
            let level = (below / step).min(255) as u8;
            below += histogram[value];
            level
        });
        map(image, channels, channel, &table);
    }
}

/// Largest changes of brightness, contrast, saturation and hue.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Jitter {
    pub brightness: f32,
    pub contrast: f32,
    pub saturation: f32,
    pub hue: f32,
}

impl Jitter {
    /// Changes all four by random amounts, in a random order.
    pub fn apply(&self, image: &mut [u8], channels: usize, mut draws: Draws) {
        let mut order = [0, 1, 2, 3];
        draws.shuffle(&mut order);
        let mut factor = |range: f32| draws.uniform_f32((1.0 - range).max(0.0), 1.0 + range);
        let factors = [self.brightness, self.contrast, self.saturation].map(&mut factor);
        let turn = draws.uniform_f32(-self.hue, self.hue);
        for change in order {
            match change {
                0 if self.brightness > 0.0 => brightness(image, factors[0]),
                1 if self.contrast > 0.0 => contrast(image, channels, factors[1]),
                2 if self.saturation > 0.0 => saturation(image, channels, factors[2]),
                3 if self.hue > 0.0 => hue(image, channels, turn),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RGB: [u8; 6] = [200, 100, 0, 10, 20, 30];

    fn changed(change: impl Fn(&mut [u8])) -> Vec<u8> {
        let mut image = RGB.to_vec();
        change(&mut image);
        image
    }

    #[test]
    fn factor_one_changes_nothing_and_zero_gives_the_degenerate_image() {
        assert_eq!(changed(|image| brightness(image, 1.0)), RGB);
        assert_eq!(changed(|image| brightness(image, 0.0)), [0; 6]);
        assert_eq!(
            changed(|image| brightness(image, 1.5)),
            [255, 150, 0, 15, 30, 45]
        );
        assert_eq!(changed(|image| contrast(image, 3, 1.0)), RGB);
        // Greys 118.5 and 18.15: mean 68.
        assert_eq!(changed(|image| contrast(image, 3, 0.0)), [68; 6]);
        assert_eq!(changed(|image| saturation(image, 3, 1.0)), RGB);
        assert_eq!(
            changed(|image| saturation(image, 3, 0.0)),
            [119, 119, 119, 18, 18, 18]
        );
    }

    #[test]
    fn hues_turn_around_the_circle() {
        let mut red = vec![255, 0, 0];
        hue(&mut red, 3, 1.0 / 3.0);
        assert_eq!(red, [0, 255, 0]);
        hue(&mut red, 3, -0.5);
        assert_eq!(red, [255, 0, 255]);
        assert_eq!(changed(|image| hue(image, 3, 0.0)), RGB);
        let back = changed(|image| {
            hue(image, 3, 0.2);
            hue(image, 3, -0.2);
        });
        assert!(
            back.iter()
                .zip(RGB)
                .all(|(found, old)| found.abs_diff(old) <= 2),
            "{back:?}"
        );
    }

    #[test]
    fn tables_have_their_values() {
        assert_eq!(changed(invert), [55, 155, 255, 245, 235, 225]);
        assert_eq!(
            changed(|image| solarize(image, 100.0)),
            [55, 155, 0, 10, 20, 30]
        );
        assert_eq!(
            changed(|image| posterize(image, 4)),
            [192, 96, 0, 0, 16, 16]
        );
        assert_eq!(changed(|image| posterize(image, 8)), RGB);
        let mut grey = vec![50, 100, 150];
        auto_contrast(&mut grey, 1);
        assert_eq!(grey, [0, 128, 255]);
        let mut ramp: Vec<u8> = (0..=255).flat_map(|value| [value / 2; 4]).collect();
        equalize(&mut ramp, 1);
        assert_eq!((ramp[0], ramp[1023]), (0, 255), "{:?}", &ramp[1000..]);
    }

    #[test]
    fn smoothing_is_the_mean_of_the_kernel() {
        let shape = ImageShape {
            height: 3,
            width: 3,
            channels: 1,
        };
        let mut image = vec![0, 0, 0, 0, 130, 0, 0, 0, 0];
        sharpness(&mut image, shape, 0.0);
        assert_eq!(image[4], 50);
        let mut same = vec![1, 2, 3, 4, 5, 6, 7, 8, 9];
        sharpness(&mut same, shape, 1.0);
        assert_eq!(same, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }
}
