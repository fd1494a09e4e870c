//! Has one local model read many rows: [`Reader`], for commands that train and ask heads.

use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use contract::{Call, Input, Message, ReadOptions, Reading, Request, Sampling};
use engine::decoder::LayerSet;
use gateway::Metrics;
use policy::heads::HeadModel;
use serde::Deserialize;
use store::Sha256;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::budget;
use crate::commands::serve::{io_runtime, loading};
use crate::context::Context;
use crate::drafting::Part;
use crate::error::{CliError, unreadable};
use crate::pair::Pair;
use crate::progress::{Style, counter};
use crate::settings::{self, DrafterKind, Flags, LocalSettings, RoleSettings, SpeculativeSettings};

/// Rows that are read at the same time.
const READS_AT_ONCE: u32 = 16;

/// A row's text: a conversation, or a prompt as it stands.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct RowInput {
    /// Messages in OpenAI's shape.
    messages: Option<Vec<Message>>,
    /// Definitions of tools, with messages.
    #[serde(default)]
    tools: Vec<serde_json::Value>,
    /// Text that no chat template is put around.
    prompt: Option<String>,
}

impl RowInput {
    /// What a backend is asked; `as_chat` makes a prompt a user's message.
    ///
    /// # Errors
    /// If there is neither, or both.
    pub fn input(self, as_chat: bool) -> Result<Input, CliError> {
        match (self.messages, self.prompt) {
            (Some(messages), None) if !messages.is_empty() => Ok(Input::Chat { messages, tools: self.tools }),
            (None, Some(prompt)) if as_chat => Ok(Input::Chat {
                messages: vec![Message::text(contract::MessageRole::User, prompt)],
                tools: self.tools,
            }),
            (None, Some(prompt)) => Ok(Input::Completion { prompt }),
            _ => Err(CliError::usage("a row needs either `messages`, at least one, or `prompt`")),
        }
    }
}

/// A model that reads.
pub struct Reader {
    runtime: Runtime,
    pair: Pair,
    /// The model's name and hash, by which heads know it.
    pub model: HeadModel,
    /// Layers whose states are read.
    pub layers: Vec<u32>,
    shows_progress: bool,
}

impl Reader {
    /// Loads the model, fetched if it is not here, to read those layers that `choose` takes, who is told which model it
    /// is and how many it has.
    ///
    /// # Errors
    /// If it can't be had or loaded, and what `choose` fails with.
    pub fn load(
        reference: &str,
        choose: impl FnOnce(&HeadModel, u32) -> Result<Vec<u32>, CliError>,
        context: &Context,
    ) -> Result<Self, CliError> {
        let settings = settings::load(Flags::default(), context)?;
        let mut local = LocalSettings::new(reference, context)?;
        local.wanted.sequences = Some(READS_AT_ONCE);
        let runtime = io_runtime()?;
        let mut loading = loading(&settings, context, Metrics::new().map_err(CliError::failed)?);
        loading.tells_plan = false;
        loading.style = context.progress_style(Style::Silent);
        loading.queue_max = loading.queue_max.max(READS_AT_ONCE as usize);
        let path = runtime.block_on(context.have(&local.reference, loading.style))?;
        let model = HeadModel { name: local.name.clone(), sha256: sha256(&path)?.to_string() };
        let layers = choose(&model, budget::read(&path)?.spec().layers.len() as u32)?;
        let plain = SpeculativeSettings {
            enabled: false,
            drafter: DrafterKind::PromptLookup,
            model: None,
            coarse_weights: false,
        };
        let mut pair = Pair::single(Part::Small, &RoleSettings::Local(local), &plain)?;
        pair.keep_states(Part::Small, LayerSet::of(layers.iter().copied()));
        runtime.block_on(pair.load(&loading, context))?;
        Ok(Reader { runtime, pair, model, layers, shows_progress: context.stderr_is_terminal })
    }

    /// Reads all inputs; `each` gets their readings in order, with their index.
    ///
    /// # Errors
    /// If an input can't be read, naming its place, and what `each` fails with.
    pub fn read(
        &self,
        inputs: Vec<Input>,
        each: impl FnMut(usize, Reading) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        self.read_with(&ReadOptions { layers: self.layers.clone(), ..ReadOptions::default() }, inputs, each)
    }

    /// The same, with the states at every token.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub fn read_tokens(
        &self,
        inputs: Vec<Input>,
        each: impl FnMut(usize, Reading) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let options = ReadOptions { token_layers: self.layers.clone(), ..ReadOptions::default() };
        self.read_with(&options, inputs, each)
    }

    fn read_with(
        &self,
        options: &ReadOptions,
        inputs: Vec<Input>,
        mut each: impl FnMut(usize, Reading) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let bar = counter("reading", inputs.len() as u64, self.shows_progress);
        self.runtime.block_on(async {
            let mut running: VecDeque<(usize, JoinHandle<_>)> = VecDeque::new();
            let mut inputs = inputs.into_iter().enumerate();
            loop {
                while running.len() < READS_AT_ONCE as usize {
                    let Some((index, input)) = inputs.next() else { break };
                    let call =
                        Call { request: Arc::new(request(index, input)), signals: false, tenant: None };
                    running.push_back((index, tokio::spawn(self.pair.small.read(call, options))));
                }
                let Some((index, reading)) = running.pop_front() else { break };
                let read = reading.await.map_err(|error| CliError::failed(format!("reading: {error}")))?;
                let read = read.map_err(|error| CliError::failed(format!("row {}: {error}", index + 1)))?;
                each(index, read.reading).map_err(|error| error.at(&format!("row {}", index + 1)))?;
                bar.inc(1);
            }
            Ok::<(), CliError>(())
        })?;
        bar.finish_and_clear();
        Ok(())
    }
}

fn request(index: usize, input: Input) -> Request {
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    Request { sampling, max_tokens: Some(1), ..Request::new(format!("row-{index}"), input) }
}

/// The hash of a file.
///
/// # Errors
/// If it can't be read.
pub fn sha256(path: &Path) -> Result<Sha256, CliError> {
    let hashed = File::open(path).and_then(Sha256::of_reader);
    hashed.map_err(|error| unreadable(path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(text: &str, as_chat: bool) -> Result<Input, CliError> {
        serde_json::from_str::<RowInput>(text).map_err(CliError::failed)?.input(as_chat)
    }

    #[test]
    fn rows_are_conversations_or_prompts() {
        assert_eq!(
            input(r#"{"id":"1","prompt":"a"}"#, false).unwrap(),
            Input::Completion { prompt: "a".into() }
        );
        let chat = input(r#"{"messages":[{"role":"user","content":"a"}]}"#, false).unwrap();
        assert_eq!(input(r#"{"prompt":"a"}"#, true).unwrap(), chat);
        for wrong in
            ["{}", r#"{"messages":[]}"#, r#"{"prompt":"a","messages":[{"role":"user","content":"a"}]}"#]
        {
            assert_eq!(input(wrong, false).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }
}
