//! What guards report of a request: [`GuardRecord`]. Never a text that was found, only what kind it was.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Where guarded text comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    /// The request, but for what tools brought.
    User,
    /// Messages of the role `tool`, and what the client marks as retrieved.
    Tool,
    /// The answer.
    Output,
}

impl Channel {
    /// Its name in settings and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Channel::User => "user",
            Channel::Tool => "tool",
            Channel::Output => "output",
        }
    }
}

/// What a guard does about what it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuardAction {
    /// Refuses the request, or ends the answer.
    Block,
    /// Puts placeholders in place of what was found.
    Redact,
    /// Has the large model answer.
    Escalate,
    /// Only tells.
    Flag,
}

impl GuardAction {
    /// Its name in settings, metrics and records.
    pub fn as_str(self) -> &'static str {
        match self {
            GuardAction::Block => "block",
            GuardAction::Redact => "redact",
            GuardAction::Escalate => "escalate",
            GuardAction::Flag => "flag",
        }
    }
}

/// What one guard found in one channel of a request, and did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardRecord {
    /// The guard's name.
    pub guard: String,
    /// Where.
    pub channel: Channel,
    /// What it did.
    pub action: GuardAction,
    /// How sure it was, in 0..=1: of all it found the most.
    pub score: f64,
    /// How often it found which entity.
    pub entities: BTreeMap<String, u64>,
    /// Why it could not say of everything whether something is there; what it did then is in `action`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether there was more text than it looks at.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_truncated: bool,
}

impl GuardRecord {
    /// Takes in what the same guard said of more of the same text. The graver action stands: one that ends the text is
    /// the last.
    pub fn merge(&mut self, later: GuardRecord) {
        self.score = self.score.max(later.score);
        if later.is_finding() || !self.is_finding() {
            self.action = later.action;
        }
        for (entity, count) in later.entities {
            *self.entities.entry(entity).or_default() += count;
        }
        self.error = self.error.take().or(later.error);
        self.is_truncated |= later.is_truncated;
    }

    /// Whether something was found. Otherwise it tells of what could not be looked at.
    pub fn is_finding(&self) -> bool {
        !self.entities.is_empty()
    }

    /// What it is counted as: the action, or what kept it from looking.
    pub fn outcome(&self) -> &'static str {
        match (self.is_finding(), &self.error) {
            (_, Some(_)) => "error",
            (false, None) if self.is_truncated => "truncated",
            _ => self.action.as_str(),
        }
    }

    /// The finding in words, without what was found.
    pub fn reason(&self) -> String {
        if let Some(error) = self.error.as_ref().filter(|_| !self.is_finding()) {
            return format!("the guard {} could not judge {}: {error}", self.guard, self.channel.as_str());
        }
        let counts: Vec<String> =
            self.entities.iter().map(|(entity, count)| format!("{entity} ({count})")).collect();
        format!("the guard {} found {} in {}", self.guard, counts.join(", "), self.channel.as_str())
    }
}
