//! `tandem models`: the catalogue and what is installed.

use serde::Serialize;
use store::{Installed, Reference};

use crate::context::Context;
use crate::error::CliError;
use crate::footprint::Footprint;
use crate::output;

/// List the catalogue and what is installed: size, architecture, KV bytes per token
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tandem models --json")]
pub struct Args {}

/// A model, known by name or installed or both.
#[derive(Debug, Serialize)]
struct Line {
    name: String,
    installed: bool,
    bytes: u64,
    architecture: Option<String>,
    kv_bytes_per_token: Option<u64>,
    context_tokens: Option<u64>,
    licence: Option<String>,
    description: Option<String>,
    path: Option<String>,
    /// Why the installed file can't be used.
    problem: Option<String>,
}

#[derive(Serialize)]
struct Output {
    models: Vec<Line>,
}

/// Runs the command.
///
/// # Errors
/// If the models folder can't be read.
pub fn run(_: Args, context: &Context) -> Result<(), CliError> {
    let mut installed = context.store()?.installed()?;
    let mut models = Vec::new();
    for entry in context.catalogue().entries() {
        let reference = Reference::Catalogue(entry.name.clone());
        let found = installed.iter().position(|model| model.reference == reference);
        let mut line = match found.map(|index| installed.remove(index)) {
            Some(model) => of_file(&model),
            None => Line::named(entry.name.clone(), entry.bytes),
        };
        line.architecture.get_or_insert_with(|| entry.architecture.clone());
        line.licence = Some(entry.licence.clone());
        line.description = Some(entry.description.clone());
        models.push(line);
    }
    models.extend(installed.iter().map(of_file));
    if context.json { output::json(&Output { models }) } else { table(&models) }
}

impl Line {
    fn named(name: String, bytes: u64) -> Self {
        Line {
            name,
            installed: false,
            bytes,
            architecture: None,
            kv_bytes_per_token: None,
            context_tokens: None,
            licence: None,
            description: None,
            path: None,
            problem: None,
        }
    }
}

fn of_file(model: &Installed) -> Line {
    let mut line = Line::named(model.reference.to_string(), model.bytes);
    line.installed = true;
    line.path = Some(model.path.display().to_string());
    if let Some(damage) = &model.damage {
        line.problem = Some(format!("damaged: {damage}"));
        return line;
    }
    match Footprint::read(&model.path) {
        Ok(footprint) => {
            line.kv_bytes_per_token = Some(footprint.kv_bytes_per_token());
            line.context_tokens = Some(footprint.context_tokens_max);
            line.architecture = Some(footprint.architecture);
        }
        Err(error) => line.problem = Some(error.to_string()),
    }
    line
}

fn table(models: &[Line]) -> Result<(), CliError> {
    let width = models.iter().map(|line| line.name.len()).max().unwrap_or(0).max(4);
    output::line(&format!(
        "{:width$}  {:9}  {:>10}  {:12}  {:>12}  {:>9}",
        "NAME", "INSTALLED", "SIZE", "ARCHITECTURE", "KV PER TOKEN", "CONTEXT"
    ))?;
    for line in models {
        let kv = line.kv_bytes_per_token.map_or_else(|| "-".to_owned(), output::size);
        let context = line.context_tokens.map_or_else(|| "-".to_owned(), |tokens| tokens.to_string());
        output::line(&format!(
            "{:width$}  {:9}  {:>10}  {:12}  {kv:>12}  {context:>9}",
            line.name,
            if line.installed { "yes" } else { "no" },
            output::size(line.bytes),
            line.architecture.as_deref().unwrap_or("-"),
        ))?;
        if let Some(problem) = &line.problem {
            output::line(&format!("  {problem}"))?;
        }
    }
    Ok(())
}
