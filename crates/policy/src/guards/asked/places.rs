//! Where something stands in a request: [`Places`], its messages in windows, with the way from a window's spans back
//! to the messages.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use contract::{Channel, GuardAction, GuardRecord, Input, MessageRole, Request};

use super::super::canonical::{Canonical, folded};
use super::super::chain::{Add, RequestText, each_spoken};
use super::super::json_text::{Unescaped, unescaped};
use super::super::pattern::{Span, join};
use super::super::redact::{Vault, placeholders};
use super::texts::{WHOLE_BYTES, Window, parts};
use super::{AskedLink, Score};

/// Most windows of a request; one with more can't be judged.
pub const PLACES_MAX: usize = 64;

/// A window, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// What is read.
    pub window: Window,
    /// Whether some of its text is marked as retrieved.
    is_marked: bool,
    /// Which of the request's texts it is of.
    text: usize,
    /// For each of its bytes, where what that stands for begins in the text; and where what comes after it begins.
    origins: Vec<usize>,
}

/// Every message of a request in windows.
#[derive(Debug, Default)]
pub struct Places {
    /// In order.
    pub places: Vec<Place>,
}

/// What follows from what one guard found.
#[derive(Debug, Default, PartialEq)]
pub struct Located {
    /// What is told, a record per channel.
    pub records: Vec<GuardRecord>,
    /// Whether it acts.
    pub acts: bool,
    /// By text of the request: what it found.
    spans: BTreeMap<usize, Vec<Span>>,
}

impl Places {
    /// Those of a request: of all roles, with names and the arguments of tools' calls.
    pub fn of_request(request: &mut Request) -> Self {
        let mut places = Places::default();
        let mut text = 0;
        each_spoken(request, &mut |seen| {
            places.add(text, &seen);
            text += 1;
        });
        if let ([place], Input::Chat { messages, tools }) = (&mut places.places[..], &request.input)
            && let ([message], true) = (&messages[..], tools.is_empty())
        {
            let is_plain = message.role == MessageRole::User && message.name.is_none();
            place.window.is_request = is_plain && message.content.as_ref() == Some(&place.window.text);
        }
        places
    }

    fn add(&mut self, text: usize, seen: &RequestText<'_>) {
        let unescaped = seen.is_json.then(|| Unescaped::new(seen.content));
        let plain = unescaped.as_ref().map_or(seen.content.as_str(), |unescaped| unescaped.text.as_str());
        let mut canonical = Canonical::default();
        canonical.push(plain);
        let origin = |at: usize| {
            let at = canonical.origin(at);
            unescaped.as_ref().map_or(at, |unescaped| unescaped.origin(at..at).start)
        };
        for window in parts(canonical.text(), WHOLE_BYTES) {
            let start = window.as_ptr() as usize - canonical.text().as_ptr() as usize;
            let origins = (start..=start + window.len()).map(origin).collect();
            let window = Window { channel: seen.channel, text: window.to_owned(), is_request: false };
            self.places.push(Place { window, is_marked: !seen.retrieved.is_empty(), text, origins });
        }
    }

    /// Whether there are too many to be looked at.
    pub fn are_too_many(&self) -> bool {
        self.places.len() > PLACES_MAX
    }

    /// What follows from what a guard says of each place, in their order; the request is as it was when they were made.
    pub fn located(
        &self,
        link: &AskedLink,
        scores: &[Result<Score, String>],
        request: &mut Request,
    ) -> Located {
        let mut spans: BTreeMap<usize, Vec<Span>> = BTreeMap::new();
        let mut errors: BTreeMap<Channel, &String> = BTreeMap::new();
        for (place, score) in self.places.iter().zip(scores) {
            match score {
                Ok(score) => {
                    spans
                        .entry(place.text)
                        .or_default()
                        .extend(score.spans.iter().filter_map(|s| place.origin(s)));
                }
                Err(error) => {
                    errors.entry(place.window.channel).or_insert(error);
                }
            }
        }
        let mut records: BTreeMap<Channel, GuardRecord> = BTreeMap::new();
        let mut text = 0;
        each_spoken(request, &mut |seen| {
            if let Some(found) = spans.get_mut(&text) {
                let begins = |place: &&Place| place.text == text;
                let seams =
                    self.places.iter().filter(begins).filter_map(|place| place.origins.first().copied());
                *found = join(across(std::mem::take(found), seen.content, &seams.collect()));
                let given: Vec<Range<usize>> = placeholders(seen.content).collect();
                let is_given = |span: &Span| given.iter().any(|g| g.start < span.end && span.start < g.end);
                found.retain(|span| !is_given(span) && link.looks_at(seen.channel_of(span)));
                for span in found.iter() {
                    let channel = seen.channel_of(span);
                    records.entry(channel).or_insert_with(|| link.record(channel)).add(span);
                }
            }
            text += 1;
        });
        let mut acts = !records.is_empty();
        for (channel, error) in errors {
            let is_blocked = link.blocks_on_error();
            let record = records.entry(channel).or_insert_with(|| GuardRecord {
                action: if is_blocked { GuardAction::Block } else { GuardAction::Flag },
                ..link.record(channel)
            });
            record.error = Some(error.clone());
            if is_blocked {
                record.action = GuardAction::Block;
                acts = true;
            }
        }
        Located { records: records.into_values().collect(), acts, spans }
    }

    /// Puts placeholders in place of what guards found that redact. Where two found something, the first one's counts.
    pub fn redact(located: &[(Located, bool)], request: &mut Request, vault: &mut Vault) {
        let mut text = 0;
        each_spoken(request, &mut |seen| {
            vault.avoid(seen.content);
        });
        each_spoken(request, &mut |seen| {
            let mut all: Vec<(Span, bool)> = Vec::new();
            for (Located { spans, .. }, restores) in located {
                let is_free = |span: &Span, all: &[(Span, bool)]| {
                    all.iter().all(|(other, _)| span.end <= other.start || other.end <= span.start)
                };
                let found = spans.get(&text).into_iter().flatten();
                let free: Vec<Span> = found.filter(|span| is_free(span, &all)).cloned().collect();
                all.extend(free.into_iter().map(|span| (span, *restores)));
            }
            text += 1;
            if all.is_empty() {
                return;
            }
            all.sort_by_key(|(span, _)| span.start);
            for (span, _) in all.iter().filter(|(_, restores)| *restores) {
                let value = seen.content.get(span.range()).unwrap_or_default();
                let value = if seen.is_json { Cow::Owned(unescaped(value)) } else { Cow::Borrowed(value) };
                vault.placeholder(span.entity, &value, true);
            }
            let spans: Vec<Span> = all.into_iter().map(|(span, _)| span).collect();
            seen.redact(&spans, vault, false);
        });
    }
}

impl Place {
    /// Whether a guard looks at it.
    pub fn concerns(&self, link: &AskedLink) -> bool {
        link.looks_at(self.window.channel) || (self.is_marked && link.looks_at(Channel::Tool))
    }

    /// A span of the window as one of the request's text.
    fn origin(&self, span: &Span) -> Option<Span> {
        let range = *self.origins.get(span.start)?..*self.origins.get(span.end)?;
        (!range.is_empty()).then(|| Span { start: range.start, end: range.end, ..span.clone() })
    }
}

/// Spans of one entity that a seam between windows has cut in two are one.
fn across(mut spans: Vec<Span>, text: &str, seams: &BTreeSet<usize>) -> Vec<Span> {
    spans.sort_by_key(|span| (span.start, span.end));
    let mut joined: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match joined.last_mut() {
            Some(last)
                if last.entity == span.entity
                    && text.get(last.end..span.start).is_some_and(|gap| folded(gap).trim().is_empty())
                    && seams.range(last.end..=span.start).next().is_some() =>
            {
                (last.end, last.score) = (span.end, last.score.max(span.score));
            }
            _ => joined.push(span),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use contract::{Message, Reading};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::guards::asked::Materials;
    use crate::guards::redact::Restorer;
    use crate::guards::{Chain, GuardSettings};
    use crate::routing::testing::request;
    use crate::token_head::testing::{head, seen};

    fn chain(more: serde_json::Value) -> Chain {
        let mut settings = json!({"name": "g", "kind": "token-head", "action": "redact", "head": "h"});
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let settings: GuardSettings = serde_json::from_value(settings).unwrap();
        let token_heads = [("h".to_owned(), head("h"))].into();
        Chain::with(&[settings], &Materials { token_heads, ..Materials::default() }).unwrap()
    }

    fn chat(messages: Vec<Message>) -> Request {
        Request { input: Input::Chat { messages, tools: Vec::new() }, ..request(false) }
    }

    /// Reads every place and does what follows.
    fn redacted(chain: &Chain, request: &mut Request, vault: &mut Vault) -> Vec<GuardRecord> {
        let places = Places::of_request(request);
        let link = &chain.asked()[0];
        let score = |place: &Place| {
            let reading = Reading { tokens: Some(Arc::new(seen(&place.window.text))), ..Reading::default() };
            link.locate(&place.window.text, &reading)
        };
        let scores: Vec<_> = places.places.iter().map(score).collect();
        let located = places.located(link, &scores, request);
        let records = located.records.clone();
        Places::redact(&[(located, link.restores())], request, vault);
        records
    }

    #[test]
    fn messages_of_all_roles_are_redacted_alike_and_restored() {
        let mut answer = Message::text(MessageRole::Assistant, "hello Ann Berg, you live at 12");
        let function = json!({"name": "f", "arguments": r#"{"to":"\u0041nn Berg"}"#});
        answer.tool_calls.push(contract::ToolCall {
            id: "1".to_owned(),
            kind: "function".to_owned(),
            function,
        });
        let mut request =
            chat(vec![Message::text(MessageRole::User, "i am Ann\u{200B} Berg (<PERSON_1>)"), answer]);
        let mut vault = Vault::default();
        let records = redacted(&chain(json!({"restore": true})), &mut request, &mut vault);
        let Input::Chat { messages, .. } = &request.input else { panic!() };
        assert_eq!(messages[0].content.as_deref(), Some("i am <PERSON_2> (<PERSON_1>)"));
        assert_eq!(messages[1].tool_calls[0].function["arguments"], r#"{"to":"<PERSON_3>"}"#);
        assert_eq!(messages[1].content.as_deref(), Some("hello <PERSON_3>, you live at <ADDRESS_1>"));
        assert_eq!((records[0].entities["person"], records[0].entities["address"]), (3, 1));
        assert_eq!(Restorer::default().push("<PERSON_3><PERSON_1>", &vault), "Ann Berg<PERSON_1>");
    }

    #[test]
    fn what_a_guard_does_not_look_at_stays() {
        let marked = Message {
            retrieved: std::iter::once(3..6).collect(),
            ..Message::text(MessageRole::User, "at Ann and Bob")
        };
        let mut request = chat(vec![marked, Message::text(MessageRole::Tool, "it was Eve")]);
        let records = redacted(&chain(json!({"channels": ["tool"]})), &mut request, &mut Vault::default());
        assert_eq!(
            request.text(),
            chat(vec![
                Message::text(MessageRole::User, "at <PERSON_1> and Bob"),
                Message::text(MessageRole::Tool, "it was <PERSON_2>"),
            ])
            .text()
        );
        assert_eq!((records.len(), records[0].channel), (1, Channel::Tool));
    }

    #[test]
    fn what_can_not_be_judged_blocks_unless_it_may_pass() {
        for (on_error, acts, action) in
            [("block", true, GuardAction::Block), ("pass", false, GuardAction::Flag)]
        {
            let chain = chain(json!({"on_error": on_error}));
            let mut request = chat(vec![Message::text(MessageRole::User, "at home")]);
            let places = Places::of_request(&mut request);
            let located = places.located(&chain.asked()[0], &[Err("it was late".to_owned())], &mut request);
            assert_eq!((located.acts, located.records[0].action), (acts, action));
            assert_eq!(located.records[0].outcome(), "error");
        }
    }

    #[test]
    fn a_plain_message_is_the_request_itself() {
        let of = |text: &str| Places::of_request(&mut chat(vec![Message::text(MessageRole::User, text)]));
        assert!(of("who is Ann?").places[0].window.is_request);
        assert!(!of("who is \u{410}nn?").places[0].window.is_request);
        assert!(of(&"word ".repeat(40 * 1000)).are_too_many());
    }

    proptest! {
        #[test]
        fn a_seam_cuts_nothing_in_two_and_values_come_back(
            words in proptest::collection::vec("[a-z]{1,9}|[A-Z][a-zé]{1,7}|[0-9]{2}|\u{200B}", 0..300),
        ) {
            let text = words.join(" ");
            let mut request = chat(vec![Message::text(MessageRole::User, &text)]);
            let mut vault = Vault::default();
            let records = redacted(&chain(json!({"restore": true})), &mut request, &mut vault);
            let Input::Chat { messages, .. } = &request.input else { panic!() };
            let left = messages[0].content.as_deref().unwrap();
            prop_assert!(!left.split(' ').any(|word| word.starts_with(|c: char| c.is_ascii_uppercase())), "{}", left);
            let mut restorer = Restorer::default();
            prop_assert_eq!(restorer.push(left, &vault) + &restorer.finish(&vault), text);
            // Names side by side are one, also over a seam.
            let shape = |word: &str| word.chars().next().map(|c| (c.is_ascii_uppercase(), c.is_ascii_digit()));
            let seen: Vec<_> = words.iter().filter(|word| *word != "\u{200B}").map(|word| shape(word)).collect();
            let runs = seen.chunk_by(|a, b| a == b).filter(|run| run[0] == Some((true, false))).count() as u64;
            let found = records.first().map_or(0, |record| record.entities.get("person").copied().unwrap_or(0));
            prop_assert_eq!(found, runs);
        }
    }
}
