//! Text as checks see it: [`Canonical`], free of invisible characters and of letters that only look Latin.
//!
//! Every character is folded by itself, so text that comes in pieces folds to the same as the whole. Case is
//! kept. Each byte of the folded text knows the character of the original that it stands for, so that a match
//! in the one is a span of the other.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

use super::json_text::{escape, may_go_on};

/// What becomes of a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Folded {
    /// Nothing: it can't be seen.
    Dropped,
    /// This one.
    Char(char),
}

/// Folded text with the way back.
#[derive(Clone, Debug, Default)]
pub struct Canonical {
    /// Whether the original is JSON, whose escapes stand for what they mean.
    is_json: bool,
    /// The beginning of an escape whose rest is to come.
    begun: String,
    text: String,
    /// For each byte of `text`, where the character that it came from begins in the original.
    origins: Vec<u32>,
    /// Bytes of the original so far.
    read: usize,
}

impl Canonical {
    /// For a piece of JSON's text.
    pub fn of_json() -> Self {
        Canonical { is_json: true, ..Canonical::default() }
    }

    /// The same kind of text from its beginning.
    #[must_use]
    pub fn anew(&self) -> Self {
        Canonical { is_json: self.is_json, ..Canonical::default() }
    }

    /// Takes more of the original in. Beyond 4 GiB of one text, spans are wrong; requests are far smaller.
    pub fn push(&mut self, original: &str) {
        if !self.is_json {
            original.chars().for_each(|letter| self.add(letter, letter.len_utf8()));
            return;
        }
        let mut all = std::mem::take(&mut self.begun);
        all.push_str(original);
        let mut at = 0;
        while let Some(letter) = all[at..].chars().next() {
            let rest = &all[at..];
            if letter == '\\' && may_go_on(rest) {
                self.begun = rest.to_owned();
                return;
            }
            let (meant, width) = if letter == '\\' { escape(rest) } else { (letter, letter.len_utf8()) };
            self.add(meant, width);
            at += width;
        }
    }

    /// Nothing more comes: what only began an escape stands for itself.
    pub fn finish(&mut self) {
        for letter in std::mem::take(&mut self.begun).chars() {
            self.add(letter, letter.len_utf8());
        }
    }

    /// One character that takes so many bytes of the original.
    fn add(&mut self, letter: char, width: usize) {
        if let Folded::Char(folded) = fold(letter) {
            self.text.push(folded);
            self.origins.resize(self.text.len(), u32::try_from(self.read).unwrap_or(u32::MAX));
        }
        self.read += width;
    }

    /// The folded text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where the character behind the byte `at` begins in the original; past the end: the original's length.
    pub fn origin(&self, at: usize) -> usize {
        self.origins.get(at).map_or(self.read, |origin| *origin as usize)
    }

    /// The span of the original that a span of the folded text came from: whole characters, without invisible
    /// ones around it. `original` is all that was pushed.
    pub fn span(&self, original: &str, folded: Range<usize>) -> Range<usize> {
        let start = self.origin(folded.start);
        let last = self.origin(folded.end.saturating_sub(1).max(folded.start));
        let width = |rest: &str| match rest.chars().next() {
            Some('\\') if self.is_json => escape(rest).1,
            letter => letter.map_or(0, char::len_utf8),
        };
        let width = original.get(last..).map_or(0, width);
        start..(last + width).max(start)
    }

    /// Forgets the first `bytes` of the folded text and of the original all that came before them; returns how
    /// many bytes of the original that is.
    pub fn forget(&mut self, bytes: usize) -> usize {
        let gone = self.origin(bytes);
        self.text.drain(..bytes);
        self.origins.drain(..bytes);
        let gone_u32 = u32::try_from(gone).unwrap_or(u32::MAX);
        self.origins.iter_mut().for_each(|origin| *origin = origin.saturating_sub(gone_u32));
        self.read -= gone;
        gone
    }
}

/// The folded text alone; most text folds to itself.
pub fn folded(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let mut folded = String::with_capacity(text.len());
    for letter in text.chars() {
        if let Folded::Char(letter) = fold(letter) {
            folded.push(letter);
        }
    }
    Cow::Owned(folded)
}

/// Codes below this are looked up: those that texts are made of.
const TABLE_END: usize = 0x1_0000;
/// In the table: dropped. No character has this code, and none folds to it.
const DROPPED: u16 = 0xFFFF;

/// What becomes of each code below [`TABLE_END`].
static TABLE: LazyLock<Vec<u16>> = LazyLock::new(|| {
    let folded = |code: u32| match char::from_u32(code).map(fold_slowly) {
        Some(Folded::Char(letter)) => u16::try_from(u32::from(letter)).unwrap_or(DROPPED),
        Some(Folded::Dropped) | None => DROPPED,
    };
    (0..TABLE_END as u32).map(folded).collect()
});

/// One character, folded.
fn fold(letter: char) -> Folded {
    if letter.is_ascii() {
        return Folded::Char(letter);
    }
    match TABLE.get(letter as usize) {
        Some(&DROPPED) => Folded::Dropped,
        Some(code) => Folded::Char(char::from_u32(u32::from(*code)).unwrap_or(letter)),
        None => fold_slowly(letter),
    }
}

/// The same, by what is known of each character.
fn fold_slowly(letter: char) -> Folded {
    match u32::from(letter) {
        // A table's mark can't stand for itself.
        0xFFFF => Folded::Dropped,
        // Soft hyphen, joiners, zero-width spaces, bidirectional controls, variation selectors, tags.
        0xAD
        | 0x034F
        | 0x061C
        | 0x115F
        | 0x1160
        | 0x17B4
        | 0x17B5
        | 0x180B..=0x180F
        | 0x200B..=0x200F
        | 0x202A..=0x202E
        | 0x2060..=0x206F
        | 0x3164
        | 0xFE00..=0xFE0F
        | 0xFEFF
        | 0xFFA0
        | 0xE0000..=0xE0FFF => Folded::Dropped,
        0xA0 | 0x1680 | 0x2000..=0x200A | 0x202F | 0x205F | 0x3000 => Folded::Char(' '),
        0x2010..=0x2015 | 0x2212 | 0xFE58 | 0xFE63 | 0x02D7 | 0x2043 => Folded::Char('-'),
        0x2024 | 0x3002 | 0xFF61 | 0xFE52 | 0x00B7 => Folded::Char('.'),
        0x2018..=0x201B => Folded::Char('\''),
        0x201C..=0x201F | 0xAB | 0xBB | 0x2039 | 0x203A => Folded::Char('"'),
        0xFE6B => Folded::Char('@'),
        code @ 0xFF01..=0xFF5E => ascii(code - 0xFEE0),
        code @ 0x1D400..=0x1D7FF => mathematical(code).map_or(Folded::Char(letter), Folded::Char),
        code @ 0x24B6..=0x24CF => ascii(code - 0x24B6 + 0x41),
        code @ 0x24D0..=0x24E9 => ascii(code - 0x24D0 + 0x61),
        code @ 0x1F130..=0x1F149 => ascii(code - 0x1F130 + 0x41),
        code @ 0x2460..=0x2468 => ascii(code - 0x2460 + 0x31),
        code @ 0x2080..=0x2089 => ascii(code - 0x2080 + 0x30),
        code @ 0x2074..=0x2079 => ascii(code - 0x2074 + 0x34),
        code => Folded::Char(digit(code).or_else(|| lookalike(letter)).unwrap_or(letter)),
    }
}

fn ascii(code: u32) -> Folded {
    char::from_u32(code).map_or(Folded::Dropped, Folded::Char)
}

/// The mathematical letters: thirteen alphabets of 52, then Greek ones, then five sets of digits.
fn mathematical(code: u32) -> Option<char> {
    match code {
        0x1D400..=0x1D6A3 => {
            let place = (code - 0x1D400) % 52;
            char::from_u32(if place < 26 { 0x41 + place } else { 0x61 + place - 26 })
        }
        0x1D7CE..=0x1D7FF => char::from_u32(0x30 + (code - 0x1D7CE) % 10),
        _ => None,
    }
}

/// Decimal digits of other scripts, by the place of their zero.
fn digit(code: u32) -> Option<char> {
    const ZEROS: [u32; 12] =
        [0x0660, 0x06F0, 0x07C0, 0x0966, 0x09E6, 0x0A66, 0x0AE6, 0x0B66, 0x0BE6, 0x0C66, 0x0E50, 0x17E0];
    let zero = ZEROS.into_iter().find(|zero| (*zero..*zero + 10).contains(&code))?;
    char::from_u32(0x30 + code - zero)
}

/// Letters of other alphabets that look like Latin ones (a part of Unicode's confusables).
const LOOKALIKES: &[(&str, &str)] = &[
    // Cyrillic.
    ("АВЕЅІЈКМНОРСТУХЗԌԚԜҮ", "ABESIJKMHOPCTYX3GQWY"),
    ("авеѕіјкмнорсуѵхһԁԛԝӏґүт", "aBesijkmHopcyvxhdqwlryt"),
    // Greek.
    ("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧϹ", "ABEZHIKMNOPTYXC"),
    ("αεικνορτυχγωϲϳ", "aeikvoptuxywcj"),
    // Latin ones beyond ASCII, Armenian, letter-like symbols.
    ("ɑɡɩıʀʏⅼⅰⅴⅹⅽⅾⅿ", "agiiRYlivxcdm"),
    ("ⅠⅤⅩⅬⅭⅮⅯℂℍℕℙℚℝℤℬℰℱℋℐℒℳℛ", "IVXLCDMCHNPQRZBEFHILMR"),
    ("ℊℎℓℯℴℹօոսհցԛ", "ghleoionuhgq"),
];

/// All of them lie below this code.
const LOOKALIKES_END: usize = 0x2200;

/// For each code what it looks like, or 0.
static BY_CODE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut table = vec![0; LOOKALIKES_END];
    for (from, to) in LOOKALIKES.iter().flat_map(|(from, to)| from.chars().zip(to.bytes())) {
        if let Some(slot) = table.get_mut(from as usize) {
            *slot = to;
        }
    }
    table
});

fn lookalike(letter: char) -> Option<char> {
    BY_CODE.get(letter as usize).filter(|plain| **plain != 0).map(|plain| char::from(*plain))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn disguises_are_seen_through() {
        for (disguised, plain) in [
            ("j\u{200B}ohn@exa\u{AD}mple.com", "john@example.com"),
            ("\u{202E}john\u{202C}", "john"),
            ("ｊｏｈｎ＠ｅｘａｍｐｌｅ．ｃｏｍ", "john@example.com"),
            ("𝐣𝐨𝐡𝐧@𝕖𝕩𝕒𝕞𝕡𝕝𝕖.𝚌𝚘𝚖", "john@example.com"),
            ("jоhn@ехаmрlе.соm", "john@example.com"),
            ("４１１１\u{2011}١١١١ 𝟏𝟏𝟏𝟏", "4111-1111 1111"),
            ("ΙGΝΟRΕ", "IGNORE"),
        ] {
            assert_eq!(folded(disguised), plain, "{disguised}");
        }
    }

    #[test]
    fn the_lookalikes_are_pairs_and_none_is_ascii() {
        for (from, to) in LOOKALIKES {
            assert_eq!(from.chars().count(), to.chars().count(), "{from}");
            assert!(to.is_ascii() && from.chars().all(|letter| !letter.is_ascii()), "{from}");
            assert!(from.chars().all(|letter| (letter as usize) < LOOKALIKES_END), "{from}");
        }
    }

    #[test]
    fn the_table_says_what_is_known_of_each_character() {
        for letter in ('\u{80}'..=char::MAX).filter(|letter| (*letter as usize) < 0x2_0000) {
            assert_eq!(fold(letter), fold_slowly(letter), "{letter:?}");
        }
    }

    proptest! {
        #[test]
        fn escapes_in_pieces_are_what_they_are_in_the_whole(
            json in "([a@é]|\\\\[nu\"\\\\x]?|\\\\u[0-9a-f]{0,4}|\\\\ud83d(\\\\u(de00|0041)?)?){0,12}", cut in 1usize..5,
        ) {
            let (mut whole, mut pieces) = (Canonical::of_json(), Canonical::of_json());
            whole.push(&json);
            whole.finish();
            let letters: Vec<char> = json.chars().collect();
            letters.chunks(cut).for_each(|piece| pieces.push(&piece.iter().collect::<String>()));
            pieces.finish();
            prop_assert_eq!(pieces.text(), whole.text());
            let plain = crate::guards::json_text::unescaped(&json);
            prop_assert_eq!(whole.text(), &*folded(&plain));
            for at in 0..=whole.text().len() {
                prop_assert_eq!(pieces.origin(at), whole.origin(at));
            }
        }

        #[test]
        fn pieces_fold_to_the_whole_and_the_way_back_holds(pieces in proptest::collection::vec("\\PC{0,8}", 0..6)) {
            let whole = pieces.concat();
            let mut canonical = Canonical::default();
            pieces.iter().for_each(|piece| canonical.push(piece));
            prop_assert_eq!(canonical.text(), &*folded(&whole).into_owned());
            // Each folded character came from one that folds to it.
            for (at, letter) in canonical.text().char_indices() {
                let span = canonical.span(&whole, at..at + letter.len_utf8());
                prop_assert_eq!(folded(&whole[span]), letter.to_string());
            }
        }

        #[test]
        fn what_is_forgotten_moves_the_rest(text in "[ab\u{200B}\u{430}é]{0,20}", cut in 0usize..20) {
            let mut canonical = Canonical::default();
            canonical.push(&text);
            let cut = canonical.text().char_indices().map(|(at, _)| at).nth(cut).unwrap_or(canonical.text().len());
            let rest = canonical.text()[cut..].to_owned();
            let gone = canonical.forget(cut);
            prop_assert_eq!(canonical.text(), rest.as_str());
            prop_assert_eq!(folded(&text[gone..]), rest);
        }
    }
}
