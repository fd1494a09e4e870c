//! A persistent pool of threads: [`Pool::run`] splits one job into numbered tasks that the caller
//! and the workers claim until none is left.
//!
//! A job costs about a microsecond while the workers spin, so it can be entered several times per
//! layer. Workers spin briefly, then yield, then park: an idle server burns nothing, and a pool that
//! shares its cores with other processes gives way.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// Most threads of a pool.
pub const THREADS_MAX: usize = 256;
/// Most tasks of a job.
pub const TASKS_MAX: usize = (1 << 20) - 1;
/// Empty looks at the job word before a worker begins to yield, and before it parks.
const SPINS_BEFORE_YIELD: u32 = 2_000;
const SPINS_BEFORE_PARK: u32 = 2_400;

/// The claim word: 24 bits of job number, 20 of task count, 20 of the next task. One word, so that a
/// successful compare-and-swap proves that task and count belong to the same unfinished job.
const TASK_BITS: u32 = 20;
const TASK_MASK: u64 = (1 << TASK_BITS) - 1;

type Body = dyn Fn(usize, usize) + Sync;

/// A pointer to the running job's closure; valid while a claimed task of that job is unfinished.
#[derive(Clone, Copy)]
struct BodyPointer(*const Body);
// SAFETY: the closure is Sync, and the pointer is only followed while `run` waits for the job.
unsafe impl Send for BodyPointer {}

struct Shared {
    claim: AtomicU64,
    done: AtomicUsize,
    body: Mutex<Option<BodyPointer>>,
    panicked: AtomicBool,
    closing: AtomicBool,
    parked: Vec<AtomicBool>,
}

/// A fixed set of threads, the caller's included.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    entry: Mutex<()>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish()
    }
}

impl Pool {
    /// A pool of `threads` threads (1 to [`THREADS_MAX`], clamped), of which the caller is one.
    pub fn new(threads: usize) -> Self {
        let helpers = threads.clamp(1, THREADS_MAX) - 1;
        let shared = Arc::new(Shared {
            claim: AtomicU64::new(0),
            done: AtomicUsize::new(0),
            body: Mutex::new(None),
            panicked: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            parked: (0..helpers).map(|_| AtomicBool::new(false)).collect(),
        });
        let workers = (0..helpers)
            .filter_map(|worker| {
                let shared = shared.clone();
                let name = format!("tandem-pool-{worker}");
                // A thread that can't be had is not missed: its tasks are claimed by others.
                thread::Builder::new().name(name).spawn(move || shared.work(worker)).ok()
            })
            .collect();
        Pool { shared, workers, entry: Mutex::new(()) }
    }

    /// Threads that work on a job, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `body(task, thread)` once for every task below `tasks`, on any thread, and returns when
    /// all are done. `thread` is below [`Pool::threads`]. Jobs of several callers take turns.
    ///
    /// # Panics
    /// If `tasks` exceeds [`TASKS_MAX`] or `body` panics.
    pub fn run(&self, tasks: usize, body: &(dyn Fn(usize, usize) + Sync)) {
        assert!(tasks <= TASKS_MAX, "a job of {tasks} tasks; at most {TASKS_MAX}");
        if tasks == 0 {
            return;
        }
        if tasks == 1 || self.workers.is_empty() {
            (0..tasks).for_each(|task| body(task, 0));
            return;
        }
        let turn = self.entry.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        let pointer: *const (dyn Fn(usize, usize) + Sync) = body;
        // SAFETY: only the lifetime is erased; `run` does not return before the job's tasks are done,
        // and the pointer is followed only under a claimed, unfinished task.
        let pointer =
            unsafe { std::mem::transmute::<*const (dyn Fn(usize, usize) + Sync), *const Body>(pointer) };
        *shared.body.lock().unwrap_or_else(PoisonError::into_inner) = Some(BodyPointer(pointer));
        shared.done.store(0, Ordering::Relaxed);
        let job = (shared.claim.load(Ordering::Relaxed) >> (2 * TASK_BITS)).wrapping_add(1);
        shared.claim.store(job << (2 * TASK_BITS) | (tasks as u64) << TASK_BITS, Ordering::SeqCst);
        for (parked, worker) in shared.parked.iter().zip(&self.workers) {
            if parked.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        shared.drain(0);
        let mut waits = 0u32;
        while shared.done.load(Ordering::Acquire) < tasks {
            waits += 1;
            if waits < SPINS_BEFORE_YIELD { std::hint::spin_loop() } else { thread::yield_now() }
        }
        drop(turn);
        if shared.panicked.swap(false, Ordering::AcqRel) {
            resume_unwind(Box::new("a task of the thread pool panicked"));
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Claims and does tasks until the present job has none left. True if it did any.
    fn drain(&self, thread: usize) -> bool {
        let mut known: Option<(u64, BodyPointer)> = None;
        let mut claim = self.claim.load(Ordering::Acquire);
        loop {
            let (job, tasks, next) =
                (claim >> (2 * TASK_BITS), (claim >> TASK_BITS) & TASK_MASK, claim & TASK_MASK);
            if next >= tasks {
                return known.is_some();
            }
            if let Err(now) =
                self.claim.compare_exchange_weak(claim, claim + 1, Ordering::AcqRel, Ordering::Acquire)
            {
                claim = now;
                continue;
            }
            // Task `next` of `job` is ours: until it is done, the job's body stays.
            let body = match known {
                Some((known_job, body)) if known_job == job => body,
                _ => {
                    let stored = *self.body.lock().unwrap_or_else(PoisonError::into_inner);
                    stored.expect("a job is published after its body")
                }
            };
            known = Some((job, body));
            let run = || {
                // SAFETY: the claimed task is unfinished, so `run` still waits and the closure lives.
                let body = unsafe { &*body.0 };
                body(next as usize, thread);
            };
            if catch_unwind(AssertUnwindSafe(run)).is_err() {
                self.panicked.store(true, Ordering::Release);
            }
            self.done.fetch_add(1, Ordering::AcqRel);
            claim = self.claim.load(Ordering::Acquire);
        }
    }

    fn work(&self, worker: usize) {
        let mut idle = 0u32;
        while !self.closing.load(Ordering::Acquire) {
            if self.drain(worker + 1) {
                idle = 0;
                continue;
            }
            idle += 1;
            if idle < SPINS_BEFORE_YIELD {
                std::hint::spin_loop();
            } else if idle < SPINS_BEFORE_PARK {
                thread::yield_now();
            } else {
                self.parked[worker].store(true, Ordering::SeqCst);
                let claim = self.claim.load(Ordering::SeqCst);
                let empty = claim & TASK_MASK >= (claim >> TASK_BITS) & TASK_MASK;
                if empty && !self.closing.load(Ordering::SeqCst) {
                    thread::park();
                }
                self.parked[worker].store(false, Ordering::SeqCst);
                idle = 0;
            }
        }
    }
}

/// A slice that tasks of one job write disjoint parts of.
#[derive(Clone, Copy, Debug)]
pub struct SharedSlice<T> {
    start: *mut T,
    length: usize,
}

// SAFETY: access goes through `part`, whose callers promise disjointness.
unsafe impl<T: Send> Send for SharedSlice<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedSlice<T> {}

impl<T> SharedSlice<T> {
    /// Shares `slice` until its borrow ends.
    pub fn new(slice: &mut [T]) -> Self {
        SharedSlice { start: slice.as_mut_ptr(), length: slice.len() }
    }

    /// Elements `from..from + length`.
    ///
    /// # Safety
    /// The slice given to [`SharedSlice::new`] is still borrowed, and no two live parts overlap.
    ///
    /// # Panics
    /// If the part does not lie within the slice.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, from: usize, length: usize) -> &mut [T] {
        assert!(from.checked_add(length).is_some_and(|end| end <= self.length), "part outside the slice");
        // SAFETY: in bounds as just checked; disjoint and alive as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), length) }
    }

    /// The address of element `from`, for kernels that write with a stride.
    ///
    /// # Panics
    /// If `from` is past the end.
    pub fn address(&self, from: usize) -> *mut T {
        assert!(from <= self.length, "address outside the slice");
        self.start.wrapping_add(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_exactly_once() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            for tasks in [0, 1, 2, 7, 1000] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|task, thread| {
                    assert!(thread < threads);
                    counts[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(
                    counts.iter().all(|c| c.load(Ordering::Relaxed) == 1),
                    "{threads} threads, {tasks} tasks"
                );
            }
        }
    }

    #[test]
    fn many_short_jobs_from_several_callers() {
        let pool = Pool::new(3);
        let total = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        pool.run(5, &|_, _| {
                            total.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(total.load(Ordering::Relaxed), 3 * 2_000 * 5);
    }

    #[test]
    fn parked_workers_wake_up() {
        let pool = Pool::new(2);
        for _ in 0..3 {
            thread::sleep(std::time::Duration::from_millis(30));
            let seen = Mutex::new(std::collections::HashSet::new());
            pool.run(2, &|_, thread| {
                seen.lock().unwrap().insert(thread);
                // Long enough that the caller can't take both.
                thread::sleep(std::time::Duration::from_millis(20));
            });
            assert_eq!(seen.into_inner().unwrap().len(), 2);
        }
    }

    #[test]
    fn a_panicking_task_panics_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        let result = catch_unwind(AssertUnwindSafe(|| pool.run(8, &|task, _| assert!(task != 5))));
        assert!(result.is_err());
        let ran = AtomicUsize::new(0);
        pool.run(4, &|_, _| {
            ran.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(ran.load(Ordering::Relaxed), 4);
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn a_part_outside_the_slice_is_refused() {
        let mut data = [0u8; 4];
        let shared = SharedSlice::new(&mut data);
        // SAFETY: nothing else holds a part; the call must panic.
        let _ = unsafe { shared.part(2, 3) };
    }
}
