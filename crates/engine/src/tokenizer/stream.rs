//! Text from tokens one at a time: [`StreamDecoder`].

/// Turns pieces of bytes into text, holding back a code point until its last byte is there.
///
/// Bytes that cannot become UTF-8 any more are given as U+FFFD, as
/// [`String::from_utf8_lossy`] would for the whole.
#[derive(Clone, Debug, Default)]
pub struct StreamDecoder {
    pending: Vec<u8>,
}

impl StreamDecoder {
    /// Appends to `text` what is complete after the bytes of one more token.
    pub fn push(&mut self, piece: &[u8], text: &mut String) {
        self.pending.extend_from_slice(piece);
        let mut done = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            done += chunk.valid().len();
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            // Only the last chunk can be a code point's beginning.
            let incomplete = done + invalid.len() == self.pending.len()
                && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            if incomplete {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            done += invalid.len();
        }
        self.pending.drain(..done);
    }

    /// Bytes held back: the beginning of a code point.
    pub fn pending(&self) -> &[u8] {
        &self.pending
    }

    /// Appends U+FFFD if the text ended inside a code point, and starts anew.
    pub fn finish(&mut self, text: &mut String) {
        if !self.pending.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            self.pending.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_code_point_over_three_tokens() {
        let mut decoder = StreamDecoder::default();
        let mut text = String::new();
        for (piece, expected) in [
            (&b"a\xF0"[..], "a"),
            (b"\x9F\x98", "a"),
            (b"\x80!", "a😀!"),
            (b"\xC3", "a😀!"),
            (b"x", "a😀!\u{FFFD}x"),
            (b"\xE2\x82", "a😀!\u{FFFD}x"),
        ] {
            decoder.push(piece, &mut text);
            assert_eq!(text, expected);
        }
        assert_eq!(decoder.pending(), b"\xE2\x82");
        decoder.finish(&mut text);
        assert_eq!(text, "a😀!\u{FFFD}x\u{FFFD}");
        assert!(decoder.pending().is_empty());
    }

    fn fragment() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..4),
            "[aé€😀]{0,3}".prop_map(String::into_bytes),
            prop_oneof![Just(0xE2_u8), Just(0x82), Just(0xF0), Just(0x9F), Just(0xC3), Just(0xED)]
                .prop_map(|byte| vec![byte]),
        ]
    }

    proptest! {
        #[test]
        fn equals_lossy_decoding_of_the_whole(pieces in proptest::collection::vec(fragment(), 0..20)) {
            let mut decoder = StreamDecoder::default();
            let mut text = String::new();
            for piece in &pieces {
                decoder.push(piece, &mut text);
                prop_assert!(decoder.pending().len() <= 3);
            }
            decoder.finish(&mut text);
            let whole = pieces.concat();
            prop_assert_eq!(text, String::from_utf8_lossy(&whole));
        }
    }
}
