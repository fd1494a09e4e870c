//! The heads that a served pair asks: those of its calibration.

use std::path::PathBuf;
use std::sync::Arc;

use contract::{ReadOptions, Reading};
use engine::decoder::LayerSet;
use gateway::FlowHeads;
use policy::{Head, Heads};

use crate::context::Context;
use crate::error::CliError;
use crate::progress::Style;
use crate::reader::sha256;
use crate::settings::{RoleSettings, Settings};

/// How prompts are read for the policy, and what is found in them.
///
/// # Errors
/// If two heads have the same name.
pub fn flow_heads(settings: &Settings) -> Result<FlowHeads, CliError> {
    let heads: Vec<Head> =
        settings.calibration.iter().flat_map(|calibration| calibration.right.heads().cloned()).collect();
    if heads.is_empty() {
        return Ok(FlowHeads::default());
    }
    let heads = Heads::new(heads).map_err(CliError::usage)?;
    Ok(FlowHeads {
        options: ReadOptions { layers: heads.layers(), ..ReadOptions::default() },
        findings: Arc::new(move |reading: &Reading| heads.findings(reading)),
    })
}

/// Layers whose states the small model must keep for them.
pub fn layers(settings: &Settings) -> LayerSet {
    let heads = settings.calibration.iter().flat_map(|calibration| calibration.right.heads());
    let states = heads.flat_map(|head| &head.features.states);
    LayerSet::of(states.map(|state| state.layer))
}

/// Refuses a small model that the calibration's heads were not trained on; it is fetched for that if it is not here.
///
/// # Errors
/// If it is another model, or one that can't be read with.
pub async fn check(settings: &Settings, context: &Context, style: Style) -> Result<(), CliError> {
    let calibration = settings.calibration.as_ref().filter(|calibration| calibration.routes);
    let heads: Vec<&Head> = calibration.iter().flat_map(|calibration| calibration.right.heads()).collect();
    if heads.is_empty() {
        return Ok(());
    }
    let RoleSettings::Local(small) = &settings.small else {
        return Err(CliError::usage(
            "the calibration decides by small's reading, and an upstream can't be read with: serve the small model \
             here, or calibrate on outcomes without readings",
        ));
    };
    let path: PathBuf = context.have(&small.reference, style).await?;
    let hash = tokio::task::spawn_blocking(move || sha256(&path)).await;
    let hash = hash.map_err(|error| CliError::failed(format!("hashing the small model: {error}")))??;
    heads
        .iter()
        .try_for_each(|head| head.check_model(&hash.to_string()))
        .map_err(|error| CliError::usage(format!("policy.calibration: {error}")))
}
