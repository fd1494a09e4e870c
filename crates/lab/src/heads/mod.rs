//! Training of heads: readings with labels ([`rows`]) become a [`policy::Head`] ([`train`]).

pub mod rows;
pub mod tokens;
pub mod train;

pub use rows::{Rows, RowsError};
pub use train::{FOLDS, FOLDS_MAX, FOLDS_MIN, Target, TrainError, TrainSettings, Trained, balanced, train};
