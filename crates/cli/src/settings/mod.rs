//! The settings of `serve` and `chat`, in two stages: [`layers`] reads file, environment and flags by
//! the list in [`keys`]; here the result becomes [`Settings`], whose types say that it makes sense.

mod cache;
mod calibration;
mod effective;
mod guards;
mod keys;
mod layers;
mod roles;
mod server;
mod speculative;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use gateway::GatewaySettings;
use kernels::pool::THREADS_MAX;
use ledger::LedgerSettings;
use policy::guards::GuardSettings;
use policy::{Calibration, PolicySettings};
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::context::Context;
use crate::error::CliError;
pub use cache::CacheSettings;
pub use calibration::CALIBRATIONS_FOLDER;
pub use effective::{effective, effective_toml};
pub use keys::parse_bytes;
pub use layers::{Flags, unknown_variables};
pub use roles::{LocalSettings, RoleSettings};
pub use server::Open;
pub use speculative::{DrafterKind, SpeculativeSettings};

/// Name of the ledger in the home folder.
const LEDGER_FILE: &str = "ledger.db";

/// Flags that change settings.
#[derive(Clone, Debug, Default, Args)]
pub struct SettingsArgs {
    /// The configuration file [default: ./tandem.toml if it is there; also TANDEM_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The small model: a .gguf file, a catalogue name, hf:OWNER/REPO/FILE, or an upstream's URL
    #[arg(long, value_name = "REF|URL")]
    pub small: Option<String>,
    /// The large model, in the same ways
    #[arg(long, value_name = "REF|URL")]
    pub large: Option<String>,
    /// The large model's name at its upstream
    #[arg(long, value_name = "NAME")]
    pub large_model: Option<String>,
    /// The policy: small, large, rules, route, cascade or cascade-route
    #[arg(long, value_name = "KIND")]
    pub policy: Option<String>,
    /// Tokens of prompt and answer together, for both local models
    #[arg(long, value_name = "TOKENS")]
    pub context: Option<String>,
    /// Budget for everything in memory, such as 3GiB
    #[arg(long, value_name = "BYTES")]
    pub memory: Option<String>,
    /// Whether what local models write is drafted, which makes it faster, not different [default: true]
    #[arg(long, value_name = "true|false")]
    pub speculative: Option<String>,
}

impl SettingsArgs {
    /// The flags, as keys.
    pub fn flags(&self) -> Flags {
        let role = |section, value: &Option<String>| value.clone().map(|text| (section, text));
        let key = |section, name, flag, value: &Option<String>| {
            value.clone().map(|text| (section, name, flag, text))
        };
        let keys = [
            key("large", "model", "--large-model", &self.large_model),
            key("policy", "kind", "--policy", &self.policy),
            key("small", "context_tokens", "--context", &self.context),
            key("large", "context_tokens", "--context", &self.context),
            key("server", "memory", "--memory", &self.memory),
            key("speculative", "enabled", "--speculative", &self.speculative),
        ];
        Flags {
            config: self.config.clone(),
            roles: [role("small", &self.small), role("large", &self.large)].into_iter().flatten().collect(),
            keys: keys.into_iter().flatten().collect(),
        }
    }
}

/// Where and how the ledger is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct LedgerPlan {
    /// The database's file.
    pub path: PathBuf,
    /// How it is run.
    pub settings: LedgerSettings,
}

/// Everything that can be set, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// The server.
    pub gateway: GatewaySettings,
    /// Most bytes that the process may have in memory; `None`: no limit.
    pub memory_bytes: Option<u64>,
    /// Which limits of the server follow it.
    pub open: Open,
    /// Threads that compute.
    pub threads: usize,
    /// Who fills the role small.
    pub small: RoleSettings,
    /// Who fills the role large.
    pub large: RoleSettings,
    /// How requests are routed.
    pub policy: PolicySettings,
    /// What guards requests and answers.
    pub guards: Vec<GuardSettings>,
    /// By what they are, if a calibration is named.
    pub calibration: Option<Arc<Calibration>>,
    /// How local models' tokens are drafted.
    pub speculative: SpeculativeSettings,
    /// The ledger.
    pub ledger: LedgerPlan,
    /// What is kept for the next start.
    pub cache: CacheSettings,
}

/// Reads and checks all settings.
///
/// # Errors
/// [`CliError::Usage`] or [`CliError::Missing`], saying where and what to do.
pub fn load(mut flags: Flags, context: &Context) -> Result<Settings, CliError> {
    if let Some(threads) = context.threads_flag {
        flags.keys.push(("server", "threads", "--threads", threads.to_string()));
    }
    let mut raw = layers::read(&flags, context.environment(), Path::new("."))?;
    let mut server = std::mem::take(raw.section("server"));
    let memory_bytes = server.remove("memory").map(|value| bytes("server.memory", value)).transpose()?;
    let threads = server.remove("threads").map(threads).transpose()?.unwrap_or_else(|| context.threads());
    let open = Open::of(&server, raw.section("ledger"));
    let mut gateway: GatewaySettings = typed("server", server)?;
    let mut ledger = ledger_plan(std::mem::take(raw.section("ledger")), context)?;
    if let Some(memory_bytes) = memory_bytes {
        open.fit(memory_bytes, (&mut gateway, &mut ledger.settings));
    }
    gateway.validate().map_err(CliError::usage)?;
    let policy: PolicySettings = typed("policy", std::mem::take(raw.section("policy")))?;
    let calibration = calibration::load(&policy, context)?;
    policy::build_calibrated(&policy, calibration.clone()).map_err(CliError::usage)?;
    let guards = guards::read(std::mem::take(&mut raw.guards))?;
    let cache = CacheSettings::read(std::mem::take(raw.section("cache")))?;
    let mut role = |name| RoleSettings::read(name, std::mem::take(raw.section(name)), context);
    let (small, large) = (role("small")?, role("large")?);
    let speculative = SpeculativeSettings::read(std::mem::take(raw.section("speculative")), context)?;
    Ok(Settings {
        file: raw.file,
        gateway,
        memory_bytes,
        open,
        threads,
        small,
        large,
        policy,
        guards,
        calibration,
        speculative,
        ledger,
        cache,
    })
}

/// Where the ledger is, by configuration file and environment.
///
/// # Errors
/// As [`load`].
pub fn ledger_path(config: Option<&Path>, context: &Context) -> Result<PathBuf, CliError> {
    let flags = Flags { config: config.map(Path::to_path_buf), ..Flags::default() };
    let mut raw = layers::read(&flags, context.environment(), Path::new("."))?;
    Ok(ledger_plan(std::mem::take(raw.section("ledger")), context)?.path)
}

/// What is kept for the next start, by configuration file and environment.
///
/// # Errors
/// As [`load`].
pub fn cache(context: &Context) -> Result<CacheSettings, CliError> {
    let mut raw = layers::read(&Flags::default(), context.environment(), Path::new("."))?;
    CacheSettings::read(std::mem::take(raw.section("cache")))
}

fn ledger_plan(mut table: Table, context: &Context) -> Result<LedgerPlan, CliError> {
    let path = match table.remove("path") {
        Some(Value::String(path)) if !path.is_empty() => PathBuf::from(path),
        Some(_) => return Err(CliError::usage("ledger.path is empty; give a file, or leave it out")),
        None => context.home()?.join(LEDGER_FILE),
    };
    let settings: LedgerSettings = typed("ledger", table)?;
    settings.validate().map_err(CliError::usage)?;
    Ok(LedgerPlan { path, settings })
}

/// Reads an amount of memory; `place` is for messages.
fn bytes(place: &str, value: Value) -> Result<u64, CliError> {
    let wrong = |why: String| CliError::usage(format!("{place}: {why}"));
    match value {
        Value::Integer(bytes) => parse_bytes(&bytes.to_string()).map_err(wrong),
        Value::String(text) => parse_bytes(&text).map_err(wrong),
        _ => Err(wrong("give bytes, or text such as \"3GiB\"".to_owned())),
    }
}

fn threads(value: Value) -> Result<usize, CliError> {
    let threads = value.as_integer().and_then(|threads| usize::try_from(threads).ok());
    threads
        .filter(|threads| (1..=THREADS_MAX).contains(threads))
        .ok_or_else(|| CliError::usage(format!("server.threads must be in 1..={THREADS_MAX}, not {value}")))
}

/// A section's keys as the type that they are for.
fn typed<T: DeserializeOwned>(section: &str, table: Table) -> Result<T, CliError> {
    table.try_into().map_err(|error: toml::de::Error| {
        CliError::usage(format!("[{section}]: {}", error.to_string().trim_end().replace('\n', " ")))
    })
}

#[cfg(test)]
mod tests;
