//! `oncefit data show`

use oncefit_data::{DatasetSummary, contact_sheet};
use oncefit_train::{Recipe, RunData, write_atomically};

use super::print;
use crate::cli::DataShowArgs;
use crate::error::Result;
use crate::format::table;
use crate::recipe_kind::RecipeKind;

pub fn data_show(args: &DataShowArgs) -> Result<()> {
    let recipe = match &args.recipe {
        Some(path) => RecipeKind::Training.expect(path, Recipe::load(path))?,
        None => Recipe::default(),
    };
    let data = RunData::load(&recipe)?;
    let parts = [
        ("train", &data.train),
        ("validation", &data.validation),
        ("test", &data.test),
    ];
    let summaries = parts.map(|(name, dataset)| (name, DatasetSummary::of(dataset)));
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (index, class) in data.train.class_names().iter().enumerate() {
        let mut row = vec![class.clone()];
        row.extend(
            summaries
                .iter()
                .map(|(_, summary)| summary.classes[index].images.to_string()),
        );
        rows.push(row);
    }
    let mut total = vec!["all".to_owned()];
    total.extend(
        summaries
            .iter()
            .map(|(_, summary)| summary.images.to_string()),
    );
    rows.push(total);
    print(&table(&["class", "train", "validation", "test"], rows));
    let shape = data.train.shape();
    print(&format!(
        "images of {}×{}×{}",
        shape.height, shape.width, shape.channels
    ));
    print(&format!(
        "mean {:?}, std {:?} of the training part",
        data.normalisation.mean, data.normalisation.std
    ));
    for (name, dataset) in parts {
        print(&format!(
            "{name}: {} (blake3 {})",
            dataset.name(),
            dataset.hash()
        ));
    }
    if let Some(path) = &args.sheet {
        write_atomically(path, &contact_sheet(&data.train, args.per_class)?.to_png())?;
        print(&format!("contact sheet: {}", path.display()));
    }
    Ok(())
}
