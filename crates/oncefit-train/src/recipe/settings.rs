//! Training settings that a space decides: keys of a recipe as decisions.
//!
//! A setting is called like the key that it replaces: those of `[optimiser]` (its `kind` being called
//! `optimiser`), `[training]` and `[augmentation]`, and `epochs`.

use oncefit_data::Augmentation;
use oncefit_space::{Space, Subnet, Value};

use super::{OptimiserRecipe, Recipe, ScheduleKind, TrainingRecipe};
use crate::error::{Result, TrainError};
use crate::field_names::field_names;

/// The section and key of a setting.
fn place(name: &str) -> Option<(&'static str, &'static str)> {
    legal()
        .find(|(legal, ..)| *legal == name)
        .map(|(_, section, key)| (section, key))
}

/// Every setting with its section and key.
fn legal() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    // A list of milestones is no value of a decision.
    let optimiser = field_names::<OptimiserRecipe>()
        .iter()
        .filter(|key| **key != "milestones")
        .map(|&key| match key {
            "kind" => ("optimiser", "optimiser", key),
            key => (key, "optimiser", key),
        });
    let training = field_names::<TrainingRecipe>().iter();
    let augmentation = field_names::<Augmentation>().iter();
    optimiser
        .chain(training.map(|&key| (key, "training", key)))
        .chain(augmentation.map(|&key| (key, "augmentation", key)))
        .chain([("epochs", "schedule", "epochs")])
}

impl Recipe {
    /// This recipe with other values of some settings.
    ///
    /// # Errors
    /// If a setting is unknown or a value illegal.
    fn with_settings(&self, settings: &[(String, Value)]) -> Result<Self> {
        if settings.is_empty() {
            return Ok(self.clone());
        }
        let mut table =
            toml::Table::try_from(self).expect("a recipe holds nothing that TOML cannot");
        for (name, value) in settings {
            let Some((section, key)) = place(name) else {
                let names: Vec<&str> = legal().map(|(name, ..)| name).collect();
                let closest = names
                    .iter()
                    .map(|other| (strsim::jaro_winkler(name, other), other))
                    .max_by(|left, right| left.0.total_cmp(&right.0))
                    .filter(|(similarity, _)| *similarity > 0.75);
                let hint = closest.map(|(_, name)| format!("; did you mean `{name}`?"));
                return Err(TrainError::Recipe(format!(
                    "there is no training setting `{name}`{}\n  legal settings: {}",
                    hint.unwrap_or_default(),
                    names.join(", ")
                )));
            };
            let value = match value {
                Value::Bool(value) => toml::Value::Boolean(*value),
                Value::Int(value) => toml::Value::Integer(*value),
                Value::Real(value) => toml::Value::Float(*value),
                Value::Text(value) => toml::Value::String(value.clone()),
            };
            let section = table[section].as_table_mut();
            section
                .expect("sections are tables")
                .insert(key.into(), value);
        }
        let given = || {
            let each = settings.iter();
            let each = each.map(|(name, value)| format!("{name} = {value}"));
            each.collect::<Vec<_>>().join(", ")
        };
        let invalid = |reason: &str| {
            TrainError::Recipe(format!("training settings {}: {}", given(), reason.trim()))
        };
        let found: Self = table
            .try_into()
            .map_err(|error: toml::de::Error| invalid(&error.to_string()))?;
        found.validate().map_err(|reason| invalid(&reason))?;
        Ok(found)
    }

    /// This recipe with the training settings of a member.
    ///
    /// # Errors
    /// If a setting is unknown or its value illegal.
    pub fn for_member(&self, subnet: &Subnet) -> Result<Self> {
        self.with_settings(subnet.settings())
    }

    /// Whether every training setting that a space decides is one, with values that are legal by
    /// themselves.
    ///
    /// # Errors
    /// Naming the first that is not, with the legal ones.
    pub fn check_settings(&self, space: &Space) -> Result<()> {
        if let Some(name) = space.settings().iter().find(|name| place(name).is_none()) {
            return self
                .with_settings(&[(name.clone(), Value::Int(0))])
                .map(drop);
        }
        for slot in space.decisions().iter().filter(|slot| slot.is_setting) {
            for value in &slot.domain.values {
                self.with_settings(&[(slot.name.clone(), value.clone())])?;
            }
        }
        Ok(())
    }

    /// This recipe with the training settings of what it trains: those of the one network of
    /// `schedule.kind = "plain"`, or those that all members share.
    ///
    /// # Errors
    /// If a setting is unknown or illegal, or members of a supernet differ in one.
    pub fn resolve_settings(&self, space: &Space) -> Result<Self> {
        if space.settings().is_empty() {
            return Ok(self.clone());
        }
        self.check_settings(space)?;
        let open = space.decisions().iter().find(|slot| slot.is_setting);
        match (self.schedule.kind, open) {
            (ScheduleKind::Plain, _) => {
                self.for_member(&space.parse_subnet(&self.schedule.subnet)?)
            }
            (_, None) => self.for_member(&space.largest()?),
            (_, Some(slot)) => Err(TrainError::Recipe(format!(
                "space `{0}` decides training setting `{1}`, but the members of a supernet are trained together: \
                 train one member (schedule.kind = \"plain\", schedule.subnet), search by `oncefit study`, \
                 or narrow it (space.fix.{1} = [{2}])",
                space.name(),
                slot.name,
                match &slot.domain.values[0] {
                    Value::Text(word) => format!("\"{word}\""),
                    value => value.to_string(),
                }
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::OptimiserKind;

    fn space(settings: &str) -> Space {
        let text = format!(
            "space s\nsettings {{ {settings} }}\ninput(28, 28, 1)\nconv(4)\nglobal_average_pool\nlinear(10)\n"
        );
        Space::parse(&text, "s.space").unwrap()
    }

    #[test]
    fn a_members_settings_become_keys_of_the_recipe() {
        let space = space(
            "optimiser = (sgd, adam); learning_rate = log 0.001..=0.1 count 3; batch_size = (16, 32); crop_padding = 1; epochs = (2, 5)",
        );
        let mut recipe = Recipe::default();
        recipe.schedule.kind = ScheduleKind::Plain;
        recipe.schedule.subnet = "optimiser=adam:learning_rate=0.01:batch_size=32:epochs=5".into();
        let found = recipe.resolve_settings(&space).unwrap();
        let mut expected = recipe.clone();
        expected.optimiser.kind = OptimiserKind::Adam;
        expected.optimiser.learning_rate = 0.01;
        expected.training.batch_size = 32;
        expected.augmentation.crop_padding = 1;
        expected.schedule.epochs = 5;
        assert_eq!(found, expected);
        assert_eq!(found.resolve_settings(&space).unwrap(), found);
        // A recipe that does not say what its member is trained with is not trained.
        assert!(found.build_schedule(&space).is_ok());
        let said = recipe.build_schedule(&space).unwrap_err().to_string();
        assert!(said.contains("settings"), "{said}");
    }

    #[test]
    fn settings_that_are_none_are_named_with_the_legal_ones() {
        let message = |settings: &str| {
            let found = Recipe::default().check_settings(&space(settings));
            found.unwrap_err().to_string()
        };
        let said = message("learning_rat = (0.1, 0.2)");
        assert!(
            said.contains("did you mean `learning_rate`")
                && said.contains("legal settings: optimiser"),
            "{said}"
        );
        assert!(message("learning_rate = (0.1, 0)").contains("must be above 0"));
        assert!(message("batch_size = (16, 1.5)").contains("batch_size = 1.5"));
        assert!(message("optimiser = (sgd, adamm)").contains("adamm"));
        // Shared weights have shared settings.
        let shared = Recipe::default();
        let said = shared.resolve_settings(&space("weight_decay = (0.1, 0.2)"));
        let said = said.unwrap_err().to_string();
        assert!(said.contains("space.fix.weight_decay = [0.1]"), "{said}");
        let found = shared.resolve_settings(&space("weight_decay = 0.25"));
        assert_eq!(found.unwrap().optimiser.weight_decay, 0.25);
    }

    #[test]
    fn names_of_settings_are_unique() {
        let mut names: Vec<&str> = legal().map(|(name, ..)| name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
