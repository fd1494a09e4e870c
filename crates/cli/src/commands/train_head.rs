//! `tandem train-head`: a head from labelled rows.

use std::path::{Path, PathBuf};

use contract::Input;
use lab::heads::{Rows, TrainSettings, Trained, train};
use policy::heads::Training;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::error::CliError;
use crate::progress::counter;
use crate::reader::{Reader, RowInput, sha256};
use crate::{input, output};

/// Train a linear head on a model's reading of labelled rows
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  tandem train-head qwen2.5-coder-0.5b --data rows.jsonl --label is_code --out head.json\n\n\
                  A row: {\"id\": \"1\", \"messages\": [{\"role\": \"user\", \"content\": \"…\"}], \"is_code\": true}"
)]
pub struct Args {
    /// The model that reads: a .gguf file, a catalogue name, or hf:OWNER/REPO/FILE
    #[arg(value_name = "REF")]
    model: String,
    /// JSON lines with `prompt` or `messages`, and the label
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// The field that holds the label: true or false, 1 or 0
    #[arg(long, value_name = "NAME")]
    label: String,
    /// A field whose equal values keep their rows in one fold, such as a source or a subject
    #[arg(long, value_name = "FIELD")]
    group: Option<String>,
    /// Layers to look at, separated by commas; auto: every second from a quarter of the depth on, and the last
    #[arg(long, value_name = "auto|LAYERS", default_value = "auto")]
    layers: String,
    /// Take `prompt` for a user's message, with the model's chat template around it
    #[arg(long)]
    as_chat: bool,
    /// The head's name [default: the label's]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Decides the folds
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Also write each row's score by a fit that had not seen the row's fold: {"id", "score", "label", "group", "fold"} a line
    #[arg(long, value_name = "FILE")]
    scores: Option<PathBuf>,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Deserialize)]
struct Row {
    #[serde(flatten)]
    input: RowInput,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

/// What a row says besides its text.
struct Labelled {
    id: Value,
    label: bool,
    group: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// If rows are wrong, the model can't read them, or there is too little to learn from.
pub fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let (inputs, labels) = rows(&args)?;
    let data_sha256 = sha256(&args.data)?.to_string();
    let reader = Reader::load(&args.model, |depth| layers(&args.layers, depth), context)?;
    let mut readings = Rows::default();
    reader.read(inputs, |index, reading| {
        let Labelled { label, group, .. } = &labels[index];
        readings.push(&reading, *label, group.as_deref()).map_err(CliError::failed)
    })?;
    let settings = TrainSettings {
        name: args.name.clone().unwrap_or_else(|| args.label.clone()),
        label: args.label.clone(),
        model: reader.model.clone(),
        data_sha256,
        seed: args.seed,
        threads: context.threads(),
    };
    let bar = counter("fitting layers", readings.layers().len() as u64, context.stderr_is_terminal);
    let trained = train(&readings, &settings, &|| bar.inc(1));
    bar.finish_and_clear();
    let Trained { head, probabilities, folds } = trained.map_err(CliError::usage)?;
    if let Some(path) = &args.scores {
        write_scores(path, &labels, (&probabilities, &folds))?;
    }
    let text = serde_json::to_string(&head).map_err(CliError::failed)?;
    std::fs::write(&args.out, text + "\n")
        .map_err(|error| CliError::failed(format!("can't write {}: {error}", args.out.display())))?;
    let training = &head.training;
    if context.json {
        return output::json(&summary(head.features.layer, training));
    }
    output::text(&told(head.features.layer, training))?;
    output::line(&format!("written to {}", args.out.display()))
}

fn rows(args: &Args) -> Result<(Vec<Input>, Vec<Labelled>), CliError> {
    let (mut inputs, mut labels) = (Vec::new(), Vec::new());
    input::json_lines(&args.data, |row: Row| {
        let label = row
            .fields
            .get(&args.label)
            .ok_or_else(|| CliError::usage(format!("the row has no field {:?} for the label", args.label)))?;
        let label = truth(label).ok_or_else(|| {
            CliError::usage(format!("the label {:?} is {label}; it must be true or false", args.label))
        })?;
        let group = args.group.as_ref().map(|field| match row.fields.get(field) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Ok(other.to_string()),
            None => Err(CliError::usage(format!("the row has no field {field:?} for the group"))),
        });
        let id = row.fields.get("id").cloned().unwrap_or_default();
        labels.push(Labelled { id, label, group: group.transpose()? });
        inputs.push(row.input.input(args.as_chat)?);
        Ok(())
    })?;
    Ok((inputs, labels))
}

/// Writes what each row got by a fit that had not seen its fold.
fn write_scores(path: &Path, rows: &[Labelled], (scores, folds): (&[f64], &[usize])) -> Result<(), CliError> {
    let lines = rows.iter().zip(scores.iter().zip(folds)).map(|(row, (score, fold))| {
        json!({ "id": row.id, "score": score, "label": row.label, "group": row.group, "fold": fold })
            .to_string()
            + "\n"
    });
    std::fs::write(path, lines.collect::<String>())
        .map_err(|error| CliError::failed(format!("can't write {}: {error}", path.display())))
}

fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(label) => Some(*label),
        Value::Number(number) if number.as_f64() == Some(1.0) => Some(true),
        Value::Number(number) if number.as_f64() == Some(0.0) => Some(false),
        _ => None,
    }
}

/// The layers of a model with so many that `--layers` asks for, ascending.
fn layers(text: &str, depth: u32) -> Result<Vec<u32>, CliError> {
    let mut layers: Vec<u32> = if text == "auto" {
        (depth / 4..depth).step_by(2).filter(|layer| *layer > 0).chain([depth]).collect()
    } else {
        let layer = |part: &str| part.trim().parse().ok().filter(|layer| *layer <= depth);
        let all: Option<Vec<u32>> = text.split(',').map(layer).collect();
        all.ok_or_else(|| {
            CliError::usage(format!("--layers is {text:?}; give auto, or layers in 0..={depth}, as in 8,12"))
        })?
    };
    layers.sort_unstable();
    layers.dedup();
    Ok(layers)
}

fn summary(layer: u32, training: &Training) -> Value {
    json!({
        "layer": layer,
        "auroc": training.auroc,
        "auroc_ci": training.auroc_ci,
        "ece": training.ece,
        "rows": training.rows,
        "positives": training.positives,
        "groups": training.groups,
        "folds": training.folds,
        "strength": training.strength,
        "layers": training.layers,
        "baselines": training.baselines,
    })
}

fn told(layer: u32, training: &Training) -> String {
    let mut text = format!(
        "layer {layer}: AUROC {:.3} ({:.3} to {:.3}), calibration error {:.3}, {} rows ({} true), {} folds\n",
        training.auroc,
        training.auroc_ci[0],
        training.auroc_ci[1],
        training.ece,
        training.rows,
        training.positives,
        training.folds,
    );
    for baseline in &training.baselines {
        text += &format!(
            "  beside {}: {:.3}; the reading adds {:+.3} ({:+.3} to {:+.3})\n",
            baseline.name,
            baseline.auroc,
            baseline.head_adds,
            baseline.head_adds_ci[0],
            baseline.head_adds_ci[1],
        );
    }
    for score in &training.layers {
        text += &format!("  layer {:>3}  {:.3}\n", score.layer, score.auroc);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_chosen_or_given() {
        assert_eq!(layers("auto", 24).unwrap(), [6, 8, 10, 12, 14, 16, 18, 20, 22, 24]);
        assert_eq!(layers("auto", 2).unwrap(), [2]);
        assert_eq!(layers("12, 8,12", 24).unwrap(), [8, 12]);
        for wrong in ["", "25", "8,x", "-1"] {
            assert_eq!(layers(wrong, 24).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }

    #[test]
    fn labels_are_true_or_false_or_their_numbers() {
        let cases = [(json!(true), Some(true)), (json!(0), Some(false)), (json!(1.0), Some(true))];
        for (value, expected) in cases.into_iter().chain([(json!(2), None), (json!("yes"), None)]) {
            assert_eq!(truth(&value), expected, "{value}");
        }
    }
}
