//! `tandem train-head`: heads from labelled rows.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use contract::Input;
use lab::heads::{FOLDS, FOLDS_MAX, FOLDS_MIN, Rows, Target, TrainSettings, Trained, balanced, train};
use policy::Head;
use policy::heads::{HeadModel, HeadState, OperatingPoint, StateKind};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::error::CliError;
use crate::progress::counter;
use crate::reader::{Reader, RowInput, sha256};
use crate::{input, output};

/// What is replaced by the label's name in the names of files.
const LABEL_MARK: &str = "{label}";

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
    /// The field that holds the label: true or false, 1 or 0; given several times, each makes a head, on the same states of one reading
    #[arg(long = "label", value_name = "NAME", required = true)]
    labels: Vec<String>,
    /// A field whose equal values keep their rows in one fold, such as a source or a subject
    #[arg(long, value_name = "FIELD")]
    group: Option<String>,
    /// Layers to choose one or two of, separated by commas; auto: every second from a quarter of the depth on, and
    /// the last
    #[arg(long, value_name = "auto|LAYERS", default_value = "auto")]
    layers: String,
    /// Look at exactly these states, joined, instead of choosing: the last token's or the mean over the prompt, each of
    /// a layer
    #[arg(long, value_name = "12:last,12:mean,…", conflicts_with = "layers")]
    states: Option<String>,
    /// Leave out the prompt's length and the next token's distribution, which say little of what a text is about
    #[arg(long)]
    no_scalars: bool,
    /// A field, such as a source: a row counts by the inverse square root of how many have its value, and the rows of
    /// either label count together as much as those of the other
    #[arg(long, value_name = "FIELD")]
    balance: Option<String>,
    /// Folds of the cross-validation, 3 to 20, at most as many as groups
    #[arg(long, value_name = "N", default_value_t = FOLDS, value_parser = folds)]
    folds: usize,
    /// Store the least threshold that at most this share of rows with a false label reach, as the head's operating point
    #[arg(long, value_name = "SHARE", value_parser = share)]
    false_positives: Option<f64>,
    /// A field: rows where it is true, such as copies in disguise, are learnt from and left out of the operating point
    #[arg(long, value_name = "FIELD", requires = "false_positives")]
    left_out: Option<String>,
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
    /// The file to write; with several labels, `{label}` in it stands for the label, as it does in --scores
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
    /// Of each `--label`.
    labels: Vec<bool>,
    group: Option<String>,
    /// Of `--balance`.
    kind: Option<String>,
    /// By `--left-out`.
    is_left_out: bool,
}

/// Runs the command.
///
/// # Errors
/// If rows are wrong, the model can't read them, or there is too little to learn from.
pub fn run(args: Args, context: &Context) -> Result<(), CliError> {
    check_names(&args)?;
    let (inputs, labelled) = rows(&args)?;
    let data_sha256 = sha256(&args.data)?.to_string();
    let mut given = None;
    let wanted = |_: &HeadModel, depth: u32| match &args.states {
        Some(text) => {
            let found = states(text, depth)?;
            let layers: BTreeSet<u32> = found.iter().map(|state| state.layer).collect();
            given = Some(found);
            Ok(layers.into_iter().collect())
        }
        None => layers(&args.layers, depth),
    };
    let reader = Reader::load(&args.model, wanted, context)?;
    let mut readings = Rows::default();
    reader.read(inputs, |index, reading| {
        readings.push(&reading, labelled[index].group.as_deref()).map_err(CliError::failed)
    })?;
    let mut settings = TrainSettings {
        seed: args.seed,
        states: given,
        folds: args.folds,
        false_positive_rate_max: args.false_positives,
        ..TrainSettings::new(reader.model.clone(), data_sha256, context.threads())
    };
    if args.no_scalars {
        settings.scalars.clear();
    }
    let of_label = |index| labelled.iter().map(|row| row.labels[index]).collect();
    let labels: Vec<Vec<bool>> = (0..args.labels.len()).map(of_label).collect();
    let name = |label: &String| args.name.clone().unwrap_or_else(|| label.clone());
    let target = |index: usize| {
        let label = &args.labels[index];
        let labels = &labels[index];
        let kinds: Option<Vec<&String>> = labelled.iter().map(|row| row.kind.as_ref()).collect();
        let weights = kinds.map_or_else(Vec::new, |kinds| balanced(&kinds, labels));
        let left_out = labelled.iter().map(|row| row.is_left_out).collect();
        Target { name: name(label), label: label.clone(), labels, weights, left_out }
    };
    let targets: Vec<Target<'_>> = (0..labels.len()).map(target).collect();
    let bar = counter("fitting", settings.runs_max(&readings) as u64, context.stderr_is_terminal);
    let heads = train((&readings, &targets), &settings, &|| bar.inc(1));
    bar.finish_and_clear();
    for (trained, target) in heads.map_err(CliError::usage)?.iter().zip(&targets) {
        write(&args, (trained, &labelled, target.labels))?;
        if context.json {
            output::json(&summary(&trained.head))?;
        } else {
            output::text(&told(&trained.head))?;
            output::line(&format!("written to {}", named(&args.out, &target.label).display()))?;
        }
    }
    Ok(())
}

/// Several heads need several names and files.
fn check_names(args: &Args) -> Result<(), CliError> {
    let files = [Some(&args.out), args.scores.as_ref()].into_iter().flatten();
    let is_shared = files.into_iter().any(|file| named(file, "") == *file);
    if args.labels.len() > 1 && (is_shared || args.name.is_some()) {
        return Err(CliError::usage(
            "with several labels, --out and --scores need {label} in their names, and --name can't be given",
        ));
    }
    Ok(())
}

/// The file of a label.
fn named(file: &Path, label: &str) -> PathBuf {
    PathBuf::from(file.to_string_lossy().replace(LABEL_MARK, label))
}

fn write(args: &Args, (trained, labelled, labels): (&Trained, &[Labelled], &[bool])) -> Result<(), CliError> {
    let label = &trained.head.training.label;
    if let Some(path) = &args.scores {
        write_scores(&named(path, label), (labelled, labels), trained)?;
    }
    let text = serde_json::to_string(&trained.head).map_err(CliError::failed)?;
    let out = named(&args.out, label);
    std::fs::write(&out, text + "\n")
        .map_err(|error| CliError::failed(format!("can't write {}: {error}", out.display())))
}

fn rows(args: &Args) -> Result<(Vec<Input>, Vec<Labelled>), CliError> {
    let (mut inputs, mut labelled) = (Vec::new(), Vec::new());
    input::json_lines(&args.data, |row: Row| {
        let label = |name: &String| {
            let value = row
                .fields
                .get(name)
                .ok_or_else(|| CliError::usage(format!("the row has no field {name:?} for the label")))?;
            truth(value).ok_or_else(|| {
                CliError::usage(format!("the label {name:?} is {value}; it must be true or false"))
            })
        };
        let labels = args.labels.iter().map(label).collect::<Result<_, _>>()?;
        let field = |field: &Option<String>, of: &str| {
            let field = field.as_ref()?;
            Some(match row.fields.get(field) {
                Some(Value::String(text)) => Ok(text.clone()),
                Some(other) => Ok(other.to_string()),
                None => Err(CliError::usage(format!("the row has no field {field:?} for {of}"))),
            })
        };
        let id = row.fields.get("id").cloned().unwrap_or_default();
        let group = field(&args.group, "the group").transpose()?;
        let kind = field(&args.balance, "the balance").transpose()?;
        let is_left_out =
            args.left_out.as_ref().and_then(|name| row.fields.get(name)).and_then(truth).unwrap_or(false);
        labelled.push(Labelled { id, labels, group, kind, is_left_out });
        inputs.push(row.input.input(args.as_chat)?);
        Ok(())
    })?;
    Ok((inputs, labelled))
}

/// Writes what each row got by a fit that had not seen its fold.
fn write_scores(
    path: &Path,
    (rows, labels): (&[Labelled], &[bool]),
    trained: &Trained,
) -> Result<(), CliError> {
    let scores = trained.probabilities.iter().zip(&trained.folds);
    let lines = rows.iter().zip(labels).zip(scores).map(|((row, label), (score, fold))| {
        json!({ "id": row.id, "score": score, "label": label, "group": row.group, "fold": fold }).to_string()
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

/// The states that `--states` names, of a model with so many layers.
fn states(text: &str, depth: u32) -> Result<Vec<HeadState>, CliError> {
    let state = |part: &str| {
        let (layer, state) = part.trim().split_once(':')?;
        let layer = layer.parse().ok().filter(|layer| *layer <= depth)?;
        let kinds = [StateKind::Last, StateKind::Mean];
        Some(HeadState { layer, state: kinds.into_iter().find(|known| kind(*known) == state)? })
    };
    let found: Option<Vec<HeadState>> = text.split(',').map(state).collect();
    let count = |found: &[HeadState]| found.iter().collect::<BTreeSet<_>>().len();
    found.filter(|found| count(found) == found.len()).ok_or_else(|| {
        let form = "different ones of layers in 0..=";
        CliError::usage(format!("--states is {text:?}; give {form}{depth}, as in 12:last,12:mean"))
    })
}

fn folds(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (FOLDS_MIN..=FOLDS_MAX).contains(count));
    count.ok_or_else(|| format!("give a number from {FOLDS_MIN} to {FOLDS_MAX}"))
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..1.0).contains(share));
    share.ok_or_else(|| "give a share of at least 0 and below 1, as 0.02".to_owned())
}

fn summary(head: &Head) -> Value {
    let training = &head.training;
    json!({
        "label": training.label,
        "layer": head.features.states.first().map(|state| state.layer),
        "states": head.features.states,
        "auroc": training.auroc,
        "auroc_ci": training.auroc_ci,
        "ece": training.ece,
        "rows": training.rows,
        "positives": training.positives,
        "groups": training.groups,
        "folds": training.folds,
        "strength": training.strength,
        "operating_point": head.operating_point,
        "layers": training.layers,
        "baselines": training.baselines,
    })
}

fn kind(state: StateKind) -> &'static str {
    match state {
        StateKind::Last => "last",
        StateKind::Mean => "mean",
    }
}

fn told(head: &Head) -> String {
    let training = &head.training;
    let state = |state: &HeadState| format!("{} of layer {}", kind(state.state), state.layer);
    let states: Vec<String> = head.features.states.iter().map(state).collect();
    let mut text = format!(
        "{}: {}: AUROC {:.3} ({:.3} to {:.3}), calibration error {:.3}, {} rows ({} true), {} folds\n",
        training.label,
        states.join(" and "),
        training.auroc,
        training.auroc_ci[0],
        training.auroc_ci[1],
        training.ece,
        training.rows,
        training.positives,
        training.folds,
    );
    if let Some(OperatingPoint { threshold, false_positive_rate, recall }) = &head.operating_point {
        text += &format!(
            "  from {threshold:.4} on: {:.1} % of the true, {:.1} % of the false\n",
            100.0 * recall,
            100.0 * false_positive_rate,
        );
    }
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
        text += &format!("  layer {:>3} {}  {:.3}\n", score.layer, kind(score.state), score.auroc);
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
    fn states_are_given_by_layer_and_kind() {
        let state = |layer, state| HeadState { layer, state };
        let expected = [state(12, StateKind::Last), state(0, StateKind::Mean)];
        assert_eq!(states("12:last, 0:mean", 24).unwrap(), expected);
        for wrong in ["", "12", "25:last", "12:first", "12:last,12:last", "x:mean"] {
            assert_eq!(states(wrong, 24).unwrap_err().exit_code(), 2, "{wrong}");
        }
        assert!(folds("3").is_ok() && folds("2").is_err() && folds("21").is_err());
        assert!(share("0.02").is_ok() && share("1").is_err() && share("x").is_err());
    }

    #[test]
    fn labels_are_true_or_false_or_their_numbers() {
        let cases = [(json!(true), Some(true)), (json!(0), Some(false)), (json!(1.0), Some(true))];
        for (value, expected) in cases.into_iter().chain([(json!(2), None), (json!("yes"), None)]) {
            assert_eq!(truth(&value), expected, "{value}");
        }
    }
}
