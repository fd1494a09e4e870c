//! Which tokens a forward pass has ([`Work`]), and which of them go through all of it.

use super::SequenceId;

/// Which tokens' logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// None: the prompt goes on.
    None,
    /// Those after the last token.
    Last,
    /// Those after each of so many last tokens.
    Tail(usize),
    /// Those after every token.
    All,
}

/// New tokens of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    /// Which sequence.
    pub sequence: SequenceId,
    /// At least one token.
    pub tokens: &'a [u32],
    /// What is wanted.
    pub logits: Logits,
}

/// The tokens of one forward pass.
pub(super) struct Batch<'a> {
    pub rows: &'a [Rows],
    pub tokens: usize,
    /// Of the last layer, where nobody asks for all tokens' states: it keeps keys and values of all, and goes on with
    /// those alone whose logits are wanted.
    pub ends: Option<Ends<'a>>,
}

/// The tokens whose logits are wanted: the last ones of some sequences.
#[derive(Clone, Copy)]
pub(super) struct Ends<'a> {
    pub rows: &'a [Rows],
    pub wanted: &'a [usize],
}

impl Batch<'_> {
    /// Tokens that go on behind the layer's attention.
    pub fn onward(&self) -> usize {
        self.ends.map_or(self.tokens, |ends| ends.wanted.len())
    }
}

/// One sequence's rows in the batch.
#[derive(Debug)]
pub(in crate::decoder) struct Rows {
    pub sequence: usize,
    /// Of its first token here.
    pub position: usize,
    /// Its first row.
    pub row: usize,
    pub tokens: usize,
}

/// Lists the tokens whose logits are wanted: by sequence, and their rows, ascending.
pub(super) fn list_ends(works: &[Work], rows: &[Rows], (ends, wanted): (&mut Vec<Rows>, &mut Vec<usize>)) {
    ends.clear();
    wanted.clear();
    for (work, &Rows { sequence, position, row, tokens: all }) in works.iter().zip(rows) {
        let tokens = match work.logits {
            Logits::None => 0,
            Logits::Last => 1,
            Logits::Tail(tokens) => tokens.min(all),
            Logits::All => all,
        };
        if tokens > 0 {
            let before = all - tokens;
            ends.push(Rows { sequence, position: position + before, row: row + before, tokens });
            wanted.extend(row + before..row + all);
        }
    }
}

/// Moves rows to the front; they ascend, so none is overwritten before it has moved.
pub(super) fn gather(values: &mut [f32], rows: &[usize], width: usize) {
    for (to, &from) in rows.iter().enumerate() {
        values.copy_within(from * width..(from + 1) * width, to * width);
    }
}
