//! Files of rows, of every format; and answers, judged by the checks that they ask for.

use std::task::{Context, Poll, Waker};

use lab::checks::{Judged, Tools};
use lab::rows::Expected;
use lab::tasks;

use crate::{Seed, Target};

/// The target.
pub const TARGET: Target = Target {
    name: "rows",
    run,
    seeds: &[
        Seed::Bytes(br#"{"id":"a","prompt":"1+1?","check":{"kind":"number","answer":"2"},"slices":{"n":1}}"#),
        Seed::Bytes(br#"{"id":"b","messages":[{"role":"user","content":"x"}],"check":{"kind":"regex","answer":"^(a|b)+$"}}"#),
        Seed::Bytes(br#"{"id":"c","prompt":"?","check":{"kind":"choice","answer":"B","choices":["x y","z"]},"task":"t"}"#),
        Seed::Bytes(br#"{"id":"d","prompt":"?","check":{"kind":"exact","answer":"['a', 'b']","loose":true}}"#),
        Seed::Bytes(br#"{"task_id":"H/0","prompt":"def f(x):\n","test":"def check(f): pass","entry_point":"f"}"#),
        Seed::Bytes(br#"{"question":"q","answer":"so\n#### 1,234.5"}"#),
        Seed::Bytes(br#"{"question":"q","choices":["x","y"],"answer":1}"#),
        Seed::Bytes(br#"{"question":"q","answer":"a","metadata":{"source_dataset":"d","source_index":3}}"#),
        Seed::Bytes(br#"{"prompt":"p","subject":"s","small_correct":true,"large_correct":false}"#),
        // An empty gzip file.
        Seed::Bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x03\0\0\0\0\0\0\0\0\0"),
    ],
    words: &[b"\n", b"####", b"Answer:", b"\\boxed{", b"answer is (B)", b"1,000", b"-3/4", b"\"kind\":\"contains\"", b"```"],
};

fn run(data: &[u8]) {
    let answer = String::from_utf8_lossy(data);
    let forced = tasks::FORMATS.iter().map(|format| Some(format.name));
    for format in forced.chain([None]) {
        let Ok(rows) = tasks::read(data, format) else { continue };
        assert!(!rows.is_empty());
        for row in &rows {
            assert!(!row.messages.is_empty() && !row.id.is_empty());
            let Expected::Check(check) = &row.expected else { continue };
            if check.needs_judge() || check.needs_sandbox() {
                continue;
            }
            let judged = Judged { messages: &row.messages, answer: &answer };
            let tools = Tools::default();
            let mut verdict = check.judge(judged, &tools);
            let polled = verdict.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(polled, Poll::Ready(Ok(_))), "a rule needs nobody's help");
        }
    }
}
