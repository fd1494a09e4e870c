//! What a backend made of a row: [`Outcome`], one line of an outcomes file.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use contract::{LayerState, NextToken, Reading, Role, Signals, Usage};
use half::f16;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// One backend's answer to one row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The row's id.
    pub id: String,
    /// Whose answer.
    pub backend: Role,
    /// The model's name.
    #[serde(default)]
    pub model: String,
    /// The task that the row belongs to.
    #[serde(default)]
    pub task: String,
    /// Other properties by which results are told apart, such as `language`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub slices: BTreeMap<String, String>,
    /// Whether the answer is right.
    pub correct: bool,
    /// The answer; `None` where only its label is known.
    #[serde(default)]
    pub output: Option<String>,
    /// Why there is no answer, or why it could not be checked; such a one counts as wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why the answer ended, in OpenAI's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<String>,
    /// What its tokens say.
    #[serde(default)]
    pub signals: Signals,
    /// The prompt's reading, of a backend that can be read with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reading: Option<StoredReading>,
    /// What was processed.
    #[serde(default)]
    pub tokens: Usage,
    /// US dollars.
    #[serde(default)]
    pub cost_usd: f64,
    /// From the call to the answer's end, milliseconds.
    #[serde(default)]
    pub total_ms: f64,
}

/// A reading as it is stored: hidden states with 16 bits a value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoredReading {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Of these, tokens that were read.
    pub read_tokens: u64,
    /// What would be written next.
    pub next: NextToken,
    /// States of the layers that were asked for.
    pub states: Vec<StoredState>,
}

/// One layer's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoredState {
    /// As in [`LayerState::layer`].
    pub layer: u32,
    /// At the last token, `[hidden]`.
    pub last: Halves,
    /// Mean over the prompt, `[hidden]`.
    pub mean: Halves,
}

/// Values that are stored as base64 of little-endian 16-bit floats.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Halves(pub Vec<f32>);

impl Serialize for Halves {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self.0.iter().flat_map(|&value| stored(value).to_le_bytes()).collect();
        serializer.serialize_str(&STANDARD.encode(bytes))
    }
}

/// The nearest 16-bit value: what is too large for one becomes the largest, so that all stay finite.
fn stored(value: f32) -> f16 {
    let largest = f16::MAX.to_f32();
    f16::from_f32(value.clamp(-largest, largest))
}

impl<'de> Deserialize<'de> for Halves {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<str>>::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text.as_bytes()).map_err(de::Error::custom)?;
        if !bytes.len().is_multiple_of(2) {
            return Err(de::Error::custom("an odd number of bytes is no list of 16-bit values"));
        }
        let values = bytes.chunks_exact(2).map(|pair| f16::from_le_bytes([pair[0], pair[1]]).to_f32());
        Ok(Halves(values.collect()))
    }
}

impl From<&LayerState> for StoredState {
    fn from(state: &LayerState) -> Self {
        StoredState { layer: state.layer, last: Halves(state.last.clone()), mean: Halves(state.mean.clone()) }
    }
}

impl From<&Reading> for StoredReading {
    fn from(reading: &Reading) -> Self {
        StoredReading {
            prompt_tokens: reading.prompt_tokens,
            read_tokens: reading.read_tokens,
            next: reading.next,
            states: reading.states.iter().map(StoredState::from).collect(),
        }
    }
}

impl From<&StoredReading> for Reading {
    fn from(stored: &StoredReading) -> Self {
        let state = |state: &StoredState| LayerState {
            layer: state.layer,
            last: state.last.0.clone(),
            mean: state.mean.0.clone(),
        };
        Reading {
            prompt_tokens: stored.prompt_tokens,
            read_tokens: stored.read_tokens,
            next: stored.next,
            states: stored.states.iter().map(state).collect(),
            ..Reading::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_survive_storage_and_stay_finite() {
        let state = LayerState { layer: 3, last: vec![0.5, -2.0, 1e9], mean: vec![0.25, f32::MIN, 0.0] };
        let reading = Reading { prompt_tokens: 9, read_tokens: 7, states: vec![state], ..Reading::default() };
        let text = serde_json::to_string(&StoredReading::from(&reading)).unwrap();
        let back = Reading::from(&serde_json::from_str::<StoredReading>(&text).unwrap());
        assert_eq!((back.prompt_tokens, back.read_tokens, back.states[0].layer), (9, 7, 3));
        assert_eq!(back.states[0].last, [0.5, -2.0, 65504.0]);
        assert_eq!(back.states[0].mean, [0.25, -65504.0, 0.0]);
    }

    #[test]
    fn damaged_states_and_unknown_backends_are_errors() {
        for text in ["\"AAA\"", "\"????\"", "\"AA==\"", "3"] {
            assert!(serde_json::from_str::<Halves>(text).is_err(), "{text}");
        }
        let least = r#"{"id":"1","backend":"small","correct":true}"#;
        let outcome: Outcome = serde_json::from_str(least).unwrap();
        assert_eq!((outcome.output, outcome.tokens), (None, Usage::default()));
        assert!(serde_json::from_str::<Outcome>(&least.replace("small", "medium")).is_err());
    }
}
