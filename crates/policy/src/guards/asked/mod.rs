//! Guards that ask a model. An [`Asker`] says, purely, what is to be asked about a text and what the answer means;
//! who carries the question out stands outside.
//!
//! [`texts`] says which texts of a request are judged, [`link`](self) what follows from their scores, and
//! [`holdback`] what of an answer may leave before it is written.

mod decoded;
pub mod holdback;
mod link;
mod nearness;
mod places;
pub mod texts;

use std::collections::BTreeMap;
use std::fmt;

use contract::{Channel, Input, Message, MessageRole, Reading, Request, Role, Sampling, TokenLogprob};

pub use holdback::Holdback;
pub use link::{AskedLink, Verdict};
pub use nearness::Nearness;
pub use places::{Located, PLACES_MAX, Place, Places};
pub use texts::{Texts, Window};

use super::pattern::Span;
use crate::heads::Head;
use crate::token_head::TokenHead;

/// A text to be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged<'a> {
    /// It, free of disguises, case kept.
    pub text: &'a str,
    /// Where it comes from.
    pub channel: Channel,
    /// Of an answer: the end of what the user asked; empty if that is not known.
    pub prompt: &'a str,
}

/// What is to be asked about a text.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// The small model's reading of the text as a user's message, with the states of [`Asker::layers`]. All who ask
    /// for one share it.
    Read,
    /// What a backend would say first.
    Call {
        /// Whom.
        role: Role,
        /// The question: a few tokens, with the likeliest ones beside each. The answer is asked for its meaning after
        /// every token, and cut off once it has one.
        request: Box<Request>,
    },
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answer<'a> {
    /// To [`Ask::Read`].
    Reading(&'a Reading),
    /// To [`Ask::Call`]: what was written so far, token by token where the backend tells them.
    Said {
        /// The tokens with the likeliest ones beside each.
        tokens: &'a [TokenLogprob],
    },
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// How surely the guard is to act, in 0..=1.
    pub value: f64,
    /// What it would act on, as it is counted in records: a word or two, not from the text.
    pub label: String,
    /// Where that is, of an asker that says where: bytes of the text that was judged.
    pub spans: Vec<Span>,
}

impl Score {
    /// A score of what `label` says.
    pub fn new(value: f64, label: impl Into<String>) -> Self {
        Score { value, label: label.into(), spans: Vec::new() }
    }

    /// Of what was found where: the surest counts.
    pub fn of_spans(spans: Vec<Span>) -> Self {
        let surest = spans.iter().max_by(|a, b| a.score.total_cmp(&b.score));
        let (value, label) =
            surest.map_or((0.0, String::new()), |span| (f64::from(span.score), span.entity.to_owned()));
        Score { value, label, spans }
    }
}

/// One guard's question. It keeps nothing of a request.
pub trait Asker: fmt::Debug + Send + Sync {
    /// The least score at which it acts, where the settings name none.
    fn threshold(&self) -> f64 {
        0.5
    }

    /// Layers of the small model's reading that it looks at; none: it asks for no reading, or only for what every
    /// reading has.
    fn layers(&self) -> Vec<u32> {
        Vec::new()
    }

    /// Layers of whose states at every token it makes where something stands. With any it [`Asker::locates`], asks for
    /// nothing but a reading, and looks at every message of a request.
    fn token_layers(&self) -> Vec<u32> {
        Vec::new()
    }

    /// What is asked about a text.
    fn ask(&self, judged: &Judged<'_>) -> Ask;

    /// What the answer means.
    ///
    /// # Errors
    /// If it means nothing; said in words that do not quote the text.
    fn score(&self, answer: &Answer<'_>) -> Result<Score, String>;

    /// Where something stands in a text, by a reading of it with the states of [`Asker::token_layers`].
    ///
    /// # Errors
    /// As [`Asker::score`].
    fn locate(&self, text: &str, reading: &Reading) -> Result<Vec<Span>, String> {
        let _ = (text, reading);
        Err("it does not say where".to_owned())
    }

    /// Whose backend it asks.
    fn role(&self) -> Role {
        Role::Small
    }

    /// Whether it can be asked: it has seen its lessons.
    fn is_ready(&self) -> bool {
        true
    }

    /// Texts whose readings it must have seen before it can be asked; read once, when the small model is there.
    fn lessons(&self) -> Vec<String> {
        Vec::new()
    }

    /// Takes the readings of [`Asker::lessons`] in, in their order. Later calls change nothing.
    ///
    /// # Errors
    /// If nothing can be learnt from them.
    fn learn(&self, readings: &[Reading]) -> Result<(), String> {
        let _ = readings;
        Ok(())
    }
}

/// What askers are made of besides their settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Materials {
    /// The heads, by what `guard.head` says.
    pub heads: BTreeMap<String, Head>,
    /// The token heads, likewise.
    pub token_heads: BTreeMap<String, TokenHead>,
    /// How many layers the small model has.
    pub layers: u32,
}

/// What a backend is asked, to read a text as a user's message.
pub fn reading_request(id: String, text: &str) -> Request {
    let messages = vec![Message::text(MessageRole::User, text)];
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    Request { sampling, max_tokens: Some(1), ..Request::new(id, Input::Chat { messages, tools: Vec::new() }) }
}
