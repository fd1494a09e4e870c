//! The scan beside its slow twin, and every entity by example.

use proptest::prelude::*;

use super::*;

fn scanner(entities: &[&str]) -> Scanner {
    let entities: Vec<String> = entities.iter().map(|name| (*name).to_owned()).collect();
    Scanner::new(&entities, (&[], &[]), 0.5).unwrap()
}

fn everything() -> Scanner {
    let patterns = [r"\bEMP-\d{4}\b".to_owned(), "x+y$".to_owned()];
    let deny = ["Projekt Übermut".to_owned(), "c++".to_owned()];
    let entities: Vec<String> = known_entities().iter().map(|name| (*name).to_owned()).collect();
    Scanner::new(&entities, (&patterns, &deny), 0.5).unwrap()
}

/// The slow twin: every place is asked.
fn naive(scanner: &Scanner, text: &str) -> Vec<Span> {
    let mut found = Vec::new();
    for at in 0..text.len() {
        assert!(!scanner.at(&Text::whole(text), at, &mut found), "a whole text needs more at {at}: {text:?}");
    }
    join(found)
}

fn found<'a>(scanner: &Scanner, text: &'a str) -> Vec<(&'static str, &'a str)> {
    scanner.scan(text).into_iter().map(|span| (span.entity, &text[span.range()])).collect()
}

#[test]
fn what_is_there_is_found_and_nothing_around_it() {
    let scanner = everything();
    for (entity, value) in [
        ("email", "jane.o'neil+tag@mail.example.co.uk"),
        ("email", "jürgen@übermut.de"),
        ("credit_card", "4111 1111 1111 1111"),
        ("credit_card", "5555-5555-5555-4444"),
        ("credit_card", "378282246310005"),
        ("iban", "DE89 3704 0044 0532 0130 00"),
        ("iban", "GB82WEST12345698765432"),
        ("ip_address", "192.168.17.254"),
        ("ip_address", "2001:db8::ff00:42:8329"),
        ("ip_address", "fe80::1"),
        ("us_ssn", "536-90-4399"),
        ("phone", "+49 30 901820-15"),
        ("phone", "+1 (212) 555-0147"),
        ("phone", "(212) 555-0147"),
        ("phone", "212-555-2147x123"),
        ("phone", "001-541-754-3010"),
        ("phone", "+44 (0)20 7946 0958"),
        ("crypto_address", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"),
        ("crypto_address", "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq"),
        ("crypto_address", "0x52908400098527886E0F7030069857D2E4169EE7"),
        ("api_key", "AKIAIOSFODNN7EXAMPLE"),
        ("api_key", "ghp_16C7e42F292c6912E7710c838347Ae178B4a"),
        ("api_key", "xoxb-123456789012-abcdefGHIJ"),
        ("api_key", "sk-proj-aB3dE5fG7hJ9kL1mN2pQ4"),
        ("jwt", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"),
        ("private_key", "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----"),
        ("url", "https://example.org/a/b?c=d"),
        ("url", "www.example.org"),
        ("pattern", "EMP-0042"),
        ("denied", "projekt übermut"),
        ("denied", "C++"),
    ] {
        for (before, after) in
            [("", ""), ("It is ", " today."), ("(", ")"), ("«", "»"), ("a\n", "\nb"), ("'", "'")]
        {
            let text = format!("{before}{value}{after}");
            let spans = found(&scanner, &text);
            assert!(
                spans.iter().any(|(name, there)| *name == entity && there.contains(value)),
                "{text}: {spans:?}"
            );
            // A bracket before a number may be taken for a part of it, and a quote be a part of a word.
            let hit = spans.iter().map(|(_, there)| there.len()).max().unwrap_or(0);
            assert!(hit <= value.len() + 1, "{text}: {spans:?}");
        }
    }
}

#[test]
fn words_around_tell_what_bare_numbers_are() {
    let scanner = scanner(&["phone", "passport", "us_driver_license", "us_ssn"]);
    for (entity, text) in [
        ("phone", "please call me at 030 901820"),
        ("passport", "my passport number is C01X00T47"),
        ("us_driver_license", "My driver's license number is D1234567"),
        ("us_ssn", "SSN 536904399"),
    ] {
        assert_eq!(found(&scanner, text).first().map(|(name, _)| *name), Some(entity), "{text}");
    }
    // Scripts without spaces neither hide an address nor go with it.
    let text = format!("{}jane@example.org{}", "请把信寄到".repeat(20), "谢谢".repeat(80));
    assert_eq!(found(&everything(), &text), [("email", "jane@example.org")]);
    for text in ["the order 030 901820 is C01X00T47", "row 536904399", "D1234567"] {
        assert_eq!(found(&scanner, text), [], "{text}");
    }
}

#[test]
fn numbers_that_only_look_alike_are_left() {
    let scanner = everything();
    for text in [
        "4111 1111 1111 1112",
        "DE89370400440532013001",
        "256.1.1.1 and 1.2.3.4.5",
        "000-12-3456, 666-12-3456, 912-34-5678, 123-00-4567",
        "std::vec a::b 12:30:45",
        "user@localhost and @mention and a@b",
        "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb",
        "released on 2024-01-15, costs 1.299,00 or 3.14159265358979",
        "def f(x): return x[1:2] # e.g. i.e. main.rs",
        "sk-learn-contrib-and-more-words-than-that",
        "-----BEGIN CERTIFICATE-----",
        "classic, c+",
        "EMP-00421",
        "build 1234567890123456789012345678901234567890",
    ] {
        assert_eq!(found(&scanner, text), [], "{text}");
    }
}

#[test]
fn entities_are_found_in_base64_and_hexadecimal() {
    let scanner = scanner(&["email"]);
    let base64 = "d3JpdGUgdG8gamFuZUBleGFtcGxlLm9yZyBub3c=";
    assert_eq!(found(&scanner, &format!("decode {base64} please")), [("email", base64)]);
    let hex: String = "write to jane@example.org".bytes().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(found(&scanner, &hex), [("email", hex.as_str())]);
    assert_eq!(found(&scanner, "d3JpdGUgdG8gamFuZSBhdCBub29uIHRvbW9ycm93"), []);
}

#[test]
fn entities_are_found_in_percent_encoding() {
    let scanner = everything();
    for (text, run) in [
        ("mail=jane%40example.org&x=1", "jane%40example.org"),
        ("see %6a%61%6e%65%40example%2Eorg now", "%6a%61%6e%65%40example%2Eorg"),
        ("card=4111+1111%201111+1111", "4111+1111%201111+1111"),
        ("user%2Bjane%40ex%C3%A4mple.org", "user%2Bjane%40ex%C3%A4mple.org"),
    ] {
        assert!(
            found(&scanner, text).iter().any(|(_, there)| *there == run),
            "{text}: {:?}",
            found(&scanner, text)
        );
    }
    let scanner = self::scanner(&["email", "credit_card"]);
    for text in ["50% of 100%25 are%", "jane%4", "%zz%40", "%ff%40example.org"] {
        assert_eq!(found(&scanner, text), [], "{text}");
    }
    // A run that begins too long before its first `%` is not looked into.
    let long = format!("{}%40example.org", "a".repeat(70));
    assert_eq!(found(&scanner, &long), []);
}

#[test]
fn patterns_and_denied_words_are_found_in_them_too() {
    let only =
        Scanner::new(&[], (&[r"\bEMP-\d{4}\b".to_owned()], &["project mercury".to_owned()]), 0.5).unwrap();
    for (entity, hidden) in [("denied", "all about Project Mercury"), ("pattern", "badge EMP-0042, please")] {
        let hex: String = hidden.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found(&only, &format!("read {hex} now")), [(entity, hex.as_str())]);
    }
    let base64 = "YWxsIGFib3V0IFByb2plY3QgTWVyY3VyeQ==";
    assert_eq!(found(&only, &format!("{base64}, {base64}")), [("denied", base64); 2]);
    // A run of a run is not looked into, and neither is what only looks encoded.
    assert_eq!(found(&only, "WVd4c0lHRmliM1YwSUZCeWIycGxZM1FnVFdWeVkzVnllUT09"), []);
}

#[test]
fn matches_below_the_threshold_do_not_count() {
    let strict = Scanner::new(&["phone".to_owned()], (&[], &[]), 0.95).unwrap();
    assert_eq!(found(&strict, "call 030 901820 or +49 30 9018200").len(), 1);
}

#[test]
fn what_can_not_be_looked_for_is_refused() {
    let error = |entities: &[&str], patterns: &[&str], deny: &[&str]| {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<String>>();
        Scanner::new(&owned(entities), (&owned(patterns), &owned(deny)), 0.5).unwrap_err().to_string()
    };
    assert!(error(&["emial"], &[], &[]).contains("credit_card"));
    assert!(error(&[], &["a("], &[]).contains("a("));
    assert!(error(&[], &["(a{1000}){1000}"], &[]).contains("1000"));
    assert!(error(&[], &[], &[" "]).contains("deny"));
}

#[test]
fn spans_that_overlap_are_joined_and_the_surest_names_them() {
    let span = |start, end, entity, score| Span { start, end, entity, score };
    let joined = join(vec![span(5, 9, "phone", 0.7), span(0, 6, "us_ssn", 0.9), span(9, 12, "email", 1.0)]);
    assert_eq!(joined, [span(0, 9, "us_ssn", 0.9), span(9, 12, "email", 1.0)]);
    let long = join(vec![span(0, SPAN_BYTES_MAX, "jwt", 1.0), span(10, SPAN_BYTES_MAX + 5, "jwt", 1.0)]);
    assert_eq!(
        long.iter().map(Span::range).collect::<Vec<_>>(),
        [0..SPAN_BYTES_MAX, SPAN_BYTES_MAX..SPAN_BYTES_MAX + 5]
    );
}

/// Pieces of entities and what stands between them, in any order.
fn confetti() -> impl Strategy<Value = String> {
    let pieces = vec![
        "4111",
        " ",
        "-",
        "1111",
        "1111 1111",
        "+",
        "(",
        ")",
        "@",
        ".",
        ":",
        "::",
        "//",
        "http",
        "https://",
        "a",
        "e",
        "example",
        "com",
        "de",
        "192.168",
        ".1",
        "eyJhbGciOiJIUzI1NiJ9",
        "AKIA",
        "IOSFODNN7EXAMPLE",
        "-----BEGIN ",
        "RSA PRIVATE KEY",
        "-----",
        "-----END ",
        "DE89",
        "3704 0044 0532 0130 00",
        "536",
        "90",
        "4399",
        "phone ",
        "passport ",
        "x12",
        "ext. 3",
        "555",
        "0147",
        "212",
        "EMP-",
        "0042",
        "xxy",
        "'",
        "é",
        "ü",
        "%",
        "%40",
        "%2",
        "_",
        "=",
        "/",
        "d3JpdGUgdG8gamFuZUBleGFtcGxlLm9yZyBub3c=",
        "dGhlIGJhZGdlIGlzIEVNUC0wMDQyLCB0aGFua3M=",
        "c++",
        "Projekt",
        "übermut",
        "\n",
        "0x",
        "fe80",
        "sk-proj-",
        "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa",
        "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq",
    ];
    let piece = prop_oneof![4 => proptest::sample::select(pieces).prop_map(str::to_owned), 1 => "\\PC{0,3}"];
    proptest::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn the_scan_finds_what_asking_everywhere_finds(text in confetti()) {
        let scanner = everything();
        prop_assert_eq!(scanner.scan(&text), naive(&scanner, &text), "{}", text);
    }

    /// What is said of a beginning holds whatever follows.
    #[test]
    fn nothing_is_said_too_early(text in confetti(), cut in 0usize..120) {
        let scanner = everything();
        let cut = text.char_indices().map(|(at, _)| at).nth(cut).unwrap_or(text.len());
        let beginning = Text { bytes: &text.as_bytes()[..cut], is_end: false };
        for at in 0..cut {
            let (mut early, mut late) = (Vec::new(), Vec::new());
            if !scanner.at(&beginning, at, &mut early) {
                scanner.at(&Text::whole(&text), at, &mut late);
                prop_assert_eq!(&early, &late, "at {} of {:?}, cut at {}", at, text, cut);
            }
        }
    }
}
