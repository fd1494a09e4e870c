//! `head`: a linear head on the small model's reading of a text.

use std::sync::Arc;

use super::{Built, Entry};
use crate::guards::asked::{Answer, Ask, Asker, Judged, Score};
use crate::guards::{GuardError, GuardSettings};
use crate::heads::{Head, Heads};

pub(super) const ENTRY: Entry = Entry {
    name: "head",
    about: "a trained linear head on the small model's reading",
    reads: true,
    check,
    build: |settings, materials| {
        let name = settings.head.as_deref().unwrap_or_default();
        let head = materials.heads.get(name).ok_or_else(|| GuardError::NoHead {
            name: settings.name.clone(),
            head: name.to_owned(),
            known: "give a file that `tandem train-head` wrote".to_owned(),
        })?;
        let layers = Heads::new(vec![head.clone()]).map(|heads| heads.layers()).unwrap_or_default();
        Ok(Built::Asker(Arc::new(ByHead { head: head.clone(), layers })))
    },
};

fn check(settings: &GuardSettings) -> Result<(), GuardError> {
    settings.check_asked()?;
    match settings.head.as_deref().map(str::trim) {
        None | Some("") => settings.wrong("head is missing; name one that is shipped, or a file"),
        Some(_) => Ok(()),
    }
}

/// Asks one head. Heads of several guards share a reading.
#[derive(Debug)]
struct ByHead {
    head: Head,
    layers: Vec<u32>,
}

impl Asker for ByHead {
    fn threshold(&self) -> f64 {
        self.head.operating_point.as_ref().map_or(0.5, |point| point.threshold)
    }

    fn layers(&self) -> Vec<u32> {
        self.layers.clone()
    }

    fn ask(&self, _: &Judged<'_>) -> Ask {
        Ask::Read
    }

    fn score(&self, answer: &Answer<'_>) -> Result<Score, String> {
        match answer {
            Answer::Reading(reading) => {
                let value = self.head.score(reading).map_err(|error| error.to_string())?;
                Ok(Score::new(value, &self.head.name))
            }
            Answer::Said { .. } => Err("it was given no reading".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use contract::{LayerState, Reading};

    use super::*;
    use crate::guards::asked::Materials;
    use crate::guards::{Chain, GuardSettings};
    use crate::heads::OperatingPoint;
    use crate::heads::testing::head;

    fn settings(more: &str) -> GuardSettings {
        serde_json::from_str(&format!(
            r#"{{"name": "g", "kind": "head", "action": "block", "head": "h"{more}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn the_score_is_the_heads_and_its_operating_point_the_threshold() {
        let mut head = head("h", 3);
        let point = OperatingPoint { threshold: 0.7, false_positive_rate: 0.01, recall: 0.9 };
        head.operating_point = Some(point);
        let heads = [("h".to_owned(), head.clone())].into();
        let materials = Materials { heads, layers: 4, ..Materials::default() };
        let chain = Chain::with(&[settings("")], &materials).unwrap();
        let link = &chain.asked()[0];
        assert_eq!((link.threshold(), link.asker().layers()), (0.7, vec![3]));
        let state = LayerState { layer: 3, last: vec![3.0, 1.0], mean: vec![4.0, 7.0] };
        let reading = Reading { states: vec![state], ..Reading::default() };
        let score = link.score(&Answer::Reading(&reading)).unwrap();
        assert_eq!((score.value, score.label.as_str()), (head.score(&reading).unwrap(), "h"));
        assert!(link.score(&Answer::Reading(&Reading::default())).is_err());
        let set = Chain::with(&[settings(r#", "threshold": 0.25"#)], &materials).unwrap();
        assert_eq!(set.asked()[0].threshold(), 0.25);
    }

    #[test]
    fn what_a_head_can_not_do_is_refused() {
        let why = |more: &str| {
            let settings = settings(more);
            Chain::check_settings(std::slice::from_ref(&settings)).unwrap_err().to_string()
        };
        let mut redacts = settings("");
        redacts.action = contract::GuardAction::Redact;
        assert!(Chain::check_settings(&[redacts]).unwrap_err().to_string().contains("redact"));
        let mut bare = settings("");
        bare.head = None;
        assert!(Chain::check_settings(&[bare]).unwrap_err().to_string().contains("head is missing"));
        assert!(why(r#", "deny": ["x"]"#).contains("pattern"));
        assert!(why(r#", "timeout_ms": 0"#).contains("timeout_ms"));
        assert!(why(r#", "window_tokens": 1"#).contains("window_tokens"));
        let missing = Chain::with(&[settings("")], &Materials::default()).unwrap_err().to_string();
        assert!(missing.contains("no head \"h\""), "{missing}");
    }
}
