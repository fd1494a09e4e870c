//! Tries a real OpenAI-compatible server: `cargo run -p backends --example upstream -- URL MODEL [KEY_FILE]`.
//!
//! Sends one chat and one completion, streamed and not; prints text, usage, timings and what the
//! log-probabilities say; exits with 1 if anything is missing.

use std::process::ExitCode;
use std::sync::Arc;

use backends::{OpenaiBackend, OpenaiSettings, Secret};
use contract::{Backend, Call, Event, Finished, Input, Message, MessageRole, Request, Sampling, Signals};
use futures_util::StreamExt;

const MAX_TOKENS: u32 = 24;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, model, key_file @ ..] = arguments.as_slice() else {
        eprintln!("usage: upstream URL MODEL [KEY_FILE]");
        return ExitCode::from(2);
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("the runtime can't start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(check(url, model, key_file.first())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn check(url: &str, model: &str, key_file: Option<&String>) -> Result<(), String> {
    let mut settings = OpenaiSettings::new(url, model);
    if let Some(file) = key_file {
        let key = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
        settings.api_key = Some(Secret::new(&key));
        settings.api_key_source = Some(format!("the file {file}"));
    }
    let backend = OpenaiBackend::new(settings.clone()).map_err(|error| error.to_string())?;
    let probe = backend.probe().await.map_err(|error| error.to_string())?;
    println!("probe: {probe:?}");
    let question = Message::text(MessageRole::User, "Name the capital of France.");
    let chat = Input::Chat { messages: vec![question], tools: Vec::new() };
    let completion = Input::Completion { prompt: "The capital of France is".into() };
    for stream in [true, false] {
        let backend = OpenaiBackend::new(OpenaiSettings { stream, ..settings.clone() });
        let backend = backend.map_err(|error| error.to_string())?;
        for input in [&chat, &completion] {
            let kind = if matches!(input, Input::Chat { .. }) { "chat" } else { "completion" };
            println!("\n{kind}, {}:", if stream { "streamed" } else { "whole" });
            answer(&backend, input.clone(), stream).await.map_err(|error| format!("{kind}: {error}"))?;
        }
    }
    Ok(())
}

async fn answer(backend: &OpenaiBackend, input: Input, stream: bool) -> Result<(), String> {
    let mut events = backend.call(Call { request: Arc::new(request(input)), signals: true, tenant: None });
    let (mut text, mut signals, mut deltas) = (String::new(), Signals::default(), 0);
    while let Some(event) = events.next().await {
        match event {
            Event::Started(_) => {}
            Event::Delta(delta) => {
                text += &delta.text;
                delta.tokens.iter().for_each(|token| signals.add(token));
                deltas += 1;
            }
            Event::Failed(error) => return Err(format!("{:?}: {error}", error.kind)),
            Event::Finished(finished) => {
                println!("  text: {text:?}\n  {deltas} deltas, {finished:?}");
                let (mean, min) = (signals.logprob_mean(), signals.logprob_min);
                println!("  logprobs of {} tokens: mean {mean:?}, min {min}", signals.tokens);
                return judge(&text, &signals, &finished).and_then(|()| match (stream, deltas) {
                    (true, 0..=1) => Err("it was not streamed".into()),
                    _ => Ok(()),
                });
            }
        }
    }
    Err("the events ended without a last one".into())
}

fn request(input: Input) -> Request {
    Request {
        sampling: Sampling { temperature: 0.0, seed: Some(1), ..Sampling::default() },
        max_tokens: Some(MAX_TOKENS),
        stream: true,
        ..Request::new("example", input)
    }
}

fn judge(text: &str, signals: &Signals, finished: &Finished) -> Result<(), String> {
    let usage = finished.usage;
    if text.is_empty() {
        return Err("no text".into());
    }
    if usage.prompt_tokens == 0 || usage.completion_tokens == 0 {
        return Err(format!("empty usage: {usage:?}"));
    }
    if usage.completion_tokens > u64::from(MAX_TOKENS) {
        return Err(format!("more than {MAX_TOKENS} tokens: {usage:?}"));
    }
    match signals.tokens {
        0 => Err("no log-probabilities; set `logprobs = false` for this upstream".into()),
        _ => Ok(()),
    }
}
