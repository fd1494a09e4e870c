//! What `keep_text` promises, looked for in the bytes of the files.

mod rows;

use std::path::Path;

use contract::{AttemptStatus, FailureKind, Input};
use ledger::{KeepText, Ledger, LedgerSettings, StoredRequest};

/// Words that stand only in prompts, answers, options and comments.
const TELLTALES: [&str; 5] = ["Zanzibar", "Quillfeather", "Xylophone", "reluctantly", "Be brief"];

/// Writes an answered and a refused request with feedback; returns both and the telltales in the files.
async fn written(folder: &Path, keep_text: KeepText) -> (StoredRequest, StoredRequest, Vec<&'static str>) {
    let settings = LedgerSettings { keep_text, ..LedgerSettings::default() };
    let ledger = Ledger::open(&folder.join("ledger"), settings).await.unwrap();
    ledger.record(rows::row("chatcmpl-1")).await.unwrap();
    ledger.record(rows::refused_row("chatcmpl-2")).await.unwrap();
    assert!(ledger.feedback("chatcmpl-1", 1.0, Some("Xylophone is right")).await.unwrap());
    let answered = ledger.request("chatcmpl-1").await.unwrap().unwrap();
    let refused = ledger.request("chatcmpl-2").await.unwrap().unwrap();
    // Before the end, so that the log is looked through as well.
    let mut found = found_in(folder);
    ledger.close().await.unwrap();
    found.extend(found_in(folder));
    found.sort_unstable();
    found.dedup();
    (answered, refused, found)
}

fn found_in(folder: &Path) -> Vec<&'static str> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        bytes.extend(std::fs::read(entry.unwrap().path()).unwrap());
    }
    assert!(!bytes.is_empty());
    let holds = |word: &&str| bytes.windows(word.len()).any(|window| window == word.as_bytes());
    TELLTALES.into_iter().filter(holds).collect()
}

#[tokio::test]
async fn none_and_hashes_leave_no_text_in_any_file() {
    for keep_text in [KeepText::None, KeepText::Hashes] {
        let folder = tempfile::tempdir().unwrap();
        let (answered, refused, found) = written(folder.path(), keep_text).await;
        assert_eq!(found, Vec::<&str>::new(), "{keep_text:?}");

        assert_eq!(answered.row.attempts[1].text, "");
        assert_eq!(answered.row.decisions, rows::row("chatcmpl-1").decisions, "reasons without quotes stay");
        assert_eq!(answered.feedback[0].comment, None);
        let Input::Chat { messages, .. } = &answered.row.request.input else { panic!("no chat") };
        assert_eq!(messages.len(), 2, "who spoke stays");

        let AttemptStatus::Failed(error) = &refused.row.attempts[0].status else { panic!("not failed") };
        assert_eq!((error.kind, error.retry_after_s), (FailureKind::Upstream, Some(3)));
        assert!(refused.row.error.unwrap().contains("keep_text"), "it says why there are no words");
        assert!(refused.row.decisions[0].reason.contains("keep_text"));
        assert_eq!(refused.row.decisions[1].reason, rows::refused_row("").decisions[1].reason);
    }
}

#[tokio::test]
async fn hashes_are_of_the_texts() {
    let folder = tempfile::tempdir().unwrap();
    let (answered, _, _) = written(folder.path(), KeepText::Hashes).await;
    // printf 'Be brief.\nWhich Zanzibar-7 treaty did Ms Quillfeather sign?' | sha256sum
    assert_eq!(
        answered.prompt_sha256.as_deref(),
        Some("b3c0e0b2b8984ad510c595bde42503de4b054e63b9323fbd0c84525040f6fa57")
    );
    // printf 'The Xylophone Accord of 1887, reluctantly.' | sha256sum
    let answer = "2b18600bd121b5e8818561b03e4b882b32040c2b022bb8f49bf8779d2c49e23d";
    assert_eq!(answered.answers_sha256, vec![Some(answer.to_owned()); 2]);

    let folder = tempfile::tempdir().unwrap();
    let (answered, _, _) = written(folder.path(), KeepText::None).await;
    assert_eq!((answered.prompt_sha256, answered.answers_sha256), (None, vec![None, None]));
}

#[tokio::test]
async fn full_gives_back_all_that_was_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let (answered, refused, found) = written(folder.path(), KeepText::Full).await;
    assert_eq!(answered.row, rows::row("chatcmpl-1"));
    assert_eq!(refused.row, rows::refused_row("chatcmpl-2"));
    assert_eq!(answered.feedback[0].comment.as_deref(), Some("Xylophone is right"));
    assert_eq!(found.len(), TELLTALES.len());
}
