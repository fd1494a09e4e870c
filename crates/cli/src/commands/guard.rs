//! `tandem guard test`: what the configured guards make of a file of texts, and how often they are right.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::{Channel, GuardAction, Message, MessageRole, Role};
use gateway::{Flow, FlowHeads, FlowParts, Metrics};
use policy::PolicySettings;
use policy::guards::Checked;
use policy::guards::asked::Texts;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::serve::{io_runtime, loading};
use crate::context::Context;
use crate::drafting::Part;
use crate::error::CliError;
use crate::pair::Pair;
use crate::progress::Style;
use crate::settings::{self, DrafterKind, Flags, Settings, SpeculativeSettings};
use crate::{guards, input, output};

/// Try the configured guards on texts
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tandem guard test rows.jsonl --config tandem.toml")]
pub struct Args {
    #[command(subcommand)]
    command: GuardCommand,
}

#[derive(Debug, clap::Subcommand)]
enum GuardCommand {
    /// Run the guards on a file of rows; a line of JSON for each, then what they add up to on stderr
    #[command(after_help = "Example:\n  tandem guard test rows.jsonl --config tandem.toml\n\n\
        A row is {\"text\": …} or {\"messages\": […]}, with \"id\", \"label\" (true: to be flagged) and \"channel\" \
        (user, tool, output) as you like.")]
    Test(TestArgs),
}

#[derive(Debug, clap::Args)]
struct TestArgs {
    /// A file of JSON lines; - for stdin
    file: PathBuf,
    /// The configuration with the guards [default: ./tandem.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// If the guards or the file can't be read.
pub fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let GuardCommand::Test(args) = args.command;
    let settings = settings::load(Flags { config: args.config, ..Flags::default() }, context)?;
    if settings.guards.is_empty() {
        return Err(CliError::usage(
            "there is no [[guard]] in the configuration; add one, or name it with --config",
        ));
    }
    let bench = Bench::new(&settings, context)?;
    let mut summary = Summary::default();
    let mut number = 0;
    input::json_lines(&args.file, |row: Row| {
        number += 1;
        let verdict = row.verdict(&bench, number, &mut summary)?;
        output::json(&verdict)
    })?;
    match context.json {
        true => eprintln!("{}", summary.json()),
        false => eprint!("{}", summary.text()),
    }
    Ok(())
}

/// The guards, and the models that they ask.
struct Bench {
    flow: Flow,
    runtime: Runtime,
}

impl Bench {
    /// Loads the models that are asked, if any.
    fn new(settings: &Settings, context: &Context) -> Result<Self, CliError> {
        let runtime = io_runtime()?;
        let style = context.progress_style(Style::Silent);
        let chain = runtime.block_on(guards::chain(settings, context, style))?;
        let plain = SpeculativeSettings {
            enabled: false,
            drafter: DrafterKind::PromptLookup,
            model: None,
            coarse_weights: false,
        };
        let asks_large = chain.asked().iter().any(|link| link.asker().role() == Role::Large);
        let mut pair = match asks_large {
            true => Pair::new([&settings.small, &settings.large], &plain)?,
            false => Pair::single(Part::Small, &settings.small, &plain)?,
        };
        pair.keep_states(Part::Small, guards::layers(settings, Some(&chain)));
        let metrics = Metrics::new().map_err(CliError::failed)?;
        let asks = !chain.asked().is_empty();
        let flow = Flow::new(FlowParts {
            policy: Arc::from(policy::build(&PolicySettings::default()).map_err(CliError::usage)?),
            small: Arc::clone(&pair.small),
            large: Arc::clone(&pair.large),
            ledger: None,
            heads: FlowHeads::default(),
            limits: settings.gateway.flow_limits(),
            metrics: metrics.clone(),
            guards: chain,
        });
        if asks {
            let mut loading = loading(settings, context, metrics);
            (loading.tells_plan, loading.style) = (false, style);
            runtime.block_on(pair.load(&loading, context))?;
            runtime.block_on(flow.teach_guards()).map_err(CliError::failed)?;
        }
        Ok(Bench { flow, runtime })
    }

    /// What all guards say of a row.
    fn check(&self, texts: &[(Channel, String)], asked: Texts) -> Result<Checked, CliError> {
        let mut all = Checked::default();
        for (channel, text) in texts {
            all.hits.extend(self.flow.guards().check(text, *channel).hits);
        }
        let hits = self.runtime.block_on(self.flow.check_asked(asked, None));
        all.hits.extend(hits.map_err(CliError::failed)?);
        Ok(all)
    }
}

#[derive(Deserialize)]
struct Row {
    id: Option<Value>,
    text: Option<String>,
    messages: Option<Vec<RowMessage>>,
    label: Option<bool>,
    channel: Option<Channel>,
}

#[derive(Deserialize)]
struct RowMessage {
    role: String,
    content: Option<String>,
}

impl RowMessage {
    /// Roles that guards tell apart.
    fn role(&self) -> MessageRole {
        match self.role.as_str() {
            "tool" => MessageRole::Tool,
            "assistant" => MessageRole::Assistant,
            "system" | "developer" => MessageRole::System,
            _ => MessageRole::User,
        }
    }
}

#[derive(Serialize)]
struct Verdict {
    id: Value,
    flagged: bool,
    action: Option<GuardAction>,
    scores: BTreeMap<String, f64>,
    /// What kept guards from judging, by their names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    errors: BTreeMap<String, String>,
}

impl Row {
    /// The texts that are scanned, and those that models are asked about.
    fn texts(&self) -> Option<(Vec<(Channel, String)>, Texts)> {
        let text = |message: &RowMessage| message.content.clone().unwrap_or_default();
        match (&self.text, &self.messages, self.channel) {
            (Some(text), None, channel) => {
                let channel = channel.unwrap_or(Channel::User);
                Some((vec![(channel, text.clone())], Texts::of_text(text, channel)))
            }
            (None, Some(messages), Some(channel)) => {
                let texts: Vec<(Channel, String)> = messages.iter().map(|one| (channel, text(one))).collect();
                let joined: Vec<&str> = texts.iter().map(|(_, text)| text.as_str()).collect();
                let asked = Texts::of_text(&joined.join("\n"), channel);
                Some((texts, asked))
            }
            (None, Some(messages), None) => {
                let by_role = |role| if role == MessageRole::Tool { Channel::Tool } else { Channel::User };
                let texts = messages.iter().map(|one| (by_role(one.role()), text(one))).collect();
                let spoken: Vec<Message> =
                    messages.iter().map(|one| Message::text(one.role(), text(one))).collect();
                Some((texts, Texts::of_messages(&spoken)))
            }
            _ => None,
        }
    }

    fn verdict(self, bench: &Bench, number: u64, summary: &mut Summary) -> Result<Verdict, CliError> {
        let (texts, asked) = self.texts().ok_or_else(|| {
            CliError::usage(format!("row {number} must have either \"text\" or \"messages\""))
        })?;
        let begun = Instant::now();
        let all = bench.check(&texts, asked)?;
        summary.took.push(begun.elapsed());
        let (mut scores, mut errors) = (BTreeMap::new(), BTreeMap::new());
        for hit in &all.hits {
            let record = hit.verdict.as_ref().and_then(|verdict| verdict.record.as_ref());
            errors.extend(record.and_then(|record| Some((hit.guard.clone(), record.error.clone()?))));
            let score: &mut f64 = scores.entry(hit.guard.clone()).or_default();
            *score = score.max(hit.score());
        }
        let flagged = all.flagged();
        if let Some(label) = self.label {
            summary.labelled.push((scores.values().copied().fold(0.0, f64::max), flagged, label));
        }
        let id = self.id.unwrap_or_else(|| number.into());
        summary.errors += u64::from(!errors.is_empty());
        Ok(Verdict { id, flagged, action: all.action(), scores, errors })
    }
}

/// Shares of false positives at which the recall is told.
const ALARMS_MAX: [f64; 3] = [0.01, 0.02, 0.05];

/// What the rows add up to.
#[derive(Debug, Default)]
struct Summary {
    took: Vec<Duration>,
    /// Score, whether it was flagged, whether it should have been.
    labelled: Vec<(f64, bool, bool)>,
    /// Rows that a guard could not judge.
    errors: u64,
}

impl Summary {
    fn count(&self, flagged: bool, label: bool) -> usize {
        self.labelled.iter().filter(|row| (row.1, row.2) == (flagged, label)).count()
    }

    /// Latencies at the 50th, 95th and 99th percentile, milliseconds.
    fn latencies_ms(&mut self) -> [f64; 3] {
        self.took.sort_unstable();
        [50, 95, 99].map(|percent| {
            let last = self.took.len().saturating_sub(1);
            let took = self.took.get((self.took.len() * percent / 100).min(last));
            took.map_or(0.0, |took| took.as_secs_f64() * 1e3)
        })
    }

    fn json(&mut self) -> Value {
        let [p50, p95, p99] = self.latencies_ms();
        let mut summary = json!({
            "rows": self.took.len(),
            "errors": self.errors,
            "latency_ms": {"p50": p50, "p95": p95, "p99": p99},
        });
        if !self.labelled.is_empty() {
            summary["confusion"] = json!({
                "true_positives": self.count(true, true),
                "false_positives": self.count(true, false),
                "false_negatives": self.count(false, true),
                "true_negatives": self.count(false, false),
            });
            summary["auroc"] = json!(auroc(&self.labelled));
            let at = ALARMS_MAX.map(|alarms_max| {
                json!({"false_positives_max": alarms_max, "recall": recall_at(&self.labelled, alarms_max)})
            });
            summary["recall_at"] = json!(at);
        }
        summary
    }

    fn text(&mut self) -> String {
        let mut text = String::new();
        if !self.labelled.is_empty() {
            let (hits, alarms) = (self.count(true, true), self.count(true, false));
            let (missed, passed) = (self.count(false, true), self.count(false, false));
            text.push_str(&format!(
                "              flagged   passed\nlabel true  {hits:9}{missed:9}\nlabel false {alarms:9}{passed:9}\n\
                 precision {}  recall {}  false positives {}\n",
                share(hits, hits + alarms),
                share(hits, hits + missed),
                share(alarms, alarms + passed),
            ));
            if let Some(auroc) = auroc(&self.labelled) {
                text.push_str(&format!("AUROC {auroc:.4}\n"));
            }
            for alarms_max in ALARMS_MAX {
                if let Some(recall) = recall_at(&self.labelled, alarms_max) {
                    text.push_str(&format!("recall at false positives ≤ {alarms_max}: {recall:.4}\n"));
                }
            }
        }
        if self.errors > 0 {
            text.push_str(&format!("{} rows could not be judged by all guards\n", self.errors));
        }
        let [p50, p95, p99] = self.latencies_ms();
        let rows = self.took.len();
        text.push_str(&format!("{rows} rows, latency_ms p50 {p50:.3} p95 {p95:.3} p99 {p99:.3}\n"));
        text
    }
}

fn share(part: usize, whole: usize) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.4}", part as f64 / whole as f64) }
}

/// The area under the ROC: how often a row that should be flagged scores above one that should not, ties half.
fn auroc(rows: &[(f64, bool, bool)]) -> Option<f64> {
    let mut sorted: Vec<(f64, bool)> = rows.iter().map(|(score, _, label)| (*score, *label)).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut negatives, mut positives, mut area) = (0.0, 0.0, 0.0);
    for tied in sorted.chunk_by(|a, b| a.0 == b.0) {
        let up = tied.iter().filter(|row| row.1).count() as f64;
        let down = tied.len() as f64 - up;
        area += up * (negatives + down / 2.0);
        (positives, negatives) = (positives + up, negatives + down);
    }
    (positives > 0.0 && negatives > 0.0).then(|| area / (positives * negatives))
}

/// The best recall of any threshold with at most this share of false positives.
fn recall_at(rows: &[(f64, bool, bool)], alarms_max: f64) -> Option<f64> {
    let of = |label: bool| rows.iter().filter(move |row| row.2 == label);
    let (positives, negatives) = (of(true).count(), of(false).count());
    if positives == 0 || negatives == 0 {
        return None;
    }
    let mut sorted: Vec<(f64, bool)> = rows.iter().map(|(score, _, label)| (*score, *label)).collect();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut up, mut down, mut best) = (0, 0, 0);
    for tied in sorted.chunk_by(|a, b| a.0 == b.0) {
        up += tied.iter().filter(|row| row.1).count();
        down += tied.iter().filter(|row| !row.1).count();
        if down as f64 <= alarms_max * negatives as f64 {
            best = up;
        }
    }
    Some(best as f64 / positives as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(scores: &[(f64, bool)]) -> Vec<(f64, bool, bool)> {
        scores.iter().map(|(score, label)| (*score, *score >= 0.5, *label)).collect()
    }

    #[test]
    fn the_area_is_that_of_all_pairs() {
        let rows = rows(&[(0.9, true), (0.4, true), (0.4, false), (0.1, false), (0.6, false)]);
        let mut pairs = 0.0;
        for up in rows.iter().filter(|row| row.2) {
            for down in rows.iter().filter(|row| !row.2) {
                pairs += if up.0 > down.0 {
                    1.0
                } else if up.0 == down.0 {
                    0.5
                } else {
                    0.0
                };
            }
        }
        assert_eq!(auroc(&rows), Some(pairs / 6.0));
        assert_eq!(auroc(&rows[..2]), None);
    }

    #[test]
    fn recall_is_the_best_within_the_false_positives() {
        let rows = rows(&[(0.9, true), (0.8, false), (0.7, true), (0.1, false)]);
        assert_eq!(recall_at(&rows, 0.0), Some(0.5));
        assert_eq!(recall_at(&rows, 0.5), Some(1.0));
    }

    #[test]
    fn the_summary_has_the_table() {
        let labelled = rows(&[(0.9, true), (0.0, true), (0.8, false), (0.1, false)]);
        let text = Summary { took: vec![Duration::from_millis(2)], labelled, errors: 0 }.text();
        assert!(text.contains("label true          1        1"), "{text}");
        assert!(text.contains("precision 0.5000  recall 0.5000"), "{text}");
        assert!(text.contains("1 rows, latency_ms p50 2.000"), "{text}");
    }
}
