//! Every golden conversation through the model's own chat template, exact; and its token ids.

use serde_json::{Value, json};

use super::tokenize;
use crate::real::report::{Line, Report};
use crate::real::rig::Rig;
use crate::real::{Check, golden};

pub const CHECK: Check =
    Check { name: "templates", about: "golden conversations through the chat templates, exact", run };

/// Base models: nobody trained them to chat, and their files have no template.
const WITHOUT_TEMPLATE: &[&str] = &["gemma3-270m"];

fn run(rig: &Rig, report: &mut Report) -> Result<(), String> {
    for &model in &rig.models {
        if WITHOUT_TEMPLATE.contains(&model) {
            report.line(Line::new(model).note("has no chat template"));
            continue;
        }
        let expected = rig.golden("chat_template.jsonl", model)?;
        let inputs: Vec<Value> = expected.iter().map(input).collect();
        let found = rig.each(&inputs, &["render", model, "--lines", "{}"])?;
        let mut first_wrong = None;
        let mut right = 0;
        for (expected, found) in expected.iter().zip(&found) {
            if found["text"] == expected["rendered"] {
                right += 1;
            } else {
                let wrong = || {
                    format!(
                        "case {}: expected {}, got {}",
                        expected["case"], expected["rendered"], found["text"]
                    )
                };
                first_wrong.get_or_insert_with(wrong);
            }
        }
        let texts: Vec<&str> =
            expected.iter().map(|line| golden::text(line, "rendered")).collect::<Result<_, _>>()?;
        let ids = tokenize::ids(rig, model, &texts)?;
        let mut right_ids = 0;
        for (expected, ids) in expected.iter().zip(&ids) {
            right_ids += usize::from(golden::ids(expected, "ids")? == *ids);
        }
        let total = expected.len();
        let line = Line::new(model).all("texts", (right, total), first_wrong.as_deref());
        report.line(line.all("ids", (right_ids, total), None));
    }
    Ok(())
}

/// What `tandem render --lines` reads.
fn input(line: &Value) -> Value {
    json!({
        "messages": line["messages"],
        "tools": line["tools"],
        "add_generation_prompt": line["add_generation_prompt"],
    })
}
