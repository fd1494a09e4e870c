//! `topic`: what a text is about, by example sentences and the small model's reading.
//!
//! A text's place is the mean of the last layer's states: of all layers, and beside the last token's state, that told
//! topics apart best. A ridge regression tells the examples' places from those of everyday sentences; they are learnt
//! when the small model is there.

use std::sync::{Arc, OnceLock};

use contract::Reading;

use super::{Built, Entry};
use crate::guards::asked::{Answer, Ask, Asker, Judged, Nearness, Score};
use crate::guards::{GuardError, GuardSettings, Topic};

/// Most example sentences of a guard.
const EXAMPLES_MAX: usize = 256;
/// Fewest example sentences of a topic.
const EXAMPLES_MIN: usize = 3;
/// Longest example sentence, bytes.
const EXAMPLE_BYTES_MAX: usize = 1000;
/// What a text is counted as that is about nothing that is allowed.
const OFF_TOPIC: &str = "off_topic";

pub(super) const ENTRY: Entry = Entry {
    name: "topic",
    about: "what is not to be talked about, or all that is, by example sentences",
    reads: true,
    check,
    build: |settings, materials| {
        Ok(Built::Asker(Arc::new(ByTopic {
            topics: settings.topics.clone(),
            allow: settings.allow.clone(),
            layer: materials.layers,
            learnt: OnceLock::new(),
        })))
    },
};

fn check(settings: &GuardSettings) -> Result<(), GuardError> {
    settings.check_asked()?;
    let lists = || settings.topics.iter().map(|topic| &topic.examples).chain([&settings.allow]);
    if lists().all(|list| list.is_empty()) {
        return settings.wrong("it has neither topics nor allow; give example sentences of one of them");
    }
    if settings.topics.iter().any(|topic| topic.examples.is_empty() || topic.name.trim().is_empty()) {
        return settings.wrong("each of topics needs a name and examples");
    }
    if lists().any(|list| !list.is_empty() && list.len() < EXAMPLES_MIN) {
        return settings.wrong("a topic, and allow, need at least 3 example sentences; 5 to 10 are better");
    }
    if lists().map(Vec::len).sum::<usize>() > EXAMPLES_MAX {
        return settings.wrong("there are more than 256 example sentences");
    }
    if lists().flatten().any(|text| text.trim().is_empty() || text.len() > EXAMPLE_BYTES_MAX) {
        return settings.wrong("an example sentence is empty or longer than 1000 bytes");
    }
    Ok(())
}

/// Knows topics by their examples.
#[derive(Debug)]
struct ByTopic {
    topics: Vec<Topic>,
    allow: Vec<String>,
    layer: u32,
    learnt: OnceLock<Learnt>,
}

/// What the examples taught.
#[derive(Debug)]
struct Learnt {
    topics: Vec<Nearness>,
    allow: Option<Nearness>,
}

impl ByTopic {
    fn place<'a>(&self, reading: &'a Reading) -> Result<&'a [f32], String> {
        let state = reading.layer(self.layer).ok_or_else(|| format!("layer {} was not read", self.layer))?;
        Ok(&state.mean)
    }
}

impl Asker for ByTopic {
    fn layers(&self) -> Vec<u32> {
        vec![self.layer]
    }

    fn ask(&self, _: &Judged<'_>) -> Ask {
        Ask::Read
    }

    fn score(&self, answer: &Answer<'_>) -> Result<Score, String> {
        let Answer::Reading(reading) = answer else { return Err("it was given no reading".to_owned()) };
        let learnt = self.learnt.get().ok_or("its examples were not read yet")?;
        let place = self.place(reading)?;
        let allowed =
            learnt.allow.as_ref().map(|allow| Ok::<_, String>(1.0 - allow.of(place)?)).transpose()?;
        let mut highest = Score::new(allowed.unwrap_or(0.0), OFF_TOPIC);
        for (topic, nearness) in self.topics.iter().zip(&learnt.topics) {
            let value = nearness.of(place)?;
            if value > highest.value {
                highest = Score::new(value, &topic.name);
            }
        }
        Ok(highest)
    }

    fn is_ready(&self) -> bool {
        self.learnt.get().is_some()
    }

    fn lessons(&self) -> Vec<String> {
        let examples = self.topics.iter().flat_map(|topic| &topic.examples).chain(&self.allow).cloned();
        NEUTRAL.iter().map(|text| (*text).to_owned()).chain(examples).collect()
    }

    fn learn(&self, readings: &[Reading]) -> Result<(), String> {
        let places: Vec<&[f32]> =
            readings.iter().map(|reading| self.place(reading)).collect::<Result<_, _>>()?;
        let (neutral, mut rest) = places.split_at(NEUTRAL.len().min(places.len()));
        let mut next = |count: usize| {
            let (these, others) = rest.split_at(count.min(rest.len()));
            rest = others;
            Nearness::fit(these, neutral)
        };
        let topics = self.topics.iter().map(|topic| next(topic.examples.len())).collect::<Result<_, _>>()?;
        let allow = (!self.allow.is_empty()).then(|| next(self.allow.len())).transpose()?;
        // Learnt already: the same.
        let _ = self.learnt.set(Learnt { topics, allow });
        Ok(())
    }
}

/// Sentences about nothing in particular, that a topic is told from.
const NEUTRAL: &[&str] = &[
    "What is the capital of Australia?",
    "Write a short poem about autumn leaves.",
    "How do I reverse a list in Python?",
    "Can you recommend a good film for a family evening?",
    "Explain how photosynthesis works.",
    "My flight was delayed, what are my rights?",
    "Translate 'good morning' into Spanish.",
    "What should I cook with rice and beans?",
    "Summarise the plot of Romeo and Juliet.",
    "How many centimetres are in an inch?",
    "Help me write a birthday message for my sister.",
    "Why is the sky blue?",
    "Fix the grammar in this sentence: he go to school.",
    "What are good exercises for a stiff back?",
    "Who won the football world cup in 2014?",
    "Draft an email asking for a day off.",
    "What is the difference between a virus and a bacterium?",
    "How does a mortgage work?",
    "Give me ideas for a weekend trip by train.",
    "What does this error message mean: index out of range?",
    "Tell me a joke about cats.",
    "How do I remove a wine stain from a shirt?",
    "When did the Roman empire fall?",
    "Compare electric cars with petrol cars.",
    "How can I learn to play the guitar?",
    "What is 17 times 24?",
    "Is it going to rain tomorrow?",
    "Which plants grow well in the shade?",
    "Please rewrite this paragraph in a friendlier tone.",
    "What documents do I need to rent a flat?",
    "Hello, how are you?",
    "How do I reset my password?",
];

#[cfg(test)]
mod tests {
    use contract::{LayerState, Reading};
    use serde_json::{Value, json};

    use super::*;
    use crate::guards::Chain;
    use crate::guards::asked::{AskedLink, Materials};

    /// Reads a text as how often each letter stands in it.
    fn read(text: &str) -> Reading {
        let count = |letter: char| text.chars().filter(|other| *other == letter).count() as f32;
        let mean = ('a'..='z').map(|letter| count(letter) / text.len() as f32).collect();
        Reading { states: vec![LayerState { layer: 4, last: Vec::new(), mean }], ..Reading::default() }
    }

    fn settings(more: Value) -> GuardSettings {
        let mut guard = json!({"name": "t", "kind": "topic", "action": "flag"});
        guard.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(guard).unwrap()
    }

    fn link(more: Value) -> AskedLink {
        let materials = Materials { layers: 4, ..Materials::default() };
        Chain::with(&[settings(more)], &materials).unwrap().asked()[0].clone()
    }

    fn taught(more: Value) -> AskedLink {
        let link = link(more);
        let readings: Vec<Reading> = link.asker().lessons().iter().map(|text| read(text)).collect();
        link.asker().learn(&readings).unwrap();
        link
    }

    fn score(link: &AskedLink, text: &str) -> Score {
        link.score(&Answer::Reading(&read(text))).unwrap()
    }

    fn buzz() -> Value {
        json!({"name": "buzz", "examples": ["buzz zzz", "zzzz bzz zuz", "zoo buzz zz", "zz zzb"]})
    }

    #[test]
    fn denied_topics_are_told_by_name() {
        let hum = json!({"name": "hum", "examples": ["mmm hum", "hm mmm um", "mmmm mum", "hum mm"]});
        let link = taught(json!({"topics": [buzz(), hum]}));
        for (text, label) in [("bzz zz zzz", "buzz"), ("mmm mm um", "hum")] {
            let score = score(&link, text);
            assert!(score.value > 0.5 && score.label == label, "{score:?}");
        }
        assert!(score(&link, "What is the largest lake in Europe?").value < 0.5);
    }

    #[test]
    fn with_allowed_sentences_everything_else_is_off_topic() {
        let link = taught(json!({"allow": buzz()["examples"]}));
        assert!(score(&link, "zzz buzz z").value < 0.5);
        let off = score(&link, "What is the largest lake in Europe?");
        assert!(off.value > 0.5 && off.label == OFF_TOPIC, "{off:?}");
    }

    #[test]
    fn who_has_learnt_nothing_can_not_be_asked() {
        let link = link(json!({"topics": [buzz()]}));
        assert!(!link.asker().is_ready());
        assert!(link.score(&Answer::Reading(&read("zzz"))).unwrap_err().contains("not read yet"));
        assert!(link.asker().learn(&[]).is_err());
        assert!(taught(json!({"topics": [buzz()]})).score(&Answer::Reading(&Reading::default())).is_err());
    }

    #[test]
    fn settings_that_teach_nothing_are_refused() {
        let few = json!({"topics": [{"name": "x", "examples": ["a", "b"]}]});
        let nameless = json!({"topics": [{"name": " ", "examples": ["a", "b", "c"]}]});
        let many = json!({"allow": vec!["x"; EXAMPLES_MAX + 1]});
        for (more, words) in [
            (json!({}), "neither topics nor allow"),
            (few, "at least 3"),
            (nameless, "a name"),
            (many, "more than 256"),
            (json!({"allow": ["a", "b", ""]}), "empty"),
            (json!({"allow": ["a", "b", "c"], "patterns": ["x"]}), "pattern"),
        ] {
            let error = Chain::check_settings(&[settings(more)]).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
