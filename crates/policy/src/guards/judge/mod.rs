//! What guard language models are asked, and what their answers mean.
//!
//! A [`Family`] is a file here: how a text is put before models of that family, and the words in which they give
//! their verdict. The verdict is read off the distribution of the first token that is part of such a word, so a
//! prefill and a few tokens are all it takes, and it is a probability.

mod free_form;
mod granite_guardian;
mod llama_guard;
mod qwen3_guard;
mod shield_gemma;

use contract::{Channel, Message, MessageRole, TokenLogprob};

/// Tokens a judge writes at most; verdicts stand among the first few.
pub const VERDICT_TOKENS_MAX: u32 = 8;
/// Alternatives of each token that are asked for.
pub const VERDICT_ALTERNATIVES: u8 = 20;
/// Least share of the probability that the verdict's words must have together: below it, the model says something
/// else, and what it thinks is not known.
const VERDICT_SHARE_MIN: f64 = 0.1;

/// A text to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Exhibit<'a> {
    /// It.
    pub text: &'a str,
    /// Where it stands.
    pub channel: Channel,
    /// What is not allowed, in words; empty: the family's own policy.
    pub policy: &'a str,
}

/// A family of guard models.
#[derive(Debug)]
pub struct Family {
    /// The name in `guard.template`.
    pub name: &'static str,
    /// Which models, in a line.
    pub about: &'static str,
    /// The conversation that such a model is shown; the model's own chat template goes around it.
    pub ask: fn(&Exhibit<'_>) -> Vec<Message>,
    /// Words of a verdict, in lower case, each with the weight of the violation that it tells of, 0 to 1.
    pub words: &'static [(&'static str, f64)],
    /// What is not allowed where the guard says nothing; empty: the model's own training says it.
    pub policy: &'static str,
}

/// All families there are.
pub const REGISTRY: &[Family] = &[
    free_form::FAMILY,
    granite_guardian::FAMILY,
    llama_guard::FAMILY,
    qwen3_guard::FAMILY,
    shield_gemma::FAMILY,
];

impl Family {
    /// The family of this name.
    pub fn named(name: &str) -> Option<&'static Family> {
        REGISTRY.iter().find(|family| family.name == name)
    }

    /// What the model is shown.
    pub fn conversation(&self, exhibit: &Exhibit<'_>) -> Vec<Message> {
        let policy = if exhibit.policy.trim().is_empty() { self.policy } else { exhibit.policy.trim() };
        (self.ask)(&Exhibit { policy, ..*exhibit })
    }

    /// The probability, 0..=1, of a violation, by the tokens that the model wrote. `None` if none of the first
    /// [`VERDICT_TOKENS_MAX`] is a verdict, or the backend told no alternatives.
    pub fn verdict(&self, tokens: &[TokenLogprob]) -> Option<f64> {
        tokens.iter().take(VERDICT_TOKENS_MAX as usize).find_map(|token| self.of_token(token))
    }

    /// Only a token that was itself taken for a verdict counts: before it, its word may be likely by chance.
    fn of_token(&self, token: &TokenLogprob) -> Option<f64> {
        self.weight(&token.token)?;
        let own = (token.token.as_str(), token.logprob);
        let others = token.top.iter().map(|(text, _, logprob)| (text.as_str(), *logprob));
        let others = others.filter(|(text, _)| *text != token.token);
        let (mut sum, mut violation) = (0.0, 0.0);
        for (text, logprob) in others.chain([own]) {
            let Some(weight) = self.weight(text) else { continue };
            let probability = f64::from(logprob).exp();
            sum += probability;
            violation += probability * weight;
        }
        (sum.is_finite() && sum >= VERDICT_SHARE_MIN).then(|| violation / sum)
    }

    /// What a token says that is a verdict's word or the beginning of one only.
    fn weight(&self, token: &str) -> Option<f64> {
        let text = token.trim().trim_matches(|c: char| c.is_ascii_punctuation()).to_lowercase();
        if text.is_empty() {
            return None;
        }
        let mut fitting = self.words.iter().filter(|(word, _)| word.starts_with(&text));
        let first = fitting.next()?;
        fitting.all(|other| other.1 == first.1).then_some(first.1)
    }
}

/// A conversation that ends with the text: what a user or a tool says, or an answer to what was not kept.
fn as_spoken(exhibit: &Exhibit<'_>) -> Vec<Message> {
    match exhibit.channel {
        Channel::User | Channel::Tool => vec![Message::text(MessageRole::User, exhibit.text)],
        Channel::Output => {
            vec![Message::text(MessageRole::User, "…"), Message::text(MessageRole::Assistant, exhibit.text)]
        }
    }
}

/// One message of the user.
fn as_question(text: String) -> Vec<Message> {
    vec![Message::text(MessageRole::User, text)]
}

/// The words for a text of this channel.
fn spoken_by(channel: Channel) -> &'static str {
    match channel {
        Channel::User => "user message",
        Channel::Tool => "retrieved document",
        Channel::Output => "assistant message",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(text: &str, probability: f32, others: &[(&str, f32)]) -> TokenLogprob {
        let alternative = |(text, p): &(&str, f32)| ((*text).to_owned(), text.as_bytes().to_vec(), p.ln());
        TokenLogprob {
            token: text.to_owned(),
            logprob: probability.ln(),
            top: [(text, probability)].iter().chain(others).map(alternative).collect(),
            ..TokenLogprob::default()
        }
    }

    fn family(name: &str) -> &'static Family {
        Family::named(name).unwrap()
    }

    #[test]
    fn a_verdict_is_the_share_of_its_words() {
        let yes = token("Yes", 0.6, &[("No", 0.2), (" yes", 0.1), ("Maybe", 0.1)]);
        let verdict = family("policy").verdict(&[yes]).unwrap();
        assert!((verdict - 0.7 / 0.9).abs() < 1e-6, "{verdict}");
    }

    #[test]
    fn what_comes_before_the_verdict_is_passed_over() {
        let guard = family("llama-guard");
        let tokens = [token("\n\n", 1.0, &[]), token("un", 0.75, &[("safe", 0.25)]), token("safe", 1.0, &[])];
        assert!((guard.verdict(&tokens).unwrap() - 0.75).abs() < 1e-6);
        let tokens = [
            token("Safety", 0.9, &[(" Unsafe", 0.1)]),
            token(":", 1.0, &[]),
            token(" Controversial", 0.5, &[(" Safe", 0.25), (" Unsafe", 0.25)]),
        ];
        assert!((family("qwen3-guard").verdict(&tokens).unwrap() - 0.5).abs() < 1e-6);
    }

    #[test]
    fn what_is_no_verdict_is_none() {
        let guard = family("shield-gemma");
        assert_eq!(guard.verdict(&[]), None);
        assert_eq!(guard.verdict(&[token("Perhaps", 0.9, &[("Yes", 0.1)])]), None);
        assert_eq!(guard.verdict(&[token("Yes", 0.01, &[("Hm", 0.9)])]), None);
        let broken = TokenLogprob { token: "Yes".to_owned(), logprob: f32::NAN, ..TokenLogprob::default() };
        assert_eq!(guard.verdict(&[broken]), None);
        let late: Vec<_> = (0..8).map(|_| token("so", 1.0, &[])).chain([token("Yes", 1.0, &[])]).collect();
        assert_eq!(guard.verdict(&late), None);
    }

    #[test]
    fn every_family_shows_the_text_and_its_policy() {
        for family in REGISTRY {
            for channel in [Channel::User, Channel::Tool, Channel::Output] {
                let exhibit = Exhibit { text: "the text", channel, policy: "No talk of llamas." };
                let shown = serde_json::to_string(&family.conversation(&exhibit)).unwrap();
                assert!(shown.contains("the text"), "{}", family.name);
                let follows = shown.contains("No talk of llamas.");
                assert_eq!(follows, !matches!(family.name, "llama-guard" | "qwen3-guard"), "{}", family.name);
            }
            assert!(family.words.iter().any(|(_, weight)| *weight == 1.0), "{}", family.name);
            assert!(family.words.iter().any(|(_, weight)| *weight == 0.0), "{}", family.name);
        }
    }

    proptest! {
        #[test]
        fn verdicts_are_probabilities(parts in prop::collection::vec(("\\PC{0,8}", -30f32..1.0), 0..12)) {
            let words = ["Yes", " no", "unsafe", "Safe", "un"];
            for family in REGISTRY {
                let tokens: Vec<TokenLogprob> = parts.iter().zip(words.iter().cycle()).map(|((text, p), word)| {
                    TokenLogprob {
                        token: (*word).to_owned(),
                        logprob: *p,
                        top: vec![(text.clone(), Vec::new(), *p), ("No".to_owned(), Vec::new(), -p.abs())],
                        ..TokenLogprob::default()
                    }
                }).collect();
                if let Some(verdict) = family.verdict(&tokens) {
                    prop_assert!((0.0..=1.0).contains(&verdict));
                }
            }
        }
    }
}
