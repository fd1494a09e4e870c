//! Chat templates: exact on the golden renderings, and harmless whatever the template does.

use std::path::{Path, PathBuf};

use engine::template::{
    ChatTemplate, INPUT_DEPTH_MAX, RenderInput, TAG_CODE_BYTES_MAX, TEMPLATE_BYTES_MAX, TemplateError,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn golden(name: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name);
    std::fs::read_to_string(path).unwrap()
}

fn render(source: &str, messages: &Value) -> Result<String, TemplateError> {
    let input = RenderInput {
        messages,
        tools: None,
        add_generation_prompt: true,
        bos_token: "<s>",
        eos_token: "</s>",
        now_unix_s: 1_709_251_199,
    };
    ChatTemplate::parse(source)?.render(&input)
}

#[test]
fn equals_the_golden_renderings() {
    let sources: Value = serde_json::from_str(&golden("chat_templates_source.json")).unwrap();
    let mut lines = 0;
    for line in golden("chat_template.jsonl").lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let source = sources[line["model"].as_str().unwrap()].as_str().unwrap();
        let input = RenderInput {
            messages: &line["messages"],
            tools: Some(&line["tools"]).filter(|tools| !tools.is_null()),
            add_generation_prompt: line["add_generation_prompt"].as_bool().unwrap(),
            bos_token: line["bos_token"].as_str().unwrap(),
            eos_token: line["eos_token"].as_str().unwrap(),
            now_unix_s: 0,
        };
        let rendered = ChatTemplate::parse(source).unwrap().render(&input).unwrap();
        assert_eq!(rendered, line["rendered"].as_str().unwrap(), "{} {}", line["model"], line["case"]);
        lines += 1;
    }
    assert_eq!(lines, 48);
}

#[test]
fn follows_transformers() {
    let messages = json!([{"role": "user", "content": " Hi <b> "}, {"role": "assistant", "content": null}]);
    for (source, expected) in [
        ("{{ bos_token }}{{ messages[0].content.strip() }}{{ eos_token }}", "<s>Hi <b></s>"),
        ("  {% if true %}\n  x\n  {% endif %}\ny\n", "  x\ny"),
        ("{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.role }}{% endfor %}", "user"),
        (
            "{{ messages | tojson }}",
            "[{\"role\": \"user\", \"content\": \" Hi <b> \"}, {\"role\": \"assistant\", \"content\": null}]",
        ),
        ("{{ messages[0] | tojson(indent=1) }}", "{\n \"role\": \"user\",\n \"content\": \" Hi <b> \"\n}"),
        ("{{ messages[1].content }} {{ true }} {{ tools }}", "None True None"),
        ("{{ strftime_now('%d %b %Y') }}", "29 Feb 2024"),
        ("{% generation %}a{%- endgeneration -%} b", "ab"),
        (
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
            "2",
        ),
        ("{% for k, v in messages[0].items() %}{{ k }};{% endfor %}", "role;content;"),
        ("{{ messages[0].missing is defined }}{{ messages[0].missing }}", "False"),
        ("{{ messages[1:][0].role.startswith('assist') }}", "True"),
        ("{{ 'a,b'.split(',')[-1] }}{{ 'x' in 'xyz' }}", "bTrue"),
        ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(1) }}", "[1]"),
    ] {
        assert_eq!(render(source, &messages).unwrap(), expected, "{source}");
    }
}

#[test]
fn an_exception_of_the_template_is_told_apart() {
    let source =
        "{% if messages[0].role != 'user' %}{{ raise_exception('roles must alternate') }}{% endif %}";
    let raised = render(source, &json!([{"role": "tool"}])).unwrap_err();
    assert!(matches!(&raised, TemplateError::Raised { message } if message == "roles must alternate"));
    assert!(raised.to_string().contains("roles must alternate"));
    let in_macro = format!("{{% macro m() %}}{source}{{% endmacro %}}{{{{ m() }}}}");
    assert!(matches!(render(&in_macro, &json!([{}])), Err(TemplateError::Raised { .. })));
    assert_eq!(render(source, &json!([{"role": "user"}])).unwrap(), "");
}

#[test]
fn each_error_has_its_variant() {
    let none = json!([]);
    let too_long = " ".repeat(TEMPLATE_BYTES_MAX + 1);
    assert!(matches!(ChatTemplate::parse(&too_long), Err(TemplateError::TooLong { .. })));
    let long_tag = format!("{{{{ 1{} }}}}", "+1".repeat(TAG_CODE_BYTES_MAX / 2));
    assert!(matches!(ChatTemplate::parse(&long_tag), Err(TemplateError::TagTooLong)));
    assert!(matches!(ChatTemplate::parse("a\n{% if %}"), Err(TemplateError::Syntax { line: 2, .. })));
    assert!(matches!(render("\n{{ messages[0].role }}", &none), Err(TemplateError::Render { line: 2, .. })));
    assert!(matches!(render("{{ messages.nope() }}", &none), Err(TemplateError::Render { .. })));
    assert!(matches!(render("{{ missing | tojson }}", &none), Err(TemplateError::Render { .. })));
    assert!(matches!(render("{% include 'other' %}", &none), Err(TemplateError::Render { .. })));
    let mut deep = json!(1);
    for _ in 0..=INPUT_DEPTH_MAX {
        deep = json!([deep]);
    }
    assert!(matches!(render("", &deep), Err(TemplateError::InputTooDeep)));
}

#[test]
fn hostile_templates_stop() {
    let loops = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
    assert!(matches!(render(loops, &json!([])), Err(TemplateError::TooMuchWork)));
    let growth = "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}";
    assert!(matches!(render(growth, &json!([])), Err(TemplateError::TooMuchWork)));
    assert!(render("{{ 'x' * 9999999999 }}", &json!([])).is_err());
    assert!(render("{{ range(999999999) | list }}", &json!([])).is_err());
    assert!(matches!(
        render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", &json!([])),
        Err(TemplateError::Render { .. })
    ));
    let big = json!([{"content": "x".repeat(1 << 20)}]);
    let repeated = "{% for i in range(100) %}{{ messages[0].content }}{% endfor %}";
    assert!(matches!(render(repeated, &big), Err(TemplateError::OutputTooLong)));
    let nested =
        "{% set ns = namespace(x=[]) %}{% for i in range(9000) %}{% set ns.x = [[[[[ns.x]]]]] %}{% endfor %}";
    assert_eq!(render(nested, &json!([])).unwrap(), "");
    assert_eq!(render(&format!("{nested}{{{{ ns.x }}}}"), &json!([])).unwrap().len(), 2 * 45_001);
    assert!(render(&format!("{nested}{{{{ ns.x | tojson }}}}"), &json!([])).is_err());
}

#[test]
fn deeply_nested_templates_do_not_overflow_the_stack() {
    let repeat = |before: &str, middle: &str, after: &str| {
        let bytes_max =
            if before.contains('%') || after.contains('%') { TEMPLATE_BYTES_MAX } else { TAG_CODE_BYTES_MAX };
        let times = (bytes_max - 100) / (before.len() + after.len());
        format!("{}{middle}{}", before.repeat(times), after.repeat(times))
    };
    let sources = [
        format!("{{{{ {} }}}}", repeat("(", "1", ")")),
        format!("{{{{ {} }}}}", repeat("-", "1", "")),
        format!("{{{{ {} }}}}", repeat("not ", "x", "")),
        format!("{{{{ {} }}}}", repeat("", "1", "~1")),
        format!("{{{{ {} }}}}", repeat("", "x", ".a")),
        format!("{{{{ {} }}}}", repeat("", "x", "|e")),
        format!("{{{{ {} }}}}", repeat("", "1", " if x else 1")),
        format!("{{% if x %}}{}{{% endif %}}", repeat("", "", "{% elif x %}")),
        repeat("{% if true %}", "", "{% endif %}"),
        repeat("{% for x in y %}", "", "{% endfor %}"),
    ];
    for source in sources {
        // Whether it is accepted is minijinja's business; that there is an answer is ours.
        if let Err(error) = render(&source, &json!([])) {
            let never_tried = matches!(
                error,
                TemplateError::TooLong { .. } | TemplateError::TagTooLong | TemplateError::NoThread(_)
            );
            assert!(!never_tried, "{error}");
        }
    }
}

proptest! {
    #[test]
    fn no_template_panics(
        source in r"(\{%[-+]? ?(if|for m in|set x =|endif|endfor|macro f\(\)|generation|break)? ?|[-+]?%\}|\{\{-? ?|-?\}\}|messages|\[0\]|\.role|tojson|\||\(|\)|'|x| |\n|[0-9]|\+|~|\*|é){0,24}",
        role in ".{0,8}",
    ) {
        let _ = render(&source, &json!([{"role": role, "content": "x"}]));
    }
}
