//! `model`: a language model as judge, asked in the manner of its family.

use std::sync::Arc;

use contract::{Input, Request, Role, Sampling};

use super::{Built, Entry};
use crate::guards::asked::{Answer, Ask, Asker, Judged, Score};
use crate::guards::judge::{Exhibit, Family, REGISTRY, VERDICT_ALTERNATIVES, VERDICT_TOKENS_MAX};
use crate::guards::{GuardError, GuardSettings};

/// The family of a guard that names none: any instruct model.
const TEMPLATE_DEFAULT: &str = "policy";
/// Longest policy, bytes.
const POLICY_BYTES_MAX: usize = 16 << 10;

pub(super) const ENTRY: Entry = Entry {
    name: "model",
    about: "a language model as judge, asked in the manner of its family",
    reads: false,
    check,
    build: |settings, _| {
        let family = family(settings)?;
        let policy = settings.policy.clone().unwrap_or_default();
        let role = settings.backend.unwrap_or(Role::Small);
        Ok(Built::Asker(Arc::new(ByModel { family, policy, role })))
    },
};

fn check(settings: &GuardSettings) -> Result<(), GuardError> {
    settings.check_asked()?;
    family(settings)?;
    if settings.policy.as_ref().is_some_and(|policy| policy.len() > POLICY_BYTES_MAX) {
        return settings.wrong("policy is longer than 16 KiB; shorten it");
    }
    Ok(())
}

fn family(settings: &GuardSettings) -> Result<&'static Family, GuardError> {
    let template = settings.template.as_deref().unwrap_or(TEMPLATE_DEFAULT);
    Family::named(template).ok_or_else(|| GuardError::UnknownTemplate {
        name: settings.name.clone(),
        template: template.to_owned(),
        known: REGISTRY.iter().map(|family| family.name).collect::<Vec<_>>().join(", "),
    })
}

/// Asks one model for one verdict.
#[derive(Debug)]
struct ByModel {
    family: &'static Family,
    policy: String,
    role: Role,
}

impl Asker for ByModel {
    fn role(&self) -> Role {
        self.role
    }

    fn ask(&self, judged: &Judged<'_>) -> Ask {
        let exhibit = Exhibit { text: judged.text, channel: judged.channel, policy: &self.policy };
        let messages = self.family.conversation(&exhibit);
        let request = Request {
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            max_tokens: Some(VERDICT_TOKENS_MAX),
            top_logprobs: Some(VERDICT_ALTERNATIVES),
            // The verdict is taken as soon as it is there, and the rest never written.
            stream: true,
            ..Request::new("guard", Input::Chat { messages, tools: Vec::new() })
        };
        Ask::Call { role: self.role, request: Box::new(request) }
    }

    fn score(&self, answer: &Answer<'_>) -> Result<Score, String> {
        match answer {
            Answer::Said { tokens } => match self.family.verdict(tokens) {
                Some(violation) => Ok(Score::new(violation, self.family.name)),
                None => Err("the model gave no verdict, or no probabilities with it".to_owned()),
            },
            Answer::Reading(_) => Err("it was given a reading".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use contract::{Channel, TokenLogprob};

    use super::*;
    use crate::guards::Chain;
    use crate::guards::asked::Materials;

    fn settings(more: &str) -> GuardSettings {
        serde_json::from_str(&format!(r#"{{"name": "g", "kind": "model", "action": "block"{more}}}"#))
            .unwrap()
    }

    #[test]
    fn a_judge_is_asked_for_a_word_and_its_probability_is_the_score() {
        let more = r#", "template": "shield-gemma", "policy": "No llamas.", "backend": "large""#;
        let chain = Chain::with(&[settings(more)], &Materials::default()).unwrap();
        let link = &chain.asked()[0];
        let ask = link.ask(&Judged { text: "Where are the llamas?", channel: Channel::User, prompt: "" });
        let Ask::Call { role: Role::Large, request } = ask else { panic!("{ask:?}") };
        assert!(request.text().contains("No llamas.") && request.text().contains("Where are the llamas?"));
        assert_eq!((request.max_tokens, request.top_logprobs), (Some(8), Some(20)));
        let token = TokenLogprob {
            token: "No".to_owned(),
            logprob: 0.6f32.ln(),
            top: vec![("Yes".to_owned(), Vec::new(), 0.3f32.ln())],
            ..TokenLogprob::default()
        };
        let score = link.score(&Answer::Said { tokens: &[token] }).unwrap();
        assert!((score.value - 1.0 / 3.0).abs() < 1e-6 && score.label == "shield-gemma");
        assert!(link.score(&Answer::Said { tokens: &[] }).is_err());
    }

    #[test]
    fn what_no_family_knows_is_refused() {
        let why = |more: &str| Chain::check_settings(&[settings(more)]).unwrap_err().to_string();
        assert!(why(r#", "template": "lama-guard""#).contains("llama-guard"));
        assert!(why(&format!(r#", "policy": "{}""#, "x".repeat(POLICY_BYTES_MAX + 1))).contains("16 KiB"));
        assert!(Chain::check_settings(&[settings("")]).is_ok());
    }
}
