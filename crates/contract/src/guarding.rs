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
}

impl GuardRecord {
    /// The finding in words, without what was found.
    pub fn reason(&self) -> String {
        let counts: Vec<String> =
            self.entities.iter().map(|(entity, count)| format!("{entity} ({count})")).collect();
        format!("the guard {} found {} in {}", self.guard, counts.join(", "), self.channel.as_str())
    }
}
