//! `tandem chat`: a conversation in the terminal, through the same flow as the server's.

use std::borrow::Cow;
use std::io::{BufRead, IsTerminal, Read};
use std::time::{SystemTime, UNIX_EPOCH};

use contract::{Delta, Input, Message, MessageRole, Request, Sampling};
use gateway::Flow;
use gateway::flow::{FlowEvent, Outcome};
use policy::guards::Chain;
use tokio::sync::mpsc;

use super::serve::{assemble, io_runtime};
use crate::context::Context;
use crate::drafting::Part;
use crate::error::CliError;
use crate::guards;
use crate::output;
use crate::pair::{Pair, name_upstream_models};
use crate::progress::Style as ProgressStyle;
use crate::settings::{self, LocalSettings, RoleSettings, Settings, SettingsArgs};

/// Bytes of one line of input, at most.
const LINE_BYTES_MAX: u64 = 4 << 20;
/// Lines that wait while an answer is written.
const LINES_QUEUED_MAX: usize = 16;
/// Interrupts that wait to be seen.
const INTERRUPTS_QUEUED_MAX: usize = 4;
/// The policy that always takes the role small, which a single model fills.
const SINGLE_POLICY: &str = "small";

/// Talk in the terminal; shows who answered, why, speed and cost
#[derive(Debug, clap::Args)]
#[command(
    after_help = "In the conversation: /reset forgets it, /drafts marks drafted tokens or no longer does, /exit \
                  leaves; Ctrl-C stops an answer, twice leaves.\n\n\
                  Examples:\n  tandem chat\n  echo 'Name three rivers.' | tandem chat --model small"
)]
pub struct Args {
    /// auto (the policy decides), small, large, or a model by itself (a .gguf file, a name, hf:…)
    #[arg(long, default_value = "auto", value_name = "auto|small|large|REF")]
    model: String,
    /// How freely tokens are drawn: 0 always takes the likeliest
    #[arg(long, default_value_t = 0.0, value_name = "T", value_parser = temperature)]
    temperature: f32,
    /// Seed for drawing; the same seed gives the same text
    #[arg(long)]
    seed: Option<u64>,
    /// Most tokens of an answer [default: up to the context's end]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
    /// Instructions for the model
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Underline tokens that were drafted, if the answer goes to a terminal
    #[arg(long)]
    show_drafts: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

fn temperature(text: &str) -> Result<f32, String> {
    let value = text.parse().ok().filter(|value| (0.0..=2.0).contains(value));
    value.ok_or_else(|| "a temperature is a number from 0 to 2".to_owned())
}

/// Runs the command.
///
/// # Errors
/// If the settings are wrong or a model can't be had; without a terminal also if an answer failed.
pub fn run(args: Args, context: &Context) -> Result<(), CliError> {
    if context.json {
        return Err(CliError::usage("chat has no JSON form; use `tandem serve` and its HTTP interface"));
    }
    let mut settings = settings::load(args.settings.flags(), context)?;
    let runtime = io_runtime()?;
    runtime.block_on(name_upstream_models([&mut settings.small, &mut settings.large]))?;
    if !["auto", "small"].contains(&args.model.as_str()) && guards::reads(&settings.guards) {
        return Err(CliError::usage(
            "a guard has the small model read: use --model auto or small, or a configuration without that guard",
        ));
    }
    let style = context.progress_style(ProgressStyle::Silent);
    let chain = runtime.block_on(guards::chain(&settings, context, style))?;
    let mut pair = pair(&args.model, &mut settings, context)?;
    pair.keep_states(Part::Small, guards::layers(&settings, Some(&chain)));
    let talked = runtime.block_on(talk(&args, (&settings, chain), &pair, context));
    runtime.shutdown_background();
    talked
}

/// The backends that `--model` asks for; one person needs one sequence.
fn pair(model: &str, settings: &mut Settings, context: &Context) -> Result<Pair, CliError> {
    for role in [&mut settings.small, &mut settings.large] {
        if let RoleSettings::Local(local) = role {
            local.wanted.sequences = Some(1);
        }
    }
    let (part, single) = match model {
        "auto" => {
            return Pair::new([&settings.small, &settings.large], &settings.speculative);
        }
        "small" => (Part::Small, settings.small.clone()),
        "large" => (Part::Large, settings.large.clone()),
        reference => {
            let mut local = LocalSettings::new(reference, context).map_err(|error| error.at("--model"))?;
            local.wanted.sequences = Some(1);
            (Part::Small, RoleSettings::Local(local))
        }
    };
    settings.policy.kind = SINGLE_POLICY.to_owned();
    Pair::single(part, &single, &settings.speculative)
}

async fn talk(
    args: &Args,
    settings: (&Settings, Chain),
    pair: &Pair,
    context: &Context,
) -> Result<(), CliError> {
    let (flow, mut loading) = assemble(settings, pair, context).await?;
    loading.style = context.progress_style(ProgressStyle::Silent);
    loading.tells_plan = false;
    if context.stderr_is_terminal {
        eprintln!("loading …");
    }
    tokio::select! {
        loaded = pair.load(&loading, context) => loaded?,
        // Nothing to stop yet but the program.
        _ = tokio::signal::ctrl_c() => return Ok(()),
    }
    flow.teach_guards().await.map_err(CliError::failed)?;
    let mut talk = Talk {
        flow,
        args,
        messages: Vec::new(),
        is_single: args.model != "auto",
        style: Style {
            dim: context.stderr_is_terminal,
            can_underline: std::io::stdout().is_terminal(),
            shows_drafts: args.show_drafts,
        },
        interrupts: interrupts(),
        requests: 0,
    };
    talk.reset();
    let ended = talk.run(lines(), std::io::stdin().is_terminal()).await;
    talk.flow.settle().await;
    if let Some(ledger) = talk.flow.ledger() {
        ledger.close().await.map_err(CliError::failed)?;
    }
    ended
}

/// Lines of stdin, read by a thread of their own: a terminal can't be read asynchronously. `None` at
/// the end is the channel's.
fn lines() -> mpsc::Receiver<Result<String, CliError>> {
    let (send, receive) = mpsc::channel(LINES_QUEUED_MAX);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        loop {
            let mut line = Vec::new();
            let read = stdin.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
            let line = match read {
                Ok(0) => return,
                Ok(bytes) if bytes as u64 == LINE_BYTES_MAX => {
                    Err(CliError::usage(format!("a line of input has more than {LINE_BYTES_MAX} bytes")))
                }
                Ok(_) => Ok(String::from_utf8_lossy(&line).trim().to_owned()),
                Err(error) => Err(CliError::failed(format!("can't read the input: {error}"))),
            };
            let is_last = line.is_err();
            if send.blocking_send(line).is_err() || is_last {
                return;
            }
        }
    });
    receive
}

/// A message for every Ctrl-C.
fn interrupts() -> mpsc::Receiver<()> {
    let (send, receive) = mpsc::channel(INTERRUPTS_QUEUED_MAX);
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            // Whoever presses it more often than it is looked at means the same.
            if let Err(mpsc::error::TrySendError::Closed(())) = send.try_send(()) {
                return;
            }
        }
    });
    receive
}

/// How the lines around answers look.
#[derive(Clone, Copy)]
struct Style {
    /// Whether remarks are dim.
    dim: bool,
    /// Whether answers go where marks are seen.
    can_underline: bool,
    /// Whether drafted tokens are to be marked.
    shows_drafts: bool,
}

impl Style {
    /// A remark, on stderr so that stdout holds the answers only.
    fn remark(self, text: &str) {
        if self.dim {
            eprintln!("\x1b[2m{text}\x1b[0m");
        } else {
            eprintln!("{text}");
        }
    }

    /// A piece of an answer.
    fn piece(self, delta: &Delta) -> Cow<'_, str> {
        let is_marked = delta.is_drafted && self.shows_drafts && self.can_underline && !delta.text.is_empty();
        if is_marked { format!("\x1b[4m{}\x1b[24m", delta.text).into() } else { (&*delta.text).into() }
    }
}

/// A conversation.
struct Talk<'a> {
    flow: Flow,
    args: &'a Args,
    messages: Vec<Message>,
    /// Whether only one model answers, so that there is nothing to explain.
    is_single: bool,
    style: Style,
    interrupts: mpsc::Receiver<()>,
    requests: u64,
}

/// How an answer ended.
enum Answered {
    Whole,
    Stopped,
    Failed,
}

impl Talk<'_> {
    fn reset(&mut self) {
        self.messages.clear();
        self.messages.extend(self.args.system.as_ref().map(|text| Message::text(MessageRole::System, text)));
    }

    async fn run(
        &mut self,
        mut lines: mpsc::Receiver<Result<String, CliError>>,
        asks: bool,
    ) -> Result<(), CliError> {
        if asks {
            self.style.remark(&format!(
                "temperature {}; /reset forgets the conversation, /exit leaves",
                self.args.temperature
            ));
        }
        let (mut interrupts, mut failures) = (0, 0_u32);
        loop {
            if asks {
                output::text("> ")?;
            }
            let line = tokio::select! {
                line = lines.recv() => line,
                _ = self.interrupts.recv() => {
                    interrupts += 1;
                    if interrupts >= 2 {
                        output::line("")?;
                        break;
                    }
                    self.style.remark("\nCtrl-C again leaves");
                    continue;
                }
            };
            interrupts = 0;
            match line.transpose()?.as_deref() {
                None | Some("/exit" | "/quit") => break,
                Some("") => {}
                Some("/reset") => {
                    self.reset();
                    self.style.remark("forgotten");
                }
                Some("/drafts") => {
                    self.style.shows_drafts = !self.style.shows_drafts;
                    let shown = if self.style.shows_drafts { "underlined" } else { "not marked" };
                    self.style.remark(&format!("drafted tokens are {shown}"));
                }
                Some(text) => match self.answer(text).await? {
                    Answered::Whole => {}
                    Answered::Stopped => interrupts = 1,
                    Answered::Failed => failures += 1,
                },
            }
        }
        if failures > 0 && !asks {
            return Err(CliError::failed(format!("answers that failed: {failures}")));
        }
        Ok(())
    }

    /// Has one message answered.
    async fn answer(&mut self, text: &str) -> Result<Answered, CliError> {
        self.messages.push(Message::text(MessageRole::User, text));
        let request = self.request();
        let mut stream = self.flow.start(request);
        let mut answer = String::new();
        loop {
            let event = tokio::select! {
                event = stream.next() => event,
                _ = self.interrupts.recv() => {
                    drop(stream);
                    self.messages.push(Message::text(MessageRole::Assistant, answer));
                    output::line("")?;
                    self.style.remark("[stopped; Ctrl-C again leaves]");
                    return Ok(Answered::Stopped);
                }
            };
            match event {
                Some(FlowEvent::Decided(_)) => {}
                None => return Err(CliError::failed("the answer ended without an end")),
                Some(FlowEvent::Delta(delta)) => {
                    output::text(&self.style.piece(&delta))?;
                    answer.push_str(&delta.text);
                }
                Some(FlowEvent::Finished(outcome)) => {
                    output::line("")?;
                    self.style.remark(&remark(&outcome, self.is_single));
                    self.messages.push(Message::text(MessageRole::Assistant, answer));
                    return Ok(Answered::Whole);
                }
                Some(FlowEvent::Failed(failure)) => {
                    output::line("")?;
                    eprintln!("tandem: {}", failure.error);
                    self.messages.pop();
                    return Ok(Answered::Failed);
                }
            }
        }
    }

    fn request(&mut self) -> Request {
        self.requests += 1;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Request {
            sampling: Sampling {
                temperature: self.args.temperature,
                seed: self.args.seed,
                ..Sampling::default()
            },
            max_tokens: self.args.max_tokens,
            stream: true,
            // Unique in the ledger: one process can't have two of them.
            ..Request::new(
                format!("chat-{:x}-{:x}-{}", since.as_micros(), std::process::id(), self.requests),
                Input::Chat { messages: self.messages.clone(), tools: Vec::new() },
            )
        }
    }
}

/// Who answered and why, speed and cost.
fn remark(outcome: &Outcome, is_single: bool) -> String {
    let mut parts = Vec::new();
    if !is_single {
        parts.push(outcome.route.as_str().to_owned());
    }
    parts.extend(outcome.model.clone());
    let written = outcome.usage.completion_tokens;
    // The first token belongs to the reading of the prompt.
    let seconds = outcome.timings.decode_ms / 1e3;
    parts.push(match written.saturating_sub(1) {
        more if more > 0 && seconds > 0.0 => format!("{written} tokens at {:.1}/s", more as f64 / seconds),
        _ => format!("{written} token{}", if written == 1 { "" } else { "s" }),
    });
    let accepted = outcome.usage.accepted_prediction_tokens;
    if accepted + outcome.usage.rejected_prediction_tokens > 0 {
        parts.push(format!("{accepted} of {written} tokens drafted"));
    }
    parts.push(format!("${:.6}", outcome.cost_usd));
    if !is_single {
        parts.push(outcome.reason.clone());
    }
    format!("[{}]", parts.join(" · "))
}

#[cfg(test)]
mod tests {
    use contract::{FinishReason, Timings, Usage};
    use gateway::flow::RouteTaken;

    use super::*;

    fn outcome() -> Outcome {
        Outcome {
            request_id: "chat-1".to_owned(),
            route: RouteTaken::Escalated,
            model: Some("big".to_owned()),
            reason: "small was unsure".to_owned(),
            confidence: Some(0.4),
            status: 200,
            finish: Some(FinishReason::Stop),
            usage: Usage { completion_tokens: 21, ..Usage::default() },
            timings: Timings { decode_ms: 2000.0, ..Timings::default() },
            cost_usd: 0.000_25,
            saved_usd: 0.0,
            overhead_ms: 0.1,
            first_token_ms: None,
            total_ms: 2100.0,
            decisions: Vec::new(),
            attempts: Vec::new(),
            answered: None,
            guards: Vec::new(),
        }
    }

    #[test]
    fn the_remark_says_who_why_how_fast_and_for_how_much() {
        let pair = "[escalated · big · 21 tokens at 10.0/s · $0.000250 · small was unsure]";
        assert_eq!(remark(&outcome(), false), pair);
        assert_eq!(remark(&outcome(), true), "[big · 21 tokens at 10.0/s · $0.000250]");
    }

    #[test]
    fn a_single_token_has_no_speed() {
        let usage = Usage { completion_tokens: 1, ..Usage::default() };
        assert_eq!(remark(&Outcome { usage, ..outcome() }, true), "[big · 1 token · $0.000250]");
    }

    #[test]
    fn the_remark_says_how_much_was_drafted() {
        let usage = Usage { accepted_prediction_tokens: 12, ..outcome().usage };
        let drafted = "[big · 21 tokens at 10.0/s · 12 of 21 tokens drafted · $0.000250]";
        assert_eq!(remark(&Outcome { usage, ..outcome() }, true), drafted);
        let usage = Usage { rejected_prediction_tokens: 2, ..outcome().usage };
        assert!(remark(&Outcome { usage, ..outcome() }, true).contains("0 of 21 tokens drafted"));
    }

    #[test]
    fn drafted_tokens_are_underlined_on_request_where_that_is_seen() {
        let delta = Delta { text: "word".to_owned(), is_drafted: true, ..Delta::default() };
        let style = Style { dim: false, can_underline: true, shows_drafts: true };
        assert_eq!(style.piece(&delta), "\u{1b}[4mword\u{1b}[24m");
        assert_eq!(style.piece(&Delta { is_drafted: false, ..delta.clone() }), "word");
        assert_eq!(style.piece(&Delta { text: String::new(), ..delta.clone() }), "");
        for style in [Style { can_underline: false, ..style }, Style { shows_drafts: false, ..style }] {
            assert_eq!(style.piece(&delta), "word");
        }
    }

    #[test]
    fn temperatures_are_numbers_in_range() {
        assert_eq!(temperature("0.7"), Ok(0.7));
        for text in ["-1", "2.1", "NaN", "inf", "warm"] {
            assert!(temperature(text).is_err(), "{text}");
        }
    }
}
