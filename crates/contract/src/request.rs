//! What a client asked for, validated: inside Tandem a [`Request`] is known to be well-formed.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// The two roles of Tandem; each is filled by a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The small model, read first.
    Small,
    /// The large model, dearer and better.
    Large,
}

impl Role {
    /// The role's name as it stands in JSON, headers and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Small => "small",
            Role::Large => "large",
        }
    }
}

/// Who the client wants the answer from (the `model` field).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// `auto`: the configured policy decides.
    Auto,
    /// One role by its name, or by the name of the backend that fills it.
    Fixed(Role),
}

/// `tandem.route` of a request: `auto` leaves it to the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Route {
    /// The policy decides.
    #[default]
    Auto,
    /// Small answers.
    Small,
    /// Large answers.
    Large,
}

/// `tandem.priority` of a request: who goes first where not all can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Somebody waits for the answer.
    #[default]
    Interactive,
    /// Takes what interactive requests leave.
    Background,
}

/// The `tandem` object of a request: Tandem's extension of OpenAI's format.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Forces a role for this request.
    pub route: Route,
    /// Most quality this request may lose against always-large, in 0..=1.
    pub max_quality_loss: Option<f64>,
    /// Switches speculative decoding for this request.
    pub speculative: Option<bool>,
    /// Puts the decision into the answer's `tandem` object.
    pub explain: bool,
    /// Who goes first.
    pub priority: Priority,
}

/// Who speaks in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageRole {
    /// Instructions of the application (`developer` is read as this).
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// A tool's result.
    Tool,
}

/// A call of a tool that the assistant made earlier in the conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The client's or model's identifier.
    pub id: String,
    /// Always `function` in OpenAI's format today.
    #[serde(rename = "type")]
    pub kind: String,
    /// `{"name": …, "arguments": …}`, as received.
    pub function: serde_json::Value,
}

/// One message of a conversation. Serialises to OpenAI's shape, which chat templates read too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: MessageRole,
    /// The text; several text parts are joined without a separator. Absent when only tools are called.
    pub content: Option<String>,
    /// The speaker's name, if given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Tools the assistant called in this message.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The call that a `tool` message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// What the client marked as retrieved, byte ranges of `content`, for guards. Never passed on.
    #[serde(skip)]
    pub retrieved: Vec<Range<usize>>,
}

impl Message {
    /// A message of plain text.
    pub fn text(role: MessageRole, content: impl Into<String>) -> Self {
        Message {
            role,
            content: Some(content.into()),
            name: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
            retrieved: Vec::new(),
        }
    }
}

/// What is to be answered or continued.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Input {
    /// A conversation, never empty.
    Chat {
        /// The conversation so far, at least one message.
        messages: Vec<Message>,
        /// Tool definitions in OpenAI's shape, for the template or the upstream.
        tools: Vec<serde_json::Value>,
    },
    /// Raw text to continue.
    Completion {
        /// The text.
        prompt: String,
    },
}

/// What a request goes on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Continued {
    /// Its last messages answer calls of tools.
    ToolCalls,
    /// A conversation that was answered before.
    Conversation,
}

/// Who is behind what a request goes on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continues {
    /// What.
    pub what: Continued,
    /// Who wrote it.
    pub role: Role,
}

/// How the next token is drawn. Defaults are OpenAI's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sampling {
    /// 0 is greedy; otherwise finite and in 0..=2.
    pub temperature: f32,
    /// Nucleus mass in (0, 1]; 1 is off.
    pub top_p: f32,
    /// Keeps the k likeliest tokens; 0 is off.
    pub top_k: u32,
    /// Drops tokens below this share of the likeliest one; 0 is off.
    pub min_p: f32,
    /// Divides (or multiplies, if negative) the logits of tokens seen before; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from the logits of tokens that were generated before.
    pub presence_penalty: f32,
    /// Subtracted per earlier occurrence among the generated tokens.
    pub frequency_penalty: f32,
    /// Added to single tokens' logits, by token id.
    pub logit_bias: Vec<(u32, f32)>,
    /// Same seed, same text. `None`: derived from the request's id.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

/// One validated request. The gateway makes it; backends and policies trust it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Unique, made by the gateway (`chatcmpl-…`, `cmpl-…`).
    pub id: String,
    /// Text to answer or continue.
    pub input: Input,
    /// Who should answer.
    pub target: Target,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Most tokens of answer; `None`: up to the context's end.
    pub max_tokens: Option<u32>,
    /// Texts that end the answer, not included in it. At most 16, none empty.
    pub stop: Vec<String>,
    /// Wanted log-probabilities: `Some(n)` gives the chosen token's and the n likeliest.
    pub top_logprobs: Option<u8>,
    /// Whether the client reads the answer as it is made.
    pub stream: bool,
    /// The client's deadline from the request's arrival, milliseconds.
    pub deadline_ms: Option<u64>,
    /// Tandem's extension.
    pub options: Options,
    /// OpenAI fields that only an upstream understands (`response_format`, `tool_choice`, `user`, …).
    pub passthrough: serde_json::Map<String, serde_json::Value>,
    /// Who answered before, as far as the gateway remembers; never what the client says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<Continues>,
}

impl Request {
    /// A request for a whole answer that leaves everything else open.
    pub fn new(id: impl Into<String>, input: Input) -> Self {
        Request {
            id: id.into(),
            input,
            target: Target::Auto,
            sampling: Sampling::default(),
            max_tokens: None,
            stop: Vec::new(),
            top_logprobs: None,
            stream: false,
            deadline_ms: None,
            options: Options::default(),
            passthrough: serde_json::Map::new(),
            continues: None,
        }
    }

    /// The role the client forces, by `model` or by `tandem.route`; the latter wins.
    pub fn forced_role(&self) -> Option<Role> {
        match (self.options.route, &self.target) {
            (Route::Small, _) => Some(Role::Small),
            (Route::Large, _) => Some(Role::Large),
            (Route::Auto, Target::Fixed(role)) => Some(*role),
            (Route::Auto, Target::Auto) => None,
        }
    }

    /// All text of the input, messages separated by newlines; for rules, guards and estimates.
    pub fn text(&self) -> String {
        match &self.input {
            Input::Completion { prompt } => prompt.clone(),
            Input::Chat { messages, .. } => {
                let texts: Vec<&str> = messages.iter().filter_map(|m| m.content.as_deref()).collect();
                texts.join("\n")
            }
        }
    }
}
