//! Commands that run to their end: JSON on stdout and nothing else, exit codes, clear messages.

use serde_json::{Value, json};

use crate::fixture::{Home, tiny};

const GOLDEN: &str = include_str!("../../../../tests/golden/tiny/tokenize.jsonl");

#[test]
fn tokenize_agrees_with_the_golden_lines() {
    let home = Home::new();
    let golden: Vec<Value> = GOLDEN.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for model in ["tiny-llama-mha", "tiny-qwen2", "tiny-gemma3"] {
        let lines: Vec<&Value> = golden.iter().filter(|line| line["model"] == model).collect();
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let file = home.file("lines.jsonl", text);
        let ended = home.run(&["tokenize", &tiny(model), "--lines", &file]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let shown: Vec<Value> =
            ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(shown.len(), lines.len());
        for (shown, expected) in shown.iter().zip(lines) {
            assert_eq!(shown["ids"], expected["ids"], "{expected}");
        }
    }
}

#[test]
fn tokenize_shows_ids_and_pieces() {
    let home = Home::new();
    let model = tiny("tiny-qwen2");
    let shown = home.run(&["tokenize", &model, "the cat", "--json"]).json();
    let pieces: Vec<&str> = shown["pieces"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    assert_eq!(pieces.concat(), "the cat");
    assert_eq!(shown["ids"].as_array().unwrap().len(), pieces.len());
    // A text may look like a flag.
    assert_eq!(home.run(&["tokenize", &model, "--json", "--", "--lines"]).code, Some(0));
}

#[test]
fn render_gives_the_templates_output_exactly() {
    let home = Home::new();
    let model = home.chat_model("tiny-qwen2");
    let messages =
        home.file("messages.json", r#"[{"role":"user","content":"Hi"},{"role":"user","content":"you"}]"#);
    let plain = home.run(&["render", &model, "--messages", &messages]);
    assert_eq!((plain.code, plain.stdout.as_str()), (Some(0), "Hi you "));
    let shown = home.run(&["render", &model, "--messages", &messages, "--json"]).json();
    assert_eq!(shown, json!({"text": "Hi you "}));
    let lines = "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}\n{\"messages\":[],\"tools\":null}\n";
    let file = home.file("lines.jsonl", lines);
    let shown = home.run(&["render", &model, "--lines", &file]);
    assert_eq!(shown.stdout, "{\"text\":\"a \"}\n{\"text\":\"\"}\n");
    let piped =
        home.run_with_input(&["render", &model, "--messages", "-"], r#"[{"role":"user","content":"x"}]"#);
    assert_eq!(piped.stdout, "x ");
}

#[test]
fn render_says_what_is_wrong_with_its_input() {
    let home = Home::new();
    let model = home.chat_model("tiny-qwen2");
    let fails = |args: &[&str], code, words| home.run(args).assert_fails(code, words);
    let not_json = home.file("a.json", "nothing");
    let no_list = home.file("b.json", "{}");
    let lines = home.file("c.jsonl", "{\"messages\":3}");
    fails(&["render", &model, "--messages", &not_json], 2, "a.json: not the JSON");
    fails(&["render", &model, "--messages", &no_list], 2, "must be a list");
    fails(&["render", &model, "--messages", "no/such.json"], 3, "no/such.json");
    fails(&["render", &model, "--lines", &lines], 2, "c.jsonl:1: `messages` must be a list");
    fails(&["render", &tiny("tiny-qwen2"), "--messages", &no_list], 1, "no chat template");
    fails(&["render", &model], 2, "--messages");
}

#[test]
fn bench_writes_after_the_context_asked_for() {
    let home = Home::new();
    let model = tiny("tiny-qwen2");
    let short = ["bench", &model, "--threads", "1", "--repeat", "1", "--prompt-tokens", "8", "--json"];
    let run = |more: &[&str]| home.run(&[&short, more].concat());
    let deep = run(&["--context-tokens", "24", "--generate-tokens", "2", "--verify", "1,2"]).json();
    assert_eq!((&deep["prompt"]["tokens"], &deep["decode"]["context_tokens"]), (&json!(8), &json!(24)));
    assert_eq!(deep["verify"].as_array().unwrap().len(), 2);
    run(&["--context-tokens", "7"]).assert_fails(2, "--context-tokens 7");
    run(&["--context-tokens", "1000000"]).assert_fails(2, "exceed the model's context");
    run(&["--verify", "513"]).assert_fails(2, "--verify 513");
}

#[test]
fn inspect_tells_layers_tensors_and_memory() {
    let home = Home::new();
    let shown = home.run(&["inspect", &tiny("tiny-gemma3"), "--json", "--context", "64"]).json();
    assert_eq!(shown["architecture"], "gemma3");
    assert_eq!(shown["bytes"], 701_280);
    let layers = shown["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 7);
    let windows: Vec<Option<u64>> =
        layers.iter().map(|layer| layer["sliding_window_tokens"].as_u64()).collect();
    // Five local layers, a global one, and again.
    let expected = [Some(16), Some(16), Some(16), Some(16), Some(16), None, Some(16)];
    assert_eq!(windows, expected);
    // 7 layers · 2 · 1 head · 32 · 2 bytes; 64 tokens in the global layer, 16 in the others.
    assert_eq!(shown["kv_bytes_per_token"], 896);
    assert_eq!(shown["memory"]["kv_bytes"], 128 * (64 + 6 * 16));
    let sum = |key: &str| {
        shown["tensors"].as_array().unwrap().iter().map(|t| t[key].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(shown["memory"]["weights_bytes"], sum("bytes"));
    assert_eq!(shown["parameters"], sum("values"));
    assert_eq!(shown["metadata"]["general.architecture"], "gemma3");
    assert_eq!(home.run(&["inspect", &tiny("tiny-gemma3")]).code, Some(0));
}

#[test]
fn models_lists_the_catalogue_and_what_is_there() {
    let home = Home::new();
    let listed = |home: &Home| home.run(&["models", "--json"]).json()["models"].as_array().unwrap().clone();
    let names = |models: &[Value]| -> Vec<String> {
        models.iter().map(|model| model["name"].as_str().unwrap().to_owned()).collect()
    };
    let models = listed(&home);
    assert!(names(&models).contains(&"qwen2.5-coder-0.5b".to_owned()), "{models:?}");
    assert!(models.iter().all(|model| model["installed"] == false));

    std::fs::create_dir_all(home.path("models")).unwrap();
    std::fs::copy(tiny("tiny-qwen2"), home.path("models/mine.gguf")).unwrap();
    home.file("models/broken.gguf", "GGUF, it says");
    home.file("models/smollm2-135m.gguf", "too short");
    let models = listed(&home);
    let by = |end: &str| models.iter().find(|model| model["name"].as_str().unwrap().ends_with(end)).unwrap();
    let mine = by("mine.gguf");
    assert_eq!((&mine["installed"], &mine["architecture"]), (&json!(true), &json!("qwen2")));
    // 3 layers · 2 · 2 heads · 32 · 2 bytes.
    assert_eq!(mine["kv_bytes_per_token"], 768);
    assert!(by("broken.gguf")["problem"].is_string());
    assert!(by("smollm2-135m")["problem"].as_str().unwrap().contains("damaged"));
    assert_eq!(home.run(&["models"]).code, Some(0));
}

#[test]
fn exit_codes_tell_usage_from_what_is_missing() {
    let home = Home::new();
    let broken = home.file("broken.gguf", "GGUF, it says");
    let fails = |args: &[&str], code, words| home.run(args).assert_fails(code, words);
    fails(&["tokenize", "no-such-model", "x"], 3, "known names");
    fails(&["tokenize", "smollm2-135m", "x"], 3, "tandem pull smollm2-135m");
    fails(&["inspect", "nowhere.gguf"], 3, "nowhere.gguf");
    fails(&["inspect", &broken], 1, "broken.gguf");
    fails(&["inspect", &tiny("tiny-qwen2"), "--context", "99999999"], 2, "--context");
    fails(&["tokenize", &tiny("tiny-qwen2")], 2, "TEXT");
    fails(&["no-such-command"], 2, "no-such-command");
    fails(&["models", "--threads", "0"], 2, "--threads");
    fails(&["report"], 3, "ledger.db");
    fails(&["report", "--since", "soon"], 2, "is no duration");
    fails(&["pull", "smollm2-135m"], 1, "could not be fetched from any source");
    fails(&["pull", "smollm2-135m", "no-such-model"], 3, "no-such-model");
    fails(&["pull"], 2, "REF");
    let mut wrong_isa = home.command(&["models"]);
    let ended = wrong_isa.env("TANDEM_ISA", "mmx").output().unwrap();
    assert_eq!(ended.status.code(), Some(2));
}

#[test]
fn every_command_explains_itself_with_an_example() {
    let home = Home::new();
    let help = home.run(&["--help"]).stdout;
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let names: Vec<&str> = commands
        .lines()
        .take_while(|line| !line.is_empty())
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert!(names.contains(&"serve") && names.contains(&"bench"), "{names:?}");
    for name in names {
        let ended = home.run(&[name, "--help"]);
        assert_eq!(ended.code, Some(0));
        assert!(
            ended.stdout.contains("Example") && ended.stdout.contains("tandem "),
            "{name}: {}",
            ended.stdout
        );
    }
}

#[test]
fn packed_weights_are_kept_at_home_and_damage_is_told_once() {
    let home = Home::new();
    let args = ["generate", &tiny("tiny-qwen2"), "--prompt", "a", "--max-tokens", "4", "--json"];
    let packed = || -> Vec<std::path::PathBuf> {
        let files = std::fs::read_dir(home.path("packed")).into_iter().flatten().flatten();
        files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|e| e == "packed")).collect()
    };
    home.file("tandem.toml", "[cache]\npacked = false");
    let expected = home.run(&args).json()["ids"].clone();
    assert!(packed().is_empty());

    std::fs::remove_file(home.path("tandem.toml")).unwrap();
    assert_eq!(home.run(&args).json()["ids"], expected);
    let [file]: [_; 1] = packed().try_into().unwrap();
    let later = home.run(&args);
    assert_eq!((&later.json()["ids"], later.stderr.as_str()), (&expected, ""));

    std::fs::write(file, "damaged").unwrap();
    let rebuilt = home.run(&args);
    let answer: serde_json::Value = serde_json::from_str(&rebuilt.stdout).unwrap();
    assert_eq!(answer["ids"], expected);
    assert_eq!(rebuilt.stderr.matches("packed again").count(), 1, "{}", rebuilt.stderr);
    assert_eq!(home.run(&args).stderr, "");
}

#[test]
fn bench_loads_twice_and_leaves_nothing() {
    let home = Home::new();
    let sizes = ["--prompt-tokens", "4", "--generate-tokens", "2", "--verify", "1", "--repeat", "1"];
    let model = tiny("tiny-qwen2");
    let args: Vec<&str> = ["bench", &model, "--json"].into_iter().chain(sizes).collect();
    let report = home.run(&args).json();
    let seconds = |name: &str| report[name].as_f64().unwrap();
    assert!(seconds("first_load_seconds") > 0.0 && seconds("load_seconds") > 0.0);
    assert_ne!(seconds("first_load_seconds"), seconds("load_seconds"));
    assert!(!home.path("packed/bench").exists());
}

#[test]
fn guard_test_scores_rows_and_sums_up_on_stderr() {
    let home = Home::new();
    let config = home.file(
        "guards.toml",
        "[[guard]]\nname = \"pii\"\nkind = \"pattern\"\naction = \"redact\"\n\n[[guard]]\nname = \"tools\"\n\
         kind = \"pattern\"\naction = \"block\"\nchannels = [\"tool\"]\ndeny = [\"ignore all\"]\n",
    );
    let rows = home.file(
        "rows.jsonl",
        "{\"id\":\"a\",\"text\":\"I am jane@example.org\",\"label\":true}\n\
         {\"text\":\"ignore all\",\"label\":false}\n\
         {\"id\":7,\"messages\":[{\"role\":\"user\",\"content\":\"sum up\"},\
         {\"role\":\"tool\",\"content\":\"ignore all\"}],\"label\":true}\n",
    );
    let ended = home.run(&["guard", "test", &rows, "--config", &config]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let lines: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let first = json!({"id": "a", "flagged": true, "action": "redact", "scores": {"pii": 1.0}});
    let second = json!({"id": 2, "flagged": false, "action": null, "scores": {"pii": 0.0}});
    let third = json!({"id": 7, "flagged": true, "action": "block", "scores": {"pii": 0.0, "tools": 1.0}});
    assert_eq!(lines, [first, second, third]);
    assert!(ended.stderr.contains("precision 1.0000  recall 1.0000"), "{}", ended.stderr);
    assert!(ended.stderr.contains("AUROC 1.0000") && ended.stderr.contains("3 rows"), "{}", ended.stderr);

    let bare = home.file("bare.toml", "");
    home.run(&["guard", "test", &rows, "--config", &bare]).assert_fails(2, "no [[guard]]");
    let odd = home.file("odd.jsonl", "{\"text\":\"a\",\"messages\":[]}");
    home.run(&["guard", "test", &odd, "--config", &config]).assert_fails(2, "either");
}

#[test]
fn heads_are_not_trained_or_asked_with_what_does_not_fit() {
    let home = Home::new();
    let model = tiny("tiny-qwen2");
    let train = |rows: &str, more: &[&str]| {
        let data = home.file("rows.jsonl", rows);
        let args = ["train-head", &model, "--data", &data, "--label", "ok", "--out", "head.json"];
        home.run(&[&args[..], more].concat())
    };
    for (rows, more, words) in [
        (r#"{"id":"1","prompt":"a"}"#, &[][..], "no field \"ok\""),
        (r#"{"id":"1","prompt":"a","ok":"maybe"}"#, &[], "it must be true or false"),
        (r#"{"id":"1","ok":true}"#, &[], "`messages`"),
        (r#"{"id":"1","prompt":"a","ok":true}"#, &["--group", "source"], "no field \"source\""),
        (r#"{"id":"1","prompt":"a","ok":true}"#, &["--layers", "99"], "layers in 0..="),
        (r#"{"id":"1","prompt":"a","ok":true}"#, &["--label", "id"], "{label}"),
    ] {
        let ended = train(rows, more);
        assert!(ended.code == Some(2) && ended.stderr.contains(words), "{rows}: {ended:?}");
    }
    let (data, head) = (home.file("rows.jsonl", ""), home.file("head.json", "{}"));
    let ended = home.run(&["score-head", &model, "--head", &head, "--data", &data]);
    assert!(ended.code == Some(2) && ended.stderr.contains("not a head's file"), "{ended:?}");
}

#[test]
fn outcomes_are_calibrated_on_and_a_calibration_is_measured() {
    let home = Home::new();
    // Small is right where it is sure, and large nearly always.
    let mut lines = String::new();
    for row in 0..1200_u64 {
        let sure = row * 7919 % 1200;
        let noise = row * 104_729 % 97;
        let (small, large) = (sure + 4 * noise > 700, row % 31 != 0);
        let mean = -0.6 + 0.0004 * sure as f64;
        let tokens = 10 + noise;
        let usage = json!({"prompt_tokens": 50, "cached_tokens": 0, "completion_tokens": tokens,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0});
        let signals = json!({"tokens": tokens, "logprob_sum": mean * tokens as f64, "logprob_min": 5.0 * mean,
            "entropy_sum": -mean * tokens as f64});
        for (backend, correct, cost) in [("small", small, 0.00001), ("large", large, 0.0004)] {
            let line = json!({"id": format!("r{row}"), "backend": backend, "model": backend, "task": "t",
                "correct": correct, "signals": signals, "tokens": usage, "cost_usd": cost});
            lines += &format!("{line}\n");
        }
    }
    let outcomes = home.file("outcomes.jsonl", &lines);
    let args = ["calibrate", "--outcomes", &outcomes, "--max-quality-loss", "0.05", "--out", "c.json"];
    let found = home.run(&[&args[..], &["--report", "c.html", "--json"]].concat()).json();
    assert_eq!(
        (found["routes"].as_bool(), found["policy"].as_str()),
        (Some(true), Some("cascade")),
        "{found}"
    );
    assert!(found["large_share"].as_f64().unwrap() < 0.9, "{found}");
    assert!(std::fs::read_to_string(home.path("c.html")).unwrap().starts_with("<!doctype html>"));
    let measured = home.run(&["eval", "--outcomes", &outcomes, "--calibration", "c.json", "--json"]).json();
    for key in ["apgr", "apgr_ci", "cpt50", "cpt80", "aiq", "auroc", "ece", "realised_loss", "best_constant"]
    {
        assert!(!measured[key].is_null(), "{key}: {measured}");
    }
    assert_eq!(measured["large_share"], found["large_share"]);
    // Of a run that was cut short, what both models answered is used.
    let cut: Vec<&str> = lines.lines().collect();
    let cut = home.file("cut.jsonl", cut[..2001].join("\n"));
    for args in [&["calibrate", "--out", "cut.json"][..], &["eval", "--calibration", "c.json"]] {
        let ended = home.run(&[args, &["--outcomes", &cut, "--json"]].concat());
        assert!(ended.stderr.contains("1 rows are left out: only small has an outcome of 1"), "{ended:?}");
        let found: Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!((&found["rows"], &found["unpaired"]["small"]), (&json!(1000), &json!(1)), "{found}");
    }
    let half: String = lines.lines().step_by(2).map(|line| line.to_owned() + "\n").collect();
    let half = home.file("half.jsonl", half);
    let ended = home.run(&["calibrate", "--outcomes", &half, "--out", "half.json"]);
    ended.assert_fails(2, "no row has outcomes of both models");
    // It is a setting of the server.
    let (model, config) =
        (tiny("tiny-qwen2"), "[policy]\ncalibration = \"c.json\"\nmax_quality_loss = 0.03\n");
    let config = home.file("calibrated.toml", config);
    let check = home.run(&["serve", "--config", &config, "--small", &model, "--large", &model, "--check"]);
    assert!(check.code == Some(0) && check.stdout.contains("max_quality_loss = 0.03"), "{check:?}");
    // The models in it are called "small" and "large".
    let served = home.run(&["serve", "--config", &config, "--small", &model, "--large", &model]);
    served.assert_fails(2, "policy.calibration is of \"small\" as small, and served is \"tiny-qwen2\"");
    let wrong = home.file("wrong.toml", "[policy]\nkind = \"route\"\ncalibration = \"c.json\"\n");
    let check = home.run(&["serve", "--config", &wrong, "--small", &model, "--large", &model, "--check"]);
    assert!(check.code == Some(2) && check.stderr.contains("--policy route"), "{check:?}");
}

#[test]
fn a_head_is_trained_on_readings_and_asked() {
    let home = Home::new();
    let model = tiny("tiny-qwen2");
    let row = |row: usize| {
        let word = if row.is_multiple_of(2) { "the cat sat" } else { "1 2 3 4" };
        json!({"id": row, "prompt": format!("{} {word}", "a".repeat(row % 7)), "ok": row % 2}).to_string()
            + "\n"
    };
    let data = home.file("rows.jsonl", (0..60).map(row).collect::<String>());
    let args = ["train-head", &model, "--data", &data, "--label", "ok", "--out", "head.json", "--json"];
    let found = home.run(&args).json();
    assert_eq!((found["rows"].as_u64(), found["folds"].as_u64()), (Some(60), Some(5)), "{found}");
    assert!(found["auroc"].as_f64().unwrap() > 0.95, "{found}");
    let scored = home.run(&["score-head", &model, "--head", "head.json", "--data", &data]);
    let scores: Vec<Value> = scored.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(scores.len(), 60);
    for (row, score) in scores.iter().enumerate() {
        let p = score["score"].as_f64().unwrap();
        assert!(score["id"] == json!(row) && (p > 0.5) == (row % 2 == 1), "{score}");
    }
    let ended = home.run(&["score-head", &tiny("tiny-gemma3"), "--head", "head.json", "--data", &data]);
    assert!(ended.code == Some(2) && ended.stderr.contains("train the head on this model"), "{ended:?}");
}

#[test]
fn several_labels_make_heads_of_one_reading() {
    let home = Home::new();
    let row = |row: usize| {
        let prompt = if row.is_multiple_of(2) { "the cat sat" } else { "1 2 3 4" };
        json!({"id": row, "prompt": prompt, "odd": row % 2, "third": row.is_multiple_of(3)}).to_string()
            + "\n"
    };
    let data = home.file("rows.jsonl", (0..60).map(row).collect::<String>());
    let model = tiny("tiny-qwen2");
    let args = ["train-head", &model, "--data", &data, "--label", "odd", "--label", "third", "--json"];
    let files = ["--out", "{label}.head", "--scores", "{label}.scores"];
    let told = home.run(&[&args[..], &files].concat());
    let labels: Vec<Value> = told
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["label"].clone())
        .collect();
    assert_eq!(labels, ["odd", "third"], "{told:?}");
    let read = |name: String| std::fs::read_to_string(home.path(&name)).unwrap();
    for label in ["odd", "third"] {
        let head: Value = serde_json::from_str(&read(format!("{label}.head"))).unwrap();
        assert_eq!((&head["name"], &head["training"]["label"]), (&json!(label), &json!(label)));
        assert_eq!(read(format!("{label}.scores")).lines().count(), 60);
    }
}
