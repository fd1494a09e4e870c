//! How clients behave: a function each, listed in [`BEHAVIOURS`]. Who leaves early has nothing to
//! complain of; who stays complains of a wrong answer.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::client::{Answer, Client, rest, send, told};
use crate::world::{BODY_BYTES_MAX, CONTEXT_TOKENS};

type Ended = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

type Behaviour = fn(Client) -> Ended;

/// Name and function of each.
pub const BEHAVIOURS: &[(&str, Behaviour)] = &[
    ("reads everything", |client| Box::pin(reads_everything(client))),
    ("reads everything slowly", |client| Box::pin(reads_slowly(client))),
    ("sends its body in drips", |client| Box::pin(sends_slowly(client))),
    ("connects and leaves", |client| Box::pin(connects(client))),
    ("leaves in the head", |client| Box::pin(leaves_in_the_head(client))),
    ("leaves in the body", |client| Box::pin(leaves_in_the_body(client))),
    ("leaves while it waits", |client| Box::pin(leaves_while_it_waits(client))),
    ("leaves in mid-stream", |client| Box::pin(leaves_in_mid_stream(client))),
    ("leaves after the last event", |client| Box::pin(leaves_after_the_last_event(client))),
    ("closes its half", |client| Box::pin(closes_its_half(client))),
    ("never reads", |client| Box::pin(never_reads(client))),
    ("asks twice at once", |client| Box::pin(asks_twice_at_once(client))),
    ("asks twice at once and leaves", |client| Box::pin(asks_twice_and_leaves(client))),
    ("asks again and again", |client| Box::pin(asks_again(client))),
    ("has a deadline of 1 ms", |client| Box::pin(has_no_time(client))),
    ("sends too much", |client| Box::pin(sends_too_much(client))),
    ("sends nonsense", |client| Box::pin(sends_nonsense(client))),
    ("asks what can't be answered", |client| Box::pin(asks_the_impossible(client))),
    ("looks at the figures", |client| Box::pin(looks_around(client))),
];

/// Leaves without a word, or with a reset.
fn leave(client: &mut Client, stream: TcpStream) {
    if client.random.one_in(2) {
        // Then it is an ordinary end instead, which is as good.
        let _ = stream.set_zero_linger();
    }
    drop(stream);
}

async fn pause(client: &mut Client, ms_max: usize) {
    sleep(Duration::from_millis(client.random.below(ms_max) as u64)).await;
}

async fn reads_everything(mut client: Client) -> Result<(), String> {
    let question = client.question();
    let mut stream = client.connect().await?;
    stream.write_all(&client.last(&question.body)).await.map_err(told)?;
    client.judge(&question, &rest(&mut stream).await?)
}

async fn reads_slowly(mut client: Client) -> Result<(), String> {
    let question = client.question();
    let mut stream = client.connect().await?;
    stream.write_all(&client.last(&question.body)).await.map_err(told)?;
    let mut bytes = Vec::new();
    let mut piece = [0; 600];
    loop {
        let read = stream.read(&mut piece).await.map_err(told)?;
        if read == 0 {
            return client.judge(&question, &bytes);
        }
        bytes.extend(&piece[..read]);
        pause(&mut client, 6).await;
    }
}

async fn sends_slowly(mut client: Client) -> Result<(), String> {
    let question = client.question();
    let mut stream = client.connect().await?;
    for piece in client.last(&question.body).chunks(40) {
        stream.write_all(piece).await.map_err(told)?;
        pause(&mut client, 4).await;
    }
    client.judge(&question, &rest(&mut stream).await?)
}

async fn connects(mut client: Client) -> Result<(), String> {
    let stream = client.connect().await?;
    pause(&mut client, 50).await;
    leave(&mut client, stream);
    Ok(())
}

async fn leaves_in_the_head(mut client: Client) -> Result<(), String> {
    let question = client.question();
    let bytes = client.last(&question.body);
    let cut = client.random.below(bytes.len() - question.body.len());
    sends_a_part(&mut client, &bytes[..cut]).await
}

async fn leaves_in_the_body(mut client: Client) -> Result<(), String> {
    let question = client.question();
    let bytes = client.last(&question.body);
    let cut = bytes.len() - 1 - client.random.below(question.body.len());
    sends_a_part(&mut client, &bytes[..cut]).await
}

async fn sends_a_part(client: &mut Client, bytes: &[u8]) -> Result<(), String> {
    let mut stream = client.connect().await?;
    send(&mut stream, bytes).await;
    pause(client, 30).await;
    leave(client, stream);
    Ok(())
}

/// In the queue, or while the prompt is read.
async fn leaves_while_it_waits(mut client: Client) -> Result<(), String> {
    let question = client.question();
    let bytes = client.last(&question.body);
    sends_a_part(&mut client, &bytes).await
}

async fn leaves_in_mid_stream(mut client: Client) -> Result<(), String> {
    let question = client.ask(CONTEXT_TOKENS / 2, true);
    let mut stream = client.connect().await?;
    send(&mut stream, &client.last(&question.body)).await;
    let mut bytes = vec![0; 1 + client.random.below(6000)];
    // It may be over before.
    let _ = stream.read_exact(&mut bytes).await;
    leave(&mut client, stream);
    Ok(())
}

async fn leaves_after_the_last_event(mut client: Client) -> Result<(), String> {
    let question = client.ask(8, true);
    let mut stream = client.connect().await?;
    send(&mut stream, &client.bytes(&question.body, "")).await;
    let mut bytes = Vec::new();
    let mut piece = [0; 4000];
    let last: [&[u8]; 3] = [b"data: [DONE]\n\n", b"event: error\n", b"{\"error\""];
    while !last.iter().any(|last| bytes.windows(last.len()).any(|window| window == *last)) {
        match stream.read(&mut piece).await {
            Ok(0) => return Err(format!("no last event: {:?}", String::from_utf8_lossy(&bytes))),
            Ok(read) => bytes.extend(&piece[..read]),
            Err(error) => return Err(told(error)),
        }
    }
    leave(&mut client, stream);
    Ok(())
}

/// The server takes this for leaving, so there may be no answer.
async fn closes_its_half(mut client: Client) -> Result<(), String> {
    let question = client.question();
    let mut stream = client.connect().await?;
    send(&mut stream, &client.last(&question.body)).await;
    pause(&mut client, 10).await;
    let _ = stream.shutdown().await;
    let _ = rest(&mut stream).await;
    Ok(())
}

async fn never_reads(mut client: Client) -> Result<(), String> {
    let question = client.ask(CONTEXT_TOKENS / 2, true);
    let mut stream = client.connect().await?;
    send(&mut stream, &client.last(&question.body)).await;
    pause(&mut client, 400).await;
    leave(&mut client, stream);
    Ok(())
}

/// Two requests in one piece; the answers come in order.
async fn asks_twice_at_once(mut client: Client) -> Result<(), String> {
    let (first, second) = (client.ask(4, false), client.question());
    let bytes = [client.bytes(&first.body, "x-request-id: same\r\n"), client.last(&second.body)].concat();
    let mut stream = client.connect().await?;
    stream.write_all(&bytes).await.map_err(told)?;
    let bytes = rest(&mut stream).await?;
    let head = Answer::read(&bytes)?;
    let length: usize = head.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let at = bytes.len() - head.body.len() + length;
    let (one, two) = bytes.split_at_checked(at).ok_or("the first answer broke off")?;
    client.judge(&first, one)?;
    client.judge(&second, two)
}

async fn asks_twice_and_leaves(mut client: Client) -> Result<(), String> {
    let (first, second) = (client.question(), client.question());
    let bytes = [client.bytes(&first.body, "x-request-id: same\r\n"), client.last(&second.body)].concat();
    sends_a_part(&mut client, &bytes).await
}

/// Several requests over one connection, the last of which it may not wait for.
async fn asks_again(mut client: Client) -> Result<(), String> {
    let mut stream = client.connect().await?;
    for _ in 0..1 + client.random.below(4) {
        let question = client.ask(4, false);
        stream.write_all(&client.bytes(&question.body, "x-request-id: same\r\n")).await.map_err(told)?;
        let bytes = one_answer(&mut stream).await?;
        client.judge(&question, &bytes)?;
        pause(&mut client, 20).await;
    }
    leave(&mut client, stream);
    Ok(())
}

/// An answer that says its length.
async fn one_answer(stream: &mut TcpStream) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4000];
    loop {
        if let Ok(answer) = Answer::read(&bytes) {
            let length = answer.header("content-length").and_then(|length| length.parse::<usize>().ok());
            if length.ok_or("an answer without its length")? == answer.body.len() {
                return Ok(bytes);
            }
        }
        match stream.read(&mut piece).await.map_err(told)? {
            0 => return Err(format!("broke off: {:?}", String::from_utf8_lossy(&bytes))),
            read => bytes.extend(&piece[..read]),
        }
    }
}

async fn has_no_time(mut client: Client) -> Result<(), String> {
    let stream = client.random.one_in(2);
    let question = client.ask(CONTEXT_TOKENS / 2, stream);
    let mut stream = client.connect().await?;
    let headers = "connection: close\r\nx-tandem-deadline-ms: 1\r\n";
    stream.write_all(&client.bytes(&question.body, headers)).await.map_err(told)?;
    client.judge(&question, &rest(&mut stream).await?)
}

/// With its length in the head or without; it may stay for the answer or not.
async fn sends_too_much(mut client: Client) -> Result<(), String> {
    let body = " ".repeat(BODY_BYTES_MAX + 1 + client.random.below(BODY_BYTES_MAX));
    let bytes = match client.random.one_in(2) {
        true => client.last(&body),
        false => {
            let head = client.last("");
            let head =
                String::from_utf8_lossy(&head).replace("content-length: 0", "transfer-encoding: chunked");
            format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).into_bytes()
        }
    };
    if client.random.one_in(3) {
        let cut = client.random.below(bytes.len());
        return sends_a_part(&mut client, &bytes[..cut]).await;
    }
    let mut stream = client.connect().await?;
    send(&mut stream, &bytes).await;
    expect(&rest(&mut stream).await?, &[413])
}

async fn sends_nonsense(mut client: Client) -> Result<(), String> {
    let question = client.question();
    let mut bytes = client.last(&question.body);
    let damaged = match client.random.below(4) {
        0 => client.last("{\"prompt\": \"no end"),
        1 => client.last("[1, 2, 3]"),
        2 => (0..200).map(|_| client.random.below(256) as u8).collect(),
        _ => {
            for _ in 0..1 + client.random.below(5) {
                let at = client.random.below(bytes.len());
                bytes[at] = client.random.below(256) as u8;
            }
            bytes
        }
    };
    let mut stream = client.connect().await?;
    send(&mut stream, &damaged).await;
    // Damage may leave the server waiting for more, so it does not wait for ever itself; and what is left
    // may be a request like any other.
    let _ = timeout(Duration::from_millis(300), rest(&mut stream)).await;
    leave(&mut client, stream);
    Ok(())
}

async fn asks_the_impossible(mut client: Client) -> Result<(), String> {
    let long = "word ".repeat(CONTEXT_TOKENS as usize * 3);
    let (body, statuses): (String, &[u16]) = match client.random.below(4) {
        0 => (format!("{{\"prompt\": \"{long}\", \"model\": \"small\"}}"), &[413, 408, 429]),
        1 => ("{\"prompt\": \"\", \"model\": \"small\"}".to_owned(), &[400, 408, 429]),
        2 => ("{\"prompt\": \"x\", \"model\": \"nobody\"}".to_owned(), &[404]),
        _ => ("{\"prompt\": \"x\", \"temperature\": -1}".to_owned(), &[400]),
    };
    let mut stream = client.connect().await?;
    stream.write_all(&client.last(&body)).await.map_err(told)?;
    expect(&rest(&mut stream).await?, statuses)
}

async fn looks_around(mut client: Client) -> Result<(), String> {
    let path = ["/health", "/ready", "/metrics", "/dashboard.json", "/v1/models", "/nowhere"]
        [client.random.below(6)];
    let bytes =
        String::from_utf8_lossy(&client.last("")).replace("POST /v1/completions", &format!("GET {path}"));
    let mut stream = client.connect().await?;
    stream.write_all(bytes.as_bytes()).await.map_err(told)?;
    expect(&rest(&mut stream).await?, &[200, 404])
}

fn expect(bytes: &[u8], statuses: &[u16]) -> Result<(), String> {
    let answer = Answer::read(bytes)?;
    if statuses.contains(&answer.status) {
        return Ok(());
    }
    Err(format!("got {} {}", answer.status, String::from_utf8_lossy(&answer.body)))
}
