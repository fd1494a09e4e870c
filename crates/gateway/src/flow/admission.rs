//! Who may run and who may wait: [`Admission`], a bounded queue before the backends.
//!
//! A place that comes free goes to an interactive request before a background one, among equals to the
//! client with the fewest running requests, and then to the one that came first. A full queue refuses
//! who arrives; but an interactive request takes the place of the background one that came last.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use contract::Priority;
use prometheus::IntGauge;
use tokio::sync::oneshot;

use super::{FlowError, FlowLimits};

/// For whom a place is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Caller {
    /// Whose key was sent; all requests without one are of one client.
    pub(super) tenant: Option<Arc<str>>,
    pub(super) priority: Priority,
}

/// Hands out places. Clones share them.
#[derive(Clone)]
pub(super) struct Admission {
    inner: Arc<Inner>,
}

struct Inner {
    concurrent_max: usize,
    queue_max: usize,
    /// How many wait, and how many run.
    depth: IntGauge,
    running: IntGauge,
    /// Never held across an await, nor while a waiter is told.
    lists: Mutex<Lists>,
}

#[derive(Default)]
struct Lists {
    running: usize,
    /// Running requests of each client that has any.
    of_client: HashMap<Option<Arc<str>>, usize>,
    /// In the order of arrival, so with growing tickets. Nobody is in it while a place is free.
    waiting: Vec<Waiter>,
    /// The next ticket.
    ticket: u64,
}

struct Waiter {
    ticket: u64,
    caller: Caller,
    told: oneshot::Sender<Result<Place, FlowError>>,
}

/// A place among the running requests; free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    admission: Admission,
    tenant: Option<Arc<str>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.admission.leave(&self.tenant);
    }
}

/// A place in the queue; gone when dropped.
struct Waiting {
    admission: Admission,
    ticket: u64,
    told: oneshot::Receiver<Result<Place, FlowError>>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Who was told already is not in it any more; an unread place comes free with the receiver.
        self.admission.forget(self.ticket);
    }
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lists = self.inner.lists();
        let (running, waiting) = (lists.running, lists.waiting.len());
        f.debug_struct("Admission").field("running", &running).field("waiting", &waiting).finish()
    }
}

impl Admission {
    pub(super) fn new(limits: &FlowLimits, depth: IntGauge, running: IntGauge) -> Self {
        let FlowLimits { concurrent_max, queue_max, .. } = *limits;
        let inner = Inner { concurrent_max, queue_max, depth, running, lists: Mutex::default() };
        Admission { inner: Arc::new(inner) }
    }

    /// Waits for a place, or says at once that the queue is full. Dropping the future leaves it.
    pub(super) async fn enter(&self, caller: Caller) -> Result<Place, FlowError> {
        let mut waiting = match self.arrive(caller)? {
            Arrived::Runs(place) => return Ok(place),
            Arrived::Waits(waiting) => waiting,
        };
        // A waiter is told before it is forgotten, so the error is for the type's sake.
        (&mut waiting.told).await.unwrap_or_else(|_| Err(self.full()))
    }

    fn arrive(&self, caller: Caller) -> Result<Arrived, FlowError> {
        let mut lists = self.inner.lists();
        if lists.running < self.inner.concurrent_max {
            lists.count(&caller.tenant);
            self.inner.show(&lists);
            return Ok(Arrived::Runs(self.place(caller.tenant)));
        }
        let mut displaced = None;
        if lists.waiting.len() >= self.inner.queue_max {
            let newest = lists.newest_background().filter(|_| caller.priority == Priority::Interactive);
            let Some(newest) = newest else { return Err(self.full()) };
            displaced = Some(lists.waiting.remove(newest));
        }
        let ticket = lists.ticket;
        lists.ticket += 1;
        let (told, hears) = oneshot::channel();
        lists.waiting.push(Waiter { ticket, caller, told });
        self.inner.show(&lists);
        drop(lists);
        if let Some(waiter) = displaced {
            // Who has left in the meantime needs no answer.
            let _ = waiter.told.send(Err(FlowError::Displaced { queue_max: self.inner.queue_max }));
        }
        Ok(Arrived::Waits(Waiting { admission: self.clone(), ticket, told: hears }))
    }

    /// A place came free: it goes on to the next one, if any waits.
    fn leave(&self, tenant: &Option<Arc<str>>) {
        let mut lists = self.inner.lists();
        lists.discount(tenant);
        let next = lists.next().map(|next| lists.waiting.remove(next));
        if let Some(next) = &next {
            lists.count(&next.caller.tenant);
        }
        self.inner.show(&lists);
        drop(lists);
        let Some(Waiter { caller, told, .. }) = next else { return };
        // If the waiter has left in the meantime, the place comes back and is dropped here.
        drop(told.send(Ok(self.place(caller.tenant))));
    }

    fn forget(&self, ticket: u64) {
        let mut lists = self.inner.lists();
        if let Ok(at) = lists.waiting.binary_search_by_key(&ticket, |waiter| waiter.ticket) {
            lists.waiting.remove(at);
            self.inner.show(&lists);
        }
    }

    /// One that is counted already.
    fn place(&self, tenant: Option<Arc<str>>) -> Place {
        Place { admission: self.clone(), tenant }
    }

    fn full(&self) -> FlowError {
        let Inner { concurrent_max, queue_max, .. } = *self.inner;
        FlowError::QueueFull { concurrent_max, queue_max }
    }
}

enum Arrived {
    Runs(Place),
    Waits(Waiting),
}

impl Inner {
    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, lists: &Lists) {
        self.depth.set(i64::try_from(lists.waiting.len()).unwrap_or(i64::MAX));
        self.running.set(i64::try_from(lists.running).unwrap_or(i64::MAX));
    }
}

impl Lists {
    fn count(&mut self, tenant: &Option<Arc<str>>) {
        self.running += 1;
        *self.of_client.entry(tenant.clone()).or_default() += 1;
    }

    fn discount(&mut self, tenant: &Option<Arc<str>>) {
        self.running -= 1;
        if let Some(running) = self.of_client.get_mut(tenant) {
            *running -= 1;
            if *running == 0 {
                self.of_client.remove(tenant);
            }
        }
    }

    /// Whose turn it is. A look at each waiter: there are no more than `queue_max`.
    fn next(&self) -> Option<usize> {
        let turn = |waiter: &Waiter| {
            let running = self.of_client.get(&waiter.caller.tenant).copied().unwrap_or(0);
            (waiter.caller.priority, running)
        };
        // Of several least ones the first.
        self.waiting.iter().enumerate().min_by_key(|(_, waiter)| turn(waiter)).map(|(at, _)| at)
    }

    fn newest_background(&self) -> Option<usize> {
        self.waiting.iter().rposition(|waiter| waiter.caller.priority == Priority::Background)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::Poll;

    use proptest::prelude::*;

    use super::*;

    fn admission(concurrent_max: usize, queue_max: usize) -> Admission {
        let limits = FlowLimits { concurrent_max, queue_max, ..FlowLimits::default() };
        let gauge = |name| IntGauge::new(name, "test").unwrap();
        Admission::new(&limits, gauge("depth"), gauge("running"))
    }

    fn depth(admission: &Admission) -> i64 {
        admission.inner.depth.get()
    }

    fn of(tenant: &str, priority: Priority) -> Caller {
        Caller { tenant: Some(tenant.into()), priority }
    }

    #[tokio::test]
    async fn places_then_queue_then_refusal_and_all_come_free_again() {
        let admission = admission(1, 1);
        let anyone = Caller::default;
        let running = admission.enter(anyone()).await.unwrap();
        {
            let mut second = Box::pin(admission.enter(anyone()));
            assert!(futures_util::poll!(&mut second).is_pending());
            assert_eq!(depth(&admission), 1);
            let refused = admission.enter(anyone()).await.unwrap_err();
            assert!(matches!(refused, FlowError::QueueFull { concurrent_max: 1, queue_max: 1 }));
        }
        assert_eq!(depth(&admission), 0, "who stops waiting leaves the queue");
        let mut third = Box::pin(admission.enter(anyone()));
        assert!(futures_util::poll!(&mut third).is_pending());
        drop(running);
        third.await.unwrap();
        assert_eq!(depth(&admission), 0);
        admission.enter(anyone()).await.unwrap();
    }

    #[tokio::test]
    async fn without_a_queue_only_places_count() {
        let admission = admission(2, 0);
        let _one = admission.enter(Caller::default()).await.unwrap();
        let _two = admission.enter(of("a", Priority::Background)).await.unwrap();
        assert!(admission.enter(Caller::default()).await.is_err());
    }

    #[tokio::test]
    async fn one_busy_client_does_not_keep_another_waiting_behind_its_own() {
        let admission = admission(2, 9);
        let enter = |tenant| Box::pin(admission.enter(of(tenant, Priority::Interactive)));
        let first = enter("busy").await.unwrap();
        let _second = enter("busy").await.unwrap();
        let mut third = enter("busy");
        let mut other = enter("other");
        assert!(futures_util::poll!(&mut third).is_pending());
        assert!(futures_util::poll!(&mut other).is_pending());
        drop(first);
        assert!(futures_util::poll!(&mut other).is_ready(), "it came later, but has nothing running");
        assert!(futures_util::poll!(&mut third).is_ready(), "and its place went on at once");
    }

    #[tokio::test]
    async fn interactive_requests_displace_waiting_background_ones() {
        let admission = admission(1, 2);
        let _running = admission.enter(Caller::default()).await.unwrap();
        let mut waiting: Vec<_> =
            (0..2).map(|_| Box::pin(admission.enter(of("a", Priority::Background)))).collect();
        for waiter in &mut waiting {
            assert!(futures_util::poll!(waiter).is_pending());
        }
        let refused = admission.enter(of("b", Priority::Background)).await.unwrap_err();
        assert_eq!((refused.status(), refused.code()), (429, "queue_full"));
        let mut interactive = Box::pin(admission.enter(of("b", Priority::Interactive)));
        assert!(futures_util::poll!(&mut interactive).is_pending());
        let displaced = waiting.pop().unwrap().await.unwrap_err();
        assert_eq!(displaced, FlowError::Displaced { queue_max: 2 });
        assert_eq!((displaced.status(), displaced.retry_after_s().is_some()), (429, true));
        assert!(futures_util::poll!(&mut waiting[0]).is_pending());
        assert_eq!(depth(&admission), 2);
    }

    /// What a test does next; numbers pick one of those there are.
    #[derive(Clone, Debug)]
    enum Move {
        Arrive(Caller),
        /// A running request ends.
        End(usize),
        /// A request that was not looked at since its last poll goes away, wherever it stands.
        Cancel(usize),
        /// Everybody looks whether it is its turn.
        Look,
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let tenant = prop_oneof![Just(None), "[abc]".prop_map(|name| Some(Arc::from(name)))];
        let priority = prop_oneof![2 => Just(Priority::Interactive), 1 => Just(Priority::Background)];
        let caller = (tenant, priority).prop_map(|(tenant, priority)| Caller { tenant, priority });
        let one = prop_oneof![
            4 => caller.prop_map(Move::Arrive),
            3 => any::<usize>().prop_map(Move::End),
            1 => any::<usize>().prop_map(Move::Cancel),
            2 => Just(Move::Look),
        ];
        proptest::collection::vec(one, 0..120)
    }

    /// The obviously right twin: a list of everybody, in the order of arrival.
    #[derive(Default)]
    struct Twin {
        everybody: Vec<(usize, Caller, State)>,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum State {
        Waits,
        Runs,
        Displaced,
        Full,
    }

    impl Twin {
        fn count(&self, state: State) -> usize {
            self.everybody.iter().filter(|one| one.2 == state).count()
        }

        fn state(&self, id: usize) -> State {
            self.everybody.iter().find(|one| one.0 == id).unwrap().2
        }

        fn ids(&self, state: State) -> Vec<usize> {
            self.everybody.iter().filter(|one| one.2 == state).map(|one| one.0).collect()
        }

        fn arrive(&mut self, id: usize, caller: Caller, (concurrent_max, queue_max): (usize, usize)) {
            let mut state = State::Waits;
            if self.count(State::Runs) < concurrent_max {
                state = State::Runs;
            } else if self.count(State::Waits) >= queue_max {
                let newest = self.everybody.iter_mut().rev();
                let newest = newest
                    .filter(|one| one.2 == State::Waits && one.1.priority == Priority::Background)
                    .find(|_| caller.priority == Priority::Interactive);
                match newest {
                    Some(one) => one.2 = State::Displaced,
                    None => state = State::Full,
                }
            }
            self.everybody.push((id, caller, state));
        }

        fn remove(&mut self, id: usize) {
            let ran = self.state(id) == State::Runs;
            self.everybody.retain(|one| one.0 != id);
            if !ran {
                return;
            }
            let mut best: Option<(Priority, usize, usize)> = None;
            for (at, (_, caller, state)) in self.everybody.iter().enumerate() {
                let mine =
                    |one: &&(usize, Caller, State)| one.2 == State::Runs && one.1.tenant == caller.tenant;
                let turn = (caller.priority, self.everybody.iter().filter(mine).count(), at);
                if *state == State::Waits && best.is_none_or(|best| turn < best) {
                    best = Some(turn);
                }
            }
            if let Some((_, _, at)) = best {
                self.everybody[at].2 = State::Runs;
            }
        }
    }

    type Entering<'a> = Pin<Box<dyn Future<Output = Result<Place, FlowError>> + 'a>>;

    /// A request of the real thing.
    enum Real<'a> {
        Entering(Entering<'a>),
        Running(#[expect(dead_code, reason = "held for its drop")] Place),
    }

    fn poll(entering: &mut Entering<'_>) -> Poll<Result<Place, FlowError>> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        entering.as_mut().poll(&mut context)
    }

    fn pick(ids: &[usize], number: usize) -> Option<usize> {
        ids.get(number.checked_rem(ids.len())?).copied()
    }

    /// Polls everybody and compares what they hear with what the twin says.
    fn look(reals: &mut HashMap<usize, Real<'_>>, twin: &mut Twin) -> Result<(), TestCaseError> {
        let mut ids: Vec<usize> = reals.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let Some(Real::Entering(entering)) = reals.get_mut(&id) else {
                prop_assert_eq!(twin.state(id), State::Runs);
                continue;
            };
            match (poll(entering), twin.state(id)) {
                (Poll::Pending, State::Waits) => {}
                (Poll::Ready(Ok(place)), State::Runs) => {
                    reals.insert(id, Real::Running(place));
                }
                (Poll::Ready(Err(FlowError::Displaced { .. })), State::Displaced)
                | (Poll::Ready(Err(FlowError::QueueFull { .. })), State::Full) => {
                    reals.remove(&id);
                    twin.remove(id);
                }
                (heard, due) => prop_assert!(false, "request {} heard {:?} instead of {:?}", id, heard, due),
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn it_admits_whom_the_naive_twin_admits_and_leaks_nothing(
            moves in moves(), concurrent_max in 1usize..4, queue_max in 0usize..5,
        ) {
            let admission = admission(concurrent_max, queue_max);
            let mut reals: HashMap<usize, Real<'_>> = HashMap::new();
            let mut twin = Twin::default();
            for (id, next) in moves.into_iter().enumerate() {
                match next {
                    Move::Arrive(caller) => {
                        let mut entering: Entering<'_> = Box::pin(admission.enter(caller.clone()));
                        twin.arrive(id, caller, (concurrent_max, queue_max));
                        match poll(&mut entering) {
                            Poll::Pending => drop(reals.insert(id, Real::Entering(entering))),
                            Poll::Ready(Ok(place)) => drop(reals.insert(id, Real::Running(place))),
                            Poll::Ready(Err(_)) => {
                                prop_assert_eq!(twin.state(id), State::Full);
                                twin.remove(id);
                            }
                        }
                    }
                    Move::End(number) => {
                        // Places that were given but not looked at end too: a cancellation in between.
                        if let Some(id) = pick(&twin.ids(State::Runs), number) {
                            reals.remove(&id);
                            twin.remove(id);
                        }
                    }
                    Move::Cancel(number) => {
                        let everybody: Vec<usize> = twin.everybody.iter().map(|one| one.0).collect();
                        if let Some(id) = pick(&everybody, number) {
                            reals.remove(&id);
                            twin.remove(id);
                        }
                    }
                    Move::Look => look(&mut reals, &mut twin)?,
                }
                prop_assert_eq!(depth(&admission), i64::try_from(twin.count(State::Waits)).unwrap());
                prop_assert_eq!(admission.inner.lists().running, twin.count(State::Runs));
                prop_assert_eq!(admission.inner.running.get(), i64::try_from(twin.count(State::Runs)).unwrap());
            }
            look(&mut reals, &mut twin)?;
            drop(reals);
            let lists = admission.inner.lists();
            prop_assert!(lists.running == 0 && lists.waiting.is_empty() && lists.of_client.is_empty());
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_threads_at_once_leave_nothing_behind() {
        let admission = admission(3, 20);
        let tasks: Vec<_> = (0..400u64)
            .map(|number| {
                let admission = admission.clone();
                let priority = if number % 3 == 0 { Priority::Background } else { Priority::Interactive };
                let caller = of(["a", "b", "c", "d"][number as usize % 4], priority);
                tokio::spawn(async move {
                    let patience = std::time::Duration::from_micros(number * 37 % 900);
                    let place = tokio::time::timeout(patience, admission.enter(caller)).await;
                    assert!(admission.inner.lists().running <= 3);
                    tokio::task::yield_now().await;
                    drop(place);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let lists = admission.inner.lists();
        assert!(lists.running == 0 && lists.waiting.is_empty() && lists.of_client.is_empty());
        assert_eq!(depth(&admission), 0);
    }
}
