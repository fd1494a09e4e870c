//! `tandem replay`: what another policy would have done with recorded requests, decided by the policy's own code.
//!
//! A policy is walked over what the ledger has: the small model's reading, and the attempts of each role. Where it
//! calls a role that was not called then, the call is *estimated*: it costs what the ledger says, and nobody knows how
//! good it is. Where it would judge an answer that was never written, the request is *undecided* and left out of both
//! columns; so both always cover the same requests.

use std::collections::BTreeMap;
use std::fmt::Write;

use contract::{
    Attempt, AttemptStatus, Check, FinishReason, Policy, Price, Role, Signals, Step, Timings, Usage,
};
use ledger::{RequestRow, StoredRequest};
use policy::Calibration;
use serde::Serialize;

/// Decisions for one request, at most: a policy that takes more is undecided.
const STEPS_MAX: usize = 16;

/// What a column adds up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Column {
    /// Requests that small answered.
    pub small: u64,
    /// That large answered at once.
    pub large: u64,
    /// That large answered after small.
    pub escalated: u64,
    /// That were refused.
    pub refused: u64,
    /// Cost of all attempts, US dollars.
    pub cost_usd: f64,
    /// Saved against always calling large, US dollars; negative: it cost more.
    pub saved_usd: f64,
    /// Answers with feedback; in the replay, only those that stay the same answers.
    pub feedback_requests: u64,
    /// Their mean score, 0..=1.
    pub feedback_mean: Option<f64>,
}

impl Column {
    fn add(&mut self, (route, cost_usd, saved_usd): (Went, f64, f64), score: Option<f64>) {
        *match route {
            Went::Small => &mut self.small,
            Went::Large => &mut self.large,
            Went::Escalated => &mut self.escalated,
            Went::Refused => &mut self.refused,
        } += 1;
        self.cost_usd += cost_usd;
        self.saved_usd += saved_usd;
        if let Some(score) = score {
            let before = self.feedback_mean.unwrap_or_default() * self.feedback_requests as f64;
            self.feedback_requests += 1;
            self.feedback_mean = Some((before + score) / self.feedback_requests as f64);
        }
    }

    fn requests(&self) -> u64 {
        self.small + self.large + self.escalated + self.refused
    }

    /// Share of requests that large was called for.
    fn large_share(&self) -> Option<f64> {
        let requests = self.requests();
        (requests > 0).then(|| (self.large + self.escalated) as f64 / requests as f64)
    }
}

/// How a request went, by the names of the ledger's routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Went {
    Small,
    Large,
    Escalated,
    Refused,
}

impl Went {
    fn as_str(self) -> &'static str {
        match self {
            Went::Small => "small",
            Went::Large => "large",
            Went::Escalated => "escalated",
            Went::Refused => "refused",
        }
    }

    /// As the gateway names it: large after any attempt of small is an escalation, unless small only read.
    fn to(attempts: &[Attempt], answered: Option<usize>) -> Self {
        match answered.and_then(|index| attempts.get(index)) {
            None => Went::Refused,
            Some(answer) if answer.role == Role::Small => Went::Small,
            Some(_) => {
                let wrote =
                    |attempt: &Attempt| attempt.role == Role::Small && attempt.status != AttemptStatus::Read;
                if attempts.iter().any(wrote) { Went::Escalated } else { Went::Large }
            }
        }
    }
}

/// Requests that go another way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// How they went.
    pub recorded: &'static str,
    /// How they would go.
    pub replayed: &'static str,
    /// How many.
    pub requests: u64,
}

/// Two policies over the same requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Comparison {
    /// Requests in the ledger.
    pub requests: u64,
    /// Of these, without an answer then: what failed says nothing about a policy.
    pub unanswered: u64,
    /// That the other policy can't be asked about: it would judge what was never written or read.
    pub undecided: u64,
    /// Decided, with a call that was not made then.
    pub estimated: u64,
    /// Whose text the ledger did not keep: rules that look at it do not see it.
    pub without_text: u64,
    /// Decided requests that go another way.
    pub differ: u64,
    /// Which ways.
    pub changes: Vec<Change>,
    /// What was, over decided requests.
    pub recorded: Column,
    /// What would have been.
    pub replayed: Column,
    /// The quality, 0..=1, that the policy's calibration has at the replay's share of large calls.
    pub calibrated_quality: Option<f64>,
}

/// Goes over a ledger request by request.
pub struct Replay<'a> {
    policy: &'a dyn Policy,
    /// What calls of small cost that were not made then.
    small: Price,
    changes: BTreeMap<(Went, Went), u64>,
    comparison: Comparison,
}

impl<'a> Replay<'a> {
    /// A replay by `policy`, with what small's tokens cost.
    pub fn new(policy: &'a dyn Policy, small: Price) -> Self {
        Replay { policy, small, changes: BTreeMap::new(), comparison: Comparison::default() }
    }

    /// Takes one more request in.
    pub fn add(&mut self, stored: &StoredRequest) {
        let row = &stored.row;
        let sums = &mut self.comparison;
        sums.requests += 1;
        let Some(answer) = row.answered.and_then(|index| row.attempts.get(index)) else {
            sums.unanswered += 1;
            return;
        };
        sums.without_text += u64::from(row.request.text().is_empty());
        let Some(walked) = (Walk { row, small: &self.small }).through(self.policy) else {
            sums.undecided += 1;
            return;
        };
        let scores: Vec<f64> = stored.feedback.iter().map(|feedback| feedback.score).collect();
        let score = (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64);
        let was = Went::to(&row.attempts, row.answered);
        let answered_by = walked.answered.and_then(|index| walked.attempts.get(index)).map(|it| it.role);
        let is = Went::to(&walked.attempts, walked.answered);
        let cost_usd: f64 = walked.attempts.iter().map(|attempt| attempt.cost_usd).sum();
        sums.recorded.add((was, row.cost_usd, row.saved_usd), score);
        let stays = answered_by == Some(answer.role);
        let replayed = (is, cost_usd, always_large_usd(row) - cost_usd);
        sums.replayed.add(replayed, score.filter(|_| stays));
        sums.estimated += u64::from(walked.is_estimated);
        if was != is {
            sums.differ += 1;
            *self.changes.entry((was, is)).or_default() += 1;
        }
    }

    /// The sums; `calibration` is the policy's, if it has one.
    pub fn finish(self, calibration: Option<&Calibration>) -> Comparison {
        let changes = self.changes.into_iter().map(|((was, is), requests)| Change {
            recorded: was.as_str(),
            replayed: is.as_str(),
            requests,
        });
        let share = self.comparison.replayed.large_share();
        let quality = calibration.zip(share).and_then(|(calibration, share)| quality_at(calibration, share));
        Comparison { changes: changes.collect(), calibrated_quality: quality, ..self.comparison }
    }
}

/// What large alone would have cost: it does not depend on the policy.
fn always_large_usd(row: &RequestRow) -> f64 {
    row.cost_usd + row.saved_usd
}

/// The calibration's curve at a share of large calls, by straight lines between its points.
fn quality_at(calibration: &Calibration, share: f64) -> Option<f64> {
    let mut points: Vec<(f64, f64)> =
        calibration.curve.iter().map(|point| (point.large_share, point.quality)).collect();
    points.sort_by(|one, other| one.0.total_cmp(&other.0));
    let after = points.iter().position(|point| point.0 >= share)?;
    let (right, right_quality) = points[after];
    let Some(&(left, left_quality)) = after.checked_sub(1).and_then(|before| points.get(before)) else {
        return (right == share).then_some(right_quality);
    };
    Some(left_quality + (right_quality - left_quality) * (share - left) / (right - left))
}

/// One recorded request, as the backends of a replay.
struct Walk<'a> {
    row: &'a RequestRow,
    small: &'a Price,
}

/// Where a policy came to.
struct Walked {
    attempts: Vec<Attempt>,
    answered: Option<usize>,
    is_estimated: bool,
}

impl Walk<'_> {
    /// Asks the policy until it is done; `None`: it wants to see what nobody knows.
    fn through(&self, policy: &dyn Policy) -> Option<Walked> {
        let mut walked = Walked { attempts: Vec::new(), answered: None, is_estimated: false };
        for _ in 0..STEPS_MAX {
            match policy.next(&self.row.request, &walked.attempts).step {
                Step::Read => walked.attempts.push(self.reading()?),
                Step::Call { role, check } => {
                    self.call((role, check), &mut walked)?;
                    let last = walked.attempts.last()?;
                    if check == Check::Never && matches!(last.status, AttemptStatus::Finished(_)) {
                        walked.answered = Some(walked.attempts.len() - 1);
                        return Some(walked);
                    }
                }
                Step::Answer { attempt } => {
                    self.complete(attempt, &mut walked)?;
                    walked.answered = Some(attempt);
                    return Some(walked);
                }
                // What would have followed nobody knows.
                Step::Hold => return None,
                Step::Refuse(_) => return Some(walked),
            }
        }
        None
    }

    /// Small's reading as it was before anything was written.
    fn reading(&self) -> Option<Attempt> {
        let small = |attempt: &&Attempt| attempt.role == Role::Small && attempt.findings.is_some();
        let read = self.row.attempts.iter().find(small)?;
        let prompt_tokens = read.findings.as_ref().map_or(0, |findings| findings.read_tokens);
        let usage = Usage { prompt_tokens, ..Usage::default() };
        Some(Attempt {
            status: AttemptStatus::Read,
            text: String::new(),
            signals: Signals::default(),
            usage,
            timings: Timings::default(),
            cost_usd: self.small.cost_usd(&usage),
            ..read.clone()
        })
    }

    /// Puts what became of a call behind the attempts; one that was only read goes on.
    fn call(&self, (role, check): (Role, Check), walked: &mut Walked) -> Option<()> {
        let read = walked.attempts.pop_if(|last| last.role == role && last.status == AttemptStatus::Read);
        let running = walked.attempts.iter_mut().filter(|attempt| attempt.status == AttemptStatus::Partial);
        running.for_each(|attempt| attempt.status = AttemptStatus::Cancelled);
        let attempts: Vec<&Attempt> = self.row.attempts.iter().filter(|it| it.role == role).collect();
        let last_of = |fits: fn(&AttemptStatus) -> bool| {
            attempts.iter().rev().find(|attempt| fits(&attempt.status)).copied()
        };
        let known = last_of(|status| matches!(status, AttemptStatus::Finished(_)))
            .or_else(|| last_of(|status| matches!(status, AttemptStatus::Failed(_))));
        let begun = last_of(|status| matches!(status, AttemptStatus::Cancelled | AttemptStatus::Partial));
        // Signals are only asked for where an answer is judged: without them nobody knows how it would be.
        let tells = |known: &Attempt| check == Check::Never || known.signals.tokens > 0;
        let mut attempt = match (known, begun, check) {
            (Some(known), ..) if !matches!(known.status, AttemptStatus::Finished(_)) || tells(known) => {
                known.clone()
            }
            // Cut off when it was judged then: enough is there for a window that is not longer.
            (None, Some(begun), Check::AfterTokens(tokens)) if begun.signals.tokens >= tokens => {
                Attempt { status: AttemptStatus::Partial, ..begun.clone() }
            }
            // Given up then: a policy that would not have been sure by now is undecided.
            (None, Some(begun), Check::Every(_)) => {
                Attempt { status: AttemptStatus::Partial, ..begun.clone() }
            }
            (None, _, Check::Never) => {
                walked.is_estimated = true;
                self.estimate(role)?
            }
            _ => return None,
        };
        attempt.findings = attempt.findings.or_else(|| read.and_then(|read| read.findings));
        walked.attempts.push(attempt);
        Some(())
    }

    /// An attempt that is answered with although it was cut off then is estimated to its end.
    fn complete(&self, index: usize, walked: &mut Walked) -> Option<()> {
        let attempt = walked.attempts.get_mut(index)?;
        if attempt.status == AttemptStatus::Partial {
            let findings = attempt.findings.take();
            *attempt = Attempt { findings, ..self.estimate(attempt.role)? };
            walked.is_estimated = true;
        }
        Some(())
    }

    /// A call that was not made: as many tokens as the answer that was given, with nothing known of them.
    fn estimate(&self, role: Role) -> Option<Attempt> {
        let answer = self.row.attempts.get(self.row.answered?)?;
        let usage = Usage {
            prompt_tokens: answer.usage.prompt_tokens,
            completion_tokens: answer.usage.completion_tokens,
            ..Usage::default()
        };
        let cost_usd = match role {
            Role::Small => self.small.cost_usd(&usage),
            Role::Large => always_large_usd(self.row),
        };
        Some(Attempt {
            role,
            model: String::new(),
            status: AttemptStatus::Finished(FinishReason::Stop),
            findings: None,
            text: String::new(),
            signals: Signals::default(),
            usage,
            timings: Timings::default(),
            cost_usd,
        })
    }
}

/// The comparison for a terminal: both policies side by side, then who changes sides.
pub fn table(comparison: &Comparison) -> String {
    let mut text = String::new();
    let (was, is) = (&comparison.recorded, &comparison.replayed);
    let share = |count: u64, column: &Column| match column.requests() {
        0 => "0".to_owned(),
        requests => format!("{count} ({:.1}%)", 100.0 * count as f64 / requests as f64),
    };
    let score = |column: &Column| {
        column
            .feedback_mean
            .map_or("-".to_owned(), |mean| format!("{mean:.2} over {}", column.feedback_requests))
    };
    let quality = comparison.calibrated_quality.map_or("-".to_owned(), |quality| format!("{quality:.3}"));
    let rows = [
        ("", "recorded".to_owned(), "replayed".to_owned()),
        ("requests", was.requests().to_string(), is.requests().to_string()),
        ("small", share(was.small, was), share(is.small, is)),
        ("large", share(was.large, was), share(is.large, is)),
        ("escalated", share(was.escalated, was), share(is.escalated, is)),
        ("refused", share(was.refused, was), share(is.refused, is)),
        ("cost", format!("${:.6}", was.cost_usd), format!("${:.6}", is.cost_usd)),
        ("saved", format!("${:.6}", was.saved_usd), format!("${:.6}", is.saved_usd)),
        ("feedback", score(was), score(is)),
        ("calibrated quality", "-".to_owned(), quality),
    ];
    for (name, was, is) in rows {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{name:<18}  {was:>18}  {is:>18}");
    }
    let Comparison { requests, unanswered, undecided, estimated, without_text, differ, .. } = comparison;
    let _ = writeln!(
        text,
        "\n{requests} requests: {differ} go another way, {estimated} with a call that is estimated; left out: \
         {undecided} undecided (what the policy would judge was not recorded), {unanswered} without an answer"
    );
    if *without_text > 0 {
        let _ = writeln!(
            text,
            "{without_text} were kept without their text (ledger.keep_text): rules that look at it can't be replayed"
        );
    }
    for change in &comparison.changes {
        let _ = writeln!(text, "{} → {}: {}", change.recorded, change.replayed, change.requests);
    }
    text
}

#[cfg(test)]
mod tests {
    use contract::{Input, Request};
    use ledger::Feedback;
    use policy::PolicySettings;

    use super::*;

    fn attempt(role: Role, status: AttemptStatus, probability: f64) -> Attempt {
        let tokens = 30u32;
        let logprob = probability.ln();
        Attempt {
            role,
            model: role.as_str().to_owned(),
            status,
            findings: None,
            text: String::new(),
            signals: Signals {
                tokens,
                logprob_sum: logprob * f64::from(tokens),
                logprob_min: logprob,
                entropy_sum: 0.0,
            },
            usage: Usage { prompt_tokens: 100, completion_tokens: 30, ..Usage::default() },
            timings: Timings::default(),
            cost_usd: if role == Role::Small { 1.0 } else { 10.0 },
        }
    }

    fn stored(attempts: Vec<Attempt>, answered: Option<usize>, score: Option<f64>) -> StoredRequest {
        let request = Request::new("1", Input::Completion { prompt: "Once".to_owned() });
        let cost_usd: f64 = attempts.iter().map(|attempt| attempt.cost_usd).sum();
        let row = RequestRow {
            id: "1".to_owned(),
            arrived_unix_ms: 0,
            tenant: None,
            request,
            policy: "cascade".to_owned(),
            route: Went::to(&attempts, answered).as_str().to_owned(),
            status: 200,
            error: None,
            client_gone: false,
            attempts,
            decisions: Vec::new(),
            answered,
            confidence: None,
            cost_usd,
            saved_usd: 10.0 - cost_usd,
            guards: Vec::new(),
            overhead_ms: 0.0,
            first_token_ms: None,
            total_ms: 0.0,
        };
        let feedback = score.map(|score| Feedback { given_unix_ms: 0, score, comment: None });
        StoredRequest {
            row,
            prompt_sha256: None,
            answers_sha256: Vec::new(),
            feedback: feedback.into_iter().collect(),
        }
    }

    /// Small answers surely; small was unsure and large answered; large answered alone; nobody answered.
    fn traffic() -> Vec<StoredRequest> {
        let done = || AttemptStatus::Finished(FinishReason::Stop);
        let (small, large) = (|p| attempt(Role::Small, done(), p), || attempt(Role::Large, done(), 0.9));
        vec![
            stored(vec![small(0.95)], Some(0), Some(1.0)),
            stored(vec![small(0.5), large()], Some(1), Some(0.5)),
            stored(vec![large()], Some(0), None),
            stored(Vec::new(), None, None),
        ]
    }

    fn replay(kind: &str, confidence_min: f64) -> Comparison {
        let settings = PolicySettings { kind: kind.to_owned(), confidence_min, ..PolicySettings::default() };
        let policy = policy::build(&settings).unwrap();
        let price = Price { output_usd_per_mtok: 1e5, ..Price::default() };
        let mut replay = Replay::new(policy.as_ref(), price);
        traffic().iter().for_each(|stored| replay.add(stored));
        replay.finish(None)
    }

    #[test]
    fn the_policy_that_was_changes_nothing_where_it_knows_all() {
        let found = replay("cascade", 0.8);
        assert_eq!((found.requests, found.unanswered, found.undecided, found.differ), (4, 1, 1, 0));
        assert_eq!(found.recorded, found.replayed);
        assert_eq!((found.replayed.small, found.replayed.escalated), (1, 1));
        assert_eq!(found.replayed.feedback_mean, Some(0.75));
    }

    #[test]
    fn a_lower_threshold_keeps_the_small_answer_that_was_recorded() {
        let found = replay("cascade", 0.3);
        assert_eq!((found.replayed.small, found.estimated, found.differ), (2, 0, 1));
        assert_eq!(found.changes, [Change { recorded: "escalated", replayed: "small", requests: 1 }]);
        assert_eq!((found.recorded.cost_usd, found.replayed.cost_usd), (12.0, 2.0));
        assert_eq!((found.recorded.saved_usd, found.replayed.saved_usd), (8.0, 18.0));
        // What large's answer got says nothing about small's.
        assert_eq!((found.recorded.feedback_requests, found.replayed.feedback_requests), (2, 1));
    }

    #[test]
    fn calls_that_were_not_made_are_estimated() {
        let large = replay("large", 0.8);
        assert_eq!((large.replayed.large, large.estimated, large.differ), (3, 1, 2));
        assert_eq!((large.replayed.cost_usd, large.replayed.saved_usd), (30.0, 0.0));
        let small = replay("small", 0.8);
        assert_eq!((small.replayed.small, small.estimated), (3, 1));
        // Two recorded answers of a dollar, and 30 tokens at ten cents.
        assert!((small.replayed.cost_usd - 5.0).abs() < 1e-9, "{}", small.replayed.cost_usd);
        let text = table(&large);
        assert!(text.contains("small → large: 1") && text.contains("escalated → large: 1"), "{text}");
    }

    #[test]
    fn an_answer_whose_signals_nobody_asked_for_is_undecided() {
        let policy = policy::build(&PolicySettings::default()).unwrap();
        let mut mute = attempt(Role::Small, AttemptStatus::Finished(FinishReason::Stop), 0.9);
        mute.signals = Signals::default();
        let mut replay = Replay::new(policy.as_ref(), Price::default());
        replay.add(&stored(vec![mute], Some(0), None));
        assert_eq!(replay.finish(None).undecided, 1);
    }
}
