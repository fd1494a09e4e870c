//! The gateway names no model architecture and no file or quantization format.

use super::{Finding, Rule, tree::Tree};

/// The crate that may not.
const CRATE: &str = "gateway";

/// Families and formats, found anywhere in a word. Architectures that the engine registers are
/// added from its `models/` folder.
const NAMES: &[&str] = &["gemma", "gguf", "llama", "mistral", "qwen", "safetensors"];

/// Where the engine keeps one file per architecture.
const MODELS: &str = "crates/engine/src/models/";

/// The rule.
pub const RULE: Rule = Rule {
    name: "blind_gateway",
    why: "a new architecture or format must not touch the gateway",
    check,
    breaks: &[
        &[("crates/gateway/src/a.rs", "if model.starts_with(\"Qwen2\") {}\n")],
        &[("crates/gateway/src/a.rs", "let a = parse_gguf(b);\n")],
        &[("crates/gateway/src/a.rs", "let a = Type::Q4_K;\n")],
        &[("crates/gateway/src/a.rs", "\"iq4_nl\";\n")],
        &[("crates/gateway/src/a.rs", "granite();\n"), ("crates/engine/src/models/granite.rs", "")],
    ],
    keeps: &[
        &[("crates/gateway/src/a.rs", "// Like llama-server does.\nlet a = \"p50_ms q_x Q1\";\n")],
        &[("crates/gateway/src/a.rs", "#[cfg(test)]\nmod tests {\n    \"qwen\";\n}\n")],
        &[("crates/gateway/src/a.rs", "mod b;\n"), ("crates/engine/src/models/mod.rs", "")],
        &[("crates/engine/src/a.rs", "gguf();\n")],
    ],
};

fn check(tree: &Tree) -> Vec<Finding> {
    let registered = tree.files.iter().filter_map(|file| {
        let stem = file.path.strip_prefix(MODELS)?.strip_suffix(".rs")?;
        (stem != "mod" && !stem.contains('/')).then_some(stem)
    });
    let names: Vec<&str> = NAMES.iter().copied().chain(registered).collect();
    let mut found = Vec::new();
    for (file, rust) in tree.rust() {
        if file.crate_name() != Some(CRATE) || file.is_test() {
            continue;
        }
        for token in rust.tokens.iter().chain(&rust.strings).filter(|token| !rust.is_test_line(token.line)) {
            let text = token.text.to_lowercase();
            let named = names.iter().find(|name| text.contains(**name)).map(|name| (*name).to_owned());
            if let Some(name) = named.or_else(|| quantization(&text)) {
                found.push(Finding::new(&file.path, token.line, format!("`{name}` in crates/{CRATE}")));
            }
        }
    }
    found
}

/// A quantization format's name in lower-case `text`: a word like `q4_0`, `q6_k` or `iq4_nl`.
fn quantization(text: &str) -> Option<String> {
    let words = text.split(|c: char| c != '_' && !c.is_ascii_alphanumeric());
    let mut formats = words.filter(|word| {
        let after = word.strip_prefix("iq").or_else(|| word.strip_prefix('q')).unwrap_or("");
        let mut after = after.chars();
        after.next().is_some_and(|c| c.is_ascii_digit()) && after.next() == Some('_')
    });
    formats.next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantization_formats_are_whole_words() {
        assert_eq!(quantization("a q8_0 b").as_deref(), Some("q8_0"));
        assert_eq!(quantization("iq4_nl").as_deref(), Some("iq4_nl"));
        assert_eq!(quantization("seq4_0 q q4 freq2_max"), None);
    }
}
