//! Fitting: standardised matrices, logistic regression with two labels and with several, calibration of scores, folds, and the random numbers of
//! resampling. All of it is deterministic: a seed and the rows give the result.

pub mod bootstrap;
pub mod calibrate;
pub mod folds;
pub mod lbfgs;
pub mod logistic;
pub mod matrix;
pub mod random;
pub mod softmax;
