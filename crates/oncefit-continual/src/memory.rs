//! Memories of past examples: images as bytes without augmentation, label, task and, where a method
//! needs them, the logits of the time of storage.
//!
//! Draws: "memory-insert" (seed; images offered, 0), "memory-draw" (seed; step, draw),
//! "memory-pass" (seed; task, draw and pass), "held-out" (seed; task, class).

use oncefit_random::Draws;
use serde::{Deserialize, Serialize};

use crate::error::{Result, setting};
use crate::stream::Examples;

/// Which examples stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryPolicy {
    /// Every example ever offered is kept with the same probability (Vitter's algorithm R).
    Reservoir,
    /// A ring for each class of the head, `capacity / classes` long.
    Ring,
    /// A reservoir for each class seen; rings shrink at random when a class arrives (avalanche's
    /// `ClassBalancedBuffer`).
    ClassBalanced,
    /// Kept while its class has fewer than `capacity / classes seen`; evicted from the largest class
    /// (GDumb).
    GreedyBalanced,
    /// Filled at the end of a task, nearest to the mean of the class's features first (iCaRL).
    Herding,
}

/// Stored examples.
#[derive(Clone, PartialEq, Debug)]
pub struct Memory {
    pub(crate) policy: MemoryPolicy,
    pub(crate) capacity: usize,
    pub(crate) image_bytes: usize,
    pub(crate) classes: usize,
    pub(crate) stores_logits: bool,
    pub(crate) seed: u64,
    /// Images offered.
    pub(crate) offered: u64,
    /// Images offered of each class.
    pub(crate) offered_of_class: Vec<u64>,
    /// Classes in order of arrival.
    pub(crate) arrived: Vec<u32>,
    pub(crate) images: Vec<u8>,
    pub(crate) labels: Vec<u32>,
    pub(crate) tasks: Vec<u32>,
    pub(crate) logits: Vec<f32>,
}

impl Memory {
    /// An empty memory for `capacity` images of `image_bytes` bytes.
    ///
    /// # Errors
    /// If it holds nothing, or a ring has less than one place a class.
    pub fn new(
        policy: MemoryPolicy,
        capacity: usize,
        image_bytes: usize,
        classes: usize,
        stores_logits: bool,
        seed: u64,
    ) -> Result<Self> {
        let least = match policy {
            MemoryPolicy::Ring => classes,
            _ => 1,
        };
        if capacity < least {
            return Err(setting(
                "the memory's capacity",
                capacity,
                format!("{least} or more"),
            ));
        }
        Ok(Self {
            policy,
            capacity,
            image_bytes,
            classes,
            stores_logits,
            seed,
            offered: 0,
            offered_of_class: vec![0; classes],
            arrived: Vec::new(),
            images: Vec::new(),
            labels: Vec::new(),
            tasks: Vec::new(),
            logits: Vec::new(),
        })
    }

    /// Its policy.
    pub fn policy(&self) -> MemoryPolicy {
        self.policy
    }

    /// How many images it can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many images it holds.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Labels of the stored images.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Tasks of the stored images.
    pub fn tasks(&self) -> &[u32] {
        &self.tasks
    }

    /// Bytes of what is stored: pixels, labels, tasks and logits.
    pub fn bytes(&self) -> usize {
        self.images.len() + 4 * (self.labels.len() + self.tasks.len() + self.logits.len())
    }

    /// Stored images of each class.
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes];
        for &label in &self.labels {
            counts[label as usize] += 1;
        }
        counts
    }

    /// Offers a batch, image by image; a herding memory takes none here.
    ///
    /// # Arguments
    /// - `logits`: N × classes, read if logits are stored
    pub fn offer(&mut self, examples: &Examples, task: usize, logits: &[f32]) {
        if self.policy == MemoryPolicy::Herding {
            return;
        }
        let all = examples
            .images
            .chunks_exact(self.image_bytes)
            .zip(&examples.labels);
        for (index, (image, &label)) in all.enumerate() {
            let logits = match self.stores_logits {
                true => &logits[index * self.classes..][..self.classes],
                false => &[],
            };
            let place = self.place(label);
            self.offered += 1;
            self.offered_of_class[label as usize] += 1;
            if let Some(place) = place {
                self.put(place, image, label, task, logits);
            }
        }
    }

    /// The slot of the next image, of class `label`; one past the end to append.
    fn place(&mut self, label: u32) -> Option<usize> {
        let mut draws = Draws::new(self.seed, "memory-insert", self.offered, 0);
        let of_class = |labels: &[u32], class: u32, nth: usize| {
            let mut members = labels
                .iter()
                .enumerate()
                .filter(|(_, other)| **other == class);
            members.nth(nth).map(|(place, _)| place)
        };
        let offered = self.offered_of_class[label as usize] as usize;
        if !self.arrived.contains(&label) {
            self.arrived.push(label);
            if self.policy == MemoryPolicy::ClassBalanced {
                self.shrink_to_quotas(&mut draws);
            }
        }
        let stored = self.labels.iter().filter(|other| **other == label).count();
        match self.policy {
            MemoryPolicy::Herding => None,
            MemoryPolicy::Reservoir => {
                if self.len() < self.capacity {
                    return Some(self.len());
                }
                let place = draws.below(self.offered as usize + 1);
                (place < self.capacity).then_some(place)
            }
            MemoryPolicy::Ring => {
                let quota = self.capacity / self.classes;
                match stored < quota {
                    true => Some(self.len()),
                    false => of_class(&self.labels, label, offered % quota),
                }
            }
            MemoryPolicy::ClassBalanced => {
                let quota = self.quota(label);
                if stored < quota {
                    return Some(self.len());
                }
                let place = draws.below(offered + 1);
                match place < quota {
                    true => of_class(&self.labels, label, place),
                    false => None,
                }
            }
            MemoryPolicy::GreedyBalanced => {
                if self.len() < self.capacity {
                    return Some(self.len());
                }
                if stored >= self.capacity / self.arrived.len() {
                    return None;
                }
                let counts = self.counts();
                let largest =
                    (0..self.classes).max_by_key(|&class| (counts[class], self.classes - class))?;
                of_class(&self.labels, largest as u32, draws.below(counts[largest]))
            }
        }
    }

    /// Places of an arrived class: `⌊capacity / arrived⌋`, one more for the first to arrive.
    fn quota(&self, label: u32) -> usize {
        let arrived = self.arrived.len();
        let order = self.arrived.iter().position(|other| *other == label);
        let has_more = order.is_some_and(|order| order < self.capacity % arrived);
        self.capacity / arrived + usize::from(has_more)
    }

    fn shrink_to_quotas(&mut self, draws: &mut Draws) {
        for class in self.arrived.clone() {
            let quota = self.quota(class);
            loop {
                let members: Vec<usize> = (0..self.len())
                    .filter(|&place| self.labels[place] == class)
                    .collect();
                if members.len() <= quota {
                    break;
                }
                self.remove(members[draws.below(members.len())]);
            }
        }
    }

    fn remove(&mut self, place: usize) {
        let bytes = self.image_bytes;
        self.images.drain(place * bytes..(place + 1) * bytes);
        self.labels.remove(place);
        self.tasks.remove(place);
        if self.stores_logits {
            self.logits
                .drain(place * self.classes..(place + 1) * self.classes);
        }
    }

    fn put(&mut self, place: usize, image: &[u8], label: u32, task: usize, logits: &[f32]) {
        if place == self.len() {
            self.images.extend_from_slice(image);
            self.labels.push(label);
            self.tasks.push(task as u32);
            self.logits.extend_from_slice(logits);
        } else {
            self.images[place * self.image_bytes..][..self.image_bytes].copy_from_slice(image);
            self.labels[place] = label;
            self.tasks[place] = task as u32;
            if self.stores_logits {
                self.logits[place * self.classes..][..self.classes].copy_from_slice(logits);
            }
        }
    }

    /// Replaces a herding memory's images of new classes: `ordered` are images of one class, best
    /// first; every class is cut to `capacity / classes seen` of its own order.
    pub(crate) fn herd(&mut self, ordered: &Examples, task: usize) {
        let Some(&label) = ordered.labels.first() else {
            return;
        };
        if !self.arrived.contains(&label) {
            self.arrived.push(label);
        }
        let quota = self.capacity / self.arrived.len();
        let mut kept = vec![0; self.classes];
        let mut place = 0;
        while place < self.len() {
            let class = self.labels[place] as usize;
            kept[class] += 1;
            if kept[class] > quota || self.labels[place] == label {
                self.remove(place);
            } else {
                place += 1;
            }
        }
        let images = ordered.images.chunks_exact(self.image_bytes);
        for image in images.take(quota) {
            self.put(self.len(), image, label, task, &[]);
        }
    }

    /// The places of `min(count, len)` stored images, uniform without replacement.
    pub fn draw(&self, count: usize, step: u64, draw: u64) -> Vec<usize> {
        self.draw_without(&[], count, step, draw)
    }

    /// As [`Memory::draw`], from the places that are not in `held_out`.
    pub(crate) fn draw_without(
        &self,
        held_out: &[usize],
        count: usize,
        step: u64,
        draw: u64,
    ) -> Vec<usize> {
        let mut draws = Draws::new(self.seed, "memory-draw", step, draw);
        let mut places: Vec<usize> = (0..self.len()).collect();
        places.retain(|place| !held_out.contains(place));
        let count = count.min(places.len());
        for at in 0..count {
            let other = at + draws.below(places.len() - at);
            places.swap(at, other);
        }
        places.truncate(count);
        places
    }

    /// The places that batch number `batch` of a task takes of shuffled passes, in which every stored
    /// image comes once; the last part of a pass may be smaller. The memory must not change.
    pub(crate) fn part_of_pass(
        &self,
        held_out: &[usize],
        count: usize,
        (task, batch): (usize, usize),
        draw: u64,
    ) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.len()).collect();
        places.retain(|place| !held_out.contains(place));
        if places.is_empty() {
            return places;
        }
        let parts = places.len().div_ceil(count);
        let index = draw << 32 | (batch / parts) as u64;
        Draws::new(self.seed, "memory-pass", task as u64, index).shuffle(&mut places);
        let part = places.chunks(count).nth(batch % parts);
        part.unwrap_or_default().to_vec()
    }

    /// `count` places of each class, in random order.
    pub(crate) fn some_of_each_class(&self, count: usize, task: usize) -> Vec<usize> {
        let mut chosen = Vec::new();
        for class in 0..self.classes as u32 {
            let of_class = |place: &usize| self.labels[*place] == class;
            let mut places: Vec<usize> = (0..self.len()).filter(of_class).collect();
            Draws::new(self.seed, "held-out", task as u64, u64::from(class)).shuffle(&mut places);
            chosen.extend(places.into_iter().take(count));
        }
        chosen
    }

    /// The images at `places`.
    pub fn examples(&self, places: &[usize]) -> Examples {
        let mut images = Vec::with_capacity(places.len() * self.image_bytes);
        for &place in places {
            images.extend_from_slice(&self.images[place * self.image_bytes..][..self.image_bytes]);
        }
        Examples {
            images,
            labels: places.iter().map(|&place| self.labels[place]).collect(),
        }
    }

    /// The stored logits at `places`: N × classes.
    pub fn stored_logits(&self, places: &[usize]) -> Vec<f32> {
        places
            .iter()
            .flat_map(|&place| &self.logits[place * self.classes..][..self.classes])
            .copied()
            .collect()
    }
}

/// iCaRL's herding: for k = 1, 2, … the image that brings the mean of the chosen features nearest
/// to the mean of all, `argmin_x ‖μ − (φ(x) + Σ chosen) / k‖`, without replacement.
///
/// # Arguments
/// - `features`: N × `width`
pub fn herding_order(features: &[f32], width: usize, count: usize) -> Vec<usize> {
    let rows: Vec<&[f32]> = features.chunks_exact(width).collect();
    let mut mean = vec![0.0f64; width];
    for row in &rows {
        mean.iter_mut()
            .zip(*row)
            .for_each(|(sum, value)| *sum += f64::from(*value));
    }
    mean.iter_mut()
        .for_each(|value| *value /= rows.len().max(1) as f64);
    let mut chosen = Vec::new();
    let mut is_chosen = vec![false; rows.len()];
    let mut sum = vec![0.0f64; width];
    while chosen.len() < count.min(rows.len()) {
        let k = (chosen.len() + 1) as f64;
        let distance = |row: &[f32]| -> f64 {
            let parts = mean.iter().zip(&sum).zip(row);
            parts
                .map(|((mean, sum), value)| (mean - (sum + f64::from(*value)) / k).powi(2))
                .sum()
        };
        let best = (0..rows.len())
            .filter(|&row| !is_chosen[row])
            .min_by(|&a, &b| distance(rows[a]).total_cmp(&distance(rows[b])));
        let Some(best) = best else { break };
        is_chosen[best] = true;
        sum.iter_mut()
            .zip(rows[best])
            .for_each(|(sum, value)| *sum += f64::from(*value));
        chosen.push(best);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(policy: MemoryPolicy, capacity: usize, labels: &[u32], seed: u64) -> Memory {
        let mut memory = Memory::new(policy, capacity, 2, 4, false, seed).unwrap();
        for (index, &label) in labels.iter().enumerate() {
            let examples = Examples {
                images: (index as u16).to_le_bytes().to_vec(),
                labels: vec![label],
            };
            memory.offer(&examples, 0, &[]);
        }
        memory
    }

    #[test]
    fn reservoir_keeps_every_position_alike_by_chi_square() {
        let (capacity, offered, runs) = (10, 50, 4000);
        let mut counts = vec![0f64; offered];
        for seed in 0..runs {
            let memory = filled(MemoryPolicy::Reservoir, capacity, &vec![0; offered], seed);
            assert_eq!(memory.len(), capacity);
            for image in memory.images.chunks_exact(2) {
                counts[usize::from(u16::from_le_bytes([image[0], image[1]]))] += 1.0;
            }
        }
        let expected = (capacity * runs as usize) as f64 / offered as f64;
        let chi_square: f64 = counts
            .iter()
            .map(|n| (n - expected).powi(2) / expected)
            .sum();
        // 99.9 % quantile of chi-square with 49 degrees of freedom.
        assert!(chi_square < 85.35, "{chi_square}");
    }

    #[test]
    fn balanced_policies_share_out_the_places() {
        let labels: Vec<u32> = (0..100).map(|at| at / 40).collect();
        let counts = |policy| filled(policy, 10, &labels, 1).counts();
        assert_eq!(counts(MemoryPolicy::ClassBalanced), [4, 3, 3, 0]);
        assert_eq!(counts(MemoryPolicy::Ring), [2, 2, 2, 0]);
        let mut greedy = counts(MemoryPolicy::GreedyBalanced);
        greedy.sort_unstable();
        assert_eq!(greedy, [0, 3, 3, 4]);
        assert!(Memory::new(MemoryPolicy::Ring, 3, 2, 4, false, 0).is_err());
    }

    #[test]
    fn draws_are_distinct_and_addressed() {
        let memory = filled(MemoryPolicy::Reservoir, 20, &[0; 20], 5);
        let places = memory.draw(8, 3, 0);
        assert_eq!(places, memory.draw(8, 3, 0));
        assert_ne!(places, memory.draw(8, 3, 1));
        let mut sorted = memory.draw(99, 0, 0);
        sorted.sort_unstable();
        assert_eq!(sorted, Vec::from_iter(0..20));
        assert_eq!(memory.bytes(), 20 * (2 + 8));
    }

    #[test]
    fn a_pass_brings_every_image_once() {
        let memory = filled(MemoryPolicy::Reservoir, 23, &[0; 23], 5);
        let pass = |first: usize| {
            let parts = (first..first + 3).map(|batch| memory.part_of_pass(&[4], 8, (1, batch), 0));
            parts.collect::<Vec<_>>().concat()
        };
        let (first, second) = (pass(0), pass(3));
        assert_ne!(first, second);
        for mut places in [first, second] {
            places.sort_unstable();
            let all = (0..23).filter(|place| *place != 4);
            assert_eq!(places, Vec::from_iter(all));
        }
    }

    #[test]
    fn herding_is_the_greedy_choice_by_brute_force() {
        let features = [0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.9, 0.8, 0.45, 0.4];
        let order = herding_order(&features, 2, 5);
        let rows: Vec<&[f32]> = features.chunks_exact(2).collect();
        let mean = [2.35f32 / 5.0, 2.2 / 5.0];
        let mut chosen: Vec<usize> = Vec::new();
        for k in 1..=5usize {
            let distance = |next: usize| {
                let total = |axis: usize| {
                    chosen.iter().map(|&at| rows[at][axis]).sum::<f32>() + rows[next][axis]
                };
                (mean[0] - total(0) / k as f32).powi(2) + (mean[1] - total(1) / k as f32).powi(2)
            };
            let next = (0..5)
                .filter(|at| !chosen.contains(at))
                .min_by(|&a, &b| distance(a).total_cmp(&distance(b)))
                .unwrap();
            chosen.push(next);
        }
        assert_eq!(order, chosen);
    }
}
