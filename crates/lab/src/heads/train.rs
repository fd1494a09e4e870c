//! Trains a head: states and strength are chosen by cross-validation, and the figures reported are of rows that
//! neither the fit nor the choice had seen (nested cross-validation: Varma & Simon, 2006). What is chosen is the best
//! single state, or the best layer's mean joined with the best layer's last.
//!
//! Heads that are trained together share states and strength, chosen by their mean AUROC. What they err by is then alike
//! and cancels out in the difference of their probabilities, by which requests are routed.
//!
//! A fit on all folds but *a* and *b* serves twice: to choose for outer fold *a* by what it predicts of *b*, and for
//! *b* by what it predicts of *a*. So five folds take ten fits per choice and strength instead of twenty.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use policy::Head;
use policy::calibrator::Calibrator;
use policy::heads::{
    BaselineScore, FORMAT, Features, HeadModel, HeadState, LayerScore, OperatingPoint, Scalar, StateKind,
    Training, VERSION,
};

use super::Rows;
use crate::fit::bootstrap::{interval, resampled};
use crate::fit::calibrate::{self, Calibrated, Kind};
use crate::fit::folds::folds;
use crate::fit::lbfgs::Stop;
use crate::fit::logistic::{self, Linear, Task};
use crate::fit::matrix::{Matrix, Standard};
use crate::metrics::ranking::{Ranked, auroc, auroc_ci, ece, reliability};

/// Strengths that are tried, strongest first: each fit starts where the one before ended.
const STRENGTHS: [f64; 8] = [30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01];
/// Folds, if nothing else is asked for and there are as many groups.
pub const FOLDS: usize = 5;
/// Fewer groups can't be split for a choice inside a fold.
pub const FOLDS_MIN: usize = 3;
/// More take long and tell no more: there are fits for each pair of folds.
pub const FOLDS_MAX: usize = 20;
/// Rows of either label below which nothing can be learnt.
pub const ROWS_MIN: usize = 10;
/// Scalars are few and states many: by how much the scalars' penalty is weaker, as a factor of their weights.
const SCALAR_EMPHASIS: f32 = 8.0;
/// Strength of the baselines, whose features are few.
const BASELINE_STRENGTH: f64 = 1e-3;
/// When a fit ends: what is left of the gradient changes no order of rows that matters.
const STOP: Stop = Stop { gradient_max: 2e-4, steps_max: 100 };

/// What a head is to tell.
#[derive(Clone, Debug)]
pub struct Target<'a> {
    /// The head's name.
    pub name: String,
    /// The label's name.
    pub label: String,
    /// The label of each row.
    pub labels: &'a [bool],
    /// How much each row counts in fits; empty if all count alike.
    pub weights: Vec<f32>,
    /// Rows that are learnt from and left out of the operating point; empty if none is.
    pub left_out: Vec<bool>,
}

/// Weights with which a row of a rare kind counts more than one of a frequent kind, by the square root of how many
/// there are, and all rows of either label as much as those of the other.
pub fn balanced<K: Ord>(kinds: &[K], labels: &[bool]) -> Vec<f32> {
    let mut counts: BTreeMap<&K, f64> = BTreeMap::new();
    kinds.iter().for_each(|kind| *counts.entry(kind).or_default() += 1.0);
    let each: Vec<f64> = kinds.iter().map(|kind| counts[kind].sqrt().recip()).collect();
    let mut sums = [0.0; 2];
    each.iter().zip(labels).for_each(|(weight, label)| sums[usize::from(*label)] += weight);
    let half = labels.len() as f64 / 2.0;
    each.iter()
        .zip(labels)
        .map(|(weight, label)| (weight * half / sums[usize::from(*label)]) as f32)
        .collect()
}

impl Target<'_> {
    /// Whether there are rows enough of either label.
    ///
    /// # Errors
    /// [`TrainError::TooFew`].
    pub fn check(&self) -> Result<(), TrainError> {
        let (rows, positives) = (self.labels.len(), self.labels.iter().filter(|label| **label).count());
        if positives < ROWS_MIN || rows - positives < ROWS_MIN {
            return Err(TrainError::TooFew { label: self.label.clone(), rows, positives });
        }
        Ok(())
    }
}

/// What training needs besides rows.
#[derive(Clone, Debug)]
pub struct TrainSettings {
    /// Whose readings these are.
    pub model: HeadModel,
    /// sha256 of the file of rows.
    pub data_sha256: String,
    /// Decides folds and resamples.
    pub seed: u64,
    /// Threads that fit, one choice of states each.
    pub threads: usize,
    /// The states to look at, joined; `None`: what is best by cross-validation.
    pub states: Option<Vec<HeadState>>,
    /// The scalars to look at.
    pub scalars: Vec<Scalar>,
    /// Folds of the cross-validation, [`FOLDS_MIN`] to [`FOLDS_MAX`].
    pub folds: usize,
    /// The share of rows with a false label that may reach the operating point's threshold; `None`: there is none.
    pub false_positive_rate_max: Option<f64>,
}

impl TrainSettings {
    /// For a head that chooses its states and looks at all scalars.
    pub fn new(model: HeadModel, data_sha256: String, threads: usize) -> Self {
        let scalars = Scalar::ALL.to_vec();
        let (states, false_positive_rate_max) = (None, None);
        TrainSettings {
            model,
            data_sha256,
            seed: 0,
            threads,
            states,
            scalars,
            folds: FOLDS,
            false_positive_rate_max,
        }
    }

    /// Runs of a training on these rows, at most: each state alone, and a pair of states for each fold and for the
    /// head; or the one choice that is given.
    pub fn runs_max(&self, rows: &Rows) -> usize {
        if self.states.is_some() { 1 } else { 2 * rows.layers().len() + self.folds + 1 }
    }
}

/// A trained head.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The head, fitted on all rows.
    pub head: Head,
    /// Each row's log-odds by a fit and a choice that had not seen it, calibrated likewise: what else is fitted on
    /// these rows must use these instead of the head's.
    pub probabilities: Vec<f64>,
    /// The fold of each row.
    pub folds: Vec<usize>,
}

/// Why nothing can be trained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrainError {
    /// Not enough rows of one label.
    #[error(
        "of {rows} rows, {label:?} is true of {positives}; at least {ROWS_MIN} are needed of which it is true, and of \
         which it is not, to learn anything"
    )]
    TooFew {
        /// The label.
        label: String,
        /// Rows.
        rows: usize,
        /// True ones.
        positives: usize,
    },
    /// Not enough groups.
    #[error("there are {0} groups; at least {FOLDS_MIN} are needed to train on some and test on others")]
    TooFewGroups(usize),
    /// The readings have no states.
    #[error("the readings hold no states of the layers asked for, so there is nothing to train on")]
    NoLayers,
}

/// What cross-validation made of one choice of states.
struct Run {
    states: Vec<HeadState>,
    /// `[folds]`: the best inner AUROC, a mean over the targets, its strength chosen without the fold.
    inner: Vec<f64>,
    /// Mean AUROC over all folds, and its strength.
    overall: (f64, f64),
    /// `[targets, rows]`: each by the fit that did not see its fold.
    logits: Vec<Vec<f64>>,
}

/// Trains a head for every target, all on the same states. `progress` hears of every run that is done.
///
/// # Errors
/// [`TrainError`] where there is too little to learn from.
pub fn train(
    (rows, targets): (&Rows, &[Target<'_>]),
    settings: &TrainSettings,
    progress: &(dyn Fn() + Sync),
) -> Result<Vec<Trained>, TrainError> {
    let folds = checked_folds((rows, targets), settings)?;
    let data = Labelled { rows, targets, folds: &folds, scalars: &settings.scalars };
    let both = |layer: u32| [StateKind::Last, StateKind::Mean].map(|state| vec![HeadState { layer, state }]);
    let each = || rows.layers().into_iter().flat_map(both).collect();
    let singles: Vec<Vec<HeadState>> = settings.states.clone().map_or_else(each, |states| vec![states]);
    let singles = all_runs(&data, singles, (settings.threads, progress));
    let count = fold_count(&folds);
    let in_fold = |fold: usize| move |run: &Run| run.inner[fold];
    let overall = |run: &Run| run.overall.0;
    let mut joined: Vec<Vec<HeadState>> =
        (0..count).map(|fold| pair(&singles, in_fold(fold))).chain([pair(&singles, overall)]).collect();
    if settings.states.is_some() {
        joined.clear();
    }
    joined.sort();
    joined.dedup();
    let joined = all_runs(&data, joined, (settings.threads, progress));
    // Each outer fold takes what was best on the others, and of the pairs knows only its own.
    let mut logits = vec![vec![0.0; rows.len()]; targets.len()];
    for fold in 0..count {
        let best = best(&singles, &joined, in_fold(fold)).ok_or(TrainError::NoLayers)?;
        for (logits, of_best) in logits.iter_mut().zip(&best.logits) {
            (0..rows.len()).filter(|row| folds[*row] == fold).for_each(|row| logits[row] = of_best[row]);
        }
    }
    let chosen = best(&singles, &joined, overall).ok_or(TrainError::NoLayers)?;
    let head = |(index, logits): (usize, &Vec<f64>)| {
        let calibrated = calibrated(logits, (targets[index].labels, &folds), settings);
        let layers = singles.iter().flat_map(|run| layer_score(run, (index, &targets[index]))).collect();
        let told = report(&data, (&targets[index], settings), (logits, &calibrated.probabilities));
        let training = Training { strength: chosen.overall.1, layers, ..told };
        let operating_point = settings
            .false_positive_rate_max
            .and_then(|rate| operating_point(&calibrated.probabilities, &targets[index], rate));
        let head = fit_all(&data, (chosen, index), (settings, calibrated.calibrator, training));
        let head = Head { operating_point, ..head };
        Trained { head, probabilities: calibrated.probabilities, folds: folds.clone() }
    };
    Ok(logits.iter().enumerate().map(head).collect())
}

/// Readings, targets and folds of the same rows.
struct Labelled<'a> {
    rows: &'a Rows,
    targets: &'a [Target<'a>],
    folds: &'a [usize],
    scalars: &'a [Scalar],
}

/// Probabilities of these log-odds. A threshold must be able to lie anywhere, so with an operating point they are
/// without steps.
fn calibrated(logits: &[f64], (labels, folds): (&[bool], &[usize]), settings: &TrainSettings) -> Calibrated {
    match settings.false_positive_rate_max {
        Some(_) => calibrate::of_kind(Kind::Platt, logits, labels, folds),
        None => calibrate::choose(logits, labels, folds),
    }
}

/// The least threshold that at most `rate_max` of the rows with a false label reach, of those that count; `None` where
/// none below 1 does.
fn operating_point(probabilities: &[f64], target: &Target<'_>, rate_max: f64) -> Option<OperatingPoint> {
    let counts = |row: &usize| !target.left_out.get(*row).copied().unwrap_or(false);
    let of = |wanted: bool| -> Vec<f64> {
        let rows = (0..probabilities.len()).filter(|row| target.labels[*row] == wanted);
        rows.filter(counts).map(|row| probabilities[row]).collect()
    };
    let (positives, negatives) = (of(true), of(false));
    let share = |rows: &[f64], threshold: f64| {
        rows.iter().filter(|probability| **probability >= threshold).count() as f64 / rows.len().max(1) as f64
    };
    let mut thresholds = probabilities.to_vec();
    thresholds.sort_by(f64::total_cmp);
    let first = thresholds.partition_point(|threshold| share(&negatives, *threshold) > rate_max);
    let threshold = *thresholds.get(first)?;
    Some(OperatingPoint {
        threshold,
        false_positive_rate: share(&negatives, threshold),
        recall: share(&positives, threshold),
    })
}

/// The best mean of a layer, and the best last.
fn pair(singles: &[Run], figure: impl Fn(&Run) -> f64) -> Vec<HeadState> {
    let best = |kind: StateKind| {
        let of_kind = singles.iter().filter(|run| run.states.iter().all(|state| state.state == kind));
        of_kind.max_by(|a, b| figure(a).total_cmp(&figure(b)))
    };
    let runs = [best(StateKind::Mean), best(StateKind::Last)].into_iter().flatten();
    runs.flat_map(|run| run.states.iter().copied()).collect()
}

/// The best of all singles and of the pair that they lead to, by the same figure.
fn best<'a>(singles: &'a [Run], joined: &'a [Run], figure: impl Fn(&Run) -> f64) -> Option<&'a Run> {
    let own = pair(singles, &figure);
    let runs = singles.iter().chain(joined.iter().filter(|run| run.states == own));
    runs.max_by(|a, b| figure(a).total_cmp(&figure(b)))
}

/// Of a run that looks at one state.
fn layer_score(run: &Run, (index, target): (usize, &Target<'_>)) -> Option<LayerScore> {
    let [HeadState { layer, state }] = run.states[..] else { return None };
    Some(LayerScore { layer, state, auroc: auroc(&run.logits[index], target.labels).unwrap_or(0.5) })
}

fn checked_folds(
    (rows, targets): (&Rows, &[Target<'_>]),
    settings: &TrainSettings,
) -> Result<Vec<usize>, TrainError> {
    targets.iter().try_for_each(Target::check)?;
    if rows.group_count() < FOLDS_MIN {
        return Err(TrainError::TooFewGroups(rows.group_count()));
    }
    let layers = rows.layers();
    let are_read = |states: &Vec<HeadState>| {
        !states.is_empty() && states.iter().all(|state| layers.contains(&state.layer))
    };
    if layers.is_empty() || !settings.states.as_ref().is_none_or(are_read) {
        return Err(TrainError::NoLayers);
    }
    let count = settings.folds.clamp(FOLDS_MIN, FOLDS_MAX).min(rows.group_count());
    // Of several targets the first is evened out over the folds.
    let labels = targets.first().map_or(&[][..], |target| target.labels);
    Ok(folds(rows.groups(), labels, (count, settings.seed)))
}

fn fold_count(folds: &[usize]) -> usize {
    folds.iter().max().map_or(0, |last| last + 1)
}

/// Cross-validates all choices of states, a thread for each until none is left. Runs are in the choices' order.
fn all_runs(
    data: &Labelled<'_>,
    choices: Vec<Vec<HeadState>>,
    (threads, progress): (usize, &(dyn Fn() + Sync)),
) -> Vec<Run> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(choices.len()));
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, choices.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(states) = choices.get(index) else { break };
                    let run = cross_validate(data, states);
                    done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((index, run));
                    progress();
                }
            });
        }
    });
    let mut runs = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    runs.sort_by_key(|(index, _)| *index);
    runs.into_iter().map(|(_, run)| run).collect()
}

/// The states' features, standardised over all rows: that knows no labels.
fn features(data: &Labelled<'_>, states: &[HeadState]) -> (Matrix, Standard) {
    let mut matrix = data.rows.matrix(states, data.scalars);
    let mut standard = matrix.standardise();
    let scalars = data.scalars.len();
    matrix.emphasise_last(scalars, SCALAR_EMPHASIS);
    let first = standard.scales.len() - scalars;
    standard.scales[first..].iter_mut().for_each(|scale| *scale /= SCALAR_EMPHASIS);
    (matrix, standard)
}

/// A target's head, fitted on all rows.
fn fit_all(
    data: &Labelled<'_>,
    (chosen, index): (&Run, usize),
    (settings, calibrator, training): (&TrainSettings, Calibrator, Training),
) -> Head {
    let target = &data.targets[index];
    let (matrix, standard) = features(data, &chosen.states);
    let all: Vec<usize> = (0..data.rows.len()).collect();
    let strength = chosen.overall.1;
    let Target { labels, weights, .. } = target;
    let task = Task { matrix: &matrix, labels, weights, rows: &all, strength, stop: STOP };
    let linear = logistic::fit(task, &Linear::zero(matrix.columns()));
    Head {
        format: FORMAT.to_owned(),
        version: VERSION,
        name: target.name.clone(),
        model: settings.model.clone(),
        features: Features { states: chosen.states.clone(), scalars: data.scalars.to_vec() },
        means: standard.means,
        scales: standard.scales,
        weights: linear.weights().iter().map(|weight| *weight as f32).collect(),
        bias: linear.bias(),
        calibrator,
        operating_point: None,
        training,
    }
}

fn cross_validate(data: &Labelled<'_>, states: &[HeadState]) -> Run {
    let &Labelled { rows, targets, folds, .. } = data;
    let (matrix, _) = features(data, states);
    let count = fold_count(folds);
    let members = |wanted: &dyn Fn(usize) -> bool| -> Vec<usize> {
        (0..folds.len()).filter(|row| wanted(folds[*row])).collect()
    };
    let of_fold: Vec<Vec<usize>> = (0..count).map(|fold| members(&|of| of == fold)).collect();
    // inner[strength][fold]: sums of AUROCs of other folds, by fits that saw neither.
    let mut inner = vec![vec![(0.0, 0_u32); count]; STRENGTHS.len()];
    let mut starts = vec![vec![vec![Linear::default(); count]; STRENGTHS.len()]; targets.len()];
    for (a, b) in (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b))) {
        let seen = members(&|of| of != a && of != b);
        for (Target { labels, weights, .. }, starts) in targets.iter().zip(&mut starts) {
            let mut linear = Linear::zero(matrix.columns());
            for (index, &strength) in STRENGTHS.iter().enumerate() {
                let task = Task { matrix: &matrix, labels, weights, rows: &seen, strength, stop: STOP };
                linear = logistic::fit(task, &linear);
                for (outer, other) in [(a, b), (b, a)] {
                    let found = fold_auroc(&linear, (&matrix, labels), &of_fold[other]);
                    let sum = &mut inner[index][outer];
                    *sum = (sum.0 + found.unwrap_or(0.0), sum.1 + u32::from(found.is_some()));
                    starts[index][outer] = linear.clone();
                }
            }
        }
    }
    let mean = |index: usize, fold: usize| inner[index][fold].0 / f64::from(inner[index][fold].1.max(1));
    let over_all = |index: usize| (0..count).map(|fold| mean(index, fold)).sum::<f64>() / count as f64;
    let overall = (0..STRENGTHS.len()).map(|index| (over_all(index), STRENGTHS[index]));
    let overall = overall.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or_default();
    let mut logits = vec![vec![0.0; rows.len()]; targets.len()];
    let mut of_outer = Vec::with_capacity(count);
    for (fold, of_fold) in of_fold.iter().enumerate() {
        let best = (0..STRENGTHS.len()).max_by(|a, b| mean(*a, fold).total_cmp(&mean(*b, fold)));
        let best = best.unwrap_or(0);
        of_outer.push(mean(best, fold));
        let seen = members(&|of| of != fold);
        for ((Target { labels, weights, .. }, starts), logits) in targets.iter().zip(&starts).zip(&mut logits)
        {
            let strength = STRENGTHS[best];
            let task = Task { matrix: &matrix, labels, weights, rows: &seen, strength, stop: STOP };
            let linear = logistic::fit(task, &starts[best][fold]);
            let found = linear.logits(&matrix, of_fold);
            of_fold.iter().zip(found).for_each(|(row, logit)| logits[*row] = logit);
        }
    }
    Run { states: states.to_vec(), inner: of_outer, overall, logits }
}

fn fold_auroc(linear: &Linear, (matrix, labels): (&Matrix, &[bool]), rows: &[usize]) -> Option<f64> {
    let of_rows: Vec<bool> = rows.iter().map(|row| labels[*row]).collect();
    auroc(&linear.logits(matrix, rows), &of_rows)
}

/// The honest figures: log-odds, probabilities and folds are of rows unseen.
fn report(
    data: &Labelled<'_>,
    (target, settings): (&Target<'_>, &TrainSettings),
    (logits, probabilities): (&[f64], &[f64]),
) -> Training {
    let &Labelled { rows, folds, .. } = data;
    let labels = target.labels;
    let clusters = (rows.groups(), settings.seed);
    let length = [Scalar::PromptTokensLn, Scalar::PromptTokensLnSquare];
    let baseline = |name: &str, scalars: &[Scalar]| {
        let scores = baseline_logits(data, target, scalars);
        let (head, base) = (Ranked::new(logits, labels), Ranked::new(&scores, labels));
        let adds = |weights: &[u32]| Some(head.auroc(weights)? - base.auroc(weights)?);
        BaselineScore {
            name: name.to_owned(),
            auroc: auroc(&scores, labels).unwrap_or(0.5),
            head_adds: adds(&vec![1; labels.len()]).unwrap_or(0.0),
            head_adds_ci: interval(resampled(clusters.0, clusters.1, adds), 0.95),
        }
    };
    Training {
        label: target.label.clone(),
        data_sha256: settings.data_sha256.clone(),
        rows: rows.len() as u64,
        positives: labels.iter().filter(|label| **label).count() as u64,
        groups: rows.group_count() as u64,
        folds: fold_count(folds) as u32,
        auroc: auroc(logits, labels).unwrap_or(0.5),
        auroc_ci: auroc_ci(logits, labels, clusters),
        ece: ece(probabilities, labels),
        reliability: reliability(probabilities, labels),
        baselines: vec![baseline("prompt_length", &length), baseline("scalars", &Scalar::ALL)],
        ..Training::default()
    }
}

/// Log-odds of rows unseen by a fit on scalars only.
fn baseline_logits(data: &Labelled<'_>, target: &Target<'_>, scalars: &[Scalar]) -> Vec<f64> {
    let &Labelled { rows, folds, .. } = data;
    let Target { labels, weights, .. } = target;
    let mut matrix = rows.matrix(&[], scalars);
    matrix.standardise();
    let mut logits = vec![0.0; rows.len()];
    for fold in 0..fold_count(folds) {
        let (unseen, seen): (Vec<usize>, Vec<usize>) = (0..rows.len()).partition(|row| folds[*row] == fold);
        let strength = BASELINE_STRENGTH;
        let task = Task { matrix: &matrix, labels, weights, rows: &seen, strength, stop: STOP };
        let linear = logistic::fit(task, &Linear::zero(matrix.columns()));
        for (row, logit) in unseen.iter().zip(linear.logits(&matrix, &unseen)) {
            logits[*row] = logit;
        }
    }
    logits
}

#[cfg(test)]
mod tests {
    use contract::{LayerState, NextToken, Reading};
    use policy::calibrator::sigmoid;

    use super::*;
    use crate::fit::random::SplitMix;

    const LATE: HeadState = HeadState { layer: 8, state: StateKind::Last };
    const EARLY: HeadState = HeadState { layer: 4, state: StateKind::Mean };

    /// Readings of three layers. The label follows `signal` times a truth that the last state of layer 8 knows and,
    /// where `shared`, in equal parts of one that the mean of layer 4 knows.
    fn readings(n: usize, signal: f64, shared: bool) -> Vec<(Reading, bool)> {
        let mut random = SplitMix::new(21);
        let mut row = || {
            let (late, early) = (random.normal(), if shared { random.normal() } else { 0.0 });
            let label = random.unit() < sigmoid(signal * (late + early));
            let mut state = |layer: u32| {
                let mut values = || -> Vec<f32> { (0..12).map(|_| random.normal() as f32).collect() };
                LayerState { layer, last: values(), mean: values() }
            };
            let mut states = vec![state(4), state(8), state(12)];
            states[1].last[3] = 5.0 + 0.1 * late as f32;
            if shared {
                states[0].mean[7] = -2.0 + 0.3 * early as f32;
            }
            let next = NextToken { entropy: random.unit() as f32, ..NextToken::default() };
            let prompt_tokens = 10 + random.below(90) as u64;
            (Reading { prompt_tokens, read_tokens: prompt_tokens, states, next, ..Reading::default() }, label)
        };
        (0..n).map(|_| row()).collect()
    }

    fn rows(readings: &[(Reading, bool)], groups: usize) -> (Rows, Vec<bool>) {
        let mut rows = Rows::default();
        for (index, (reading, _)) in readings.iter().enumerate() {
            let group = (groups > 0).then(|| format!("g{}", index % groups));
            rows.push(reading, group.as_deref()).unwrap();
        }
        (rows, readings.iter().map(|(_, label)| *label).collect())
    }

    fn trained(readings: &[(Reading, bool)], groups: usize, threads: usize) -> Result<Trained, TrainError> {
        let (rows, labels) = rows(readings, groups);
        let trained =
            train((&rows, &[target("correct", &labels)]), &TrainSettings { threads, ..settings() }, &|| {});
        trained.map(|mut heads| heads.remove(0))
    }

    fn target<'a>(name: &str, labels: &'a [bool]) -> Target<'a> {
        Target {
            name: name.to_owned(),
            label: name.to_owned(),
            labels,
            weights: Vec::new(),
            left_out: Vec::new(),
        }
    }

    fn settings() -> TrainSettings {
        let model = HeadModel { name: "tiny".to_owned(), sha256: "0a".repeat(32) };
        TrainSettings { seed: 1, ..TrainSettings::new(model, "0b".repeat(32), 2) }
    }

    #[test]
    fn the_layer_that_knows_is_found_and_reported_honestly() {
        let readings = readings(900, 3.0, false);
        let found = trained(&readings, 0, 2).unwrap();
        let training = &found.head.training;
        assert_eq!((training.folds, training.groups), (5, 900));
        assert!(found.head.features.states.contains(&LATE), "{:?}", found.head.features);
        assert!((0.84..0.93).contains(&training.auroc), "{training:?}");
        assert!(training.auroc_ci[0] < training.auroc && training.auroc < training.auroc_ci[1]);
        assert!(training.ece < 0.06, "{}", training.ece);
        let of = |wanted: HeadState| {
            let scores = training.layers.iter();
            let mut scores = scores.filter(|s| (s.layer, s.state) == (wanted.layer, wanted.state));
            scores.next().unwrap().auroc
        };
        assert_eq!(training.layers.len(), 6);
        assert!(of(LATE) > 0.8 && of(EARLY) < 0.6, "{:?}", training.layers);
        for baseline in &training.baselines {
            assert!(baseline.auroc < 0.6 && baseline.head_adds_ci[0] > 0.2, "{baseline:?}");
        }
        // What is stored scores as what was fitted.
        let text = serde_json::to_string(&found.head).unwrap();
        let head = Head::load(&text).unwrap();
        let scores: Vec<f64> = readings.iter().map(|(reading, _)| head.score(reading).unwrap()).collect();
        let labels: Vec<bool> = readings.iter().map(|(_, label)| *label).collect();
        assert!(auroc(&scores, &labels).unwrap() >= training.auroc - 0.01);
        assert_eq!(trained(&readings, 0, 1).unwrap().head, found.head);
    }

    #[test]
    fn what_two_layers_know_is_joined() {
        let training = trained(&readings(900, 2.0, true), 0, 2).unwrap().head;
        assert_eq!(training.features.states, [EARLY, LATE]);
        let alone = training.training.layers.iter().map(|score| score.auroc).fold(0.0, f64::max);
        assert!(training.training.auroc > alone + 0.05, "{} {alone}", training.training.auroc);
    }

    #[test]
    fn heads_that_are_trained_together_share_their_states() {
        let readings = readings(600, 3.0, false);
        let (rows, labels) = rows(&readings, 0);
        let noise: Vec<bool> = (0..labels.len()).map(|row| row % 3 == 0).collect();
        let targets = [target("known", &labels[..]), target("noise", &noise[..])];
        let found = train((&rows, &targets), &settings(), &|| {}).unwrap();
        let [known, noise] = &found[..] else { panic!("{}", found.len()) };
        assert_eq!((known.head.name.as_str(), noise.head.name.as_str()), ("known", "noise"));
        assert_eq!((&known.head.features, &known.folds), (&noise.head.features, &noise.folds));
        assert_eq!(known.head.training.strength, noise.head.training.strength);
        assert!(known.head.training.auroc > 0.8 && noise.head.training.auroc < 0.6);
    }

    #[test]
    fn given_states_are_all_that_is_looked_at() {
        let readings = readings(900, 2.0, true);
        let (rows, labels) = rows(&readings, 0);
        let states = vec![LATE, EARLY, HeadState { layer: 12, ..EARLY }];
        let given = TrainSettings {
            states: Some(states.clone()),
            scalars: Vec::new(),
            folds: 7,
            false_positive_rate_max: Some(0.05),
            ..settings()
        };
        let found = train((&rows, &[target("correct", &labels)]), &given, &|| {}).unwrap().remove(0);
        let Head { features, training, operating_point, .. } = &found.head;
        assert_eq!((&features.states, features.scalars.len()), (&states, 0));
        assert_eq!((training.folds, training.layers.len()), (7, 0));
        let free = trained(&readings, 0, 2).unwrap().head.training.auroc;
        assert!((training.auroc - free).abs() < 0.03, "{} {free}", training.auroc);
        // The operating point says what the rows unseen say.
        let point = operating_point.clone().unwrap();
        let reach = |wanted: bool| {
            let of_label = || found.probabilities.iter().zip(&labels).filter(|(_, label)| **label == wanted);
            of_label().filter(|(p, _)| **p >= point.threshold).count() as f64 / of_label().count() as f64
        };
        assert_eq!((reach(false), reach(true)), (point.false_positive_rate, point.recall));
        assert!(point.false_positive_rate <= 0.05 && point.false_positive_rate > 0.04, "{point:?}");
        // Rows that are left out teach all the same.
        let left_out = (0..labels.len()).map(|row| row % 2 == 0).collect();
        let half = Target { left_out, ..target("correct", &labels) };
        let found = train((&rows, &[half]), &given, &|| {}).unwrap().remove(0);
        let judged: Vec<f64> = (1..labels.len())
            .step_by(2)
            .filter(|row| !labels[*row])
            .map(|row| found.probabilities[row])
            .collect();
        let point = found.head.operating_point.unwrap();
        let reached = judged.iter().filter(|p| **p >= point.threshold).count() as f64 / judged.len() as f64;
        assert!(reached == point.false_positive_rate && reached <= 0.05, "{reached} {point:?}");
        let none = TrainSettings { states: Some(vec![HeadState { layer: 5, ..LATE }]), ..settings() };
        let error = train((&rows, &[target("correct", &labels)]), &none, &|| {}).unwrap_err();
        assert_eq!(error, TrainError::NoLayers);
    }

    #[test]
    fn rare_kinds_and_labels_count_more() {
        let weights = balanced(&["a", "a", "a", "a", "b", "c"], &[true, true, true, true, true, false]);
        assert_eq!(weights, [0.5, 0.5, 0.5, 0.5, 1.0, 3.0]);
    }

    #[test]
    fn labels_that_nothing_knows_are_not_claimed_to_be_known() {
        let training = trained(&readings(400, 0.0, false), 20, 2).unwrap().head.training;
        assert!(training.auroc_ci[0] < 0.5 + 0.05 && training.auroc < 0.6, "{training:?}");
        assert_eq!(training.groups, 20);
    }

    #[test]
    fn too_little_to_learn_from_is_an_error() {
        let many = readings(60, 1.0, false);
        assert_eq!(trained(&many, 2, 1).unwrap_err(), TrainError::TooFewGroups(2));
        let one_sided: Vec<(Reading, bool)> = many.iter().map(|row| (row.0.clone(), true)).collect();
        assert_eq!(
            trained(&one_sided, 0, 1).unwrap_err(),
            TrainError::TooFew { label: "correct".to_owned(), rows: 60, positives: 60 }
        );
        let stateless = |row: &(Reading, bool)| (Reading { states: Vec::new(), ..row.0.clone() }, row.1);
        let stateless: Vec<(Reading, bool)> = many.iter().map(stateless).collect();
        assert_eq!(trained(&stateless, 0, 1).unwrap_err(), TrainError::NoLayers);
    }
}
