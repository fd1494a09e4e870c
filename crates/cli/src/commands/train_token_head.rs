//! `tandem train-token-head`: token heads from texts with spans.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use contract::{Input, Message, MessageRole, TokenStates};
use lab::heads::tokens::{Mistakes, TokenRows, TokenSettings, TokenSpan, TokenTest};
use policy::TokenHead;
use policy::heads::HeadModel;
use policy::token_head::{CLASSES, ClassScore, Part};
use serde::Deserialize;
use serde_json::json;

use crate::context::Context;
use crate::error::CliError;
use crate::reader::{Reader, sha256};
use crate::{input, output};

/// Train a token head, which says where names and addresses stand, on a model's reading of texts
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  tandem train-token-head qwen2.5-coder-0.5b --data fit.jsonl --test test.jsonl --parts 10:-1,10:0,10:1 --out names.json\n\n\
                  A row: {\"text\": \"I am Ann.\", \"spans\": [{\"start\": 5, \"end\": 8, \"class\": \"person\"}]}, places in bytes of UTF-8"
)]
pub struct Args {
    /// The model that reads: a .gguf file, a catalogue name, or hf:OWNER/REPO/FILE
    #[arg(value_name = "REF")]
    model: String,
    /// JSON lines with `text` and `spans`
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Likewise, to tell how good the head is; given several times, each is told by itself, and the first one's figures
    /// are kept in the head
    #[arg(long = "test", value_name = "FILE")]
    tests: Vec<PathBuf>,
    /// The states to look at: each of a layer, at the end of the word (0), of the one before (-1), of the next (1) and
    /// so on
    #[arg(long, value_name = "10:-1,10:0,10:1", allow_hyphen_values = true)]
    parts: String,
    /// Weight of the squared penalty
    #[arg(long, value_name = "X", default_value_t = 0.01)]
    strength: f64,
    /// Also write what it got wrong of the tests: {"file", "text", "missed", "wrong"} a line
    #[arg(long, value_name = "FILE")]
    mistakes: Option<PathBuf>,
    /// The head's name
    #[arg(long, value_name = "NAME", default_value = "names")]
    name: String,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Deserialize)]
struct Row {
    text: String,
    spans: Vec<Span>,
}

#[derive(Deserialize)]
struct Span {
    start: usize,
    end: usize,
    class: Option<String>,
}

/// A text and what stands in it.
struct Labelled {
    text: String,
    spans: Vec<TokenSpan>,
}

/// Runs the command.
///
/// # Errors
/// If rows are wrong, the model can't read them, or there is nothing to learn from.
pub fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let data = rows(&args.data)?;
    let tests = args.tests.iter().map(|file| rows(file)).collect::<Result<Vec<_>, _>>()?;
    let data_sha256 = sha256(&args.data)?.to_string();
    let mut wanted = Vec::new();
    let choose = |_: &HeadModel, depth: u32| {
        wanted = parts(&args.parts, depth)?;
        let layers: BTreeSet<u32> = wanted.iter().map(|part| part.layer).collect();
        Ok(layers.into_iter().collect())
    };
    let reader = Reader::load(&args.model, choose, context)?;
    let mut learnt = TokenRows::new(wanted);
    read(&reader, &data, |row, tokens| {
        learnt.push(&row.text, &row.spans, &tokens).map_err(CliError::failed)
    })?;
    let settings = TokenSettings {
        name: args.name.clone(),
        model: reader.model.clone(),
        data_sha256,
        strength: args.strength,
    };
    let nothing = || CliError::usage(format!("{}: there are no words in it", args.data.display()));
    let mut head = learnt.train(settings).ok_or_else(nothing)?;
    let mut mistakes = String::new();
    for (index, (file, rows)) in args.tests.iter().zip(&tests).enumerate() {
        let scores = tested(&reader, &head, rows, |row, found| {
            mistakes += &format!("{}\n", told(file, &row.text, found));
        })?;
        tell(file, &scores, context)?;
        if index == 0 {
            head.training.tested = scores;
        }
    }
    let write = |file: &Path, text: String| {
        std::fs::write(file, text)
            .map_err(|error| CliError::failed(format!("can't write {}: {error}", file.display())))
    };
    if let Some(file) = &args.mistakes {
        write(file, mistakes)?;
    }
    write(&args.out, serde_json::to_string(&head).map_err(CliError::failed)? + "\n")
}

/// What a head got wrong in a text, a line of `--mistakes`.
fn told(file: &Path, text: &str, mistakes: &Mistakes) -> serde_json::Value {
    let spans = |spans: &[(usize, Range<usize>)]| -> Vec<serde_json::Value> {
        let one = |(class, range): &(usize, Range<usize>)| json!({"class": CLASSES[*class], "text": text[range.clone()]});
        spans.iter().map(one).collect()
    };
    json!({"file": file.display().to_string(), "text": text, "missed": spans(&mistakes.missed), "wrong": spans(&mistakes.wrong)})
}

fn rows(file: &Path) -> Result<Vec<Labelled>, CliError> {
    let mut rows = Vec::new();
    input::json_lines(file, |Row { text, spans }: Row| {
        let span = |Span { start, end, class }: Span| {
            let known = |class: &String| CLASSES.iter().position(|known| known == class);
            let is_right = start < end && text.get(start..end).is_some();
            let found = class.as_ref().map(known);
            match (is_right, found) {
                (false, _) => Err(CliError::usage(format!("{start}..{end} are no letters of the text"))),
                (_, Some(None)) => {
                    Err(CliError::usage(format!("a class is unknown; known are: {}", CLASSES.join(", "))))
                }
                (_, class) => Ok(TokenSpan { range: start..end, class: class.flatten() }),
            }
        };
        let spans = spans.into_iter().map(span).collect::<Result<_, _>>()?;
        rows.push(Labelled { text, spans });
        Ok(())
    })?;
    Ok(rows)
}

/// Reads rows as a guard does; `each` gets the states at their tokens.
fn read(
    reader: &Reader,
    rows: &[Labelled],
    mut each: impl FnMut(&Labelled, Arc<TokenStates>) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let message = |row: &Labelled| vec![Message::text(MessageRole::User, &row.text)];
    let inputs = rows.iter().map(|row| Input::Chat { messages: message(row), tools: Vec::new() });
    reader.read_tokens(inputs.collect(), |index, reading| {
        let tokens = reading.tokens.ok_or_else(|| CliError::failed("the model told no states of tokens"))?;
        each(&rows[index], tokens)
    })
}

fn tested(
    reader: &Reader,
    head: &TokenHead,
    rows: &[Labelled],
    mut wrong: impl FnMut(&Labelled, &Mistakes),
) -> Result<Vec<ClassScore>, CliError> {
    let mut test = TokenTest::default();
    read(reader, rows, |row, tokens| {
        let mistakes = test.add(head, (&row.text, &row.spans), &tokens).map_err(CliError::failed)?;
        if mistakes != Mistakes::default() {
            wrong(row, &mistakes);
        }
        Ok(())
    })?;
    Ok(test.scores())
}

fn tell(file: &Path, scores: &[ClassScore], context: &Context) -> Result<(), CliError> {
    if context.json {
        return output::json(&json!({"file": file.display().to_string(), "classes": scores}));
    }
    for score in scores {
        output::line(&format!(
            "{}: {}: F1 {:.3} of {} spans (precision {:.3}, recall {:.3}), of words {:.3}",
            file.display(),
            score.class,
            score.f1,
            score.spans,
            score.precision,
            score.recall,
            score.words_f1
        ))?;
    }
    Ok(())
}

/// The states that `--parts` names, of a model with so many layers.
fn parts(text: &str, depth: u32) -> Result<Vec<Part>, CliError> {
    let part = |part: &str| {
        let (layer, word) = part.trim().split_once(':')?;
        let layer = layer.parse().ok().filter(|layer| *layer <= depth)?;
        Some(Part { layer, word: word.parse().ok()? })
    };
    let found: Option<Vec<Part>> = text.split(',').map(part).collect();
    found.ok_or_else(|| {
        let form = "give a layer and a word's place each, of layers in 0..=";
        CliError::usage(format!("--parts is {text:?}; {form}{depth}, as in 10:-1,10:0,10:1"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_given_by_layer_and_word() {
        let part = |layer, word| Part { layer, word };
        assert_eq!(parts("10:-1, 10:0,2:1", 24).unwrap(), [part(10, -1), part(10, 0), part(2, 1)]);
        for wrong in ["", "10", "25:0", "10:x"] {
            assert_eq!(parts(wrong, 24).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }
}
