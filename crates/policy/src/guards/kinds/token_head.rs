//! `token-head`: where in free text something stands that no pattern describes, by the small model's state at every
//! token: names and addresses.

use std::sync::Arc;

use contract::{GuardAction, Reading};

use super::{Built, Entry};
use crate::guards::asked::{Answer, Ask, Asker, Judged, Score};
use crate::guards::pattern::Span;
use crate::guards::{GuardError, GuardSettings};
use crate::token_head::{CLASSES, TokenHead};

pub(super) const ENTRY: Entry = Entry {
    name: "token-head",
    about: "names and addresses in free text, by the small model's reading of every token",
    reads: true,
    check,
    build: |settings, materials| {
        let name = settings.head.as_deref().unwrap_or_default();
        let head = materials.token_heads.get(name).ok_or_else(|| GuardError::NoHead {
            name: settings.name.clone(),
            head: name.to_owned(),
            known: "give a file that `tandem train-token-head` wrote".to_owned(),
        })?;
        let is_wanted = |class: &String| settings.entities.is_empty() || settings.entities.contains(class);
        let known = |class: &String| CLASSES.into_iter().find(|known| known == class);
        let entities = head.classes.iter().map(|class| known(class).filter(|_| is_wanted(class))).collect();
        Ok(Built::Asker(Arc::new(ByToken { layers: head.layers(), head: head.clone(), entities })))
    },
};

fn check(settings: &GuardSettings) -> Result<(), GuardError> {
    if !(settings.patterns.is_empty() && settings.deny.is_empty()) {
        return settings.wrong("patterns and deny are for kind = \"pattern\"");
    }
    if let Some(unknown) = settings.entities.iter().find(|name| !CLASSES.contains(&name.as_str())) {
        return Err(GuardError::UnknownEntity { entity: unknown.clone(), known: CLASSES.join(", ") });
    }
    if settings.action == GuardAction::Redact && settings.stage.is_output() {
        return settings.wrong(
            "redact works on requests only with this kind, since an answer leaves before its end is read; set stage = \
             \"input\", or on answers block or flag",
        );
    }
    match settings.head.as_deref().map(str::trim) {
        None | Some("") => settings.wrong("head is missing; name one that is shipped, or a file"),
        Some(_) => Ok(()),
    }
}

/// Asks one head where something stands. Heads of several guards share a reading.
#[derive(Debug)]
struct ByToken {
    head: TokenHead,
    layers: Vec<u32>,
    /// What each of the head's classes is called; `None`: it is not looked for.
    entities: Vec<Option<&'static str>>,
}

impl Asker for ByToken {
    fn threshold(&self) -> f64 {
        self.head.threshold
    }

    fn token_layers(&self) -> Vec<u32> {
        self.layers.clone()
    }

    fn ask(&self, _: &Judged<'_>) -> Ask {
        Ask::Read
    }

    fn score(&self, _: &Answer<'_>) -> Result<Score, String> {
        Err("it was not asked where".to_owned())
    }

    fn locate(&self, text: &str, reading: &Reading) -> Result<Vec<Span>, String> {
        let tokens = reading.tokens.as_deref().ok_or("its tokens' states were not read")?;
        let found = self.head.find(text, tokens).map_err(|error| error.to_string())?;
        let span = |found: crate::token_head::Found| {
            let entity = self.entities.get(found.class).copied().flatten()?;
            let (start, end) = (found.range.start, found.range.end);
            Some(Span { start, end, entity, score: found.score as f32 })
        };
        Ok(found.into_iter().filter_map(span).collect())
    }
}

#[cfg(test)]
mod tests {
    use contract::Channel;
    use serde_json::{Value, json};

    use super::*;
    use crate::guards::Chain;
    use crate::guards::asked::Materials;
    use crate::token_head::testing::{head, seen};

    fn settings(more: Value) -> GuardSettings {
        let mut settings = json!({"name": "g", "kind": "token-head", "action": "redact", "head": "h"});
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(settings).unwrap()
    }

    fn materials() -> Materials {
        Materials { token_heads: [("h".to_owned(), head("h"))].into(), ..Materials::default() }
    }

    #[test]
    fn it_says_what_stands_where_of_what_is_looked_for() {
        let text = "ask Ann at 12";
        let reading = Reading { tokens: Some(seen(text).into()), ..Reading::default() };
        for (entities, expected) in [
            (json!([]), vec![("person", 4..7), ("address", 11..13)]),
            (json!(["address"]), vec![("address", 11..13)]),
        ] {
            let chain = Chain::with(&[settings(json!({"entities": entities}))], &materials()).unwrap();
            let link = &chain.asked()[0];
            assert!(link.locates() && chain.token_layers() == [1] && chain.layers().is_empty());
            let score = link.locate(text, &reading).unwrap();
            let found: Vec<_> = score.spans.iter().map(|span| (span.entity, span.range())).collect();
            assert_eq!(found, expected);
            assert!(score.value > 0.5);
        }
        let strict = Chain::with(&[settings(json!({"threshold": 1.0}))], &materials()).unwrap();
        assert_eq!(strict.asked()[0].locate(text, &reading).unwrap(), Score::of_spans(Vec::new()));
        assert!(strict.asked()[0].locate(text, &Reading::default()).is_err());
    }

    #[test]
    fn where_nothing_is_found_it_does_not_act_even_without_a_threshold() {
        let chain = Chain::with(&[settings(json!({"threshold": 0.0}))], &materials()).unwrap();
        let link = &chain.asked()[0];
        for (text, acts) in [("ask nobody", false), ("ask Ann", true)] {
            let reading = Reading { tokens: Some(seen(text).into()), ..Reading::default() };
            let score = link.locate(text, &reading);
            assert_eq!(link.verdict(Channel::User, &[score], false).action.is_some(), acts, "{text}");
        }
    }

    #[test]
    fn what_it_can_not_do_is_refused() {
        for (more, words) in [
            (json!({"stage": "both"}), "stage = \"input\""),
            (json!({"entities": ["email"]}), "known are: person, address"),
            (json!({"deny": ["x"]}), "for kind = \"pattern\""),
            (json!({"head": ""}), "head is missing"),
        ] {
            let error = Chain::check_settings(&[settings(more)]).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let output = settings(json!({"stage": "output", "action": "block"}));
        assert!(Chain::check_settings(&[output]).is_ok());
        let missing = Chain::with(&[settings(json!({}))], &Materials::default()).unwrap_err().to_string();
        assert!(missing.contains("no head \"h\""), "{missing}");
    }
}
