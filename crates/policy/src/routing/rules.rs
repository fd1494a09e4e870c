//! `rules`: the first rule that fits a request says who answers it.

use contract::{Attempt, Decision, Input, Policy, Request, Role};
use regex::Regex;
use serde::{Deserialize, Serialize};

use super::{Entry, fixed};
use crate::{PolicyError, PolicySettings};

/// Rules, at most.
const RULES_MAX: usize = 256;
/// Bytes that a pattern may take compiled.
const PATTERN_BYTES_MAX: usize = 1 << 20;
/// Share of a text's letters from which on it counts as written in a script.
const SCRIPT_SHARE_MIN: f64 = 0.3;

pub(super) const ENTRY: Entry = Entry {
    name: "rules",
    about: "the first rule that fits the request says who answers",
    calibrated: None,
    build: |settings, _calibration| Box::new(Rules::new(settings)),
};

/// A family of scripts, by which a text's language is guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Script {
    /// Latin letters.
    Latin,
    /// Cyrillic letters.
    Cyrillic,
    /// Greek letters.
    Greek,
    /// Arabic letters.
    Arabic,
    /// Hebrew letters.
    Hebrew,
    /// Devanagari letters.
    Devanagari,
    /// Chinese characters, kana and hangul.
    Cjk,
}

impl Script {
    fn has(self, letter: char) -> bool {
        let code = u32::from(letter);
        match self {
            Script::Latin => matches!(code, 0x41..=0x5a | 0x61..=0x7a | 0xc0..=0x24f | 0x1e00..=0x1eff),
            Script::Cyrillic => matches!(code, 0x400..=0x52f),
            Script::Greek => matches!(code, 0x370..=0x3ff | 0x1f00..=0x1fff),
            Script::Arabic => matches!(code, 0x600..=0x6ff | 0x750..=0x77f),
            Script::Hebrew => matches!(code, 0x590..=0x5ff),
            Script::Devanagari => matches!(code, 0x900..=0x97f),
            Script::Cjk => matches!(code, 0x3040..=0x30ff | 0x3400..=0x9fff | 0xac00..=0xd7af),
        }
    }

    /// Whether enough of the text's letters are its.
    fn is_of(self, text: &str) -> bool {
        let letters = text.chars().filter(|c| c.is_alphabetic());
        let (mut all, mut own) = (0_u64, 0_u64);
        letters.for_each(|letter| {
            all += 1;
            own += u64::from(self.has(letter));
        });
        all > 0 && own as f64 >= SCRIPT_SHARE_MIN * all as f64
    }
}

/// A rule: who answers requests for which all that is said here holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// For the reason of decisions.
    pub name: String,
    /// Who answers.
    pub to: Role,
    /// The text of all messages has at least so many characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chars_min: Option<u64>,
    /// It has at most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chars_max: Option<u64>,
    /// The request brings tools, or brings none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub has_tools: Option<bool>,
    /// The text is written in a script.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<Script>,
    /// A regular expression is found in the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
}

fn compiled(pattern: &str) -> Result<Regex, regex::Error> {
    regex::RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).build()
}

/// Checks rules, whichever policy is chosen.
pub(crate) fn validate(rules: &[Rule]) -> Result<(), PolicyError> {
    if rules.len() > RULES_MAX {
        let fault = format!("there are more than {RULES_MAX} rules");
        return Err(PolicyError::Rule { index: RULES_MAX, fault });
    }
    for (index, rule) in rules.iter().enumerate() {
        let Rule { chars_min, chars_max, has_tools, script, pattern, .. } = rule;
        let is_empty = chars_min.is_none()
            && chars_max.is_none()
            && has_tools.is_none()
            && script.is_none()
            && pattern.is_none();
        let broken = pattern.as_deref().and_then(|pattern| compiled(pattern).err());
        let fault = if is_empty {
            Some("it has no condition; for all other requests there is policy.otherwise".to_owned())
        } else if chars_min > &Some(chars_max.unwrap_or(u64::MAX)) {
            Some("chars_min is above chars_max".to_owned())
        } else {
            broken.map(|error| format!("pattern: {error}"))
        };
        if let Some(fault) = fault {
            return Err(PolicyError::Rule { index, fault });
        }
    }
    Ok(())
}

struct Rules {
    /// Each with its compiled pattern.
    rules: Vec<(Rule, Option<Regex>)>,
    otherwise: Role,
}

impl Rules {
    fn new(settings: &PolicySettings) -> Self {
        let with_pattern = |rule: &Rule| {
            let pattern = rule.pattern.as_deref().and_then(|pattern| compiled(pattern).ok());
            (rule.clone(), pattern)
        };
        Rules { rules: settings.rules.iter().map(with_pattern).collect(), otherwise: settings.otherwise }
    }
}

fn fits((rule, pattern): &(Rule, Option<Regex>), text: &str, tools: bool) -> bool {
    let chars = text.chars().count() as u64;
    rule.chars_min.is_none_or(|min| chars >= min)
        && rule.chars_max.is_none_or(|max| chars <= max)
        && rule.has_tools.is_none_or(|wanted| wanted == tools)
        && rule.script.is_none_or(|script| script.is_of(text))
        && (rule.pattern.is_none() || pattern.as_ref().is_some_and(|pattern| pattern.is_match(text)))
}

impl Policy for Rules {
    fn name(&self) -> &str {
        ENTRY.name
    }

    fn next(&self, request: &Request, attempts: &[Attempt]) -> Decision {
        let text = request.text();
        let tools = matches!(&request.input, Input::Chat { tools, .. } if !tools.is_empty());
        match self.rules.iter().find(|rule| fits(rule, &text, tools)) {
            Some((rule, _)) => {
                let why = format!("the rule {:?} sends it to {}", rule.name, rule.to.as_str());
                fixed::next(rule.to, &why, attempts)
            }
            None => {
                let why = format!("no rule fits, so {} answers", self.otherwise.as_str());
                fixed::next(self.otherwise, &why, attempts)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use contract::{Message, MessageRole, Step};
    use serde_json::{Value, json};

    use super::*;
    use crate::build;
    use crate::routing::testing::request;

    fn rule(fields: Value) -> Rule {
        let mut all = json!({"name": "r", "to": "small"});
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    fn sends_to(rules: Vec<Rule>, text: &str, tools: bool) -> Role {
        let settings = PolicySettings { kind: "rules".to_owned(), rules, ..PolicySettings::default() };
        let mut request = request(true);
        request.input = Input::Chat {
            messages: vec![Message::text(MessageRole::User, text)],
            tools: if tools { vec![json!({})] } else { Vec::new() },
        };
        match build(&settings).unwrap().next(&request, &[]).step {
            Step::Call { role, .. } => role,
            step => panic!("{step:?}"),
        }
    }

    #[test]
    fn all_conditions_of_a_rule_must_hold() {
        for (fields, text, tools, expected) in [
            (json!({"chars_max": 5}), "short", false, Role::Small),
            (json!({"chars_max": 5}), "longer", false, Role::Large),
            (json!({"chars_min": 6, "chars_max": 9}), "länger", false, Role::Small),
            (json!({"has_tools": false}), "x", true, Role::Large),
            (json!({"has_tools": true}), "x", true, Role::Small),
            (json!({"script": "cyrillic"}), "Привет, world", false, Role::Small),
            (json!({"script": "latin"}), "你好", false, Role::Large),
            (json!({"script": "cjk"}), "你好 ok", false, Role::Small),
            (json!({"script": "latin"}), "1 + 2", false, Role::Large),
            (json!({"pattern": "(?i)translate"}), "Translate this", false, Role::Small),
            (json!({"pattern": "(?i)translate", "chars_max": 3}), "Translate this", false, Role::Large),
        ] {
            assert_eq!(sends_to(vec![rule(fields.clone())], text, tools), expected, "{fields} {text}");
        }
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let large = Rule { to: Role::Large, ..rule(json!({"pattern": "code"})) };
        let small = rule(json!({"chars_max": 100}));
        assert_eq!(sends_to(vec![large.clone(), small.clone()], "some code", false), Role::Large);
        assert_eq!(sends_to(vec![small, large], "some code", false), Role::Small);
        assert_eq!(sends_to(Vec::new(), "some code", false), Role::Large);
    }

    #[test]
    fn rules_that_can_not_be_are_named() {
        for (fields, words) in [
            (json!({}), "no condition"),
            (json!({"pattern": "("}), "pattern: "),
            (json!({"pattern": "(a{1000}){1000}"}), "pattern: "),
            (json!({"chars_min": 9, "chars_max": 3}), "above chars_max"),
        ] {
            let rules = vec![rule(json!({"chars_max": 1})), rule(fields)];
            let error =
                build(&PolicySettings { rules, ..PolicySettings::default() }).err().unwrap().to_string();
            assert!(error.contains("policy.rules[1]") && error.contains(words), "{error}");
        }
        assert!(serde_json::from_value::<Rule>(json!({"name": "r", "to": "small", "chars": 3})).is_err());
    }
}
