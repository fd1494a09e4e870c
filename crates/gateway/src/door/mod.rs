//! The door: bytes of a client become a validated [`contract::Request`], or an error that names the
//! field, what is wrong with it and what is allowed. Inside, nothing is checked again.

mod body;
mod chat;
mod completions;
mod fields;
mod messages;
mod options;

use contract::Request;

pub use body::parse as parse_body;
pub use chat::accept as accept_chat;
pub use completions::accept as accept_completion;
pub(crate) use fields::{Fields, Interval};

pub use crate::wire::ApiError;

/// What the door must know besides the body.
#[derive(Debug)]
pub struct Door<'a> {
    /// The backends' names.
    pub models: &'a Models,
    /// Most tokens a request may ask for.
    pub request_tokens_max: Option<u32>,
    /// The client's deadline, from its header.
    pub deadline_ms: Option<u64>,
    /// The id the request will have.
    pub id: String,
}

/// The names that `model` may hold.
#[derive(Clone, Debug)]
pub struct Models {
    /// The small one.
    pub small: String,
    /// The large one.
    pub large: String,
}

impl Models {
    /// All of them, `auto` first, none twice.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::with_capacity(5);
        for name in ["auto", "small", "large", &self.small, &self.large] {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        names
    }
}

/// A request that may come in.
#[derive(Debug)]
pub struct Accepted {
    /// The request.
    pub request: Request,
    /// `stream_options.include_usage`.
    pub include_usage: bool,
    /// Fields nobody knows; they are ignored.
    pub ignored: Vec<String>,
}

#[cfg(test)]
mod tests {
    use contract::Input;
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    fn leaf() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            (-3i32..4).prop_map(Value::from),
            (0.0f64..2.5).prop_map(Value::from),
            "[a-z ]{0,6}".prop_map(Value::from),
            Just(json!("small")),
            Just(json!([{"role": "user", "content": "hi"}])),
            Just(json!([{"role": "tool", "content": [{"type": "text", "text": "x"}], "tool_call_id": "1"}])),
            Just(json!({"include_usage": true})),
            Just(json!({"17": 3.5})),
        ]
    }

    fn value() -> impl Strategy<Value = Value> {
        leaf().prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::hash_map("role|content|type|text|route|5|id", inner, 0..3)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    const NAMES: &str = "model|temperature|top_p|top_k|min_p|repetition_penalty|presence_penalty|logit_bias|\
                         seed|max_tokens|max_completion_tokens|stop|n|stream|stream_options|tandem|tools|\
                         logprobs|top_logprobs|prompt|suffix|best_of|user|unheard_of";

    fn door(models: &Models) -> Door<'_> {
        Door { models, request_tokens_max: Some(1000), deadline_ms: None, id: "x".to_owned() }
    }

    /// What `contract` promises of a request.
    fn is_sound(request: &Request) -> bool {
        let sampling = &request.sampling;
        let input = match &request.input {
            Input::Chat { messages, .. } => !messages.is_empty(),
            Input::Completion { .. } => true,
        };
        input
            && (0.0..=2.0).contains(&sampling.temperature)
            && sampling.top_p > 0.0
            && sampling.top_p <= 1.0
            && (0.0..=1.0).contains(&sampling.min_p)
            && sampling.repetition_penalty > 0.0
            && sampling.presence_penalty.abs() <= 2.0
            && sampling.logit_bias.iter().all(|(_, bias)| bias.abs() <= 100.0)
            && request.max_tokens.is_some_and(|tokens| (1..=1000).contains(&tokens))
            && request.stop.len() <= options::STOP_MAX
            && request.stop.iter().all(|stop| !stop.is_empty())
            && request.top_logprobs.unwrap_or(0) <= 20
            && request.options.max_quality_loss.is_none_or(|loss| (0.0..=1.0).contains(&loss))
    }

    proptest! {
        #[test]
        fn whatever_comes_is_refused_by_name_or_sound(
            fields in proptest::collection::hash_map(NAMES, value(), 0..5),
            messages in value(),
        ) {
            let models = Models { small: "s".to_owned(), large: "l".to_owned() };
            let mut body: Map<String, Value> = fields.into_iter().collect();
            body.insert("messages".to_owned(), messages);
            for accept in [accept_chat, accept_completion] {
                match accept(&door(&models), &body) {
                    Ok(accepted) => prop_assert!(is_sound(&accepted.request), "{:?}", accepted.request),
                    Err(error) => {
                        prop_assert!(error.status == 400 || error.status == 404);
                        prop_assert!(error.param.is_some_and(|param| !param.is_empty()));
                    }
                }
            }
        }

        #[test]
        fn each_field_alone_keeps_the_promise(name in NAMES, value in value()) {
            let models = Models { small: "s".to_owned(), large: "l".to_owned() };
            let mut body = Map::new();
            body.insert("prompt".to_owned(), json!("go"));
            body.insert(name, value);
            if let Ok(accepted) = accept_completion(&door(&models), &body) {
                prop_assert!(is_sound(&accepted.request), "{:?}", accepted.request);
            }
        }
    }
}
