//! `tandem serve`: the hybrid server.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use gateway::{Flow, FlowParts, Gateway, Metrics, Watched};
use ledger::Ledger;
use policy::guards::Chain;
use policy::{Calibration, PolicySettings, Stickiness};
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::budget::{Budget, Plan};
use crate::context::Context;
use crate::drafting::Part;
use crate::error::CliError;
use crate::output;
use crate::pair::{Loading, Pair, name_upstream_models};
use crate::progress::Style;
use crate::settings::{self, Settings, SettingsArgs};
use crate::{guards, heads};

/// Threads that talk to clients; computing has its own.
const IO_THREADS: usize = 2;
/// Threads that load models, make prompts into tokens, and read and write files: each has memory of its own.
const BLOCKING_THREADS_MAX: usize = 8;
/// Decides when traffic is no longer like what the policy was calibrated on.
const FALLBACK_POLICY: &str = "large";
/// What a process that a second signal ends exits with, as a shell would say of Ctrl-C.
const EXIT_INTERRUPTED: i32 = 130;

/// Serve the pair of models over HTTP, OpenAI-compatible; fetches the default pair if nothing is set
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tandem serve\n  \
                        tandem serve --small smollm2-135m --large http://localhost:8000/v1\n  \
                        tandem serve --config tandem.toml --check")]
pub struct Args {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Address and port; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Check the settings, print the effective ones with secrets masked, and end
    #[arg(long)]
    check: bool,
}

/// Runs the command.
///
/// # Errors
/// If the settings are wrong, a model can't be had or loaded, or the address is taken.
pub fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let mut flags = args.settings.flags();
    flags.keys.extend(args.listen.map(|listen| ("server", "listen", "--listen", listen)));
    let mut settings = settings::load(flags, context)?;
    for variable in settings::unknown_variables(context.environment()) {
        tracing::warn!("unknown environment variable {variable}");
    }
    let mut pair = Pair::new([&settings.small, &settings.large], &settings.speculative)?;
    let chain = guards::chain_if_here(&settings, context)?;
    pair.keep_states(Part::Small, guards::layers(&settings, chain.as_ref()));
    if args.check || settings.memory_bytes.is_some() || settings.speculative.asks_for_model() {
        let plan = pair.plan(&Budget::new(&settings), context)?;
        if args.check {
            return print(&settings, plan.map(|plan| (plan, pair.parts())), context);
        }
    }
    let runtime = io_runtime()?;
    runtime.block_on(name_upstream_models([&mut settings.small, &mut settings.large]))?;
    let chain = match chain {
        Some(chain) => chain,
        None => runtime.block_on(guards::chain(&settings, context, context.progress_style(Style::Lines)))?,
    };
    let mut pair = Pair::new([&settings.small, &settings.large], &settings.speculative)?;
    pair.keep_states(Part::Small, guards::layers(&settings, Some(&chain)));
    let served = runtime.block_on(serve((settings, chain), pair, context));
    // A model that is still loading is not waited for.
    runtime.shutdown_background();
    served
}

fn print(settings: &Settings, plan: Option<(Plan, Vec<Part>)>, context: &Context) -> Result<(), CliError> {
    if context.json {
        let sections = settings::effective(settings)?.into_iter();
        let mut sections: BTreeMap<&str, toml::Value> = sections.collect();
        sections.extend(plan.map(|(plan, _)| ("memory", toml::Value::Table(plan.to_toml()))));
        return output::json(&sections);
    }
    // Not part of the settings, which can be written to a file as they are.
    if let Some((plan, parts)) = plan {
        eprint!("{}", plan.table(&parts));
    }
    let text = settings::effective_toml(settings)?;
    let file = settings.file.as_ref().map(|path| path.display().to_string());
    output::text(&format!("# from {}\n{text}", file.as_deref().unwrap_or("no file")))
}

/// A runtime for sockets and timers.
///
/// # Errors
/// If the system gives no threads.
pub fn io_runtime() -> Result<Runtime, CliError> {
    Builder::new_multi_thread()
        .worker_threads(IO_THREADS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build()
        .map_err(|error| CliError::failed(format!("can't start the async runtime: {error}")))
}

async fn serve((settings, chain): (Settings, Chain), pair: Pair, context: &Context) -> Result<(), CliError> {
    let stop = stop_on_signals()?;
    let (flow, loading) = assemble((&settings, chain), &pair, context).await?;
    let ledger = flow.ledger().cloned();
    let gateway = Gateway::bind(settings.gateway.clone(), flow.clone()).await.map_err(CliError::failed)?;
    let address = gateway.local_addr();
    tracing::info!("listening on http://{address}; the models are being loaded");

    let (failed, has_failed) = watch::channel(false);
    let load = async {
        tokio::select! {
            loaded = load(&settings, (&pair, &loading), (&flow, context)) => {
                let told = loaded.and_then(|()| announce(address, &pair, context));
                // The server can't do its work, so it ends.
                failed.send_replace(told.is_err());
                told
            }
            () = raised(stop.clone()) => Ok(()),
        }
    };
    let shutdown = async {
        tokio::select! {
            () = raised(stop.clone()) => {}
            () = raised(has_failed) => {}
        }
    };
    let (loaded, ()) = tokio::join!(load, gateway.serve(shutdown));
    if let Some(ledger) = ledger {
        ledger.close().await.map_err(CliError::failed)?;
    }
    loaded
}

/// The flow over the pair, and what its models are loaded with.
///
/// # Errors
/// If the ledger can't be opened, the policy can't be built, or its calibration is of another pair.
pub async fn assemble(
    (settings, guards): (&Settings, Chain),
    pair: &Pair,
    context: &Context,
) -> Result<(Flow, Loading), CliError> {
    if let Some(calibration) = &settings.calibration {
        check_models(calibration, [&pair.small.info().model, &pair.large.info().model])?;
    }
    let path = &settings.ledger.path;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|error| CliError::failed(format!("can't make {}: {error}", folder.display())))?;
    }
    let ledger = Ledger::open(path, settings.ledger.settings.clone()).await.map_err(CliError::failed)?;
    let metrics = Metrics::new().map_err(CliError::failed)?;
    let policy = policy::build_calibrated(&settings.policy, settings.calibration.clone());
    let policy = policy.map_err(CliError::usage)?;
    let parts = FlowParts {
        policy: Arc::from(policy),
        small: Arc::clone(&pair.small),
        large: Arc::clone(&pair.large),
        ledger: Some(ledger),
        heads: heads::flow_heads(settings)?,
        limits: settings.gateway.flow_limits(),
        metrics: metrics.clone(),
        guards,
    };
    let flow = Flow::watched(parts, watched(settings)?);
    Ok((flow, loading(settings, context, metrics)))
}

/// The calibration, if there is one, with large for when traffic is no longer like its rows.
fn watched(settings: &Settings) -> Result<Option<Watched>, CliError> {
    let Some(calibration) = settings.calibration.clone() else { return Ok(None) };
    // A loop of tools is not torn apart; in a conversation that small has led, large takes over.
    let sticky = match settings.policy.sticky {
        Stickiness::Off => Stickiness::Off,
        Stickiness::Tools | Stickiness::Conversation => Stickiness::Tools,
    };
    let large = PolicySettings { kind: FALLBACK_POLICY.to_owned(), sticky, ..PolicySettings::default() };
    let fallback = Arc::from(policy::build(&large).map_err(CliError::usage)?);
    Ok(Some(Watched { calibration, fallback }))
}

/// What a pair's models are loaded with.
pub fn loading(settings: &Settings, context: &Context, metrics: Metrics) -> Loading {
    Loading {
        pool: Arc::new(kernels::pool::Pool::new(settings.threads)),
        turns: Arc::default(),
        isa: context.isa(),
        queue_max: settings.gateway.queue_max,
        budget: Budget::new(settings),
        tells_plan: true,
        cache: settings.cache.packed(context),
        style: context.progress_style(Style::Lines),
        metrics,
    }
}

/// Loads the models, if they are those that the calibration's heads know, and shows guards their examples.
async fn load(
    settings: &Settings,
    (pair, loading): (&Pair, &Loading),
    (flow, context): (&Flow, &Context),
) -> Result<(), CliError> {
    heads::check(settings, context, loading.style).await?;
    pair.load(loading, context).await?;
    flow.teach_guards().await.map_err(CliError::failed)
}

/// Refuses a calibration of other models than those that are served: its promise would not hold. A small model that
/// its head knows by the file's hash may have another name.
fn check_models(calibration: &Calibration, served: [&str; 2]) -> Result<(), CliError> {
    let is_known = calibration.routes && calibration.right.heads().next().is_some();
    let roles = [("small", &calibration.small, is_known), ("large", &calibration.large, false)];
    for ((role, calibrated, is_known), served) in roles.into_iter().zip(served) {
        if calibrated != served && !is_known {
            return Err(CliError::usage(format!(
                "policy.calibration is of {calibrated:?} as {role}, and served is {served:?}: its promise would not \
                 hold. Serve that model, or calibrate on outcomes of this pair; if it is the same model under another \
                 name, say so by that name as {role:?} in the calibration's file"
            )));
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct Announcement {
    url: String,
    small: String,
    large: String,
}

/// Says that requests are welcome, and how to send one.
fn announce(address: SocketAddr, pair: &Pair, context: &Context) -> Result<(), CliError> {
    let host = match address.ip() {
        ip if ip.is_unspecified() => format!("localhost:{}", address.port()),
        _ => address.to_string(),
    };
    let (small, large) = (pair.small.info().model, pair.large.info().model);
    let url = format!("http://{host}/v1");
    let told = if context.json {
        output::json(&Announcement { url, small, large })
    } else {
        output::text(&format!(
            "\nready: {url}  (small: {small}, large: {large})\n\n  curl {url}/chat/completions \\\n    \
             -H 'content-type: application/json' \\\n    \
             -d '{{\"model\": \"auto\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello!\"}}]}}'\n\n"
        ))
    };
    match told {
        // Serving does not depend on somebody reading this.
        Err(CliError::OutputClosed) => Ok(()),
        told => told,
    }
}

/// Waits until a flag is raised; for ever if nobody can raise it any more.
async fn raised(mut flag: watch::Receiver<bool>) {
    if flag.wait_for(|raised| *raised).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A flag that Ctrl-C or SIGTERM raises. A second signal ends the process at once.
fn stop_on_signals() -> Result<watch::Receiver<bool>, CliError> {
    let (raise, flag) = watch::channel(false);
    let mut signals =
        Signals::new().map_err(|error| CliError::failed(format!("can't watch for signals: {error}")))?;
    tokio::spawn(async move {
        signals.next().await;
        tracing::info!("stopping: running requests may finish; a second signal ends them");
        raise.send_replace(true);
        signals.next().await;
        std::process::exit(EXIT_INTERRUPTED);
    });
    Ok(flag)
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Signals)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
