//! Heads: linear probes on the small model's reading. A [`Head`] is an artefact, trained offline and loaded from
//! JSON; [`Heads`] asks several of one reading.

use std::collections::BTreeSet;

use contract::{Findings, LayerState, Reading};
use serde::{Deserialize, Serialize};

use crate::artefact::Stated;
use crate::calibrator::Calibrator;
use crate::products::standardised_dot;

/// What `format` says in a head's file.
pub const FORMAT: &str = "tandem-head";
/// The version of the file's shape that is written and read here.
pub const VERSION: u32 = 2;
/// Features of one head, at most: eight states of the widest models there are.
pub const FEATURES_MAX: usize = 1 << 18;
/// Layers of a model, at most.
const LAYERS_MAX: u32 = 4096;

/// Which of a layer's states a head looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateKind {
    /// At the prompt's last token.
    Last,
    /// Mean over the prompt.
    Mean,
}

impl StateKind {
    /// Its values in a layer's states.
    pub fn of(self, state: &LayerState) -> &[f32] {
        match self {
            StateKind::Last => &state.last,
            StateKind::Mean => &state.mean,
        }
    }
}

/// Figures of a reading that cost nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scalar {
    /// ln(1 + tokens of the prompt).
    PromptTokensLn,
    /// The square of that.
    PromptTokensLnSquare,
    /// The likeliest next token's log-probability.
    NextLogprobMax,
    /// Its distance to the second.
    NextMargin,
    /// Entropy of the next token, nats.
    NextEntropy,
}

impl Scalar {
    /// All there are.
    pub const ALL: [Scalar; 5] = [
        Scalar::PromptTokensLn,
        Scalar::PromptTokensLnSquare,
        Scalar::NextLogprobMax,
        Scalar::NextMargin,
        Scalar::NextEntropy,
    ];

    /// Its value.
    pub fn of(self, reading: &Reading) -> f32 {
        let tokens = (reading.prompt_tokens as f32).ln_1p();
        match self {
            Scalar::PromptTokensLn => tokens,
            Scalar::PromptTokensLnSquare => tokens * tokens,
            Scalar::NextLogprobMax => reading.next.logprob_max,
            Scalar::NextMargin => reading.next.margin,
            Scalar::NextEntropy => reading.next.entropy,
        }
    }
}

/// One state that a head looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadState {
    /// The layer, as in [`LayerState::layer`].
    pub layer: u32,
    /// Which of its states.
    pub state: StateKind,
}

/// What a head looks at, in the order of its weights: the states, then the scalars.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Features {
    /// States, of one or several layers, all of one width; may be empty.
    pub states: Vec<HeadState>,
    /// Which scalars; may be empty if there are states.
    pub scalars: Vec<Scalar>,
}

/// The model whose readings a head was trained on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadModel {
    /// Its name.
    pub name: String,
    /// The sha256 of its file, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// One bin of a reliability table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReliabilityBin {
    /// Rows in it.
    pub rows: u64,
    /// Their mean probability.
    pub predicted: f64,
    /// Share of them whose label is true.
    pub observed: f64,
}

/// What one layer's state reaches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerScore {
    /// The layer.
    pub layer: u32,
    /// Which of its states.
    pub state: StateKind,
    /// AUROC of rows that the fit had not seen, its strength chosen without them.
    pub auroc: f64,
}

/// What is reached without the reading's states.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaselineScore {
    /// What it looks at.
    pub name: String,
    /// Its AUROC on the same folds.
    pub auroc: f64,
    /// How much more the head reaches.
    pub head_adds: f64,
    /// 95% interval of that, by a paired bootstrap.
    pub head_adds_ci: [f64; 2],
}

/// How a head came about, and how good it is on rows that its fits had not seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// The label's name.
    pub label: String,
    /// sha256 of the file of rows.
    pub data_sha256: String,
    /// Rows.
    pub rows: u64,
    /// Of these, with a true label.
    pub positives: u64,
    /// Groups whose rows stay in one fold; as many as rows where none were given.
    pub groups: u64,
    /// Folds of the cross-validation.
    pub folds: u32,
    /// The weight of the squared penalty, per row.
    pub strength: f64,
    /// Area under the ROC curve.
    pub auroc: f64,
    /// Its 95% interval, by a bootstrap over groups.
    pub auroc_ci: [f64; 2],
    /// Expected calibration error of the probabilities.
    pub ece: f64,
    /// Probabilities beside what happened.
    pub reliability: Vec<ReliabilityBin>,
    /// Layer by layer, each state alone.
    pub layers: Vec<LayerScore>,
    /// What is reached without states.
    pub baselines: Vec<BaselineScore>,
}

/// A trained linear probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// Under this name its score is found.
    pub name: String,
    /// Whose readings it understands.
    pub model: HeadModel,
    /// What it looks at.
    pub features: Features,
    /// Subtracted from each feature.
    pub means: Vec<f32>,
    /// Then each is divided by this; above 0.
    pub scales: Vec<f32>,
    /// Then weighted.
    pub weights: Vec<f32>,
    /// Added to the sum.
    pub bias: f64,
    /// Makes it a probability.
    pub calibrator: Calibrator,
    /// From which probability on a guard acts, if that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operating_point: Option<OperatingPoint>,
    /// Where it comes from.
    pub training: Training,
}

/// A threshold of a head, and how often it is right and wrong there on rows that its fit had not seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatingPoint {
    /// The least probability that counts, 0..=1.
    pub threshold: f64,
    /// Share of rows whose label is false that reach it.
    pub false_positive_rate: f64,
    /// Share of rows whose label is true that reach it.
    pub recall: f64,
}

/// Why a head can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not the JSON of a head.
    #[error("not a head's file: {0}")]
    Json(String),
    /// Another format or version.
    #[error(
        "the file is {format:?} version {version}; this program reads {FORMAT:?} version {VERSION}: train \
         it again with this version"
    )]
    Version {
        /// What it says it is.
        format: String,
        /// Its version.
        version: u32,
    },
    /// The parts do not fit together.
    #[error("the head {name:?} is damaged: {fault}")]
    Damaged {
        /// The head.
        name: String,
        /// What is wrong.
        fault: String,
    },
    /// Trained on another model's readings.
    #[error(
        "the head {name:?} was trained on readings of {trained} (sha256 {trained_sha256}), and this model's \
         file has sha256 {sha256}; its states mean something else: train the head on this model, or use that one"
    )]
    OtherModel {
        /// The head.
        name: String,
        /// Its model.
        trained: String,
        /// That model's hash.
        trained_sha256: String,
        /// The hash of the model at hand.
        sha256: String,
    },
    /// The reading lacks the layer.
    #[error("the head {name:?} looks at layer {layer}, which was not read")]
    NoLayer {
        /// The head.
        name: String,
        /// The layer.
        layer: u32,
    },
    /// The reading's states have another width.
    #[error("the head {name:?} takes {expected} features, the reading has {found}")]
    Width {
        /// The head.
        name: String,
        /// What it takes.
        expected: usize,
        /// What there is.
        found: usize,
    },
    /// The reading holds what is no number.
    #[error("the head {name:?} finds no number in the reading")]
    NotFinite {
        /// The head.
        name: String,
    },
    /// Two heads of one set have the same name.
    #[error("two heads are called {0:?}; rename one")]
    Twice(String),
}

impl Head {
    /// Reads a head's JSON and checks that its parts fit together.
    ///
    /// # Errors
    /// [`HeadError`], saying what is wrong.
    pub fn load(text: &str) -> Result<Self, HeadError> {
        if let Some(Stated { format, version }) = Stated::other(text, (FORMAT, VERSION)) {
            return Err(HeadError::Version { format, version });
        }
        let head: Head = serde_json::from_str(text).map_err(|error| HeadError::Json(error.to_string()))?;
        head.validate()?;
        Ok(head)
    }

    /// Checks what a file may lie about.
    ///
    /// # Errors
    /// [`HeadError::Version`] or [`HeadError::Damaged`].
    pub fn validate(&self) -> Result<(), HeadError> {
        if self.format != FORMAT || self.version != VERSION {
            return Err(HeadError::Version { format: self.format.clone(), version: self.version });
        }
        match self.fault() {
            None => Ok(()),
            Some(fault) => Err(HeadError::Damaged { name: self.name.clone(), fault }),
        }
    }

    fn fault(&self) -> Option<String> {
        let (width, scalars) = (self.weights.len(), self.features.scalars.len());
        let states = self.features.states.len();
        if self.name.trim().is_empty() {
            return Some("it has no name".to_owned());
        }
        if width == 0 || width > FEATURES_MAX {
            return Some(format!("it has {width} weights; there must be 1..={FEATURES_MAX}"));
        }
        if self.means.len() != width || self.scales.len() != width {
            return Some(format!("{width} weights need as many means and scales"));
        }
        let of_states = width.checked_sub(scalars);
        let fits = match states {
            0 => of_states == Some(0),
            _ => of_states.is_some_and(|width| width > 0 && width.is_multiple_of(states)),
        };
        if !fits {
            return Some(format!("{width} weights are not for {states} states and {scalars} scalars"));
        }
        if let Some(state) = self.features.states.iter().find(|state| state.layer > LAYERS_MAX) {
            return Some(format!("no model has a layer {}", state.layer));
        }
        let finite = self.means.iter().chain(&self.weights).all(|value| value.is_finite());
        let positive = self.scales.iter().all(|scale| scale.is_finite() && *scale > 0.0);
        if !finite || !positive || !self.bias.is_finite() {
            return Some("a mean, scale or weight is out of range".to_owned());
        }
        let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        if self.model.sha256.len() != 64 || !self.model.sha256.chars().all(is_digit) {
            return Some("its model's sha256 is none".to_owned());
        }
        let point = self.operating_point.as_ref();
        if point.is_some_and(|point| !(0.0..=1.0).contains(&point.threshold)) {
            return Some("its operating point's threshold is not in 0..=1".to_owned());
        }
        self.calibrator.fault()
    }

    /// Refuses any model but the one whose readings it was trained on.
    ///
    /// # Errors
    /// [`HeadError::OtherModel`].
    pub fn check_model(&self, sha256: &str) -> Result<(), HeadError> {
        if self.model.sha256.eq_ignore_ascii_case(sha256) {
            return Ok(());
        }
        Err(HeadError::OtherModel {
            name: self.name.clone(),
            trained: self.model.name.clone(),
            trained_sha256: self.model.sha256.clone(),
            sha256: sha256.to_owned(),
        })
    }

    /// The weighted sum, before calibration.
    ///
    /// # Errors
    /// [`HeadError`] if the reading is not what the head was trained on.
    pub fn logit(&self, reading: &Reading) -> Result<f64, HeadError> {
        let mut at = 0;
        let mut sum = self.bias;
        let of_states = self.weights.len() - self.features.scalars.len();
        let expected = of_states / self.features.states.len().max(1);
        for &HeadState { layer, state: kind } in &self.features.states {
            let state =
                reading.layer(layer).ok_or_else(|| HeadError::NoLayer { name: self.name.clone(), layer })?;
            let values = kind.of(state);
            if values.len() != expected {
                return Err(HeadError::Width { name: self.name.clone(), expected, found: values.len() });
            }
            sum += self.weighted(at, values);
            at += expected;
        }
        let scalars: Vec<f32> = self.features.scalars.iter().map(|scalar| scalar.of(reading)).collect();
        sum += self.weighted(at, &scalars);
        if sum.is_finite() { Ok(sum) } else { Err(HeadError::NotFinite { name: self.name.clone() }) }
    }

    /// The weighted sum of features from `at` on.
    fn weighted(&self, at: usize, values: &[f32]) -> f64 {
        let range = at..at + values.len();
        let fit = [&self.means[range.clone()], &self.scales[range.clone()], &self.weights[range]];
        standardised_dot(values, fit)
    }

    /// The calibrated probability that the label is true.
    ///
    /// # Errors
    /// As [`Head::logit`].
    pub fn score(&self, reading: &Reading) -> Result<f64, HeadError> {
        Ok(self.calibrator.probability(self.logit(reading)?))
    }
}

/// Heads that are asked together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heads {
    heads: Vec<Head>,
}

impl Heads {
    /// A set of heads.
    ///
    /// # Errors
    /// [`HeadError::Twice`] if two have the same name.
    pub fn new(heads: Vec<Head>) -> Result<Self, HeadError> {
        let mut names = BTreeSet::new();
        match heads.iter().find(|head| !names.insert(head.name.as_str())) {
            Some(head) => Err(HeadError::Twice(head.name.clone())),
            None => Ok(Heads { heads }),
        }
    }

    /// The heads.
    pub fn iter(&self) -> impl Iterator<Item = &Head> {
        self.heads.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// Refuses any model but the one whose readings all of them were trained on.
    ///
    /// # Errors
    /// [`HeadError::OtherModel`], for the first that was not.
    pub fn check_model(&self, sha256: &str) -> Result<(), HeadError> {
        self.heads.iter().try_for_each(|head| head.check_model(sha256))
    }

    /// The layers that they look at, ascending, each once: what a reading is to be asked for.
    pub fn layers(&self) -> Vec<u32> {
        let states = self.heads.iter().flat_map(|head| &head.features.states);
        let layers: BTreeSet<u32> = states.map(|state| state.layer).collect();
        layers.into_iter().collect()
    }

    /// What they say of a reading. A head that the reading does not fit says nothing: its score is absent, and
    /// who needs it must take that for doubt.
    pub fn findings(&self, reading: &Reading) -> Findings {
        let score = |head: &Head| Some((head.name.clone(), head.score(reading).ok()?));
        Findings {
            prompt_tokens: reading.prompt_tokens,
            read_tokens: reading.read_tokens,
            next: reading.next,
            scores: self.heads.iter().filter_map(score).collect(),
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A head over two states of width 2 and one scalar.
    pub(crate) fn head(name: &str, layer: u32) -> Head {
        Head {
            format: FORMAT.to_owned(),
            version: VERSION,
            name: name.to_owned(),
            model: HeadModel { name: "tiny".to_owned(), sha256: "0a".repeat(32) },
            features: Features {
                states: [StateKind::Last, StateKind::Mean].map(|state| HeadState { layer, state }).to_vec(),
                scalars: vec![Scalar::NextMargin],
            },
            means: vec![1.0, 0.0, 0.0, 0.0, 2.0],
            scales: vec![2.0, 1.0, 1.0, 1.0, 0.5],
            weights: vec![1.0, -1.0, 0.5, 0.0, 2.0],
            bias: 0.25,
            calibrator: Calibrator::Platt { slope: 1.0, intercept: 0.0 },
            operating_point: None,
            training: Training::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use contract::NextToken;
    use serde_json::{Value, json};

    use super::testing::head;
    use super::*;

    fn reading() -> Reading {
        let state = LayerState { layer: 3, last: vec![3.0, 1.0], mean: vec![4.0, 7.0] };
        Reading {
            prompt_tokens: 9,
            read_tokens: 9,
            states: vec![state],
            next: NextToken { margin: 1.5, ..NextToken::default() },
            ..Reading::default()
        }
    }

    #[test]
    fn a_head_is_a_weighted_sum_of_standardised_features() {
        // (3−1)/2·1 − 1·1 + 4·½ + 0 + (1.5−2)/½·2 + ¼
        assert_eq!(head("h", 3).logit(&reading()), Ok(1.0 - 1.0 + 2.0 - 2.0 + 0.25));
        let score = head("h", 3).score(&reading()).unwrap();
        assert!((score - 1.0 / (1.0 + (-0.25_f64).exp())).abs() < 1e-12);
    }

    #[test]
    fn states_of_several_layers_are_joined_in_their_order() {
        let mut joined = head("h", 3);
        joined.features.states[1].layer = 5;
        let mut reading = reading();
        reading.states.push(LayerState { layer: 5, last: vec![0.0, 0.0], mean: vec![6.0, 1.0] });
        // Of layer 5 the mean: 6·½ for 4·½.
        assert_eq!(joined.logit(&reading), Ok(1.0 - 1.0 + 3.0 - 2.0 + 0.25));
        assert_eq!(Heads::new(vec![joined.clone()]).unwrap().layers(), [3, 5]);
        reading.states.remove(0);
        assert_eq!(joined.logit(&reading), Err(HeadError::NoLayer { name: "h".to_owned(), layer: 3 }));
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let text = serde_json::to_string(&head("h", 3)).unwrap();
        assert_eq!(Head::load(&text), Ok(head("h", 3)));
    }

    #[test]
    fn another_version_is_named_before_what_else_differs() {
        let error = Head::load(r#"{"format": "tandem-head", "version": 1, "layer": 3}"#).unwrap_err();
        assert_eq!(error, HeadError::Version { format: FORMAT.to_owned(), version: 1 });
        let error = Head::load(r#"{"layer": 3}"#).unwrap_err().to_string();
        assert!(error.contains("not a head's file"), "{error}");
    }

    #[test]
    fn each_way_a_file_can_lie_is_named() {
        let state = |layer: u32| json!({"layer": layer, "state": "last"});
        for (key, value, words) in [
            ("format", json!("gguf"), "version 2"),
            ("version", json!(1), "train it again"),
            ("name", json!(" "), "no name"),
            ("weights", json!([]), "0 weights"),
            ("weights", json!([1.0, 2.0]), "as many means"),
            ("scales", json!([1.0, 1.0, 0.0, 1.0, 1.0]), "out of range"),
            ("bias", json!("x"), "not a head's file"),
            ("model", json!({"name": "m", "sha256": "12"}), "sha256"),
            ("features", json!({"states": [state(3)], "scalars": []}), ""),
            ("features", json!({"states": [state(3), state(8)], "scalars": []}), "not for 2 states"),
            ("features", json!({"states": [], "scalars": ["next_margin"]}), "not for 0 states"),
            ("features", json!({"states": [state(9999)], "scalars": []}), "no model has"),
            ("calibrator", json!({"platt": {"slope": -1.0, "intercept": 0.0}}), "no Platt"),
            ("surprise", json!(1), "unknown field"),
        ] {
            let mut file: Value = serde_json::to_value(head("h", 3)).unwrap();
            file[key] = value;
            let loaded = Head::load(&file.to_string());
            if words.is_empty() {
                assert!(loaded.is_ok(), "{loaded:?}");
            } else {
                let error = loaded.unwrap_err().to_string();
                assert!(error.contains(words), "{key}: {error}");
            }
        }
    }

    #[test]
    fn another_model_is_refused_with_both_hashes() {
        let (own, other) = ("0a".repeat(32), "0b".repeat(32));
        assert_eq!(head("h", 3).check_model(&own), Ok(()));
        let error = head("h", 3).check_model(&other).unwrap_err().to_string();
        assert!(error.contains(&own) && error.contains(&other) && error.contains("tiny"), "{error}");
    }

    #[test]
    fn readings_that_do_not_fit_are_errors_and_leave_no_score() {
        let mut narrow = reading();
        narrow.states[0].mean.pop();
        let mut broken = reading();
        broken.next.margin = f32::NAN;
        for (wrong, words) in [(Reading::default(), "layer 3"), (narrow, "1"), (broken, "no number")] {
            let error = head("h", 3).score(&wrong).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            assert!(Heads::new(vec![head("h", 3)]).unwrap().findings(&wrong).scores.is_empty());
        }
    }

    #[test]
    fn a_set_is_asked_together() {
        let heads = Heads::new(vec![head("a", 7), head("b", 3), head("c", 3)]).unwrap();
        assert_eq!(heads.layers(), [3, 7]);
        let findings = heads.findings(&reading());
        assert_eq!(findings.scores.keys().collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(findings.scores["b"], head("b", 3).score(&reading()).unwrap());
        assert_eq!(Heads::new(vec![head("a", 1), head("a", 2)]), Err(HeadError::Twice("a".to_owned())));
    }
}
