//! A policy that reads: small's prefill of a prompt is its reading, is not repeated when small then answers, and a
//! head's decision costs next to nothing beyond it.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::real::Check;
use crate::real::python::Script;
use crate::real::report::Report;
use crate::real::rig::{NOBODY, Rig, SMALL};

pub const CHECK: Check =
    Check { name: "reading", about: "small reads a prompt once, decides and answers", run };

/// Rows that a head is trained on: any head will do.
const ROWS: usize = 60;
/// The layer whose states it sees.
const LAYER: &str = "12";

fn run(rig: &Rig, report: &mut Report) -> Result<(), String> {
    let scratch = rig.scratch("reading")?;
    let head = head(rig, &scratch)?;
    let file = scratch.join("calibration.json");
    write(&file, &calibration(&head).to_string())?;
    let path = Value::from(file.to_string_lossy());
    let settings = format!("[policy]\nkind = \"route\"\ncalibration = {path}\n");
    let small = rig.model_file(SMALL)?;
    let server =
        rig.serve_at_home(&scratch, &settings, &[&["--small", &small], NOBODY.as_slice()].concat())?;
    let url = server.url();
    Script { python: Path::new("python3"), file: "reading.py", arguments: &[&url] }.report(report)
}

/// A head of the small model that tells words from figures.
fn head(rig: &Rig, scratch: &Path) -> Result<Value, String> {
    let row = |index: usize| {
        let text = if index.is_multiple_of(2) { "the cat sat on the mat" } else { "1 2 3 4 5" };
        json!({"id": index, "prompt": format!("{index}: {text}"), "ok": index % 2}).to_string() + "\n"
    };
    let (data, out) = (scratch.join("rows.jsonl"), scratch.join("head.json"));
    write(&data, &(0..ROWS).map(row).collect::<String>())?;
    let (data, out) = (data.to_string_lossy(), out.to_string_lossy());
    rig.json(&[
        "train-head",
        SMALL,
        "--data",
        &data,
        "--label",
        "ok",
        "--layers",
        LAYER,
        "--out",
        &out,
        "--json",
    ])?;
    let text = fs::read_to_string(&*out).map_err(|error| format!("cannot read {out}: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("{out}: {error}"))
}

/// A calibration by which small always suffices, whatever the head says.
fn calibration(head: &Value) -> Value {
    let none = [0.0, 0.0];
    let threshold =
        json!({"max_quality_loss": 1.0, "score_min": -1.0, "large_share": 0.0, "cost_usd_per_1k": 0.0});
    let held_out = json!({"rows": 0, "quality_small": 0.0, "quality_large": 0.0, "quality_policy": 0.0,
        "quality_policy_ci": none, "large_share": 0.0, "cost_usd_per_1k": 0.0, "cost_large_usd_per_1k": 0.0,
        "realised_loss": 0.0, "realised_loss_ci": none, "above_mixing": 0.0, "above_mixing_ci": none});
    let ordering = json!({"rows": 0, "apgr": null, "apgr_ci": null, "cpt50": null, "cpt80": null, "aiq": null,
        "auroc": null, "auroc_ci": none, "ece": 0.0, "reliability": []});
    json!({"format": "tandem-calibration", "version": 2, "policy": "route", "routes": true, "why": "a check",
        "constant": "large", "small": SMALL, "large": "none", "confidence": 0.95, "max_quality_loss": 1.0,
        "right": {"small": {"head": head, "combination": null}, "large": {"head": null, "combination": null}},
        "route_below": null, "thresholds": [threshold], "curve": [],
        "held_out": held_out, "ordering": ordering, "slices": [], "references": [],
        "data": {"outcomes_sha256": "", "seed": 0, "fit": 0, "calibration": 0, "held_out": 0}})
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    fs::write(file, text).map_err(|error| format!("cannot write {}: {error}", file.display()))
}
