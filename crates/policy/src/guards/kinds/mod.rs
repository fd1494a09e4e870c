//! The kinds of guards, one file each, and the registry that names them.
//!
//! A new kind is a file here plus a line in [`REGISTRY`].

mod head;
mod model;
mod pattern;
mod token_head;
mod topic;

use std::sync::Arc;

use super::asked::{Asker, Materials};
use super::pattern::Scanner;
use super::{GuardError, GuardSettings};

/// A kind that configuration can name.
#[derive(Debug)]
pub struct Entry {
    /// The name in `guard.kind`.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Whether the small model must read for it, so that it must be a local one.
    pub reads: bool,
    /// Checks what settings say to this kind, without what it is made of.
    pub check: fn(&GuardSettings) -> Result<(), GuardError>,
    /// Makes what finds, from settings that are already checked.
    pub build: fn(&GuardSettings, &Materials) -> Result<Built, GuardError>,
}

/// What finds.
#[derive(Debug)]
pub enum Built {
    /// Looks at text by itself, at once.
    Scanner(Scanner),
    /// Asks a model.
    Asker(Arc<dyn Asker>),
}

/// All kinds there are.
pub const REGISTRY: &[Entry] = &[pattern::ENTRY, head::ENTRY, token_head::ENTRY, topic::ENTRY, model::ENTRY];

/// The kind of this name.
pub fn of_name(name: &str) -> Option<&'static Entry> {
    REGISTRY.iter().find(|entry| entry.name == name)
}
