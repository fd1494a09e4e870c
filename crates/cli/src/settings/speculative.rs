//! Stage two of `[speculative]`: whether, and by whom, what local models write is drafted.

use toml::{Table, Value};

use super::LocalSettings;
use crate::context::Context;
use crate::error::CliError;

/// Who drafts for the large model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrafterKind {
    /// Prompt look-up, and a local model whose vocabulary is the same, if there is one.
    Auto,
    /// What followed the same words before.
    PromptLookup,
    /// A smaller model.
    Model,
    /// Both.
    Chain,
}

impl DrafterKind {
    const ALL: [DrafterKind; 4] =
        [DrafterKind::Auto, DrafterKind::PromptLookup, DrafterKind::Model, DrafterKind::Chain];

    /// Its name in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            DrafterKind::Auto => "auto",
            DrafterKind::PromptLookup => "prompt-lookup",
            DrafterKind::Model => "model",
            DrafterKind::Chain => "chain",
        }
    }
}

/// How local models' tokens are drafted.
#[derive(Clone, Debug, PartialEq)]
pub struct SpeculativeSettings {
    /// Whether they are.
    pub enabled: bool,
    /// By whom.
    pub drafter: DrafterKind,
    /// The draft model; `None`: the small model.
    pub model: Option<LocalSettings>,
    /// Whether it drafts with weights of 4 bits, made besides its own.
    pub coarse_weights: bool,
}

impl SpeculativeSettings {
    /// Reads the section.
    ///
    /// # Errors
    /// [`CliError::Usage`] for values that make no sense, [`CliError::Missing`] for a model that is not there.
    pub(super) fn read(mut table: Table, context: &Context) -> Result<Self, CliError> {
        let drafter = match table.remove("drafter").as_ref().and_then(Value::as_str) {
            None => DrafterKind::Auto,
            Some(name) => {
                DrafterKind::ALL.into_iter().find(|kind| kind.as_str() == name).ok_or_else(|| {
                    let known = DrafterKind::ALL.map(DrafterKind::as_str).join(", ");
                    CliError::usage(format!("speculative.drafter is {name:?}; it must be one of {known}"))
                })?
            }
        };
        let model = match table.remove("model").as_ref().and_then(Value::as_str) {
            None => None,
            Some(_) if drafter == DrafterKind::PromptLookup => {
                return Err(CliError::usage(
                    "speculative.model has no meaning with drafter = \"prompt-lookup\"; take one of the two out",
                ));
            }
            Some(text) => {
                Some(LocalSettings::new(text, context).map_err(|error| error.at("speculative.model"))?)
            }
        };
        let mut switch = |name| table.remove(name).as_ref().and_then(Value::as_bool);
        let enabled = switch("enabled").unwrap_or(true);
        let coarse_weights = switch("coarse_weights").unwrap_or(false);
        Ok(SpeculativeSettings { enabled, drafter, model, coarse_weights })
    }

    /// Whether a draft model is asked for by name, so that its absence is an error.
    pub fn asks_for_model(&self) -> bool {
        let names_model = matches!(self.drafter, DrafterKind::Model | DrafterKind::Chain);
        self.enabled && (names_model || self.model.is_some())
    }

    /// The same for a model that is served alone, for which no other drafts.
    #[must_use]
    pub fn alone(&self) -> Self {
        SpeculativeSettings { drafter: DrafterKind::PromptLookup, model: None, ..self.clone() }
    }

    /// The section as a configuration.
    pub(super) fn effective(&self) -> Table {
        let mut keys = Table::new();
        keys.insert("enabled".to_owned(), Value::Boolean(self.enabled));
        keys.insert("drafter".to_owned(), Value::String(self.drafter.as_str().to_owned()));
        let model = self.model.as_ref().map(|model| Value::String(model.reference.to_string()));
        keys.extend(model.map(|model| ("model".to_owned(), model)));
        keys.insert("coarse_weights".to_owned(), Value::Boolean(self.coarse_weights));
        keys
    }
}
