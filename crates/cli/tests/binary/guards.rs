//! Guards that have the small model read: trained, tried on rows, and served.

use serde_json::{Value, json};

use super::fixture::{Ended, Home, Server, tiny};

/// Texts of which those with odd numbers are to be flagged.
fn text(row: usize) -> String {
    let word = if row.is_multiple_of(2) { "the cat sat" } else { "1 2 3 4" };
    format!("{} {word}", "a".repeat(row % 7 + 1))
}

/// A home with a head for its small model, and a configuration with one guard.
fn home(guard: &str) -> (Home, String, String) {
    let home = Home::new();
    let model = home.chat_model("tiny-qwen2");
    let row = |row| json!({"prompt": text(row), "odd": row % 2}).to_string() + "\n";
    let data = home.file("train.jsonl", (0..60).map(row).collect::<String>());
    let args =
        ["train-head", &model, "--data", &data, "--label", "odd", "--as-chat", "--out", "odd.json", "--json"];
    assert!(home.run(&args).json()["auroc"].as_f64().unwrap() > 0.9);
    let config = config(&home, &model, guard);
    (home, model, config)
}

fn config(home: &Home, small: &str, guard: &str) -> String {
    let text = format!(
        "[small]\nmodel = \"{small}\"\n[large]\nmodel = \"{}\"\n[policy]\nkind = \"small\"\n[[guard]]\nname = \"odd\"\n{guard}",
        tiny("tiny-gemma3"),
    );
    home.file("tandem.toml", text)
}

const HEAD: &str = "kind = \"head\"\nhead = \"odd.json\"\naction = \"block\"\ntimeout_ms = 60000\n";

fn lines(ended: &Ended) -> Vec<Value> {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_trained_head_guards_rows_and_says_how_well() {
    let (home, _, config) = home(HEAD);
    let row = |row: usize| match row {
        0 => json!({"messages": [{"role": "user", "content": text(0)}], "label": false}),
        _ => {
            json!({"text": text(row), "label": row % 2 == 1, "channel": if row < 9 { "user" } else { "tool" }})
        }
    };
    let rows = home.file("rows.jsonl", (0..20).map(|n| row(n).to_string() + "\n").collect::<String>());
    let ended = home.run(&["guard", "test", &rows, "--config", &config, "--json"]);
    for (n, line) in lines(&ended).iter().enumerate() {
        assert_eq!((&line["id"], &line["flagged"]), (&json!(n + 1), &json!(n % 2 == 1)), "{line}");
        assert_eq!(line["scores"]["odd"].as_f64().unwrap() >= 0.5, n % 2 == 1, "{line}");
    }
    let summary: Value = serde_json::from_str(ended.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&summary["rows"], &summary["errors"], &summary["auroc"]),
        (&json!(20), &json!(0), &json!(1.0))
    );
    assert_eq!(summary["confusion"]["true_positives"], 10);
    assert!(summary["latency_ms"]["p50"].as_f64().unwrap() > 0.0);
}

#[test]
fn what_can_not_guard_is_refused_at_the_start() {
    let (home, model, _) = home(HEAD);
    let check = |small: &str, guard: &str, words: &str| {
        let config = config(&home, small, guard);
        home.run(&["serve", "--config", &config, "--check"]).assert_fails(2, words);
    };
    check(&home.chat_model("tiny-qwen3"), HEAD, "train the head on this model");
    check(
        &model,
        &HEAD.replace("odd.json", "injection"),
        "no head \"injection\" is shipped for this small model",
    );
    check(&model, &HEAD.replace("block", "redact"), "redact");
    let upstream = home.file(
        "upstream.toml",
        format!("[small]\nurl = \"http://127.0.0.1:9/v1\"\nmodel = \"x\"\n[[guard]]\nname = \"odd\"\n{HEAD}"),
    );
    home.run(&["serve", "--config", &upstream, "--check"]).assert_fails(2, "an upstream can't be read with");
    let gone = config(&home, &model, &HEAD.replace("odd.json", "none.json"));
    home.run(&["serve", "--config", &gone, "--check"]).assert_fails(3, "none.json");
    let config = config(&home, &model, HEAD);
    assert_eq!(home.run(&["serve", "--config", &config, "--check"]).code, Some(0));
    let args = ["chat", "--config", &config, "--model", "large"];
    home.run(&args).assert_fails(2, "a guard has the small model read");
}

fn prompt_tokens(server: &Server) -> u64 {
    let metrics = server.get("/metrics").body;
    let line = "tandem_tokens_total{backend=\"small\",kind=\"prompt\"}";
    metrics.lines().find_map(|one| one.strip_prefix(line)).map_or(0, |value| value.trim().parse().unwrap())
}

#[test]
fn a_served_head_reads_once_for_guard_and_answer() {
    let (home, _, config) = home(HEAD);
    let server = home.serve(&["--config", &config]);
    let chat = |text: &str| json!({"model": "auto", "max_tokens": 4, "messages": [{"role": "user", "content": text}]});
    let answer = server.post("/v1/chat/completions", &chat(&text(2)));
    assert_eq!(answer.status, 200, "{answer:?}");
    let told = answer.json()["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(prompt_tokens(&server), told, "what the guard read is not read again");
    let refused = server.post("/v1/chat/completions", &chat(&text(3)));
    assert_eq!(
        (refused.status, &refused.json()["error"]["tandem"]["guard"]),
        (400, &json!("odd")),
        "{refused:?}"
    );
    let moderated = server.post("/v1/moderations", &json!({"input": [text(4), text(5)]})).json();
    assert_eq!(
        (&moderated["results"][0]["flagged"], &moderated["results"][1]["flagged"]),
        (&json!(false), &json!(true))
    );
    server.terminate();
    assert_eq!(server.wait(), Some(0));
}

#[test]
fn a_topic_is_learnt_from_its_examples() {
    let guard = "kind = \"topic\"\naction = \"flag\"\ntimeout_ms = 60000\n\
                 topics = [{ name = \"digits\", examples = [\"1 2 3 4\", \"4 3 2 1 5\", \"7 7 8 9 1 2\", \"3 3 3 1 2 8 9\"] }]\n";
    let home = Home::new();
    let config = config(&home, &home.chat_model("tiny-qwen2"), guard);
    let rows = home.file("rows.jsonl", "{\"text\":\"2 3 1 4 5\"}\n{\"text\":\"How do I cook rice?\"}\n");
    let scores: Vec<f64> = lines(&home.run(&["guard", "test", &rows, "--config", &config]))
        .iter()
        .map(|line| line["scores"]["odd"].as_f64().unwrap())
        .collect();
    assert!(scores[0] > 0.5 && scores[1] < 0.5, "{scores:?}");
}
