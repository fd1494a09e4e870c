//! The guards of a pair, built: those that ask the small model need heads that know it, and it here.

use std::path::Path;

use engine::decoder::LayerSet;
use policy::guards::asked::Materials;
use policy::guards::{Chain, GuardSettings, kinds};
use policy::{Head, TokenHead};
use store::Sha256;

use crate::context::Context;
use crate::error::CliError;
use crate::progress::Style;
use crate::reader::sha256;
use crate::settings::{RoleSettings, Settings};
use crate::{budget, heads, input};

/// The kind of guards whose heads are token heads.
const TOKEN_HEAD: &str = "token-head";

/// A head in the program: its name in settings, and its file. Which model it is for stands in it. A new one is a file
/// in `heads/` and a line here.
const SHIPPED: &[(&str, &str)] = &[
    ("injection", include_str!("../heads/qwen2.5-coder-0.5b.injection.json")),
    ("harmful", include_str!("../heads/qwen2.5-coder-0.5b.harmful.json")),
    ("harmful", include_str!("../heads/smollm2-135m.harmful.json")),
];

/// Likewise, of token heads.
const SHIPPED_TOKEN_HEADS: &[(&str, &str)] =
    &[("names", include_str!("../heads/qwen2.5-coder-0.5b.names.json"))];

/// The guards; the small model is fetched if one of them asks it and it is not here.
///
/// # Errors
/// If there is no local small model to ask, or a head is not there or of another model.
pub async fn chain(settings: &Settings, context: &Context, style: Style) -> Result<Chain, CliError> {
    let Some(reference) = read_model(settings)? else { return plain(&settings.guards) };
    let path = context.have(reference, style).await?;
    with_model(&settings.guards, &path)
}

/// The guards, or `None` if they need a small model that is not here yet.
///
/// # Errors
/// As [`chain`].
pub fn chain_if_here(settings: &Settings, context: &Context) -> Result<Option<Chain>, CliError> {
    let Some(reference) = read_model(settings)? else { return plain(&settings.guards).map(Some) };
    let path = context.store()?.locate(reference)?;
    path.map(|path| with_model(&settings.guards, &path)).transpose()
}

/// Whether one of the guards has the small model read.
pub fn reads(guards: &[GuardSettings]) -> bool {
    guards.iter().any(|guard| kinds::of_name(&guard.kind).is_some_and(|kind| kind.reads))
}

/// Layers whose states the small model must keep, for them and for the calibration's heads.
pub fn layers(settings: &Settings, chain: Option<&Chain>) -> LayerSet {
    let of_guards = chain.map(|chain| [chain.layers(), chain.token_layers()].concat()).unwrap_or_default();
    LayerSet::of(of_guards).union(heads::layers(settings))
}

/// The small model that guards have read, if one does.
fn read_model(settings: &Settings) -> Result<Option<&store::Reference>, CliError> {
    let reader = settings.guards.iter().find(|guard| reads(std::slice::from_ref(guard)));
    match (reader, &settings.small) {
        (None, _) => Ok(None),
        (Some(_), RoleSettings::Local(small)) => Ok(Some(&small.reference)),
        (Some(guard), RoleSettings::Upstream(_)) => Err(CliError::usage(format!(
            "[[guard]]: guard {:?}: kind = {:?} has the small model read, and an upstream can't be read with: serve the \
             small model here, or take another kind",
            guard.name, guard.kind
        ))),
    }
}

fn plain(guards: &[GuardSettings]) -> Result<Chain, CliError> {
    build(guards, &Materials::default())
}

fn build(guards: &[GuardSettings], materials: &Materials) -> Result<Chain, CliError> {
    Chain::with(guards, materials).map_err(|error| CliError::usage(format!("[[guard]]: {error}")))
}

fn with_model(guards: &[GuardSettings], model: &Path) -> Result<Chain, CliError> {
    let mut materials =
        Materials { layers: budget::read(model)?.spec().layers.len() as u32, ..Materials::default() };
    let mut hash: Option<Sha256> = None;
    for guard in guards {
        let Some(name) = &guard.head else { continue };
        let hash = match hash {
            Some(known) => known,
            None => *hash.insert(sha256(model)?),
        };
        let hash = hash.to_string();
        let found = match guard.kind.as_str() {
            TOKEN_HEAD => {
                token_head(name, &hash).map(|head| drop(materials.token_heads.insert(name.clone(), head)))
            }
            _ => head(name, &hash).map(|head| drop(materials.heads.insert(name.clone(), head))),
        };
        found.map_err(|error| error.at(&format!("guard {:?}", guard.name)))?;
    }
    build(guards, &materials)
}

/// The head of this name, shipped or in a file, for this model.
///
/// # Errors
/// If it is not there, damaged, or of another model.
pub fn head(name: &str, model_sha256: &str) -> Result<Head, CliError> {
    if is_file(name) { of_file(Path::new(name), model_sha256) } else { shipped(SHIPPED, name, model_sha256) }
}

/// The token head of this name, shipped or in a file, for this model.
///
/// # Errors
/// As [`head`].
pub fn token_head(name: &str, model_sha256: &str) -> Result<TokenHead, CliError> {
    if is_file(name) {
        let path = Path::new(name);
        let head = TokenHead::load(&input::text(path)?)
            .and_then(|head| head.check_model(model_sha256).map(|()| head));
        return head.map_err(|error| CliError::usage(format!("{}: {error}", path.display())));
    }
    let mut others = Vec::new();
    for (shipped, text) in SHIPPED_TOKEN_HEADS {
        let head = TokenHead::load(text)
            .map_err(|error| CliError::failed(format!("token head {shipped:?}: {error}")))?;
        if *shipped == name && head.check_model(model_sha256).is_ok() {
            return Ok(head);
        }
        others.push(format!("{shipped} for {}", head.model.name));
    }
    Err(not_shipped(name, &others, "train-token-head"))
}

/// Whether a head is named by its file.
fn is_file(name: &str) -> bool {
    name.ends_with(".json") || name.contains(std::path::is_separator)
}

fn of_file(path: &Path, model_sha256: &str) -> Result<Head, CliError> {
    let text = input::text(path)?;
    let head = Head::load(&text).and_then(|head| head.check_model(model_sha256).map(|()| head));
    head.map_err(|error| CliError::usage(format!("{}: {error}", path.display())))
}

/// The shipped head of this name for this model.
fn shipped(all: &[(&str, &str)], name: &str, model_sha256: &str) -> Result<Head, CliError> {
    let mut others = Vec::new();
    for (shipped, text) in all {
        let head =
            Head::load(text).map_err(|error| CliError::failed(format!("head {shipped:?}: {error}")))?;
        if *shipped == name && head.check_model(model_sha256).is_ok() {
            return Ok(head);
        }
        others.push(format!("{shipped} for {}", head.model.name));
    }
    Err(not_shipped(name, &others, "train-head"))
}

fn not_shipped(name: &str, others: &[String], command: &str) -> CliError {
    let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
    CliError::usage(format!(
        "no head {name:?} is shipped for this small model; shipped are: {others}. Give the file of one that \
         `tandem {command}` trained on this model"
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn head(name: &str, model: &str, sha256: &str) -> String {
        json!({
            "format": "tandem-head", "version": 2, "name": name,
            "model": {"name": model, "sha256": sha256},
            "features": {"states": [{"layer": 1, "state": "last"}], "scalars": []},
            "means": [0.0], "scales": [1.0], "weights": [1.0], "bias": 0.0,
            "calibrator": {"platt": {"slope": 1.0, "intercept": 0.0}},
            "training": serde_json::to_value(policy::heads::Training::default()).unwrap(),
        })
        .to_string()
    }

    #[test]
    fn a_shipped_head_is_found_by_name_and_model() {
        let (a, b) = ("0a".repeat(32), "0b".repeat(32));
        let files = [head("x", "model-a", &a), head("x", "model-b", &b), head("y", "model-a", &a)];
        let all = [("x", files[0].as_str()), ("x", &files[1]), ("y", &files[2])];
        assert_eq!(shipped(&all, "x", &b).unwrap().model.name, "model-b");
        let error = shipped(&all, "y", &b).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("y for model-a"), "{error}");
        assert!(shipped(&[], "x", &a).unwrap_err().to_string().contains("shipped are: none"));
    }

    #[test]
    fn every_shipped_head_can_be_read() {
        for (name, text) in SHIPPED {
            let head = Head::load(text).unwrap();
            assert_eq!(&head.name, name);
            let point = head.operating_point.unwrap();
            assert!(point.false_positive_rate <= 0.02 && point.recall > 0.5, "{name}: {point:?}");
        }
    }

    #[test]
    fn every_shipped_token_head_can_be_read() {
        for (name, text) in SHIPPED_TOKEN_HEADS {
            let head = TokenHead::load(text).unwrap();
            assert_eq!(&head.name, name);
            assert_eq!(token_head(name, &head.model.sha256).unwrap(), head);
            let tested = &head.training.tested;
            assert_eq!(tested.len(), head.classes.len());
            assert!(tested.iter().all(|score| score.f1 >= 0.85), "{name}: {tested:?}");
        }
        let error = token_head("names", &"0a".repeat(32)).unwrap_err().to_string();
        assert!(error.contains("names for qwen2.5-coder-0.5b"), "{error}");
    }

    #[test]
    fn files_are_told_from_names() {
        assert!(is_file("head.json") && is_file("./heads/a") && !is_file("injection"));
    }
}
