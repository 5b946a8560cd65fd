//! A team of threads that stays awake through a sequence of short kernels.
//!
//! Handing a chunk to a pool's thread takes some ten microseconds when that thread sleeps, as long as
//! a whole layer of a small network on one image takes. The helpers of a team wait for the next
//! kernel in a loop instead.

use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Rounds of waiting before a thread lets others run.
const ROUNDS: usize = 4000;

thread_local! {
    /// The team that this thread leads.
    static TEAM: Cell<*const Team> = const { Cell::new(std::ptr::null()) };
}

/// A job is open while `epoch` is odd.
struct Team {
    epoch: AtomicUsize,
    /// Helpers that may be reading the job.
    inside: AtomicUsize,
    next: AtomicUsize,
    is_over: AtomicBool,
    has_panicked: AtomicBool,
    job: UnsafeCell<Job>,
}

#[derive(Clone, Copy)]
struct Job {
    work: *const (dyn Fn(usize) + Sync),
    chunks: usize,
}

// SAFETY: the job is written only while no helper is inside, and is valid while one is.
unsafe impl Sync for Team {}

/// Runs `body` on a thread of the pool; kernels that it calls share their chunks with the pool's
/// other threads, which do nothing else until it returns.
pub fn in_team<R: Send>(body: impl FnOnce() -> R + Send) -> R {
    if rayon::current_num_threads() == 1 || !TEAM.get().is_null() {
        return body();
    }
    let team = Team {
        epoch: AtomicUsize::new(0),
        inside: AtomicUsize::new(0),
        next: AtomicUsize::new(0),
        is_over: AtomicBool::new(false),
        has_panicked: AtomicBool::new(false),
        job: UnsafeCell::new(Job {
            work: &|_| {},
            chunks: 0,
        }),
    };
    rayon::scope(|scope| {
        for _ in 1..rayon::current_num_threads() {
            scope.spawn(|_| team.help());
        }
        let _leader = Leader::new(&team);
        body()
    })
}

/// Runs `work` for each chunk with the team that this thread leads; false if it leads none.
pub(crate) fn share(chunks: usize, work: &(dyn Fn(usize) + Sync)) -> bool {
    /// A kernel within a kernel is not the team's: it has one job at a time.
    struct Restore(*const Team);
    impl Drop for Restore {
        fn drop(&mut self) {
            TEAM.set(self.0);
        }
    }
    let team = Restore(TEAM.replace(std::ptr::null()));
    if team.0.is_null() {
        return false;
    }
    // SAFETY: the pointer is that of a team whose leader is this thread, until `Leader` is dropped.
    unsafe { &*team.0 }.run(chunks, work);
    true
}

/// While it lives, this thread leads a team.
struct Leader<'t>(&'t Team);

impl<'t> Leader<'t> {
    fn new(team: &'t Team) -> Self {
        TEAM.set(team);
        Self(team)
    }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        TEAM.set(std::ptr::null());
        self.0.is_over.store(true, Ordering::Release);
    }
}

impl Team {
    fn run(&self, chunks: usize, work: &(dyn Fn(usize) + Sync)) {
        /// Closes the job, also when a chunk of the leader panics.
        struct Close<'t>(&'t Team);
        impl Drop for Close<'_> {
            fn drop(&mut self) {
                // With `help`: either the helper sees the job closed or it is seen inside.
                self.0.epoch.fetch_add(1, Ordering::SeqCst);
                wait_until(|| self.0.inside.load(Ordering::SeqCst) == 0);
            }
        }
        // SAFETY: the job is closed and no helper is inside, so nobody reads it; the borrow of
        // `work` ends after `Close` has waited for those that read it from now on.
        unsafe {
            let work = std::mem::transmute::<
                *const (dyn Fn(usize) + Sync + '_),
                *const (dyn Fn(usize) + Sync + 'static),
            >(work);
            *self.job.get() = Job { work, chunks };
        }
        self.next.store(0, Ordering::Relaxed);
        self.epoch.fetch_add(1, Ordering::SeqCst);
        let close = Close(self);
        self.take_chunks(chunks, work);
        drop(close);
        assert!(
            !self.has_panicked.load(Ordering::Relaxed),
            "a kernel panicked on another thread"
        );
    }

    fn take_chunks(&self, chunks: usize, work: &(dyn Fn(usize) + Sync)) {
        loop {
            let chunk = self.next.fetch_add(1, Ordering::Relaxed);
            if chunk >= chunks {
                return;
            }
            work(chunk);
        }
    }

    /// Takes part in the leader's jobs until it is over.
    fn help(&self) {
        let mut last = 0;
        loop {
            let mut epoch = 0;
            wait_until(|| {
                epoch = self.epoch.load(Ordering::Acquire);
                (epoch % 2 == 1 && epoch != last) || self.is_over.load(Ordering::Acquire)
            });
            if self.is_over.load(Ordering::Acquire) {
                return;
            }
            last = epoch;
            self.inside.fetch_add(1, Ordering::SeqCst);
            if self.epoch.load(Ordering::SeqCst) == epoch {
                // SAFETY: the job is open, and the leader does not go on while this is inside.
                let job = unsafe { *self.job.get() };
                // SAFETY: as above: what the job borrows outlives it.
                let work = unsafe { &*job.work };
                let result = catch_unwind(AssertUnwindSafe(|| self.take_chunks(job.chunks, work)));
                if let Err(panic) = result {
                    self.has_panicked.store(true, Ordering::Relaxed);
                    self.inside.fetch_sub(1, Ordering::SeqCst);
                    resume_unwind(panic);
                }
            }
            self.inside.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn wait_until(mut is_so: impl FnMut() -> bool) {
    let mut rounds = 0;
    while !is_so() {
        rounds += 1;
        if rounds % ROUNDS == 0 {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel::for_each_chunk;

    fn on_threads<R: Send>(threads: usize, body: impl FnOnce() -> R + Send) -> R {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("a pool").install(body)
    }

    #[test]
    fn every_chunk_runs_once_in_many_short_jobs() {
        for threads in [1, 2, 5] {
            on_threads(threads, || {
                let counts: Vec<AtomicUsize> = (0..7).map(|_| AtomicUsize::new(0)).collect();
                in_team(|| {
                    for _ in 0..3000 {
                        for_each_chunk(7, usize::MAX, |chunk| {
                            counts[chunk].fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
                let counts = counts.iter().map(|count| count.load(Ordering::Relaxed));
                assert!(counts.into_iter().all(|count| count == 3000));
            });
        }
    }

    #[test]
    fn a_panic_of_any_thread_arrives() {
        let caught = catch_unwind(|| {
            on_threads(3, || {
                in_team(|| {
                    for_each_chunk(100, usize::MAX, |chunk| {
                        assert!(chunk != 50, "fifty");
                    });
                })
            });
        });
        assert!(caught.is_err());
    }
}
