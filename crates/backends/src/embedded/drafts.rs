//! Who drafts what an embedded model writes: [`DraftOptions`].

use std::sync::Arc;

use contract::DrafterState;
use engine::model::Model;
use engine::scheduler::{Speculation, Turns};
use engine::speculation::Drafter;
use engine::speculation::chain::Chain;
use engine::speculation::costs::StepCosts;
use engine::speculation::model::{DRAFT_VOCABULARY, DraftModel};
use engine::speculation::prompt_lookup::PromptLookup;
use engine::speculation::vocabulary::{self, VocabularyMismatch};

use super::{EmbeddedBackend, State, lock};

/// Who drafts what a model writes.
#[derive(Clone, Debug, Default)]
pub struct DraftOptions {
    /// Whether tokens are looked up in the prompt and in recent answers.
    pub prompt_lookup: bool,
    /// The backend whose model drafts, from its own cache, while it is in memory.
    pub model: Option<EmbeddedBackend>,
    /// What that model does otherwise than it might, and why.
    pub note: Option<String>,
    /// Drafters that might draft and do not, each with the reason.
    pub unused: Vec<DrafterState>,
    /// What steps cost; `None`: it is measured.
    pub costs: Option<Arc<StepCosts>>,
}

impl DraftOptions {
    /// Drafters for `target`, computing in their turns at its pool; `None`: there are none.
    pub(super) fn speculation(
        &self,
        target: &Model,
        turns: &Arc<Turns>,
    ) -> Result<Option<Speculation>, VocabularyMismatch> {
        let mut drafters: Vec<Box<dyn Drafter>> = Vec::new();
        if self.prompt_lookup {
            drafters.push(Box::new(PromptLookup::default()));
        }
        if let Some(backend) = &self.model {
            if let Some(model) = backend.model() {
                vocabulary::compare(model.tokenizer(), target.tokenizer())?;
            }
            let shared = Arc::downgrade(&backend.shared);
            let find = move || match &*lock(&shared.upgrade()?.state) {
                State::Ready(running) => Some(running.decoder.clone()),
                State::Loading | State::Failed(_) | State::Idle { .. } => None,
            };
            let tokens = DRAFT_VOCABULARY.min(target.vocabulary());
            drafters.push(Box::new(DraftModel::new(Box::new(find), turns.seat(), tokens)));
        }
        Ok((!drafters.is_empty()).then(|| {
            let speculation = Speculation::new(Chain::new(drafters));
            match &self.costs {
                Some(costs) => speculation.with_costs(StepCosts::clone(costs)),
                None => speculation,
            }
        }))
    }

    /// The drafters, and why one does not draft at present.
    pub(super) fn states(&self) -> Vec<DrafterState> {
        let lookup = DrafterState { name: PromptLookup::NAME, idle: None, note: None };
        let lookup = self.prompt_lookup.then_some(lookup);
        let model = self.model.as_ref().map(EmbeddedBackend::absence);
        let note = self.note.clone();
        let model = model.map(|idle| DrafterState { name: DraftModel::NAME, idle, note });
        lookup.into_iter().chain(model).chain(self.unused.iter().cloned()).collect()
    }
}
