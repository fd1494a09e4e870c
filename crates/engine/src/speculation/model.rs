//! Drafts with a smaller model of the same vocabulary: [`DraftModel`].
//!
//! What another drafter guesses it reads ahead of its own drafting: as far as it would have drafted the same, a pass
//! yields several tokens.
//!
//! It is a guest in that model's decoder: where the model has read a request already, its cache is the
//! drafter's, and the text is not read a second time. If the model has weights for drafting, they draft; longer
//! texts that nobody has read are read by its own, so that what they leave is there for all.
//!
//! Its head is cut to the first tokens of the vocabulary. Byte-pair tokens are numbered in the order of their
//! merges, that is by frequency, so those are the ones that occur (Zhao et al. 2025, "FR-Spec", rank tokens
//! for the same end); the head is most of what a small model's step reads.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::costs::{StepCosts, Terms};
use super::shares::{Probe, Share};
use super::{Draft, DraftJob, Drafter};
use crate::decoder::{GuestNumber, Held, Logits, Pass, SequenceId, SharedDecoder, Work};
use crate::recycle::emptied;
use crate::scheduler::Seat;

/// Tokens of the drafter's head.
pub const DRAFT_VOCABULARY: usize = 48 << 10;
/// Tokens that it reads on the way to a draft; a text that is further behind is read first, in passes of their own,
/// one a step.
const CATCH_UP_TOKENS: usize = 24;
/// Tokens of such a text that are read in one step while others write.
const READ_TOKENS: usize = 64;
/// Steps without a draft after there was no room for one.
const NO_ROOM_STEPS: u32 = 64;
/// Tokens, beyond the text and a draft, that room is asked for at once.
const ROOM_AHEAD: usize = 64;
/// Drafted tokens in a try.
const PROBE_TOKENS: usize = 2;
/// Share of what is left to write that a try may cost by reading the text first.
const PROBE_SHARE_MAX: f64 = 0.05;
/// What share of what reading a text costs has to be missed first by not having read it: many a text turns out to be
/// copied, which look-up does better.
const MISSED_SHARE: f64 = 0.1;
/// Widths of its passes that are measured.
const MEASURED: [usize; 5] = [1, 2, 4, 8, 16];
/// Weight of the newest reading in the running mean of what reading takes.
const NEWEST_READING: f64 = 0.3;
/// Weight of the newest pass in the running means of what one yields.
const NEWEST_YIELD: f64 = 0.1;
/// The drafter's own probabilities, from which a class of them starts.
const CLASSES: [f32; 9] = [0.0, 0.2, 0.4, 0.6, 0.75, 0.85, 0.93, 0.97, 0.99];
/// What share of a class to expect to be right before anything was seen.
const EXPECTED: [f64; CLASSES.len()] = [0.15, 0.3, 0.5, 0.65, 0.78, 0.86, 0.92, 0.95, 0.98];
/// Share of drafted tokens to expect to be right.
const EXPECTED_MEAN: f64 = 0.75;

/// Finds the draft model's decoder, if the model is in memory.
pub type FindDecoder = Box<dyn Fn() -> Option<Arc<SharedDecoder>> + Send>;

/// The drafter.
pub struct DraftModel {
    find: FindDecoder,
    seat: Seat,
    vocabulary: usize,
    costs: StepCosts,
    /// What reading a token takes, of many.
    read_ms: f64,
    jobs: HashMap<u64, State>,
    seen: [Share; CLASSES.len()],
    mean: Share,
    /// Tokens that a pass drafts for a job, in the time of one without guesses.
    yields: f64,
    /// The decoder that the jobs' guests are in.
    host: Weak<SharedDecoder>,
    // Lists of the running step; kept, so that a step allocates nothing.
    players: Vec<Player>,
    works: Vec<Work<'static>>,
    ahead: Vec<u32>,
    guesses: Vec<(u32, f64)>,
}

/// What it knows of a job.
struct State {
    guest: Option<GuestNumber>,
    /// Of the job's text, tokens in the drafter's cache.
    read: usize,
    /// Of these, tokens that the decoder was told of.
    settled: usize,
    /// Drafted tokens in the cache after them.
    ahead: Vec<u32>,
    mean: Share,
    yields: f64,
    probe: Probe,
    is_probing: bool,
    /// What drafts that nobody offered more than would have gained, had the text been read.
    missed: f64,
    /// Steps to wait until room is looked for again.
    wait: u32,
}

/// A job in the rounds of a step.
#[derive(Clone, Copy)]
struct Player {
    /// Which one of the step's.
    job: usize,
    guest: GuestNumber,
    /// Tokens that the drafter has not read: of the text, or the one it drafted last.
    unread: usize,
    /// Guessed tokens that it reads after those in the running pass.
    guesses: usize,
    /// That all it has drafted is right.
    chance: f64,
    /// Longest draft.
    limit: usize,
    is_probing: bool,
}

impl DraftModel {
    /// What configurations call it.
    pub const NAME: &'static str = "model";

    /// Drafts with the decoder that `find` finds; `seat` is one at its pool. Only the first `vocabulary` tokens are
    /// drafted, all of which the model that it drafts for must have.
    pub fn new(find: FindDecoder, seat: Seat, vocabulary: usize) -> Self {
        DraftModel {
            find,
            seat,
            vocabulary,
            costs: StepCosts::default(),
            read_ms: 0.0,
            jobs: HashMap::new(),
            seen: EXPECTED.map(Share::expected),
            mean: Share::expected(EXPECTED_MEAN),
            yields: 1.0,
            host: Weak::new(),
            players: Vec::new(),
            works: Vec::new(),
            ahead: Vec::new(),
            guesses: Vec::new(),
        }
    }

    /// The decoder, if the model is in memory. If it was loaded anew, nobody is a guest there yet.
    fn host(&mut self) -> Option<Arc<SharedDecoder>> {
        let host = (self.find)()?;
        if !Weak::ptr_eq(&self.host, &Arc::downgrade(&host)) {
            self.host = Arc::downgrade(&host);
            self.jobs.values_mut().for_each(|state| state.guest = None);
        }
        if !self.costs.is_known() {
            self.measure(&host);
        }
        self.costs.is_known().then_some(host)
    }

    /// What a token takes in a pass of `jobs` jobs.
    fn ms_each(&self, jobs: usize) -> f64 {
        self.costs.at(jobs) / jobs.max(1) as f64
    }

    fn class(probability: f32) -> usize {
        CLASSES.partition_point(|&from| from <= probability).max(1) - 1
    }

    /// Measures what its steps take, when it can.
    fn measure(&mut self, shared: &SharedDecoder) {
        let _turn = self.seat.take();
        let mut held = shared.lock();
        let draft = Pass::Draft(self.vocabulary);
        let (mut points, mut read_ms) = (Vec::new(), f64::INFINITY);
        for _ in 0..StepCosts::ROUNDS {
            let Some(ms) = held.pass_ms(READ_TOKENS, Pass::Read) else { return };
            read_ms = read_ms.min(ms);
            points.extend(MEASURED.iter().filter_map(|&width| Some((width, held.pass_ms(width, draft)?))));
        }
        self.costs = StepCosts::measured(&points);
        self.read_ms = read_ms / READ_TOKENS as f64;
    }
}

impl State {
    fn new(mean: Share, yields: f64) -> Self {
        State {
            guest: None,
            read: 0,
            settled: 0,
            ahead: Vec::new(),
            mean,
            yields,
            probe: Probe::default(),
            is_probing: false,
            missed: 0.0,
            wait: 0,
        }
    }

    /// Sees to it that the job's sequence holds nothing but its text. Returns the guest and the tokens that it
    /// does not hold yet; `None`: there is no room.
    fn catch_up(&mut self, held: &mut Held, scope: u64, job: &DraftJob) -> Option<(GuestNumber, usize)> {
        let wanted = job.text.len() + job.limit + 1;
        if let Some((guest, sequence)) = self.guest.and_then(|g| Some((g, held.sequence(g)?))) {
            let new = &job.text[self.read..];
            let right = self.ahead.iter().zip(new).take_while(|(a, b)| a == b).count();
            // The last token is read again: what follows it is wanted.
            self.read = (self.read + right).min(job.text.len() - 1);
            self.ahead.clear();
            held.decoder.truncate(sequence, self.read);
            self.settle(held, sequence, job.text);
            if held.decoder.promise(sequence, wanted) {
                return Some((guest, job.text.len() - self.read));
            }
            held.leave(guest);
        }
        self.guest = None;
        let Some((guest, cached)) = held.invite(scope, job.text, wanted + ROOM_AHEAD) else {
            self.wait = NO_ROOM_STEPS;
            return None;
        };
        (self.guest, self.read, self.settled) = (Some(guest), cached, cached);
        self.ahead.clear();
        Some((guest, job.text.len() - cached))
    }

    /// Drafts no more for this job: its text is not for this model.
    fn give_up(&mut self, held: &mut Held) {
        if let Some(guest) = self.guest.take() {
            held.leave(guest);
        }
        self.wait = u32::MAX;
    }

    /// Tells the decoder which tokens stay.
    fn settle(&mut self, held: &mut Held, sequence: SequenceId, text: &[u32]) {
        if self.settled < self.read {
            held.decoder.settle(sequence, &text[self.settled..self.read]);
            self.settled = self.read;
        }
    }
}

impl Drafter for DraftModel {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn offer(&mut self, job: &DraftJob, terms: &Terms) -> f64 {
        let Some(host) = self.host() else { return 0.0 };
        let ms_each = self.ms_each(terms.writers());
        let (mean, yields) = (self.mean, self.yields);
        let state = self.jobs.entry(job.id).or_insert_with(|| State::new(mean, yields));
        if state.wait > 0 {
            state.wait = state.wait.saturating_sub(1);
            return 0.0;
        }
        let right = state.mean.mean();
        let chances = || (1..=job.limit as i32).map(|place| right.powi(place));
        let (length, gain) = terms.best_length(chances(), ms_each / state.yields);
        state.is_probing = gain <= 0.0;
        if state.is_probing && !state.probe.is_due() {
            return 0.0;
        }
        let unread = match state.guest {
            Some(_) => job.text.len() - state.read,
            None => match state.catch_up(&mut host.lock(), host.scope(job.client), job) {
                Some((_, unread)) => unread,
                None => return 0.0,
            },
        };
        if unread > CATCH_UP_TOKENS {
            // Reading it all must pay within what is left to write, or at least be cheap beside it.
            let in_a_step = 1.0 + chances().take(length).sum::<f64>();
            let saved = gain / in_a_step * job.expected_tokens as f64;
            let cheap = PROBE_SHARE_MAX * job.expected_tokens as f64;
            let cost = terms.time(self.read_ms * unread as f64);
            state.missed += (gain - job.offered).max(0.0);
            let is_worth = saved > cost && state.missed > MISSED_SHARE * cost;
            if !(is_worth || state.is_probing && cheap > cost) {
                return 0.0;
            }
        }
        if state.is_probing {
            return f64::MIN_POSITIVE;
        }
        state.probe.reset();
        gain
    }

    fn draft(&mut self, jobs: &mut [DraftJob], terms: &mut Terms, others: &mut [Box<dyn Drafter>]) {
        let Some(host) = self.host() else { return };
        let mut players = std::mem::take(&mut self.players);
        players.clear();
        for (index, job) in jobs.iter().enumerate() {
            let Some(state) = self.jobs.get_mut(&job.id) else { continue };
            let scope = host.scope(job.client);
            let Some((guest, unread)) = state.catch_up(&mut host.lock(), scope, job) else { continue };
            let limit = if state.is_probing { job.limit.min(PROBE_TOKENS) } else { job.limit };
            let is_probing = state.is_probing;
            players.push(Player { job: index, guest, unread, guesses: 0, chance: 1.0, limit, is_probing });
        }
        let alone = terms.writers() == 1;
        let is_far_behind = |player: &Player| player.unread > CATCH_UP_TOKENS;
        players.retain_mut(|player| {
            let (job, tokens_max) = (&jobs[player.job], if alone { usize::MAX } else { READ_TOKENS });
            // Who is near now is drafted for at once.
            let is_there =
                !is_far_behind(player) || self.read(&host, (job.id, job.text), (player, tokens_max, terms));
            is_there && !is_far_behind(player)
        });
        loop {
            let ms_each = self.ms_each(players.len());
            players.retain(|player| self.goes_on(player, (&jobs[player.job], ms_each), terms));
            if players.is_empty() {
                break;
            }
            self.read_ahead(&host, &mut players, (jobs, terms), others);
            if !self.round(&host, &mut players, (jobs, terms), others) {
                break;
            }
        }
        self.players = players;
    }

    fn learn(&mut self, job: u64, draft: &Draft, accepted: usize) {
        let Some(state) = self.jobs.get_mut(&job) else { return };
        for (place, proposal) in draft.proposals().iter().take(accepted + 1).enumerate() {
            let is_right = place < accepted;
            let class = Self::class(proposal.probability);
            self.seen[class].note(is_right);
            self.mean.note(is_right);
            state.mean.note(is_right);
        }
    }

    fn end(&mut self, job: u64, _client: Option<&Arc<str>>, _answer: &[u32]) {
        let guest = self.jobs.remove(&job).and_then(|state| state.guest);
        if let (Some(guest), Some(host)) = (guest, self.host.upgrade()) {
            host.lock().leave(guest);
        }
    }

    fn prepare(&mut self) -> bool {
        !self.costs.is_known() && self.host().is_some()
    }

    fn draft_ms(&self) -> f64 {
        self.costs.at(1)
    }
}

impl DraftModel {
    /// Whether one more token is worth its time, given what it and a further column of the step cost.
    fn goes_on(&self, player: &Player, (job, ms_each): (&DraftJob, f64), terms: &Terms) -> bool {
        if job.draft.ids().len() >= player.limit || terms.room() == 0 {
            return false;
        }
        let Some(state) = self.jobs.get(&job.id) else { return false };
        let price = terms.price(1) + terms.time(ms_each / state.yields);
        player.is_probing || player.chance * state.mean.mean() > price
    }

    /// Reads a part of a text that the drafter is far behind with, all but its last token. False if that can't be.
    fn read(
        &mut self,
        host: &SharedDecoder,
        (job, text): (u64, &[u32]),
        (player, tokens_max, terms): (&mut Player, usize, &mut Terms),
    ) -> bool {
        let Some(state) = self.jobs.get_mut(&job) else { return false };
        let _turn = self.seat.take();
        let mut held = host.lock();
        let Some(sequence) = held.sequence(player.guest) else { return false };
        let tokens = (player.unread - 1).min(tokens_max).min(held.decoder.batch_tokens());
        terms.spend(self.read_ms * tokens as f64);
        let work = Work { sequence, tokens: &text[state.read..state.read + tokens], logits: Logits::None };
        let began = Instant::now();
        if held.decoder.forward(&[work]).is_err() {
            state.give_up(&mut held);
            return false;
        }
        let took_ms = began.elapsed().as_secs_f64() * 1e3 / tokens as f64;
        self.read_ms += NEWEST_READING * (took_ms - self.read_ms);
        state.read += tokens;
        player.unread -= tokens;
        state.settle(&mut held, sequence, text);
        true
    }

    /// Lists what each player reads in the next pass: what it has not read, and what others guess to follow.
    fn read_ahead(
        &mut self,
        host: &SharedDecoder,
        players: &mut [Player],
        (jobs, terms): (&[DraftJob], &Terms),
        others: &mut [Box<dyn Drafter>],
    ) {
        let pass_ms = self.ms_each(players.len());
        let mut columns: usize = players.iter().map(|player| player.unread).sum();
        let mut room = terms.room().saturating_sub(players.len());
        room = room.min(host.lock().decoder.batch_tokens().saturating_sub(columns));
        self.ahead.clear();
        for player in players {
            let job = &jobs[player.job];
            let (text, drafted) = (job.text, job.draft.ids());
            match drafted {
                [] => self.ahead.extend(&text[text.len() - player.unread..]),
                ids => self.ahead.extend(&ids[ids.len() - player.unread..]),
            }
            self.guesses.clear();
            let limit = room.min(player.limit.saturating_sub(drafted.len() + 1));
            for other in others.iter_mut().filter(|_| limit > 0 && !player.is_probing) {
                if self.guesses.is_empty() {
                    other.guess(job.id, drafted, limit, &mut self.guesses);
                }
            }
            // As many as save more time by passes than they take by columns.
            let (mut best, mut saved_ms) = ((0, 0.0), 0.0);
            let can_be_drafted = |&&(id, _): &&(u32, f64)| (id as usize) < self.vocabulary;
            for (index, (_, chance)) in self.guesses.iter().take_while(can_be_drafted).enumerate() {
                saved_ms += chance * pass_ms;
                let longer_ms = self.costs.at(columns + index + 1) - self.costs.at(columns);
                if saved_ms - longer_ms > best.1 {
                    best = (index + 1, saved_ms - longer_ms);
                }
            }
            player.guesses = best.0;
            (columns, room) = (columns + player.guesses, room - player.guesses);
            self.ahead.extend(self.guesses.iter().take(player.guesses).map(|&(id, _)| id));
        }
    }

    /// Drafts one more token for each player, or several where guesses are what it would have drafted. False if that
    /// can't be.
    fn round(
        &mut self,
        host: &SharedDecoder,
        players: &mut Vec<Player>,
        (jobs, terms): (&mut [DraftJob], &mut Terms),
        others: &mut [Box<dyn Drafter>],
    ) -> bool {
        let turn = self.seat.take();
        let mut held = host.lock();
        let mut works: Vec<Work> = emptied(std::mem::take(&mut self.works));
        let mut ahead = &self.ahead[..];
        // Whoever was put out meanwhile drafts no more.
        players.retain(|player| {
            let (tokens, rest) = ahead.split_at(player.unread + player.guesses);
            ahead = rest;
            let sequence = held.sequence(player.guest);
            let logits = Logits::Tail(1 + player.guesses);
            works.extend(sequence.map(|sequence| Work { sequence, tokens, logits }));
            sequence.is_some()
        });
        let columns: usize = works.iter().map(|work| work.tokens.len()).sum();
        let began = Instant::now();
        let vocabulary = held.decoder.draft_vocabulary(self.vocabulary);
        let result = held.forward_draft(&works, vocabulary);
        let Ok(mut logits) = result else {
            self.works = emptied(works);
            for player in players {
                if let Some(state) = self.jobs.get_mut(&jobs[player.job].id) {
                    state.give_up(&mut held);
                }
            }
            return false;
        };
        drop(turn);
        terms.spend(self.costs.at(columns));
        let guesses: usize = players.iter().map(|player| player.guesses).sum();
        let longer = self.costs.ratio(columns, columns - guesses);
        for (player, work) in players.iter_mut().zip(&works) {
            let job = &mut jobs[player.job];
            let rows;
            (rows, logits) = logits.split_at((1 + player.guesses) * vocabulary);
            let guesses = &work.tokens[player.unread..];
            let before = job.draft.ids().len();
            let right = self.write(player, (job, terms), (rows.chunks_exact(vocabulary), guesses));
            let drafted = job.draft.ids().len() - before;
            if let Some(state) = self.jobs.get_mut(&job.id) {
                match before {
                    0 => state.read = job.text.len(),
                    _ => state.ahead.extend(&work.tokens[..player.unread]),
                }
                state.ahead.extend(&guesses[..right]);
                let newest = drafted.max(1) as f64 / longer;
                state.yields += NEWEST_YIELD * (newest - state.yields);
                self.yields += NEWEST_YIELD * (newest - self.yields);
            }
            if player.guesses > 0 {
                let is_wrong = right < player.guesses && drafted > right;
                others.iter_mut().for_each(|other| other.learn_guess(job.id, right, is_wrong));
            }
            player.unread = 1;
        }
        for (player, work) in players.iter().zip(&works) {
            if let Some(state) = self.jobs.get(&jobs[player.job].id) {
                held.decoder.truncate(work.sequence, state.read + state.ahead.len());
            }
        }
        self.works = emptied(works);
        self.costs.note(columns, began.elapsed().as_secs_f64() * 1e3);
        true
    }

    /// Drafts from a player's rows of logits, the first after what it had not read, the others after guesses, as far as
    /// these are drafted. Returns how many are.
    fn write<'a>(
        &self,
        player: &mut Player,
        (job, terms): (&mut DraftJob, &mut Terms),
        (rows, guesses): (impl Iterator<Item = &'a [f32]>, &[u32]),
    ) -> usize {
        let mean = self.jobs.get(&job.id).map_or(0.0, |state| state.mean.mean());
        let mut right = 0;
        for row in rows {
            // What is drawn is verified, whatever it is: so whether to draw is decided before.
            let is_worth = right == 0 || player.chance * mean > terms.price(1);
            if !is_worth || job.draft.ids().len() >= player.limit || terms.room() == 0 {
                player.limit = 0;
                break;
            }
            let confidence = job.draft.propose(job.sampler, row);
            player.chance *= self.seen[Self::class(confidence)].mean();
            let is_drawn = job.draft.proposals().last().is_some_and(|p| p.distribution().is_some());
            if player.chance < terms.price(1) && !player.is_probing && !is_drawn {
                job.draft.pop();
                player.limit = 0;
                break;
            }
            terms.take(std::iter::once(player.chance));
            if guesses.get(right) != job.draft.ids().last() {
                break;
            }
            right += 1;
        }
        right
    }
}
