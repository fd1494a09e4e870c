//! Server-sent events of an upstream: however the stream is cut, the same events and the same end.

use backends::openai::{SseDecoder, SseEvent, TooMuchData};

use crate::{Seed, Target};

/// Small, so that inputs reach it.
const EVENT_BYTES_MAX: usize = 256;

/// The target. An input's first byte says how the rest is cut.
pub const TARGET: Target = Target {
    name: "sse",
    run,
    seeds: &[
        Seed::Bytes(b"\x01data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\ndata: [DONE]\n\n"),
        Seed::Bytes(b"\x02\xef\xbb\xbf: keep-alive\r\n\r\nevent: error\rdata:a\rdata: b\r\rid: 7\n\ndata"),
        Seed::Bytes("\u{3}data: né €\n\ndata: 😀\r\n\r\n".as_bytes()),
    ],
    words: &[
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"data: ",
        b"data",
        b"event: error",
        b":",
        b"retry: 1",
        b"\xef\xbb\xbf",
    ],
};

fn run(data: &[u8]) {
    let (stream, pieces) = crate::cut(data);
    let whole = decode(&[stream]);
    assert_eq!(decode(&pieces), whole, "pieces give other events than the whole");
    let bytes: Vec<&[u8]> = stream.chunks(1).collect();
    assert_eq!(decode(&bytes), whole, "single bytes give other events than the whole");
    for event in &whole.0 {
        assert!(event.data.len() <= EVENT_BYTES_MAX, "an event over the limit");
    }
}

fn decode(pieces: &[&[u8]]) -> (Vec<SseEvent>, Result<(), TooMuchData>) {
    let mut events = Vec::new();
    let mut decoder = SseDecoder::new(EVENT_BYTES_MAX);
    let pushed = pieces.iter().try_for_each(|piece| decoder.push(piece, &mut events));
    let end = pushed.and_then(|()| decoder.finish(&mut events));
    (events, end)
}
