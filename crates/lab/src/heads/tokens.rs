//! Trains a token head: readings with spans become a [`TokenHead`], and readings of others tell how good it is.

use std::ops::Range;

use contract::TokenStates;
use policy::heads::HeadModel;
use policy::token_head::{
    CLASSES, ClassScore, FORMAT, Part, TokenHead, TokenHeadError, TokenTraining, VERSION, features,
    may_follow, words,
};

use crate::fit::chain::{self, Lines};
use crate::fit::lbfgs::Stop;
use crate::fit::matrix::Matrix;

/// When a fit ends.
const STOP: Stop = Stop { gradient_max: 1e-4, steps_max: 80 };

/// Where something stands in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSpan {
    /// Bytes of the text.
    pub range: Range<usize>,
    /// Its place in [`CLASSES`]; `None`: it may be found or not, and counts for nothing.
    pub class: Option<usize>,
}

/// Words to learn from.
#[derive(Debug)]
pub struct TokenRows {
    parts: Vec<Part>,
    matrix: Option<Matrix>,
    labels: Vec<usize>,
    /// Words of each row.
    lengths: Vec<usize>,
}

/// What training needs besides words.
#[derive(Clone, Debug)]
pub struct TokenSettings {
    /// The head's name.
    pub name: String,
    /// Whose states these are.
    pub model: HeadModel,
    /// sha256 of the file of rows.
    pub data_sha256: String,
    /// Weight of the squared penalty.
    pub strength: f64,
}

/// Spans of one class that were to be found, and were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    right: u64,
    found: u64,
    there: u64,
}

impl Counts {
    fn f1(self) -> f64 {
        2.0 * self.right as f64 / (self.found + self.there).max(1) as f64
    }
}

/// How well a head finds what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenTest {
    spans: [Counts; CLASSES.len()],
    words: [Counts; CLASSES.len()],
}

/// Labels of a head for all [`CLASSES`].
const LABELS: usize = 1 + 2 * CLASSES.len();

impl TokenRows {
    /// None yet; of each word its parts' states.
    pub fn new(parts: Vec<Part>) -> Self {
        TokenRows { parts, matrix: None, labels: Vec::new(), lengths: Vec::new() }
    }

    /// Takes a text in with what stands in it.
    ///
    /// # Errors
    /// If the reading is not of this text, or lacks a layer.
    pub fn push(
        &mut self,
        text: &str,
        spans: &[TokenSpan],
        tokens: &TokenStates,
    ) -> Result<(), TokenHeadError> {
        let (words, values) = features(text, tokens, &self.parts)?;
        let Some(columns) = values.len().checked_div(words.len()) else { return Ok(()) };
        if values.iter().any(|value| !value.is_finite()) {
            return Err(TokenHeadError::NotFinite);
        }
        let matrix = self.matrix.get_or_insert_with(|| Matrix::new(columns));
        values.chunks_exact(columns).for_each(|row| matrix.push(row.iter().copied()));
        self.labels.extend(labels(&words, spans));
        self.lengths.push(words.len());
        Ok(())
    }

    /// The head of these words; `None` if there are none.
    pub fn train(mut self, settings: TokenSettings) -> Option<TokenHead> {
        let mut matrix = self.matrix.take()?;
        let standard = matrix.standardise();
        let lines = Lines {
            matrix: &matrix,
            labels: &self.labels,
            lengths: &self.lengths,
            count: LABELS,
            may_follow,
        };
        let fitted = chain::fit(lines, settings.strength, STOP);
        let columns = matrix.columns();
        let mut bias = fitted.bias;
        let mut weights = Vec::with_capacity(fitted.weights.len());
        // What standardising did goes into the weights.
        for (label, of_label) in fitted.weights.chunks_exact(columns).enumerate() {
            for ((weight, mean), scale) in of_label.iter().zip(&standard.means).zip(&standard.scales) {
                let weight = weight / f64::from(*scale);
                bias[label] -= weight * f64::from(*mean);
                weights.push(weight as f32);
            }
        }
        Some(TokenHead {
            format: FORMAT.to_owned(),
            version: VERSION,
            name: settings.name,
            model: settings.model,
            parts: self.parts.clone(),
            classes: CLASSES.map(str::to_owned).to_vec(),
            weights,
            bias: bias.into_iter().map(|bias| bias as f32).collect(),
            changes: fitted.changes.into_iter().map(|change| change as f32).collect(),
            threshold: 0.0,
            training: TokenTraining {
                data_sha256: settings.data_sha256,
                rows: self.lengths.len() as u64,
                words: self.labels.len() as u64,
                strength: settings.strength,
                tested: Vec::new(),
            },
        })
    }
}

/// The label of each word.
fn labels(words: &[Range<usize>], spans: &[TokenSpan]) -> Vec<usize> {
    let mut labels = vec![0; words.len()];
    for span in spans {
        let Some(class) = span.class else { continue };
        let within = inside(words, &span.range);
        for (place, word) in within.enumerate() {
            labels[word] = if place == 0 { 1 + 2 * class } else { 2 + 2 * class };
        }
    }
    labels
}

/// The words that lie in a range.
fn inside(words: &[Range<usize>], range: &Range<usize>) -> Range<usize> {
    let first = words.partition_point(|word| word.start < range.start);
    let end = words.partition_point(|word| word.end <= range.end);
    first..end.max(first)
}

/// What a head got wrong in a text: of each class, bytes of the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mistakes {
    /// What stands there and was not found exactly so.
    pub missed: Vec<(usize, Range<usize>)>,
    /// What was found and does not stand there exactly so.
    pub wrong: Vec<(usize, Range<usize>)>,
}

impl TokenTest {
    /// Counts what a head finds in a text beside what stands in it, and tells how they differ.
    ///
    /// # Errors
    /// If the reading is not of this text or not for this head.
    pub fn add(
        &mut self,
        head: &TokenHead,
        (text, spans): (&str, &[TokenSpan]),
        tokens: &TokenStates,
    ) -> Result<Mistakes, TokenHeadError> {
        let words = words(text);
        let mut mistakes = Mistakes::default();
        let found = head.find(text, tokens)?;
        let of_class = |class: usize, name: &str| head.classes.get(class).is_some_and(|known| known == name);
        let may_be = |range: &Range<usize>| {
            let loose = spans.iter().filter(|span| span.class.is_none());
            loose.into_iter().any(|span| span.range.start < range.end && range.start < span.range.end)
        };
        for (class, name) in CLASSES.iter().enumerate() {
            let sought = found.iter().filter(|found| of_class(found.class, name));
            let sought = sought.map(|found| found.range.clone()).filter(|range| !may_be(range));
            let found: Vec<Range<usize>> = sought.map(|range| inside(&words, &range)).collect();
            let there = spans.iter().filter(|span| span.class == Some(class));
            let there: Vec<Range<usize>> = there.map(|span| inside(&words, &span.range)).collect();
            let add = |counts: &mut Counts, (right, found, there): (usize, usize, usize)| {
                counts.right += right as u64;
                counts.found += found as u64;
                counts.there += there as u64;
            };
            let right = found.iter().filter(|run| there.contains(run)).count();
            add(&mut self.spans[class], (right, found.len(), there.len()));
            let bytes = |run: &&Range<usize>| (class, words[run.start].start..words[run.end - 1].end);
            mistakes.missed.extend(
                there.iter().filter(|run| !run.is_empty() && !found.contains(run)).map(|run| bytes(&run)),
            );
            mistakes.wrong.extend(
                found.iter().filter(|run| !run.is_empty() && !there.contains(run)).map(|run| bytes(&run)),
            );
            let covers = |runs: &[Range<usize>], word: usize| runs.iter().any(|run| run.contains(&word));
            let count = |is: &dyn Fn(usize) -> bool| (0..words.len()).filter(|word| is(*word)).count();
            let both = count(&|word| covers(&found, word) && covers(&there, word));
            let (of_found, of_there) =
                (count(&|word| covers(&found, word)), count(&|word| covers(&there, word)));
            add(&mut self.words[class], (both, of_found, of_there));
        }
        Ok(mistakes)
    }

    /// The figures of each class.
    pub fn scores(&self) -> Vec<ClassScore> {
        let score = |(name, (spans, words)): (&&str, (&Counts, &Counts))| ClassScore {
            class: (*name).to_owned(),
            spans: spans.there,
            precision: spans.right as f64 / spans.found.max(1) as f64,
            recall: spans.right as f64 / spans.there.max(1) as f64,
            f1: spans.f1(),
            words_f1: words.f1(),
        };
        CLASSES.iter().zip(self.spans.iter().zip(&self.words)).map(score).collect()
    }
}

#[cfg(test)]
mod tests {
    use contract::LayerTokens;

    use super::*;

    /// A reading, a token a byte, in which capitals and digits show.
    fn seen(text: &str) -> TokenStates {
        let state = |byte: u8| [f32::from(byte.is_ascii_uppercase()), f32::from(byte.is_ascii_digit())];
        let mut states = vec![0.0; 2 * text.len()];
        for word in words(text) {
            for at in word.clone() {
                states[2 * at..][..2].copy_from_slice(&state(text.as_bytes()[word.start]));
            }
        }
        TokenStates {
            text: text.as_bytes().to_vec(),
            ends: (1..=text.len()).collect(),
            layers: vec![LayerTokens { layer: 1, states }],
        }
    }

    fn span(range: Range<usize>, class: usize) -> TokenSpan {
        TokenSpan { range, class: Some(class) }
    }

    fn rows() -> Vec<(&'static str, Vec<TokenSpan>)> {
        vec![
            ("it was Ann Berg of 12 North", vec![span(7..15, 0), span(19..27, 1)]),
            ("Bob is at 7 Hill", vec![span(0..3, 0), span(10..16, 1)]),
            ("we are here", vec![]),
            ("ask Eve Low", vec![span(4..11, 0)]),
        ]
    }

    #[test]
    fn a_head_learns_where_spans_begin_and_end() {
        let parts = [0, -1, -2].map(|word| Part { layer: 1, word }).to_vec();
        let mut learnt = TokenRows::new(parts);
        for (text, spans) in rows() {
            learnt.push(text, &spans, &seen(text)).unwrap();
        }
        let model = HeadModel { name: "tiny".to_owned(), sha256: "0a".repeat(32) };
        let settings =
            TokenSettings { name: "n".to_owned(), model, data_sha256: String::new(), strength: 1e-3 };
        let head = learnt.train(settings).unwrap();
        assert_eq!(TokenHead::load(&serde_json::to_string(&head).unwrap()), Ok(head.clone()));
        let mut test = TokenTest::default();
        let text = "is Kim May at 33 Lane or 4 Hill";
        test.add(&head, (text, &[span(3..10, 0), span(14..21, 1)]), &seen(text)).unwrap();
        let [person, address] = &test.scores()[..] else { panic!() };
        assert_eq!((person.f1, person.words_f1, person.spans), (1.0, 1.0, 1), "{person:?}");
        assert_eq!((address.recall, address.precision), (1.0, 0.5), "{address:?}");
        let mut loose = TokenTest::default();
        let maybe = TokenSpan { range: 25..31, class: None };
        loose.add(&head, (text, &[span(3..10, 0), span(14..21, 1), maybe]), &seen(text)).unwrap();
        assert_eq!(loose.scores()[1].precision, 1.0);
    }

    #[test]
    fn nothing_is_learnt_of_nothing() {
        let mut rows = TokenRows::new(vec![Part { layer: 1, word: 0 }]);
        rows.push(" ", &[], &seen(" ")).unwrap();
        assert!(matches!(rows.push("x", &[], &seen("y")), Err(TokenHeadError::NoText)));
        let model = HeadModel { name: "tiny".to_owned(), sha256: "0a".repeat(32) };
        let (name, data_sha256) = ("n".to_owned(), String::new());
        assert!(rows.train(TokenSettings { name, model, data_sha256, strength: 0.1 }).is_none());
    }
}
