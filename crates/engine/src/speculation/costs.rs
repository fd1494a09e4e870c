//! What time is worth: [`StepCosts`], measured, and the [`Terms`] on which tokens are drafted.
//!
//! A step of b tokens takes v(b) milliseconds; of the g tokens drafted in it, those up to the first wrong
//! one count. With draft costs d the rate is (1 + E accepted) / (v(1 + g) + d) (Leviathan et al. 2023, with
//! v = 1). To maximise such a ratio of sums over many steps, maximise gain − rate · cost in each of them,
//! at the rate that this itself leads to (Dinkelbach 1967): so a token is worth drafting if the chance that
//! it counts is higher than what its time would yield otherwise.

/// Steps of more tokens are extrapolated.
const COLUMNS_MAX: usize = 24;
/// Weight of a step in the running mean of how fast the machine is.
const NEWEST_SPEED: f64 = 0.1;
/// Its weight in the running mean of steps as wide, beside that: small, for the machine changes more often than what
/// one width takes beside another.
const NEWEST_WIDTH: f64 = 0.03;
/// A step that took so many times what was expected was interrupted: it counts as no more than this.
const OUTLIER: f64 = 2.0;
/// Time that is remembered of how much drafting gains, in steps without drafts.
const GAIN_MEMORY: f64 = 64.0;
/// Of that, what everybody's gain counts as in a job's own.
const GAIN_EXPECTED: f64 = 2.0;

/// How long steps of one model take, by the tokens in them.
#[derive(Clone, Debug)]
pub struct StepCosts {
    /// Milliseconds of steps of 1, 2, … tokens, while the machine is as fast as it was when they were measured; empty
    /// as long as nothing was.
    ms: Vec<f64>,
    /// How many times as long they take now.
    slowness: f64,
}

impl Default for StepCosts {
    fn default() -> Self {
        StepCosts { ms: Vec::new(), slowness: 1.0 }
    }
}

impl StepCosts {
    /// Widths worth measuring: the kernels' tiles make steps between them.
    pub const MEASURED: [usize; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, COLUMNS_MAX];
    /// How often to measure each, in turn: whatever else a machine does makes steps longer, never shorter, and does so for
    /// a while.
    pub const ROUNDS: usize = 4;

    /// Of measured steps: tokens and milliseconds, in any order; the fastest of each width counts, and so do wider ones
    /// that were faster still.
    pub fn measured(points: &[(usize, f64)]) -> Self {
        let mut points = points.to_vec();
        points.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        points.dedup_by_key(|&mut (columns, _)| columns);
        for at in (1..points.len()).rev() {
            points[at - 1].1 = points[at - 1].1.min(points[at].1);
        }
        let mut ms = Vec::with_capacity(COLUMNS_MAX);
        for pair in points.windows(2) {
            let ((from, at_from), (to, at_to)) = (pair[0], pair[1]);
            let slope = (at_to - at_from) / (to - from) as f64;
            ms.extend((0..to - from).map(|more| at_from + slope * more as f64));
        }
        ms.extend(points.last().map(|&(_, last)| last));
        StepCosts { ms, ..StepCosts::default() }
    }

    /// Steps that take no time, whatever happens: all that may be drafted is.
    pub fn free() -> Self {
        StepCosts { ms: vec![0.0], ..StepCosts::default() }
    }

    /// Whether anything is known.
    pub fn is_known(&self) -> bool {
        !self.ms.is_empty()
    }

    /// Milliseconds of a step of `columns` tokens; 0 while nothing is known.
    pub fn at(&self, columns: usize) -> f64 {
        let Some(&last) = self.ms.last() else { return 0.0 };
        let ms = match self.ms.get(columns.max(1) - 1) {
            Some(&ms) => ms,
            // Beyond, arithmetic is what takes time.
            None => last * columns as f64 / self.ms.len() as f64,
        };
        ms * self.slowness
    }

    /// How many times as long a step of `columns` tokens takes as one of `others`; 1 while nothing is known.
    pub fn ratio(&self, columns: usize, others: usize) -> f64 {
        let (ms, others_ms) = (self.at(columns), self.at(others));
        if ms > 0.0 && others_ms > 0.0 { ms / others_ms } else { 1.0 }
    }

    /// Takes a step in.
    pub fn note(&mut self, columns: usize, took_ms: f64) {
        let expected = self.at(columns);
        if expected <= 0.0 {
            return;
        }
        let change = (took_ms / expected).min(OUTLIER) - 1.0;
        self.slowness *= 1.0 + NEWEST_SPEED * change;
        if let Some(ms) = self.ms.get_mut(columns.max(1) - 1) {
            *ms *= 1.0 + NEWEST_WIDTH * change;
        }
    }
}

/// How much faster drafting makes writing, of late: a job's, or everybody's.
///
/// An answer has as many tokens however they are drafted, so each is soonest done at the rate that is its own: a text that
/// can be copied must not make drafts for the next one, which can't, seem not worth their time.
#[derive(Clone, Copy, Debug)]
pub struct Gain {
    tokens: f64,
    /// What they took, in steps without drafts.
    time: f64,
}

impl Default for Gain {
    fn default() -> Self {
        Gain { tokens: 1.0, time: 1.0 }
    }
}

impl Gain {
    /// Of a new job, where this is everybody's.
    #[must_use]
    pub fn of_job(&self) -> Self {
        Gain { tokens: GAIN_EXPECTED * self.factor(), time: GAIN_EXPECTED }
    }

    /// Takes a step in: the tokens it gave and the time it took, both relative to a step of the same jobs
    /// without drafts.
    pub fn note(&mut self, tokens: f64, time: f64) {
        let kept = ((GAIN_MEMORY - time) / self.time).clamp(0.0, 1.0);
        self.tokens = self.tokens * kept + tokens;
        self.time = self.time * kept + time;
    }

    /// The factor, at least 1: what loses is not done for long.
    pub fn factor(&self) -> f64 {
        (self.tokens / self.time).max(1.0)
    }
}

/// What one step offers to drafters. Amounts are in expected tokens.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    costs: &'a StepCosts,
    tokens_per_ms: f64,
    writers: usize,
    /// Tokens that the step has already.
    columns: usize,
    /// Drafted tokens that still have room.
    room: usize,
    /// Of the drafted ones, those that should be right.
    expected_tokens: f64,
    /// What drafting them should have taken.
    draft_ms: f64,
}

impl<'a> Terms<'a> {
    /// Terms of a step in which `writers` jobs write, by drafts so many times as fast as without, and `reading` tokens
    /// of prompts are read.
    pub fn new(costs: &'a StepCosts, gain: f64, (writers, reading): (usize, usize), room: usize) -> Self {
        let plain = costs.at(writers);
        let tokens_per_ms = if plain > 0.0 { gain * writers as f64 / plain } else { 0.0 };
        Terms {
            costs,
            tokens_per_ms,
            writers,
            columns: writers + reading,
            room,
            expected_tokens: 0.0,
            draft_ms: 0.0,
        }
    }

    /// Jobs that write.
    pub fn writers(&self) -> usize {
        self.writers
    }

    /// What milliseconds would yield otherwise.
    pub fn time(&self, ms: f64) -> f64 {
        self.tokens_per_ms * ms
    }

    /// What verifying `more` tokens costs.
    pub fn price(&self, more: usize) -> f64 {
        let longer = self.costs.at(self.columns + more) - self.costs.at(self.columns);
        self.time(longer.max(0.0))
    }

    /// Tokens that may still be drafted.
    pub fn room(&self) -> usize {
        self.room
    }

    /// Takes room for drafted tokens, given the chance of each that it and all before it are right.
    pub fn take(&mut self, chances: impl Iterator<Item = f64>) {
        for chance in chances {
            self.columns += 1;
            self.room = self.room.saturating_sub(1);
            self.expected_tokens += chance;
        }
    }

    /// Counts the time that a draft should take.
    pub fn spend(&mut self, ms: f64) {
        self.draft_ms += ms;
    }

    /// Tokens that the step should write, and milliseconds that it should take.
    pub fn expected(&self) -> (f64, f64) {
        (self.writers as f64 + self.expected_tokens, self.costs.at(self.columns) + self.draft_ms)
    }

    /// The draft length with the highest expected gain, and that gain; `chances`: of each token, that it and
    /// all before it are right; `ms_each`: what drafting one takes. (0, 0) if none gains.
    pub fn best_length(&self, chances: impl Iterator<Item = f64>, ms_each: f64) -> (usize, f64) {
        let (mut best, mut expected) = ((0, 0.0), 0.0);
        for (index, chance) in chances.take(self.room).enumerate() {
            expected += chance;
            let tokens = index + 1;
            let gain = expected - self.price(tokens) - self.time(ms_each * tokens as f64);
            if gain > best.1 {
                best = (tokens, gain);
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(slope: f64) -> StepCosts {
        let at = |columns: usize| 20.0 * (1.0 + slope * (columns - 1) as f64);
        StepCosts::measured(&StepCosts::MEASURED.map(|columns| (columns, at(columns))))
    }

    #[test]
    fn costs_pass_through_what_was_measured_and_are_extrapolated() {
        let costs = StepCosts::measured(&[(1, 10.0), (2, 10.0), (4, 14.0)]);
        let at: Vec<f64> = (1..=6).map(|columns| costs.at(columns)).collect();
        assert_eq!(at, [10.0, 10.0, 12.0, 14.0, 17.5, 21.0]);
        assert_eq!((costs.ratio(6, 4), costs.ratio(4, 4)), (1.5, 1.0));
        assert_eq!((StepCosts::default().at(3), StepCosts::default().ratio(3, 1)), (0.0, 1.0));
    }

    #[test]
    fn the_fastest_of_each_width_counts_and_no_width_takes_longer_than_a_wider_one() {
        let costs = StepCosts::measured(&[(4, 14.0), (1, 20.0), (2, 17.0), (1, 10.0), (2, 30.0), (4, 14.5)]);
        let at: Vec<f64> = (1..=4).map(|columns| costs.at(columns)).collect();
        assert_eq!(at, [10.0, 14.0, 14.0, 14.0]);
    }

    #[test]
    fn costs_follow_the_machine() {
        let mut costs = costs(0.1);
        // It has become twice as slow: whatever is seen of it, all else has.
        for _ in 0..60 {
            costs.note(4, 52.0);
        }
        assert!((costs.at(4) - 52.0).abs() < 0.1);
        assert!(costs.at(1) > 30.0 && costs.at(8) > 50.0, "{} {}", costs.at(1), costs.at(8));
        // What is wrong about one width is seen by the others.
        for _ in 0..400 {
            costs.note(4, 52.0);
            for columns in [1, 2, 3, 5] {
                costs.note(columns, 20.0 * (1.0 + 0.1 * (columns - 1) as f64));
            }
        }
        assert!((costs.at(4) - 52.0).abs() < 2.0 && (costs.at(1) - 20.0).abs() < 1.5, "{costs:?}");
        assert!((costs.at(8) - 34.0).abs() < 6.0, "not seen at all: {costs:?}");
        let before = costs.at(4);
        costs.note(4, 1e9);
        assert!(costs.at(4) <= before * 1.14, "an interrupted step counts little");
        let mut unknown = StepCosts::default();
        unknown.note(1, 5.0);
        assert!(!unknown.is_known());
        let mut free = StepCosts::free();
        free.note(1, 5.0);
        assert!(free.is_known() && free.at(1) == 0.0 && free.at(9) == 0.0);
    }

    /// Best draft lengths and speed-ups of the formula, from Leviathan et al. 2023 and with a step that
    /// grows by a tenth a token; found here by the terms at the rate they lead to.
    #[test]
    fn best_lengths_are_the_formulas() {
        for (accepted, draft_cost, slope, length, speedup) in [
            (0.8, 0.1, 0.0, 6, 2.47),
            (0.7, 0.1, 0.0, 4, 1.98),
            (0.6, 0.2, 0.0, 2, 1.40),
            (0.8, 0.1, 0.1, 4, 1.87),
            (0.7, 0.1, 0.1, 3, 1.58),
            (0.6, 0.2, 0.1, 1, 1.23),
        ] {
            let costs = costs(slope);
            let mut gain = Gain::default();
            let mut best = 0;
            for _ in 0..2000 {
                let terms = Terms::new(&costs, gain.factor(), (1, 0), 20);
                let chances = (1..).map(|place| f64::powi(accepted, place));
                best = terms.best_length(chances, 20.0 * draft_cost).0;
                let expected = (1.0 - f64::powi(accepted, best as i32 + 1)) / (1.0 - accepted);
                gain.note(expected, costs.at(1 + best) / costs.at(1) + draft_cost * best as f64);
            }
            assert_eq!(best, length);
            assert!((gain.factor() - speedup).abs() < 0.02, "{} for {speedup}", gain.factor());
        }
    }

    #[test]
    fn what_does_not_pay_is_not_drafted() {
        let costs = costs(0.1);
        let gain = Gain::default();
        let mut terms = Terms::new(&costs, gain.factor(), (1, 0), 20);
        assert_eq!(terms.best_length([0.05, 0.01].into_iter(), 0.0), (0, 0.0));
        assert_eq!(terms.best_length([0.5].into_iter(), 20.0).0, 0);
        assert_eq!(terms.best_length([0.9; 30].into_iter(), 0.0).0, 20, "the room is a limit");
        terms.take([0.5; 18].into_iter());
        assert!((terms.expected().0 - 10.0).abs() < 1e-9);
        assert_eq!(terms.best_length([0.9; 30].into_iter(), 0.0).0, 2);
        let unknown = StepCosts::default();
        assert_eq!(Terms::new(&unknown, gain.factor(), (1, 0), 4).price(3), 0.0);
    }
}
