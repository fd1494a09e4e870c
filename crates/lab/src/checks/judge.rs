//! `judge`: a model says whether the answer agrees with a reference. For what no rule can tell; a judge errs too.

use std::sync::Arc;

use contract::Role;

use super::{Check, CheckError, Judged, Kind, Tools, Verdict};
use crate::evaluate::{Asked, ask};
use crate::rows::{FieldError, Fields};

/// The kind.
pub const KIND: Kind = Kind { name: "judge", what: "what the large model holds for right", read };

/// What the judge is asked; the names in braces are replaced.
const TEMPLATE: &str = "You grade answers. Does the answer below say the same as the reference, so that it is \
    right? Manner and length do not matter, facts do. Reply with one word: yes or no.\n\n\
    Question:\n{question}\n\nReference:\n{reference}\n\nAnswer:\n{answer}\n\nIs the answer right? yes or no:";
/// Tokens that a verdict may take.
const VERDICT_TOKENS_MAX: u32 = 16;

#[derive(Clone, Debug)]
struct JudgeCheck {
    reference: String,
}

impl JudgeCheck {
    fn prompt(&self, judged: Judged) -> String {
        let texts: Vec<&str> =
            judged.messages.iter().filter_map(|message| message.content.as_deref()).collect();
        let fill = [
            ("{question}", texts.join("\n")),
            ("{reference}", self.reference.clone()),
            ("{answer}", judged.answer.to_owned()),
        ];
        // Each name once and from the left, so that none is found in what was filled in.
        let (mut prompt, mut rest) = (String::new(), TEMPLATE);
        for (name, text) in fill {
            let Some((before, after)) = rest.split_once(name) else { continue };
            prompt.push_str(before);
            prompt.push_str(&text);
            rest = after;
        }
        prompt + rest
    }
}

impl Check for JudgeCheck {
    fn judge<'a>(&'a self, judged: Judged<'a>, tools: &'a Tools) -> Verdict<'a> {
        Box::pin(async move {
            let judge = tools.judge.as_ref().ok_or_else(|| CheckError("there is no judge".to_owned()))?;
            let prompt = contract::Message::text(contract::MessageRole::User, self.prompt(judged));
            let asked = Asked {
                id: "judge",
                messages: vec![prompt],
                max_tokens: Some(VERDICT_TOKENS_MAX),
                role: Role::Large,
                signals: false,
            };
            let answered = ask(judge.as_ref(), asked).await;
            if let Some(error) = answered.error {
                return Err(CheckError(format!("the judge: {error}")));
            }
            verdict(&answered.text)
                .ok_or_else(|| CheckError(format!("the judge said neither yes nor no: {:?}", answered.text)))
        })
    }

    fn needs_judge(&self) -> bool {
        true
    }
}

fn read(fields: Fields) -> Result<Arc<dyn Check>, FieldError> {
    fields.only(&["kind", "answer"])?;
    Ok(Arc::new(JudgeCheck { reference: fields.answer("answer")? }))
}

/// The first word that is yes or no.
fn verdict(text: &str) -> Option<bool> {
    text.split(|c: char| !c.is_alphabetic()).find_map(|word| match word.to_ascii_lowercase().as_str() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use backends::{Reply, ScriptedBackend};

    use super::*;

    #[test]
    fn verdicts_are_one_word() {
        for (text, expected) in [
            ("Yes.", Some(true)),
            ("**no**", Some(false)),
            ("It is: NO", Some(false)),
            ("nothing", None),
            ("", None),
        ] {
            assert_eq!(verdict(text), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn the_judge_sees_question_reference_and_answer() {
        let judge =
            ScriptedBackend::new("judge").when("Paris", Reply::text("yes")).otherwise(Reply::text("maybe"));
        let seen = judge.clone();
        let check = JudgeCheck { reference: "{answer}".to_owned() };
        let messages = [contract::Message::text(contract::MessageRole::User, "Capital?")];
        let tools = Tools { judge: Some(Arc::new(judge)), sandbox: None };
        assert!(check.judge(Judged { messages: &messages, answer: "Paris" }, &tools).await.unwrap());
        let error = check.judge(Judged { messages: &messages, answer: "Rome" }, &tools).await.unwrap_err();
        assert!(error.to_string().contains("neither yes nor no"), "{error}");
        assert_eq!(seen.calls(), 2);
        let prompt = check.prompt(Judged { messages: &messages, answer: "Paris" });
        assert!(
            prompt.contains("Question:\nCapital?\n\nReference:\n{answer}\n\nAnswer:\nParis\n"),
            "{prompt}"
        );
        let none = check.judge(Judged { messages: &messages, answer: "x" }, &Tools::default()).await;
        assert!(none.unwrap_err().to_string().contains("no judge"));
    }
}
