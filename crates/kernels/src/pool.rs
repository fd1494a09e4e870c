//! A persistent pool of threads: [`Pool::run`] splits one job into numbered tasks, gives every thread
//! an equal share of them, and lets whoever is done take from the others' ends.
//!
//! A job costs a fraction of a microsecond while the workers spin, so it can be entered several times
//! per layer. Workers spin briefly, then yield, then park: an idle server burns nothing, and a pool
//! that shares its cores with other processes gives way.
//!
//! What a thread touches for each of its tasks, its share, has a cache line of its own: it moves between
//! cores only when the job is posted and when another thread helps. Shares are contiguous, so that
//! each thread reads one stream of weights.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::ahead::{Ahead, AheadCell, Asked};

/// Most threads of a pool.
pub const THREADS_MAX: usize = 256;
/// Most tasks of a job.
pub const TASKS_MAX: usize = (1 << 20) - 1;
/// Empty looks at its share before a worker begins to yield, and before it parks.
const SPINS_BEFORE_YIELD: u32 = 2_000;
const SPINS_BEFORE_PARK: u32 = 2_400;

/// A share's word: 24 bits of job number, 20 of the end of its tasks, 20 of the next one. One word, so
/// that a successful compare-and-swap proves that the task belongs to the same unfinished job.
const TASK_BITS: u32 = 20;
const TASK_MASK: u64 = (1 << TASK_BITS) - 1;
const JOB_SHIFT: u32 = 2 * TASK_BITS;

type Body = dyn Fn(usize, usize) + Sync;

/// Keeps its content away from its neighbours': processors fetch pairs of 64-byte lines.
#[repr(align(128))]
struct Apart<T>(T);

/// One thread's tasks of the present job.
struct Share {
    word: AtomicU64,
    /// Whether the thread sleeps.
    parked: AtomicBool,
    /// What it may ask memory for while it waits.
    ahead: AheadCell,
}

impl Share {
    /// Takes the first or the last task that is left.
    fn take(&self, first: bool) -> Option<usize> {
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            let (end, next) = ((word >> TASK_BITS) & TASK_MASK, word & TASK_MASK);
            if next >= end {
                return None;
            }
            let (taken, left) = if first { (next, word + 1) } else { (end - 1, word - (1 << TASK_BITS)) };
            match self.word.compare_exchange_weak(word, left, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(taken as usize),
                Err(now) => word = now,
            }
        }
    }

    fn job(&self, order: Ordering) -> u64 {
        self.word.load(order) >> JOB_SHIFT
    }
}

struct Shared {
    shares: Vec<Apart<Share>>,
    /// Tasks done.
    done: Apart<AtomicUsize>,
    /// The running job's closure; see the safety comments where it is written and read.
    body: Apart<UnsafeCell<Option<*const Body>>>,
    panicked: AtomicBool,
    closing: AtomicBool,
}

// SAFETY: `body` is the one field that is not Sync by itself. It is written by the caller whose turn
// it is, while no task of a job is unfinished, and read under a claimed task only.
unsafe impl Sync for Shared {}
// SAFETY: as above; the closure behind the pointer is Sync.
unsafe impl Send for Shared {}

/// A fixed set of threads, the caller's included.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Whose turn it is to post a job; holds the number of the last one.
    turn: Mutex<u64>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish()
    }
}

impl Pool {
    /// A pool of `threads` threads (1 to [`THREADS_MAX`], clamped), of which the caller is one.
    pub fn new(threads: usize) -> Self {
        let threads = threads.clamp(1, THREADS_MAX);
        let share = || {
            Apart(Share {
                word: AtomicU64::new(0),
                parked: AtomicBool::new(false),
                ahead: AheadCell::default(),
            })
        };
        let shared = Arc::new(Shared {
            shares: (0..threads).map(|_| share()).collect(),
            done: Apart(AtomicUsize::new(0)),
            body: Apart(UnsafeCell::new(None)),
            panicked: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        });
        let workers = (1..threads)
            .map_while(|thread| {
                let shared = shared.clone();
                let name = format!("tandem-pool-{}", thread - 1);
                // A thread that can't be had is not missed: the others are the pool.
                thread::Builder::new().name(name).spawn(move || shared.work(thread)).ok()
            })
            .collect();
        Pool { shared, workers, turn: Mutex::new(0) }
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
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        *turn += 1;
        self.post(*turn, tasks, body);
        let shared = &*self.shared;
        shared.drain(0);
        let mut waits = 0u32;
        while shared.done.0.load(Ordering::Acquire) < tasks {
            waits += 1;
            if waits < SPINS_BEFORE_YIELD { std::hint::spin_loop() } else { thread::yield_now() }
        }
        drop(turn);
        if shared.panicked.swap(false, Ordering::AcqRel) {
            resume_unwind(Box::new("a task of the thread pool panicked"));
        }
    }

    /// Tells each worker what it will read after the next job: its share of `panels`, of which
    /// `from(panel)` describes those from `panel` on.
    pub(crate) fn announce(&self, panels: usize, from: impl Fn(usize) -> Ahead) {
        for thread in 1..self.threads() {
            self.shared.shares[thread].0.ahead.set(from(thread * panels / self.threads()));
        }
    }

    /// Hands every thread its share and wakes those that sleep.
    fn post(&self, job: u64, tasks: usize, body: &(dyn Fn(usize, usize) + Sync)) {
        let shared = &*self.shared;
        let body: *const (dyn Fn(usize, usize) + Sync) = body;
        // SAFETY: only the lifetime is erased; `run` does not return before the job's tasks are done,
        // and the pointer is followed only under a claimed, unfinished task.
        let body = unsafe { std::mem::transmute::<*const (dyn Fn(usize, usize) + Sync), *const Body>(body) };
        // SAFETY: no task is unfinished, so nobody reads the pointer; the words below publish it.
        unsafe { *shared.body.0.get() = Some(body) };
        shared.done.0.store(0, Ordering::Relaxed);
        let threads = self.threads();
        let start = |thread: usize| (thread * tasks / threads) as u64;
        for thread in 0..threads {
            let word = job << JOB_SHIFT | start(thread + 1) << TASK_BITS | start(thread);
            shared.shares[thread].0.word.store(word, Ordering::Release);
        }
        // A worker marks itself parked, then looks at its word; here it is the other way round.
        fence(Ordering::SeqCst);
        for (thread, worker) in self.workers.iter().enumerate() {
            let has_tasks = start(thread + 1) < start(thread + 2);
            if has_tasks && shared.shares[thread + 1].0.parked.load(Ordering::Relaxed) {
                worker.thread().unpark();
            }
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
    /// Does the thread's share, from its beginning, then what is left of the others', from their ends.
    fn drain(&self, thread: usize) {
        let mut done = 0;
        let threads = self.shares.len();
        for offset in 0..threads {
            let share = &self.shares[(thread + offset) % threads].0;
            while let Some(task) = share.take(offset == 0) {
                let run = || {
                    // SAFETY: the claimed task is unfinished, so `run` still waits: the closure lives
                    // and the pointer does not change.
                    let body = unsafe { (*self.body.0.get()).map(|body| &*body) };
                    body.expect("a job is posted after its body")(task, thread);
                };
                if catch_unwind(AssertUnwindSafe(run)).is_err() {
                    self.panicked.store(true, Ordering::Release);
                }
                done += 1;
            }
        }
        // All at once: the job can't end before, so every task above was of one job.
        if done > 0 {
            self.done.0.fetch_add(done, Ordering::AcqRel);
        }
    }

    fn work(&self, thread: usize) {
        let share = &self.shares[thread].0;
        let (mut idle, mut last, mut asked) = (0u32, 0u64, Asked::default());
        while !self.closing.load(Ordering::Acquire) {
            let job = share.job(Ordering::Acquire);
            if job != last {
                last = job;
                self.drain(thread);
                asked.renew(&share.ahead);
                idle = 0;
                continue;
            }
            if asked.ask() {
                continue;
            }
            idle += 1;
            if idle < SPINS_BEFORE_YIELD {
                std::hint::spin_loop();
            } else if idle < SPINS_BEFORE_PARK {
                thread::yield_now();
            } else {
                share.parked.store(true, Ordering::Relaxed);
                fence(Ordering::SeqCst);
                if share.job(Ordering::Relaxed) == last && !self.closing.load(Ordering::SeqCst) {
                    thread::park();
                }
                share.parked.store(false, Ordering::Relaxed);
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
    fn what_a_held_up_thread_leaves_is_done_by_others() {
        let pool = Pool::new(2);
        let left = AtomicUsize::new(7);
        pool.run(8, &|task, _| {
            if task > 0 {
                left.fetch_sub(1, Ordering::SeqCst);
                return;
            }
            // Three of the tasks are of this thread's own share.
            let start = std::time::Instant::now();
            while left.load(Ordering::SeqCst) > 0 {
                assert!(start.elapsed().as_secs() < 60, "nobody helps");
                thread::yield_now();
            }
        });
        assert_eq!(left.load(Ordering::SeqCst), 0);
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
