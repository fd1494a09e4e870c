//! `tandem replay` over a ledger that a server of two tiny models has written.
#![cfg(unix)]

use serde_json::{Value, json};

use crate::fixture::{Home, tiny};

/// Requests that the policy decides.
const DECIDED: usize = 3;

/// A configuration: the pair with its prices, and a policy.
fn config(home: &Home, name: &str, policy: &str) -> String {
    let role = |role: &str, model: &str, usd: f64| {
        let price = format!("price = {{ input_usd_per_mtok = {usd}, output_usd_per_mtok = {usd} }}");
        format!("[{role}]\nmodel = {:?}\n{price}\n", tiny(model))
    };
    let pair = role("small", "tiny-qwen2", 1.0) + &role("large", "tiny-llama-mqa", 10.0);
    home.file(name, format!("{pair}[policy]\n{policy}\n"))
}

fn ask(model: &str, prompt: &str) -> Value {
    json!({"model": model, "prompt": prompt, "max_tokens": 4, "temperature": 0})
}

#[test]
fn recorded_requests_are_decided_again_by_other_policies() {
    let home = Home::new();
    // Whatever small writes is good enough.
    let live = config(&home, "live.toml", "confidence_min = 0.0");
    let server = home.serve(&["--config", &live]);
    for index in 0..DECIDED {
        let answer = server.post("/v1/completions", &ask("auto", &"the cat ".repeat(index + 1)));
        assert_eq!((answer.status, answer.header("x-tandem-route")), (200, Some("small")), "{answer:?}");
        if index == 0 {
            let id = answer.json()["id"].clone();
            let judged = server.post("/v1/feedback", &json!({"id": id, "score": 0.5}));
            assert_eq!(judged.status, 200, "{judged:?}");
        }
    }
    // Whom the client names answers under any policy.
    assert_eq!(server.post("/v1/completions", &ask("large", "the dog")).status, 200);
    server.terminate();
    assert_eq!(server.wait(), Some(0));

    let replay = |policy: &str| home.run(&["replay", "--policy", policy, "--json"]).json();
    let all = DECIDED as u64 + 1;
    let same = replay(&live);
    assert_eq!((&same["requests"], &same["differ"], &same["estimated"]), (&json!(all), &json!(0), &json!(0)));
    assert_eq!(same["recorded"], same["replayed"], "{same}");
    assert_eq!((&same["recorded"]["small"], &same["recorded"]["large"]), (&json!(DECIDED), &json!(1)));
    assert_eq!(same["recorded"]["feedback_mean"], 0.5);

    // Nothing is good enough: large is called after small, at what the ledger says it would have cost.
    let strict = replay(&config(&home, "strict.toml", "confidence_min = 1.0"));
    let changes = json!([{"recorded": "small", "replayed": "escalated", "requests": DECIDED}]);
    assert_eq!((&strict["changes"], &strict["estimated"]), (&changes, &json!(DECIDED)), "{strict}");
    let usd = |column: &str, figure: &str| strict[column][figure].as_f64().unwrap();
    assert!(usd("replayed", "cost_usd") > usd("recorded", "cost_usd"), "{strict}");
    assert!(usd("recorded", "saved_usd") > 0.0 && usd("replayed", "saved_usd") < 0.0, "{strict}");
    // What small's answer got says nothing about large's.
    assert_eq!(strict["replayed"]["feedback_requests"], 0);

    let large = config(&home, "large.toml", "kind = \"large\"");
    let found = replay(&large);
    assert_eq!((&found["replayed"]["large"], &found["undecided"]), (&json!(all), &json!(0)), "{found}");
    let table = home.run(&["replay", "--policy", &large]);
    assert!(table.code == Some(0) && table.stdout.contains("small → large: 3"), "{table:?}");
    let recent = home.run(&["replay", "--policy", &large, "--since", "1h", "--json"]).json();
    assert_eq!(recent["requests"], all);
}

#[test]
fn what_can_not_be_replayed_is_named() {
    let home = Home::new();
    let policy = config(&home, "other.toml", "kind = \"large\"");
    home.run(&["replay", "--policy", &policy]).assert_fails(3, "ledger.db");
    home.run(&["replay", "--policy", "no/such.toml"]).assert_fails(3, "no/such.toml");
}
