//! A decoder that has guests: [`SharedDecoder`]. Its scheduler's jobs come first; others may read and write
//! sequences of their own in the meantime, and find there what the jobs have left in the cache.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::{Decoder, ForwardError, Logits, SequenceId, Work};

/// Tokens of a measured pass.
const MEASURED_TOKENS_MAX: usize = 64;

/// A decoder under a lock. The lock is never held while waiting for a turn at the pool.
#[derive(Debug)]
pub struct SharedDecoder {
    held: Mutex<Held>,
    /// Makes cache scopes of clients' names.
    scopes: RandomState,
}

/// What the lock is over.
#[derive(Debug)]
pub(crate) struct Held {
    pub decoder: Decoder,
    guests: Vec<Guest>,
    invited: u64,
}

/// A pass that is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pass {
    /// That writes: a row of logits for each token.
    Step,
    /// That drafts: as many rows, of logits of so many tokens.
    Draft(usize),
    /// That only reads.
    Read,
}

/// A guest's sequence, until it is put out.
#[derive(Clone, Copy, Debug)]
struct Guest {
    number: GuestNumber,
    sequence: SequenceId,
}

/// A guest's name; of one that was put out, nobody's any more.
pub(crate) type GuestNumber = u64;

impl SharedDecoder {
    /// A decoder without guests.
    pub fn new(decoder: Decoder) -> Self {
        SharedDecoder {
            held: Mutex::new(Held { decoder, guests: Vec::new(), invited: 0 }),
            scopes: RandomState::new(),
        }
    }

    /// Tokens that it has read, for whomever.
    pub fn tokens_read(&self) -> u64 {
        self.lock().decoder.tokens_read()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The scope in which a client's sequences share what they have in common.
    pub(crate) fn scope(&self, client: Option<&Arc<str>>) -> u64 {
        self.scopes.hash_one(client)
    }
}

impl Held {
    /// Takes a sequence for a guest, with what the cache has of `text`, and promises room for `tokens`
    /// tokens. Returns the guest and the tokens that are there; `None` if there is no room.
    pub fn invite(&mut self, scope: u64, text: &[u32], tokens: usize) -> Option<(GuestNumber, usize)> {
        let begun = match self.decoder.drafts_apart() {
            true => self.decoder.begin_apart(scope, text),
            false => self.decoder.begin_with(scope, text),
        };
        let (sequence, cached) = begun.ok()?;
        if !self.decoder.promise(sequence, tokens) {
            self.decoder.end(sequence);
            return None;
        }
        self.invited += 1;
        self.guests.push(Guest { number: self.invited, sequence });
        Some((self.invited, cached))
    }

    /// A guest's sequence, unless it was put out.
    pub fn sequence(&self, number: GuestNumber) -> Option<SequenceId> {
        self.guests.iter().find(|guest| guest.number == number).map(|guest| guest.sequence)
    }

    /// Ends a guest's stay.
    pub fn leave(&mut self, number: GuestNumber) {
        if let Some(index) = self.guests.iter().position(|guest| guest.number == number) {
            self.decoder.end(self.guests.swap_remove(index).sequence);
        }
    }

    /// Promises a job's sequence room for `tokens` tokens in all, if need be that of guests. False if there is
    /// none.
    pub fn promise(&mut self, sequence: SequenceId, tokens: usize) -> bool {
        loop {
            if self.decoder.promise(sequence, tokens) {
                return true;
            }
            if !self.make_room() {
                return false;
            }
        }
    }

    /// Appends to a guest's sequence by the weights for drafting, if there are such. Returns the logits, as
    /// [`Decoder::forward_draft`].
    pub fn forward_draft(&mut self, works: &[Work], vocabulary: usize) -> Result<&[f32], ForwardError> {
        if self.decoder.drafts_apart() {
            works.iter().for_each(|work| self.decoder.keep_apart(work.sequence));
        }
        self.decoder.forward_draft(works, vocabulary)
    }

    /// Milliseconds of a pass over `width` tokens of one sequence. `None` if there is no room for it.
    pub fn pass_ms(&mut self, width: usize, pass: Pass) -> Option<f64> {
        let decoder = &mut self.decoder;
        let sequence = decoder.begin().ok()?;
        let width = width.min(MEASURED_TOKENS_MAX).min(decoder.batch_tokens());
        let tokens = &[0; MEASURED_TOKENS_MAX][..width];
        let began = Instant::now();
        let work = |logits| [Work { sequence, tokens, logits }];
        let result = match pass {
            Pass::Step => decoder.forward(&work(Logits::All)),
            Pass::Draft(vocabulary) => decoder.forward_draft(&work(Logits::All), vocabulary),
            Pass::Read => decoder.forward(&work(Logits::None)),
        };
        let took_ms = result.is_ok().then(|| began.elapsed().as_secs_f64() * 1e3);
        decoder.end(sequence);
        took_ms
    }

    /// Puts the newest guest out, so that a job finds room. False if there is none.
    pub fn make_room(&mut self) -> bool {
        let newest = self.guests.iter().map(|guest| guest.number).max();
        newest.inspect(|&number| self.leave(number)).is_some()
    }
}
