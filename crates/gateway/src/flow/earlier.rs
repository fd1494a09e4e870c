//! Who answered earlier: [`Earlier`] remembers for a while which role called tools, and which answered a conversation,
//! so that a policy can have it go on. It is in memory only: after a restart nothing is known.
//!
//! Tool calls are known again by their ids; a conversation by a hash of its messages up to the assistant's last, as the
//! client sends them, so one whose past was edited is another one. Both only for the tenant that they belong to.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use contract::{Continued, Continues, Delta, Input, Message, MessageRole, Request, Role};
use sha2::{Digest, Sha256};
use tokio::time::{Duration, Instant};

/// Most answers and tool calls that are remembered; the oldest go first.
const ENTRIES_MAX: usize = 65_536;
/// How long they are.
const KEPT_MINUTES: u64 = 60;
/// Most tool calls of one answer that are.
const TOOL_CALLS_MAX: usize = 128;
/// Bytes that no UTF-8 text has: ends of texts and of messages.
const TEXT_END: [u8; 1] = [0xff];
const MESSAGE_END: [u8; 1] = [0xfe];

/// Half of a SHA-256.
type Key = [u8; 16];

/// What is remembered, of all tenants.
#[derive(Default)]
pub(super) struct Earlier {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    roles: HashMap<Key, (Role, Instant)>,
    /// When each was noted, oldest first; what was noted twice stands here twice.
    noted: VecDeque<(Key, Instant)>,
}

impl Kept {
    fn note(&mut self, key: Key, role: Role) {
        let now = Instant::now();
        self.roles.insert(key, (role, now));
        self.noted.push_back((key, now));
        while self.noted.len() > ENTRIES_MAX
            || self.noted.front().is_some_and(|(_, noted)| is_over(*noted, now))
        {
            let Some((key, noted)) = self.noted.pop_front() else { break };
            if self.roles.get(&key).is_some_and(|(_, latest)| *latest == noted) {
                self.roles.remove(&key);
            }
        }
    }

    fn role(&self, key: &Key) -> Option<Role> {
        self.roles.get(key).filter(|(_, noted)| !is_over(*noted, Instant::now())).map(|(role, _)| *role)
    }
}

fn is_over(noted: Instant, now: Instant) -> bool {
    now.saturating_duration_since(noted) >= Duration::from_secs(60 * KEPT_MINUTES)
}

impl Earlier {
    /// Who is behind what a request goes on from, and the thread that its answer will belong to; `None`: it is no chat.
    pub(super) fn recall(
        &self,
        request: &Request,
        tenant: Option<&str>,
    ) -> Option<(Option<Continues>, Thread)> {
        let Input::Chat { messages, .. } = &request.input else { return None };
        let mut thread = Thread::new(tenant);
        let last_answer = messages.iter().rposition(|message| message.role == MessageRole::Assistant);
        let mut conversation = None;
        for (index, message) in messages.iter().enumerate() {
            thread.read(message);
            if Some(index) == last_answer {
                conversation = Some(thread.key());
            }
        }
        thread.begin_answer();
        let results = messages.iter().rev().take_while(|message| message.role == MessageRole::Tool);
        let mut calls = results.filter_map(|message| message.tool_call_id.as_deref());
        let kept = self.lock();
        let continues = |what| move |role| Continues { what, role };
        let by_tools = calls.find_map(|id| kept.role(&thread.call_key(id)));
        let found = by_tools
            .map(continues(Continued::ToolCalls))
            .or_else(|| conversation.and_then(|key| kept.role(&key)).map(continues(Continued::Conversation)));
        drop(kept);
        Some((found, thread))
    }

    /// Remembers who wrote the thread's answer, which is complete.
    pub(super) fn note(&self, thread: Thread, role: Role) {
        let mut kept = self.lock();
        for id in &thread.calls {
            kept.note(thread.call_key(id), role);
        }
        kept.note(thread.answered(), role);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A conversation up to an answer's last piece, as a hash.
#[derive(Clone)]
pub(super) struct Thread {
    tenant: Sha256,
    so_far: Sha256,
    /// Ids of the answer's tool calls.
    calls: Vec<String>,
}

impl Thread {
    fn new(tenant: Option<&str>) -> Self {
        let mut hash = Sha256::new();
        text(&mut hash, tenant.unwrap_or_default());
        Thread { so_far: hash.clone().chain_update("conversation"), tenant: hash, calls: Vec::new() }
    }

    fn read(&mut self, message: &Message) {
        self.so_far.update([message.role as u8]);
        text(&mut self.so_far, message.content.as_deref().unwrap_or_default());
        let made = message.tool_calls.iter().map(|call| call.id.as_str());
        made.chain(message.tool_call_id.as_deref()).for_each(|id| text(&mut self.so_far, id));
        self.so_far.update(MESSAGE_END);
    }

    fn begin_answer(&mut self) {
        self.so_far.update([MessageRole::Assistant as u8]);
    }

    /// Takes in a piece of the answer as it leaves.
    pub(super) fn push(&mut self, delta: &Delta) {
        self.so_far.update(delta.text.as_bytes());
        let ids = delta.tool_calls.iter().filter_map(|call| call.get("id")?.as_str());
        for id in ids.filter(|id| !id.is_empty()) {
            if self.calls.len() < TOOL_CALLS_MAX && !self.calls.iter().any(|known| known == id) {
                self.calls.push(id.to_owned());
            }
        }
    }

    /// The key of the conversation with its whole answer.
    fn answered(mut self) -> Key {
        self.so_far.update(TEXT_END);
        let calls = std::mem::take(&mut self.calls);
        calls.iter().for_each(|id| text(&mut self.so_far, id));
        self.so_far.update(MESSAGE_END);
        self.key()
    }

    fn key(&self) -> Key {
        half(self.so_far.clone())
    }

    fn call_key(&self, id: &str) -> Key {
        half(self.tenant.clone().chain_update("call").chain_update(id))
    }
}

fn text(hash: &mut Sha256, text: &str) {
    hash.update(text.as_bytes());
    hash.update(TEXT_END);
}

fn half(hash: Sha256) -> Key {
    let whole: [u8; 32] = hash.finalize().into();
    let mut key = Key::default();
    key.copy_from_slice(&whole[..16]);
    key
}

#[cfg(test)]
mod tests {
    use contract::ToolCall;
    use serde_json::json;

    use super::*;

    fn asking(messages: &[Message]) -> Request {
        Request::new("chatcmpl-1", Input::Chat { messages: messages.to_vec(), tools: Vec::new() })
    }

    fn user(words: &str) -> Message {
        Message::text(MessageRole::User, words)
    }

    fn assistant(words: &str) -> Message {
        Message::text(MessageRole::Assistant, words)
    }

    fn result(id: &str) -> Message {
        Message { tool_call_id: Some(id.to_owned()), ..Message::text(MessageRole::Tool, "42") }
    }

    fn calling(ids: &[&str]) -> Message {
        let call =
            |id: &&str| ToolCall { id: (*id).to_owned(), kind: "function".to_owned(), function: json!({}) };
        Message { content: None, tool_calls: ids.iter().map(call).collect(), ..assistant("") }
    }

    /// Has `role` answer these messages with these pieces of text and these calls.
    fn answer(earlier: &Earlier, messages: &[Message], (role, pieces, calls): (Role, &[&str], &[&str])) {
        let (_, mut thread) = earlier.recall(&asking(messages), None).unwrap();
        for piece in pieces {
            thread.push(&Delta { text: (*piece).to_owned(), ..Delta::default() });
        }
        for id in calls {
            // As it is streamed: the id first, then pieces of the arguments.
            let tool_calls =
                vec![json!({"index": 0, "id": id}), json!({"index": 0, "function": {"arguments": "{"}})];
            thread.push(&Delta { tool_calls, ..Delta::default() });
        }
        earlier.note(thread, role);
    }

    fn found(earlier: &Earlier, messages: &[Message]) -> Option<(Continued, Role)> {
        found_for(earlier, messages, None)
    }

    fn found_for(earlier: &Earlier, messages: &[Message], tenant: Option<&str>) -> Option<(Continued, Role)> {
        earlier.recall(&asking(messages), tenant)?.0.map(|continues| (continues.what, continues.role))
    }

    #[test]
    fn a_conversation_is_known_again_by_its_past_in_any_pieces() {
        let earlier = Earlier::default();
        answer(&earlier, &[user("Hi")], (Role::Large, &["Good", " day"], &[]));
        let on = |past: &[Message]| found(&earlier, &[past, &[user("And?")]].concat());
        let is_large = Some((Continued::Conversation, Role::Large));
        assert_eq!(on(&[user("Hi"), assistant("Good day")]), is_large);
        for other in [
            vec![user("Hi"), assistant("Good day!")],
            vec![user("Hi")],
            vec![user("Ho"), assistant("Good day")],
            vec![user("HiGood day")],
            vec![user("Hi"), assistant("Good day"), user("x"), assistant("y")],
            vec![assistant("Good day")],
        ] {
            assert_eq!(on(&other), None, "{other:?}");
        }
        answer(&earlier, &[user("Hi")], (Role::Small, &["Good day"], &[]));
        assert_eq!(on(&[user("Hi"), assistant("Good day")]), Some((Continued::Conversation, Role::Small)));
    }

    #[test]
    fn results_of_tools_are_known_by_any_of_their_ids_and_only_while_they_come_last() {
        let earlier = Earlier::default();
        answer(&earlier, &[user("sum")], (Role::Large, &[], &["a", "b"]));
        let is_large = Some((Continued::ToolCalls, Role::Large));
        let past = [user("sum, edited since"), calling(&["a", "b"])];
        let with = |rest: &[Message]| found(&earlier, &[&past, rest].concat());
        assert_eq!(with(&[result("a"), result("b")]), is_large);
        assert_eq!(with(&[result("b"), result("unknown")]), is_large);
        assert_eq!(with(&[result("unknown")]), None);
        assert_eq!(with(&[result("a"), user("thanks")]), None);
        let unedited = [user("sum"), calling(&["a", "b"]), result("a"), user("thanks")];
        assert_eq!(found(&earlier, &unedited), Some((Continued::Conversation, Role::Large)));
    }

    #[test]
    fn tenants_share_nothing() {
        let earlier = Earlier::default();
        answer(&earlier, &[user("Hi")], (Role::Large, &["Good day"], &["a"]));
        for past in [[assistant("Good day"), user("And?")], [calling(&["a"]), result("a")]] {
            let messages = [vec![user("Hi")], past.to_vec()].concat();
            assert_eq!(found_for(&earlier, &messages, Some("other")), None, "{messages:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_old_or_too_much_is_forgotten() {
        let earlier = Earlier::default();
        let known = |id: usize| found(&earlier, &[calling(&["x"]), result(&format!("call-{id}"))]).is_some();
        let call = |id: usize| answer(&earlier, &[user("Hi")], (Role::Large, &[], &[&format!("call-{id}")]));
        call(0);
        tokio::time::advance(Duration::from_secs(60 * KEPT_MINUTES - 1)).await;
        assert!(known(0));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!known(0));
        call(1);
        assert_eq!(earlier.lock().roles.len(), 2, "what is over is gone");
        (2..ENTRIES_MAX).for_each(call);
        assert!(earlier.lock().roles.len() <= ENTRIES_MAX && earlier.lock().noted.len() <= ENTRIES_MAX);
        assert!(!known(1) && known(ENTRIES_MAX - 1));
    }
}
