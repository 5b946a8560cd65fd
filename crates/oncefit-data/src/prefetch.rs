//! Batches made ahead in the background.

use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread::{JoinHandle, spawn};

use crate::batch::Batch;
use crate::error::Result;
use crate::loader::Loader;

/// The batches of consecutive steps, computed by a thread while earlier ones are in use.
///
/// Yields exactly what [`Loader::batch`] gives for each step. An error ends the iteration after it
/// was yielded; a panic of the thread goes on in the thread that asks for the next batch. Dropping
/// it stops the thread after the batch it is at.
#[derive(Debug)]
pub struct Prefetch {
    /// `None` only while being dropped: the thread ends when nobody receives.
    batches: Option<Receiver<Result<Batch>>>,
    used: Sender<Batch>,
    thread: Option<JoinHandle<()>>,
}

impl Prefetch {
    /// Starts to compute the batches of `steps`.
    ///
    /// # Arguments
    /// - `depth`: batches that may wait; one more is being computed
    /// - `resolution_of`: side of the square images of a step, in pixels
    pub fn new(
        loader: Loader,
        steps: Range<u64>,
        depth: usize,
        resolution_of: impl Fn(u64) -> usize + Send + 'static,
    ) -> Self {
        let (send, batches) = sync_channel(depth);
        let (used, take_used) = channel::<Batch>();
        let thread = spawn(move || {
            for step in steps {
                let mut batch = take_used.try_recv().unwrap_or_default();
                let result = loader
                    .fill(step, resolution_of(step), &mut batch)
                    .map(|()| batch);
                let is_last = result.is_err();
                if send.send(result).is_err() || is_last {
                    return;
                }
            }
        });
        Self {
            batches: Some(batches),
            used,
            thread: Some(thread),
        }
    }

    /// Gives the memory of a batch back for a later one.
    pub fn recycle(&self, batch: Batch) {
        // Fails if the thread has ended: then no later batch needs the memory.
        let _ = self.used.send(batch);
    }
}

impl Iterator for Prefetch {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Ok(batch) = self.batches.as_ref()?.recv() {
            return Some(batch);
        }
        if let Err(panic) = self.thread.take()?.join() {
            resume_unwind(panic);
        }
        None
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // A panic that nobody waited for is not worth a second one while dropping.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Augmentation, Dataset, ImageShape, Normalisation};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn loader() -> Loader {
        let shape = ImageShape {
            height: 4,
            width: 4,
            channels: 1,
        };
        let images = (0..16 * 7).map(|value| (value * 37 % 256) as u8).collect();
        let dataset = Dataset::new("d", shape, images, vec![0; 7], vec!["x".into()]).unwrap();
        let augmentation = Augmentation {
            crop_padding: 2,
            horizontal_flip: true,
            random_erasing: 0.3,
            ..Augmentation::NONE
        };
        let normalisation = Normalisation::of(&dataset).unwrap();
        Loader::new(dataset, 3, 5, augmentation, normalisation, false).unwrap()
    }

    fn resolution_of(step: u64) -> usize {
        3 + (step % 3) as usize
    }

    #[test]
    fn iteration_equals_random_access_at_every_depth_and_start() {
        for (start, depth) in [(0, 0), (0, 1), (5, 4), (11, 100)] {
            let mut prefetch = Prefetch::new(loader(), start..20, depth, resolution_of);
            for step in start..20 {
                let batch = prefetch.next().unwrap().unwrap();
                assert_eq!(batch, loader().batch(step, resolution_of(step)).unwrap());
                prefetch.recycle(batch);
            }
            assert!(prefetch.next().is_none());
            assert!(prefetch.next().is_none());
        }
    }

    #[test]
    fn dropping_it_early_stops_the_thread_within_the_depth() {
        let asked = Arc::new(AtomicU64::new(0));
        let counter = asked.clone();
        let mut prefetch = Prefetch::new(loader(), 0..u64::MAX, 2, move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            4
        });
        assert!(prefetch.next().unwrap().is_ok());
        drop(prefetch);
        // The one taken, two waiting and one being computed. The thread is gone, and with it the
        // closure's counter.
        assert!(asked.load(Ordering::SeqCst) <= 4);
        assert_eq!(Arc::strong_count(&asked), 1);
    }

    #[test]
    fn an_error_is_yielded_once_and_ends_it() {
        let zero_at_2 = |step| if step == 2 { 0 } else { 4 };
        let mut prefetch = Prefetch::new(loader(), 0..9, 3, zero_at_2);
        assert!(prefetch.next().unwrap().is_ok() && prefetch.next().unwrap().is_ok());
        let error = prefetch.next().unwrap().unwrap_err().to_string();
        assert_eq!(error, "resized width is 0; expected at least 1");
        assert!(prefetch.next().is_none());
    }

    #[test]
    fn a_panic_reaches_whoever_asks_for_the_next_batch() {
        let mut prefetch = Prefetch::new(loader(), 0..9, 3, |step| {
            assert!(step < 1, "no resolution for step {step}");
            4
        });
        assert!(prefetch.next().unwrap().is_ok());
        let panic = catch_unwind(AssertUnwindSafe(|| prefetch.next())).unwrap_err();
        assert_eq!(
            panic.downcast_ref::<String>().unwrap(),
            "no resolution for step 1"
        );
        assert!(prefetch.next().is_none());
    }
}
