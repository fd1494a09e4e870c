//! `exact`: the answer, or the result that it announces, is a given text. White space counts as one space;
//! `ignore_case` and `loose` pass over more.

use std::sync::Arc;

use super::{Check, Judged, Kind, Tools, Verdict, announced, at_once};
use crate::rows::{FieldError, Fields};

/// The kind.
pub const KIND: Kind = Kind { name: "exact", what: "the text itself", read };

/// Compares texts.
#[derive(Clone, Debug)]
pub struct ExactCheck {
    right: String,
    fold: Fold,
}

/// What is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fold {
    /// Runs of white space.
    Space,
    /// And case.
    Case,
    /// And all white space, quotes, brackets around all, emphasis, and a full stop at the end.
    Loose,
}

impl Fold {
    fn fold(self, text: &str) -> String {
        let words: Vec<&str> = text.split_whitespace().collect();
        match self {
            Fold::Space => words.join(" "),
            Fold::Case => words.join(" ").to_lowercase(),
            Fold::Loose => {
                let text = words.concat().to_lowercase();
                let text = text.replace(['"', '\'', '`', '*', '$', '“', '”', '‘', '’'], "");
                let text = text.trim_end_matches('.');
                let pairs = [('[', ']'), ('(', ')'), ('{', '}')];
                let inner =
                    pairs.into_iter().find_map(|(open, close)| text.strip_prefix(open)?.strip_suffix(close));
                inner.unwrap_or(text).to_owned()
            }
        }
    }
}

impl ExactCheck {
    /// Takes an answer for right that is this text but for case, white space and decoration; `None` if the
    /// text is nothing else.
    pub fn loose(right: &str) -> Option<Self> {
        ExactCheck::new(right, Fold::Loose)
    }

    fn new(right: &str, fold: Fold) -> Option<Self> {
        let right = fold.fold(right);
        (!right.is_empty()).then_some(ExactCheck { right, fold })
    }

    fn is_right(&self, answer: &str) -> bool {
        let is = |text: &str| self.fold.fold(text) == self.right;
        is(answer) || announced(answer).is_some_and(is) || self.begins(announced(answer).unwrap_or(answer))
    }

    /// Loosely, one word is right also where it is explained: `Yes, since …`.
    fn begins(&self, text: &str) -> bool {
        let from = text.trim_start_matches(|c: char| !c.is_alphanumeric());
        // Neither `Linda's mother` nor `yes-men` begin with the name or the word.
        let end = from.find(|c: char| !c.is_alphanumeric() && !"'’-_".contains(c)).unwrap_or(from.len());
        let is_word = self.fold == Fold::Loose && self.right.chars().all(char::is_alphabetic);
        is_word && from[..end].to_lowercase() == self.right
    }
}

impl Check for ExactCheck {
    fn judge<'a>(&'a self, judged: Judged<'a>, _: &'a Tools) -> Verdict<'a> {
        at_once(self.is_right(judged.answer))
    }
}

fn read(fields: Fields) -> Result<Arc<dyn Check>, FieldError> {
    fields.only(&["kind", "answer", "ignore_case", "loose"])?;
    let flag = |name| Ok(fields.optional::<bool>(name, "true or false")?.unwrap_or(false));
    let fold = match (flag("loose")?, flag("ignore_case")?) {
        (true, _) => Fold::Loose,
        (false, true) => Fold::Case,
        (false, false) => Fold::Space,
    };
    let check = ExactCheck::new(&fields.answer("answer")?, fold);
    Ok(Arc::new(check.ok_or_else(|| fields.wrong("answer", "is empty"))?))
}

#[cfg(test)]
mod tests {
    use super::super::tests::is_right;

    #[test]
    fn one_word_may_be_explained() {
        let check = r#"{"kind":"exact","answer":"Yes","loose":true}"#;
        for (answer, right) in [
            ("Yes, since all cats are.", true),
            ("**Answer:** yes. It follows.", true),
            ("No.\nAnswer: Yes", true),
            ("Yes.\nAnswer: No", false),
            ("yes-men do", false),
            ("It is: yes", false),
        ] {
            assert_eq!(is_right(check, answer), right, "{answer}");
        }
        assert!(!is_right(r#"{"kind":"exact","answer":"yes"}"#, "yes, since"));
    }

    #[test]
    fn each_way_of_comparing_passes_over_what_it_says() {
        let plain = r#"{"kind":"exact","answer":"Two words"}"#;
        let case = r#"{"kind":"exact","answer":"Two words","ignore_case":true}"#;
        let loose = r#"{"kind":"exact","answer":"['a', 'b']","loose":true}"#;
        for (check, answer, right) in [
            (plain, " Two\n words ", true),
            (plain, "two words", false),
            (plain, "So:\nAnswer: Two words", true),
            (plain, "Two words and more", false),
            (case, "TWO words", true),
            (case, "twowords", false),
            (loose, "Answer: a, b.", true),
            (loose, "**[\"A\",\"b\"]**", true),
            (loose, "b, a", false),
        ] {
            assert_eq!(is_right(check, answer), right, "{check}: {answer}");
        }
    }
}
