//! Calibrations: what was learnt from labelled outcomes of a pair of models, as an artefact that policies obey. A
//! [`Calibration`] estimates how likely either model is right, and says how much likelier large may be than small so
//! that, with the stated confidence, no more quality is lost against large alone than was allowed; or that routing
//! does not pay.

use contract::{Attempt, Findings, Role, Signals};
use serde::{Deserialize, Serialize};

use crate::artefact::Stated;
use crate::calibrator::{Calibrator, logit};
use crate::heads::{Head, HeadError, ReliabilityBin};

/// What `format` says in a calibration's file.
pub const FORMAT: &str = "tandem-calibration";
/// The version of the file's shape that is written and read here.
pub const VERSION: u32 = 2;

/// Which policy was calibrated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyKind {
    /// The reading decides who answers.
    Route,
    /// Small answers, and its answer decides whether it may leave.
    Cascade,
    /// Both in turn.
    CascadeRoute,
}

impl PolicyKind {
    /// Its name in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            PolicyKind::Route => "route",
            PolicyKind::Cascade => "cascade",
            PolicyKind::CascadeRoute => "cascade-route",
        }
    }

    /// Whether small's answer is judged.
    pub fn judges_answers(self) -> bool {
        self != PolicyKind::Route
    }
}

/// What the confidence in an answer is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// Mean log-probability of the answer's tokens.
    LogprobMean,
    /// The lowest of them.
    LogprobMin,
    /// Mean entropy of the distributions that they were drawn from, nats.
    EntropyMean,
    /// ln(1 + tokens of the answer).
    AnswerTokensLn,
    /// ln(1 + tokens of the prompt).
    PromptTokensLn,
    /// Log-odds of the head's probability.
    HeadLogit,
}

impl Evidence {
    /// All but the head's.
    pub const OF_ANSWER: [Evidence; 5] = [
        Evidence::LogprobMean,
        Evidence::LogprobMin,
        Evidence::EntropyMean,
        Evidence::AnswerTokensLn,
        Evidence::PromptTokensLn,
    ];

    /// Its value; `None` where the backend did not tell what it takes.
    pub fn of(self, seen: &Seen<'_>) -> Option<f64> {
        let signals = seen.signals;
        let value = match self {
            Evidence::LogprobMean => signals.logprob_mean()?,
            Evidence::LogprobMin => signals.logprob_mean().map(|_| signals.logprob_min)?,
            Evidence::EntropyMean => {
                signals.logprob_mean().map(|_| signals.entropy_sum)? / f64::from(signals.tokens)
            }
            Evidence::AnswerTokensLn => f64::from(signals.tokens).ln_1p(),
            Evidence::PromptTokensLn => (seen.prompt_tokens as f64).ln_1p(),
            Evidence::HeadLogit => logit(seen.head?),
        };
        value.is_finite().then_some(value)
    }
}

/// What is known of an answer.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// What its tokens say.
    pub signals: &'a Signals,
    /// Tokens of its prompt.
    pub prompt_tokens: u64,
    /// The head's probability, if there is one.
    pub head: Option<f64>,
}

/// One part of a [`Combination`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weighed {
    /// What.
    pub evidence: Evidence,
    /// Subtracted from it.
    pub mean: f64,
    /// Then it is divided by this; above 0.
    pub scale: f64,
    /// Then weighted.
    pub weight: f64,
    /// What is taken for the evidence at least and at most: the fit knew little beyond.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[f64; 2]>,
}

impl Weighed {
    /// What evidence of this value adds to the log-odds.
    pub(crate) fn adds(&self, value: f64) -> f64 {
        let value = self.range.map_or(value, |[low, high]| value.max(low).min(high));
        (value - self.mean) / self.scale * self.weight
    }
}

/// How likely a model is right, once small has answered: a calibrated logistic regression.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Combination {
    /// Its parts.
    pub parts: Vec<Weighed>,
    /// Added to their sum.
    pub bias: f64,
    /// Makes it a probability.
    pub calibrator: Calibrator,
}

impl Combination {
    /// The sum before calibration; `None` where a part is not known.
    pub fn logit(&self, seen: &Seen<'_>) -> Option<f64> {
        let mut sum = self.bias;
        for part in &self.parts {
            sum += part.adds(part.evidence.of(seen)?);
        }
        sum.is_finite().then_some(sum)
    }

    /// The probability; `None` where a part is not known.
    pub fn probability(&self, seen: &Seen<'_>) -> Option<f64> {
        Some(self.calibrator.probability(self.logit(seen)?))
    }

    fn fault(&self) -> Option<String> {
        let ranges = |part: &Weighed| {
            part.range.is_none_or(|[low, high]| low.is_finite() && high.is_finite() && low <= high)
        };
        let fits = |part: &Weighed| {
            ranges(part)
                && part.mean.is_finite()
                && part.weight.is_finite()
                && part.scale.is_finite()
                && part.scale > 0.0
        };
        if self.parts.is_empty() || !self.parts.iter().all(fits) || !self.bias.is_finite() {
            return Some("a part of the combination is out of range".to_owned());
        }
        self.calibrator.fault()
    }
}

/// How likely both models are right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chances {
    /// That small is.
    pub small: f64,
    /// That large is.
    pub large: f64,
}

impl Chances {
    /// What rows are ordered by, in −1..=1: small's chance minus large's. Calling large gains most where it is least,
    /// and nothing where neither is right.
    pub fn score(&self) -> f64 {
        self.small - self.large
    }
}

/// How likely one model is right; what is absent could not be learnt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Right {
    /// From small's reading.
    pub head: Option<Head>,
    /// From small's answer.
    pub combination: Option<Combination>,
}

/// How likely either model is right.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estimates {
    /// Small.
    pub small: Right,
    /// Large; where it could not be learnt, large is taken to be right.
    pub large: Right,
}

impl Estimates {
    /// All heads.
    pub fn heads(&self) -> impl Iterator<Item = &Head> {
        [&self.small, &self.large].into_iter().filter_map(|right| right.head.as_ref())
    }

    /// By the heads, of which `of` gives the probabilities; `None` where one says nothing.
    pub fn by_reading(&self, of: impl Fn(&Head) -> Option<f64>) -> Option<Chances> {
        let small = of(self.small.head.as_ref()?)?;
        let large = self.large.head.as_ref().map_or(Some(1.0), of)?;
        Some(Chances { small, large })
    }

    /// By small's answer and its prompt's tokens and by the heads; `None` where something is not known.
    pub fn by_answer(&self, answer: (&Signals, u64), of: impl Fn(&Head) -> Option<f64>) -> Option<Chances> {
        self.judged(answer, of, |combination, seen, _| combination.probability(seen))
    }

    /// The same at best: the highest chance of small and the lowest of large that any end of the answer could have.
    pub fn best_by_answer(
        &self,
        answer: (&Signals, u64),
        max_tokens: Option<u32>,
        of: impl Fn(&Head) -> Option<f64>,
    ) -> Option<Chances> {
        self.judged(answer, of, |combination, seen, role| {
            let [lowest, highest] = combination.bounds(seen, max_tokens)?;
            Some(if role == Role::Small { highest } else { lowest })
        })
    }

    fn judged(
        &self,
        (signals, prompt_tokens): (&Signals, u64),
        of: impl Fn(&Head) -> Option<f64>,
        by: impl Fn(&Combination, &Seen<'_>, Role) -> Option<f64>,
    ) -> Option<Chances> {
        let of_role = |right: &Right, role: Role| {
            let head = right.head.as_ref().and_then(&of);
            right.combination.as_ref().map(|sum| by(sum, &Seen { signals, prompt_tokens, head }, role))
        };
        let small = of_role(&self.small, Role::Small)??;
        let large = of_role(&self.large, Role::Large).unwrap_or(Some(1.0))?;
        Some(Chances { small, large })
    }

    /// The heads' part in judging answers: with it every request shows something, also if its answer is given up.
    pub fn judges_by_head(&self) -> bool {
        let sums = [&self.small, &self.large].into_iter().filter_map(|right| right.combination.as_ref());
        sums.flat_map(|sum| &sum.parts).any(|part| part.evidence == Evidence::HeadLogit)
    }
}

/// How much likelier large may be right for a target.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// Most quality that is lost against large alone, with the calibration's confidence.
    pub max_quality_loss: f64,
    /// Least score ([`Chances::score`]) with which small's answer is used; `None`: no such score could be shown to keep
    /// the target, so large answers everything.
    pub score_min: Option<f64>,
    /// `cascade-route`: below this score of the reading, large answers at once; absent: the calibration's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route_below: Option<f64>,
    /// Share of large calls to expect.
    pub large_share: f64,
    /// Cost to expect, US dollars per 1,000 requests.
    pub cost_usd_per_1k: f64,
}

/// One point of the cost–quality curve, on rows that no fit had seen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurvePoint {
    /// Share of large calls.
    pub large_share: f64,
    /// US dollars per 1,000 requests, small's included.
    pub cost_usd_per_1k: f64,
    /// Mean quality.
    pub quality: f64,
    /// Its 95% band.
    pub quality_ci: [f64; 2],
}

/// What a policy does on rows that neither its fit nor its threshold had seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Performance {
    /// Rows.
    pub rows: u64,
    /// Quality of small alone.
    pub quality_small: f64,
    /// Of large alone.
    pub quality_large: f64,
    /// Of the policy.
    pub quality_policy: f64,
    /// Its 95% interval.
    pub quality_policy_ci: [f64; 2],
    /// Share of rows that large answers.
    pub large_share: f64,
    /// US dollars per 1,000 requests.
    pub cost_usd_per_1k: f64,
    /// Of large alone.
    pub cost_large_usd_per_1k: f64,
    /// Quality lost against large alone; below 0, gained.
    pub realised_loss: f64,
    /// Its 95% interval.
    pub realised_loss_ci: [f64; 2],
    /// Quality above random mixing with the same share of large calls.
    pub above_mixing: f64,
    /// Its 95% interval.
    pub above_mixing_ci: [f64; 2],
}

/// How well the scores order rows, on rows that no fit had seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ordering {
    /// Rows.
    pub rows: u64,
    /// Average performance gap recovered; absent where large is not better.
    pub apgr: Option<f64>,
    /// Its 95% interval.
    pub apgr_ci: Option<[f64; 2]>,
    /// Share of large calls that recovers half of the gap.
    pub cpt50: Option<f64>,
    /// Four fifths of it.
    pub cpt80: Option<f64>,
    /// Nineteen twentieths of it.
    pub cpt95: Option<f64>,
    /// Mean height of the cost–quality hull.
    pub aiq: Option<f64>,
    /// AUROC of "small is right".
    pub auroc: Option<f64>,
    /// Its 95% interval.
    pub auroc_ci: [f64; 2],
    /// Expected calibration error of that probability.
    pub ece: f64,
    /// Probabilities beside what happened.
    pub reliability: Vec<ReliabilityBin>,
}

/// Results of a part of the rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    /// Which property, such as `task`.
    pub by: String,
    /// Its value.
    pub value: String,
    /// Rows.
    pub rows: u64,
    /// Quality of small alone.
    pub quality_small: f64,
    /// Of large alone.
    pub quality_large: f64,
    /// Of the policy.
    pub quality_policy: f64,
    /// Share of rows that large answers.
    pub large_share: f64,
}

/// How a signal was distributed over the calibration's rows, for telling when traffic has changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// Which.
    pub signal: Evidence,
    /// At equal steps from the least value to the greatest.
    pub quantiles: Vec<f64>,
}

/// The rows behind a calibration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// sha256 of the file of outcomes.
    pub outcomes_sha256: String,
    /// Decides which row is in which split.
    pub seed: u64,
    /// Rows that heads and combinations were fitted on.
    pub fit: u64,
    /// Rows that thresholds were tested on.
    pub calibration: u64,
    /// Rows for the figures only.
    pub held_out: u64,
    /// Rows that were left out, for only one model had an outcome of them.
    #[serde(default)]
    pub unpaired: u64,
}

/// A calibration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// Which policy.
    pub policy: PolicyKind,
    /// Whether routing pays; if not, `constant` answers everything.
    pub routes: bool,
    /// Why, in words.
    pub why: String,
    /// Who answers where it does not route.
    pub constant: Role,
    /// The small model's name.
    pub small: String,
    /// The large model's name.
    pub large: String,
    /// With which each threshold keeps its target.
    pub confidence: f64,
    /// The target that was asked for.
    pub max_quality_loss: f64,
    /// How likely either model is right.
    pub right: Estimates,
    /// `cascade-route`: below this score of the reading, large answers at once, at the asked target.
    pub route_below: Option<f64>,
    /// By ascending target.
    pub thresholds: Vec<Threshold>,
    /// The cost–quality curve.
    pub curve: Vec<CurvePoint>,
    /// The policy at the asked target.
    pub held_out: Performance,
    /// The order behind it.
    pub ordering: Ordering,
    /// Where it does well and where not.
    pub slices: Vec<Slice>,
    /// What traffic is compared with.
    pub references: Vec<Reference>,
    /// Where it comes from.
    pub data: Data,
}

/// Why a calibration can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CalibrationError {
    /// Not the JSON of a calibration.
    #[error("not a calibration's file: {0}")]
    Json(String),
    /// Another format or version.
    #[error(
        "the file is {format:?} version {version}; this program reads {FORMAT:?} version {VERSION}: run `tandem \
         calibrate` again"
    )]
    Version {
        /// What it says it is.
        format: String,
        /// Its version.
        version: u32,
    },
    /// The parts do not fit together.
    #[error("the calibration is damaged: {0}")]
    Damaged(String),
    /// Its head is wrong.
    #[error("the calibration's head: {0}")]
    Head(#[from] HeadError),
}

impl Calibration {
    /// Reads a calibration's JSON and checks that its parts fit together.
    ///
    /// # Errors
    /// [`CalibrationError`], saying what is wrong.
    pub fn load(text: &str) -> Result<Self, CalibrationError> {
        if let Some(Stated { format, version }) = Stated::other(text, (FORMAT, VERSION)) {
            return Err(CalibrationError::Version { format, version });
        }
        let calibration: Calibration =
            serde_json::from_str(text).map_err(|error| CalibrationError::Json(error.to_string()))?;
        calibration.validate()?;
        Ok(calibration)
    }

    /// Checks what a file may lie about.
    ///
    /// # Errors
    /// [`CalibrationError`].
    pub fn validate(&self) -> Result<(), CalibrationError> {
        if self.format != FORMAT || self.version != VERSION {
            return Err(CalibrationError::Version { format: self.format.clone(), version: self.version });
        }
        self.right.heads().try_for_each(Head::validate)?;
        self.fault().map_or(Ok(()), |fault| Err(CalibrationError::Damaged(fault)))
    }

    fn fault(&self) -> Option<String> {
        let unit = |value: f64| (0.0..=1.0).contains(&value);
        let is_score = |value: f64| (-1.0..=1.0).contains(&value);
        if !unit(self.confidence) || !unit(self.max_quality_loss) || !self.route_below.is_none_or(is_score) {
            return Some("a probability is not in 0..=1, or a score not in -1..=1".to_owned());
        }
        let rise = self.thresholds.windows(2).all(|pair| pair[0].max_quality_loss < pair[1].max_quality_loss);
        let known = |threshold: &Threshold| {
            let scores = [threshold.score_min, threshold.route_below];
            unit(threshold.max_quality_loss) && scores.into_iter().flatten().all(is_score)
        };
        if !rise || !self.thresholds.iter().all(known) {
            return Some("its thresholds are not a rising list of targets".to_owned());
        }
        let Estimates { small, large } = &self.right;
        let combinations = [small, large].into_iter().filter_map(|right| right.combination.as_ref());
        if let Some(fault) = combinations.into_iter().find_map(Combination::fault) {
            return Some(fault);
        }
        let needs_head = self.policy != PolicyKind::Cascade || self.right.judges_by_head();
        if self.routes && needs_head && small.head.is_none() {
            return Some("its policy needs a head, and there is none".to_owned());
        }
        if self.routes && self.policy.judges_answers() && small.combination.is_none() {
            return Some("its policy judges answers, and there is nothing to judge them by".to_owned());
        }
        let sorted = |reference: &Reference| {
            reference.quantiles.len() >= 2 && reference.quantiles.windows(2).all(|pair| pair[0] <= pair[1])
        };
        (!self.references.iter().all(sorted)).then(|| "a signal's quantiles do not rise".to_owned())
    }

    /// The threshold for at most this loss: that of the greatest target within it. `None`: even the least target
    /// allows more, so large answers.
    pub fn threshold(&self, max_quality_loss: f64) -> Option<&Threshold> {
        self.thresholds.iter().rev().find(|threshold| threshold.max_quality_loss <= max_quality_loss + 1e-12)
    }

    /// `cascade-route`: below which score of the reading large answers at once, under a threshold of this table.
    pub fn route_below(&self, threshold: Option<&Threshold>) -> Option<f64> {
        threshold.and_then(|threshold| threshold.route_below).or(self.route_below)
    }

    /// By what the heads found in small's reading.
    pub fn chances_by_reading(&self, findings: Option<&Findings>) -> Option<Chances> {
        self.right.by_reading(|head| found(findings, head))
    }

    /// By small's answer; `None` where the backend did not tell enough.
    pub fn chances_by_answer(&self, attempt: &Attempt) -> Option<Chances> {
        self.right.by_answer(seen(attempt), |head| found(attempt.findings.as_ref(), head))
    }

    /// The best chances that any end of small's answer could have, none of whose scores is higher; `None`: no such
    /// bound is known.
    pub fn best_chances(&self, attempt: &Attempt, max_tokens: Option<u32>) -> Option<Chances> {
        let of = |head: &Head| found(attempt.findings.as_ref(), head);
        self.right.best_by_answer(seen(attempt), max_tokens, of)
    }
}

fn seen(attempt: &Attempt) -> (&Signals, u64) {
    (&attempt.signals, attempt.usage.prompt_tokens)
}

fn found(findings: Option<&Findings>, head: &Head) -> Option<f64> {
    findings?.scores.get(&head.name).copied().filter(|p| (0.0..=1.0).contains(p))
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::heads::testing::head;

    /// A calibration whose heads are called `h` (small is right) and `l` (large is), and whose estimate by small's
    /// answer is the mean token probability and the head's, with large taken to be right.
    pub(crate) fn calibration(policy: PolicyKind) -> Calibration {
        let part = |evidence, weight| Weighed { evidence, mean: 0.0, scale: 1.0, weight, range: None };
        let threshold = |max_quality_loss, score_min| Threshold {
            max_quality_loss,
            score_min,
            route_below: None,
            large_share: 0.5,
            cost_usd_per_1k: 1.0,
        };
        let combination = Combination {
            parts: vec![part(Evidence::LogprobMean, 4.0), part(Evidence::HeadLogit, 0.5)],
            bias: 1.0,
            calibrator: Calibrator::Platt { slope: 1.0, intercept: 0.0 },
        };
        Calibration {
            format: FORMAT.to_owned(),
            version: VERSION,
            policy,
            routes: true,
            why: "it pays".to_owned(),
            constant: Role::Large,
            small: "s".to_owned(),
            large: "l".to_owned(),
            confidence: 0.95,
            max_quality_loss: 0.05,
            right: Estimates {
                small: Right { head: Some(head("h", 3)), combination: Some(combination) },
                large: Right { head: Some(head("l", 3)), combination: None },
            },
            route_below: (policy == PolicyKind::CascadeRoute).then_some(-0.6),
            thresholds: vec![threshold(0.01, None), threshold(0.02, Some(-0.1)), threshold(0.05, Some(-0.3))],
            curve: Vec::new(),
            held_out: Performance::default(),
            ordering: Ordering::default(),
            slices: Vec::new(),
            references: vec![Reference { signal: Evidence::LogprobMean, quantiles: vec![-1.0, 0.0] }],
            data: Data::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::testing::calibration;
    use super::*;

    #[test]
    fn the_threshold_is_that_of_the_greatest_target_within_the_limit() {
        let calibration = calibration(PolicyKind::Cascade);
        let least = |loss| calibration.threshold(loss).map(|threshold| threshold.score_min);
        assert_eq!(least(0.05), Some(Some(-0.3)));
        assert_eq!(least(0.049), Some(Some(-0.1)));
        assert_eq!(least(0.01), Some(None));
        assert_eq!(least(0.0), None);
        assert_eq!(least(1.0), Some(Some(-0.3)));
    }

    #[test]
    fn another_version_is_named_before_what_else_differs() {
        let error = Calibration::load(r#"{"format": "tandem-calibration", "version": 1, "head": {}}"#);
        assert_eq!(error, Err(CalibrationError::Version { format: FORMAT.to_owned(), version: 1 }));
    }

    #[test]
    fn each_way_a_file_can_lie_is_named() {
        let good = calibration(PolicyKind::CascadeRoute);
        assert_eq!(Calibration::load(&serde_json::to_string(&good).unwrap()), Ok(good.clone()));
        let two = |a: f64, b: f64| {
            let row = |loss: f64| {
                json!({"max_quality_loss": loss, "score_min": 0.5, "large_share": 0.0,
                "cost_usd_per_1k": 0.0})
            };
            json!([row(a), row(b)])
        };
        let without = |part: &str| {
            let mut right = serde_json::to_value(&good.right).unwrap();
            right["small"][part] = Value::Null;
            right
        };
        let mut range = serde_json::to_value(&good.right).unwrap();
        range["small"]["combination"]["parts"][0]["range"] = json!([1.0, 0.0]);
        for (key, value, words) in [
            ("version", json!(9), "tandem calibrate"),
            ("confidence", json!(1.5), "0..=1"),
            ("right", without("head"), "needs a head"),
            ("right", without("combination"), "nothing to judge them by"),
            ("route_below", json!(-1.5), "-1..=1"),
            ("thresholds", two(0.05, 0.01), "rising list of targets"),
            ("thresholds", two(0.05, 5.0), "rising list of targets"),
            ("references", json!([{"signal": "logprob_min", "quantiles": [1.0, 0.0]}]), "do not rise"),
            ("policy", json!("guess"), "not a calibration's file"),
            ("right", range, "out of range"),
        ] {
            let mut file = serde_json::to_value(&good).unwrap();
            file[key] = value;
            let error = Calibration::load(&file.to_string()).unwrap_err().to_string();
            assert!(error.contains(words), "{key}: {error}");
        }
    }

    #[test]
    fn the_score_is_what_small_is_likelier_right_by() {
        let estimates = calibration(PolicyKind::Route).right;
        let of = |small: Option<f64>, large: Option<f64>| {
            let chances = estimates.by_reading(|head| if head.name == "h" { small } else { large });
            chances.map(|chances| (chances.small, chances.large, chances.score()))
        };
        assert_eq!(of(Some(0.25), Some(0.75)), Some((0.25, 0.75, -0.5)));
        assert_eq!((of(None, Some(0.75)), of(Some(0.25), None)), (None, None));
        let alone = Estimates { large: Right::default(), ..estimates.clone() };
        assert_eq!(alone.by_reading(|_| Some(0.25)), Some(Chances { small: 0.25, large: 1.0 }));
        assert_eq!((estimates.heads().count(), alone.heads().count()), (2, 1));
    }

    #[test]
    fn what_a_backend_does_not_tell_gives_no_probability() {
        let calibration = calibration(PolicyKind::Cascade);
        let combination = calibration.right.small.combination.unwrap();
        let told = Signals { tokens: 2, logprob_sum: -1.0, logprob_min: -0.8, entropy_sum: 0.5 };
        let seen =
            |signals: &Signals, head| combination.probability(&Seen { signals, prompt_tokens: 9, head });
        // 1 − ½·4 + ½·0
        let expected = crate::calibrator::sigmoid(-1.0);
        assert!((seen(&told, Some(0.5)).unwrap() - expected).abs() < 1e-12);
        assert_eq!(seen(&told, None), None);
        assert_eq!(seen(&Signals::default(), Some(0.5)), None);
        let broken = Signals { logprob_sum: f64::NAN, ..told };
        assert_eq!(seen(&broken, Some(0.5)), None);
    }
}
