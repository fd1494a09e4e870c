//! Chat templates: from messages to the text that the model was trained on.
//!
//! Model files carry a Jinja template. It is rendered as Hugging Face's `transformers` does:
//! `trim_blocks`, `lstrip_blocks`, loop controls, Python's string methods, `tojson` as
//! `json.dumps`, `raise_exception` and `strftime_now`. A template is a stranger's program, so its
//! work, its memory, its depth and its output have limits.

mod json;
mod time;

use std::fmt;
use std::io;
use std::sync::LazyLock;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind};
use regex::Regex;

use crate::gguf::{Gguf, GgufError};

/// Bytes of a template, at most (the largest known have about 20,000).
pub const TEMPLATE_BYTES_MAX: usize = 64 << 10;
/// Bytes of one tag without its string literals, at most: minijinja folds constants in time
/// quadratic in an expression's length.
pub const TAG_CODE_BYTES_MAX: usize = 4096;
/// Bytes of a rendered prompt, at most.
pub const OUTPUT_BYTES_MAX: usize = 16 << 20;
/// Work of one rendering, at most: about one unit per instruction and one per 64 bytes made, so
/// that it bounds memory to about 32 MiB and time to a fraction of a second. A message takes some
/// 50 units.
pub const FUEL_MAX: u64 = 1 << 19;
/// Stack that a template is parsed and rendered on; only what is touched costs memory. minijinja
/// recurses over expressions and values without a limit of its own: under 500 bytes a level
/// (measured, optimized), with at most one level per byte of template and per unit of fuel.
const STACK_BYTES: usize = 384 << 20;
/// Depth of blocks, macros and includes, at most, as minijinja counts (ten for a macro call).
pub const RECURSION_MAX: usize = 200;
/// Depth of messages and tools, at most.
pub const INPUT_DEPTH_MAX: usize = 128;

const KEY: &str = "tokenizer.chat_template";
const NAME: &str = "chat_template";

/// Why a template is unusable or refuses its input.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The file's template is not a string.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A template over the limit.
    #[error("the chat template has {bytes} bytes; the limit is {TEMPLATE_BYTES_MAX}")]
    TooLong {
        /// Its size.
        bytes: usize,
    },
    /// A tag over the limit.
    #[error("a tag of the chat template has more than {TAG_CODE_BYTES_MAX} bytes of code")]
    TagTooLong,
    /// Not a Jinja template, or one with features that are not supported.
    #[error("the chat template does not parse: line {line}: {message}")]
    Syntax {
        /// Where, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The template itself refused the messages with `raise_exception`.
    #[error("the model's chat template refuses these messages: {message}")]
    Raised {
        /// The template's words.
        message: String,
    },
    /// The template worked longer than allowed.
    #[error("the chat template takes more than {FUEL_MAX} steps for these messages")]
    TooMuchWork,
    /// The result is over the limit.
    #[error("the rendered chat is longer than {OUTPUT_BYTES_MAX} bytes")]
    OutputTooLong,
    /// The system gives no thread to run the template on.
    #[error("cannot start a thread with a stack of {STACK_BYTES} bytes for the chat template: {0}")]
    NoThread(io::Error),
    /// Messages or tools nested too deeply.
    #[error("messages or tools are nested more than {INPUT_DEPTH_MAX} deep")]
    InputTooDeep,
    /// The template failed on these messages, e.g. because a field is missing.
    #[error("the chat template fails on these messages: line {line}: {message}")]
    Render {
        /// Where, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
}

/// What a template is rendered with.
#[derive(Clone, Copy, Debug)]
pub struct RenderInput<'a> {
    /// The conversation: a list of objects with `role` and `content`, as in the OpenAI API.
    pub messages: &'a serde_json::Value,
    /// The functions the model may call: a list, as in the OpenAI API.
    pub tools: Option<&'a serde_json::Value>,
    /// Whether to end with the beginning of the assistant's answer.
    pub add_generation_prompt: bool,
    /// Text of the model's beginning-of-sequence token.
    pub bos_token: &'a str,
    /// Text of the model's end-of-sequence token.
    pub eos_token: &'a str,
    /// The time that `strftime_now` tells, in seconds since 1970, UTC.
    pub now_unix_s: i64,
}

/// A parsed chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate").field("source", &self.source).finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// The template of a model file; `None` if it has none (a base model).
    ///
    /// # Errors
    /// See [`TemplateError`].
    pub fn from_gguf(gguf: &Gguf) -> Result<Option<ChatTemplate>, TemplateError> {
        gguf.str(KEY)?.map(ChatTemplate::parse).transpose()
    }

    /// Parses a template.
    ///
    /// # Errors
    /// [`TemplateError::TooLong`], [`TemplateError::TagTooLong`], [`TemplateError::Syntax`].
    pub fn parse(source: &str) -> Result<ChatTemplate, TemplateError> {
        if source.len() > TEMPLATE_BYTES_MAX {
            return Err(TemplateError::TooLong { bytes: source.len() });
        }
        if longest_tag_code(source) > TAG_CODE_BYTES_MAX {
            return Err(TemplateError::TagTooLong);
        }
        let environment = on_deep_stack(|| {
            let mut environment = environment()?;
            environment.add_template_owned(NAME, without_generation_blocks(source))?;
            Ok(environment)
        })?;
        let environment = environment.map_err(|error| syntax_error(&error))?;
        Ok(ChatTemplate { environment, source: source.to_owned() })
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// [`TemplateError::Raised`] if the template refuses it; otherwise see [`TemplateError`].
    pub fn render(&self, input: &RenderInput<'_>) -> Result<String, TemplateError> {
        on_deep_stack(|| self.render_here(input))?
    }

    fn render_here(&self, input: &RenderInput<'_>) -> Result<String, TemplateError> {
        let now_unix_s = input.now_unix_s;
        let strftime = move |format: &str| time::strftime(format, now_unix_s);
        let context = Value::from_pairs([
            ("messages", json::to_template(input.messages)?),
            ("tools", input.tools.map_or(Ok(Value::from(())), json::to_template)?),
            ("add_generation_prompt", Value::from(input.add_generation_prompt)),
            ("bos_token", Value::from(input.bos_token)),
            ("eos_token", Value::from(input.eos_token)),
            ("strftime_now", Value::from_function(strftime)),
        ]);
        let template = self.environment.get_template(NAME).map_err(render_error)?;
        let mut output = Bounded::default();
        template.render_captured_to(context, &mut output).map_err(render_error)?;
        // The engine writes whole strings, so this is UTF-8.
        String::from_utf8(output.bytes).map_err(|error| TemplateError::Render {
            line: 0,
            message: format!("its output is not UTF-8: {error}"),
        })
    }
}

/// Runs `work` on a thread with [`STACK_BYTES`].
fn on_deep_stack<R: Send>(work: impl FnOnce() -> R + Send) -> Result<R, TemplateError> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("chat-template".to_owned()).stack_size(STACK_BYTES);
        let thread = builder.spawn_scoped(scope, work).map_err(TemplateError::NoThread)?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_recursion_limit(RECURSION_MAX);
    environment.set_fuel(Some(FUEL_MAX));
    environment.add_filter("tojson", |value: Value, options: Kwargs| json::dumps(&value, &options));
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        let error = Error::new(ErrorKind::InvalidOperation, message.clone());
        Err(error.with_source(Raised { message }))
    });
    Ok(environment)
}

/// Bytes of the longest tag, not counting string literals.
fn longest_tag_code(source: &str) -> usize {
    let mut rest = source.as_bytes();
    let mut longest = 0;
    loop {
        rest = match rest {
            [] => return longest,
            [b'{', b'#', after @ ..] => {
                let end = after.windows(2).position(|pair| pair == b"#}");
                end.and_then(|end| after.get(end + 2..)).unwrap_or_default()
            }
            [b'{', b'{' | b'%', after @ ..] => {
                let (code_bytes, after) = skip_tag(after);
                longest = longest.max(code_bytes);
                after
            }
            [_, after @ ..] => after,
        }
    }
}

/// Bytes of code of the tag that begins here, and what follows it.
fn skip_tag(tag: &[u8]) -> (usize, &[u8]) {
    let (mut rest, mut code_bytes, mut open_braces) = (tag, 0, 0_usize);
    loop {
        rest = match rest {
            [] => return (code_bytes, rest),
            [b'}', b'}', after @ ..] if open_braces == 0 => return (code_bytes, after),
            [b'%', b'}', after @ ..] if open_braces == 0 => return (code_bytes, after),
            [quote @ (b'"' | b'\''), after @ ..] => skip_literal(*quote, after),
            [byte, after @ ..] => {
                match byte {
                    b'{' => open_braces += 1,
                    b'}' => open_braces = open_braces.saturating_sub(1),
                    _ => {}
                }
                code_bytes += 1;
                after
            }
        }
    }
}

/// What follows the string literal whose opening quote was just passed.
fn skip_literal(quote: u8, mut rest: &[u8]) -> &[u8] {
    loop {
        rest = match rest {
            [b'\\', _, after @ ..] => after,
            [byte, after @ ..] if *byte == quote => return after,
            [_, after @ ..] => after,
            [] => return rest,
        }
    }
}

/// `{% generation %}` marks the assistant's words for training and changes nothing else.
fn without_generation_blocks(source: &str) -> String {
    static BLOCK: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").ok());
    let Some(block) = &*BLOCK else { return source.to_owned() };
    let statement = |found: &regex::Captures<'_>| {
        let statement = if found.get(2).is_some() { "endif" } else { "if true" };
        let mark = |group| found.get(group).map_or("", |mark| mark.as_str());
        format!("{{%{} {statement} {}%}}", mark(1), mark(3))
    };
    block.replace_all(source, statement).into_owned()
}

/// Travels inside an [`Error`] from `raise_exception` to the caller.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Raised {
    message: String,
}

/// Takes output up to the limit.
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
#[error("output over the limit")]
struct OverLimit;

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > OUTPUT_BYTES_MAX {
            return Err(io::Error::other(OverLimit));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn syntax_error(error: &Error) -> TemplateError {
    TemplateError::Syntax { line: error.line().unwrap_or_default(), message: message_of(error) }
}

fn render_error(error: Error) -> TemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        if let Some(raised) = current.downcast_ref::<Raised>() {
            return TemplateError::Raised { message: raised.message.clone() };
        }
        match current.downcast_ref::<Error>().map(Error::kind) {
            Some(ErrorKind::OutOfFuel) => return TemplateError::TooMuchWork,
            Some(ErrorKind::WriteFailure) => return TemplateError::OutputTooLong,
            _ => cause = current.source(),
        }
    }
    TemplateError::Render { line: error.line().unwrap_or_default(), message: message_of(&error) }
}

fn message_of(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_measured_without_their_literals() {
        for (source, expected) in [
            ("plain {text} }}", 0),
            ("{{x}}{%if y%}", 4),
            ("{{'%} }} \\' ' ~ \"'\"}}abcdefgh", 3),
            ("{{ {1:{2:3}} }}", 11),
            ("{# {{ abcdef #}{{1}}", 1),
            ("{{ unfinished", 11),
            ("{{ 'unfinished }}", 1),
            ("{#", 0),
        ] {
            assert_eq!(longest_tag_code(source), expected, "{source}");
        }
    }
}
