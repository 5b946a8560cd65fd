//! Image folders, archives of them, CIFAR's binary files: what is read, and what is refused.

use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage};
use oncefit_data::{DataSource, LoadedData};
use proptest::prelude::*;

/// An image full of one colour, PNG.
fn colour(size: (u32, u32), pixel: [u8; 3]) -> Vec<u8> {
    encode(
        RgbImage::from_pixel(size.0, size.1, Rgb(pixel)).into(),
        ImageFormat::Png,
    )
}

fn grey(size: (u32, u32), value: u8) -> Vec<u8> {
    encode(
        GrayImage::from_pixel(size.0, size.1, Luma([value])).into(),
        ImageFormat::Png,
    )
}

fn encode(image: DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Two classes, grey and coloured images, PNG and JPEG.
fn files() -> Vec<(String, Vec<u8>)> {
    let mut files = vec![
        ("README.txt".to_owned(), b"hello".to_vec()),
        ("train/cat/.hidden.png".to_owned(), b"no image".to_vec()),
    ];
    for (part, count) in [("train", 4u8), ("test", 2)] {
        for index in 0..count {
            let cat = colour((4, 4), [200, 10 * index, 0]);
            files.push((format!("{part}/cat/{index}.png"), cat));
            let dog = match index {
                0 => grey((4, 4), 77),
                _ => encode(
                    RgbImage::from_pixel(4, 4, Rgb([10, 200, 10])).into(),
                    ImageFormat::Jpeg,
                ),
            };
            files.push((format!("{part}/dog/{index}.JPG"), dog));
        }
    }
    files
}

fn write_folder(folder: &Path, files: &[(String, Vec<u8>)]) {
    for (name, bytes) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn tar_bytes(files: &[(String, Vec<u8>)], prefix: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        archive
            .append_data(&mut header, format!("{prefix}{name}"), &bytes[..])
            .unwrap();
    }
    archive.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zip_bytes(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        let options = zip::write::SimpleFileOptions::default();
        archive.start_file(name.as_str(), options).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

fn source(path: &Path) -> DataSource {
    DataSource::Images {
        path: path.to_owned(),
        image_size: None,
        test_fraction: None,
    }
}

fn check(data: &LoadedData) {
    assert_eq!(data.train.class_names(), ["cat", "dog"]);
    assert_eq!(data.train.labels(), [0, 0, 0, 0, 1, 1, 1, 1]);
    assert_eq!(data.test.labels(), [0, 0, 1, 1]);
    assert_eq!(data.train.shape().to_string(), "4x4x3");
    assert_eq!(&data.train.image(3)[..6], [200, 30, 0, 200, 30, 0]);
    assert_eq!(&data.train.image(4)[..3], [77; 3], "grey becomes RGB");
    let jpeg = &data.train.image(5)[..3];
    assert!(
        jpeg.iter()
            .zip([10, 200, 10])
            .all(|(a, b)| a.abs_diff(b) < 8),
        "{jpeg:?}"
    );
}

#[test]
fn folders_and_every_archive_of_them_give_the_same_data() {
    let folder = tempfile::tempdir().unwrap();
    let files = files();
    let root = folder.path().join("set");
    write_folder(&root, &files);
    let data = source(&root).load().unwrap();
    check(&data);
    let tar = tar_bytes(&files, "");
    let nested = tar_bytes(&files, "some/set/");
    for (name, bytes) in [
        ("a.tar", tar.clone()),
        ("a.tar.gz", gzip(&tar)),
        ("a.tgz", gzip(&nested)),
        ("a.zip", zip_bytes(&files)),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let found = source(&path).load().unwrap();
        check(&found);
        assert_eq!(found.train.hash(), data.train.hash(), "{name}");
        assert_eq!(found.test.hash(), data.test.hash(), "{name}");
    }
}

#[test]
fn images_of_several_sizes_need_one_and_are_cut_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = files();
    // Twice as wide as high, red in the middle: the middle is what is kept.
    let mut wide = RgbImage::from_pixel(16, 8, Rgb([0, 0, 255]));
    (4..12).for_each(|x| (0..8).for_each(|y| wide.put_pixel(x, y, Rgb([255, 0, 0]))));
    files.push((
        "train/cat/wide.png".into(),
        encode(wide.into(), ImageFormat::Png),
    ));
    write_folder(folder.path(), &files);
    let error = source(folder.path()).load().unwrap_err().to_string();
    assert!(
        error.contains("wide.png") && error.contains("`image_size`"),
        "{error}"
    );
    let sized = DataSource::Images {
        path: folder.path().to_owned(),
        image_size: Some(8),
        test_fraction: None,
    };
    let data = sized.load().unwrap();
    assert_eq!(data.train.shape().to_string(), "8x8x3");
    let wide = data.train.image(4);
    assert!(wide.chunks(3).all(|pixel| pixel == [255, 0, 0]), "{wide:?}");
}

#[test]
fn one_set_is_split_when_a_share_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<(String, Vec<u8>)> = (0..20)
        .map(|index| (format!("{}/{index}.png", index % 2), grey((3, 3), index)))
        .collect();
    write_folder(folder.path(), &files);
    let error = source(folder.path()).load().unwrap_err().to_string();
    assert!(error.contains("`test_fraction`"), "{error}");
    let split = |fraction| DataSource::Images {
        path: folder.path().to_owned(),
        image_size: None,
        test_fraction: Some(fraction),
    };
    let data = split(0.2).load().unwrap();
    assert_eq!((data.train.len(), data.test.len()), (16, 4));
    assert_eq!(data.train.channels(), 1);
    assert!(
        data.test
            .indices_by_class()
            .iter()
            .all(|class| class.len() == 2)
    );
    for fraction in [0.0, 1.0, f64::NAN] {
        let error = split(fraction).load().unwrap_err().to_string();
        assert!(error.contains("above 0 and below 1"), "{error}");
    }
}

#[test]
fn what_is_wrong_with_a_folder_is_said() {
    let check = |changes: &dyn Fn(&Path), parts: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        write_folder(folder.path(), &files());
        changes(folder.path());
        let error = source(folder.path()).load().unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    check(
        &|folder| fs::write(folder.join("train/dog/2.JPG"), "not an image").unwrap(),
        &["train/dog/2.JPG", "no PNG or JPEG image"],
    );
    check(
        &|folder| {
            let image = fs::read(folder.join("train/cat/1.png")).unwrap();
            fs::write(folder.join("train/cat/1.png"), &image[..image.len() / 2]).unwrap();
        },
        &["train/cat/1.png"],
    );
    check(
        &|folder| fs::create_dir(folder.join("train/mouse")).unwrap(),
        &["class folder `train/mouse` has no images"],
    );
    check(
        &|folder| fs::rename(folder.join("test/cat"), folder.join("test/cow")).unwrap(),
        &[
            "class `cow` has test images but no training images",
            "cat, dog",
        ],
    );
    check(
        &|folder| fs::remove_dir_all(folder.join("test")).unwrap(),
        &["no `test`"],
    );
    check(
        &|folder| {
            fs::remove_dir_all(folder.join("train")).unwrap();
            fs::remove_dir_all(folder.join("test")).unwrap();
        },
        &["no .png, .jpg or .jpeg file"],
    );
    let error = source(Path::new("nowhere")).load().unwrap_err().to_string();
    assert!(error.contains("nowhere"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.rar"), "x").unwrap();
    let error = source(&folder.path().join("a.rar"))
        .load()
        .unwrap_err()
        .to_string();
    assert!(error.contains(".tar.gz"), "{error}");
}

/// Six images of CIFAR-10: image i is full of (i, 2i, 3i).
fn cifar_batch(first: u8) -> Vec<u8> {
    let records = (first..first + 2).flat_map(|image| {
        let planes = [1, 2, 3]
            .into_iter()
            .flat_map(move |factor| [image * factor; 1024]);
        std::iter::once(image % 10).chain(planes)
    });
    records.collect()
}

#[test]
fn cifar_binary_files_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let classes = "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n";
    let files = vec![
        (
            "cifar-10-batches-bin/batches.meta.txt".to_owned(),
            classes.into(),
        ),
        (
            "cifar-10-batches-bin/data_batch_1.bin".to_owned(),
            cifar_batch(1),
        ),
        (
            "cifar-10-batches-bin/data_batch_2.bin".to_owned(),
            cifar_batch(3),
        ),
        (
            "cifar-10-batches-bin/test_batch.bin".to_owned(),
            cifar_batch(5),
        ),
    ];
    write_folder(folder.path(), &files);
    let archive = folder.path().join("cifar-10-binary.tar.gz");
    fs::write(&archive, gzip(&tar_bytes(&files, ""))).unwrap();
    for path in [folder.path().join("cifar-10-batches-bin"), archive] {
        let data = source(&path).load().unwrap();
        assert_eq!((data.train.len(), data.test.len()), (4, 2));
        assert_eq!(data.train.labels(), [1, 2, 3, 4]);
        assert_eq!(data.train.class_names()[9], "truck");
        assert_eq!(&data.train.image(2)[..6], [3, 6, 9, 3, 6, 9]);
    }
    // Settings that its files leave no room for.
    for (image_size, test_fraction, name) in [
        (Some(64), None, "`image_size`"),
        (None, Some(0.2), "`test_fraction`"),
    ] {
        let path = folder.path().join("cifar-10-batches-bin");
        let source = DataSource::Images {
            path,
            image_size,
            test_fraction,
        };
        let error = source.load().unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("leave"), "{error}");
    }
    let batch = folder.path().join("cifar-10-batches-bin/data_batch_2.bin");
    fs::write(&batch, &cifar_batch(3)[..5000]).unwrap();
    let path = folder.path().join("cifar-10-batches-bin");
    let error = source(&path).load().unwrap_err().to_string();
    assert!(
        error.contains("data_batch_2.bin") && error.contains("3073"),
        "{error}"
    );
    fs::rename(
        &batch,
        folder.path().join("cifar-10-batches-bin/data_batch_2"),
    )
    .unwrap();
    let only = path.join("data_batch_1.bin");
    fs::rename(&only, path.join("data_batch_1")).unwrap();
    let error = source(&path).load().unwrap_err().to_string();
    assert!(error.contains("binary version"), "{error}");
}

#[test]
fn cut_archives_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let files = files();
    let tar = tar_bytes(&files, "");
    for (name, bytes) in [
        ("a.tar", tar.clone()),
        ("a.tar.gz", gzip(&tar)),
        ("a.zip", zip_bytes(&files)),
    ] {
        let path = folder.path().join(name);
        for cut in [
            1,
            2,
            600,
            bytes.len() / 2,
            bytes.len() - 600,
            bytes.len() - 10,
        ] {
            let kept = bytes.len() - cut;
            fs::write(&path, &bytes[..kept]).unwrap();
            let found = source(&path).load();
            match found {
                Err(error) => {
                    let error = error.to_string();
                    assert!(error.contains(name), "{name}, {cut} bytes cut: {error}");
                }
                // Archives may end in zeros that say nothing.
                Ok(data) => check(&data),
            }
        }
    }
    // Cut between two files, where a tar file looks whole.
    let path = folder.path().join("a.tar");
    fs::write(&path, &tar[..3 * 1024]).unwrap();
    let error = source(&path).load().unwrap_err().to_string();
    assert!(error.contains("cut short"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// A damaged archive is an error or the data that is left; never a panic.
    #[test]
    fn damaged_archives_never_panic(
        kind in 0usize..3,
        place in any::<prop::sample::Index>(),
        value in any::<u8>(),
    ) {
        let files = files();
        let tar = tar_bytes(&files, "");
        let (name, mut bytes) = match kind {
            0 => ("a.tar", tar),
            1 => ("a.tar.gz", gzip(&tar)),
            _ => ("a.zip", zip_bytes(&files)),
        };
        let at = place.index(bytes.len());
        bytes[at] = value;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        if let Err(error) = source(&path).load() {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}

/// The real archive, where `ONCEFIT_CIFAR10` says where it is.
#[test]
fn the_cifar10_archive_is_read_whole() {
    let Some(path) = std::env::var_os("ONCEFIT_CIFAR10") else {
        eprintln!("skipped: ONCEFIT_CIFAR10 is not set to the archive of CIFAR-10's JPEG files");
        return;
    };
    let data = source(Path::new(&path)).load().unwrap();
    assert_eq!((data.train.len(), data.test.len()), (50_000, 10_000));
    assert_eq!(data.train.shape().to_string(), "32x32x3");
    assert_eq!(data.train.class_names().len(), 10);
    assert!(
        data.train
            .indices_by_class()
            .iter()
            .all(|class| class.len() == 5000)
    );
}
