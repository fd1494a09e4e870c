//! How likely either model is right: by small's reading (a head each), and by its answer (a combination each). All are
//! fitted on one split and cross-fitted within it, so that what is fitted on top of them sees honest scores.

use policy::Head;
use policy::calibration::{Chances, Combination, Estimates, Evidence, PolicyKind, Right, Seen, Weighed};
use policy::calibrator::logit;
use policy::heads::HeadModel;

use super::pairs::Pair;
use crate::fit::bootstrap::quantile;
use crate::fit::calibrate;
use crate::fit::folds::folds;
use crate::fit::lbfgs::Stop;
use crate::fit::logistic::{self, Linear, Task};
use crate::fit::matrix::Matrix;
use crate::heads::{Rows, Target, TrainSettings, Trained, train};

/// Folds within the split.
const FOLDS: usize = 5;
/// Strength of the combination's penalty: its parts are few.
const STRENGTH: f64 = 1e-3;
/// Share of rows whose answers must have signals for a combination to be fitted.
const SIGNALS_SHARE_MIN: f64 = 0.9;
/// Evidence of answers counts within these quantiles of the fit's rows: beyond them little was learnt, and what an
/// answer can come to is bounded before it is written (`policy/src/outlook.rs`).
const RANGE: [f64; 2] = [0.01, 0.99];

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
    let small: Vec<bool> = pairs.iter().map(|pair| pair.small_correct).collect();
    let large: Vec<bool> = pairs.iter().map(|pair| pair.large_correct).collect();
    let target = |name: &str, labels| {
        let (name, label) = (name.to_owned(), name.to_owned());
        Target { name, label, labels, weights: Vec::new(), left_out: Vec::new() }
    };
    let mut targets = vec![target("small-is-right", &small[..]), target("large-is-right", &large[..])];
    // Where large is nearly always right, or wrong, only small's chances differ between rows.
    targets.retain(|target| target.label.starts_with("small") || target.check().is_ok());
    let (mut notes, mut fitted) = (Vec::new(), Vec::new());
    let mut trained = fit_heads(pairs, &targets, settings)
        .unwrap_or_else(|why| {
            notes.push(format!("no head on the reading: {why}"));
            Vec::new()
        })
        .into_iter();
    for target in &targets {
        let (right, probabilities, why) = fit_right((pairs, target.labels), trained.next(), settings.seed);
        notes.extend(why);
        fitted.push((right, probabilities));
    }
    let unknown = (Right::default(), [vec![Some(1.0); pairs.len()], vec![Some(1.0); pairs.len()]]);
    let mut fitted = fitted.into_iter();
    let (small, small_by) = fitted.next().unwrap_or_else(|| unknown.clone());
    let (large, large_by) = fitted.next().unwrap_or(unknown);
    let chances =
        |by: usize, row: usize| Some(Chances { small: small_by[by][row]?, large: large_by[by][row]? });
    let scored = |row: usize| Scored { head: chances(0, row), answer: chances(1, row) };
    let scored = (0..pairs.len()).map(scored).collect();
    (Fitted { right: Estimates { small, large }, notes }, scored)
}

/// The chances of a row that the fit has not seen.
pub fn score(right: &Estimates, pair: &Pair) -> Scored {
    let reading = pair.reading.as_ref();
    let of = |head: &Head| head.score(reading?).ok();
    Scored { head: right.by_reading(of), answer: right.by_answer((&pair.signals, pair.prompt_tokens), of) }
}

/// Heads for all targets, on the same states.
fn fit_heads(
    pairs: &[&Pair],
    targets: &[Target<'_>],
    settings: &FitSettings,
) -> Result<Vec<Trained>, String> {
    let mut rows = Rows::default();
    for pair in pairs {
        let reading = pair.reading.as_ref().ok_or("the outcomes hold no readings of small")?;
        rows.push(reading, None).map_err(|error| format!("row {:?}: {error}", pair.id))?;
    }
    let FitSettings { model, data_sha256, seed, threads } = settings.clone();
    let settings = TrainSettings { seed, ..TrainSettings::new(model, data_sha256, threads) };
    train((&rows, targets), &settings, &|| {}).map_err(|error| error.to_string())
}

/// Whether one model is right: by the reading's head, by small's answer, and why that could not be fitted.
fn fit_right(
    (pairs, labels): (&[&Pair], &[bool]),
    trained: Option<Trained>,
    seed: u64,
) -> (Right, [Probabilities; 2], Option<String>) {
    let (head, heads, of_fold) = match trained {
        Some(trained) => {
            let probabilities = trained.probabilities.into_iter().map(Some).collect();
            (Some(trained.head), probabilities, trained.folds)
        }
        None => {
            let groups: Vec<usize> = (0..pairs.len()).collect();
            (None, vec![None; pairs.len()], folds(&groups, labels, (FOLDS, seed)))
        }
    };
    match fit_combination((pairs, labels), &heads, &of_fold) {
        Ok((combination, answers)) => {
            (Right { head, combination: Some(combination) }, [heads, answers], None)
        }
        Err(why) => {
            let why = format!("no confidence in the answer: {why}");
            let none = vec![None; pairs.len()];
            (Right { head, combination: None }, [heads, none], Some(why))
        }
    }
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
    let (mut known, mut rows): (Vec<usize>, Vec<Vec<f64>>) = (Vec::new(), Vec::new());
    for (row, pair) in pairs.iter().enumerate() {
        let seen = Seen { signals: &pair.signals, prompt_tokens: pair.prompt_tokens, head: heads[row] };
        let values: Option<Vec<f64>> = evidence.iter().map(|evidence| evidence.of(&seen)).collect();
        if let Some(values) = values {
            rows.push(values);
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
    let ranges: Vec<Option<[f64; 2]>> =
        evidence.iter().enumerate().map(|(index, evidence)| range(*evidence, &rows, index)).collect();
    let mut matrix = Matrix::new(evidence.len());
    for row in &rows {
        let within = |(value, range): (&f64, &Option<[f64; 2]>)| {
            range.map_or(*value, |[low, high]| value.clamp(low, high)) as f32
        };
        matrix.push(row.iter().zip(&ranges).map(within));
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
        range: ranges[index],
    };
    let parts = evidence.into_iter().enumerate().map(part).collect();
    Ok((Combination { parts, bias: linear.bias(), calibrator: calibrated.calibrator }, answers))
}

/// Within what a figure of the answer counts; what is known before the answer counts as it is.
fn range(evidence: Evidence, rows: &[Vec<f64>], column: usize) -> Option<[f64; 2]> {
    if matches!(evidence, Evidence::PromptTokensLn | Evidence::HeadLogit) {
        return None;
    }
    let mut values: Vec<f64> = rows.iter().map(|row| row[column]).collect();
    values.sort_by(f64::total_cmp);
    Some(RANGE.map(|share| quantile(&values, share, 0.0)))
}

/// A fit on all rows, and each row's log-odds by a fit on the other folds.
fn cross_fit(matrix: &Matrix, labels: &[bool], folds: &[usize]) -> (Linear, Vec<f64>) {
    let stop = Stop { gradient_max: 1e-6, steps_max: 300 };
    let zero = Linear::zero(matrix.columns());
    let mut logits = vec![0.0; labels.len()];
    for fold in 0..=folds.iter().copied().max().unwrap_or(0) {
        let (unseen, seen): (Vec<usize>, Vec<usize>) = (0..labels.len()).partition(|row| folds[*row] == fold);
        let linear = logistic::fit(
            Task { matrix, labels, weights: &[], rows: &seen, strength: STRENGTH, stop },
            &zero,
        );
        for (row, logit) in unseen.iter().zip(linear.logits(matrix, &unseen)) {
            logits[*row] = logit;
        }
    }
    let all: Vec<usize> = (0..labels.len()).collect();
    (
        logistic::fit(Task { matrix, labels, weights: &[], rows: &all, strength: STRENGTH, stop }, &zero),
        logits,
    )
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
