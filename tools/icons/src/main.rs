//! Draws icons of openly licensed sets as a data set of small colour images with named classes.
//!
//! ```text
//! npm pack @iconify-json/noto @iconify-json/noto-v1 @iconify-json/fluent-emoji-flat \
//!          @iconify-json/twemoji @iconify-json/emojione
//! cargo run --release -- --out icons.zip iconify-json-*.tgz
//! ```
//!
//! Each image is an icon of one class in one set's style, on a background, turned, scaled and shifted
//! by draws that only (seed, class, set, variant) decide; variant 0 is the icon as it is, on white. The
//! zip archive has `train/<class>/<set>-<variant>.png`, `test/…`, and the sets' licences; the same
//! arguments give the same bytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use flate2::read::MultiGzDecoder;
use oncefit_random::{Draws, fnv1a64};
use resvg::tiny_skia::{Color, Pixmap, Transform};
use resvg::usvg;
use serde::Deserialize;
use zip::write::SimpleFileOptions;

/// The classes of the shipped targets `icons`.
const NAMES: &str = include_str!("../../../crates/oncefit-text/targets/icons.names");

/// Draw icon packages as a data set
#[derive(Parser)]
struct Args {
    /// Packages of npm's @iconify-json: tarballs of `npm pack`, or unpacked folders
    #[arg(required = true)]
    sets: Vec<PathBuf>,
    /// Archive to write
    #[arg(long, default_value = "icons.zip", value_name = "FILE")]
    out: PathBuf,
    /// Names of icons, one a line, what is after a colon ignored [default: the classes of the targets `icons`]
    #[arg(long, value_name = "FILE")]
    names: Option<PathBuf>,
    /// Rows and columns of an image
    #[arg(long, default_value_t = 32, value_name = "N")]
    size: u32,
    /// Training images of each class from each set
    #[arg(long, default_value_t = 20, value_name = "N")]
    train: usize,
    /// Test images of each class from each set
    #[arg(long, default_value_t = 5, value_name = "N")]
    test: usize,
    /// A set that is only tested on, such as twemoji; may be repeated [default: all sets are in both parts]
    #[arg(long, value_name = "SET")]
    test_set: Vec<String>,
    /// Seed of backgrounds, angles, sizes and places
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// `icons.json`
#[derive(Deserialize)]
struct IconsFile {
    prefix: String,
    icons: BTreeMap<String, Icon>,
    #[serde(default = "usual_size")]
    width: f32,
    #[serde(default = "usual_size")]
    height: f32,
    #[serde(default)]
    left: f32,
    #[serde(default)]
    top: f32,
}

/// What an icon set has where it says nothing.
fn usual_size() -> f32 {
    16.0
}

#[derive(Deserialize)]
struct Icon {
    body: String,
    width: Option<f32>,
    height: Option<f32>,
    left: Option<f32>,
    top: Option<f32>,
}

/// `info.json`
#[derive(Deserialize)]
struct Info {
    name: String,
    version: Option<String>,
    author: Person,
    license: Licence,
}

#[derive(Deserialize)]
struct Person {
    name: String,
    url: Option<String>,
}

#[derive(Deserialize)]
struct Licence {
    title: String,
    spdx: Option<String>,
    url: Option<String>,
}

struct Set {
    file: IconsFile,
    info: Info,
}

type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("icons: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let sets = args.sets.iter().map(|path| read_set(path));
    let mut sets: Vec<Set> = sets.collect::<Result<_>>()?;
    sets.sort_by(|left, right| left.file.prefix.cmp(&right.file.prefix));
    if let Some(pair) = sets.windows(2).find(|pair| pair[0].file.prefix == pair[1].file.prefix) {
        return Err(format!("the set `{}` is there twice", pair[0].file.prefix));
    }
    let prefixes: Vec<&str> = sets.iter().map(|set| set.file.prefix.as_str()).collect();
    for name in &args.test_set {
        if !prefixes.contains(&name.as_str()) {
            return Err(format!("--test-set {name}: the sets are {}", prefixes.join(", ")));
        }
    }
    if args.size == 0 || args.train == 0 || args.test == 0 {
        return Err("--size, --train and --test must be at least 1".into());
    }
    if args.test_set.len() >= sets.len() {
        return Err("--test-set leaves no set to train on".into());
    }
    let names = match &args.names {
        Some(path) => std::fs::read_to_string(path).map_err(|error| at(path, error))?,
        None => NAMES.into(),
    };
    let names = icon_names(&names);
    for set in &sets {
        let missing: Vec<&str> = names
            .iter()
            .filter(|name| !set.file.icons.contains_key(**name))
            .copied()
            .collect();
        if !missing.is_empty() {
            let prefix = &set.file.prefix;
            return Err(format!("the set `{prefix}` has no icon {}", missing.join(", ")));
        }
    }
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let mut add = |name: &str, bytes: &[u8]| {
        archive
            .start_file(name, SimpleFileOptions::default())
            .and_then(|()| Ok(archive.write_all(bytes)?))
            .map_err(|error| format!("cannot add {name}: {error}"))
    };
    add("LICENCES.md", licences(&sets).as_bytes())?;
    let mut counts = [0, 0];
    for (number, name) in names.iter().enumerate() {
        for set in &sets {
            let prefix = &set.file.prefix;
            let tree = tree(set, name)?;
            let held_out = args.test_set.contains(prefix);
            for variant in 0..args.train + args.test {
                // Without sets held out the last variants are the test's.
                let is_test = match args.test_set.is_empty() {
                    true => variant >= args.train,
                    false => held_out,
                };
                let most = match (args.test_set.is_empty(), held_out) {
                    (true, _) => args.train + args.test,
                    (false, true) => args.test,
                    (false, false) => args.train,
                };
                if variant >= most {
                    break;
                }
                let place = fnv1a64(format!("{name}/{prefix}").as_bytes());
                let mut draws = Draws::new(args.seed, "icon", place, variant as u64);
                let image = draw(&tree, args.size, (variant > 0).then_some(&mut draws));
                let part = if is_test { "test" } else { "train" };
                add(&format!("{part}/{name}/{prefix}-{variant:03}.png"), &image)?;
                counts[usize::from(is_test)] += 1;
            }
        }
        if (number + 1) % 20 == 0 {
            eprintln!("{} of {} classes", number + 1, names.len());
        }
    }
    let bytes = archive.finish().map_err(|error| error.to_string())?.into_inner();
    std::fs::write(&args.out, &bytes).map_err(|error| at(&args.out, error))?;
    println!(
        "{}: {} classes, {} training and {} test images of {size}×{size}, {} bytes",
        args.out.display(),
        names.len(),
        counts[0],
        counts[1],
        bytes.len(),
        size = args.size,
    );
    Ok(())
}

fn at(path: &Path, error: impl std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}

/// The names of a list as `oncefit targets build` takes it, without its groups.
fn icon_names(text: &str) -> Vec<&str> {
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| {
        !line.is_empty() && !line.starts_with('#') && !line.starts_with("group ")
    });
    lines.map(|line| line.split(':').next().unwrap_or(line).trim()).collect()
}

fn read_set(path: &Path) -> Result<Set> {
    let wrong = |error: &dyn std::fmt::Display| at(path, error);
    let mut files = BTreeMap::new();
    if path.is_dir() {
        for name in ["icons.json", "info.json"] {
            let file = path.join(name);
            files.insert(name.to_owned(), std::fs::read(&file).map_err(|error| at(&file, error))?);
        }
    } else {
        let file = File::open(path).map_err(|error| wrong(&error))?;
        let mut archive = tar::Archive::new(MultiGzDecoder::new(file));
        for entry in archive.entries().map_err(|error| wrong(&error))? {
            let mut entry = entry.map_err(|error| wrong(&error))?;
            let name = entry.path().map_err(|error| wrong(&error))?;
            let name = name.strip_prefix("package").unwrap_or(&name);
            let name = name.to_string_lossy().into_owned();
            if name == "icons.json" || name == "info.json" {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).map_err(|error| wrong(&error))?;
                files.insert(name, bytes);
            }
        }
    }
    let part = |name: &str| {
        let found = files.get(name).map(Vec::as_slice);
        found.ok_or_else(|| wrong(&format!("it has no {name}: not a package of @iconify-json")))
    };
    let json = |name: &str, error: serde_json::Error| wrong(&format!("{name}: {error}"));
    Ok(Set {
        file: serde_json::from_slice(part("icons.json")?)
            .map_err(|error| json("icons.json", error))?,
        info: serde_json::from_slice(part("info.json")?).map_err(|error| json("info.json", error))?,
    })
}

fn licences(sets: &[Set]) -> String {
    let mut text = String::from(
        "# Where the images come from\n\nDrawn by tools/icons of Oncefit: rasterised, turned, scaled and put on backgrounds. Each file's name begins with its set.\n\n| set | name | author | licence |\n|---|---|---|---|\n",
    );
    for Set { file, info } in sets {
        let link = |text: &str, url: &Option<String>| match url {
            Some(url) => format!("[{text}]({url})"),
            None => text.to_owned(),
        };
        let licence = info.license.spdx.as_deref().unwrap_or(&info.license.title);
        text += &format!(
            "| {} | {} {} | {} | {} |\n",
            file.prefix,
            info.name,
            info.version.as_deref().unwrap_or_default(),
            link(&info.author.name, &info.author.url),
            link(licence, &info.license.url)
        );
    }
    text
}

fn tree(set: &Set, name: &str) -> Result<usvg::Tree> {
    let (file, icon) = (&set.file, &set.file.icons[name]);
    let text = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{} {} {w} {h}" width="{w}" height="{h}">{}</svg>"#,
        icon.left.unwrap_or(file.left),
        icon.top.unwrap_or(file.top),
        icon.body,
        w = icon.width.unwrap_or(file.width),
        h = icon.height.unwrap_or(file.height),
    );
    usvg::Tree::from_str(&text, &usvg::Options::default())
        .map_err(|error| format!("{}:{name}: {error}", file.prefix))
}

/// A PNG file, RGB; with draws on a drawn background, turned by up to 25°, at 65 % to 100 % of the
/// size, anywhere in the image.
fn draw(tree: &usvg::Tree, size: u32, draws: Option<&mut Draws>) -> Vec<u8> {
    let mut pixels = Pixmap::new(size, size).expect("the size is above 0");
    let side = size as f32;
    let (width, height) = (tree.size().width(), tree.size().height());
    let fit = side / width.max(height);
    let centre = Transform::from_translate(-width / 2.0, -height / 2.0);
    let place = match draws {
        None => {
            pixels.fill(Color::WHITE);
            centre.post_scale(fit, fit).post_translate(side / 2.0, side / 2.0)
        }
        Some(draws) => {
            let mut byte = || draws.below(256) as u8;
            let (red, green, blue) = (byte(), byte(), byte());
            pixels.fill(Color::from_rgba8(red, green, blue, 255));
            let degrees = draws.uniform_f32(-25.0, 25.0);
            let scale = draws.uniform_f32(0.65, 1.0);
            let reach = side * (1.0 - scale) / 2.0;
            let x = side / 2.0 + draws.uniform_f32(-reach, reach);
            let y = side / 2.0 + draws.uniform_f32(-reach, reach);
            centre
                .post_scale(fit * scale, fit * scale)
                .post_rotate(degrees)
                .post_translate(x, y)
        }
    };
    resvg::render(tree, place, &mut pixels.as_mut());
    let rgb: Vec<u8> = pixels.pixels().iter().flat_map(|p| [p.red(), p.green(), p.blue()]).collect();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, size, size);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().expect("a PNG header in memory");
    writer.write_image_data(&rgb).expect("as many bytes as the header says");
    writer.finish().expect("a PNG end in memory");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A set with a square and a disc of a colour.
    fn set(folder: &Path, prefix: &str, colour: &str) -> PathBuf {
        let path = folder.join(prefix);
        std::fs::create_dir(&path).unwrap();
        let icons = format!(
            r#"{{"prefix":"{prefix}","width":10,"height":10,"icons":{{
                "square":{{"body":"<rect width='10' height='10' fill='{colour}'/>"}},
                "disc":{{"body":"<circle cx='5' cy='5' r='3' fill='{colour}'/>"}}}}}}"#
        );
        std::fs::write(path.join("icons.json"), icons).unwrap();
        let info = r#"{"name":"A set","author":{"name":"Ann"},"license":{"title":"MIT","spdx":"MIT"}}"#;
        std::fs::write(path.join("info.json"), info).unwrap();
        path
    }

    fn args(words: &[&str]) -> Args {
        Args::try_parse_from(std::iter::once("icons").chain(words.iter().copied())).unwrap()
    }

    fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut archive = zip::ZipArchive::new(File::open(path).unwrap()).unwrap();
        let count = archive.len();
        let read = |index| {
            let mut file = archive.by_index(index).unwrap();
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            (file.name().unwrap().into_owned(), bytes)
        };
        (0..count).map(read).collect()
    }

    fn rgb(png: &[u8]) -> Vec<u8> {
        let mut reader = png::Decoder::new(Cursor::new(png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        pixels
    }

    #[test]
    fn a_tiny_set_is_drawn_split_and_the_same_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let (red, blue) = (set(folder.path(), "red", "#f00"), set(folder.path(), "blue", "#00f"));
        let names = folder.path().join("names");
        std::fs::write(&names, "# c\ngroup g: square, disc\nsquare: a square\ndisc\n").unwrap();
        let out = folder.path().join("out.zip");
        let words = |more: &[&str]| {
            let (out, names) = (out.to_str().unwrap(), names.to_str().unwrap());
            let (red, blue) = (red.to_str().unwrap(), blue.to_str().unwrap());
            let mut words = vec![red, blue, "--out", out, "--names", names, "--size", "8"];
            words.extend(["--train", "3", "--test", "2"]);
            words.extend(more);
            args(&words)
        };
        run(&words(&[])).unwrap();
        let first = files(&out);
        let of = |part: &str| first.keys().filter(|name| name.starts_with(part)).count();
        assert_eq!((of("train/"), of("test/")), (12, 8));
        assert!(String::from_utf8_lossy(&first["LICENCES.md"]).contains("| red | A set  | Ann | MIT |"));
        let plain = rgb(&first["train/square/red-000.png"]);
        assert!(plain.chunks(3).all(|pixel| pixel == [255, 0, 0]));
        let disc = rgb(&first["train/disc/blue-000.png"]);
        assert_eq!((&disc[..3], &disc[3 * 36..3 * 37]), (&[255u8, 255, 255][..], &[0u8, 0, 255][..]));
        assert_ne!(first["train/disc/blue-001.png"], first["train/disc/blue-002.png"]);
        let bytes = std::fs::read(&out).unwrap();
        run(&words(&[])).unwrap();
        assert_eq!(std::fs::read(&out).unwrap(), bytes);
        run(&words(&["--seed", "1"])).unwrap();
        assert_ne!(std::fs::read(&out).unwrap(), bytes);
        run(&words(&["--test-set", "blue"])).unwrap();
        let held = files(&out);
        assert!(held.keys().all(|name| !name.contains("train/") || name.contains("/red-")));
        assert_eq!(held.keys().filter(|name| name.starts_with("test/")).count(), 4);
        for (more, part) in [
            (&["--test-set", "green"][..], "the sets are blue, red"),
            (&["--test-set", "red", "--test-set", "blue"][..], "no set to train on"),
        ] {
            let found = run(&words(more)).unwrap_err();
            assert!(found.contains(part), "{found}");
        }
        std::fs::write(&names, "star\n").unwrap();
        let found = run(&words(&[])).unwrap_err();
        assert!(found.contains("the set `blue` has no icon star"), "{found}");
    }
}
