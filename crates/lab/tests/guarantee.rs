//! The guarantee of calibrations: over many random splits into calibration and test rows, the loss realised on the
//! test rows exceeds the target in at most 5% of them; on made-up outcomes, and on recorded ones.

use std::collections::BTreeMap;

use contract::Signals;
use lab::calibration::candidates::{Candidate, grid, thresholds};
use lab::calibration::pairs::Pair;
use lab::calibration::scores::{FitSettings, Scored, fit, score};
use lab::fit::random::SplitMix;
use lab::metrics::routing::{Choice, escalation_rate, realised_loss};
use policy::calibration::PolicyKind;
use policy::calibrator::sigmoid;
use policy::heads::HeadModel;

/// Recorded outcomes of a pair of models, without texts: a line of names, then a line per row.
const RECORDED: &str = include_str!("data/outcomes-pair.csv");
const COLUMNS: &str =
    "id,task,small_correct,large_correct,prompt_tokens,tokens,logprob_sum,logprob_min,entropy_sum";
const SPLITS: u64 = 200;
const CALIBRATION_ROWS: usize = 500;
/// 5% of the splits, and twice the standard deviation of a binomial count around it.
const EXCEEDED_MAX: u32 = 10 + 6;
const DELTA: f64 = 0.05;

fn recorded(text: &str) -> Vec<Pair> {
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some(COLUMNS));
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        assert_eq!(cells.len(), COLUMNS.split(',').count(), "{line}");
        let number = |cell: usize| cells[cell].parse::<f64>().unwrap();
        Pair {
            id: cells[0].to_owned(),
            slices: BTreeMap::from([("task".to_owned(), cells[1].to_owned())]),
            small_correct: cells[2] == "1",
            large_correct: cells[3] == "1",
            prompt_tokens: number(4) as u64,
            signals: Signals {
                tokens: number(5) as u32,
                logprob_sum: number(6),
                logprob_min: number(7),
                entropy_sum: number(8),
            },
            ..Pair::default()
        }
    };
    lines.map(row).collect()
}

/// Outcomes whose difficulty shows in the answer's signals, with noise.
fn made_up(rows: usize, seed: u64) -> Vec<Pair> {
    let mut random = SplitMix::new(seed);
    let mut pair = |row: usize| {
        let ease = random.normal();
        let small_correct = random.unit() < sigmoid(1.5 * ease);
        let large_correct = random.unit() < sigmoid(1.2 + 1.2 * ease);
        let tokens = 20 + random.below(200) as u32;
        let mean = -0.4 * sigmoid(-1.2 * ease + 0.8 * random.normal());
        Pair {
            id: format!("made-up-{row}"),
            small_correct,
            large_correct,
            prompt_tokens: 40 + random.below(400) as u64,
            signals: Signals {
                tokens,
                logprob_sum: mean * f64::from(tokens),
                logprob_min: 8.0 * mean - random.unit(),
                entropy_sum: -1.8 * mean * f64::from(tokens),
            },
            ..Pair::default()
        }
    };
    (0..rows).map(&mut pair).collect()
}

/// In how many splits the test rows lose more than the target, and the mean share of large calls.
fn exceeded(mut pairs: Vec<Pair>, target: f64) -> (u32, f64) {
    SplitMix::new(1).shuffle(&mut pairs);
    // A third is fitted on, once; the thresholds are tested on rows that no fit has seen.
    let fit_rows = pairs.len() / 3;
    let settings = FitSettings {
        model: HeadModel { name: "small".to_owned(), sha256: "0".repeat(64) },
        data_sha256: String::new(),
        seed: 1,
        threads: 1,
    };
    let fitted_on: Vec<&Pair> = pairs[..fit_rows].iter().collect();
    let (fitted, scored) = fit(&fitted_on, &settings);
    assert!(fitted.right.small.combination.is_some(), "{:?}", fitted.notes);
    let cascade = Candidate { kind: PolicyKind::Cascade, route_below: None };
    let of_fit: Vec<(&Pair, Scored)> = fitted_on.into_iter().zip(scored).collect();
    let grid = grid(&cascade.choices(&of_fit));
    let mut rest: Vec<Choice> =
        pairs[fit_rows..].iter().map(|pair| cascade.choice(pair, &score(&fitted.right, pair))).collect();
    assert!(rest.len() > CALIBRATION_ROWS + 200, "too few rows: {}", rest.len());
    let (mut exceeded, mut large_share) = (0, 0.0);
    for split in 0..SPLITS {
        SplitMix::new(split).shuffle(&mut rest);
        let (calibration, test) = rest.split_at(CALIBRATION_ROWS);
        let threshold = thresholds(calibration, &grid, (&[target], DELTA))[0];
        let to_small = |choice: &Choice| threshold.score_min.is_some_and(|least| choice.score >= least);
        exceeded += u32::from(realised_loss(test, to_small) > target);
        large_share += escalation_rate(test, to_small) / SPLITS as f64;
    }
    (exceeded, large_share)
}

#[test]
fn made_up_outcomes_lose_no_more_than_promised() {
    for (target, seed) in [(0.02, 5), (0.05, 6), (0.1, 7)] {
        let (exceeded, large_share) = exceeded(made_up(2400, seed), target);
        assert!(exceeded <= EXCEEDED_MAX, "target {target}: exceeded in {exceeded} of {SPLITS} splits");
        // Not by sending everything to large.
        assert!(target < 0.05 || large_share < 0.97, "target {target}: {large_share}");
    }
}

#[test]
fn recorded_outcomes_lose_no_more_than_promised() {
    for target in [0.02, 0.05] {
        let (exceeded, _) = exceeded(recorded(RECORDED), target);
        assert!(exceeded <= EXCEEDED_MAX, "target {target}: exceeded in {exceeded} of {SPLITS} splits");
    }
}
