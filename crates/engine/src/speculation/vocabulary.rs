//! Whether two models mean the same by their tokens: [`compare`].

use crate::tokenizer::Tokenizer;

/// Why one model can't draft for another: a token stands for another text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("token {id} is {draft:?} to the drafter and {target:?} to the model it would draft for")]
pub struct VocabularyMismatch {
    /// The token.
    pub id: u32,
    /// What the drafter writes.
    pub draft: String,
    /// What the other writes.
    pub target: String,
}

/// Compares token by token, as far as both have them: vocabularies are padded to different sizes, and a
/// token that only one has is never drafted, or not drafted after.
///
/// # Errors
/// The first difference.
pub fn compare(draft: &Tokenizer, target: &Tokenizer) -> Result<(), VocabularyMismatch> {
    let common = draft.vocab_len().min(target.vocab_len()) as u32;
    let text = |piece: &[u8]| String::from_utf8_lossy(piece).into_owned();
    for id in 0..common {
        let (of_draft, of_target) = (draft.piece(id), target.piece(id));
        if of_draft != of_target {
            return Err(VocabularyMismatch { id, draft: text(of_draft), target: text(of_target) });
        }
    }
    Ok(())
}
