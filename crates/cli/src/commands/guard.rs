//! `tandem guard test`: what the configured guards make of a file of texts, and how often they are right.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use contract::{Channel, GuardAction};
use policy::guards::{Chain, Checked};
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::error::CliError;
use crate::settings::{self, Flags};
use crate::{input, output};

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
    let chain = settings::guards(&Flags { config: args.config, ..Flags::default() }, context)?;
    if chain.is_empty() {
        return Err(CliError::usage(
            "there is no [[guard]] in the configuration; add one, or name it with --config",
        ));
    }
    let mut summary = Summary::default();
    let mut number = 0;
    input::json_lines(&args.file, |row: Row| {
        number += 1;
        let verdict = row.verdict(&chain, number, &mut summary)?;
        output::json(&verdict)
    })?;
    eprint!("{}", summary.text());
    Ok(())
}

#[derive(Deserialize)]
struct Row {
    id: Option<serde_json::Value>,
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

#[derive(Serialize)]
struct Verdict {
    id: serde_json::Value,
    flagged: bool,
    action: Option<GuardAction>,
    scores: BTreeMap<String, f64>,
}

impl Row {
    fn verdict(self, chain: &Chain, number: u64, summary: &mut Summary) -> Result<Verdict, CliError> {
        let by_role = |role: &str| if role == "tool" { Channel::Tool } else { Channel::User };
        let texts: Vec<(Channel, String)> = match (self.text, self.messages) {
            (Some(text), None) => vec![(self.channel.unwrap_or(Channel::User), text)],
            (None, Some(messages)) => {
                let text = |message: RowMessage| {
                    (self.channel.unwrap_or(by_role(&message.role)), message.content.unwrap_or_default())
                };
                messages.into_iter().map(text).collect()
            }
            _ => {
                return Err(CliError::usage(format!(
                    "row {number} must have either \"text\" or \"messages\""
                )));
            }
        };
        let begun = Instant::now();
        let mut all = Checked::default();
        for (channel, text) in &texts {
            all.hits.extend(chain.check(text, *channel).hits);
        }
        summary.took.push(begun.elapsed());
        let mut scores = BTreeMap::new();
        for hit in &all.hits {
            let score: &mut f64 = scores.entry(hit.guard.clone()).or_default();
            *score = score.max(hit.score());
        }
        let flagged = all.flagged();
        if let Some(label) = self.label {
            summary.labelled.push((scores.values().copied().fold(0.0, f64::max), flagged, label));
        }
        let id = self.id.unwrap_or_else(|| number.into());
        Ok(Verdict { id, flagged, action: all.action(), scores })
    }
}

/// What the rows add up to.
#[derive(Debug, Default)]
struct Summary {
    took: Vec<Duration>,
    /// Score, whether it was flagged, whether it should have been.
    labelled: Vec<(f64, bool, bool)>,
}

impl Summary {
    fn text(&mut self) -> String {
        let mut text = String::new();
        if !self.labelled.is_empty() {
            let count = |flagged, label| {
                self.labelled.iter().filter(|row| (row.1, row.2) == (flagged, label)).count()
            };
            let (hits, alarms) = (count(true, true), count(true, false));
            let (missed, passed) = (count(false, true), count(false, false));
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
            for alarms_max in [0.01, 0.02, 0.05] {
                if let Some(recall) = recall_at(&self.labelled, alarms_max) {
                    text.push_str(&format!("recall at false positives ≤ {alarms_max}: {recall:.4}\n"));
                }
            }
        }
        self.took.sort_unstable();
        let at = |percent: usize| {
            let last = self.took.len().saturating_sub(1);
            self.took
                .get((self.took.len() * percent / 100).min(last))
                .map_or(0.0, |took| took.as_secs_f64() * 1e3)
        };
        text.push_str(&format!(
            "{} rows, latency_ms p50 {:.3} p95 {:.3} p99 {:.3}\n",
            self.took.len(),
            at(50),
            at(95),
            at(99)
        ));
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
        let text = Summary { took: vec![Duration::from_millis(2)], labelled }.text();
        assert!(text.contains("label true          1        1"), "{text}");
        assert!(text.contains("precision 0.5000  recall 0.5000"), "{text}");
        assert!(text.contains("1 rows, latency_ms p50 2.000"), "{text}");
    }
}
