//! Folds of a cross-validation: groups stay together, labels are spread evenly.

use std::collections::BTreeMap;

use super::random::SplitMix;

/// The fold of every row, in `0..folds`: rows of one group share one, and each fold gets about the same number of
/// rows of either label. With a group for each row this is a stratified split.
pub fn folds(groups: &[usize], labels: &[bool], (folds, seed): (usize, u64)) -> Vec<usize> {
    let mut sizes: BTreeMap<usize, [usize; 2]> = BTreeMap::new();
    for (group, label) in groups.iter().zip(labels) {
        sizes.entry(*group).or_default()[usize::from(*label)] += 1;
    }
    let mut order: Vec<(usize, [usize; 2])> = sizes.into_iter().collect();
    SplitMix::new(seed).shuffle(&mut order);
    // The largest first, while there is room to even them out.
    order.sort_by_key(|(_, size)| std::cmp::Reverse(size[0] + size[1]));
    let totals = labels.iter().fold([0_usize; 2], |mut totals, label| {
        totals[usize::from(*label)] += 1;
        totals
    });
    let mut filled = vec![[0_usize; 2]; folds.max(1)];
    let mut fold_of = BTreeMap::new();
    for (group, size) in order {
        // How full a fold would be, each label counted by its share of all.
        let fullness = |fold: &[usize; 2]| -> f64 {
            let part = |label: usize| (fold[label] + size[label]) as f64 / totals[label].max(1) as f64;
            part(0).powi(2) + part(1).powi(2) - filled_alone(fold, &totals)
        };
        let best = (0..filled.len()).min_by(|a, b| fullness(&filled[*a]).total_cmp(&fullness(&filled[*b])));
        let best = best.unwrap_or(0);
        filled[best][0] += size[0];
        filled[best][1] += size[1];
        fold_of.insert(group, best);
    }
    groups.iter().map(|group| fold_of[group]).collect()
}

fn filled_alone(fold: &[usize; 2], totals: &[usize; 2]) -> f64 {
    let part = |label: usize| fold[label] as f64 / totals[label].max(1) as f64;
    part(0).powi(2) + part(1).powi(2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rows_without_groups_are_stratified() {
        let labels: Vec<bool> = (0..103).map(|row| row % 4 == 0).collect();
        let groups: Vec<usize> = (0..103).collect();
        let folds = folds(&groups, &labels, (5, 1));
        for fold in 0..5 {
            let count = |label| (0..103).filter(|row| folds[*row] == fold && labels[*row] == label).count();
            assert!((5..=6).contains(&count(true)), "{}", count(true));
            assert!((15..=16).contains(&count(false)), "{}", count(false));
        }
    }

    proptest! {
        #[test]
        fn groups_stay_together_and_no_fold_is_empty(
            groups in proptest::collection::vec(0usize..12, 60..200), seed: u64,
        ) {
            let labels: Vec<bool> = (0..groups.len()).map(|row| row % 3 == 0).collect();
            let folds = folds(&groups, &labels, (4, seed));
            let mut seen = BTreeMap::new();
            for (group, fold) in groups.iter().zip(&folds) {
                prop_assert_eq!(seen.entry(group).or_insert(fold), &fold);
            }
            let kinds: std::collections::BTreeSet<_> = seen.values().collect();
            prop_assert_eq!(kinds.len(), seen.len().min(4));
        }
    }
}
