//! Server-sent events, decoded as bytes arrive: [`SseDecoder`].
//!
//! Follows the WHATWG rules (`event:` and `data:` fields, comments, CR, LF and CRLF line ends, a
//! leading byte-order mark), and is lenient in one point: an event that the end of the stream cuts
//! off before its blank line still counts, because some upstreams forget that line.

/// Longest line, and most data in one event, bytes. An event with 20 alternatives for each of a few
/// tokens takes some tens of kilobytes.
pub(super) const EVENT_BYTES_MAX: usize = 4 << 20;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// The `event:` field; empty if there was none.
    pub name: String,
    /// The `data:` fields, joined by line feeds.
    pub data: String,
}

/// A line or an event is longer than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a line or an event of the stream is longer than the limit")]
pub struct TooMuchData;

/// Turns chunks of bytes, cut anywhere, into events.
#[derive(Debug)]
pub struct SseDecoder {
    event_bytes_max: usize,
    line: Vec<u8>,
    /// The last byte was a CR: an LF right after it belongs to the same line end.
    after_cr: bool,
    /// No line has ended yet, so a byte-order mark may still lead.
    first_line: bool,
    event: SseEvent,
    has_data: bool,
}

impl SseDecoder {
    /// A decoder at the start of a stream; lines and events longer than `event_bytes_max` are refused.
    pub fn new(event_bytes_max: usize) -> Self {
        SseDecoder {
            event_bytes_max,
            line: Vec::new(),
            after_cr: false,
            first_line: true,
            event: SseEvent::default(),
            has_data: false,
        }
    }

    /// Takes the next bytes and appends the events they complete to `events`.
    ///
    /// # Errors
    /// [`TooMuchData`]; the stream is of no use from there on.
    pub fn push(&mut self, bytes: &[u8], events: &mut Vec<SseEvent>) -> Result<(), TooMuchData> {
        let mut rest = bytes;
        if self.after_cr && !rest.is_empty() {
            self.after_cr = false;
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n' || byte == b'\r') {
            let (line, from_end) = rest.split_at(end);
            self.extend_line(line)?;
            self.end_line(events)?;
            rest = match from_end {
                [b'\r', b'\n', rest @ ..] => rest,
                [b'\r'] => {
                    self.after_cr = true;
                    &[]
                }
                [_, rest @ ..] => rest,
                [] => &[],
            };
        }
        self.extend_line(rest)
    }

    /// Ends the stream: a last line or event without its end still counts.
    ///
    /// # Errors
    /// [`TooMuchData`].
    pub fn finish(mut self, events: &mut Vec<SseEvent>) -> Result<(), TooMuchData> {
        self.end_line(events)?;
        self.dispatch(events);
        Ok(())
    }

    fn extend_line(&mut self, bytes: &[u8]) -> Result<(), TooMuchData> {
        if self.line.len() + bytes.len() > self.event_bytes_max {
            return Err(TooMuchData);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self, events: &mut Vec<SseEvent>) -> Result<(), TooMuchData> {
        let line = std::mem::take(&mut self.line);
        let mut bytes = line.as_slice();
        if std::mem::take(&mut self.first_line) {
            bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        }
        if bytes.is_empty() {
            self.dispatch(events);
        } else {
            self.field(bytes)?;
        }
        // Keeps the allocation for the next line.
        self.line = line;
        self.line.clear();
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), TooMuchData> {
        let colon = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = String::from_utf8_lossy(value.strip_prefix(b" ").unwrap_or(value));
        match name {
            b"event" => self.event.name = value.into_owned(),
            b"data" => {
                let separator = usize::from(self.has_data);
                if self.event.data.len() + separator + value.len() > self.event_bytes_max {
                    return Err(TooMuchData);
                }
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(&value);
            }
            // Comments (an empty name), `id`, `retry` and what nobody knows.
            _ => {}
        }
        Ok(())
    }

    fn dispatch(&mut self, events: &mut Vec<SseEvent>) {
        let event = std::mem::take(&mut self.event);
        if std::mem::take(&mut self.has_data) {
            events.push(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 1 << 16;

    fn decode(chunks: &[&[u8]]) -> Result<Vec<SseEvent>, TooMuchData> {
        let mut decoder = SseDecoder::new(LIMIT);
        let mut events = Vec::new();
        for chunk in chunks {
            decoder.push(chunk, &mut events)?;
        }
        decoder.finish(&mut events)?;
        Ok(events)
    }

    /// The rules once more, slow and plain, over the whole text.
    fn oracle(bytes: &[u8]) -> Vec<SseEvent> {
        let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n").replace('\r', "\n");
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let mut events = Vec::new();
        let (mut name, mut data): (String, Vec<&str>) = (String::new(), Vec::new());
        for line in text.split('\n').chain([""]) {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match (line, field) {
                ("", _) => {
                    if !data.is_empty() {
                        events.push(SseEvent { name: name.clone(), data: data.join("\n") });
                    }
                    name.clear();
                    data.clear();
                }
                (_, "event") => name = value.to_owned(),
                (_, "data") => data.push(value),
                _ => {}
            }
        }
        events
    }

    fn data(text: &str) -> SseEvent {
        SseEvent { name: String::new(), data: text.to_owned() }
    }

    #[test]
    fn every_line_end_comment_and_field_is_understood() {
        let stream = "\u{feff}: keep-alive\r\ndata: one\r\n\r\nevent: error\rdata:two\rdata: 2\r\rid: 7\n\ndata\n\ndata: last";
        let error = SseEvent { name: "error".into(), data: "two\n2".into() };
        assert_eq!(decode(&[stream.as_bytes()]).unwrap(), [data("one"), error, data(""), data("last")]);
    }

    #[test]
    fn characters_split_across_chunks_stay_whole() {
        let bytes = "data: né €\n\n".as_bytes();
        let chunks: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(decode(&chunks).unwrap(), [data("né €")]);
    }

    #[test]
    fn endless_lines_and_events_are_refused() {
        let mut decoder = SseDecoder::new(10);
        assert_eq!(decoder.push(b"data: 12345", &mut Vec::new()), Err(TooMuchData));
        let mut decoder = SseDecoder::new(11);
        assert_eq!(decoder.push(b"data:12345\ndata:67890\n", &mut Vec::new()), Ok(()));
        assert_eq!(decoder.push(b"data\n", &mut Vec::new()), Err(TooMuchData));
    }

    /// Pieces that make streams full of the cases that matter.
    fn streams() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just("data: ".as_bytes().to_vec()),
            Just(b"data".to_vec()),
            Just(b"event: error".to_vec()),
            Just(b": comment".to_vec()),
            Just(b"\n".to_vec()),
            Just(b"\n\n".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"\r".to_vec()),
            Just(BYTE_ORDER_MARK.to_vec()),
            "[a-zé€😀:\\{\\}\" ]{0,12}".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..6),
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_chunking_gives_what_the_oracle_gives(
            stream in streams(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
            prop_assert_eq!(decode(&chunks).unwrap(), oracle(&stream));
            let bytes: Vec<&[u8]> = stream.chunks(1).collect();
            prop_assert_eq!(decode(&bytes).unwrap(), oracle(&stream));
        }
    }
}
