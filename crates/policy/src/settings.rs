//! The `[policy]` section of the configuration: raw numbers in, validated or refused by name.

use contract::Role;
use serde::{Deserialize, Serialize};

use crate::routing::rules::{self, Rule};

/// Most tokens that may be held back before the policy judges them: a longer wait is no stream.
pub const WINDOW_TOKENS_MAX: u32 = 4096;

/// What becomes of an escalated request when large fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnLargeFailure {
    /// Small answers after all, and the reason says so.
    #[default]
    Small,
    /// The client gets large's error.
    Error,
}

/// When the role that answered before goes on, whatever the policy would say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stickiness {
    /// Never.
    Off,
    /// While tools that it called are answered.
    #[default]
    Tools,
    /// Then, and in the whole conversation.
    Conversation,
}

/// Settings of all policies; each reads what concerns it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicySettings {
    /// The policy's name in [`crate::routing::REGISTRY`].
    pub kind: String,
    /// `cascade`, streaming: small's first tokens that are held back and judged together.
    pub window_tokens: u32,
    /// `cascade`: least confidence, 0..=1, with which small's answer may leave.
    pub confidence_min: f64,
    /// `cascade`: below this probability, 0..=1, small's least likely token lowers the confidence.
    pub token_probability_min: f64,
    /// Policies that may escalate: what to do when large fails after that.
    pub on_large_failure: OnLargeFailure,
    /// When the role that answered before goes on.
    pub sticky: Stickiness,
    /// The calibration's file, or `latest`; absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<String>,
    /// With a calibration: most quality, 0..=1, that may be lost against large; absent: the calibration's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_quality_loss: Option<f64>,
    /// `rules`: who answers where no rule fits.
    pub otherwise: Role,
    /// `rules`: in order; the first that fits decides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

impl Default for PolicySettings {
    fn default() -> Self {
        PolicySettings {
            kind: "cascade".to_owned(),
            window_tokens: 24,
            confidence_min: 0.80,
            token_probability_min: 0.05,
            on_large_failure: OnLargeFailure::Small,
            sticky: Stickiness::Tools,
            calibration: None,
            max_quality_loss: None,
            otherwise: Role::Large,
            rules: Vec::new(),
        }
    }
}

/// Why no policy can be built from the settings.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PolicyError {
    /// No policy has this name.
    #[error("policy.kind = {kind:?} is unknown; known are: {known}")]
    UnknownKind {
        /// What was asked for.
        kind: String,
        /// The names there are, separated by commas.
        known: String,
    },
    /// A number is not in its range.
    #[error("policy.{field} = {value} is out of range; it must lie in {range}")]
    OutOfRange {
        /// The setting.
        field: &'static str,
        /// What it was.
        value: String,
        /// What it may be.
        range: String,
    },
    /// The policy decides by a calibration, and there is none.
    #[error(
        "policy.kind = {kind:?} decides by a calibration; set policy.calibration to what `tandem calibrate` wrote"
    )]
    NeedsCalibration {
        /// The policy.
        kind: String,
    },
    /// The calibration is of another policy.
    #[error(
        "policy.kind = {kind:?}, but the calibration is of {calibrated:?}: set policy.kind to that, or run `tandem \
         calibrate --policy {kind}`"
    )]
    OtherPolicy {
        /// The policy.
        kind: String,
        /// The calibration's.
        calibrated: &'static str,
    },
    /// A rule that can't be.
    #[error("policy.rules[{index}]: {fault}")]
    Rule {
        /// Its place, from 0.
        index: usize,
        /// What is wrong.
        fault: String,
    },
}

impl PolicySettings {
    /// Every number in its range, whichever policy is chosen: a wrong number is a mistake anyway.
    pub fn validate(&self) -> Result<(), PolicyError> {
        if !(1..=WINDOW_TOKENS_MAX).contains(&self.window_tokens) {
            return Err(PolicyError::OutOfRange {
                field: "window_tokens",
                value: self.window_tokens.to_string(),
                range: format!("1..={WINDOW_TOKENS_MAX}"),
            });
        }
        probability("confidence_min", self.confidence_min)?;
        probability("token_probability_min", self.token_probability_min)?;
        probability("max_quality_loss", self.max_quality_loss.unwrap_or(0.0))?;
        rules::validate(&self.rules)
    }
}

fn probability(field: &'static str, value: f64) -> Result<(), PolicyError> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(PolicyError::OutOfRange { field, value: value.to_string(), range: "0..=1".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build;

    fn message_of(settings: &PolicySettings) -> String {
        build(settings).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn the_defaults_build_a_cascade() {
        let settings: PolicySettings = serde_json::from_str("{}").unwrap();
        assert_eq!(settings, PolicySettings::default());
        assert_eq!(build(&settings).unwrap().name(), "cascade");
    }

    #[test]
    fn an_unknown_kind_is_refused_with_the_known_ones() {
        let message = message_of(&PolicySettings { kind: "casacde".into(), ..Default::default() });
        for expected in ["casacde", "small", "large", "cascade"] {
            assert!(message.contains(expected), "{message:?} lacks {expected}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let wrong = |settings: PolicySettings| message_of(&settings);
        let base = PolicySettings::default;
        for value in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(wrong(PolicySettings { confidence_min: value, ..base() }).contains("confidence_min"));
            let message = wrong(PolicySettings { token_probability_min: value, ..base() });
            assert!(message.contains("token_probability_min"), "{message}");
        }
        for value in [0, WINDOW_TOKENS_MAX + 1] {
            assert!(wrong(PolicySettings { window_tokens: value, ..base() }).contains("window_tokens"));
        }
    }

    #[test]
    fn unknown_fields_are_errors() {
        let error = serde_json::from_str::<PolicySettings>(r#"{"confidence":0.5}"#).unwrap_err();
        assert!(error.to_string().contains("confidence"), "{error}");
    }
}
