//! One asked guard of a chain, and what follows from its scores: [`AskedLink`].

use std::collections::BTreeMap;
use std::sync::Arc;

use contract::{Channel, GuardAction, GuardRecord, Reading};

use super::super::settings::{GuardSettings, OnError};
use super::{Answer, Ask, Asker, Judged, Score};

/// A guard that asks a model.
#[derive(Clone, Debug)]
pub struct AskedLink {
    settings: GuardSettings,
    asker: Arc<dyn Asker>,
}

/// What a guard says of a channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// What is done, if anything.
    pub action: Option<GuardAction>,
    /// What is told, if anything.
    pub record: Option<GuardRecord>,
}

impl AskedLink {
    pub(in crate::guards) fn new(settings: GuardSettings, asker: Arc<dyn Asker>) -> Self {
        AskedLink { settings, asker }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// What it does about what it finds.
    pub fn action(&self) -> GuardAction {
        self.settings.action
    }

    /// Longest time that one question may take.
    pub fn timeout_ms(&self) -> u64 {
        self.settings.timeout_ms
    }

    /// Tokens of an answer after which it is judged again.
    pub fn window_tokens(&self) -> u32 {
        self.settings.window_tokens
    }

    /// Whether what it can't judge is blocked.
    pub fn blocks_on_error(&self) -> bool {
        self.settings.on_error == OnError::Block
    }

    /// Whether it looks at this channel.
    pub fn looks_at(&self, channel: Channel) -> bool {
        match channel {
            Channel::Output => self.settings.stage.is_output(),
            _ => self.settings.stage.is_input() && self.settings.channels.contains(&channel),
        }
    }

    /// The least score at which it acts.
    pub fn threshold(&self) -> f64 {
        self.settings.threshold.map_or_else(|| self.asker.threshold(), f64::from)
    }

    /// What it asks, and what the answers mean.
    pub fn asker(&self) -> &dyn Asker {
        &*self.asker
    }

    /// What is asked about a text.
    pub fn ask(&self, judged: &Judged<'_>) -> Ask {
        self.asker.ask(judged)
    }

    /// What the answer means, in 0..=1.
    ///
    /// # Errors
    /// If it means nothing, without quoting the text.
    pub fn score(&self, answer: &Answer<'_>) -> Result<Score, String> {
        let score = self.asker.score(answer)?;
        if !score.value.is_finite() {
            return Err("the score is no number".to_owned());
        }
        Ok(Score { value: score.value.clamp(0.0, 1.0), ..score })
    }

    /// Whether it says where in a text something stands.
    pub fn locates(&self) -> bool {
        !self.asker.token_layers().is_empty()
    }

    /// What a reading of a text with its tokens' states says, if it [`AskedLink::locates`].
    ///
    /// # Errors
    /// As [`AskedLink::score`].
    pub fn locate(&self, text: &str, reading: &Reading) -> Result<Score, String> {
        let threshold = self.threshold();
        let mut spans = self.asker.locate(text, reading)?;
        spans.retain(|span| f64::from(span.score) >= threshold);
        Ok(Score::of_spans(spans))
    }

    /// Whether answers get back what it redacts.
    pub fn restores(&self) -> bool {
        self.settings.restore
    }

    /// A record of nothing yet.
    pub(in crate::guards) fn record(&self, channel: Channel) -> GuardRecord {
        self.settings.record(channel)
    }

    /// What follows from a channel's scores. The highest counts; one that could not be had makes the guard act as
    /// `on_error` says, unless it acts anyway.
    pub fn verdict(&self, channel: Channel, scores: &[Result<Score, String>], is_truncated: bool) -> Verdict {
        let threshold = self.threshold();
        let known = scores.iter().filter_map(|score| score.as_ref().ok());
        let highest = known.clone().map(|score| score.value).fold(0.0, f64::max);
        let mut found: BTreeMap<String, u64> = BTreeMap::new();
        // Who says where has nothing to act on where nothing was found, however low the threshold.
        let acts = |score: &&Score| score.value >= threshold && !(self.locates() && score.spans.is_empty());
        for score in known.filter(acts) {
            *found.entry(score.label.clone()).or_default() += 1;
        }
        let error = scores.iter().find_map(|score| score.as_ref().err());
        let action = match (found.is_empty(), error) {
            (true, None) => None,
            (true, Some(_)) => self.blocks_on_error().then_some(GuardAction::Block),
            (false, _) => Some(self.settings.action),
        };
        let is_told = action.is_some() || error.is_some() || is_truncated;
        let record = is_told.then(|| GuardRecord {
            guard: self.settings.name.clone(),
            channel,
            action: action.unwrap_or(GuardAction::Flag),
            score: highest,
            entities: found,
            error: error.cloned(),
            is_truncated,
        });
        Verdict { action, record }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug)]
    struct Fixed;

    impl Asker for Fixed {
        fn ask(&self, _: &Judged<'_>) -> Ask {
            Ask::Read
        }

        fn score(&self, _: &Answer<'_>) -> Result<Score, String> {
            Ok(Score::new(f64::NAN, "odd"))
        }
    }

    fn link(on_error: &str) -> AskedLink {
        let settings = json!({"name": "g", "kind": "head", "action": "escalate", "on_error": on_error});
        AskedLink::new(serde_json::from_value(settings).unwrap(), Arc::new(Fixed))
    }

    #[test]
    fn the_highest_score_counts_and_an_error_acts_as_it_should() {
        let slow = || Err("it took too long".to_owned());
        let ok = |value| Ok(Score::new(value, "odd"));
        for (on_error, scores, action) in [
            ("block", vec![ok(0.1), ok(0.4)], None),
            ("block", vec![ok(0.1), ok(0.5)], Some(GuardAction::Escalate)),
            ("block", vec![ok(0.1), slow()], Some(GuardAction::Block)),
            ("pass", vec![ok(0.1), slow()], None),
            ("pass", vec![slow(), ok(0.9)], Some(GuardAction::Escalate)),
            ("block", vec![], None),
        ] {
            let verdict = link(on_error).verdict(Channel::User, &scores, false);
            assert_eq!(verdict.action, action, "{scores:?}");
            let outcome = verdict.record.as_ref().map(GuardRecord::outcome);
            let expected = match scores.iter().any(Result::is_err) {
                true => Some("error"),
                false => action.map(|_| "escalate"),
            };
            assert_eq!(outcome, expected, "{scores:?}");
        }
        let found = link("block").verdict(Channel::Tool, &[ok(0.9), ok(0.7)], true).record.unwrap();
        assert_eq!((found.score, &found.entities["odd"], found.is_truncated), (0.9, &2, true));
    }

    #[test]
    fn what_was_not_looked_at_is_told() {
        let told = link("block").verdict(Channel::User, &[Ok(Score::new(0.2, "odd"))], true);
        assert_eq!((told.action, told.record.unwrap().outcome()), (None, "truncated"));
    }

    #[test]
    fn a_score_that_is_no_number_is_an_error() {
        let said = Answer::Said { tokens: &[] };
        assert!(link("block").score(&said).is_err());
    }
}
