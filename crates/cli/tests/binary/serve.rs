//! `tandem serve` with two tiny models: requests, streams, the report, an upstream, the end.
#![cfg(unix)]

use std::io::Read;
use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};

use crate::fixture::{Home, Server, read, tiny};

const SMALL: &str = "tiny-qwen2";
const LARGE: &str = "tiny-llama-mqa";
/// Tokens of the longest answer here.
const LONG_TOKENS: u32 = 500;
/// Answers until one must have had drafts.
const DRAFTED_ATTEMPTS: usize = 20;
/// Looks into the ledger until a request must be there.
const KEPT_ATTEMPTS: usize = 100;

fn completion(model: &str, stream: bool) -> Value {
    json!({"model": model, "prompt": "the cat sat on", "max_tokens": 12, "temperature": 0, "stream": stream})
}

/// A stream that takes a while, even from a tiny model.
fn long_stream() -> String {
    let mut request = completion("large", true);
    request["max_tokens"] = json!(LONG_TOKENS);
    request.to_string()
}

#[test]
fn a_pair_answers_streams_is_reported_and_drains() {
    let home = Home::new();
    // Slow enough that a stream is still running when the server is asked to end.
    let slow = [("TANDEM_ISA", "scalar"), ("TANDEM_THREADS", "1")];
    let server = home.serve_in(&slow, &["--small", &tiny(SMALL), "--large", &tiny(LARGE)]);
    assert_eq!(server.get("/ready").status, 200);

    let small = server.post("/v1/completions", &completion("small", false));
    assert_eq!((small.status, small.header("x-tandem-model")), (200, Some(SMALL)), "{small:?}");
    let large = server.post("/v1/completions", &completion("large", false));
    assert_eq!(
        (large.header("x-tandem-route"), large.header("x-tandem-model")),
        (Some("large"), Some(LARGE))
    );
    let text = |answer: &Value| answer["choices"][0]["text"].as_str().unwrap().to_owned();
    assert!(!text(&large.json()).is_empty());
    assert!(small.json()["usage"]["completion_tokens"].as_u64().unwrap() > 0);

    let auto = server.post("/v1/completions", &completion("auto", false));
    assert!(auto.header("x-tandem-confidence").is_some(), "{auto:?}");
    // Greedy, so whoever answered gives what it gave when it was asked by name.
    let model = auto.header("x-tandem-model").unwrap();
    assert_eq!(text(&auto.json()), text(&if model == SMALL { small.json() } else { large.json() }));

    let chat = json!({"model": "small", "messages": [{"role": "user", "content": "hi"}]});
    let refused = server.post("/v1/chat/completions", &chat);
    assert_eq!(refused.status, 400, "{refused:?}");

    // A stream that has begun is finished although the server is asked to end.
    let mut stream = server.send("POST", "/v1/completions", &long_stream());
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    server.terminate();
    let ready = std::iter::repeat_with(|| server.get("/ready")).find(|ready| ready.status != 200).unwrap();
    assert_eq!(ready.json()["status"], "draining", "{ready:?}");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: [DONE]"), "{rest}");
    assert_eq!(server.wait(), Some(0));

    let report = home.run(&["report", "--json"]).json();
    assert_eq!((&report["requests"], &report["errors"]), (&json!(5), &json!(1)), "{report}");
}

#[test]
fn the_large_role_may_be_another_server() {
    let (home, other) = (Home::new(), Home::new());
    let upstream = other.serve(&["--small", &tiny(SMALL), "--large", &tiny(LARGE)]);
    let args = ["--small", &tiny(SMALL), "--large", &upstream.url, "--large-model", LARGE];
    let server = home.serve(&args);
    let answer = server.post("/v1/completions", &completion("large", false));
    assert_eq!((answer.status, answer.header("x-tandem-model")), (200, Some(LARGE)), "{answer:?}");
    let direct = upstream.post("/v1/completions", &completion(LARGE, false));
    assert_eq!(answer.json()["choices"], direct.json()["choices"]);
    let streamed = read(server.send("POST", "/v1/completions", &completion("large", true).to_string()));
    assert!(streamed.body.contains("[DONE]"), "{streamed:?}");
}

#[test]
fn what_can_not_be_served_ends_with_the_right_code() {
    let home = Home::new();
    let (small, large) = (tiny(SMALL), tiny(LARGE));
    let pair = ["--small", &small, "--large", &large];
    let fails = |args: &[&str], code, words| {
        let all: Vec<&str> = ["serve", "--listen", "127.0.0.1:0"].iter().chain(args).copied().collect();
        home.run(&all).assert_fails(code, words);
    };
    fails(&["--small", "no/such.gguf"], 3, "small.model");
    fails(&["--large", "http://127.0.0.1:9/v1"], 3, "can't ask http://127.0.0.1:9/v1 for its model");
    fails(&["--config", "no/such.toml"], 3, "no/such.toml");
    fails(&[pair.as_slice(), &["--memory", "1MiB"]].concat(), 2, "the memory budget is 1 MiB");
    fails(&[pair.as_slice(), &["--policy", "casacde"]].concat(), 2, "casacde");
    // Found out in the background, when the address is bound already.
    let broken = home.file("broken.gguf", "GGUF, it says");
    fails(&["--small", &small, "--large", &broken], 1, "broken.gguf");
    // The default pair can't be fetched here.
    fails(&[], 1, "could not be fetched from any source");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = home.run(&["serve", "--small", &small, "--large", &large, "--listen", &address]);
    ended.assert_fails(1, &address);
}

#[test]
fn check_prints_the_effective_settings_without_secrets() {
    let home = Home::new();
    let file = format!(
        "[server]\napi_keys = [\"sk-secret\"]\nlisten = \"127.0.0.1:1\"\n[small]\nmodel = {:?}\n",
        tiny(SMALL)
    );
    home.file("tandem.toml", file);
    let ended = home.run(&["serve", "--check", "--large", &tiny(LARGE), "--listen", "127.0.0.1:2"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for words in
        ["[server]", "listen = \"127.0.0.1:2\"", "api_keys = [\"***\"]", "tiny-llama-mqa", "confidence_min"]
    {
        assert!(ended.stdout.contains(words), "{words}: {}", ended.stdout);
    }
    assert!(!format!("{ended:?}").contains("sk-secret"));
    let shown = home.run(&["serve", "--check", "--json"]).json();
    assert_eq!(shown["server"]["listen"], "127.0.0.1:1");
    assert!(shown["memory"].is_null(), "the default large model is not here: {shown}");
    let pair = ["serve", "--check", "--large", &tiny(LARGE), "--memory", "300MiB"];
    let ended = home.run(&pair);
    for part in ["weights_small", "kv_large", "working_small", "http", "ledger", "process", "budget"] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
    let shown = home.run(&[pair.as_slice(), &["--json"]].concat()).json();
    let memory = shown["memory"].as_object().unwrap();
    assert_eq!(memory["budget"], 300 << 20);
    let parts = memory.iter().filter(|(part, _)| *part != "budget");
    assert!(parts.map(|(_, bytes)| bytes.as_u64().unwrap()).sum::<u64>() <= 300 << 20, "{shown}");
    home.file("tandem.toml", "[server]\nlisen = \"x\"");
    home.run(&["serve", "--check"]).assert_fails(2, "did you mean `listen`?");
}

/// The text of a streamed answer, and of its tokens how many drafted ones were accepted and rejected, which
/// `/v1/requests/{id}` must tell too.
fn drafted(server: &Server, path: &str, speculative: bool) -> (String, (u64, u64)) {
    let mut request = completion("large", true);
    request["max_tokens"] = json!(120);
    request["messages"] = json!([{"role": "user", "content": "the cat sat on"}]);
    request["stream_options"] = json!({"include_usage": true});
    request["tandem"] = json!({"speculative": speculative});
    let answer = read(server.send("POST", path, &request.to_string()));
    let chunks = answer.body.lines().filter_map(|line| line.strip_prefix("data: {"));
    let chunks: Vec<Value> = chunks.map(|rest| serde_json::from_str(&format!("{{{rest}")).unwrap()).collect();
    let piece = |chunk: &Value| {
        let choice = &chunk["choices"][0];
        choice["text"].as_str().or(choice["delta"]["content"].as_str()).map(str::to_owned)
    };
    let usage = chunks.iter().map(|chunk| &chunk["usage"]).find(|usage| usage.is_object()).unwrap();
    let details = &usage["completion_tokens_details"];
    let names = ["accepted_prediction_tokens", "rejected_prediction_tokens"];
    let counts = names.map(|name| details[name].as_u64().unwrap());
    let id = answer.header("x-tandem-request-id").unwrap();
    let kept = std::iter::repeat_with(|| server.get(&format!("/v1/requests/{id}")))
        .take(KEPT_ATTEMPTS)
        .inspect(|_| std::thread::sleep(Duration::from_millis(20)))
        .find(|kept| kept.status == 200)
        .unwrap();
    let attempt = kept.json()["attempts"][0]["usage"].clone();
    assert_eq!(names.map(|name| attempt[name].as_u64().unwrap()), counts);
    (chunks.iter().filter_map(piece).collect(), (counts[0], counts[1]))
}

/// A draft model whose vocabulary is the large one's: the same model.
#[test]
fn drafts_change_no_text_and_are_told_everywhere() {
    let home = Home::new();
    let (small, large) = (tiny(SMALL), home.chat_model(SMALL));
    let server = home.serve(&["--small", &small, "--large", &large]);
    let ready = server.get("/ready").json();
    let drafters = |role: usize| ready["backends"][role]["speculative"]["drafters"].clone();
    assert_eq!(drafters(0), json!([{"name": "prompt-lookup"}]), "{ready}");
    assert_eq!(drafters(1), json!([{"name": "prompt-lookup"}, {"name": "model"}]), "{ready}");

    let mut counted = (0, 0);
    for path in ["/v1/completions", "/v1/chat/completions"] {
        let plain = drafted(&server, path, false);
        assert_eq!(plain.1, (0, 0), "{plain:?}");
        let before = counted;
        // What a step costs decides about drafts, so one answer may have none.
        for _ in 0..DRAFTED_ATTEMPTS {
            let (text, (accepted, rejected)) = drafted(&server, path, true);
            assert_eq!(text, plain.0);
            counted = (counted.0 + accepted, counted.1 + rejected);
            if counted.0 > before.0 {
                break;
            }
        }
        assert!(counted.0 > before.0, "the same model drafts nothing that is right: {counted:?}");
    }
    let metrics = server.get("/metrics").body;
    for line in [
        format!("tandem_draft_tokens_total{{outcome=\"accepted\"}} {}", counted.0),
        format!("tandem_draft_tokens_total{{outcome=\"rejected\"}} {}", counted.1),
        format!("tandem_drafter_active{{drafter=\"model\",model=\"{SMALL}-chat\"}} 1"),
    ] {
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
    server.terminate();
    assert_eq!(server.wait(), Some(0));
    let totals = home.run(&["report", "--json"]).json()["totals"].clone();
    let told = ["accepted_prediction_tokens", "rejected_prediction_tokens"].map(|name| totals[name].clone());
    assert_eq!(told, [json!(counted.0), json!(counted.1)]);
}

#[test]
fn a_draft_model_must_have_the_same_vocabulary() {
    let home = Home::new();
    let (small, large) = (tiny(SMALL), tiny(LARGE));
    let pair = ["--small", &small, "--large", &large];
    let server = home.serve(&pair);
    let ready = server.get("/ready").json();
    let drafters = &ready["backends"][1]["speculative"]["drafters"];
    assert_eq!(drafters[0], json!({"name": "prompt-lookup"}));
    let why = drafters[1]["idle"].as_str().unwrap();
    assert!(why.contains("vocabularies differ: token "), "{ready}");
    let metrics = server.get("/metrics").body;
    let line = format!("tandem_drafter_active{{drafter=\"model\",model=\"{LARGE}\"}} 0");
    assert!(metrics.contains(&line), "{metrics}");

    let off = home.serve(&[pair.as_slice(), &["--speculative", "false"]].concat());
    let ready = off.get("/ready").json();
    assert_eq!(ready["backends"][1]["speculative"], json!({"enabled": false}), "{ready}");

    let config = home.file("drafts.toml", "[speculative]\ndrafter = \"chain\"\n");
    let refused = |args: &[&str], words| {
        let all = [&["serve", "--listen", "127.0.0.1:0", "--config", &config], args].concat();
        home.run(&all).assert_fails(2, words);
    };
    refused(&pair, "tiny-qwen2 can't draft for tiny-llama-mqa: their vocabularies differ: token ");
    refused(&["--small", &small, "--large", "http://127.0.0.1:9/v1"], "only small is local");
}

#[test]
fn a_third_model_may_draft_for_the_large_one() {
    let home = Home::new();
    let (small, large) = (tiny(SMALL), tiny(LARGE));
    let draft = home.file("draft.gguf", std::fs::read(&large).unwrap());
    let config = home.file("drafts.toml", format!("[speculative]\nmodel = {draft:?}\n"));
    let args = ["--config", &config, "--small", &small, "--large", &large];
    let shown = home.run(&[&["serve", "--check", "--json", "--memory", "300MiB"], args.as_slice()].concat());
    let shown = shown.json();
    assert!(shown["memory"]["weights_draft"].as_u64().unwrap() > 0, "{shown}");
    let server = home.serve(&args);
    let ready = server.get("/ready").json();
    assert_eq!(ready["backends"].as_array().unwrap().len(), 2, "{ready}");
    assert_eq!(ready["backends"][1]["speculative"]["drafters"][1], json!({"name": "model"}), "{ready}");
    let drafted = server.post("/v1/completions", &completion("large", false)).json();
    let other = home.serve(&["--small", &small, "--large", &large, "--speculative", "false"]);
    let plain = other.post("/v1/completions", &completion("large", false)).json();
    assert_eq!(drafted["choices"], plain["choices"]);
}
