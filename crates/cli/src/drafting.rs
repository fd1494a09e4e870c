//! Who drafts for whom among local models: [`Drafting`]. First by the settings alone, then by what is known of
//! the models.

use contract::DrafterState;
use engine::model::Model;
use engine::sampling::Proposal;
use engine::speculation::model::{DRAFT_VOCABULARY, DraftModel};
use engine::speculation::prompt_lookup::PromptLookup;
use engine::speculation::vocabulary;
use engine::speculation::{DRAFT_TOKENS_MAX, STEP_DRAFT_TOKENS};
use planner::split::{CONTEXTS_DEFAULT, Choice, Wanted};

use crate::error::CliError;
use crate::settings::{DrafterKind, LocalSettings, SpeculativeSettings};

/// Requests of another model that a draft model drafts for at once, at most.
const GUESTS_MAX: u32 = 8;
/// Why a drafter that was left open is not used.
const NO_ROOM: &str = "there is no room for it in the memory budget";
/// Why a model drafts with its own weights.
const NO_ROOM_FOR_COARSE: &str = "it drafts with its own weights, not with those of 4 bits: the memory budget leaves too little room for both";

/// What a local model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It fills the role small.
    Small,
    /// It fills the role large.
    Large,
    /// It only drafts.
    Draft,
}

impl Part {
    /// Its name in the memory plan.
    pub fn as_str(self) -> &'static str {
        match self {
            Part::Small => "small",
            Part::Large => "large",
            Part::Draft => "draft",
        }
    }
}

/// A model in this process.
#[derive(Clone, Debug)]
pub struct LocalModel {
    /// What it is for.
    pub part: Part,
    /// Which, and how it runs.
    pub settings: LocalSettings,
}

/// Who drafts for whom. Models are told apart by their place among the local ones.
#[derive(Clone, Debug, Default)]
pub struct Drafting {
    enabled: bool,
    pair: Option<DraftPair>,
    /// Whether the draft model gets weights of fewer bits for that.
    coarse_weights: bool,
    /// Why it does not, although it would.
    note: Option<String>,
    /// The one that is not drafted for by look-up too.
    without_lookup: Option<usize>,
    /// For which one no model drafts, although one might, and why.
    without_model: Option<(usize, String)>,
    /// Whether look-up has no room, either.
    is_tight: bool,
}

/// A draft model and its target.
#[derive(Clone, Copy, Debug)]
struct DraftPair {
    drafter: usize,
    target: usize,
    /// Whether it was asked for by name.
    is_asked: bool,
}

/// Who drafts for one model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drafters {
    /// Whether look-up does.
    pub prompt_lookup: bool,
    /// The place of the model that does.
    pub model: Option<usize>,
    /// What that does otherwise than it might, and why.
    pub note: Option<String>,
    /// Those that might and do not, each with the reason.
    pub unused: Vec<DrafterState>,
}

/// What drafting asks of one model's decoder.
#[derive(Clone, Copy, Debug, Default)]
pub struct DraftNeeds {
    by_lookup: bool,
    by_model: bool,
    /// Requests that it drafts for, at most.
    guests: u32,
    /// Whether it has weights of fewer bits for that.
    coarse_weights: bool,
    /// Whether they are no more than its own sequences.
    follows_sequences: bool,
}

impl Drafting {
    /// By the settings. A draft model of its own is added to `locals`; it drafts for the large model if that is
    /// local, otherwise for the small one.
    ///
    /// # Errors
    /// [`CliError::Usage`] if a draft model is asked for and can't be.
    pub fn new(settings: &SpeculativeSettings, locals: &mut Vec<LocalModel>) -> Result<Self, CliError> {
        if !settings.enabled {
            return Ok(Drafting::default());
        }
        let coarse_weights = settings.coarse_weights;
        let mut drafting = Drafting { enabled: true, coarse_weights, ..Drafting::default() };
        if settings.drafter == DrafterKind::PromptLookup {
            return Ok(drafting);
        }
        let found = draft_pair(settings, locals);
        drafting.pair = match found {
            Err(why) if settings.asks_for_model() => return Err(CliError::usage(why)),
            found => found.ok(),
        };
        let target = drafting.pair.map(|pair| pair.target);
        drafting.without_lookup = target.filter(|_| settings.drafter == DrafterKind::Model);
        Ok(drafting)
    }

    /// By the models too, as far as they are known: tokens must stand for the same texts.
    ///
    /// # Errors
    /// [`CliError::Usage`] if a draft model that is asked for has another vocabulary.
    pub fn settle(mut self, models: &[Option<Model>], locals: &[LocalModel]) -> Result<Self, CliError> {
        let Some(DraftPair { drafter, target, is_asked }) = self.pair else { return Ok(self) };
        let (Some(small), Some(large)) = (&models[drafter], &models[target]) else { return Ok(self) };
        if let Err(mismatch) = vocabulary::compare(small.tokenizer(), large.tokenizer()) {
            let (drafter, name) = (&locals[drafter].settings.name, &locals[target].settings.name);
            if is_asked {
                return Err(CliError::usage(format!(
                    "[speculative]: {drafter} can't draft for {name}: their vocabularies differ: {mismatch}; name a \
                     draft model of {name}'s family, or set drafter = \"prompt-lookup\""
                )));
            }
            self.without_model =
                Some((target, format!("{drafter} can't draft: vocabularies differ: {mismatch}")));
            (self.pair, self.without_lookup) = (None, None);
        }
        Ok(self)
    }

    /// The same with the draft model's own weights alone, if it would have others besides: there is too little room.
    pub fn without_coarse_weights(&self) -> Option<Self> {
        let note = Some(NO_ROOM_FOR_COARSE.to_owned());
        let has_coarse = self.coarse_weights && self.pair.is_some();
        has_coarse.then(|| Drafting { coarse_weights: false, note, ..self.clone() })
    }

    /// First tokens of the vocabulary that the model gets weights of fewer bits for, if it drafts with such.
    pub fn coarse_vocabulary(&self, local: usize) -> Option<usize> {
        let drafts = self.pair.is_some_and(|pair| pair.drafter == local);
        (drafts && self.coarse_weights).then_some(DRAFT_VOCABULARY)
    }

    /// The same with one drafter less, where none was asked for by name: the memory budget has no room for all.
    pub fn fewer(mut self) -> Option<Self> {
        match self.pair {
            Some(DraftPair { is_asked: true, .. }) => return None,
            Some(DraftPair { target, .. }) => {
                self.without_model = Some((target, NO_ROOM.to_owned()));
                self.pair = None;
            }
            None if self.enabled && !self.is_tight => self.is_tight = true,
            None => return None,
        }
        Some(self)
    }

    /// Who drafts for a model; `None`: nobody ever.
    pub fn of(&self, local: usize, locals: &[LocalModel]) -> Option<Drafters> {
        if !self.enabled || locals[local].part == Part::Draft {
            return None;
        }
        let unused = |name, why: &str| DrafterState { name, idle: Some(why.to_owned()), note: None };
        let lookup = self.is_tight.then(|| unused(PromptLookup::NAME, NO_ROOM));
        let model = self.without_model.as_ref().filter(|(target, _)| *target == local);
        let drafter = self.pair.filter(|pair| pair.target == local).map(|pair| pair.drafter);
        Some(Drafters {
            prompt_lookup: !self.is_tight && self.without_lookup != Some(local),
            model: drafter,
            note: drafter.and(self.note.clone()),
            unused: lookup.into_iter().chain(model.map(|(_, why)| unused(DraftModel::NAME, why))).collect(),
        })
    }

    /// What that asks of the model's decoder.
    pub fn needs(&self, local: usize, locals: &[LocalModel]) -> DraftNeeds {
        let drafters = self.of(local, locals).unwrap_or_default();
        let drafts_for =
            self.pair.filter(|pair| pair.drafter == local).map(|pair| &locals[pair.target].settings);
        let guests = |target: &LocalSettings| target.wanted.sequences.unwrap_or(GUESTS_MAX).min(GUESTS_MAX);
        DraftNeeds {
            by_lookup: drafters.prompt_lookup,
            by_model: drafters.model.is_some(),
            guests: drafts_for.map_or(0, guests),
            coarse_weights: self.coarse_vocabulary(local).is_some(),
            follows_sequences: locals[local].settings.wanted.sequences.is_none(),
        }
    }
}

/// The draft model and its target, or why there are none.
fn draft_pair(settings: &SpeculativeSettings, locals: &mut Vec<LocalModel>) -> Result<DraftPair, String> {
    let place = |wanted: Part| locals.iter().position(|local| local.part == wanted);
    let (small, large) = (place(Part::Small), place(Part::Large));
    let kind = settings.drafter.as_str();
    let Some(target) = large.or(small) else {
        return Err(format!(
            "speculative.drafter is {kind:?}, but both models are upstreams, which draft by themselves; take \
             [speculative] out"
        ));
    };
    let is_asked = settings.asks_for_model();
    let other = small.filter(|small| *small != target);
    let drafter = match &settings.model {
        None => other.ok_or_else(|| {
            format!(
                "speculative.drafter is {kind:?}, but of small and large only {} is local, and no model drafts for \
                 itself; name a draft model (speculative.model), or set drafter = \"prompt-lookup\"",
                locals[target].part.as_str()
            )
        })?,
        Some(model) if model.reference == locals[target].settings.reference => {
            return Err(format!(
                "speculative.model is {}, which it would draft for; name a smaller model of its family",
                model.name
            ));
        }
        Some(model) => match other.filter(|&other| locals[other].settings.reference == model.reference) {
            Some(small) => small,
            None => {
                let mut model = model.clone();
                let Wanted { context_tokens, sequences, .. } = locals[target].settings.wanted;
                // It answers nobody, but by its sequences its cache is measured. Guests have their own.
                model.wanted.sequences = Some(sequences.unwrap_or(u32::MAX).min(CONTEXTS_DEFAULT));
                model.wanted.context_tokens = context_tokens;
                locals.push(LocalModel { part: Part::Draft, settings: model });
                locals.len() - 1
            }
        },
    };
    Ok(DraftPair { drafter, target, is_asked })
}

impl DraftNeeds {
    /// Sequences of those that it drafts for.
    pub fn guests(self, choice: &Choice) -> usize {
        let most = if self.follows_sequences { choice.sequences } else { u32::MAX };
        self.guests.min(most) as usize
    }

    /// Drafted tokens of a pass.
    pub fn draft_tokens(self, choice: &Choice) -> usize {
        // Who drafts reads guesses, too.
        let drafts = self.by_lookup || self.by_model || self.guests(choice) > 0;
        if drafts { STEP_DRAFT_TOKENS.max(self.guests(choice)) } else { 0 }
    }

    /// Bytes of weights that the model has besides its own, to draft with.
    pub fn weights_bytes(self, model: &Model) -> u64 {
        if self.coarse_weights { model.drafting_bytes(DRAFT_VOCABULARY) } else { 0 }
    }

    /// Bytes that drafters hold for the model, at most.
    pub fn bytes(self, choice: &Choice, vocabulary: usize) -> u64 {
        let sequences = choice.sequences as usize;
        let lookup = PromptLookup::bytes_max(sequences, choice.kv_tokens as usize);
        let proposals = DRAFT_TOKENS_MAX * Proposal::bytes_max(DRAFT_VOCABULARY.min(vocabulary));
        let lookup = if self.by_lookup { lookup } else { 0 };
        let model = if self.by_model { sequences * proposals } else { 0 };
        (lookup + model) as u64
    }
}

#[cfg(test)]
mod tests {
    use planner::split::KvKind;
    use store::Reference;

    use super::*;
    use crate::budget::read;

    fn local(part: Part, name: &str) -> LocalModel {
        let wanted = Wanted {
            context_tokens: None,
            sequences: None,
            kv_tokens: None,
            batch_tokens: None,
            kv: KvKind::F16,
        };
        let settings = LocalSettings {
            reference: Reference::File(format!("{name}.gguf").into()),
            name: name.to_owned(),
            price: contract::Price::default(),
            wanted,
            idle_unload_seconds: None,
            reading_layers: engine::decoder::LayerSet::default(),
        };
        LocalModel { part, settings }
    }

    fn speculative(drafter: DrafterKind, model: Option<&str>) -> SpeculativeSettings {
        let model = model.map(|name| local(Part::Draft, name).settings);
        SpeculativeSettings { enabled: true, drafter, model, coarse_weights: true }
    }

    fn pair() -> Vec<LocalModel> {
        vec![local(Part::Small, "s"), local(Part::Large, "l")]
    }

    fn choice(sequences: u32) -> Choice {
        Choice { context_tokens: 512, sequences, kv_tokens: 1024, batch_tokens: 64, kv: KvKind::F16 }
    }

    fn tiny(name: &str) -> Model {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny");
        read(&folder.join(format!("{name}.gguf"))).unwrap()
    }

    #[test]
    fn the_small_drafts_for_the_large_and_look_up_for_both() {
        let mut locals = pair();
        let drafting = Drafting::new(&speculative(DrafterKind::Auto, None), &mut locals).unwrap();
        let lookup = Drafters { prompt_lookup: true, ..Drafters::default() };
        assert_eq!(drafting.of(0, &locals), Some(lookup.clone()));
        assert_eq!(drafting.of(1, &locals), Some(Drafters { model: Some(0), ..lookup.clone() }));
        let drafting = Drafting::new(&speculative(DrafterKind::Model, None), &mut locals).unwrap();
        assert_eq!(drafting.of(0, &locals), Some(lookup.clone()));
        let alone = Drafters { model: Some(0), ..Drafters::default() };
        assert_eq!(drafting.of(1, &locals), Some(alone));
        let drafting = Drafting::new(&speculative(DrafterKind::PromptLookup, None), &mut locals).unwrap();
        assert_eq!(drafting.of(1, &locals), Some(lookup));
        let off = SpeculativeSettings { enabled: false, ..speculative(DrafterKind::Chain, None) };
        let drafting = Drafting::new(&off, &mut locals).unwrap();
        assert_eq!(drafting.of(1, &locals), None);
        assert_eq!(drafting.needs(1, &locals).draft_tokens(&choice(4)), 0);
        assert_eq!(locals.len(), 2);
    }

    #[test]
    fn a_named_model_joins_unless_it_is_the_small_one() {
        let mut locals = pair();
        Drafting::new(&speculative(DrafterKind::Auto, Some("s")), &mut locals).unwrap();
        assert_eq!(locals.len(), 2);
        let drafting = Drafting::new(&speculative(DrafterKind::Chain, Some("d")), &mut locals).unwrap();
        assert_eq!((locals.len(), locals[2].part), (3, Part::Draft));
        assert_eq!(locals[2].settings.wanted.sequences, Some(CONTEXTS_DEFAULT));
        assert_eq!(drafting.of(1, &locals).unwrap().model, Some(2));
        assert_eq!(drafting.of(2, &locals), None);
        let mut small = vec![local(Part::Small, "s")];
        let drafting = Drafting::new(&speculative(DrafterKind::Auto, Some("d")), &mut small).unwrap();
        assert_eq!(drafting.of(0, &small).unwrap().model, Some(1), "large is an upstream");
    }

    #[test]
    fn what_is_asked_for_and_can_not_be_is_refused() {
        let refused = |settings: SpeculativeSettings, mut locals: Vec<LocalModel>, words: &str| {
            let error = Drafting::new(&settings, &mut locals).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(words), "{error}");
        };
        for kind in [DrafterKind::Model, DrafterKind::Chain] {
            refused(speculative(kind, None), Vec::new(), "both models are upstreams");
            refused(speculative(kind, None), vec![local(Part::Small, "s")], "only small is local");
            refused(speculative(kind, None), vec![local(Part::Large, "l")], "only large is local");
        }
        refused(speculative(DrafterKind::Auto, Some("d")), Vec::new(), "both models are upstreams");
        refused(speculative(DrafterKind::Auto, Some("l")), pair(), "which it would draft for");
        let mut upstreams = Vec::new();
        assert!(Drafting::new(&speculative(DrafterKind::Auto, None), &mut upstreams).is_ok());
    }

    #[test]
    fn other_vocabularies_are_told_or_refused() {
        let mut locals = pair();
        let of =
            |kind, locals: &mut Vec<LocalModel>| Drafting::new(&speculative(kind, None), locals).unwrap();
        let other = [Some(tiny("tiny-qwen2")), Some(tiny("tiny-llama-mqa"))];
        let drafters =
            of(DrafterKind::Auto, &mut locals).settle(&other, &locals).unwrap().of(1, &locals).unwrap();
        let why = drafters.unused[0].idle.clone().unwrap();
        assert!(why.contains("s can't draft: vocabularies differ: token "), "{why}");
        assert_eq!((drafters.prompt_lookup, drafters.model), (true, None));
        let error = of(DrafterKind::Chain, &mut locals).settle(&other, &locals).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(text.contains("s can't draft for l") && text.contains("token "), "{text}");
        let same = [Some(tiny("tiny-qwen2")), Some(tiny("tiny-qwen2"))];
        let drafting = of(DrafterKind::Model, &mut locals).settle(&same, &locals).unwrap();
        assert_eq!(drafting.of(1, &locals).unwrap().model, Some(0));
        let absent = [None, Some(tiny("tiny-qwen2"))];
        assert!(of(DrafterKind::Chain, &mut locals).settle(&absent, &locals).is_ok(), "not known yet");
    }

    #[test]
    fn who_was_not_asked_for_makes_room() {
        let mut locals = pair();
        let all = Drafting::new(&speculative(DrafterKind::Auto, None), &mut locals).unwrap();
        let fewer = all.fewer().unwrap();
        let drafters = fewer.of(1, &locals).unwrap();
        assert_eq!((drafters.prompt_lookup, drafters.model, drafters.unused[0].name), (true, None, "model"));
        assert_eq!(fewer.needs(0, &locals).guests(&choice(4)), 0);
        let none = fewer.fewer().unwrap();
        let drafters = none.of(1, &locals).unwrap();
        assert_eq!((drafters.prompt_lookup, drafters.model, drafters.unused.len()), (false, None, 2));
        assert_eq!(none.needs(1, &locals).draft_tokens(&choice(4)), 0);
        assert_eq!(none.needs(1, &locals).bytes(&choice(4), 1000), 0);
        assert!(none.fewer().is_none());
        let asked = Drafting::new(&speculative(DrafterKind::Chain, None), &mut locals).unwrap();
        assert!(asked.fewer().is_none());
    }

    #[test]
    fn a_draft_model_has_weights_of_fewer_bits_where_there_is_room_and_says_if_not() {
        let mut locals = pair();
        let drafting = Drafting::new(&speculative(DrafterKind::Auto, None), &mut locals).unwrap();
        let coarse = |drafting: &Drafting| [0, 1].map(|local| drafting.coarse_vocabulary(local));
        assert_eq!(coarse(&drafting), [Some(DRAFT_VOCABULARY), None]);
        let model = tiny("tiny-qwen2");
        let bytes = |drafting: &Drafting, local| drafting.needs(local, &locals).weights_bytes(&model);
        assert_eq!(bytes(&drafting, 0), model.drafting_bytes(DRAFT_VOCABULARY));
        assert!(bytes(&drafting, 0) > 0 && bytes(&drafting, 1) == 0);
        assert_eq!(drafting.of(1, &locals).unwrap().note, None);
        let tight = drafting.without_coarse_weights().unwrap();
        assert_eq!((coarse(&tight), bytes(&tight, 0)), ([None, None], 0));
        let drafters = tight.of(1, &locals).unwrap();
        assert_eq!(drafters.model, Some(0));
        assert!(drafters.note.unwrap().contains("the memory budget"));
        assert_eq!(tight.of(0, &locals).unwrap().note, None, "nothing drafts for the small one");
        assert!(tight.without_coarse_weights().is_none());
        let off = SpeculativeSettings { coarse_weights: false, ..speculative(DrafterKind::Auto, None) };
        let off = Drafting::new(&off, &mut locals.clone()).unwrap();
        assert_eq!((coarse(&off), off.of(1, &locals).unwrap().note), ([None, None], None));
        assert!(off.without_coarse_weights().is_none());
        let fewer = drafting.fewer().unwrap();
        assert_eq!(coarse(&fewer), [None, None]);
    }

    #[test]
    fn decoders_have_room_for_drafts_and_guests() {
        let mut locals = pair();
        let drafting = Drafting::new(&speculative(DrafterKind::Auto, None), &mut locals).unwrap();
        let (small, large) = (drafting.needs(0, &locals), drafting.needs(1, &locals));
        assert_eq!((small.guests(&choice(4)), small.guests(&choice(32))), (4, GUESTS_MAX as usize));
        assert_eq!((large.guests(&choice(32)), large.draft_tokens(&choice(1))), (0, STEP_DRAFT_TOKENS));
        assert!(large.bytes(&choice(4), 1000) - small.bytes(&choice(4), 1000) >= 4 * 15 * 1000 * 4);
        // The large one's sequences are known, the small one's are not its measure.
        (locals[0].settings.wanted.sequences, locals[1].settings.wanted.sequences) = (Some(1), Some(3));
        assert_eq!(drafting.needs(0, &locals).guests(&choice(1)), 3);
    }
}
