//! Members as vectors, for predictors.

use crate::space::Space;
use crate::trace::Subnet;

impl Space {
    /// A one-hot code of fixed length: one number for each value of each decision of
    /// [`Space::decisions`], 0 where a decision is inactive (Once-for-All, appendix A).
    pub fn encode(&self, subnet: &Subnet) -> Vec<f32> {
        let values = subnet.trace().by_path();
        let slots = self.decisions().iter();
        slots
            .flat_map(|slot| {
                let chosen = values.get(slot.path.as_str()).copied();
                let is_chosen = move |value| f32::from(u8::from(chosen == Some(value)));
                slot.domain.values.iter().map(is_chosen)
            })
            .collect()
    }

    /// What each number of [`Space::encode`] stands for: `unit1[0].kernel=5`.
    pub fn encoding_names(&self) -> Vec<String> {
        let slots = self.decisions().iter();
        slots
            .flat_map(|slot| {
                slot.domain
                    .values
                    .iter()
                    .map(move |value| format!("{}={value}", slot.path))
            })
            .collect()
    }
}
