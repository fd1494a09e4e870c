//! The kinds of guards, one file each, and the registry that names them.
//!
//! A new kind is a file here plus a line in [`REGISTRY`].

mod pattern;

use super::pattern::Scanner;
use super::{GuardError, GuardSettings};

/// A kind that configuration can name.
#[derive(Debug)]
pub struct Entry {
    /// The name in `guard.kind`.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Makes what finds, from settings that are already validated.
    pub build: fn(&GuardSettings) -> Result<Scanner, GuardError>,
}

/// All kinds there are.
pub const REGISTRY: &[Entry] = &[pattern::ENTRY];
