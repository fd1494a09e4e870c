//! `number`: the answer's number, compared by value. It is the one that the answer announces as its result, else
//! that of the last sentence with a number: what it says at once after its last `=` or `is`, else its last one.
//! `1,234`, `-3`, `2.50`, `3/4` are numbers; signs of currency and per cent are passed over.

use std::sync::{Arc, LazyLock};

use regex::Regex;

use super::{Check, Judged, Kind, Tools, Verdict, announced, at_once};
use crate::rows::{FieldError, Fields};

/// The kind.
pub const KIND: Kind = Kind { name: "number", what: "the number, compared by value", read };

/// How far apart equal numbers may be, relative to the larger one: what floating point and a fraction written
/// as a decimal lose.
const TOLERANCE_DEFAULT: f64 = 1e-6;

/// What stands before the result of a sentence or of a sum.
const RESULT_MARKS: &[&str] = &["=", "≈", " is ", " are ", " was ", " total of "];
/// Words, signs of currency among them, that may stand before a number that is said at once.
const WORDS_BEFORE_MAX: usize = 1;

/// A number as it stands in text, with what stands before its sign.
static NUMBER: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let digits = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+";
    Regex::new(&format!(r"(?P<sign>[-−]\s?\$?)?(?P<number>{digits})(?:e(?P<exponent>[-+]?\d{{1,3}})\b)?(?:\s?/\s?(?P<below>\d+(?:\.\d+)?))?")).ok()
});

/// Compares numbers.
#[derive(Clone, Debug)]
pub struct NumberCheck {
    right: f64,
    tolerance: f64,
}

impl NumberCheck {
    /// Takes an answer for right that is this number; `None` if the text is not one number.
    pub fn new(right: &str) -> Option<Self> {
        let text = right.trim();
        let found = numbers(text);
        let (value, range) = found.first()?;
        let is_all = found.len() == 1 && range.start == 0 && range.end == text.len();
        is_all.then_some(NumberCheck { right: *value, tolerance: TOLERANCE_DEFAULT })
    }

    fn is_right(&self, answer: &str) -> bool {
        let found = announced(answer).and_then(|line| result(line, true));
        let found = found.or_else(|| last_sentence(answer).and_then(|sentence| result(sentence, false)));
        found.is_some_and(|found| {
            (found - self.right).abs() <= self.tolerance * found.abs().max(self.right.abs())
        })
    }
}

/// The last sentence in which there is a number.
fn last_sentence(answer: &str) -> Option<&str> {
    let lines = answer.lines().rev().flat_map(|line| line.rsplit(". "));
    lines.into_iter().find(|sentence| sentence.contains(|c: char| c.is_ascii_digit()))
}

/// The number of a line. After its last `=` or `is`, and at its beginning if it is all result, that is the one
/// said at once (`72 clips in 2 months`); else the last one.
fn result(line: &str, is_all_result: bool) -> Option<f64> {
    let after = |mark: &&str| line.rfind(mark).map(|at| at + mark.len());
    let mark = RESULT_MARKS.iter().filter_map(after).max();
    let from = mark.unwrap_or(0);
    let found = numbers(&line[from..]);
    let words_before = |at: usize| line[from..][..at].split_whitespace().count();
    let at_once = found.first().filter(|(_, range)| {
        (is_all_result || mark.is_some()) && words_before(range.start) <= WORDS_BEFORE_MAX
    });
    let last = || found.last().map(|(value, _)| *value);
    at_once.map(|(value, _)| *value).or_else(last).or_else(|| numbers(line).last().map(|(value, _)| *value))
}

impl Check for NumberCheck {
    fn judge<'a>(&'a self, judged: Judged<'a>, _: &'a Tools) -> Verdict<'a> {
        at_once(self.is_right(judged.answer))
    }
}

fn read(fields: Fields) -> Result<Arc<dyn Check>, FieldError> {
    fields.only(&["kind", "answer", "tolerance"])?;
    let answer = fields.answer("answer")?;
    let mut check = NumberCheck::new(&answer).ok_or_else(|| fields.wrong("answer", "must be one number"))?;
    if let Some(tolerance) = fields.optional::<f64>("tolerance", "a number")? {
        if !(0.0..1.0).contains(&tolerance) {
            return Err(fields.wrong("tolerance", "is relative and must be in 0..1"));
        }
        check.tolerance = tolerance;
    }
    Ok(Arc::new(check))
}

/// The numbers of a text, with their places.
fn numbers(text: &str) -> Vec<(f64, std::ops::Range<usize>)> {
    let Some(pattern) = NUMBER.as_ref() else { return Vec::new() };
    let each = pattern.captures_iter(text).filter_map(|found| {
        let whole = found.get(0)?;
        let digits = found.name("number")?.as_str().replace(',', "");
        let exponent = found.name("exponent").map_or("0", |exponent| exponent.as_str());
        let mut value: f64 = format!("{digits}e{exponent}").parse().ok()?;
        if let Some(below) = found.name("below").and_then(|below| below.as_str().parse::<f64>().ok()) {
            value /= below;
        }
        // In `7-3` and `x-3` it subtracts.
        let before = text[..whole.start()].chars().next_back();
        let is_sign =
            found.name("sign").is_some() && !before.is_some_and(|c| c.is_alphanumeric() || c == ')');
        value.is_finite().then(|| (if is_sign { -value } else { value }, whole.range()))
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_pattern_is_one() {
        assert!(NUMBER.is_some());
    }

    #[test]
    fn answers_are_compared_by_value() {
        for (right, answer, is_right) in [
            ("72", "48/2 = 24, so 48 + 24 = 72.", true),
            ("72", "#### 72\nIn May 24.", true),
            ("72", "#### 72 clips in 2 months", true),
            ("1234.5", "It is $1,234.50", true),
            ("-3", "x = -3", true),
            ("-3", "x = −3", true),
            ("3", "x-3", true),
            ("4", "7-3=4", true),
            ("0.75", "The answer is 3/4.", true),
            ("3/4", "0.75", true),
            ("50", "50%", true),
            ("18", "The answer is \\boxed{18} dollars per day for 7 days", true),
            ("18", "Answer: 3 * 6 = 18", true),
            ("1e6", "1,000,000", true),
            ("6", "2 + 4 = 6. So she walked a total of 6 kilometers in 2 hours.\nWell done!", true),
            ("50", "The snakes are 50 inches long. That is all of them.", true),
            ("16", "Answer: The value of g in the equation 528*g = 8448 is 16.", true),
            ("12", "#### 7 plus 5 is altogether about 12", true),
            ("6", "#### She walked 2 and then 4, in total 6 kilometers", true),
            ("5", "I have five", false),
            ("5", "5 and then 6", false),
            ("0", "0.0", true),
            ("0.33333", "1/3", false),
            ("2", "1/0", false),
        ] {
            assert_eq!(NumberCheck::new(right).unwrap().is_right(answer), is_right, "{right}: {answer}");
        }
    }

    #[test]
    fn only_one_number_can_be_right() {
        for text in ["", "two", "1 2", "3 apples", "1/0", "10:30"] {
            assert!(NumberCheck::new(text).is_none(), "{text}");
        }
        assert!(super::super::tests::is_right(
            r#"{"kind":"number","answer":3.14,"tolerance":0.01}"#,
            "3.1415"
        ));
    }

    proptest! {
        #[test]
        fn a_number_is_found_again(value in -1_000_000i64..1_000_000, cents in 0u8..100) {
            let text = format!("{value}.{cents:02}");
            let check = NumberCheck::new(&text).unwrap();
            let answer = format!("It is {} in all", text);
            prop_assert!(check.is_right(&answer));
            let other = format!("It is {}.{cents:02} in all", value + 1);
            prop_assert!(!check.is_right(&other));
        }

        #[test]
        fn any_answer_is_judged(answer in "\\PC*") {
            NumberCheck::new("1").unwrap().is_right(&answer);
        }
    }
}
