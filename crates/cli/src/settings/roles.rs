//! Who fills a role: a local model or an upstream. Stage two of `[small]` and `[large]`.

use std::ops::RangeInclusive;
use std::path::Path;

use backends::openai::MaxTokensField;
use backends::{OpenaiBackend, OpenaiSettings, Secret};
use contract::Price;
use engine::decoder::{BATCH_TOKENS_MAX, LayerSet};
use planner::split::{KvKind, Wanted};
use serde::Deserialize;
use store::Reference;
use toml::Table;

use super::keys::{LOCAL_ONLY, UPSTREAM_ONLY};
use super::typed;
use crate::context::Context;
use crate::error::CliError;

/// The pair that is served when nothing else is said.
const SMALL_DEFAULT: &str = "qwen2.5-coder-0.5b";
const LARGE_DEFAULT: &str = "qwen2.5-coder-1.5b";
/// What an upstream's model is called until the upstream has been asked.
const UNNAMED_MODEL: &str = "default";
/// Most requests that a local model answers at once.
const SEQUENCES_MAX: u32 = 256;
/// Tokens of a pass.
const BATCH_TOKENS: RangeInclusive<u32> = 16..=BATCH_TOKENS_MAX as u32;
/// Longest sequence and largest KV cache of a local model, tokens.
const TOKENS_MAX: u32 = 1 << 24;

/// Longest time after which an idle model leaves memory, seconds: a month.
const IDLE_SECONDS_MAX: u32 = 31 * 86_400;

/// Who fills a role.
#[derive(Clone, Debug, PartialEq)]
pub enum RoleSettings {
    /// A model in this process.
    Local(LocalSettings),
    /// An OpenAI-compatible server.
    Upstream(Box<UpstreamSettings>),
}

/// A model in this process.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalSettings {
    /// Which.
    pub reference: Reference,
    /// What clients call it.
    pub name: String,
    /// What its tokens cost.
    pub price: Price,
    /// How it is to run; what is left open is chosen by the memory there is.
    pub wanted: Wanted,
    /// Seconds without a request after which the model leaves memory; `None`: never.
    pub idle_unload_seconds: Option<u32>,
    /// Layers whose hidden states heads look at. No key sets them: whoever brings the heads does.
    pub reading_layers: LayerSet,
}

/// An upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamSettings {
    /// How it is reached.
    pub openai: OpenaiSettings,
    /// The variable that its key came from.
    pub api_key_env: Option<String>,
    /// Whether the settings name the model; otherwise the upstream is asked for its first one.
    pub is_named: bool,
}

/// The keys of a role; all are optional.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRole {
    model: Option<String>,
    price: Option<Price>,
    context_tokens: Option<u32>,
    sequences: Option<u32>,
    kv_tokens: Option<u32>,
    batch_tokens: Option<u32>,
    kv_type: Option<String>,
    idle_unload_seconds: Option<u32>,
    url: Option<String>,
    api_key_env: Option<String>,
    stream: Option<bool>,
    logprobs: Option<bool>,
    max_tokens_field: Option<MaxTokensField>,
    connect_timeout_ms: Option<u64>,
    first_byte_timeout_ms: Option<u64>,
    idle_timeout_ms: Option<u64>,
    total_timeout_ms: Option<u64>,
    connect_retries_max: Option<u32>,
    response_bytes_max: Option<usize>,
}

impl RoleSettings {
    /// Checks a section's keys.
    ///
    /// # Errors
    /// [`CliError`] naming the key.
    pub fn read(section: &'static str, table: Table, context: &Context) -> Result<Self, CliError> {
        let other = if table.contains_key("url") { LOCAL_ONLY } else { UPSTREAM_ONLY };
        if let Some(key) = other.iter().find(|key| table.contains_key(**key)) {
            let why = if table.contains_key("url") { "with a url" } else { "without a url" };
            return Err(CliError::usage(format!(
                "{section}.{key} has no meaning {why}; take one of the two out"
            )));
        }
        let raw: RawRole = typed(section, table)?;
        check_price(section, raw.price.unwrap_or_default())?;
        if raw.url.is_some() {
            Ok(RoleSettings::Upstream(Box::new(raw.upstream(section, context)?)))
        } else {
            Ok(RoleSettings::Local(raw.local(section, context)?))
        }
    }
}

impl LocalSettings {
    /// A model with everything left open, free of charge.
    ///
    /// # Errors
    /// If `text` names no model.
    pub fn new(text: &str, context: &Context) -> Result<Self, CliError> {
        let reference = context.reference(text)?;
        if let Reference::File(path) = &reference
            && !path.is_file()
        {
            return Err(CliError::missing(format!("there is no file {}; check the path", path.display())));
        }
        Ok(LocalSettings {
            name: name_of(&reference),
            reference,
            price: Price::default(),
            wanted: Wanted {
                context_tokens: None,
                sequences: None,
                kv_tokens: None,
                batch_tokens: None,
                kv: KvKind::F16,
            },
            idle_unload_seconds: None,
            reading_layers: LayerSet::default(),
        })
    }
}

impl RawRole {
    fn local(self, section: &'static str, context: &Context) -> Result<LocalSettings, CliError> {
        let default = if section == "small" { SMALL_DEFAULT } else { LARGE_DEFAULT };
        let text = self.model.as_deref().unwrap_or(default);
        let model =
            LocalSettings::new(text, context).map_err(|error| error.at(&format!("{section}.model")))?;
        let in_range = |key: &str, value: Option<u32>, range: RangeInclusive<u32>| match value {
            Some(value) if !range.contains(&value) => {
                Err(CliError::usage(format!("{section}.{key} is {value}; it must be in {range:?}")))
            }
            value => Ok(value),
        };
        let kv = self.kv_type.as_deref().unwrap_or(KvKind::F16.as_str());
        let wanted = Wanted {
            context_tokens: in_range("context_tokens", self.context_tokens, 1..=TOKENS_MAX)?,
            sequences: in_range("sequences", self.sequences, 1..=SEQUENCES_MAX)?,
            kv_tokens: in_range("kv_tokens", self.kv_tokens, 1..=TOKENS_MAX)?,
            batch_tokens: in_range("batch_tokens", self.batch_tokens, BATCH_TOKENS)?,
            kv: KvKind::ALL.into_iter().find(|kind| kind.as_str() == kv).ok_or_else(|| {
                let known = KvKind::ALL.map(KvKind::as_str).join(", ");
                CliError::usage(format!("{section}.kv_type is {kv:?}; it must be one of {known}"))
            })?,
        };
        // A sequence's token needs a place in every pass.
        if let (Some(sequences), Some(batch)) = (wanted.sequences, wanted.batch_tokens)
            && sequences > batch
        {
            return Err(CliError::usage(format!(
                "{section}.batch_tokens is {batch}, fewer than the {sequences} sequences that write at once"
            )));
        }
        let idle = in_range("idle_unload_seconds", self.idle_unload_seconds, 1..=IDLE_SECONDS_MAX)?;
        Ok(LocalSettings {
            price: self.price.unwrap_or_default(),
            wanted,
            idle_unload_seconds: idle,
            ..model
        })
    }

    fn upstream(self, section: &'static str, context: &Context) -> Result<UpstreamSettings, CliError> {
        let is_named = self.model.is_some();
        let model = self.model.unwrap_or_else(|| UNNAMED_MODEL.to_owned());
        let mut openai = OpenaiSettings::new(self.url.unwrap_or_default(), model);
        if let Some(variable) = &self.api_key_env {
            let key = context.environment().get(variable)?.ok_or_else(|| {
                CliError::usage(format!(
                    "{section}.api_key_env names the environment variable {variable}, which is not set"
                ))
            })?;
            openai.api_key = Some(Secret::new(key));
            openai.api_key_source = Some(format!("the environment variable {variable}"));
        }
        openai.price = self.price.unwrap_or_default();
        openai.context_tokens = self.context_tokens;
        fn set<T>(to: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *to = value;
            }
        }
        set(&mut openai.stream, self.stream);
        set(&mut openai.logprobs, self.logprobs);
        set(&mut openai.max_tokens_field, self.max_tokens_field);
        set(&mut openai.connect_timeout_ms, self.connect_timeout_ms);
        set(&mut openai.first_byte_timeout_ms, self.first_byte_timeout_ms);
        set(&mut openai.idle_timeout_ms, self.idle_timeout_ms);
        set(&mut openai.total_timeout_ms, self.total_timeout_ms);
        set(&mut openai.connect_retries_max, self.connect_retries_max);
        set(&mut openai.response_bytes_max, self.response_bytes_max);
        // The backend checks URL, key and limits; it connects to nothing yet.
        OpenaiBackend::new(openai.clone())
            .map_err(|error| CliError::usage(format!("[{section}]: {error}")))?;
        Ok(UpstreamSettings { openai, api_key_env: self.api_key_env, is_named })
    }
}

fn check_price(section: &str, price: Price) -> Result<(), CliError> {
    let rates = [
        ("input_usd_per_mtok", price.input_usd_per_mtok),
        ("cached_input_usd_per_mtok", price.cached_input_usd_per_mtok.unwrap_or_default()),
        ("output_usd_per_mtok", price.output_usd_per_mtok),
    ];
    match rates.iter().find(|(_, usd)| !usd.is_finite() || *usd < 0.0) {
        Some((name, usd)) => {
            Err(CliError::usage(format!("{section}.price.{name} is {usd}; a price is a number from 0 up")))
        }
        None => Ok(()),
    }
}

/// The catalogue's name, or that of the file.
fn name_of(reference: &Reference) -> String {
    let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    match reference {
        Reference::Catalogue(name) => name.clone(),
        Reference::File(path) | Reference::Folder(path) => stem(path),
        Reference::Hub { file, .. } => stem(Path::new(file)),
    }
}
