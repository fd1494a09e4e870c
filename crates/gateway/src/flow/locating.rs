//! Finds where something stands in a request, before anybody else is asked about it: guards that say where read its
//! messages, and what they find is redacted.
//!
//! Each message is read in windows, by the small model alone and in this process; who is asked afterwards sees what is
//! left of the request.

use std::sync::Arc;

use contract::{Channel, GuardAction, Role};
use policy::guards::asked::{AskedLink, Located, PLACES_MAX, Places, Score};
use policy::guards::redact::Vault;

use super::asking::Asking;

impl Asking {
    /// Asks guards that say where about every message, and does what follows.
    pub(super) async fn locate(&mut self, mut vault: Vault) {
        let shared = Arc::clone(&self.shared);
        let looks = |link: &&AskedLink| link.locates() && looks_at_requests(link);
        let links: Vec<&AskedLink> = shared.guards.asked().iter().filter(looks).collect();
        if links.is_empty() {
            return;
        }
        let mut request = (*self.request).clone();
        let places = Places::of_request(&mut request);
        let scores = self.scores(&links, &places).await;
        let mut redactions: Vec<(Located, bool)> = Vec::new();
        for (link, scores) in links.into_iter().zip(&scores) {
            let located = places.located(link, scores, &mut request);
            self.asked.records.extend(located.records.iter().cloned());
            if let Some(record) = located.records.iter().find(|record| record.action == GuardAction::Block) {
                self.asked.refusal = Some(self.refusal(link, record));
                return;
            }
            match link.action() {
                GuardAction::Escalate => self.asked.escalates |= located.acts,
                GuardAction::Redact => redactions.push((located, link.restores())),
                GuardAction::Block | GuardAction::Flag => {}
            }
        }
        if redactions.iter().any(|(located, _)| located.acts) {
            Places::redact(&redactions, &mut request, &mut vault);
            self.request = Arc::new(request);
            self.asked.redacted = Some((Arc::clone(&self.request), vault));
            // What was read is not what will be answered.
            let read = self.asked.read.take();
            self.asked.spent.extend(read.map(|read| (Role::Small, read.reading.usage)));
        }
    }

    /// What each guard says of each place.
    async fn scores(&mut self, links: &[&AskedLink], places: &Places) -> Vec<Vec<Result<Score, String>>> {
        let mut scores: Vec<Vec<_>> = vec![Vec::with_capacity(places.places.len()); links.len()];
        for place in &places.places {
            for (link, scores) in links.iter().zip(&mut scores) {
                scores.push(if !place.concerns(link) {
                    Ok(Score::of_spans(Vec::new()))
                } else if places.are_too_many() {
                    Err(format!("its messages are longer than {PLACES_MAX} windows"))
                } else {
                    self.score(link, &place.window).await
                });
            }
            self.forget_tokens(&place.window.text);
        }
        scores
    }
}

/// Whether a guard looks at requests.
pub(super) fn looks_at_requests(link: &AskedLink) -> bool {
    [Channel::User, Channel::Tool].iter().any(|channel| link.looks_at(*channel))
}
