//! `tandem render`: the chat template's output, exactly.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use engine::template::{ChatTemplate, RenderInput};
use engine::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::context::{Context, in_file};
use crate::error::CliError;
use crate::{input, output};

/// Show what a model's chat template makes of messages, exactly
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  echo '[{\"role\":\"user\",\"content\":\"Hello\"}]' | \
                        tandem render qwen2.5-coder-0.5b --messages -")]
pub struct Args {
    /// A .gguf file, a catalogue name, or hf:OWNER/REPO/FILE
    #[arg(value_name = "REF")]
    reference: String,
    /// A file with a JSON list of messages, as in the OpenAI API; - is stdin
    #[arg(long, value_name = "FILE", required_unless_present = "lines", conflicts_with = "lines")]
    messages: Option<PathBuf>,
    /// A file with a JSON list of tools, as in the OpenAI API
    #[arg(long, value_name = "FILE", conflicts_with = "lines")]
    tools: Option<PathBuf>,
    /// Leave out the beginning of the assistant's answer
    #[arg(long)]
    no_generation_prompt: bool,
    /// A file of JSON lines {"messages", "tools", "add_generation_prompt"}; one line {"text"} comes out for each
    #[arg(long, value_name = "FILE")]
    lines: Option<PathBuf>,
}

/// One conversation; what is left out is as the command's flags say.
#[derive(Deserialize)]
struct Line {
    messages: Value,
    #[serde(default)]
    tools: Option<Value>,
    add_generation_prompt: Option<bool>,
}

#[derive(Serialize)]
struct Rendered {
    text: String,
}

/// A template with what it needs of its model.
pub struct Renderer {
    template: ChatTemplate,
    bos_token: String,
    eos_token: String,
    now_unix_s: i64,
}

/// Runs the command.
///
/// # Errors
/// If the model has no chat template, or it refuses the messages.
pub fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let renderer = Renderer::new(&args.reference, context)?;
    if let Some(lines) = &args.lines {
        return input::json_lines(lines, |line: Line| {
            output::json(&renderer.render(&line, !args.no_generation_prompt)?)
        });
    }
    let Some(messages) = &args.messages else {
        return Err(CliError::usage("give --messages FILE or --lines FILE"));
    };
    let tools = args.tools.as_deref().map(input::json).transpose()?;
    let line = Line { messages: input::json(messages)?, tools, add_generation_prompt: None };
    let rendered = renderer.render(&line, !args.no_generation_prompt)?;
    if context.json { output::json(&rendered) } else { output::text(&rendered.text) }
}

impl Renderer {
    /// The template of a model.
    ///
    /// # Errors
    /// If the model can't be had, or has none.
    pub fn new(reference: &str, context: &Context) -> Result<Self, CliError> {
        let path = context.resolve(reference)?;
        let gguf = context.open_gguf(reference)?;
        let tokenizer = Tokenizer::from_gguf(&gguf).map_err(|error| in_file(&path, &error.into()))?;
        let template = ChatTemplate::from_gguf(&gguf).map_err(|error| in_file(&path, &error.into()))?;
        let template = template.ok_or_else(|| {
            let path = path.display();
            CliError::failed(format!(
                "{path} has no chat template: it is a base model; use `tandem generate`"
            ))
        })?;
        let text_of = |id: Option<u32>| {
            id.map(|id| String::from_utf8_lossy(tokenizer.piece(id)).into_owned()).unwrap_or_default()
        };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Renderer {
            bos_token: text_of(tokenizer.bos()),
            eos_token: text_of(tokenizer.eos()),
            now_unix_s: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            template,
        })
    }

    /// The prompt for an answer to `messages`.
    ///
    /// # Errors
    /// If they are no messages, or the template refuses them.
    pub fn prompt(&self, messages: Value) -> Result<String, CliError> {
        let line = Line { messages, tools: None, add_generation_prompt: None };
        self.render(&line, true).map(|rendered| rendered.text)
    }

    fn render(&self, line: &Line, add_generation_prompt: bool) -> Result<Rendered, CliError> {
        if !line.messages.is_array() {
            return Err(CliError::usage("`messages` must be a list of {\"role\", \"content\"} objects"));
        }
        let tools = line.tools.as_ref().filter(|tools| !tools.is_null());
        if tools.is_some_and(|tools| !tools.is_array()) {
            return Err(CliError::usage("`tools` must be a list, or null"));
        }
        let input = RenderInput {
            messages: &line.messages,
            tools,
            add_generation_prompt: line.add_generation_prompt.unwrap_or(add_generation_prompt),
            bos_token: &self.bos_token,
            eos_token: &self.eos_token,
            now_unix_s: self.now_unix_s,
        };
        self.template.render(&input).map(|text| Rendered { text }).map_err(CliError::failed)
    }
}
