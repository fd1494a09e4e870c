//! `choice`: a letter. It is read from what the answer announces (`answer is (B)`), from an answer that begins
//! with or is a letter, from the last line if that is a letter, else from the one choice whose text it holds.

use std::sync::{Arc, LazyLock};

use regex::Regex;

use super::{Check, Judged, Kind, Tools, Verdict, announced, at_once};
use crate::rows::{FieldError, Fields};

/// The kind.
pub const KIND: Kind = Kind { name: "choice", what: "the letter of a choice", read };

/// The letters of choices.
pub const LETTERS: [char; 10] = ['A', 'B', 'C', 'D', 'E', 'F', 'G', 'H', 'I', 'J'];

/// A letter at the beginning that can't be a word's: alone, in brackets, or before a bracket, dot or colon.
static LEADING: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"^[\s*_`$]*(?:option|choice)?\s*(?:\(([A-Ja-j])\)|([A-Ja-j])[\s*_`$]*(?:$|[).:,;\n]))").ok()
});

/// A letter named in passing.
static NAMED: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?:\b[Oo]ption|\b[Cc]hoice)\s+\(?\*{0,2}([A-J])\b|\(([A-J])\)|\*\*([A-J])[.):]?\s*\*\*").ok()
});

/// Compares choices.
#[derive(Clone, Debug)]
pub struct ChoiceCheck {
    /// Index of the right one.
    right: usize,
    /// The choices' texts, if they are known.
    choices: Vec<String>,
}

impl ChoiceCheck {
    /// Takes the choice with this index for right.
    pub fn new(right: usize, choices: Vec<String>) -> Self {
        ChoiceCheck { right, choices }
    }

    fn chosen(&self, answer: &str) -> Option<usize> {
        let announced = announced(answer);
        let last = answer.trim_end().lines().next_back();
        let letter =
            announced.and_then(leading).or_else(|| leading(answer)).or_else(|| last.and_then(leading));
        let letter = letter.or_else(|| only(named(answer)));
        letter.or_else(|| self.by_text(announced.unwrap_or(answer)))
    }

    /// The one choice whose text stands in the answer; of choices that contain others the longest.
    fn by_text(&self, answer: &str) -> Option<usize> {
        let answer = folded(answer);
        let texts: Vec<String> = self.choices.iter().map(|choice| folded(choice)).collect();
        let is_held = |text: &String| !text.is_empty() && holds_word(&answer, text);
        let held: Vec<usize> = (0..texts.len()).filter(|&index| is_held(&texts[index])).collect();
        let is_longest = |&&index: &&usize| {
            held.iter().all(|&other| other == index || texts[index].contains(&texts[other]))
        };
        let mut longest = held.iter().filter(is_longest);
        let found = longest.next().copied();
        found.filter(|_| longest.next().is_none())
    }
}

impl Check for ChoiceCheck {
    fn judge<'a>(&'a self, judged: Judged<'a>, _: &'a Tools) -> Verdict<'a> {
        at_once(self.chosen(judged.answer) == Some(self.right))
    }
}

fn read(fields: Fields) -> Result<Arc<dyn Check>, FieldError> {
    fields.only(&["kind", "answer", "choices"])?;
    let choices: Vec<String> = fields.optional("choices", "a list of texts")?.unwrap_or_default();
    let answer = fields.answer("answer")?;
    let right = index_of(answer.trim()).filter(|&index| choices.is_empty() || index < choices.len());
    let right = right
        .ok_or_else(|| fields.wrong("answer", "must be the letter of a choice, A to J, or its index"))?;
    Ok(Arc::new(ChoiceCheck::new(right, choices)))
}

/// The index that a letter or a number means.
fn index_of(text: &str) -> Option<usize> {
    let letter = |c: char| LETTERS.iter().position(|letter| letter.eq_ignore_ascii_case(&c));
    let mut characters = text.chars();
    match (characters.next(), characters.next()) {
        (Some(c), None) if c.is_ascii_alphabetic() => letter(c),
        _ => text.parse().ok().filter(|&index| index < LETTERS.len()),
    }
}

fn leading(text: &str) -> Option<usize> {
    let found = LEADING.as_ref()?.captures(text)?;
    found.get(1).or_else(|| found.get(2)).and_then(|letter| index_of(letter.as_str()))
}

fn named(text: &str) -> Vec<usize> {
    let Some(pattern) = NAMED.as_ref() else { return Vec::new() };
    let each = pattern.captures_iter(text).filter_map(|found| {
        let letter = (1..=3).find_map(|group| found.get(group))?;
        index_of(letter.as_str())
    });
    each.collect()
}

/// The one value of a list that names no other.
fn only(mut found: Vec<usize>) -> Option<usize> {
    found.dedup();
    if found.len() == 1 { found.pop() } else { None }
}

/// Lower case, words apart by one space.
fn folded(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").to_lowercase().trim_end_matches('.').to_owned()
}

/// Whether a text holds another one that neither begins nor ends within a word.
fn holds_word(text: &str, part: &str) -> bool {
    text.match_indices(part).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + part.len()..].chars().next();
        ![before, after].into_iter().flatten().any(char::is_alphanumeric)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_patterns_are_some() {
        assert!(LEADING.is_some() && NAMED.is_some());
    }

    #[test]
    fn letters_are_found_where_answers_put_them() {
        let check = ChoiceCheck::new(1, ["red", "dark blue", "blue", "a cat"].map(str::to_owned).to_vec());
        for (answer, chosen) in [
            ("B", Some(1)),
            ("b.", Some(1)),
            ("(B) dark blue", Some(1)),
            ("**B**", Some(1)),
            ("B) dark blue", Some(1)),
            ("The answer is (B).", Some(1)),
            ("Answer: B", Some(1)),
            ("The correct answer is **B. dark blue**", Some(1)),
            ("\\boxed{C}", Some(2)),
            ("Because A is wrong.\nB", Some(1)),
            ("I would take option C.", Some(2)),
            ("Either (A) or (B)", None),
            ("It is dark blue.", Some(1)),
            ("It is blue.", Some(2)),
            ("It is Bluebeard's.", None),
            ("red or blue", None),
            ("A cat", Some(3)),
            ("", None),
        ] {
            assert_eq!(check.chosen(answer), chosen, "{answer}");
        }
    }

    #[test]
    fn the_right_one_is_a_letter_or_an_index() {
        let is_right = super::super::tests::is_right;
        assert!(
            is_right(r#"{"kind":"choice","answer":"c"}"#, "C")
                && is_right(r#"{"kind":"choice","answer":2}"#, "C")
        );
        let wrong = serde_json::from_str(r#"{"kind":"choice","answer":"C","choices":["x","y"]}"#).unwrap();
        assert!(super::super::read(&wrong).unwrap_err().to_string().contains("check.answer"));
    }

    proptest! {
        #[test]
        fn any_answer_is_judged(answer in "\\PC*") {
            ChoiceCheck::new(0, vec!["x".to_owned(), "é".to_owned()]).chosen(&answer);
        }
    }
}
