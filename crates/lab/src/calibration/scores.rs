//! Two probabilities of what a [`Question`] asks: by small's reading (a head), and by its answer (a combination). Both
//! are fitted on one split and cross-fitted within it, so that what is fitted on top of them sees honest scores.

use policy::Head;
use policy::calibration::{Combination, Evidence, PolicyKind, Seen, SmallRight, Weighed};
use policy::calibrator::logit;
use policy::heads::HeadModel;

use super::pairs::Pair;
use crate::fit::calibrate;
use crate::fit::folds::folds;
use crate::fit::lbfgs::Stop;
use crate::fit::logistic::{self, Linear, Task};
use crate::fit::matrix::Matrix;
use crate::heads::{Rows, TrainSettings, train};

/// Folds within the split.
const FOLDS: usize = 5;
/// Strength of the combination's penalty: its parts are few.
const STRENGTH: f64 = 1e-3;
/// Share of rows whose answers must have signals for a combination to be fitted.
const SIGNALS_SHARE_MIN: f64 = 0.9;

/// What is asked of small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether its answer is right.
    IsRight,
    /// Whether large would not do better: then calling it gains nothing. What neither can answer is no reason to pay
    /// for large, so requests are routed by this.
    Suffices,
}

impl Question {
    /// What rows are to be routed by: where large hardly ever gains, only whether small is right can be learnt.
    pub fn to_route_by(pairs: &[&Pair]) -> Self {
        let suffices = pairs.iter().filter(|pair| Question::Suffices.label(pair)).count();
        let gains = pairs.len() - suffices;
        if suffices.min(gains) >= crate::heads::train::ROWS_MIN {
            Question::Suffices
        } else {
            Question::IsRight
        }
    }

    /// The name of its head in findings.
    pub fn head_name(self) -> &'static str {
        match self {
            Question::IsRight => "small-is-right",
            Question::Suffices => "small-suffices",
        }
    }

    /// The answer for a row.
    pub fn label(self, pair: &Pair) -> bool {
        match self {
            Question::IsRight => pair.small_correct,
            Question::Suffices => pair.small_correct || !pair.large_correct,
        }
    }
}

/// What was fitted.
#[derive(Clone, Debug, Default)]
pub struct Fitted {
    /// By the reading.
    pub head: Option<Head>,
    /// By the answer.
    pub combination: Option<Combination>,
    /// What could not be fitted, and why.
    pub notes: Vec<String>,
}

/// A row's probabilities of one question; `None` where there is nothing to tell them by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scored {
    /// By the reading.
    pub head: Option<f64>,
    /// By the answer.
    pub answer: Option<f64>,
}

impl Scored {
    /// What a policy goes by in the end.
    pub fn of(&self, kind: PolicyKind) -> Option<f64> {
        if kind == PolicyKind::Route { self.head } else { self.answer }
    }
}

/// How to fit.
#[derive(Clone, Debug)]
pub struct FitSettings {
    /// Whose readings these are.
    pub model: HeadModel,
    /// sha256 of the outcomes.
    pub data_sha256: String,
    /// Decides folds.
    pub seed: u64,
    /// Threads that fit.
    pub threads: usize,
}

impl From<&SmallRight> for Fitted {
    fn from(right: &SmallRight) -> Self {
        Fitted { head: right.head.clone(), combination: right.combination.clone(), notes: Vec::new() }
    }
}

/// Fits on these rows, and gives each the scores of fits that had not seen it.
pub fn fit(pairs: &[&Pair], question: Question, settings: &FitSettings) -> (Fitted, Vec<Scored>) {
    let mut fitted = Fitted::default();
    let labels: Vec<bool> = pairs.iter().map(|pair| question.label(pair)).collect();
    let groups: Vec<usize> = (0..pairs.len()).collect();
    let mut of_fold = folds(&groups, &labels, (FOLDS, settings.seed));
    let mut scored = vec![Scored::default(); pairs.len()];
    match fit_head(pairs, question, settings) {
        Ok(trained) => {
            for (scored, probability) in scored.iter_mut().zip(&trained.probabilities) {
                scored.head = Some(*probability);
            }
            of_fold = trained.folds;
            fitted.head = Some(trained.head);
        }
        Err(why) => fitted.notes.push(format!("no head on the reading: {why}")),
    }
    let heads: Vec<Option<f64>> = scored.iter().map(|scored| scored.head).collect();
    match fit_combination((pairs, &labels), &heads, &of_fold) {
        Ok((combination, answers)) => {
            scored.iter_mut().zip(answers).for_each(|(scored, answer)| scored.answer = answer);
            fitted.combination = Some(combination);
        }
        Err(why) => fitted.notes.push(format!("no confidence in the answer: {why}")),
    }
    (fitted, scored)
}

/// The scores of a row that the fit has not seen.
pub fn score(fitted: &Fitted, pair: &Pair) -> Scored {
    let reading = pair.reading.as_ref();
    let head = fitted.head.as_ref().and_then(|head| head.score(reading?).ok());
    let seen = Seen { signals: &pair.signals, prompt_tokens: pair.prompt_tokens, head };
    Scored {
        head,
        answer: fitted.combination.as_ref().and_then(|combination| combination.probability(&seen)),
    }
}

fn fit_head(
    pairs: &[&Pair],
    question: Question,
    settings: &FitSettings,
) -> Result<crate::heads::Trained, String> {
    let mut rows = Rows::default();
    for pair in pairs {
        let reading = pair.reading.as_ref().ok_or("the outcomes hold no readings of small")?;
        rows.push(reading, None).map_err(|error| format!("row {:?}: {error}", pair.id))?;
    }
    let labels: Vec<bool> = pairs.iter().map(|pair| question.label(pair)).collect();
    let settings = TrainSettings {
        name: question.head_name().to_owned(),
        label: question.head_name().to_owned(),
        model: settings.model.clone(),
        data_sha256: settings.data_sha256.clone(),
        seed: settings.seed,
        threads: settings.threads,
    };
    train((&rows, &labels), &settings, &|| {}).map_err(|error| error.to_string())
}

type Answers = Vec<Option<f64>>;

fn fit_combination(
    (pairs, labels): (&[&Pair], &[bool]),
    heads: &[Option<f64>],
    of_fold: &[usize],
) -> Result<(Combination, Answers), String> {
    let mut evidence = Evidence::OF_ANSWER.to_vec();
    if heads.iter().any(Option::is_some) {
        evidence.push(Evidence::HeadLogit);
    }
    let mut matrix = Matrix::new(evidence.len());
    let mut known = Vec::new();
    for (row, pair) in pairs.iter().enumerate() {
        let seen = Seen { signals: &pair.signals, prompt_tokens: pair.prompt_tokens, head: heads[row] };
        let values: Option<Vec<f64>> = evidence.iter().map(|evidence| evidence.of(&seen)).collect();
        if let Some(values) = values {
            matrix.push(values.into_iter().map(|value| value as f32));
            known.push(row);
        }
    }
    if (known.len() as f64) < SIGNALS_SHARE_MIN * pairs.len() as f64 || known.is_empty() {
        return Err(format!(
            "of {} answers of small, {} have token probabilities to judge them by",
            pairs.len(),
            known.len()
        ));
    }
    let labels: Vec<bool> = known.iter().map(|row| labels[*row]).collect();
    let right = labels.iter().filter(|label| **label).count();
    if right < crate::heads::train::ROWS_MIN || labels.len() - right < crate::heads::train::ROWS_MIN {
        return Err(format!(
            "of {} answers of small, {right} have the label, too few or too many to learn from",
            labels.len()
        ));
    }
    let standard = matrix.standardise();
    let folds: Vec<usize> = known.iter().map(|row| of_fold[*row]).collect();
    let (linear, logits) = cross_fit(&matrix, &labels, &folds);
    let calibrated = calibrate::choose(&logits, &labels, &folds);
    let mut answers = vec![None; pairs.len()];
    known.iter().zip(&calibrated.probabilities).for_each(|(row, p)| answers[*row] = Some(*p));
    let part = |(index, evidence): (usize, Evidence)| Weighed {
        evidence,
        mean: f64::from(standard.means[index]),
        scale: f64::from(standard.scales[index]),
        weight: linear.weights()[index],
    };
    let parts = evidence.into_iter().enumerate().map(part).collect();
    Ok((Combination { parts, bias: linear.bias(), calibrator: calibrated.calibrator }, answers))
}

/// A fit on all rows, and each row's log-odds by a fit on the other folds.
fn cross_fit(matrix: &Matrix, labels: &[bool], folds: &[usize]) -> (Linear, Vec<f64>) {
    let stop = Stop { gradient_max: 1e-6, steps_max: 300 };
    let zero = Linear::zero(matrix.columns());
    let mut logits = vec![0.0; labels.len()];
    for fold in 0..=folds.iter().copied().max().unwrap_or(0) {
        let (unseen, seen): (Vec<usize>, Vec<usize>) = (0..labels.len()).partition(|row| folds[*row] == fold);
        let linear = logistic::fit(Task { matrix, labels, rows: &seen, strength: STRENGTH, stop }, &zero);
        for (row, logit) in unseen.iter().zip(linear.logits(matrix, &unseen)) {
            logits[*row] = logit;
        }
    }
    let all: Vec<usize> = (0..labels.len()).collect();
    (logistic::fit(Task { matrix, labels, rows: &all, strength: STRENGTH, stop }, &zero), logits)
}

/// The value of a signal for a row, as drift is watched by it.
pub fn signal(evidence: Evidence, pair: &Pair, scored: &Scored) -> Option<f64> {
    match evidence {
        Evidence::HeadLogit => scored.head.map(logit),
        of_answer => {
            of_answer.of(&Seen { signals: &pair.signals, prompt_tokens: pair.prompt_tokens, head: None })
        }
    }
}
