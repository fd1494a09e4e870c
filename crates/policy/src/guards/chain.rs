//! All guards in order: [`Chain`], and what becomes of a request under it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use contract::{Channel, GuardAction, GuardRecord, Input, Message, MessageRole, Request, Route};
use serde_json::Value;

use super::asked::{AskedLink, Materials, Verdict};
use super::json_text::scan_json;
use super::kinds::Built;
use super::output::OutputGuard;
use super::pattern::{Scanner, Span};
use super::redact::{Vault, ranges};
use super::settings::GUARDS_MAX;
use super::stream::scan;
use super::{GuardError, GuardSettings, kinds};

/// One guard that looks for itself.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) settings: GuardSettings,
    pub(super) scanner: Scanner,
}

/// All guards, in the order of the configuration: those that look for themselves, then those that ask a model. Clones
/// share them.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    links: Arc<Vec<Arc<Link>>>,
    asked: Arc<Vec<AskedLink>>,
}

/// A request after its guards.
#[derive(Debug, Default)]
pub struct Guarded {
    /// What was found, in order.
    pub records: Vec<GuardRecord>,
    /// The record that refuses the request; guards after it were not asked.
    pub blocked: Option<GuardRecord>,
    /// The values that placeholders stand for.
    pub vault: Vault,
}

/// What one guard finds in a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// The guard's name.
    pub guard: String,
    /// What it would do.
    pub action: GuardAction,
    /// Where, bytes of the text; none where nothing was found, or by a guard that judges whole texts.
    pub spans: Vec<Span>,
    /// What an asked guard says.
    pub verdict: Option<Verdict>,
    /// The highest of an asked guard's scores.
    pub asked_score: f64,
}

impl Hit {
    /// How sure it is, 0: nothing was found.
    pub fn score(&self) -> f64 {
        self.spans.iter().map(|span| f64::from(span.score)).fold(self.asked_score, f64::max)
    }

    /// What is done about the text, if anything.
    pub fn acts(&self) -> Option<GuardAction> {
        match &self.verdict {
            Some(verdict) => verdict.action,
            None => (!self.spans.is_empty()).then_some(self.action),
        }
    }
}

/// What all guards of a channel find in a text: each guard once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checked {
    /// In the order of the chain.
    pub hits: Vec<Hit>,
}

impl Checked {
    /// Whether any guard found something.
    pub fn flagged(&self) -> bool {
        self.action().is_some()
    }

    /// The gravest action that would be taken.
    pub fn action(&self) -> Option<GuardAction> {
        let order = [GuardAction::Block, GuardAction::Redact, GuardAction::Escalate, GuardAction::Flag];
        let acts = |action: &GuardAction| self.hits.iter().any(|hit| hit.acts() == Some(*action));
        order.into_iter().find(acts)
    }
}

impl Chain {
    /// Builds guards that need nothing but their settings.
    ///
    /// # Errors
    /// [`GuardError`], saying which and why.
    pub fn new(settings: &[GuardSettings]) -> Result<Chain, GuardError> {
        Chain::with(settings, &Materials::default())
    }

    /// Builds all guards.
    ///
    /// # Errors
    /// As [`Chain::new`].
    pub fn with(settings: &[GuardSettings], materials: &Materials) -> Result<Chain, GuardError> {
        Chain::check_settings(settings)?;
        let (mut links, mut asked) = (Vec::new(), Vec::new());
        for guard in settings {
            // Checked: the kind exists.
            let Some(entry) = kinds::of_name(&guard.kind) else { continue };
            match (entry.build)(guard, materials)? {
                Built::Scanner(scanner) => links.push(Arc::new(Link { settings: guard.clone(), scanner })),
                Built::Asker(asker) => asked.push(AskedLink::new(guard.clone(), asker)),
            }
        }
        Ok(Chain { links: Arc::new(links), asked: Arc::new(asked) })
    }

    /// Checks what can be said of settings by themselves.
    ///
    /// # Errors
    /// As [`Chain::new`].
    pub fn check_settings(settings: &[GuardSettings]) -> Result<(), GuardError> {
        if settings.len() > GUARDS_MAX {
            return Err(GuardError::Guards);
        }
        for (index, guard) in settings.iter().enumerate() {
            guard.validate()?;
            if settings[..index].iter().any(|other| other.name == guard.name) {
                return Err(GuardError::Twice { name: guard.name.clone() });
            }
            kinds::of_name(&guard.kind).map_or(Ok(()), |entry| (entry.check)(guard))?;
        }
        Ok(())
    }

    /// The guards that ask a model, in order.
    pub fn asked(&self) -> &[AskedLink] {
        &self.asked
    }

    /// Layers whose states the small model must keep for them, ascending.
    pub fn layers(&self) -> Vec<u32> {
        let layers: BTreeSet<u32> = self.asked.iter().flat_map(|link| link.asker().layers()).collect();
        layers.into_iter().collect()
    }

    /// Layers whose states at every token guards want that say where something stands, ascending.
    pub fn token_layers(&self) -> Vec<u32> {
        let layers: BTreeSet<u32> = self.asked.iter().flat_map(|link| link.asker().token_layers()).collect();
        layers.into_iter().collect()
    }

    /// Whether there are no guards.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty() && self.asked.is_empty()
    }

    /// Guards a request as far as no model is asked: redacts it, has it escalated, or says that it is refused.
    pub fn input(&self, request: &mut Request) -> Guarded {
        let mut guarded = Guarded::default();
        let mut links = self.links.iter().filter(|link| link.settings.stage.is_input()).peekable();
        if links.peek().is_none() {
            return guarded;
        }
        each_text(request, &mut |text| guarded.vault.avoid(text.content));
        for link in links {
            let records = link.input(request, &mut guarded.vault);
            guarded.records.extend(records.iter().cloned());
            let Some(record) = records.into_iter().next() else { continue };
            match link.settings.action {
                GuardAction::Block => {
                    guarded.blocked = Some(record);
                    return guarded;
                }
                GuardAction::Escalate => request.options.route = Route::Large,
                GuardAction::Redact | GuardAction::Flag => {}
            }
        }
        guarded
    }

    /// What every guard of the channel that asks no model finds in a text by itself, without acting.
    pub fn check(&self, text: &str, channel: Channel) -> Checked {
        let looks = |link: &&Arc<Link>| match channel {
            Channel::Output => link.settings.stage.is_output(),
            _ => link.settings.stage.is_input() && link.settings.channels.contains(&channel),
        };
        let hit = |link: &Arc<Link>| Hit {
            guard: link.settings.name.clone(),
            action: link.settings.action,
            spans: scan(&link.scanner, text),
            verdict: None,
            asked_score: 0.0,
        };
        Checked { hits: self.links.iter().filter(looks).map(hit).collect() }
    }

    /// A guard for the answer to a request, but for those that ask a model; `None` if it needs none.
    pub fn output(&self, vault: &Arc<Vault>) -> Option<OutputGuard> {
        let guards = self.links.iter().filter(|link| link.settings.stage.is_output());
        let links: Vec<Arc<Link>> = guards.cloned().collect();
        (!links.is_empty() || vault.has_restorable()).then(|| OutputGuard::new(links, Arc::clone(vault)))
    }
}

impl Link {
    /// Looks at all texts of a request; a record per channel in which something was found.
    fn input(&self, request: &mut Request, vault: &mut Vault) -> Vec<GuardRecord> {
        let mut records: BTreeMap<Channel, GuardRecord> = BTreeMap::new();
        each_text(request, &mut |text| {
            let scan = if text.is_json { scan_json } else { scan };
            let mut spans = scan(&self.scanner, text.content);
            spans.retain(|span| self.settings.channels.contains(&text.channel_of(span)));
            for span in &spans {
                let channel = text.channel_of(span);
                records.entry(channel).or_insert_with(|| self.record(channel)).add(span);
            }
            if self.settings.action == GuardAction::Redact && !spans.is_empty() {
                text.redact(&spans, vault, self.settings.restore);
            }
        });
        records.into_values().collect()
    }

    pub(super) fn record(&self, channel: Channel) -> GuardRecord {
        self.settings.record(channel)
    }
}

/// Counts what was found.
pub(super) trait Add {
    /// One more.
    fn add(&mut self, span: &Span);
}

impl Add for GuardRecord {
    fn add(&mut self, span: &Span) {
        self.score = self.score.max(f64::from(span.score));
        *self.entities.entry(span.entity.to_owned()).or_default() += 1;
    }
}

/// A text of a request.
pub(super) struct RequestText<'a> {
    pub(super) content: &'a mut String,
    /// Of its whole, but for what is marked.
    pub(super) channel: Channel,
    /// What the client marked as retrieved.
    pub(super) retrieved: &'a mut Vec<Range<usize>>,
    /// Whether it is JSON.
    pub(super) is_json: bool,
}

impl RequestText<'_> {
    /// A span that touches what is marked counts as retrieved.
    pub(super) fn channel_of(&self, span: &Span) -> Channel {
        let touches = |range: &Range<usize>| range.start < span.end && span.start < range.end;
        if self.retrieved.iter().any(touches) { Channel::Tool } else { self.channel }
    }
}

impl RequestText<'_> {
    /// Replaces spans, which are in order and do not overlap; what is marked stays so.
    pub(super) fn redact(self, spans: &[Span], vault: &mut Vault, restores: bool) {
        let redacted = vault.redact(self.content, &ranges(spans), restores, self.is_json);
        move_ranges(self.retrieved, (spans, self.content, vault));
        *self.content = redacted;
    }
}

/// Moves marks to where they are after a redaction.
fn move_ranges(marks: &mut [Range<usize>], (spans, text, vault): (&[Span], &str, &mut Vault)) {
    if marks.is_empty() {
        return;
    }
    let widths: Vec<usize> = spans
        .iter()
        .map(|span| vault.placeholder(span.entity, text.get(span.range()).unwrap_or_default(), false).len())
        .collect();
    let moved = |at: usize, is_end: bool| {
        let mut offset = 0isize;
        for (span, width) in spans.iter().zip(&widths) {
            if span.end <= at {
                offset += *width as isize - (span.end - span.start) as isize;
            } else if span.start < at {
                // Within a span: the whole placeholder is marked.
                let edge = span.start.saturating_add_signed(offset);
                return if is_end { edge + width } else { edge };
            }
        }
        at.saturating_add_signed(offset)
    };
    for mark in marks {
        *mark = moved(mark.start, false)..moved(mark.end, true);
    }
}

/// Shows every text of a request that a backend will see: the conversation first, in its order.
fn each_text(request: &mut Request, see: &mut dyn FnMut(RequestText<'_>)) {
    each_spoken(request, see);
    let mut user = |content: &mut String| {
        see(RequestText { content, channel: Channel::User, retrieved: &mut Vec::new(), is_json: false });
    };
    if let Input::Chat { tools, .. } = &mut request.input {
        tools.iter_mut().for_each(|tool| each_string(tool, &mut user));
    }
    request.stop.iter_mut().for_each(&mut user);
    for (_, value) in &mut request.passthrough {
        each_string(value, &mut user);
    }
}

/// Shows every text of the conversation, or the prompt.
pub(super) fn each_spoken(request: &mut Request, see: &mut dyn FnMut(RequestText<'_>)) {
    match &mut request.input {
        Input::Completion { prompt } => {
            see(RequestText {
                content: prompt,
                channel: Channel::User,
                retrieved: &mut Vec::new(),
                is_json: false,
            });
        }
        Input::Chat { messages, .. } => messages.iter_mut().for_each(|message| each_of_message(message, see)),
    }
}

fn each_of_message(message: &mut Message, see: &mut dyn FnMut(RequestText<'_>)) {
    let channel = if message.role == MessageRole::Tool { Channel::Tool } else { Channel::User };
    let Message { content, name, tool_calls, retrieved, .. } = message;
    if let Some(content) = content {
        see(RequestText { content, channel, retrieved, is_json: false });
    }
    let mut plain = |content: &mut String| {
        see(RequestText { content, channel, retrieved: &mut Vec::new(), is_json: false })
    };
    name.iter_mut().for_each(&mut plain);
    for call in tool_calls {
        let Value::Object(fields) = &mut call.function else { continue };
        for (name, value) in fields {
            let is_json = name == "arguments";
            each_string(value, &mut |content| {
                see(RequestText { content, channel, retrieved: &mut Vec::new(), is_json });
            });
        }
    }
}

/// Every string in a JSON value; keys are names that the client's program chose.
fn each_string(value: &mut Value, see: &mut dyn FnMut(&mut String)) {
    match value {
        Value::String(text) => see(text),
        Value::Array(items) => items.iter_mut().for_each(|item| each_string(item, see)),
        Value::Object(fields) => fields.iter_mut().for_each(|(_, item)| each_string(item, see)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::routing::testing::request;

    fn chain(guards: &[Value]) -> Result<Chain, GuardError> {
        let settings: Vec<GuardSettings> =
            guards.iter().map(|guard| serde_json::from_value(guard.clone()).unwrap()).collect();
        Chain::new(&settings)
    }

    fn pii(more: &[(&str, Value)]) -> Value {
        let mut guard = json!({"name": "pii", "kind": "pattern", "action": "redact"});
        more.iter().for_each(|(key, value)| guard[*key] = value.clone());
        guard
    }

    fn chat(messages: Vec<Message>) -> Request {
        Request { input: Input::Chat { messages, tools: Vec::new() }, ..request(false) }
    }

    #[test]
    fn every_text_that_a_backend_sees_is_redacted_alike() {
        let mut asked = chat(vec![
            Message::text(MessageRole::System, "operator: ops@example.org"),
            Message::text(MessageRole::User, "I am jane@example.org, she is not ops@example.org"),
        ]);
        if let Input::Chat { messages, tools } = &mut asked.input {
            messages[1].name = Some("jane@example.org".to_owned());
            messages[0].tool_calls.push(contract::ToolCall {
                id: "1".to_owned(),
                kind: "function".to_owned(),
                function: json!({"name": "f", "arguments": "{\"to\":\"jane@example.org\"}"}),
            });
            tools.push(json!({"function": {"description": "writes to ops@example.org"}}));
        }
        asked.stop = vec!["jane@example.org".to_owned()];
        asked.passthrough.insert("user".to_owned(), json!("jane@example.org"));
        let guarded = chain(&[pii(&[("restore", json!(true))])]).unwrap().input(&mut asked);
        let text = serde_json::to_string(&asked).unwrap();
        assert!(!text.contains("example.org"), "{text}");
        assert!(text.contains("I am <EMAIL_2>, she is not <EMAIL_1>"), "{text}");
        assert!(guarded.blocked.is_none() && guarded.vault.has_restorable());
        assert_eq!(guarded.records.len(), 1);
        assert_eq!(guarded.records[0].entities["email"], 8);
        assert!(!guarded.records[0].reason().contains("example"));
    }

    #[test]
    fn the_next_request_of_a_conversation_gives_the_same_placeholders() {
        let chain = chain(&[pii(&[])]).unwrap();
        let first = vec![Message::text(MessageRole::User, "a@x.org and b@x.org")];
        let mut second = first.clone();
        second.push(Message::text(MessageRole::User, "c@x.org and b@x.org"));
        let (mut one, mut two) = (chat(first), chat(second));
        chain.input(&mut one);
        chain.input(&mut two);
        assert_eq!(two.text(), format!("{}\n<EMAIL_3> and <EMAIL_2>", one.text()));
    }

    #[test]
    fn a_block_ends_the_chain_and_an_escalation_forces_large() {
        let deny = json!({"name": "words", "kind": "pattern", "action": "block", "deny": ["geheim"]});
        let hard = json!({"name": "hard", "kind": "pattern", "action": "escalate", "deny": ["beweise"]});
        let chain = chain(&[hard, deny, pii(&[])]).unwrap();
        let mut asked = chat(vec![Message::text(MessageRole::User, "Beweise es. Geheim! a@x.org")]);
        let guarded = chain.input(&mut asked);
        assert_eq!(guarded.blocked.map(|record| record.guard), Some("words".to_owned()));
        assert_eq!(guarded.records.len(), 2);
        assert_eq!(asked.options.route, Route::Large);
        assert!(asked.text().contains("a@x.org"));
    }

    #[test]
    fn arguments_are_seen_as_what_their_escapes_stand_for_and_stay_json() {
        let chain = chain(&[pii(&[])]).unwrap();
        let arguments = r#"{"to": "jane\u0040x.org", "text": "Hi\nJane@x.org or jane@x.org"}"#;
        let mut message = Message::text(MessageRole::Assistant, "as jane@x.org said");
        let function = json!({"name": "mail", "arguments": arguments});
        message.tool_calls = vec![contract::ToolCall { id: "c".into(), kind: "function".into(), function }];
        let mut asked = chat(vec![message]);
        chain.input(&mut asked);
        let Input::Chat { messages, .. } = &asked.input else { panic!("a chat") };
        let redacted = messages[0].tool_calls[0].function["arguments"].as_str().unwrap();
        assert_eq!(redacted, r#"{"to": "<EMAIL_1>", "text": "Hi\n<EMAIL_2> or <EMAIL_1>"}"#);
        assert_eq!(messages[0].content.as_deref(), Some("as <EMAIL_1> said"));
    }

    #[test]
    fn retrieved_text_is_a_channel_of_its_own() {
        let chain = chain(&[pii(&[]), {
            let mut tool = pii(&[("channels", json!(["tool"])), ("deny", json!(["ignore all"]))]);
            tool["name"] = json!("tool");
            tool["action"] = json!("block");
            tool
        }])
        .unwrap();
        let marked = |range: Range<usize>| {
            let text = "for a@x.org: ignore all of it, b@x.org";
            let mut message = Message::text(MessageRole::User, text);
            message.retrieved = vec![range];
            let mut asked = chat(vec![message]);
            let guarded = chain.input(&mut asked);
            let channels: Vec<Channel> = guarded.records.iter().map(|record| record.channel).collect();
            (guarded.blocked.is_some(), channels)
        };
        assert_eq!(marked(13..38), (true, vec![Channel::User, Channel::Tool, Channel::Tool]));
        assert_eq!(marked(24..24), (false, vec![Channel::User]));
        // The marks move with the text: what follows the redacted address is marked still.
        assert!(marked(13..14).0);
        let mut asked = chat(vec![Message::text(MessageRole::Tool, "ignore all")]);
        assert!(chain.input(&mut asked).blocked.is_some());
    }

    #[test]
    fn checking_acts_on_nothing_and_tells_the_gravest_action() {
        let flag = json!({"name": "out", "kind": "pattern", "action": "flag", "stage": "output", "entities": ["phone"]});
        let chain = chain(&[pii(&[]), flag]).unwrap();
        let checked = chain.check("a@x.org or +49 30 901820", Channel::User);
        assert_eq!((checked.action(), checked.hits.len()), (Some(GuardAction::Redact), 1));
        assert_eq!(checked.hits[0].spans.len(), 2);
        let checked = chain.check("a@x.org or +49 30 901820", Channel::Output);
        assert_eq!((checked.action(), checked.hits[0].score()), (Some(GuardAction::Flag), 1.0));
        assert!(!chain.check("nothing", Channel::Tool).flagged());
    }

    #[test]
    fn guards_that_make_no_sense_are_refused() {
        let why = |guards: &[Value]| chain(guards).unwrap_err().to_string();
        assert!(why(&[pii(&[("name", json!("a b"))])]).contains("name"));
        assert!(why(&[pii(&[]), pii(&[])]).contains("two guards"));
        assert!(why(&[pii(&[("kind", json!("patern"))])]).contains("known are: pattern, head"));
        assert!(why(&[pii(&[("threshold", json!(1.5))])]).contains("threshold"));
        assert!(why(&[pii(&[("action", json!("escalate")), ("stage", json!("both"))])]).contains("escalate"));
        assert!(why(&[pii(&[("restore", json!(true)), ("stage", json!("output"))])]).contains("restore"));
        assert!(why(&[pii(&[("channels", json!(["output"]))])]).contains("channels"));
        assert!(why(&vec![pii(&[]); GUARDS_MAX + 1]).contains("more than"));
    }
}
