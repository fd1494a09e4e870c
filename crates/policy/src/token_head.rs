//! Token heads: linear probes on the small model's states at every token, that say where in a text something stands.
//!
//! A text is cut into words. A word is seen by the states at its end and at the ends of the words around it: a causal
//! model knows a word's right neighbours only there. Scores say whether it begins something, goes on with it or is
//! outside, others which label follows which (Lafferty, McCallum & Pereira, 2001); the likeliest row of labels is what is
//! found (Viterbi, 1967).

use std::ops::Range;

use contract::{LayerTokens, TokenStates};
use serde::{Deserialize, Serialize};

use crate::artefact::Stated;
use crate::heads::{FEATURES_MAX, HeadModel};
use crate::products::dot;

/// What `format` says in a token head's file.
pub const FORMAT: &str = "tandem-token-head";
/// The version of the file's shape that is written and read here.
pub const VERSION: u32 = 1;
/// What token heads may find: the names that records and placeholders use.
pub const CLASSES: [&str; 2] = ["person", "address"];
/// How far from a word a head may look, words.
const REACH_MAX: i32 = 4;
/// Layers of a model, at most.
const LAYERS_MAX: u32 = 4096;
/// The label of words outside.
const OUTSIDE: usize = 0;

/// A state that a head looks at: at the last token of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The layer, as in [`LayerTokens::layer`].
    pub layer: u32,
    /// Of which word: 0 is the word itself, −1 the one before, 1 the next.
    pub word: i32,
}

/// How well one class is found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassScore {
    /// The class.
    pub class: String,
    /// Spans there are.
    pub spans: u64,
    /// Of the spans found, the share that is there exactly so.
    pub precision: f64,
    /// Of the spans there are, the share that is found exactly so.
    pub recall: f64,
    /// Their harmonic mean.
    pub f1: f64,
    /// The same of words instead of spans.
    pub words_f1: f64,
}

/// How a token head came about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenTraining {
    /// sha256 of the file of rows.
    pub data_sha256: String,
    /// Rows.
    pub rows: u64,
    /// Their words.
    pub words: u64,
    /// The weight of the squared penalty, per word.
    pub strength: f64,
    /// What is reached on rows of other templates; what of them was used for choices, the training's record says.
    pub tested: Vec<ClassScore>,
}

/// A trained probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenHead {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// Its name.
    pub name: String,
    /// Whose states it understands.
    pub model: HeadModel,
    /// What it looks at, in the order of its weights.
    pub parts: Vec<Part>,
    /// What it finds, of [`CLASSES`]. Label 0 is outside; class *c* begins with label 1 + 2*c* and goes on with 2 + 2*c*.
    pub classes: Vec<String>,
    /// `[label][part][hidden]`.
    pub weights: Vec<f32>,
    /// `[label]`.
    pub bias: Vec<f32>,
    /// `[label before][label]`: added where one follows the other.
    pub changes: Vec<f32>,
    /// Least mean probability of a span's words that counts, in 0..=1.
    pub threshold: f64,
    /// How it came about.
    pub training: TokenTraining,
}

/// Why a token head can't be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TokenHeadError {
    /// It is no such file.
    #[error("not a token head's file: {0}")]
    Json(String),
    /// Another format or version.
    #[error(
        "this is format {format:?}, version {version}; here {FORMAT:?}, version {VERSION} is read: train it again"
    )]
    Version {
        /// Its format.
        format: String,
        /// Its version.
        version: u32,
    },
    /// Its parts do not fit together.
    #[error("the token head {name:?} is damaged: {fault}")]
    Damaged {
        /// The head.
        name: String,
        /// What is wrong.
        fault: String,
    },
    /// Trained on another model's states.
    #[error(
        "the token head {name:?} was trained on {trained}, and this is another model, whose states mean something else"
    )]
    OtherModel {
        /// The head.
        name: String,
        /// Its model.
        trained: String,
    },
    /// The reading lacks a layer, or its states have another width.
    #[error("the token head {name:?} looks at layer {layer}, which was not read, or not in its width")]
    NoLayer {
        /// The head.
        name: String,
        /// The layer.
        layer: u32,
    },
    /// The text does not stand in what was read.
    #[error("the text was not found in what was read")]
    NoText,
    /// The reading holds what is no number.
    #[error("the reading holds what is no number")]
    NotFinite,
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Where, bytes of the text: whole words.
    pub range: Range<usize>,
    /// Its place in [`TokenHead::classes`].
    pub class: usize,
    /// Mean probability that its words are of the class.
    pub score: f64,
}

impl TokenHead {
    /// Reads a file and checks that its parts fit together.
    ///
    /// # Errors
    /// [`TokenHeadError`], saying what is wrong.
    pub fn load(text: &str) -> Result<Self, TokenHeadError> {
        if let Some(Stated { format, version }) = Stated::other(text, (FORMAT, VERSION)) {
            return Err(TokenHeadError::Version { format, version });
        }
        let head: TokenHead =
            serde_json::from_str(text).map_err(|error| TokenHeadError::Json(error.to_string()))?;
        match head.fault() {
            None => Ok(head),
            Some(fault) => Err(TokenHeadError::Damaged { name: head.name, fault }),
        }
    }

    fn fault(&self) -> Option<String> {
        let (labels, parts) = (self.labels(), self.parts.len());
        if self.name.trim().is_empty() {
            return Some("it has no name".to_owned());
        }
        let is_known = |class: &String| CLASSES.contains(&class.as_str());
        let is_twice = (1..self.classes.len()).any(|at| self.classes[..at].contains(&self.classes[at]));
        if self.classes.is_empty() || !self.classes.iter().all(is_known) || is_twice {
            return Some(format!("its classes must be of {}, none twice", CLASSES.join(", ")));
        }
        let far = |part: &Part| part.word.abs() > REACH_MAX || part.layer > LAYERS_MAX;
        if parts == 0 || self.parts.iter().any(far) {
            return Some(format!("it must look at layers that there are, of words at most {REACH_MAX} away"));
        }
        let width = self.weights.len();
        if width == 0 || width > FEATURES_MAX || !width.is_multiple_of(labels * parts) {
            return Some(format!("{width} weights are not for {labels} labels of {parts} states"));
        }
        if self.bias.len() != labels || self.changes.len() != labels * labels {
            return Some(format!("{labels} labels need as many biases, and their square of changes"));
        }
        let values = self.weights.iter().chain(&self.bias).chain(&self.changes);
        if !values.into_iter().all(|value| value.is_finite()) || !(0.0..=1.0).contains(&self.threshold) {
            return Some("a weight or its threshold is out of range".to_owned());
        }
        None
    }

    /// Refuses any model but the one whose states it was trained on.
    ///
    /// # Errors
    /// [`TokenHeadError::OtherModel`].
    pub fn check_model(&self, sha256: &str) -> Result<(), TokenHeadError> {
        if self.model.sha256.eq_ignore_ascii_case(sha256) {
            return Ok(());
        }
        Err(TokenHeadError::OtherModel { name: self.name.clone(), trained: self.model.name.clone() })
    }

    /// Labels of a word.
    fn labels(&self) -> usize {
        1 + 2 * self.classes.len()
    }

    /// The layers that it looks at, ascending.
    pub fn layers(&self) -> Vec<u32> {
        let mut layers: Vec<u32> = self.parts.iter().map(|part| part.layer).collect();
        layers.sort_unstable();
        layers.dedup();
        layers
    }

    /// What stands where in `text`, which is a part of what was read; in order.
    ///
    /// # Errors
    /// [`TokenHeadError`] if the reading is not what the head was trained on, or not of this text.
    pub fn find(&self, text: &str, tokens: &TokenStates) -> Result<Vec<Found>, TokenHeadError> {
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        let words = words(text);
        let ends = token_ends(text, &words, tokens).ok_or(TokenHeadError::NoText)?;
        let scores = self.scores(&ends, tokens)?;
        if scores.iter().any(|score| !score.is_finite()) {
            return Err(TokenHeadError::NotFinite);
        }
        let labels = self.likeliest(&scores);
        Ok(self.spans((text, &words), &labels, &scores))
    }

    /// Log scores of each word's labels, `[word][label]`; `ends`: the token at the end of each word.
    fn scores(&self, ends: &[usize], tokens: &TokenStates) -> Result<Vec<f32>, TokenHeadError> {
        let (labels, parts) = (self.labels(), self.parts.len());
        let hidden = self.weights.len() / (labels * parts);
        let layer = |part: &Part| {
            let found = tokens.layers.iter().find(|layer| layer.layer == part.layer);
            let fits = |layer: &&LayerTokens| layer.states.len() == tokens.ends.len() * hidden;
            found
                .filter(fits)
                .ok_or_else(|| TokenHeadError::NoLayer { name: self.name.clone(), layer: part.layer })
        };
        let layers: Vec<&LayerTokens> = self.parts.iter().map(layer).collect::<Result<_, _>>()?;
        let mut scores = Vec::with_capacity(ends.len() * labels);
        for word in 0..ends.len() {
            scores.extend_from_slice(&self.bias);
            let row = &mut scores[word * labels..];
            for (place, (part, layer)) in self.parts.iter().zip(&layers).enumerate() {
                // Beyond the text's ends there is nothing to see.
                let seen = word.checked_add_signed(part.word as isize).and_then(|word| ends.get(word));
                let Some(token) = seen else { continue };
                let state = &layer.states[token * hidden..][..hidden];
                for (label, score) in row.iter_mut().enumerate() {
                    *score += dot(&self.weights[(label * parts + place) * hidden..][..hidden], state);
                }
            }
        }
        Ok(scores)
    }

    /// The likeliest row of labels.
    fn likeliest(&self, scores: &[f32]) -> Vec<usize> {
        let labels = self.labels();
        let mut best: Vec<f32> = Vec::new();
        let mut origins: Vec<Vec<usize>> = Vec::new();
        for row in scores.chunks_exact(labels) {
            let mut next = Vec::with_capacity(labels);
            let mut from = Vec::with_capacity(labels);
            for (label, score) in row.iter().enumerate() {
                // Before the first word was nothing.
                let before = |before: usize| match best.get(before) {
                    Some(best) => *best,
                    None if before == OUTSIDE => 0.0,
                    None => f32::NEG_INFINITY,
                };
                let come = (0..labels).filter(|before| may_follow(*before, label));
                let come = come.map(|b| (before(b) + self.changes[b * labels + label], b));
                let (value, origin) =
                    come.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((f32::NEG_INFINITY, OUTSIDE));
                next.push(value + score);
                from.push(origin);
            }
            best = next;
            origins.push(from);
        }
        let ends = best.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        let mut label = ends.map_or(OUTSIDE, |(label, _)| label);
        let mut row: Vec<usize> = Vec::with_capacity(origins.len());
        for from in origins.iter().rev() {
            row.push(label);
            label = from[label];
        }
        row.reverse();
        row
    }

    /// Words of one span joined, without signs at its ends.
    fn spans(&self, (text, words): (&str, &[Range<usize>]), labels: &[usize], scores: &[f32]) -> Vec<Found> {
        let row = |word: usize| &scores[word * self.labels()..][..self.labels()];
        let found = runs(labels).into_iter().filter_map(|(run, class)| {
            let run = trimmed(text, words, run);
            let sure: f64 = run.clone().map(|word| share(row(word), class)).sum();
            let range = words.get(run.start)?.start..words.get(run.clone().next_back()?)?.end;
            Some(Found { range, class, score: sure / run.len() as f64 })
        });
        found.collect()
    }
}

/// Whether a label may follow another: only what has begun can go on.
pub fn may_follow(before: usize, label: usize) -> bool {
    label == OUTSIDE || label % 2 == 1 || before == label || before + 1 == label
}

/// The words of each span, and its class: from a label that begins to the last that goes on.
fn runs(labels: &[usize]) -> Vec<(Range<usize>, usize)> {
    let mut runs: Vec<(Range<usize>, usize)> = Vec::new();
    for (word, label) in labels.iter().enumerate().filter(|(_, label)| **label != OUTSIDE) {
        match runs.last_mut() {
            Some((run, _)) if label % 2 == 0 && run.end == word => run.end = word + 1,
            _ => runs.push((word..word + 1, (label - 1) / 2)),
        }
    }
    runs
}

/// A run of words without the signs at its ends, but with the bracket that closes one in it.
fn trimmed(text: &str, words: &[Range<usize>], mut run: Range<usize>) -> Range<usize> {
    let of = |word: usize| words.get(word).and_then(|word| text.get(word.clone())).unwrap_or_default();
    let is_sign = |word: usize| !of(word).contains(char::is_alphanumeric);
    while !run.is_empty() && is_sign(run.start) {
        run.start += 1;
    }
    while !run.is_empty() && is_sign(run.end - 1) {
        run.end -= 1;
    }
    let brackets = |sign: &str| run.clone().filter(|word| of(*word) == sign).count();
    if brackets("(") > brackets(")") && of(run.end) == ")" {
        run.end += 1;
    }
    run
}

/// What a head with these parts looks at: the words of a text, and for each its parts' states, `[word][part][hidden]`;
/// zeros where there is no such word.
///
/// # Errors
/// [`TokenHeadError::NoText`], or [`TokenHeadError::NoLayer`] if the reading lacks one.
pub fn features(
    text: &str,
    tokens: &TokenStates,
    parts: &[Part],
) -> Result<(Vec<Range<usize>>, Vec<f32>), TokenHeadError> {
    let words = if text.trim().is_empty() { Vec::new() } else { words(text) };
    let ends = token_ends(text, &words, tokens).ok_or(TokenHeadError::NoText)?;
    let layer = |part: &Part| {
        let found = tokens.layers.iter().find(|layer| layer.layer == part.layer);
        found.ok_or_else(|| TokenHeadError::NoLayer { name: String::new(), layer: part.layer })
    };
    let layers: Vec<&LayerTokens> = parts.iter().map(layer).collect::<Result<_, _>>()?;
    let hidden = layers.first().map_or(0, |layer| layer.states.len() / tokens.ends.len().max(1));
    let mut features = Vec::with_capacity(words.len() * parts.len() * hidden);
    for word in 0..words.len() {
        for (part, layer) in parts.iter().zip(&layers) {
            let seen = word.checked_add_signed(part.word as isize).and_then(|word| ends.get(word));
            match seen.and_then(|token| layer.states.get(token * hidden..(token + 1) * hidden)) {
                Some(state) => features.extend_from_slice(state),
                None => features.resize(features.len() + hidden, 0.0),
            }
        }
    }
    Ok((words, features))
}

/// The share of a class's labels in a softmax over a word's.
fn share(row: &[f32], class: usize) -> f64 {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |score: &f32| f64::from(score - most).exp();
    let of_class: f64 = row.iter().skip(1 + 2 * class).take(2).map(weight).sum();
    of_class / row.iter().map(weight).sum::<f64>()
}

/// The words of a text: letters and digits with the apostrophes and hyphens between them, but a last `'s`, which is a
/// word of its own; so are every other sign that is no white space, every letter of a script without spaces, and white
/// space from a line's end on: where lines end addresses do.
pub fn words(text: &str) -> Vec<Range<usize>> {
    let mut words: Vec<Range<usize>> = Vec::new();
    let (mut open, mut joint): (Option<Range<usize>>, Option<Range<usize>>) = (None, None);
    for (at, letter) in text.char_indices() {
        let end = at + letter.len_utf8();
        if letter.is_alphanumeric() && !is_syllable(letter) {
            joint = None;
            open.get_or_insert(at..end).end = end;
        } else if open.is_some() && joint.is_none() && matches!(letter, '\'' | '’' | '-' | '‐' | '‑') {
            joint = Some(at..end);
        } else {
            words.extend(open.take().into_iter().flat_map(|word| parted(text, word)));
            words.extend(joint.take());
            match words.last_mut() {
                _ if !letter.is_whitespace() => words.push(at..end),
                Some(last) if letter == '\n' && text[last.start..at].trim().is_empty() => last.end = end,
                _ if letter == '\n' => words.push(at..end),
                _ => {}
            }
        }
    }
    words.extend(open.into_iter().flat_map(|word| parted(text, word)));
    words.extend(joint);
    words
}

/// A word, and its last `'s`.
fn parted(text: &str, word: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let whole = text.get(word.clone()).unwrap_or_default();
    let stem =
        ["'s", "’s"].into_iter().find_map(|end| whole.strip_suffix(end)).filter(|stem| !stem.is_empty());
    let end = word.start + stem.map_or(whole.len(), str::len);
    [word.start..end, end..word.end].into_iter().filter(|part| !part.is_empty())
}

/// A letter of a script that puts no spaces between words.
fn is_syllable(letter: char) -> bool {
    matches!(u32::from(letter), 0x0E00..=0x0EFF | 0x3040..=0x30FF | 0x3400..=0x9FFF | 0xF900..=0xFAFF | 0x20000..=0x3FFFF)
}

/// The token in which each word of `text` ends; the text is looked for in what was read, from its end: nothing but the
/// chat template's few words follows it.
fn token_ends(text: &str, words: &[Range<usize>], tokens: &TokenStates) -> Option<Vec<usize>> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        // Nothing but ends of lines.
        return words.is_empty().then(Vec::new);
    }
    let lead = text.len() - text.trim_start().len();
    let start = tokens.text.windows(trimmed.len()).rposition(|window| window == trimmed.as_bytes())?;
    let token = |word: &Range<usize>| {
        // A line's end before or after the text may have been cut off.
        let last = start + word.end.clamp(lead + 1, lead + trimmed.len()) - 1 - lead;
        let token = tokens.ends.partition_point(|end| *end <= last);
        (token < tokens.ends.len()).then_some(token)
    };
    words.iter().map(token).collect()
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A head for states of one value, as [`seen`] gives them. What begins with a capital is a person's, what begins
    /// with a digit an address's; what follows a word of its kind goes on.
    pub(crate) fn head(name: &str) -> TokenHead {
        TokenHead {
            format: FORMAT.to_owned(),
            version: VERSION,
            name: name.to_owned(),
            model: HeadModel { name: "tiny".to_owned(), sha256: "0a".repeat(32) },
            parts: vec![Part { layer: 1, word: 0 }, Part { layer: 1, word: -1 }],
            classes: vec!["person".to_owned(), "address".to_owned()],
            weights: vec![0.0, 0.0, 4.0, 0.0, 4.0, 0.1, -4.0, 0.0, -4.0, -0.1],
            bias: vec![2.0, 0.0, 0.0, 0.0, 0.0],
            changes: vec![0.0; 25],
            threshold: 0.5,
            training: TokenTraining::default(),
        }
    }

    /// A reading of a prompt, a token a byte: 1 under a capital's word, −1 under a number.
    pub(crate) fn seen(prompt: &str) -> TokenStates {
        let mut states = vec![0.0; prompt.len()];
        for word in words(prompt) {
            let first = prompt[word.clone()].chars().next().unwrap_or(' ');
            let value = f32::from(first.is_uppercase()) - f32::from(first.is_ascii_digit());
            states[word].fill(value);
        }
        TokenStates {
            text: prompt.as_bytes().to_vec(),
            ends: (1..=prompt.len()).collect(),
            layers: vec![LayerTokens { layer: 1, states }],
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::testing::{head, seen};
    use super::*;

    fn found(text: &str, prompt: &str) -> Vec<(String, usize)> {
        let found = head("h").find(text, &seen(prompt)).unwrap();
        found.into_iter().map(|found| (text[found.range].to_owned(), found.class)).collect()
    }

    #[test]
    fn words_are_letters_with_their_joints_and_signs_by_themselves() {
        let all = |text: &'static str| words(text).into_iter().map(|word| &text[word]).collect::<Vec<_>>();
        assert_eq!(all("Ann-Marie O'Neil's, 12b."), ["Ann-Marie", "O'Neil", "'s", ",", "12b", "."]);
        assert_eq!(all("a- b '' c--d"), ["a", "-", "b", "'", "'", "c", "-", "-", "d"]);
        assert_eq!(all("東京x é"), ["東", "京", "x", "é"]);
        assert_eq!(all("a \n \nb\tc\n"), ["a", "\n \n", "b", "c", "\n"]);
        assert_eq!(all("rock-"), ["rock", "-"]);
    }

    #[test]
    fn spans_are_whole_words_of_one_class() {
        let text = " it is Ann-Marie Berg at 12 or Bo";
        let expected = [("Ann-Marie Berg".to_owned(), 0), ("12".to_owned(), 1), ("Bo".to_owned(), 0)];
        assert_eq!(found(text, &format!("<user>{}<end>", text.trim())), expected);
        assert_eq!(found("", "x"), []);
    }

    #[test]
    fn what_was_not_read_is_no_text() {
        assert_eq!(head("h").find("abc", &seen("abd")), Err(TokenHeadError::NoText));
        let mut other = seen("abc");
        other.layers[0].layer = 2;
        assert!(matches!(head("h").find("abc", &other), Err(TokenHeadError::NoLayer { layer: 1, .. })));
        let mut broken = seen("abc");
        broken.layers[0].states[2] = f32::NAN;
        assert_eq!(head("h").find("abc", &broken), Err(TokenHeadError::NotFinite));
    }

    #[test]
    fn a_file_is_read_as_it_was_written_and_each_way_it_can_lie_is_named() {
        let text = serde_json::to_string(&head("h")).unwrap();
        assert_eq!(TokenHead::load(&text), Ok(head("h")));
        for (key, value, words) in [
            ("format", json!("gguf"), "train it again"),
            ("version", json!(2), "train it again"),
            ("name", json!(""), "no name"),
            ("classes", json!(["person", "person"]), "none twice"),
            ("classes", json!(["person", "colour"]), "classes must be of"),
            ("parts", json!([]), "must look at"),
            ("parts", json!([{"layer": 1, "word": 9}, {"layer": 1, "word": 0}]), "must look at"),
            ("weights", json!([1.0, 2.0]), "2 weights"),
            ("bias", json!([1.0]), "as many biases"),
            ("changes", json!([1.0]), "their square"),
            ("threshold", json!(2.0), "out of range"),
            ("surprise", json!(2.0), "unknown field"),
        ] {
            let mut file: Value = serde_json::to_value(head("h")).unwrap();
            file[key] = value;
            let error = TokenHead::load(&file.to_string()).unwrap_err().to_string();
            assert!(error.contains(words), "{key}: {error}");
        }
        assert!(head("h").check_model(&"0a".repeat(32)).is_ok());
        assert!(head("h").check_model(&"0b".repeat(32)).unwrap_err().to_string().contains("tiny"));
    }

    /// The likeliest row by trying all of them.
    fn slowly(head: &TokenHead, scores: &[f32]) -> Vec<usize> {
        let labels = head.labels();
        let words = scores.len() / labels;
        let mut best = (f32::NEG_INFINITY, Vec::new());
        for number in 0..labels.pow(words as u32) {
            let row: Vec<usize> = (0..words).map(|word| number / labels.pow(word as u32) % labels).collect();
            let before = std::iter::once(OUTSIDE).chain(row.iter().copied());
            let steps = before.zip(&row).zip(scores.chunks_exact(labels));
            let mut sum = 0.0;
            for ((before, &label), score) in steps {
                sum += if may_follow(before, label) {
                    head.changes[before * labels + label]
                } else {
                    f32::NEG_INFINITY
                };
                sum += score[label];
            }
            if sum > best.0 {
                best = (sum, row);
            }
        }
        best.1
    }

    proptest! {
        #[test]
        fn the_likeliest_row_is_found(
            scores in proptest::collection::vec(-3.0f32..3.0, 5..=20), changes in proptest::collection::vec(-3.0f32..3.0, 25),
        ) {
            let mut head = head("h");
            head.changes = changes;
            let scores = &scores[..scores.len() / 5 * 5];
            prop_assert_eq!(head.likeliest(scores), slowly(&head, scores));
        }

        #[test]
        fn words_cover_all_that_is_no_white_space(text in "[a-cA-C'’ -]{0,20}|\\PC{0,20}") {
            let mut covered = 0;
            for word in words(&text) {
                prop_assert!(word.start >= covered && word.end > word.start);
                prop_assert!(text[covered..word.start].trim().is_empty());
                covered = word.end;
            }
            prop_assert!(text[covered..].trim().is_empty());
        }
    }
}
