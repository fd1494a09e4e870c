//! `tandem chat` on a pipe.

use crate::fixture::{Home, tiny};

#[test]
fn lines_are_answered_and_answers_alone_are_on_stdout() {
    let home = Home::new();
    let model = home.chat_model("tiny-qwen2");
    let args = ["chat", "--model", &model, "--max-tokens", "5"];
    let once = home.run_with_input(&args, "the cat sat\n");
    assert_eq!(once.code, Some(0), "{once:?}");
    assert!(once.stderr.contains("[tiny-qwen2-chat · "), "{once:?}");
    assert!(!once.stdout.contains('['), "{once:?}");
    assert!(!format!("{once:?}").contains("\\u{1b}"), "colours on a pipe: {once:?}");
    // Greedy, so the same question after /reset has the same answer.
    let twice = home.run_with_input(&args, "the cat sat\n/reset\n\nthe cat sat\n/exit\nnever read\n");
    assert_eq!(twice.stdout, once.stdout.repeat(2));
}

#[test]
fn drafts_are_marked_on_terminals_only() {
    let home = Home::new();
    let model = home.chat_model("tiny-qwen2");
    let args = ["chat", "--model", &model, "--max-tokens", "60"];
    let plain = home.run_with_input(&args, "the cat sat\n");
    let shown =
        home.run_with_input(&[args.as_slice(), &["--show-drafts"]].concat(), "the cat sat\n/drafts\n");
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert_eq!(shown.stdout, plain.stdout);
    assert!(shown.stderr.contains("drafted tokens are not marked"), "{shown:?}");
}

#[test]
fn auto_says_who_answered_and_the_ledger_knows() {
    let home = Home::new();
    let (small, large) = (home.chat_model("tiny-qwen2"), home.chat_model("tiny-llama-mqa"));
    let args = ["chat", "--small", &small, "--large", &large, "--max-tokens", "5"];
    let ended = home.run_with_input(&args, "the cat sat\nand then\n");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.stderr.matches("confidence").count(), 2, "{ended:?}");
    assert_eq!(home.run(&["report", "--json"]).json()["requests"], 2);
}

#[test]
fn a_failed_answer_fails_the_command() {
    let home = Home::new();
    let ended = home.run_with_input(&["chat", "--model", &tiny("tiny-qwen2")], "hello\n");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("no chat template"), "{ended:?}");
    home.run(&["chat", "--model", "no/such.gguf"]).assert_fails(3, "no/such.gguf");
    home.run(&["chat", "--temperature", "9"]).assert_fails(2, "0 to 2");
    home.run(&["chat", "--json"]).assert_fails(2, "chat has no JSON form");
}
