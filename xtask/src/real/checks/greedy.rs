//! Greedy runs of llama.cpp: fed to us token by token, our likeliest token is theirs but for near
//! ties; and left to ourselves we write the same until the first near tie.

use serde_json::{Value, json};

use crate::real::options::Scope;
use crate::real::report::{Line, Report};
use crate::real::rig::Rig;
use crate::real::{Check, distance, golden};

pub const CHECK: Check = Check { name: "greedy", about: "greedy runs of llama.cpp, fed and free", run };

/// Least share of a model's steps on which the likeliest token is the same.
const AGREEMENT_MIN: f64 = 0.96;
/// A step on which it is not must have been this close for llama.cpp, nats from first to second.
const GAP_MAX: f64 = 1.0;
/// And our token its second, or its token this close to our first, or ours this close to the first of
/// the exact path.
const NEAR: f64 = 0.3;
/// From the first step that was closer than this, free runs may part.
const FREE_GAP_MIN: f64 = 0.7;

/// A golden run.
struct Run {
    prompt: Vec<u32>,
    ids: Vec<u32>,
    seconds: Vec<u32>,
    gaps: Vec<f64>,
    ends: bool,
}

impl Run {
    fn read(line: &Value) -> Result<Self, String> {
        let run = Run {
            prompt: golden::ids(line, "prompt_ids")?,
            ids: golden::ids(line, "ids")?,
            seconds: golden::ids(line, "second_ids")?,
            gaps: golden::numbers(line, "gap")?,
            ends: golden::text(line, "stop")? == "eog",
        };
        let same = run.ids.len() == run.seconds.len() && run.ids.len() == run.gaps.len();
        let sound = same && !run.prompt.is_empty();
        if sound { Ok(run) } else { Err("a golden run's lists are of different lengths".to_owned()) }
    }

    /// Steps before the first near tie: those that a free run must share.
    fn firm_steps(&self) -> usize {
        self.gaps.iter().position(|&gap| gap < FREE_GAP_MIN).unwrap_or(self.gaps.len())
    }
}

/// How the steps of fed runs came out.
#[derive(Debug, Default, PartialEq)]
struct Fed {
    steps: usize,
    agreed: usize,
    /// The largest golden gap among the steps that did not agree.
    gap_max: f64,
    /// Steps that are neither the same nor a near tie.
    disputed: Vec<Disputed>,
}

/// A step on which our likeliest token is one that neither llama.cpp nor we held to be a near tie.
#[derive(Debug, PartialEq)]
struct Disputed {
    /// Index of the run.
    run: usize,
    /// The position whose tokens differ.
    position: usize,
    /// Ours.
    chosen: u32,
    /// For a person to read.
    what: String,
}

impl Fed {
    /// `tops`: our likeliest tokens of each position of prompt and run.
    fn add(&mut self, index: usize, run: &Run, tops: &[Top]) -> Result<(), String> {
        for (step, (&id, &gap)) in run.ids.iter().zip(&run.gaps).enumerate() {
            let position = run.prompt.len() - 1 + step;
            let top = tops.get(position).map(Vec::as_slice).unwrap_or_default();
            let Some(&(chosen, _)) = top.first() else { return Err(format!("step {step} has no tokens")) };
            self.steps += 1;
            if chosen == id {
                self.agreed += 1;
                continue;
            }
            self.gap_max = self.gap_max.max(gap);
            if chosen != run.seconds[step] && !is_near(top, id) {
                let what = format!("run {index}, step {step}: token {chosen} instead of {id}, gap {gap}");
                self.disputed.push(Disputed { run: index, position, chosen, what });
            }
        }
        Ok(())
    }
}

/// Likeliest tokens of a position with their log-probabilities.
type Top = Vec<(u32, f64)>;

/// Whether `id` is almost as likely as the likeliest.
fn is_near(top: &[(u32, f64)], id: u32) -> bool {
    let best = top.first().map_or(f64::NAN, |(_, best)| *best);
    top.iter().any(|&(other, logprob)| other == id && logprob >= best - NEAR)
}

fn run(rig: &Rig, report: &mut Report) -> Result<(), String> {
    for &model in &rig.models {
        let lines = rig.golden("greedy.jsonl", model)?;
        let mut runs = lines.iter().map(Run::read).collect::<Result<Vec<_>, _>>()?;
        runs.truncate(rig.scope.pick(2, usize::MAX, usize::MAX));
        report.line(fed_line(rig, model, &runs)?);
        if rig.scope == Scope::Quick {
            runs.truncate(1);
        }
        report.line(free(rig, model, &runs)?);
    }
    Ok(())
}

/// Feeds the runs and judges every step. llama.cpp's run is as noisy as ours; where the two dispute a
/// step, the exact path settles it.
fn fed_line(rig: &Rig, model: &str, runs: &[Run]) -> Result<Line, String> {
    let all: Vec<&Run> = runs.iter().collect();
    let mut fed = Fed::default();
    for (index, (run, tops)) in runs.iter().zip(feed(rig, model, &all, &[])?).enumerate() {
        fed.add(index, run, &tops)?;
    }
    let agreement = fed.agreed as f64 / fed.steps as f64;
    let mut line = Line::new(format!("{model}, fed"))
        .note(format!("{} of {} steps the same", fed.agreed, fed.steps))
        .at_least("agreement", agreement, AGREEMENT_MIN)
        .at_most("largest gap of the others", fed.gap_max, GAP_MAX);
    for Disputed { run, position, chosen, what } in fed.disputed {
        let exact = feed(rig, model, &[&runs[run]], &["--exact"])?;
        let top = exact.first().and_then(|tops| tops.get(position)).map(Vec::as_slice).unwrap_or_default();
        let holds = is_near(top, chosen);
        let settled = if holds { "as the exact path has it" } else { "and the exact path has neither" };
        line = line.require(holds, format!("{what}, {settled}"));
    }
    Ok(line)
}

/// Teacher-forced: the likeliest tokens of every position of each run.
fn feed(rig: &Rig, model: &str, runs: &[&Run], flags: &[&str]) -> Result<Vec<Vec<Top>>, String> {
    let ids = runs.iter().map(|run| [run.prompt.as_slice(), &run.ids].concat());
    let inputs: Vec<Value> = ids.map(|ids| json!({"ids": ids})).collect();
    let mut arguments = vec!["logits", model, "--ids-file", "{}", "--top", "10", "--json"];
    arguments.extend(flags);
    let outputs = rig.each(&inputs, &arguments)?;
    let tops = |output| golden::list(output, "positions")?.iter().map(distance::top).collect();
    outputs.iter().map(tops).collect()
}

/// Runs freely, one run of the program per prompt.
fn free(rig: &Rig, model: &str, runs: &[Run]) -> Result<Line, String> {
    let (mut same, mut firm, mut firm_same) = (0, 0, 0);
    let mut first_wrong = None;
    for (index, run) in runs.iter().enumerate() {
        let prompt: Vec<String> = run.prompt.iter().map(u32::to_string).collect();
        let (prompt, tokens) = (prompt.join(","), run.ids.len().to_string());
        let arguments =
            ["generate", model, "--ids", &prompt, "--max-tokens", &tokens, "--temperature", "0", "--json"];
        let mut ids = golden::ids(&rig.json(&arguments)?, "ids")?;
        // The token that ends an answer may be counted as a part of it or not.
        if run.ends && ids.len() + 1 == run.ids.len() {
            ids.extend(run.ids.last());
        }
        let common = ids.iter().zip(&run.ids).take_while(|(ours, theirs)| ours == theirs).count();
        same += common;
        firm += run.firm_steps();
        firm_same += common.min(run.firm_steps());
        if common < run.firm_steps() {
            let gap = run.gaps[common];
            first_wrong.get_or_insert_with(|| format!("run {index}, step {common}, whose gap was {gap}"));
        }
    }
    let all: usize = runs.iter().map(|run| run.ids.len()).sum();
    let line =
        Line::new(format!("{model}, free")).all("firm steps", (firm_same, firm), first_wrong.as_deref());
    Ok(line.note(format!("{same} of all {all} steps before the runs part")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden_run() -> Run {
        let line = json!({"prompt_ids": [1, 2], "ids": [10, 11, 12], "second_ids": [20, 21, 22],
                          "gap": [2.0, 0.5, 3.0], "stop": "length"});
        Run::read(&line).unwrap()
    }

    fn fed(choices: [&[(u32, f64)]; 3]) -> Fed {
        let mut tops = vec![vec![(99, -0.1)]];
        tops.extend(choices.map(<[_]>::to_vec));
        let mut fed = Fed::default();
        fed.add(0, &golden_run(), &tops).unwrap();
        fed
    }

    #[test]
    fn a_near_tie_may_fall_the_other_way() {
        let same = fed([&[(10, -0.1)], &[(11, -0.5)], &[(12, -0.1)]]);
        assert_eq!(same, Fed { steps: 3, agreed: 3, gap_max: 0.0, disputed: Vec::new() });
        let second = fed([&[(10, -0.1)], &[(21, -0.5)], &[(12, -0.1)]]);
        assert_eq!(second, Fed { steps: 3, agreed: 2, gap_max: 0.5, disputed: Vec::new() });
        let near = fed([&[(10, -0.1)], &[(33, -0.5), (11, -0.7)], &[(12, -0.1)]]);
        assert_eq!(near.disputed, []);
    }

    #[test]
    fn what_is_no_near_tie_is_disputed() {
        let far = fed([&[(10, -0.1)], &[(33, -0.5), (11, -0.9)], &[(12, -0.1)]]);
        let disputed: Vec<_> = far.disputed.iter().map(|step| (step.position, step.chosen)).collect();
        assert_eq!(disputed, [(2, 33)]);
        let clear = fed([&[(20, -0.1)], &[(11, -0.5)], &[(12, -0.1)]]);
        assert_eq!((clear.gap_max, clear.disputed.len()), (2.0, 0));
    }

    #[test]
    fn firm_steps_end_at_the_first_near_tie() {
        assert_eq!(golden_run().firm_steps(), 1);
        assert_eq!(Run { gaps: vec![1.0, 1.0, 1.0], ..golden_run() }.firm_steps(), 3);
    }
}
