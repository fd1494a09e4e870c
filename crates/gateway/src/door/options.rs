//! The fields that chat and completions share: who answers, how tokens are drawn, when to stop.

use contract::{Options, Priority, Role, Route, Sampling, Target};
use serde_json::{Map, Value};

use super::fields::Interval;
use super::{Door, Fields, Models};
use crate::wire::ApiError;

/// Most stop strings of a request; OpenAI allows 4.
pub(super) const STOP_MAX: usize = 16;
/// Most tokens a request may bias.
pub(super) const LOGIT_BIAS_MAX: usize = 1024;

/// Fields that are read here.
const READ: &[&str] = &[
    "model",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "n",
    "stream",
    "stream_options",
    "tandem",
];

/// Fields of OpenAI that only an upstream understands; they are passed on as they are.
const PASSED_ON: &[&str] = &[
    "response_format",
    "tool_choice",
    "parallel_tool_calls",
    "functions",
    "function_call",
    "user",
    "metadata",
    "store",
    "service_tier",
    "reasoning_effort",
    "verbosity",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "modalities",
    "web_search_options",
];

/// What both kinds of request have.
pub(super) struct Common {
    pub(super) target: Target,
    pub(super) sampling: Sampling,
    pub(super) max_tokens: Option<u32>,
    pub(super) stop: Vec<String>,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    pub(super) options: Options,
    pub(super) passthrough: Map<String, Value>,
    pub(super) ignored: Vec<String>,
}

/// Reads the shared fields; `own` are those the caller reads itself.
pub(super) fn read(door: &Door<'_>, fields: Fields<'_>, own: &[&str]) -> Result<Common, ApiError> {
    one_answer(fields)?;
    let stream = fields.boolean("stream")?.unwrap_or(false);
    let mut passthrough = Map::new();
    let mut ignored = Vec::new();
    for name in fields.names() {
        match fields.get(name) {
            Some(value) if PASSED_ON.contains(&name) => {
                passthrough.insert(name.to_owned(), value.clone());
            }
            _ if READ.contains(&name) || own.contains(&name) || PASSED_ON.contains(&name) => {}
            _ => ignored.push(name.to_owned()),
        }
    }
    Ok(Common {
        target: target(door.models, fields)?,
        sampling: sampling(fields)?,
        max_tokens: max_tokens(door, fields)?,
        stop: stop(fields)?,
        stream,
        include_usage: include_usage(fields, stream)?,
        options: options(fields)?,
        passthrough,
        ignored,
    })
}

fn one_answer(fields: Fields<'_>) -> Result<(), ApiError> {
    match fields.integer("n", 1, 128)? {
        None | Some(1) => Ok(()),
        Some(_) => Err(fields.wrong("n", "1: send the request several times for several answers")),
    }
}

fn target(models: &Models, fields: Fields<'_>) -> Result<Target, ApiError> {
    let Some(name) = fields.string("model")? else { return Ok(Target::Auto) };
    resolve(models, name).ok_or_else(|| ApiError::model_not_found(name, &models.names()))
}

/// Who is meant by a name. Where both backends have one name, small is.
fn resolve(models: &Models, name: &str) -> Option<Target> {
    match name {
        "auto" => Some(Target::Auto),
        "small" => Some(Target::Fixed(Role::Small)),
        "large" => Some(Target::Fixed(Role::Large)),
        name if name == models.small => Some(Target::Fixed(Role::Small)),
        name if name == models.large => Some(Target::Fixed(Role::Large)),
        _ => None,
    }
}

fn sampling(fields: Fields<'_>) -> Result<Sampling, ApiError> {
    let default = Sampling::default();
    let penalty = Interval::closed(-2.0, 2.0);
    let float =
        |name: &str, interval, default| fields.float(name, interval).map(|value| value.unwrap_or(default));
    Ok(Sampling {
        temperature: float("temperature", Interval::closed(0.0, 2.0), default.temperature)?,
        top_p: float("top_p", Interval::above(0.0, 1.0), default.top_p)?,
        top_k: top_k(fields)?,
        min_p: float("min_p", Interval::closed(0.0, 1.0), default.min_p)?,
        repetition_penalty: float(
            "repetition_penalty",
            Interval::above(0.0, 10.0),
            default.repetition_penalty,
        )?,
        presence_penalty: float("presence_penalty", penalty, default.presence_penalty)?,
        frequency_penalty: float("frequency_penalty", penalty, default.frequency_penalty)?,
        logit_bias: logit_bias(fields)?,
        seed: seed(fields)?,
    })
}

/// -1 is how other servers write "off".
fn top_k(fields: Fields<'_>) -> Result<u32, ApiError> {
    let max = i64::from(u32::MAX);
    match fields.get("top_k").map(Value::as_i64) {
        None => Ok(0),
        Some(Some(-1)) => Ok(0),
        Some(Some(k)) if (0..=max).contains(&k) => Ok(u32::try_from(k).unwrap_or(u32::MAX)),
        Some(_) => Err(fields.wrong("top_k", &format!("an integer from 0 (off) to {max}"))),
    }
}

/// Negative seeds are allowed; only being equal matters.
fn seed(fields: Fields<'_>) -> Result<Option<u64>, ApiError> {
    let Some(value) = fields.get("seed") else { return Ok(None) };
    let seed = value.as_i64().map(i64::cast_unsigned).or_else(|| value.as_u64());
    seed.map(Some).ok_or_else(|| fields.wrong("seed", "an integer of 64 bits"))
}

fn logit_bias(fields: Fields<'_>) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(map) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    if map.len() > LOGIT_BIAS_MAX {
        let message =
            format!("logit_bias has {} entries, but at most {LOGIT_BIAS_MAX} are allowed", map.len());
        return Err(ApiError::field("logit_bias", message));
    }
    let entries = Fields::new(map, "logit_bias.");
    map.keys()
        .map(|key| {
            let id: u32 = key.parse().map_err(|_| {
                let message =
                    format!("logit_bias has the key {key:?}, but keys must be token ids such as \"1234\"");
                ApiError::field("logit_bias", message)
            })?;
            let bias = entries.float(key, Interval::closed(-100.0, 100.0))?;
            bias.map(|bias| (id, bias)).ok_or_else(|| entries.wrong(key, "a number from -100 to 100"))
        })
        .collect()
}

fn max_tokens(door: &Door<'_>, fields: Fields<'_>) -> Result<Option<u32>, ApiError> {
    let allowed = door.request_tokens_max.unwrap_or(u32::MAX);
    let mut wanted = None;
    // The newer name wins where a client sends both.
    for name in ["max_completion_tokens", "max_tokens"] {
        let tokens = fields.integer(name, 1, u64::from(allowed))?;
        wanted = wanted.or(tokens.map(|tokens| u32::try_from(tokens).unwrap_or(u32::MAX)));
    }
    Ok(wanted.or(door.request_tokens_max))
}

fn stop(fields: Fields<'_>) -> Result<Vec<String>, ApiError> {
    let allowed = "a string or a list of strings, none empty";
    let texts: Vec<String> = match fields.get("stop") {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(items)) if items.len() > STOP_MAX => {
            let message = format!("stop has {} entries, but at most {STOP_MAX} are allowed", items.len());
            return Err(ApiError::field("stop", message));
        }
        Some(Value::Array(items)) => {
            let texts: Option<Vec<String>> =
                items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
            texts.ok_or_else(|| fields.wrong("stop", allowed))?
        }
        Some(_) => return Err(fields.wrong("stop", allowed)),
    };
    if texts.iter().any(String::is_empty) {
        return Err(ApiError::field(
            "stop",
            "stop holds an empty string, which would end every answer at once",
        ));
    }
    Ok(texts)
}

fn include_usage(fields: Fields<'_>, stream: bool) -> Result<bool, ApiError> {
    let Some(map) = fields.object("stream_options")? else { return Ok(false) };
    if !stream {
        return Err(ApiError::field("stream_options", "stream_options is only allowed when stream is true"));
    }
    Ok(Fields::new(map, "stream_options.").boolean("include_usage")?.unwrap_or(false))
}

/// The `tandem` object. Unlike OpenAI's fields, unknown ones are errors: they are ours, so a misspelt
/// one would silently do nothing.
fn options(fields: Fields<'_>) -> Result<Options, ApiError> {
    const KNOWN: [&str; 5] = ["route", "max_quality_loss", "speculative", "explain", "priority"];
    let Some(map) = fields.object("tandem")? else { return Ok(Options::default()) };
    if let Some(unknown) = map.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        let message = format!("tandem.{unknown} is unknown; the fields of tandem are {}", KNOWN.join(", "));
        return Err(ApiError {
            code: "unknown_field".to_owned(),
            ..ApiError::field(format!("tandem.{unknown}"), message)
        });
    }
    let tandem = Fields::new(map, "tandem.");
    let route = match tandem.string("route")? {
        None | Some("auto") => Route::Auto,
        Some("small") => Route::Small,
        Some("large") => Route::Large,
        Some(_) => return Err(tandem.wrong("route", "\"auto\", \"small\" or \"large\"")),
    };
    let priority = match tandem.string("priority")? {
        None | Some("interactive") => Priority::Interactive,
        Some("background") => Priority::Background,
        Some(_) => return Err(tandem.wrong("priority", "\"interactive\" or \"background\"")),
    };
    Ok(Options {
        priority,
        route,
        max_quality_loss: tandem.number("max_quality_loss", Interval::closed(0.0, 1.0))?,
        speculative: tandem.boolean("speculative")?,
        explain: tandem.boolean("explain")?.unwrap_or(false),
    })
}
