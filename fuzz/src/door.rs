//! The bodies of `/v1/chat/completions` and `/v1/completions`: what is not refused is a sound
//! request.

use contract::{Input, Request};
use gateway::door::{Door, Models, accept_chat, accept_completion, parse_body};

use crate::{Seed, Target};

/// Most tokens a request may ask for.
const REQUEST_TOKENS_MAX: u32 = 1_000;

/// The target.
pub const TARGET: Target = Target {
    name: "door",
    run,
    seeds: &[
        Seed::Bytes(
            br#"{"model":"auto","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":[{"type":"text","text":"hi"}]}],"stream":true,"stream_options":{"include_usage":true},"temperature":0.5,"stop":["\n","END"]}"#,
        ),
        Seed::Bytes(
            br#"{"messages":[{"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"1","content":"x"}],"tools":[{"type":"function","function":{"name":"f","parameters":{}}}],"logprobs":true,"top_logprobs":5,"n":1}"#,
        ),
        Seed::Bytes(
            br#"{"model":"small","prompt":["Once"],"max_tokens":9,"top_p":0.9,"top_k":40,"min_p":0.1,"seed":7,"logit_bias":{"17":-3.5},"presence_penalty":-1,"repetition_penalty":1.1,"logprobs":3,"echo":false}"#,
        ),
        Seed::Bytes(br#"{"prompt":"a","tandem":{"route":"large","explain":true},"user":"u","unheard_of":[{}]}"#),
    ],
    words: &[
        b"null",
        b"1e308",
        b"1e-46",
        b"-0",
        b"NaN",
        b"18446744073709551615",
        b"\"\\ud800\"",
        b"[[[[[[[[",
        b"{\"",
        b"\":",
        b"\"role\":\"user\"",
        b"\"content\":",
        b"\"tandem\":{",
        b"\"max_quality_loss\":",
        b"\"max_completion_tokens\":",
        b"\"frequency_penalty\":",
        b"\"stop\":",
        b"\"logit_bias\":",
    ],
};

fn run(data: &[u8]) {
    let body = match parse_body(data) {
        Ok(body) => body,
        Err(error) => {
            assert_eq!(error.status, 400);
            assert!(is_json(&error.body()));
            return;
        }
    };
    let models = Models { small: "tiny".to_owned(), large: "giant".to_owned() };
    for accept in [accept_chat, accept_completion] {
        let id = "request".to_owned();
        let door =
            Door { models: &models, request_tokens_max: Some(REQUEST_TOKENS_MAX), deadline_ms: None, id };
        match accept(&door, &body) {
            Ok(accepted) => assert_sound(&accepted.request),
            Err(error) => {
                assert!(error.status == 400 || error.status == 404, "{error:?}");
                assert!(error.param.as_ref().is_some_and(|param| !param.is_empty()), "{error:?}");
                assert!(is_json(&error.body()));
            }
        }
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(text).is_ok()
}

/// What `contract` promises of a request.
fn assert_sound(request: &Request) {
    let sampling = &request.sampling;
    if let Input::Chat { messages, .. } = &request.input {
        assert!(!messages.is_empty());
    }
    assert!((0.0..=2.0).contains(&sampling.temperature), "{sampling:?}");
    assert!(sampling.top_p > 0.0 && sampling.top_p <= 1.0, "{sampling:?}");
    assert!((0.0..=1.0).contains(&sampling.min_p), "{sampling:?}");
    assert!(sampling.repetition_penalty > 0.0, "{sampling:?}");
    assert!(sampling.presence_penalty.abs() <= 2.0 && sampling.frequency_penalty.abs() <= 2.0);
    assert!(sampling.logit_bias.iter().all(|(_, bias)| bias.abs() <= 100.0), "{sampling:?}");
    assert!(request.max_tokens.is_some_and(|tokens| (1..=REQUEST_TOKENS_MAX).contains(&tokens)));
    assert!(request.stop.iter().all(|stop| !stop.is_empty()));
    assert!(request.top_logprobs.unwrap_or(0) <= 20);
    assert!(request.options.max_quality_loss.is_none_or(|loss| (0.0..=1.0).contains(&loss)));
}
