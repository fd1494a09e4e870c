//! Models on disk: the catalogue, fetching, verifying.
//!
//! A [`Reference`] names a model; a [`Store`] says where it is ([`Store::locate`]), or gets it
//! ([`Store::pull`]) from the sources that the [`Catalogue`] lists, and knows it by its sha256 alone: where the
//! bytes came from does not matter, and no file has its final name before its digest was right.

mod blocking;
mod catalogue;
mod digest;
mod error;
mod home;
mod hub;
mod options;
mod partial;
mod place;
mod progress;
mod reference;
mod store;
mod wheels;

pub use catalogue::{Catalogue, CatalogueError, Entry, MODEL_BYTES_MAX, Source, WheelPart};
pub use digest::{NotSha256, Sha256};
pub use error::{Damage, DiskError, Failure, SourceError, StoreError};
pub use home::{NoHome, default_home};
pub use options::{Options, Token};
pub use progress::{Observer, Phase, Progress};
pub use reference::{Reference, ReferenceError};
pub use store::{Installed, Store, Verified};
