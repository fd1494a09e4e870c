//! Token ids and pieces of every golden text, exact.

use serde_json::{Value, json};

use crate::real::report::{Line, Report};
use crate::real::rig::Rig;
use crate::real::{Check, golden};

pub const CHECK: Check =
    Check { name: "tokenize", about: "token ids and pieces of the golden texts, exact", run };

fn run(rig: &Rig, report: &mut Report) -> Result<(), String> {
    for &model in &rig.models {
        let expected = rig.golden("tokenize.jsonl", model)?;
        let inputs: Vec<Value> = expected.iter().map(input).collect();
        let found = rig.each(&inputs, &["tokenize", model, "--lines", "{}", "--json"])?;
        let mut right = [0; 2];
        let mut first_wrong = None;
        for ((input, expected), found) in inputs.iter().zip(&expected).zip(&found) {
            let same = ["ids", "pieces"].map(|field| found[field] == expected[field]);
            for (right, same) in right.iter_mut().zip(same) {
                *right += usize::from(same);
            }
            if same != [true; 2] {
                let expected = json!({"ids": expected["ids"], "pieces": expected["pieces"]});
                first_wrong.get_or_insert_with(|| format!("{input}: expected {expected}, got {found}"));
            }
        }
        let total = expected.len();
        let line = Line::new(model).all("ids", (right[0], total), first_wrong.as_deref());
        report.line(line.all("pieces", (right[1], total), None));
    }
    Ok(())
}

/// What `tandem tokenize --lines` reads.
fn input(line: &Value) -> Value {
    json!({"text": line["text"], "add_special": line["add_special"], "parse_special": line["parse_special"]})
}

/// Token ids of `texts`, special tokens recognised and none added.
///
/// # Errors
/// If the command fails.
pub(super) fn ids(rig: &Rig, model: &str, texts: &[&str]) -> Result<Vec<Vec<u32>>, String> {
    let inputs: Vec<Value> =
        texts.iter().map(|text| json!({"text": text, "add_special": false, "parse_special": true})).collect();
    let found = rig.each(&inputs, &["tokenize", model, "--lines", "{}", "--json"])?;
    found.iter().map(|found| golden::ids(found, "ids")).collect()
}
