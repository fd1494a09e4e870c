//! Reading a call's prompt without answering it yet: [`read`].

use contract::{
    BackendError, Call, Event, FailureKind, LayerState, LayerTokens, NextToken, Read, ReadFuture,
    ReadOptions, TOKEN_STATES_MAX, TokenStates,
};
use contract::{EventStream, Reading, Timings, Usage};
use std::sync::Arc;

use engine::decoder::{self, LayerSet};
use engine::model::Model;
use engine::sampling::Spread;
use engine::scheduler::{Hold, ReadingJob};
use futures_util::StreamExt;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::request::{job, prompt_ids};
use super::{Backend, Channel, EmbeddedBackend, Message, Running, State, lock};

/// Who is told of a reading.
pub(super) struct Told {
    reading: oneshot::Sender<Reading>,
    /// The prompt's text and where its tokens end, if every token's states are told.
    spelled: Option<(Vec<u8>, Vec<usize>)>,
}

/// A job that was told to stop after its prompt. Dropping it lets the engine know at once that it is over.
struct Held {
    backend: EmbeddedBackend,
    hold: Hold,
    events: Option<mpsc::UnboundedReceiver<Event>>,
}

impl Held {
    /// Lets it write.
    fn release(mut self) -> EventStream {
        self.hold.release();
        match self.events.take() {
            Some(events) => Box::pin(UnboundedReceiverStream::new(events)),
            None => Box::pin(futures_util::stream::empty()),
        }
    }

    /// Why it came to no reading.
    async fn failure(mut self) -> BackendError {
        let events = self.events.take().map(UnboundedReceiverStream::new);
        let mut failed =
            std::pin::pin!(futures_util::stream::iter(events).flatten().filter_map(async |event| {
                match event {
                    Event::Failed(error) => Some(error),
                    _ => None,
                }
            }));
        failed.next().await.unwrap_or_else(|| {
            BackendError::new(FailureKind::Internal, "the engine has stopped before the prompt was read")
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.events = None;
        if let State::Ready(running) = &*lock(&self.backend.shared.state) {
            // Full: then the engine is awake.
            let _ = running.jobs.try_send(Message::Wake);
        }
    }
}

/// Reads the call's prompt, or both its ends; see [`Backend::read`].
pub(super) fn read(backend: EmbeddedBackend, call: Call, options: ReadOptions) -> ReadFuture {
    Box::pin(async move {
        let (events, stream) = mpsc::unbounded_channel();
        let (told, reading) = oneshot::channel();
        let held = Held { backend: backend.clone(), hold: Hold::default(), events: Some(stream) };
        let (reader, asked, hold) = (backend.clone(), call.clone(), held.hold.clone());
        // As in `call`: a long prompt takes its time.
        let submitted =
            tokio::task::spawn_blocking(move || submit(&reader, (&asked, &options), hold, (&events, told)));
        let prompt_tokens = submitted.await.map_err(|error| {
            BackendError::new(FailureKind::Internal, format!("reading failed: {error}"))
        })??;
        let Ok(reading) = reading.await else { return Err(held.failure().await) };
        let is_whole = reading.read_tokens == prompt_tokens;
        let reading = Reading { prompt_tokens, ..reading };
        Ok(match is_whole {
            true => Read { reading, go_on: Box::new(|| held.release()) },
            false => Read { reading, go_on: Box::new(move || backend.call(call)) },
        })
    })
}

/// Hands the job over. Returns the tokens of the whole prompt.
fn submit(
    backend: &EmbeddedBackend,
    (call, options): (&Call, &ReadOptions),
    hold: Hold,
    (events, told): (&mpsc::UnboundedSender<Event>, oneshot::Sender<Reading>),
) -> Result<u64, BackendError> {
    let Running { model, reading_layers, .. } = backend.running()?;
    let set = |layers: &[u32]| LayerSet::of(layers.iter().copied());
    let (layers, token_layers) = (set(&options.layers), set(&options.token_layers));
    let missing = layers.union(token_layers).without(reading_layers);
    if !missing.is_empty() {
        let message = format!(
            "{} keeps the states of layers {reading_layers:?}, not those of {missing:?} that were asked for",
            backend.name
        );
        return Err(BackendError::new(FailureKind::Internal, message));
    }
    let prompt = prompt_ids(&model, &backend.name, &call.request.input)?;
    let prompt_tokens = prompt.len();
    let limit = options.tokens_max.map_or(prompt_tokens, |limit| limit as usize);
    if !token_layers.is_empty() && prompt_tokens > limit.min(TOKEN_STATES_MAX) {
        let message = format!(
            "the prompt has {prompt_tokens} tokens, and the states of at most {TOKEN_STATES_MAX} are told"
        );
        return Err(BackendError::new(FailureKind::TooLong, message));
    }
    let spelled = (!token_layers.is_empty()).then(|| spelled(&model, &prompt));
    let told = Some(Told { reading: told, spelled });
    let job = if prompt_tokens <= limit {
        let mut job = job((call, prompt), model, (events, told));
        job.reading = Some(ReadingJob { layers, token_layers, hold: Some(hold) });
        job
    } else {
        let mut job = job((call, ends(&prompt, limit)), model, (events, told));
        job.reading = Some(ReadingJob { layers, token_layers, hold: None });
        job.max_tokens = Some(0);
        job
    };
    backend.hand_over(job)?;
    Ok(prompt_tokens as u64)
}

/// The text that tokens spell, and where each of them ends in it.
fn spelled(model: &Model, prompt: &[u32]) -> (Vec<u8>, Vec<usize>) {
    let mut text = Vec::new();
    let end = |id: &u32| {
        text.extend_from_slice(model.tokenizer().piece(*id));
        text.len()
    };
    let ends = prompt.iter().map(end).collect();
    (text, ends)
}

/// `limit` tokens of both ends of a longer prompt; the end has the odd one.
fn ends(prompt: &[u32], limit: usize) -> Vec<u32> {
    let head = limit / 2;
    [&prompt[..head], &prompt[prompt.len() - (limit - head).max(1)..]].concat()
}

impl Channel {
    /// Tells what was read.
    pub(super) fn tell_reading(
        &mut self,
        (states, tokens): (Vec<decoder::LayerState>, Vec<decoder::TokenStates>),
        next: Spread,
        timings: Timings,
    ) {
        let Some(Told { reading: told, spelled }) = self.told.take() else { return };
        let state = |decoder::LayerState { layer, last, mean }| LayerState { layer, last, mean };
        let layer = |decoder::TokenStates { layer, states }| LayerTokens { layer, states };
        let tokens = spelled.map(|(text, ends)| {
            Arc::new(TokenStates { text, ends, layers: tokens.into_iter().map(layer).collect() })
        });
        let Spread { logprob_max, margin, entropy } = next;
        let usage: Usage = self.usage();
        // Whoever has left needs none.
        let _ = told.send(Reading {
            prompt_tokens: usage.prompt_tokens,
            read_tokens: usage.prompt_tokens,
            states: states.into_iter().map(state).collect(),
            tokens,
            next: NextToken { logprob_max, margin, entropy },
            usage,
            timings,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_prompts_are_read_from_both_ends() {
        let prompt: Vec<u32> = (0..10).collect();
        assert_eq!(ends(&prompt, 5), [0, 1, 7, 8, 9]);
        assert_eq!(ends(&prompt, 2), [0, 9]);
        assert_eq!(ends(&prompt, 0), [9]);
    }
}
