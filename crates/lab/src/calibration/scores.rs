//! How likely either model is right: by small's reading (a head each), and by its answer (a combination each). All are
//! fitted on one split and cross-fitted within it, so that what is fitted on top of them sees honest scores.

use policy::Head;
use policy::calibration::{Chances, Combination, Estimates, Evidence, PolicyKind, Right, Seen, Weighed};
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

/// What was fitted.
#[derive(Clone, Debug, Default)]
pub struct Fitted {
    /// How likely either model is right.
    pub right: Estimates,
    /// What could not be fitted, and why.
    pub notes: Vec<String>,
}

/// A row's chances; `None` where there is nothing to tell them by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scored {
    /// By the reading.
    pub head: Option<Chances>,
    /// By small's answer.
    pub answer: Option<Chances>,
}

impl Scored {
    /// What a policy goes by in the end.
    pub fn of(&self, kind: PolicyKind) -> Option<Chances> {
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

/// One model's probabilities of being right, of rows that the fits had not seen.
type Probabilities = Vec<Option<f64>>;

/// Fits on these rows, and gives each the chances by fits that had not seen it.
pub fn fit(pairs: &[&Pair], settings: &FitSettings) -> (Fitted, Vec<Scored>) {
    let readings = readings(pairs);
    let of = |name: &str, label: fn(&Pair) -> bool| {
        let labels: Vec<bool> = pairs.iter().map(|pair| label(pair)).collect();
        fit_right((pairs, &labels), (readings.as_ref(), name), settings)
    };
    let (small, small_by, notes) = of("small-is-right", |pair| pair.small_correct);
    // What can't be learnt of large is said in words by the policy, and need not be in the calibration's verdict.
    let (large, large_by, _) = of("large-is-right", |pair| pair.large_correct);
    let chances = |small: &Probabilities, (is_known, large): (bool, &Probabilities), row: usize| {
        Some(Chances { small: small[row]?, large: if is_known { large[row]? } else { 1.0 } })
    };
    let scored = |row: usize| Scored {
        head: chances(&small_by[0], (large.head.is_some(), &large_by[0]), row),
        answer: chances(&small_by[1], (large.combination.is_some(), &large_by[1]), row),
    };
    let scored = (0..pairs.len()).map(scored).collect();
    (Fitted { right: Estimates { small, large }, notes }, scored)
}

/// The chances of a row that the fit has not seen.
pub fn score(right: &Estimates, pair: &Pair) -> Scored {
    let reading = pair.reading.as_ref();
    let of = |head: &Head| head.score(reading?).ok();
    Scored { head: right.by_reading(of), answer: right.by_answer((&pair.signals, pair.prompt_tokens), of) }
}

fn readings(pairs: &[&Pair]) -> Result<Rows, String> {
    let mut rows = Rows::default();
    for pair in pairs {
        let reading = pair.reading.as_ref().ok_or("the outcomes hold no readings of small")?;
        rows.push(reading, None).map_err(|error| format!("row {:?}: {error}", pair.id))?;
    }
    Ok(rows)
}

/// Whether one model is right: by the reading, by small's answer, and what could not be fitted.
fn fit_right(
    (pairs, labels): (&[&Pair], &[bool]),
    (readings, name): (Result<&Rows, &String>, &str),
    settings: &FitSettings,
) -> (Right, [Probabilities; 2], Vec<String>) {
    let (mut right, mut notes) = (Right::default(), Vec::new());
    let groups: Vec<usize> = (0..pairs.len()).collect();
    let mut of_fold = folds(&groups, labels, (FOLDS, settings.seed));
    let (mut heads, mut answers) = (vec![None; pairs.len()], vec![None; pairs.len()]);
    let head_settings = TrainSettings {
        name: name.to_owned(),
        label: name.to_owned(),
        model: settings.model.clone(),
        data_sha256: settings.data_sha256.clone(),
        seed: settings.seed,
        threads: settings.threads,
    };
    let trained = readings
        .map_err(String::clone)
        .and_then(|rows| train((rows, labels), &head_settings, &|| {}).map_err(|error| error.to_string()));
    match trained {
        Ok(trained) => {
            heads = trained.probabilities.into_iter().map(Some).collect();
            of_fold = trained.folds;
            right.head = Some(trained.head);
        }
        Err(why) => notes.push(format!("no head on the reading: {why}")),
    }
    match fit_combination((pairs, labels), &heads, &of_fold) {
        Ok((combination, probabilities)) => {
            answers = probabilities;
            right.combination = Some(combination);
        }
        Err(why) => notes.push(format!("no confidence in the answer: {why}")),
    }
    (right, [heads, answers], notes)
}

fn fit_combination(
    (pairs, labels): (&[&Pair], &[bool]),
    heads: &[Option<f64>],
    of_fold: &[usize],
) -> Result<(Combination, Probabilities), String> {
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
            "of {} answers, {right} are right, too few or too many to learn from",
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
        Evidence::HeadLogit => scored.head.map(|chances| logit(chances.small)),
        of_answer => {
            of_answer.of(&Seen { signals: &pair.signals, prompt_tokens: pair.prompt_tokens, head: None })
        }
    }
}
