//! `tandem eval` on tiny models: outcomes, summaries, going on with a run, and what it refuses.

use serde_json::Value;

use crate::fixture::{Home, tiny};

const ROWS: &str = r#"{"id":"a","prompt":"the cat","check":{"kind":"regex","answer":"(?s).*"},"task":"any","max_tokens":3}
{"id":"b","prompt":"the dog","check":{"kind":"exact","answer":"never said"},"task":"none","max_tokens":200}
{"id":"c","prompt":"a hat","check":{"kind":"contains","answer":"never said"},"task":"none"}
"#;
const LABELS: &str = r#"{"prompt":"x","subject":"law","small_correct":false,"large_correct":true}"#;

fn outcomes(home: &Home, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(home.path(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_run_is_summed_up_and_goes_on_where_it_was() {
    let home = Home::new();
    let (small, large) = (home.chat_model("tiny-qwen2"), home.chat_model("tiny-llama-mha"));
    let rows = home.file("rows.jsonl", ROWS);
    let args = [
        "eval",
        "--task",
        &rows,
        "--small",
        &small,
        "--large",
        &large,
        "--out",
        "o.jsonl",
        "--max-tokens",
        "4",
        "--layers",
        "none",
        "--context",
        "64",
        "--json",
    ];
    let first = home.run(&[&args[..], &["--limit", "1", "--backend", "small"]].concat()).json();
    assert_eq!(
        (&first["rows"], &first["small"]["correct"], &first["large"]),
        (&1.into(), &1.into(), &Value::Null)
    );
    // A line that a crash has torn.
    let torn = std::fs::read_to_string(home.path("o.jsonl")).unwrap() + "{\"id\":\"b\",\"backe";
    std::fs::write(home.path("o.jsonl"), torn).unwrap();
    let summary = home.run(&args).json();
    for role in ["small", "large"] {
        assert_eq!((&summary[role]["rows"], &summary[role]["correct"]), (&3.into(), &1.into()), "{summary}");
        assert_eq!(summary[role]["tasks"]["any"]["accuracy"], 1.0);
    }
    let lines = outcomes(&home, "o.jsonl");
    assert_eq!(lines.len(), 6);
    for line in &lines {
        let most = if line["id"] == "a" { 3 } else { 4 };
        let written = line["tokens"]["completion_tokens"].as_u64().unwrap();
        assert!(written <= most && line["output"].is_string(), "{line}");
        assert_eq!(line["signals"]["tokens"], line["tokens"]["completion_tokens"], "{line}");
        assert!(line["signals"]["entropy_sum"].as_f64().unwrap() > 0.0, "{line}");
    }
    // All of it is there: nothing is asked, nothing is added.
    assert_eq!(home.run(&args).json(), summary);
    assert_eq!(outcomes(&home, "o.jsonl").len(), 6);
    // Another model's outcomes do not belong into it.
    let other =
        home.run(&["eval", "--task", &rows, "--small", &large, "--backend", "small", "--out", "o.jsonl"]);
    other.assert_fails(2, "give another file with --out");
}

#[test]
fn readings_of_the_small_model_are_kept() {
    let home = Home::new();
    let (small, rows) = (home.chat_model("tiny-qwen2"), home.file("rows.jsonl", ROWS));
    let labels = home.file("labels.jsonl", LABELS);
    let run = |task: &str, layers: &str| {
        let args = ["eval", "--task", task, "--small", &small, "--backend", "small", "--max-tokens", "4"];
        home.run(&[&args[..], &["--layers", layers, "--out", "o.jsonl", "--json"]].concat()).json()
    };
    assert_eq!(run(&rows, "1")["small"]["readings"], 3);
    assert_eq!(run(&labels, "auto")["small"]["readings"], 1);
    let lines = outcomes(&home, "o.jsonl");
    for line in &lines {
        assert_eq!(line["reading"]["prompt_tokens"], line["tokens"]["prompt_tokens"], "{line}");
        assert!(line["reading"]["states"][0]["last"].as_str().is_some_and(|text| !text.is_empty()), "{line}");
    }
    assert_eq!(lines[0]["reading"]["states"][0]["layer"], 1);
    // What is only read for is not answered.
    assert_eq!((&lines[3]["output"], &lines[3]["tokens"]["completion_tokens"]), (&Value::Null, &0.into()));
    assert!(lines[..3].iter().all(|line| line["tokens"]["completion_tokens"].as_u64() > Some(0)));
}

#[test]
fn labels_need_no_model() {
    let home = Home::new();
    let labels = home.file("labels.jsonl", LABELS);
    let args =
        ["eval", "--task", &labels, "--small", &tiny("tiny-qwen2"), "--layers", "none", "--out", "o.jsonl"];
    let ended = home.run(&args);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("law") && ended.stdout.contains("1/1 100.0%"), "{ended:?}");
    let lines = outcomes(&home, "o.jsonl");
    assert_eq!((lines.len(), &lines[0]["output"], &lines[0]["model"]), (2, &Value::Null, &"".into()));
}

#[test]
fn wrong_rows_and_flags_say_what_is_wrong() {
    let home = Home::new();
    let small = home.chat_model("tiny-qwen2");
    let rows = home.file("rows.jsonl", ROWS);
    let wrong = home.file("wrong.jsonl", ROWS.replace("\"regex\"", "\"rexeg\""));
    let damaged = home.file("damaged.jsonl", "nothing\n{}\n");
    let fails = |task: &str, more: &[&str], code, words| {
        let args = ["eval", "--task", task, "--small", &small, "--backend", "small"];
        let out: &[&str] = if more.contains(&"--out") { &[] } else { &["--out", "o.jsonl"] };
        home.run(&[&args[..], more, out].concat()).assert_fails(code, words);
    };
    fails(&wrong, &[], 2, "line 1: `check.kind` must be one of number");
    fails("no/such.jsonl", &[], 3, "there is no file no/such.jsonl");
    fails("humaneval", &[], 3, "no task of that name");
    fails(&rows, &["--format", "csv"], 2, "known are rows, humaneval");
    fails(&rows, &["--layers", "two"], 2, "auto, none, or layers");
    fails(&rows, &["--backend", "medium"], 2, "small or large");
    fails(&rows, &["--layers", "99"], 2, "there is no layer 99");
    fails(&rows, &["--out", &damaged], 2, "line 1 is no outcome");
    fails(&rows, &["--out", "no/such/folder/o.jsonl"], 1, "o.jsonl");
}
