//! A `[[guard]]` of the configuration: [`GuardSettings`].

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use contract::{Channel, GuardAction, GuardRecord, Role};
use serde::{Deserialize, Serialize};

use super::kinds;

/// Most guards in a chain.
pub const GUARDS_MAX: usize = 64;

/// What a guard looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Requests.
    #[default]
    Input,
    /// Answers.
    Output,
    /// Both.
    Both,
}

impl Stage {
    /// Whether requests are looked at.
    pub fn is_input(self) -> bool {
        self != Stage::Output
    }

    /// Whether answers are looked at.
    pub fn is_output(self) -> bool {
        self != Stage::Input
    }
}

/// Settings of guards of all kinds; each reads what concerns it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardSettings {
    /// Its name in metrics, records and refusals.
    pub name: String,
    /// What it looks at.
    #[serde(default)]
    pub stage: Stage,
    /// Its kind, a name in [`kinds::REGISTRY`].
    pub kind: String,
    /// What it does about what it finds.
    pub action: GuardAction,
    /// The channels of requests that it looks at.
    #[serde(default = "both_channels")]
    pub channels: Vec<Channel>,
    /// `pattern`: the entities to look for; with no entities, patterns and words: those that are usual. `token-head`:
    /// those of the head's to look for; none: all.
    #[serde(default)]
    pub entities: Vec<String>,
    /// `pattern`: regular expressions.
    #[serde(default)]
    pub patterns: Vec<String>,
    /// `pattern`: words and phrases.
    #[serde(default)]
    pub deny: Vec<String>,
    /// With `redact` on requests: whether answers get the values back.
    #[serde(default)]
    pub restore: bool,
    /// Least score, 0..=1, at which it acts; `None`: what the kind or the head knows to be good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
    /// `head` and `token-head`: the name of one that is shipped, or its file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    /// `topic`: what is not to be talked about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<Topic>,
    /// `topic`: sentences of what may be talked about; anything else is not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// `model`: the family of the judge, a name in [`super::judge::REGISTRY`] [default: policy].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// `model`: what is not allowed, in words [default: the family's own].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// `model`: who judges [default: small].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Role>,
    /// Kinds that ask a model: longest time that the judgement of one text may take.
    #[serde(default = "timeout_default", skip_serializing_if = "is_timeout_default")]
    pub timeout_ms: u64,
    /// Kinds that ask a model: what is done with what can't be judged.
    #[serde(default, skip_serializing_if = "OnError::is_default")]
    pub on_error: OnError,
    /// Kinds that ask a model, on answers: tokens after which an answer is judged again, and so held back.
    #[serde(default = "window_default", skip_serializing_if = "is_window_default")]
    pub window_tokens: u32,
}

/// What is done with what a guard can't judge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// It is blocked.
    #[default]
    Block,
    /// It passes, and that is told.
    Pass,
}

impl OnError {
    fn is_default(&self) -> bool {
        *self == OnError::default()
    }
}

/// Something that is not to be talked about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topic {
    /// Its name in records.
    pub name: String,
    /// Sentences that are about it.
    pub examples: Vec<String>,
}

/// The names of the keys, for who suggests one.
pub const KEYS: &[&str] = &[
    "name",
    "stage",
    "kind",
    "action",
    "channels",
    "entities",
    "patterns",
    "deny",
    "restore",
    "threshold",
    "head",
    "topics",
    "allow",
    "template",
    "policy",
    "backend",
    "timeout_ms",
    "on_error",
    "window_tokens",
];

/// Longest `timeout_ms`: ten minutes.
const TIMEOUT_MS_MAX: u64 = 600_000;
/// Allowed `window_tokens`.
const WINDOW_TOKENS: RangeInclusive<u32> = 8..=1024;

fn timeout_default() -> u64 {
    2000
}

fn is_timeout_default(value: &u64) -> bool {
    *value == timeout_default()
}

fn window_default() -> u32 {
    64
}

fn is_window_default(value: &u32) -> bool {
    *value == window_default()
}

fn both_channels() -> Vec<Channel> {
    vec![Channel::User, Channel::Tool]
}

/// Why a guard can't be built.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GuardError {
    /// A name that is empty, too long or holds signs that metrics don't.
    #[error("guard.name is {name:?}; give 1 to 64 letters, digits, - or _")]
    Name {
        /// It.
        name: String,
    },
    /// Two guards of one name.
    #[error("there are two guards named {name:?}")]
    Twice {
        /// The name.
        name: String,
    },
    /// More guards than there may be.
    #[error("there are more than {GUARDS_MAX} guards")]
    Guards,
    /// No kind has this name.
    #[error("guard {name:?}: kind = {kind:?} is unknown; known are: {known}")]
    UnknownKind {
        /// The guard.
        name: String,
        /// What was asked for.
        kind: String,
        /// The kinds there are.
        known: String,
    },
    /// No family of judges has this name.
    #[error("guard {name:?}: template = {template:?} is unknown; known are: {known}")]
    UnknownTemplate {
        /// The guard.
        name: String,
        /// What was asked for.
        template: String,
        /// The families there are.
        known: String,
    },
    /// Settings that contradict each other.
    #[error("guard {name:?}: {problem}")]
    Settings {
        /// The guard.
        name: String,
        /// What is wrong and what to do.
        problem: &'static str,
    },
    /// The head that is named is not there.
    #[error("guard {name:?}: there is no head {head:?} for this small model; {known}")]
    NoHead {
        /// The guard.
        name: String,
        /// What was asked for.
        head: String,
        /// What there is.
        known: String,
    },
    /// An entity that nothing finds.
    #[error("there is no entity {entity:?}; known are: {known}")]
    UnknownEntity {
        /// What was asked for.
        entity: String,
        /// The names there are.
        known: String,
    },
    /// An expression that can't be used.
    #[error("the pattern {pattern:?} can't be used: {why}")]
    Pattern {
        /// It.
        pattern: String,
        /// Why.
        why: String,
    },
    /// A word that can't be denied.
    #[error("a word in deny has {bytes} bytes; give 1 to {}", super::pattern::MATCH_BYTES_MAX)]
    Deny {
        /// Its length.
        bytes: usize,
    },
    /// Too many of them.
    #[error("there are more than {limit} patterns or words in deny")]
    TooMany {
        /// The limit.
        limit: usize,
    },
}

impl GuardSettings {
    /// Whether the settings make sense together.
    ///
    /// # Errors
    /// [`GuardError`], naming the guard.
    pub fn validate(&self) -> Result<(), GuardError> {
        let wrong = |problem| self.wrong(problem);
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if self.name.is_empty() || self.name.len() > 64 || !self.name.bytes().all(is_name) {
            return Err(GuardError::Name { name: self.name.chars().take(64).collect() });
        }
        if !kinds::REGISTRY.iter().any(|entry| entry.name == self.kind) {
            let known: Vec<&str> = kinds::REGISTRY.iter().map(|entry| entry.name).collect();
            return Err(GuardError::UnknownKind {
                name: self.name.clone(),
                kind: self.kind.clone(),
                known: known.join(", "),
            });
        }
        if self.threshold.is_some_and(|threshold| !(0.0..=1.0).contains(&threshold)) {
            return wrong("threshold must lie in 0..=1");
        }
        if self.action == GuardAction::Escalate && self.stage.is_output() {
            return wrong("escalate has no meaning once an answer leaves; set stage = \"input\"");
        }
        if self.restore && (self.action != GuardAction::Redact || !self.stage.is_input()) {
            return wrong("restore needs action = \"redact\" and a stage with input");
        }
        if self.channels.contains(&Channel::Output) || (self.channels.is_empty() && self.stage.is_input()) {
            return wrong(
                "channels must be of \"user\" and \"tool\"; whether answers are guarded, stage says",
            );
        }
        if !(1..=TIMEOUT_MS_MAX).contains(&self.timeout_ms) {
            return wrong("timeout_ms must lie in 1..=600000");
        }
        if !WINDOW_TOKENS.contains(&self.window_tokens) {
            return wrong("window_tokens must lie in 8..=1024");
        }
        Ok(())
    }

    /// Refuses what only a `pattern` can do or needs, for kinds that ask a model.
    ///
    /// # Errors
    /// [`GuardError::Settings`].
    pub(super) fn check_asked(&self) -> Result<(), GuardError> {
        if self.action == GuardAction::Redact {
            return self.wrong("redact needs to know where something stands, and this kind judges whole texts; take block, escalate or flag");
        }
        if !(self.entities.is_empty() && self.patterns.is_empty() && self.deny.is_empty()) {
            return self.wrong("entities, patterns and deny are for kind = \"pattern\"");
        }
        Ok(())
    }

    /// A record of nothing yet.
    pub(super) fn record(&self, channel: Channel) -> GuardRecord {
        GuardRecord {
            guard: self.name.clone(),
            channel,
            action: self.action,
            score: 0.0,
            entities: BTreeMap::new(),
            error: None,
            is_truncated: false,
        }
    }

    /// Says what is wrong with these settings.
    ///
    /// # Errors
    /// Always.
    pub(super) fn wrong<T>(&self, problem: &'static str) -> Result<T, GuardError> {
        Err(GuardError::Settings { name: self.name.clone(), problem })
    }
}
