//! Calibrating: outcomes of a pair become a [`Calibration`].
//!
//! Rows are split three ways by their ids. On the *fit* split the heads and combinations are fitted, cross-fitted
//! scores choose the policy, and candidate thresholds are laid out; on the *calibration* split these thresholds are
//! tested ([`bound`]); on both of the others the figures are measured, of the thresholds on the *held-out* one alone.

pub mod bound;
pub mod candidates;
pub mod evaluate;
pub mod measure;
pub mod page;
pub mod pairs;
pub mod scores;

use contract::Role;
use policy::calibration::{Calibration, Data, Evidence, FORMAT, PolicyKind, Reference, Threshold, VERSION};
use policy::heads::HeadModel;

use crate::fit::bootstrap::quantile;
use crate::fit::random::hash;
use candidates::{Candidate, grid, thresholds};
use measure::{curve_points, decide_all, ordering, performance, saved_ci, slices};
use pairs::{Pair, Pairs};
use scores::{FitSettings, Fitted, Scored};

/// Of 100 rows, so many are fitted on, the next so many test thresholds; the rest is held out.
const FIT_PERCENT: u64 = 40;
const CALIBRATION_PERCENT: u64 = 40;
/// Rows below which nothing can be said.
pub const ROWS_MIN: usize = 100;
/// Targets that every calibration has, besides the one asked for.
const TARGETS: [f64; 7] = [0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1];
/// Steps between the quantiles that traffic is compared with.
const QUANTILE_STEPS: usize = 20;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Most quality that may be lost against large alone.
    pub max_quality_loss: f64,
    /// With which confidence.
    pub confidence: f64,
    /// The policy; `None`: the cheapest on the fit split.
    pub policy: Option<PolicyKind>,
    /// sha256 of the small model's file, for its head.
    pub small_sha256: Option<String>,
    /// sha256 of the outcomes.
    pub outcomes_sha256: String,
    /// Decides splits and resamples.
    pub seed: u64,
    /// Threads that fit.
    pub threads: usize,
}

/// Why nothing can be calibrated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CalibrateError {
    /// Too few rows.
    #[error(
        "there are {0} rows with outcomes of both models; at least {ROWS_MIN} are needed, and some 1,000 for a loss of two percent"
    )]
    TooFew(usize),
    /// A number out of range.
    #[error("{name} is {value}; it must be in {range}")]
    OutOfRange {
        /// Which.
        name: &'static str,
        /// What it was.
        value: f64,
        /// What it may be.
        range: &'static str,
    },
    /// No policy can be calibrated.
    #[error("no policy can be calibrated on these outcomes: {0}")]
    NoCandidate(String),
}

/// Which part of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// For fits.
    Fit,
    /// For thresholds.
    Calibration,
    /// For figures.
    HeldOut,
}

/// The split that a row's id is in.
pub fn split(id: &str, seed: u64) -> Split {
    match hash(id, seed) % 100 {
        part if part < FIT_PERCENT => Split::Fit,
        part if part < FIT_PERCENT + CALIBRATION_PERCENT => Split::Calibration,
        _ => Split::HeldOut,
    }
}

type Row<'a> = (&'a Pair, Scored);

/// Calibrates.
///
/// # Errors
/// [`CalibrateError`] where the rows do not suffice.
pub fn calibrate(pairs: &Pairs, settings: &Settings) -> Result<Calibration, CalibrateError> {
    check(pairs, settings)?;
    let of = |wanted| -> Vec<&Pair> {
        let mut rows: Vec<&Pair> =
            pairs.pairs.iter().filter(|pair| split(&pair.id, settings.seed) == wanted).collect();
        // Ids may tell the task: the test by betting wants rows in an order that tells nothing.
        rows.sort_by_key(|pair| hash(&pair.id, settings.seed.wrapping_add(1)));
        rows
    };
    let (fit, calibration, held_out) = (of(Split::Fit), of(Split::Calibration), of(Split::HeldOut));
    let fit_settings = FitSettings {
        model: HeadModel {
            name: pairs.small.clone(),
            sha256: settings.small_sha256.clone().unwrap_or_else(|| "0".repeat(64)),
        },
        data_sha256: settings.outcomes_sha256.clone(),
        seed: settings.seed,
        threads: settings.threads,
    };
    let (fitted, scored) = scores::fit(&fit, &fit_settings);
    let fit: Vec<Row<'_>> = fit.into_iter().zip(scored).collect();
    let (calibration, held_out) = (scored_by(&fitted, calibration), scored_by(&fitted, held_out));
    let splits = Splits { fit, calibration, held_out };
    let target = (settings.max_quality_loss, settings.confidence);
    let chosen = choose(&splits.fit, settings.policy, target).ok_or_else(|| {
        CalibrateError::NoCandidate(if fitted.notes.is_empty() {
            format!("no fit of {}", settings.policy.map_or("any policy", PolicyKind::as_str))
        } else {
            fitted.notes.join("; ")
        })
    })?;
    Ok(assemble(pairs, settings, (&splits, fitted, chosen)))
}

fn scored_by<'a>(fitted: &Fitted, rows: Vec<&'a Pair>) -> Vec<Row<'a>> {
    rows.into_iter().map(|pair| (pair, scores::score(&fitted.right, pair))).collect()
}

fn check(pairs: &Pairs, settings: &Settings) -> Result<(), CalibrateError> {
    if pairs.pairs.len() < ROWS_MIN {
        return Err(CalibrateError::TooFew(pairs.pairs.len()));
    }
    let (value, name) = (settings.max_quality_loss, "max-quality-loss");
    if !(0.0..=1.0).contains(&value) {
        return Err(CalibrateError::OutOfRange { name, value, range: "0..=1" });
    }
    let (value, name) = (settings.confidence, "confidence");
    if !(0.5..1.0).contains(&value) {
        return Err(CalibrateError::OutOfRange { name, value, range: "0.5..1" });
    }
    Ok(())
}

struct Splits<'a> {
    fit: Vec<Row<'a>>,
    calibration: Vec<Row<'a>>,
    held_out: Vec<Row<'a>>,
}

/// The cheapest candidate at a target, by cross-fitted scores of the fit split: the rows that will test its threshold
/// have no part in choosing it.
fn choose(
    fit: &[Row<'_>],
    policy: Option<PolicyKind>,
    (target, confidence): (f64, f64),
) -> Option<Candidate> {
    let scored: Vec<Scored> = fit.iter().map(|(_, scored)| *scored).collect();
    let wanted = |candidate: &Candidate| policy.is_none_or(|policy| policy == candidate.kind);
    let has_prices = fit.iter().any(|(pair, _)| pair.large_cost_usd > 0.0);
    let cost = |candidate: &Candidate| {
        let choices = candidate.choices(fit);
        let found = thresholds(&choices, &grid(&choices), (&[target], 1.0 - confidence));
        let found = found.first().copied();
        // Without prices, calls of large are what there is to save.
        let price = |found: Threshold| if has_prices { found.cost_usd_per_1k } else { found.large_share };
        // Of policies that save nothing, the one that orders rows best.
        let order = crate::metrics::routing::apgr(&crate::metrics::routing::curve(&choices)).unwrap_or(0.0);
        (found.map_or(f64::INFINITY, price), -order)
    };
    let priced =
        Candidate::all(&scored).into_iter().filter(wanted).map(|candidate| (cost(&candidate), candidate));
    let least = priced.min_by(|(a, _), (b, _)| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    least.map(|(_, candidate)| candidate)
}

/// For every target its threshold, and whom `cascade-route` tries at all: a limit that is right for one target would
/// keep a more generous one from sparing calls.
fn table(splits: &Splits<'_>, chosen: Candidate, settings: &Settings, targets: &[f64]) -> Vec<Threshold> {
    let row = |&target: &f64| {
        let candidate = match chosen.kind {
            PolicyKind::CascadeRoute if target != settings.max_quality_loss => {
                choose(&splits.fit, Some(chosen.kind), (target, settings.confidence)).unwrap_or(chosen)
            }
            _ => chosen,
        };
        let grid = grid(&candidate.choices(&splits.fit));
        let choices = candidate.choices(&splits.calibration);
        let found = thresholds(&choices, &grid, (&[target], 1.0 - settings.confidence));
        found.into_iter().map(move |found| Threshold { route_below: candidate.route_below, ..found })
    };
    targets.iter().flat_map(row).collect()
}

fn assemble(
    pairs: &Pairs,
    settings: &Settings,
    (splits, fitted, chosen): (&Splits<'_>, Fitted, Candidate),
) -> Calibration {
    let mut targets = TARGETS.to_vec();
    targets.push(settings.max_quality_loss);
    targets.sort_by(f64::total_cmp);
    targets.dedup();
    let table = table(splits, chosen, settings, &targets);
    let asked = table.iter().rev().find(|row| row.max_quality_loss <= settings.max_quality_loss);
    let asked = asked.and_then(|row| row.score_min);
    let unseen: Vec<Row<'_>> = splits.calibration.iter().chain(&splits.held_out).copied().collect();
    let choices = chosen.choices(&unseen);
    let ordering = ordering(&choices, &small_right(&unseen, chosen.kind), settings.seed);
    let verdict = verdict(settings, (splits, &chosen), (asked, ordering.apgr_ci));
    let held: Vec<&Pair> = splits.held_out.iter().map(|(pair, _)| *pair).collect();
    let decided =
        decide_all(&chosen, &splits.held_out, if verdict.routes { Ok(asked) } else { Err(verdict.constant) });
    let mut why = verdict.why;
    fitted.notes.iter().for_each(|note| why += &format!("; {note}"));
    Calibration {
        format: FORMAT.to_owned(),
        version: VERSION,
        policy: chosen.kind,
        routes: verdict.routes,
        why,
        constant: verdict.constant,
        small: pairs.small.clone(),
        large: pairs.large.clone(),
        confidence: settings.confidence,
        max_quality_loss: settings.max_quality_loss,
        right: fitted.right,
        route_below: chosen.route_below,
        thresholds: table,
        curve: curve_points(&choices, settings.seed),
        held_out: performance(&decided, settings.seed),
        ordering,
        slices: slices(&held, &decided),
        references: references(splits),
        data: Data {
            outcomes_sha256: settings.outcomes_sha256.clone(),
            seed: settings.seed,
            fit: splits.fit.len() as u64,
            calibration: splits.calibration.len() as u64,
            held_out: splits.held_out.len() as u64,
            unpaired: pairs.unpaired.rows(),
        },
    }
}

/// How likely small is right, for rows' order among themselves and their calibration; 0 where nothing tells.
fn small_right(rows: &[Row<'_>], kind: PolicyKind) -> Vec<f64> {
    rows.iter().map(|(_, scored)| scored.of(kind).map_or(0.0, |chances| chances.small)).collect()
}

struct Verdict {
    routes: bool,
    constant: Role,
    why: String,
}

/// Whether routing pays, by what can be said with confidence.
fn verdict(
    settings: &Settings,
    (splits, chosen): (&Splits<'_>, &Candidate),
    (asked, apgr_ci): (Option<f64>, Option<[f64; 2]>),
) -> Verdict {
    let (target, confidence) = (settings.max_quality_loss, settings.confidence);
    let not = |constant, why: String| Verdict { routes: false, constant, why };
    let on_calibration = decide_all(chosen, &splits.calibration, Err(Role::Small));
    let losses: Vec<f64> =
        on_calibration.iter().map(|row| row.choice.large.quality - row.choice.small.quality).collect();
    if bound::keeps_target(&losses, target, 1.0 - confidence) {
        let why = format!(
            "small alone loses at most {target} against large, with confidence {confidence}: it \
                           answers everything"
        );
        return not(Role::Small, why);
    }
    if asked.is_none() {
        let rows = splits.calibration.len();
        let why = format!(
            "on {rows} calibration rows no threshold could be shown to lose at most {target} with confidence \
             {confidence}; allow more, or label more rows: large answers everything"
        );
        return not(Role::Large, why);
    }
    let Some([low, high]) = apgr_ci else {
        return not(
            Role::Large,
            "large is not better than small on these rows, and small alone could not be \
                                 shown to keep the target: large answers everything"
                .to_owned(),
        );
    };
    let name = chosen.kind.as_str();
    if low <= 0.5 {
        let why = format!(
            "{name} can't be told from random mixing (APGR {low:.3} to {high:.3}, random has 0.5): \
                           large answers everything"
        );
        return not(Role::Large, why);
    }
    let unseen: Vec<Row<'_>> = splits.calibration.iter().chain(&splits.held_out).copied().collect();
    let decided = decide_all(chosen, &unseen, Ok(asked));
    let saved = saved_ci(&decided, settings.seed);
    let has_prices = unseen.iter().any(|(pair, _)| pair.large_cost_usd > 0.0);
    if has_prices && saved[0] <= 0.0 {
        let why = format!(
            "{name} can't be shown to cost less than large alone, small's cost included (saved per 1,000: {:.4} \
             to {:.4} USD): large answers everything",
            1e3 * saved[0],
            1e3 * saved[1]
        );
        return not(Role::Large, why);
    }
    let paid = if has_prices {
        format!("saves {:.4} to {:.4} USD per 1,000 requests", 1e3 * saved[0], 1e3 * saved[1])
    } else {
        "saves calls of large (no prices are known)".to_owned()
    };
    let why = format!(
        "{name} loses at most {target} against large with confidence {confidence}, {paid}, and orders requests \
         better than chance (APGR {low:.3} to {high:.3})"
    );
    Verdict { routes: true, constant: Role::Large, why }
}

fn references(splits: &Splits<'_>) -> Vec<Reference> {
    let rows = || splits.fit.iter().chain(&splits.calibration).chain(&splits.held_out);
    let all = Evidence::OF_ANSWER.into_iter().chain([Evidence::HeadLogit]);
    let reference = |signal: Evidence| {
        let mut values: Vec<f64> =
            rows().filter_map(|(pair, scored)| scores::signal(signal, pair, scored)).collect();
        values.sort_by(f64::total_cmp);
        let quantiles = (0..=QUANTILE_STEPS)
            .map(|step| quantile(&values, step as f64 / QUANTILE_STEPS as f64, 0.0))
            .collect();
        (!values.is_empty()).then_some(Reference { signal, quantiles })
    };
    all.filter_map(reference).collect()
}

#[cfg(test)]
pub(crate) mod testing {
    use contract::{LayerState, Reading, Signals};
    use policy::calibrator::sigmoid;

    use super::*;
    use crate::fit::random::SplitMix;

    /// Pairs whose difficulty shows in small's reading a little, and in its answer more, by `knows`.
    pub(crate) fn pairs(n: usize, knows: f64) -> Pairs {
        let mut random = SplitMix::new(77);
        let mut pair = |row: usize| {
            let ease = random.normal();
            let small_correct = random.unit() < sigmoid(2.0 * ease);
            let large_correct = small_correct && random.unit() < 0.97 || random.unit() < sigmoid(2.0 + ease);
            let tokens = 20 + random.below(60) as u32;
            let mean = -0.05 - 0.25 * sigmoid(-knows * ease - 0.3 * random.normal());
            let signals = Signals {
                tokens,
                logprob_sum: mean * f64::from(tokens),
                logprob_min: 6.0 * mean - random.unit(),
                entropy_sum: -2.0 * mean * f64::from(tokens),
            };
            let seen = (0.4 * knows * ease + random.normal()) as f32;
            let noise = random.normal() as f32;
            let state = LayerState { layer: 2, last: vec![seen, noise], mean: vec![noise, 1.0] };
            let prompt_tokens = 30 + random.below(300) as u64;
            let reading = Reading {
                prompt_tokens,
                read_tokens: prompt_tokens,
                states: vec![state],
                ..Reading::default()
            };
            Pair {
                id: format!("row-{row}"),
                slices: [("task".to_owned(), format!("t{}", row % 3))].into(),
                small_correct,
                large_correct,
                small_cost_usd: 0.00001,
                reading_cost_usd: 0.000004,
                large_cost_usd: 0.0002,
                prompt_tokens,
                signals,
                reading: Some(reading),
            }
        };
        let (small, large) = ("s".to_owned(), "l".to_owned());
        Pairs { pairs: (0..n).map(&mut pair).collect(), small, large, ..Pairs::default() }
    }

    pub(crate) fn settings() -> Settings {
        Settings {
            max_quality_loss: 0.03,
            confidence: 0.95,
            policy: None,
            small_sha256: Some("0a".repeat(32)),
            outcomes_sha256: "0b".repeat(32),
            seed: 1,
            threads: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{pairs, settings};
    use super::*;

    #[test]
    fn where_answers_show_their_quality_routing_pays() {
        let found = calibrate(&pairs(3000, 3.0), &settings()).unwrap();
        assert!(found.routes, "{}", found.why);
        assert!(found.policy.judges_answers(), "{:?}", found.policy);
        assert!((0.05..0.9).contains(&found.held_out.large_share), "{:?}", found.held_out);
        assert!(found.held_out.realised_loss_ci[0] < 0.03, "{:?}", found.held_out);
        assert!(found.held_out.above_mixing_ci[0] > 0.0, "{:?}", found.held_out);
        assert!(found.ordering.auroc.unwrap() > 0.75 && found.ordering.ece < 0.06, "{:?}", found.ordering);
        // A lower target never calls large less.
        let shares: Vec<f64> = found.thresholds.iter().map(|row| row.large_share).collect();
        assert!(shares.windows(2).all(|pair| pair[0] >= pair[1]), "{shares:?}");
        assert_eq!(found.slices.iter().filter(|slice| slice.by == "task").count(), 3);
        assert_eq!(found.references.len(), 6);
        let text = serde_json::to_string(&found).unwrap();
        let back = Calibration::load(&text).unwrap();
        assert_eq!((back.thresholds.len(), back.why), (found.thresholds.len(), found.why));
    }

    #[test]
    fn the_reading_alone_can_be_asked_for() {
        let asked = Settings { policy: Some(PolicyKind::Route), max_quality_loss: 0.1, ..settings() };
        let found = calibrate(&pairs(3000, 3.0), &asked).unwrap();
        assert_eq!((found.policy, found.routes), (PolicyKind::Route, true), "{}", found.why);
        assert!(found.held_out.large_share < 1.0 && found.route_below.is_none());
    }

    #[test]
    fn a_more_generous_target_tries_more_requests() {
        let asked = Settings { policy: Some(PolicyKind::CascadeRoute), max_quality_loss: 0.02, ..settings() };
        let found = calibrate(&pairs(3000, 3.0), &asked).unwrap();
        let row = |target: f64| found.threshold(target).unwrap();
        assert_eq!(row(0.02).route_below, found.route_below);
        assert!(row(0.1).route_below <= row(0.02).route_below, "{:?}", found.thresholds);
        let shares: Vec<f64> = [0.02, 0.05, 0.1].map(|target| row(target).large_share).to_vec();
        assert!(shares[0] > shares[1] + 0.02 && shares[1] > shares[2] + 0.02, "{shares:?}");
    }

    #[test]
    fn where_nothing_tells_them_apart_it_does_not_route() {
        let mut blind = pairs(2000, 0.0);
        blind.pairs.iter_mut().for_each(|pair| pair.reading = None);
        let found = calibrate(&blind, &settings()).unwrap();
        assert!(!found.routes && found.constant == Role::Large, "{}", found.why);
        assert_eq!(found.held_out.large_share, 1.0);
        assert!(found.why.contains("no head on the reading"), "{}", found.why);
        assert!((found.held_out.cost_usd_per_1k - 0.2).abs() < 1e-9, "{:?}", found.held_out);
    }

    #[test]
    fn where_small_is_as_good_it_answers_everything() {
        let mut equal = pairs(2000, 3.0);
        equal.pairs.iter_mut().for_each(|pair| pair.large_correct = pair.small_correct);
        let found = calibrate(&equal, &settings()).unwrap();
        assert_eq!((found.routes, found.constant), (false, Role::Small), "{}", found.why);
    }

    #[test]
    fn too_few_rows_and_wrong_numbers_are_errors() {
        assert_eq!(calibrate(&pairs(50, 3.0), &settings()).unwrap_err(), CalibrateError::TooFew(50));
        for wrong in [
            Settings { max_quality_loss: 1.5, ..settings() },
            Settings { confidence: 1.0, ..settings() },
            Settings { confidence: f64::NAN, ..settings() },
        ] {
            let error = calibrate(&pairs(200, 3.0), &wrong).unwrap_err();
            assert!(matches!(error, CalibrateError::OutOfRange { .. }), "{error}");
        }
        let found = calibrate(&pairs(150, 3.0), &settings()).unwrap();
        assert!(!found.routes && found.why.contains("label more rows"), "{}", found.why);
    }

    #[test]
    fn splits_are_of_the_stated_sizes_and_stay() {
        let count = |wanted| (0..10_000).filter(|row| split(&row.to_string(), 3) == wanted).count();
        let sizes = [Split::Fit, Split::Calibration, Split::HeldOut].map(count);
        assert!((3_800..4_200).contains(&sizes[0]) && (3_800..4_200).contains(&sizes[1]), "{sizes:?}");
        assert!((1_850..2_150).contains(&sizes[2]));
    }
}
