//! `tandem eval --task`: rows in, outcomes out.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use contract::{Backend, Role};
use engine::decoder::LayerSet;
use gateway::Metrics;
use lab::checks::Tools;
use lab::checks::sandbox::{Sandbox, SandboxSettings};
use lab::evaluate::{Ended, Evaluation, EvaluationError, EvaluationOptions, Reading, Told};
use lab::outcome_file::{OutcomeFile, OutcomeFileError, done};
use lab::outcomes::Outcome;
use lab::rejudge::rejudge;
use lab::rows::{Expected, Row};
use lab::summary::Summary;
use lab::tasks::{self, TASK_BYTES_MAX};

use super::super::serve::{io_runtime, loading};
use crate::context::Context;
use crate::drafting::Part;
use crate::error::{CliError, unreadable};
use crate::output;
use crate::pair::{Pair, name_upstream_models};
use crate::progress;
use crate::settings::{self, RoleSettings, Settings, SettingsArgs};

/// Folder of tasks that are known by name, in the home folder.
const TASKS_FOLDER: &str = "tasks";
/// What a named task's file may end with.
const TASK_ENDINGS: [&str; 2] = ["jsonl", "jsonl.gz"];
/// Requests at once.
const CLIENTS_DEFAULT: u32 = 16;
/// Most of them: as many sequences as a local model has.
const CLIENTS_MAX: i64 = 256;
/// Tokens of an answer where neither row nor flag says how many.
const MAX_TOKENS_DEFAULT: u32 = 512;
/// Which layers `--layers auto` reads: the ends of this many equal parts of the model.
const AUTO_LAYERS: usize = 4;
/// Seconds of a program that python_tests runs.
const PROGRAM_SECONDS_DEFAULT: u64 = 10;

#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Rows: a file of JSON lines, .gz or not, or the name of one in TANDEM_HOME/tasks
    #[arg(long, value_name = "FILE|NAME", required_unless_present = "outcomes")]
    task: Option<String>,
    /// What the file's rows are [default: seen in its first line]
    #[arg(long, value_name = "NAME", value_parser = format_name)]
    format: Option<String>,
    /// Who is asked
    #[arg(long, value_name = "small,large", value_delimiter = ',', default_value = "small,large", value_parser = role)]
    backend: Vec<Role>,
    /// File that outcomes are appended to; rows that are in it are not asked again
    #[arg(long, value_name = "FILE", required_unless_present = "outcomes")]
    out: Option<PathBuf>,
    /// Most tokens of an answer; a row may say fewer [default: 512]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
    /// Requests at once
    #[arg(long, value_name = "N", default_value_t = CLIENTS_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=CLIENTS_MAX))]
    clients: u32,
    /// Only the first rows
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// After which layers the small model's reading is kept: none, a list, or auto for four where it can be read
    #[arg(long, value_name = "auto|none|8,16", default_value = "auto")]
    layers: Layers,
    /// Seconds that a program may run which python_tests checks
    #[arg(long, value_name = "N", default_value_t = PROGRAM_SECONDS_DEFAULT, value_parser = clap::value_parser!(u64).range(1..=600))]
    program_seconds: u64,
    /// Judge the answers in the file of outcomes again, by the rows' checks as they are now; nobody is asked
    #[arg(long)]
    rejudge: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// What is read of prompts, as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Layers {
    Auto,
    None,
    List(Vec<u32>),
}

impl FromStr for Layers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Layers::Auto),
            "none" => Ok(Layers::None),
            list => {
                let numbers: Result<Vec<u32>, _> = list.split(',').map(|part| part.trim().parse()).collect();
                let mut numbers =
                    numbers.map_err(|_| "give auto, none, or layers such as 8,16".to_owned())?;
                numbers.sort_unstable();
                numbers.dedup();
                Ok(Layers::List(numbers))
            }
        }
    }
}

fn role(text: &str) -> Result<Role, String> {
    let role = [Role::Small, Role::Large].into_iter().find(|role| role.as_str() == text);
    role.ok_or_else(|| "a backend is small or large".to_owned())
}

fn format_name(text: &str) -> Result<String, String> {
    let names: Vec<&str> = tasks::FORMATS.iter().map(|format| format.name).collect();
    if names.contains(&text) { Ok(text.to_owned()) } else { Err(format!("known are {}", names.join(", "))) }
}

/// Who has to be there for the rows that are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Needs {
    small: bool,
    large: bool,
    judge: bool,
    sandbox: bool,
}

impl Needs {
    fn of(rows: &[Row], args: &RunArgs) -> Self {
        let asks = rows.iter().any(|row| matches!(row.expected, Expected::Check(_)));
        let any = |of: fn(&dyn lab::checks::Check) -> bool| {
            rows.iter().any(|row| matches!(&row.expected, Expected::Check(check) if of(check.as_ref())))
        };
        let wants = |role| args.backend.contains(&role);
        let judge = any(|check| check.needs_judge());
        Needs {
            small: wants(Role::Small) && (asks || args.layers != Layers::None),
            large: judge || (wants(Role::Large) && asks),
            judge,
            sandbox: any(|check| check.needs_sandbox()),
        }
    }
}

impl RunArgs {
    fn out(&self) -> Result<&Path, CliError> {
        self.out.as_deref().ok_or_else(|| CliError::usage("--out says where outcomes are appended"))
    }
}

/// Runs the command.
///
/// # Errors
/// If rows, settings or the file of outcomes are wrong, a model can't be had, or the run was stopped.
pub fn run(args: RunArgs, context: &Context) -> Result<(), CliError> {
    let mut rows = rows(&args, context)?;
    rows.truncate(args.limit.unwrap_or(rows.len()));
    let mut flags = args.settings.flags();
    if args.settings.speculative.is_none() {
        // It changes nothing but the time.
        flags.keys.push(("speculative", "enabled", "--speculative", "false".to_owned()));
    }
    let mut settings = settings::load(flags, context)?;
    for role in [&mut settings.small, &mut settings.large] {
        if let RoleSettings::Local(local) = role {
            local.wanted.sequences.get_or_insert(args.clients);
        }
    }
    settings.gateway.queue_max = settings.gateway.queue_max.max(args.clients as usize);
    let runtime = io_runtime()?;
    let ran = match args.rejudge {
        true => runtime.block_on(judge_again(&args, &rows, context)),
        false => runtime.block_on(evaluate(&args, &rows, settings, context)),
    };
    runtime.shutdown_background();
    ran
}

/// The task's rows.
fn rows(args: &RunArgs, context: &Context) -> Result<Vec<Row>, CliError> {
    let path = task_file(args.task.as_deref().unwrap_or_default(), context)?;
    let bytes = std::fs::metadata(&path).map_err(|error| unreadable(&path, &error))?.len();
    if bytes > TASK_BYTES_MAX {
        return Err(CliError::usage(format!(
            "{} has {bytes} bytes; the limit is {TASK_BYTES_MAX}",
            path.display()
        )));
    }
    let content = std::fs::read(&path).map_err(|error| unreadable(&path, &error))?;
    tasks::read(&content, args.format.as_deref())
        .map_err(|error| CliError::usage(format!("{}: {error}", path.display())))
}

fn task_file(task: &str, context: &Context) -> Result<PathBuf, CliError> {
    if Path::new(task).is_file() {
        return Ok(task.into());
    }
    let is_name = !task.contains(['/', '\\']) && !task.starts_with('.');
    let folder = context.home()?.join(TASKS_FOLDER);
    let known = TASK_ENDINGS.iter().map(|ending| folder.join(format!("{task}.{ending}")));
    known.into_iter().find(|path| is_name && path.is_file()).ok_or_else(|| {
        CliError::missing(format!(
            "there is no file {task}, and no task of that name in {}; give a file of rows (docs/lab.md)",
            folder.display()
        ))
    })
}

/// The backends that are needed, still without their models.
fn pair(needs: Needs, settings: &Settings) -> Result<Pair, CliError> {
    match needs {
        Needs { small: true, large: false, .. } => {
            Pair::single(Part::Small, &settings.small, &settings.speculative)
        }
        Needs { small: false, large: true, .. } => {
            Pair::single(Part::Large, &settings.large, &settings.speculative)
        }
        _ => Pair::new([&settings.small, &settings.large], &settings.speculative),
    }
}

async fn evaluate(
    args: &RunArgs,
    rows: &[Row],
    mut settings: Settings,
    context: &Context,
) -> Result<(), CliError> {
    let needs = Needs::of(rows, args);
    let out = args.out()?;
    let (mut file, there) = OutcomeFile::open(out).map_err(file_error)?;
    let done = done(&there);
    if needs.small {
        name_upstream_models([&mut settings.small]).await?;
    }
    if needs.large {
        name_upstream_models([&mut settings.large]).await?;
    }
    let mut pair = pair(needs, &settings)?;
    if needs.small {
        pair.keep_states(Part::Small, args.layers.kept());
    }
    let backends: Vec<(Role, Arc<dyn Backend>)> = [(Role::Small, &pair.small), (Role::Large, &pair.large)]
        .into_iter()
        .filter(|(role, _)| args.backend.contains(role))
        .map(|(role, backend)| (role, Arc::clone(backend)))
        .collect();
    same_models(&there, &backends, out)?;
    let judge = needs.judge.then(|| Arc::clone(&pair.large));
    let tools = Tools { judge, sandbox: sandbox((needs, args), context).await? };
    if needs.small || needs.large {
        let metrics = Metrics::new().map_err(CliError::failed)?;
        let mut loading = loading(&settings, context, metrics);
        loading.tells_plan = false;
        tokio::select! {
            loaded = pair.load(&loading, context) => loaded?,
            _ = tokio::signal::ctrl_c() => return Err(CliError::failed("stopped before it began")),
        }
    }
    let options = EvaluationOptions {
        clients: args.clients as usize,
        max_tokens: args.max_tokens.unwrap_or(MAX_TOKENS_DEFAULT),
        reading: if needs.small { reading(&args.layers, &pair)? } else { Reading::Off },
    };
    let evaluation = Evaluation::new(rows, backends, tools, options);
    let summary = Summary::of(of_rows(&there, rows));
    drop(there);
    let total = (rows.len() * args.backend.len()) as u64;
    follow(&evaluation, (&done, summary), (&mut file, total), context).await
}

/// Runs it, with a bar, and says at the end what came of it.
async fn follow(
    evaluation: &Evaluation<'_>,
    (done, mut summary): (&HashSet<(String, Role)>, Summary),
    (file, total): (&mut OutcomeFile, u64),
    context: &Context,
) -> Result<(), CliError> {
    let bar = progress::counter("evaluating", total, context.stderr_is_terminal);
    bar.set_position(summary.backends.values().map(|backend| backend.all.rows).sum());
    bar.reset_eta();
    let stop = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let ended = evaluation
        .run(done, stop, |told| {
            match told {
                Told::NoReading(why) => bar.suspend(|| eprintln!("tandem: going on without readings: {why}")),
                Told::Outcome(outcome) => {
                    file.append(&outcome)?;
                    summary.add(&outcome);
                    bar.inc(1);
                }
            }
            Ok(())
        })
        .await;
    bar.finish_and_clear();
    let ended = ended.map_err(|error| match error {
        EvaluationError::Told(error) => file_error(error),
        EvaluationError::CannotRead(_) => CliError::failed(format!("{error}; --layers none goes on without")),
    })?;
    if context.json {
        output::json(&summary)?;
    } else {
        output::text(&summary.table())?;
    }
    match ended {
        Ended::Whole => Ok(()),
        Ended::Stopped => Err(CliError::failed("stopped; the same command goes on from here")),
    }
}

/// Judges what the file holds, and replaces it.
async fn judge_again(args: &RunArgs, rows: &[Row], context: &Context) -> Result<(), CliError> {
    let needs = Needs::of(rows, args);
    if needs.judge {
        return Err(CliError::usage("--rejudge asks nobody, and these rows' checks ask a judge"));
    }
    let (_, there) = OutcomeFile::open(args.out()?).map_err(file_error)?;
    let tools = Tools { judge: None, sandbox: sandbox((needs, args), context).await? };
    let (outcomes, changed) = rejudge(rows, there, &tools).await;
    OutcomeFile::replace(args.out()?, &outcomes).map_err(file_error)?;
    let summary = Summary::of(of_rows(&outcomes, rows));
    if context.json {
        return output::json(&summary);
    }
    output::text(&summary.table())?;
    output::line(&format!("{changed} of {} outcomes were judged otherwise before", outcomes.len()))
}

/// Outcomes of these rows only: a file may hold more.
fn of_rows<'a>(outcomes: &'a [Outcome], rows: &[Row]) -> impl Iterator<Item = &'a Outcome> {
    let ids: HashSet<String> = rows.iter().map(|row| row.id.clone()).collect();
    outcomes.iter().filter(move |outcome| ids.contains(&outcome.id))
}

/// Refuses to append one model's outcomes to another's.
fn same_models(there: &[Outcome], backends: &[(Role, Arc<dyn Backend>)], out: &Path) -> Result<(), CliError> {
    for (role, backend) in backends {
        let model = backend.info().model;
        let mut others = there.iter().filter(|outcome| outcome.backend == *role && !outcome.model.is_empty());
        if let Some(other) = others.find(|outcome| outcome.model != model) {
            return Err(CliError::usage(format!(
                "{} holds outcomes of {} as {}, not of {model}; give another file with --out",
                out.display(),
                other.model,
                role.as_str()
            )));
        }
    }
    Ok(())
}

/// What runs programs that checks need; `None` if none do.
async fn sandbox(
    (needs, args): (Needs, &RunArgs),
    context: &Context,
) -> Result<Option<Arc<Sandbox>>, CliError> {
    if !needs.sandbox {
        return Ok(None);
    }
    let mut settings =
        SandboxSettings { time_ms_max: args.program_seconds * 1000, ..SandboxSettings::default() };
    if let Some(python) = context.environment().get("TANDEM_PYTHON")? {
        settings.python = python.into();
    }
    let sandbox = Sandbox::new(settings).await.map_err(CliError::missing)?;
    if !sandbox.has_name_spaces() {
        tracing::warn!(
            "programs are kept from the network by their interpreter only: the system grants no more"
        );
    }
    Ok(Some(Arc::new(sandbox)))
}

impl Layers {
    /// Layers whose states are to be kept. Which ones are read of all of them depends on the model.
    fn kept(&self) -> LayerSet {
        match self {
            Layers::None => LayerSet::default(),
            Layers::Auto => LayerSet::of(0..LayerSet::LAYERS_MAX),
            Layers::List(list) => LayerSet::of(list.iter().copied()),
        }
    }
}

/// What is read, of a model that is loaded.
fn reading(layers: &Layers, pair: &Pair) -> Result<Reading, CliError> {
    let count = pair.layers(Part::Small);
    match (layers, count) {
        (Layers::None, _) => Ok(Reading::Off),
        (Layers::Auto, None) => {
            eprintln!("tandem: going on without readings: only a local small model can be read with");
            Ok(Reading::Off)
        }
        (Layers::Auto, Some(count)) => {
            let ends =
                (1..=AUTO_LAYERS).map(|part| u32::try_from(count * part / AUTO_LAYERS).unwrap_or(u32::MAX));
            Ok(Reading::IfPossible(ends.collect()))
        }
        (Layers::List(_), None) => {
            Err(CliError::usage("--layers: only a local small model can be read with"))
        }
        (Layers::List(list), Some(count)) => match list.iter().find(|&&layer| layer as usize > count) {
            Some(layer) => {
                Err(CliError::usage(format!("--layers: there is no layer {layer}; the last is {count}")))
            }
            None => Ok(Reading::Wanted(list.clone())),
        },
    }
}

fn file_error(error: OutcomeFileError) -> CliError {
    match error {
        OutcomeFileError::Io { .. } => CliError::failed(error),
        OutcomeFileError::Line { .. } | OutcomeFileError::TooLarge(_) => CliError::usage(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_auto_none_or_a_list() {
        assert_eq!("auto".parse(), Ok(Layers::Auto));
        assert_eq!("none".parse(), Ok(Layers::None));
        assert_eq!("16, 8,8".parse(), Ok(Layers::List(vec![8, 16])));
        for wrong in ["", "8,", "-1", "all"] {
            assert!(wrong.parse::<Layers>().is_err(), "{wrong}");
        }
    }
}
