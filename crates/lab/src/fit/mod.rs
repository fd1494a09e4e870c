//! Fitting: standardised matrices, logistic regression, lines of labels, calibration of scores, folds, and the random
//! numbers of resampling. All of it is deterministic: a seed and the rows give the result.

pub mod bootstrap;
pub mod calibrate;
pub mod chain;
pub mod folds;
pub mod lbfgs;
pub mod logistic;
pub mod matrix;
pub mod random;
