//! What all clients have: a source of chance, a question, a connection, and a judgement of the answer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The keys that the server knows, each another tenant's.
pub const KEYS: [&str; 3] = ["sk-one", "sk-two", "sk-three"];
/// What is asked; the answers to these are known.
pub const PROMPTS: [&str; 4] =
    ["the cat sat on", "once upon a time", "a b c", "hello world and all that is in it"];
/// Tokens of a known answer.
pub const KNOWN_TOKENS: u64 = 24;

/// SplitMix64: the same numbers for the same seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub fn one_in(&mut self, number: usize) -> bool {
        self.below(number) == 0
    }
}

/// What is known of right answers and of requests that must be in the ledger.
#[derive(Default)]
pub struct Known {
    /// By prompt, the greedy answer of [`KNOWN_TOKENS`].
    pub texts: HashMap<&'static str, String>,
    /// Ids of requests whose answers say who answered or refused.
    pub ids: Mutex<Vec<String>>,
}

/// One request.
pub struct Question {
    pub prompt: &'static str,
    pub stream: bool,
    pub tokens: u64,
    pub body: String,
}

/// A client with its own chance.
pub struct Client {
    address: SocketAddr,
    pub random: Random,
    known: Arc<Known>,
}

/// What a complaint says of an error.
pub fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Client {
    pub fn new(address: SocketAddr, random: Random, known: Arc<Known>) -> Self {
        Client { address, random, known }
    }

    pub async fn connect(&self) -> Result<TcpStream, String> {
        TcpStream::connect(self.address).await.map_err(told)
    }

    /// A question of any kind.
    pub fn question(&mut self) -> Question {
        let tokens = if self.random.one_in(3) { 1 + self.random.below(60) as u64 } else { KNOWN_TOKENS };
        let stream = !self.random.one_in(3);
        self.ask(tokens, stream)
    }

    pub fn ask(&mut self, tokens: u64, stream: bool) -> Question {
        let prompt = PROMPTS[self.random.below(PROMPTS.len())];
        let priority = if self.random.one_in(4) { "background" } else { "interactive" };
        let body = json!({
            "model": "small", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": stream,
            "tandem": {"priority": priority},
        });
        Question { prompt, stream, tokens, body: body.to_string() }
    }

    /// The bytes of a request, `headers` (each with its line's end) included.
    pub fn bytes(&mut self, body: &str, headers: &str) -> Vec<u8> {
        let key = KEYS[self.random.below(KEYS.len())];
        let head = format!(
            "POST /v1/completions HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {key}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n{headers}\r\n",
            self.address,
            body.len()
        );
        [head.as_bytes(), body.as_bytes()].concat()
    }

    /// The bytes of a request after whose answer the connection closes.
    pub fn last(&mut self, body: &str) -> Vec<u8> {
        self.bytes(body, "connection: close\r\n")
    }

    /// The text of an answer that is not streamed.
    pub async fn text(&mut self, body: &str) -> Result<String, String> {
        let mut stream = self.connect().await?;
        stream.write_all(&self.last(body)).await.map_err(told)?;
        let answer = Answer::read(&rest(&mut stream).await?)?;
        answer.whole()?.ok_or_else(|| String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// Complains of an answer that is not right for the question. Refusals for want of places or time
    /// are right.
    pub fn judge(&self, question: &Question, bytes: &[u8]) -> Result<(), String> {
        let answer = Answer::read(bytes)?;
        if let (Some(id), Some(_)) = (answer.header("x-tandem-request-id"), answer.header("x-tandem-route")) {
            self.known.ids.lock().unwrap().push(id.to_owned());
        }
        match answer.status {
            200 => {}
            408 => return Ok(()),
            429 if answer.header("retry-after").is_some() => return Ok(()),
            _ => return Err(format!("got {}", String::from_utf8_lossy(bytes))),
        }
        let text = if question.stream { answer.streamed()? } else { answer.whole()? };
        match (text, self.known.texts.get(question.prompt)) {
            (Some(text), Some(right)) if question.tokens == KNOWN_TOKENS && text != *right => {
                Err(format!("got {text:?} instead of {right:?}"))
            }
            _ => Ok(()),
        }
    }
}

/// An answer that was read to its end.
pub struct Answer {
    pub status: u16,
    head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let shown = || format!("no HTTP: {:?}", String::from_utf8_lossy(bytes));
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(shown)?;
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(shown)?;
        let rest = &bytes[end + 4..];
        let body = if head.contains("transfer-encoding: chunked") { dechunked(rest)? } else { rest.to_vec() };
        Ok(Answer { status, head, body })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn whole(&self) -> Result<Option<String>, String> {
        let value: Value = serde_json::from_slice(&self.body).map_err(told)?;
        Ok(value["choices"][0]["text"].as_str().map(str::to_owned))
    }

    /// `None` if it ended with an error, as when a deadline passes in mid-answer.
    fn streamed(&self) -> Result<Option<String>, String> {
        let body = String::from_utf8_lossy(&self.body);
        if body.contains("event: error\n") {
            return Ok(None);
        }
        if !body.ends_with("data: [DONE]\n\n") {
            return Err(format!("the stream broke off: {body:?}"));
        }
        let events = body.lines().filter_map(|line| line.strip_prefix("data: {"));
        let text = events.map(|event| {
            let event: Value = serde_json::from_str(&format!("{{{event}")).map_err(told)?;
            Ok(event["choices"][0]["text"].as_str().unwrap_or_default().to_owned())
        });
        text.collect::<Result<String, String>>().map(Some)
    }
}

fn dechunked(mut bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    loop {
        let broken = || format!("a chunk broke off after {} bytes", content.len());
        let end = bytes.windows(2).position(|two| two == b"\r\n").ok_or_else(broken)?;
        let size = std::str::from_utf8(&bytes[..end]).map_err(told)?;
        let size = usize::from_str_radix(size, 16).map_err(told)?;
        if size == 0 {
            return Ok(content);
        }
        let chunk = bytes.get(end + 2..end + 2 + size).ok_or_else(broken)?;
        content.extend(chunk);
        bytes = bytes.get(end + 4 + size..).unwrap_or_default();
    }
}

/// All that still comes.
pub async fn rest(stream: &mut TcpStream) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.map_err(told)?;
    Ok(bytes)
}

/// Sends as much as the server wants to have.
pub async fn send(stream: &mut TcpStream, bytes: &[u8]) {
    // A server that has answered already may have closed the connection.
    let _ = stream.write_all(bytes).await;
}
