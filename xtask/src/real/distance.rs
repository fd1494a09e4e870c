//! How far our log-probabilities are from golden ones: [`Distance`].

use serde_json::Value;

use super::golden;

/// Positions of one or more texts, ours beside the golden ones. All in nats.
#[derive(Clone, Debug, Default)]
pub struct Distance {
    /// |ours − golden| of every golden token.
    apart: Vec<f64>,
    /// Ours − golden, of the tokens that do follow.
    next: Vec<f64>,
    positions: usize,
    /// Positions whose likeliest token is the same.
    same_first: usize,
}

/// A position's figures in golden data.
struct Golden<'a> {
    position: u64,
    ids: &'a Value,
    logprobs: &'a Value,
    next: &'a Value,
}

impl Distance {
    /// Takes in the positions of a text that `wanted` holds for. `golden` is a line of
    /// `logits*.jsonl`, `ours` the output of `tandem logits`.
    ///
    /// # Errors
    /// If either lacks something.
    pub fn add(&mut self, golden: &Value, ours: &Value, wanted: impl Fn(u64) -> bool) -> Result<(), String> {
        let ours = golden::list(ours, "positions")?;
        let (ids, logprobs) = (golden::list(golden, "top_ids")?, golden::list(golden, "top_logprobs")?);
        let next = golden::list(golden, "next_logprob")?;
        let positions = golden::ids(golden, "positions")?;
        for (((position, ids), logprobs), next) in positions.into_iter().zip(ids).zip(logprobs).zip(next) {
            let position = u64::from(position);
            if wanted(position) {
                let found = ours.iter().find(|ours| ours["position"] == position);
                let found = found.ok_or_else(|| format!("position {position} is missing from our output"))?;
                self.add_position(&Golden { position, ids, logprobs, next }, found)?;
            }
        }
        Ok(())
    }

    fn add_position(&mut self, golden: &Golden<'_>, ours: &Value) -> Result<(), String> {
        let wrong = |what: &str| format!("position {}: {what}", golden.position);
        let top = top(ours).map_err(|problem| wrong(&problem))?;
        let ids = golden::ids_of(golden.ids).ok_or_else(|| wrong("top_ids"))?;
        let logprobs = golden.logprobs.as_array().ok_or_else(|| wrong("top_logprobs"))?;
        for (id, logprob) in ids.iter().zip(logprobs) {
            let expected = logprob.as_f64().ok_or_else(|| wrong("top_logprobs"))?;
            // One that is missing is at most as likely as our last: the error is that or more.
            let found = top.iter().find(|(found, _)| found == id).or(top.last());
            let (_, found) = found.ok_or_else(|| wrong("our output has no tokens"))?;
            self.apart.push((found - expected).abs());
        }
        self.positions += 1;
        self.same_first += usize::from(top.first().map(|(id, _)| id) == ids.first());
        match (golden.next.as_f64(), ours["next_logprob"].as_f64()) {
            (Some(expected), Some(found)) => self.next.push(found - expected),
            (None, None) => {}
            _ => return Err(wrong("only one side has next_logprob")),
        }
        Ok(())
    }

    /// Mean of |ours − golden|; NaN without positions.
    pub fn mean(&self) -> f64 {
        self.apart.iter().sum::<f64>() / self.apart.len() as f64
    }

    /// Largest of |ours − golden|; NaN if one is, or without positions.
    pub fn max(&self) -> f64 {
        self.apart.iter().copied().reduce(f64::max).filter(|_| self.mean().is_finite()).unwrap_or(f64::NAN)
    }

    /// The value that 99 of 100 of |ours − golden| are at most (nearest rank).
    pub fn p99(&self) -> f64 {
        let mut sorted = self.apart.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() as f64 * 0.99).ceil() as usize;
        rank.checked_sub(1).and_then(|at| sorted.get(at)).copied().unwrap_or(f64::NAN)
    }

    /// Share of positions whose likeliest token is the same.
    pub fn same_first(&self) -> f64 {
        self.same_first as f64 / self.positions as f64
    }

    /// Mean of ours − golden over the tokens that do follow.
    pub fn next_bias(&self) -> f64 {
        self.next.iter().sum::<f64>() / self.next.len() as f64
    }

    /// Positions compared.
    pub fn positions(&self) -> usize {
        self.positions
    }
}

/// `top` of one of our positions: ids with their log-probabilities, likeliest first.
///
/// # Errors
/// If it is something else.
pub fn top(position: &Value) -> Result<Vec<(u32, f64)>, String> {
    let pair = |pair: &Value| {
        let id = pair.get(0)?.as_u64().and_then(|id| u32::try_from(id).ok())?;
        Some((id, pair.get(1)?.as_f64()?))
    };
    let pairs = golden::list(position, "top")?.iter().map(pair).collect::<Option<_>>();
    pairs.ok_or_else(|| "`top` holds something else than [id, logprob]".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn golden_text() -> Value {
        json!({
            "positions": [0, 1],
            "top_ids": [[5, 6], [7, 8]],
            "top_logprobs": [[-0.5, -1.0], [-0.25, -2.0]],
            "next_logprob": [-1.0, null],
        })
    }

    #[test]
    fn the_same_figures_are_not_apart() {
        let ours = json!({"positions": [
            {"position": 0, "top": [[5, -0.5], [6, -1.0]], "next_logprob": -1.0},
            {"position": 1, "top": [[7, -0.25], [8, -2.0]], "next_logprob": null},
        ]});
        let mut distance = Distance::default();
        distance.add(&golden_text(), &ours, |_| true).unwrap();
        assert_eq!((distance.mean(), distance.max(), distance.p99()), (0.0, 0.0, 0.0));
        assert_eq!((distance.same_first(), distance.next_bias(), distance.positions()), (1.0, 0.0, 2));
    }

    #[test]
    fn missing_tokens_count_from_our_last() {
        let ours = json!({"positions": [
            {"position": 0, "top": [[6, -0.5], [9, -3.5]], "next_logprob": -0.5},
            {"position": 1, "top": [[7, -0.25], [8, -2.0]], "next_logprob": null},
        ]});
        let mut distance = Distance::default();
        distance.add(&golden_text(), &ours, |position| position == 0).unwrap();
        // 5 is missing: −3.5 against −0.5; 6 is −0.5 against −1.
        assert_eq!((distance.mean(), distance.max()), (1.75, 3.0));
        assert_eq!((distance.same_first(), distance.next_bias(), distance.positions()), (0.0, 0.5, 1));
    }

    #[test]
    fn missing_positions_are_errors_and_none_are_not_a_number() {
        let ours = json!({"positions": [{"position": 0, "top": [[5, -0.5]], "next_logprob": null}]});
        let mut distance = Distance::default();
        assert!(distance.add(&golden_text(), &ours, |position| position == 1).is_err());
        assert!(distance.add(&golden_text(), &ours, |position| position == 0).is_err());
        let nothing = Distance::default();
        for figure in
            [nothing.mean(), nothing.max(), nothing.p99(), nothing.same_first(), nothing.next_bias()]
        {
            assert!(figure.is_nan());
        }
    }
}
