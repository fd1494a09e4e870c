//! What `tandem serve` will hold in memory, part by part, chosen so that it stays within a budget:
//! [`Plan`]. The arithmetic is the planner's; here are its inputs.

use std::path::Path;

use engine::decoder::{DecoderOptions, LayerSet, Sizes, SizesFor};
use engine::model::{LoadOptions, Model};
use engine::tokenizer::TOKENIZING_BYTES_PER_BYTE;
use gateway::GatewaySettings;
use kernels::attention::KvType;
use kernels::pool::Pool;
use ledger::LedgerSettings;
use planner::split::{self, Choice, KvKind, Part, Split, Taken};

use crate::context::in_file;
use crate::drafting::{DraftNeeds, Part as Local};
use crate::error::CliError;
use crate::settings::{LocalSettings, Open, Settings};

const MIB: u64 = 1 << 20;
/// The program itself, its stacks, and what the allocator can't give back.
const PROCESS_BYTES: u64 = 20 * MIB;
/// A compute thread's stack and what it keeps.
const THREAD_BYTES: u64 = 512 << 10;
/// A row that waits for the ledger, without texts: they are not kept unless asked for.
const LEDGER_ROW_BYTES: u64 = 4 << 10;
/// The database's page caches, of its writer and its readers.
const LEDGER_CACHE_BYTES: u64 = 4 * MIB;

/// A local model that is to get its share.
#[derive(Clone, Copy, Debug)]
pub struct Planned<'a> {
    /// What it is for.
    pub part: Local,
    /// How it is to run.
    pub settings: &'a LocalSettings,
    /// Its numbers.
    pub model: &'a Model,
    /// What drafting asks of it.
    pub needs: DraftNeeds,
}

/// What the whole process is given, and what no model takes of it.
#[derive(Clone, Debug)]
pub struct Budget {
    memory_bytes: Option<u64>,
    threads: usize,
    open: Open,
    gateway: GatewaySettings,
    ledger: LedgerSettings,
}

impl Budget {
    /// The budget of these settings.
    pub fn new(settings: &Settings) -> Self {
        Budget {
            memory_bytes: settings.memory_bytes,
            threads: settings.threads,
            open: settings.open,
            gateway: settings.gateway.clone(),
            ledger: settings.ledger.settings.clone(),
        }
    }

    /// The parts that no model takes, of a budget of so many bytes.
    fn fixed(&self, memory_bytes: Option<u64>) -> Vec<Part> {
        let (mut gateway, mut ledger) = (self.gateway.clone(), self.ledger.clone());
        if let Some(memory_bytes) = memory_bytes {
            self.open.fit(memory_bytes, (&mut gateway, &mut ledger));
        }
        let rows = (ledger.queue_rows_max as u64).saturating_mul(LEDGER_ROW_BYTES);
        let texts = TOKENIZING_BYTES_PER_BYTE.saturating_mul(gateway.request_bytes_max) as u64;
        let part = |name: &str, bytes| Part { name: name.to_owned(), bytes };
        vec![
            part("http", gateway.http_bytes_max as u64),
            part("tokenizing", texts),
            part("ledger", LEDGER_CACHE_BYTES.saturating_add(rows)),
            part("process", PROCESS_BYTES + self.threads as u64 * THREAD_BYTES),
        ]
    }

    /// Splits the budget among local models.
    ///
    /// # Errors
    /// If they do not fit, or a model's heads do not suit the type of its cache.
    pub fn plan(&self, locals: &[Planned]) -> Result<Plan, CliError> {
        for Planned { settings, model, .. } in locals {
            let checked = kv_type(settings.wanted.kv).check(model.spec().head_dim);
            checked.map_err(|error| CliError::usage(format!("{}: {error}", settings.name)))?;
        }
        type SizesOf<'a> = Box<dyn Fn(&Choice) -> Taken + 'a>;
        let sizes: Vec<SizesOf> =
            locals.iter().map(|local| Box::new(|choice: &Choice| self.taken(local, choice)) as _).collect();
        let roles: Vec<split::Role> = locals
            .iter()
            .zip(&sizes)
            .map(|(local, sizes)| {
                let (model, footprint) = (local.model, local.model.footprint());
                let own = footprint.packed_bytes + footprint.mapped_bytes + footprint.heap_bytes;
                let drafting = local.needs.weights_bytes(model);
                // A model that only drafts has all its weights for that.
                let (weights_bytes, draft_weights_bytes) = match local.part {
                    Local::Draft => (own + drafting, 0),
                    Local::Small | Local::Large => (own, drafting),
                };
                split::Role {
                    name: local.part.as_str(),
                    weights_bytes,
                    draft_weights_bytes,
                    context_tokens_max: u32::try_from(model.spec().context_tokens).unwrap_or(u32::MAX),
                    wanted: local.settings.wanted,
                    sizes: &**sizes,
                }
            })
            .collect();
        let split = match self.memory_bytes {
            Some(bytes) => {
                let fixed = |bytes| self.fixed(Some(bytes));
                split::split(bytes, &fixed, &roles).map_err(CliError::usage)?
            }
            None => split::unlimited(&self.fixed(None), &roles),
        };
        Ok(Plan { budget_bytes: self.memory_bytes, split })
    }

    fn taken(&self, local: &Planned, choice: &Choice) -> Taken {
        let Planned { settings, model, needs, .. } = *local;
        let options = decoder_options(choice, (needs, settings.reading_layers));
        if options.kv_type.check(model.spec().head_dim).is_err() {
            // Never fits, so that it is not proposed.
            return Taken { kv_bytes: u64::MAX, working_bytes: 0 };
        }
        let context_tokens = choice.context_tokens as usize;
        let asked = SizesFor { threads: self.threads, exact: false, context_tokens };
        let sizes = Sizes::of(model, &options, asked);
        let drafts = needs.bytes(choice, model.vocabulary());
        Taken { kv_bytes: sizes.kv_bytes, working_bytes: sizes.working_bytes + sizes.sampling_bytes + drafts }
    }
}

/// A model's numbers and tokenizer, its weights left in the file.
///
/// # Errors
/// If the file is no model.
pub fn read(path: &Path) -> Result<Model, CliError> {
    let options = LoadOptions { exact: true, ..LoadOptions::default() };
    Model::load(path, options, &Pool::new(1)).map_err(|error| in_file(path, &error))
}

/// How a decoder is set up for a choice.
pub fn decoder_options(choice: &Choice, (needs, reading_layers): (DraftNeeds, LayerSet)) -> DecoderOptions {
    DecoderOptions {
        guests: needs.guests(choice),
        draft_tokens: needs.draft_tokens(choice),
        kv_type: kv_type(choice.kv),
        batch_tokens: choice.batch_tokens as usize,
        reading_layers,
        ..DecoderOptions::new(choice.sequences as usize, choice.kv_tokens as usize)
    }
}

/// The engine's word for it.
fn kv_type(kind: KvKind) -> KvType {
    match kind {
        KvKind::F16 => KvType::F16,
        KvKind::Q8 => KvType::Q8,
        KvKind::K8V4 => KvType::K8V4,
        KvKind::Q4 => KvType::Q4,
    }
}

/// Resident memory of this process, mapped files included; `None` where the system does not tell.
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Who gets how much.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Most bytes resident; `None`: no limit.
    pub budget_bytes: Option<u64>,
    /// The parts, and how the models run.
    pub split: Split,
}

impl Plan {
    /// A table for a person: parts, their sum and the budget, then how each model runs.
    pub fn table(&self, locals: &[Local]) -> String {
        let size = crate::output::size;
        let mut text = String::from("memory:\n");
        let mut line = |name: &str, bytes: u64| text.push_str(&format!("  {name:<16}{:>12}\n", size(bytes)));
        self.split.parts.iter().for_each(|part| line(&part.name, part.bytes));
        line("sum", self.split.total_bytes());
        if let Some(bytes) = self.budget_bytes {
            line("budget", bytes);
        }
        for (local, choice) in locals.iter().zip(&self.split.choices) {
            let Choice { context_tokens, sequences, kv_tokens, batch_tokens, kv } = choice;
            text.push_str(&format!(
                "  {}: context {context_tokens}, {sequences} sequences in {kv_tokens} positions of {} KV, \
                 passes of {batch_tokens} tokens\n",
                local.as_str(),
                kv.as_str()
            ));
        }
        text
    }

    /// Bytes by part, for machines.
    pub fn to_toml(&self) -> toml::Table {
        let told = self.told().into_iter();
        told.map(|(part, bytes)| (part, toml::Value::Integer(i64::try_from(bytes).unwrap_or(i64::MAX))))
            .collect()
    }

    /// What `tandem_memory_bytes` tells, by part.
    pub fn told(&self) -> Vec<(String, u64)> {
        let parts = self.split.parts.iter().map(|part| (part.name.clone(), part.bytes));
        parts.chain(self.budget_bytes.map(|bytes| ("budget".to_owned(), bytes))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_planner_knows_the_kernels_types_by_their_names() {
        let names = KvKind::ALL.map(KvKind::as_str);
        assert!(KvType::choices().map(KvType::name).eq(names));
        KvKind::ALL.into_iter().for_each(|kind| assert_eq!(kv_type(kind).name(), kind.as_str()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn resident_memory_is_more_than_nothing() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 100 << 10));
    }
}
