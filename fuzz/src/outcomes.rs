//! Files of outcomes, torn at their end or not.

use lab::outcome_file::parse;

use crate::{Seed, Target};

/// The target.
pub const TARGET: Target = Target {
    name: "outcomes",
    run,
    seeds: &[
        Seed::Bytes(b"{\"id\":\"a\",\"backend\":\"small\",\"correct\":true}\n{\"id\":\"a\",\"backend\":\"large\",\"corr"),
        Seed::Bytes(
            br#"{"id":"b","backend":"large","correct":false,"output":"x","tokens":{"prompt_tokens":3,"cached_tokens":0,"completion_tokens":1,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0},"reading":{"prompt_tokens":3,"read_tokens":3,"next":{"logprob_max":-0.5,"margin":1.0,"entropy":0.5},"states":[{"layer":2,"last":"ADg=","mean":"ADw="}]}}"#,
        ),
    ],
    words: &[b"\n", b"\"correct\":true", b"\"last\":\"/3v/ew==\"", b"null", b"1e999"],
};

fn run(data: &[u8]) {
    let Ok((outcomes, sound)) = parse(data) else { return };
    assert!(sound <= data.len());
    // What was kept reads as the same again (states may be no numbers, which equal nothing), and so does what
    // is written from it.
    assert_eq!(parse(&data[..sound]).map(|(again, bytes)| (again.len(), bytes)), Ok((outcomes.len(), sound)));
    for outcome in outcomes {
        let text = serde_json::to_string(&outcome).unwrap_or_default();
        let again = parse(text.as_bytes()).map(|(outcomes, _)| outcomes.len());
        assert_eq!(again, Ok(1), "{text}");
    }
}
