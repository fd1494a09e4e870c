//! A chat template and its messages: parsed and rendered within their limits.

use engine::template::{ChatTemplate, OUTPUT_BYTES_MAX, RenderInput};
use serde_json::{Value, json};

use crate::{Seed, Target};

/// The target. An input is a template, a zero byte, and messages in JSON; messages that are none
/// are replaced by a short chat.
pub const TARGET: Target = Target {
    name: "template",
    run,
    seeds: &[
        Seed::Bytes(
            b"{%- for message in messages %}\n{{- '<|im_start|>' + message['role'] + '\\n' + message.content | trim + '<|im_end|>' }}\n{%- endfor %}\n{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}\0[{\"role\":\"user\",\"content\":\"hi\"}]",
        ),
        Seed::Bytes(
            b"{% set ns = namespace(found=false, n=0) %}{% for m in messages[::-1] %}{% if loop.first or not ns.found %}{% set ns.n = ns.n + loop.index0 ** 2 %}{% endif %}{% if m.role not in ['user', 'tool'] %}{{ raise_exception('no ' ~ m.role) }}{% endif %}{% endfor %}{{ ns.n }}{{ strftime_now('%Y-%m-%d') }}\0[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"x\"}]},{\"role\":\"tool\"}]",
        ),
        Seed::Bytes(
            b"{% macro show(value, depth=2) %}{{ value | tojson(indent=depth) }}{% if depth > 0 %}{{ show(value, depth - 1) }}{% endif %}{% endmacro %}{{ bos_token }}{% for tool in tools or [] %}{{ show(tool) }}{% endfor %}{{ messages | map(attribute='role') | join(', ') }}{% generation %}{{ messages[0].content.split('a')[-1].strip().upper() }}{% endgeneration %}{{ eos_token }}\0null",
        ),
        Seed::Bytes(
            b"{% for i in range(1000) %}{% if i % 2 %}{% continue %}{% elif i > 500 %}{% break %}{% endif %}{{ 'ab' * i }}{{ [1, 2] | length }}{% endfor %}{# note #}{{ {'a': {'b': [1.5, none, true]}}.items() | list }}\0[]",
        ),
    ],
    words: &[
        b"{{",
        b"}}",
        b"{%",
        b"%}",
        b"{#",
        b"((((((((",
        b"[[[[[[[[",
        b"not not not ",
        b" * 99999999",
        b" ~ messages",
        b"range(999999999)",
        b"{% for a in messages %}",
        b"{% endfor %}",
        b"{% if true %}",
        b"{% set x = ",
        b"| tojson",
        b"| replace('a', 'aaaaaaaa')",
        b".format(",
        b"%99999d",
        b"loop(messages)",
        b"\0",
    ],
};

fn run(data: &[u8]) {
    let (source, messages) = match data.iter().position(|&byte| byte == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[][..]),
    };
    let Ok(template) = ChatTemplate::parse(&String::from_utf8_lossy(source)) else { return };
    let chat = || json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]);
    let messages: Value = serde_json::from_slice(messages).unwrap_or_else(|_| chat());
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
    let input = RenderInput {
        messages: &messages,
        tools: Some(&tools).filter(|_| data.len() % 2 == 1),
        add_generation_prompt: true,
        bos_token: "<s>",
        eos_token: "</s>",
        now_unix_s: 1_700_000_000,
    };
    match template.render(&input) {
        Ok(text) => assert!(text.len() <= OUTPUT_BYTES_MAX, "{} bytes", text.len()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
