//! The GGUF reader on well-formed files, on every kind of lie, and on thousands of damaged files.

#[allow(dead_code, reason = "shared by several test crates")]
mod gguf_writer;

use engine::gguf::{self, Gguf, GgufError, Type, Value};
use gguf_writer::{ARRAY, BOOL, F32, I32, STRING, U32, Writer, array, string};
use std::path::{Path, PathBuf};

fn tiny_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "gguf"))
        .collect();
    files.sort();
    assert_eq!(files.len(), 13);
    files
}

fn error(writer: &Writer) -> GgufError {
    Gguf::from_bytes(writer.finish()).expect_err("the file is wrong")
}

macro_rules! assert_error {
    ($bytes:expr, $pattern:pat $(if $guard:expr)?) => {{
        let error = Gguf::from_bytes($bytes).expect_err("the file is wrong");
        assert!(matches!(&error, $pattern $(if $guard)?), "{error:?}: {error}");
    }};
}

#[test]
fn reads_the_tiny_models() {
    for path in tiny_files() {
        let gguf = Gguf::open(&path).unwrap();
        assert_eq!(gguf.version(), 3);
        let architecture = gguf.required_str("general.architecture").unwrap();
        let layers = gguf.required_u32(&format!("{architecture}.block_count")).unwrap();
        assert!(layers > 0);
        let embeddings = gguf.required_tensor("token_embd.weight").unwrap();
        let vocabulary = gguf.required_strings("tokenizer.ggml.tokens").unwrap();
        assert_eq!(embeddings.rows(), vocabulary.len());
        assert_eq!(vocabulary.count(), embeddings.rows());
        for tensor in gguf.tensors() {
            let blocks = tensor.columns() / tensor.format().block_values() * tensor.rows();
            assert_eq!(gguf.data(tensor).len(), blocks * tensor.format().block_bytes(), "{}", tensor.name());
            assert_eq!(gguf.tensor(tensor.name()).unwrap().byte_range(), tensor.byte_range());
        }
        assert!(gguf.metadata().any(|(key, _)| key == "general.architecture"));
    }
}

#[test]
fn reads_every_value_type() {
    let numbers = [1_u32, 7].map(|n| n.to_le_bytes().to_vec());
    let nested = [array(U32, &numbers), array(U32, &[])];
    let bytes = Writer::default()
        .entry("u8", 0, [200])
        .entry("i8", 1, [200])
        .entry("u16", 2, 40_000_u16.to_le_bytes())
        .entry("i16", 3, (-2_i16).to_le_bytes())
        .entry("u32", U32, u32::MAX.to_le_bytes())
        .entry("i32", I32, (-3_i32).to_le_bytes())
        .entry("f32", F32, 0.5_f32.to_le_bytes())
        .entry("bool", BOOL, [1])
        .text("str", "Grüße")
        .entry("u64", 10, u64::MAX.to_le_bytes())
        .entry("i64", 11, (-4_i64).to_le_bytes())
        .entry("f64", 12, 0.25_f64.to_le_bytes())
        .entry("numbers", ARRAY, array(U32, &numbers))
        .texts("texts", &[&b"a"[..], b"", b"\xff\xfe"])
        .entry("nested", ARRAY, array(ARRAY, &nested))
        .finish();
    let gguf = Gguf::from_bytes(bytes).unwrap();
    assert_eq!(gguf.u32("u8").unwrap(), Some(200));
    assert_eq!(gguf.value("i8"), Some(Value::I8(-56)));
    assert_eq!(gguf.u32("u16").unwrap(), Some(40_000));
    assert_eq!(gguf.u32("u32").unwrap(), Some(u32::MAX));
    assert_eq!(gguf.f32("f32").unwrap(), Some(0.5));
    assert_eq!(gguf.f32("f64").unwrap(), Some(0.25));
    assert_eq!(gguf.bool("bool").unwrap(), Some(true));
    assert_eq!(gguf.str("str").unwrap(), Some("Grüße"));
    assert_eq!(gguf.u32s("numbers").unwrap(), Some(vec![1, 7]));
    assert_eq!(gguf.i32s("numbers").unwrap(), Some(vec![1, 7]));
    let texts: Vec<_> = gguf.required_strings("texts").unwrap().collect();
    assert_eq!(texts, [&b"a"[..], b"", b"\xff\xfe"]);
    assert_eq!(gguf.array("nested").unwrap().unwrap().element(), Type::Array);
    assert_eq!(gguf.u32("absent").unwrap(), None);
    assert_eq!(gguf.metadata().len(), 15);

    for key in ["i16", "i32", "u64", "i64"] {
        assert!(matches!(gguf.u32(key), Err(GgufError::OutOfRange { .. })), "{key}");
    }
    assert!(matches!(gguf.u32("str"), Err(GgufError::WrongType { found: Type::String, .. })));
    assert!(matches!(gguf.f32("u32"), Err(GgufError::WrongType { .. })));
    assert!(matches!(gguf.bool("u8"), Err(GgufError::WrongType { .. })));
    assert!(matches!(gguf.str("bool"), Err(GgufError::WrongType { .. })));
    assert!(matches!(gguf.strings("numbers"), Err(GgufError::WrongType { .. })));
    assert!(matches!(gguf.u32s("texts"), Err(GgufError::WrongType { .. })));
    assert!(matches!(gguf.f32s("numbers"), Err(GgufError::WrongType { .. })));
    assert!(matches!(gguf.u32s("nested"), Err(GgufError::WrongType { .. })));
    assert!(matches!(gguf.array("u8"), Err(GgufError::WrongType { .. })));
    assert!(matches!(gguf.required_f32("absent"), Err(GgufError::MissingKey { .. })));
    assert!(matches!(gguf.required_tensor("absent"), Err(GgufError::MissingTensor { .. })));
}

#[test]
fn a_missing_file_is_named() {
    let error = Gguf::open(Path::new("no/such/model.gguf")).unwrap_err();
    assert!(matches!(error, GgufError::Io { .. }));
    assert!(error.to_string().contains("model.gguf"));
}

#[test]
fn refuses_wrong_heads() {
    assert_error!(Vec::new(), GgufError::Magic { .. });
    assert_error!(b"GGU".to_vec(), GgufError::Magic { .. });
    assert_error!(b"PK\x03\x04 not a model".to_vec(), GgufError::Magic { .. });
    let good = Writer::default().text("k", "v").finish();
    let with_version = |version: [u8; 4]| [b"GGUF", &version[..], &good[8..]].concat();
    assert_error!(with_version([1, 0, 0, 0]), GgufError::Version { found: 1 });
    assert_error!(with_version([4, 0, 0, 0]), GgufError::Version { found: 4 });
    assert_error!(with_version([0, 0, 0, 3]), GgufError::BigEndian);
    assert_eq!(Gguf::from_bytes(with_version([2, 0, 0, 0])).unwrap().version(), 2);
}

#[test]
fn refuses_counts_the_file_cannot_hold() {
    let head = |tensors: u64, metadata: u64| {
        [&b"GGUF\x03\0\0\0"[..], &tensors.to_le_bytes(), &metadata.to_le_bytes()].concat()
    };
    assert_error!(head(1, 0), GgufError::CountBeyondFile { what: "tensors", .. });
    assert_error!(head(0, 1), GgufError::CountBeyondFile { what: "metadata entries", .. });
    assert_error!(head(u64::MAX, 0), GgufError::OverLimit { what: "tensors", .. });
    assert_error!(head(0, gguf::METADATA_COUNT_MAX + 1), GgufError::OverLimit { .. });
    for count in [1, 1 << 40, u64::MAX / 8, u64::MAX] {
        for element in [U32, BOOL, STRING, ARRAY] {
            let lie = [&element.to_le_bytes()[..], &count.to_le_bytes()].concat();
            let bytes = Writer::default().entry("k", ARRAY, lie).finish();
            // One boolean fits in the padding; everything else must be refused.
            match Gguf::from_bytes(bytes) {
                Ok(gguf) => assert_eq!(gguf.array("k").unwrap().unwrap().len(), 1),
                Err(error) => {
                    assert!(matches!(error, GgufError::CountBeyondFile { .. } | GgufError::Truncated { .. }))
                }
            }
        }
    }
    let lie = [&U32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat();
    let bytes = Writer::default().entry("k", ARRAY, lie).finish();
    assert_error!(bytes, GgufError::CountBeyondFile { what: "array elements", .. });
}

#[test]
fn refuses_wrong_metadata() {
    let with = |key: &[u8], kind: u32, value: &[u8]| error(&Writer::default().entry(key, kind, value));
    assert!(matches!(with(b"", BOOL, &[1]), GgufError::EmptyName { .. }));
    assert!(matches!(with(b"\xff", BOOL, &[1]), GgufError::NotUtf8 { .. }));
    assert!(matches!(with(b"k", STRING, &string([0xff])), GgufError::NotUtf8 { .. }));
    assert!(matches!(with(b"k", BOOL, &[2]), GgufError::BadBool { found: 2, .. }));
    let bools = array(BOOL, &[vec![0], vec![1], vec![7]]);
    assert!(matches!(with(b"k", ARRAY, &bools), GgufError::BadBool { found: 7, .. }));
    assert!(matches!(with(b"k", 13, &[0; 8]), GgufError::UnknownValueType { found: 13, .. }));
    assert!(matches!(with(&[b'k'; 70_000], BOOL, &[1]), GgufError::OverLimit { .. }));
    let long = ((gguf::TEXT_BYTES_MAX + 1).to_le_bytes(), vec![b' '; gguf::TEXT_BYTES_MAX as usize + 1]);
    assert!(matches!(with(b"k", STRING, &[&long.0[..], &long.1].concat()), GgufError::OverLimit { .. }));
    let twice = Writer::default().text("k", "v").text("k", "v");
    assert!(matches!(error(&twice), GgufError::DuplicateKey { key } if key == "k"));
    let mut deep = array(U32, &[]);
    for _ in 0..gguf::ARRAY_DEPTH_MAX {
        deep = array(ARRAY, &[deep]);
    }
    assert!(matches!(with(b"k", ARRAY, &deep), GgufError::NestedTooDeep { .. }));
    for alignment in [0_u32, 24] {
        let error = with(b"general.alignment", U32, &alignment.to_le_bytes());
        assert!(matches!(error, GgufError::BadAlignment { found } if found == alignment));
    }
    assert!(matches!(with(b"general.alignment", BOOL, &[1]), GgufError::WrongType { .. }));
}

#[test]
fn refuses_wrong_tensors() {
    let with = |dims: &[u64], ggml_type: u32, offset: u64| {
        error(&Writer::default().tensor("t", dims, (ggml_type, offset)).data(64))
    };
    assert!(matches!(with(&[], 0, 0), GgufError::DimensionCount { found: 0, .. }));
    assert!(matches!(with(&[1; 5], 0, 0), GgufError::DimensionCount { found: 5, .. }));
    assert!(matches!(with(&[4, 0], 0, 0), GgufError::ZeroDimension { .. }));
    assert!(matches!(with(&[u64::MAX, 2], 0, 0), GgufError::SizeOverflow { .. }));
    assert!(matches!(with(&[1 << 32, 1 << 31], 0, 0), GgufError::SizeOverflow { .. }));
    assert!(matches!(with(&[1 << 62], 0, 0), GgufError::SizeOverflow { .. }));
    assert!(matches!(with(&[1], 0, u64::MAX - 31), GgufError::SizeOverflow { .. }));
    assert!(matches!(with(&[4], 9999, 0), GgufError::UnknownTensorType { ggml_type: 9999, .. }));
    assert!(matches!(with(&[33], 8, 0), GgufError::PartialBlock { columns: 33, block_values: 32, .. }));
    assert!(matches!(with(&[4], 0, 4), GgufError::Misaligned { offset: 4, .. }));
    assert!(matches!(with(&[17], 0, 0), GgufError::TensorOutOfBounds { .. }));
    assert!(matches!(with(&[1], 0, 64), GgufError::TensorOutOfBounds { .. }));
    let named = |name: &str| Writer::default().tensor(name, &[1], (0, 0)).data(64);
    assert!(matches!(error(&named("")), GgufError::EmptyName { .. }));
    assert!(matches!(error(&named(&"x".repeat(257))), GgufError::OverLimit { .. }));
    let second = |name: &str, offset: u64| error(&named("a").tensor(name, &[9], (0, offset)));
    assert!(matches!(second("a", 32), GgufError::DuplicateTensor { name } if name == "a"));
    assert!(matches!(second("b", 0), GgufError::OverlappingTensors { .. }));
    let apart = named("a").tensor("b", &[8], (0, 32)).finish();
    let gguf = Gguf::from_bytes(apart).unwrap();
    assert_eq!(gguf.data(gguf.required_tensor("b").unwrap()), [0; 32]);
}

#[test]
fn refuses_every_truncation() {
    let path = tiny_files().into_iter().find(|path| path.ends_with("tiny-llama-mqa.gguf")).unwrap();
    let whole = std::fs::read(path).unwrap();
    let gguf = Gguf::from_bytes(whole.clone()).unwrap();
    let end = gguf.tensors().map(|tensor| tensor.byte_range().end).max().unwrap();
    let lengths = (0..2_000).chain((2_000..end).step_by(997)).chain([end - 1]);
    for length in lengths {
        let error = Gguf::from_bytes(whole[..length].to_vec()).unwrap_err();
        let expected = match length {
            0..4 => matches!(error, GgufError::Magic { .. }),
            4..24 => matches!(error, GgufError::Truncated { .. }),
            _ => matches!(
                error,
                GgufError::Truncated { .. }
                    | GgufError::CountBeyondFile { .. }
                    | GgufError::TensorOutOfBounds { .. }
            ),
        };
        assert!(expected, "{length} bytes: {error}");
    }
}

/// SplitMix64: the seeded generator of the mutations.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Reads everything a file offers, as a loader would.
fn touch_everything(gguf: &Gguf) -> usize {
    let mut bytes = 0;
    for tensor in gguf.tensors() {
        let blocks = tensor.columns() / tensor.format().block_values() * tensor.rows();
        assert_eq!(gguf.data(tensor).len(), blocks * tensor.format().block_bytes());
        bytes += gguf.data(tensor).iter().map(|&byte| usize::from(byte)).sum::<usize>();
    }
    for (key, value) in gguf.metadata() {
        if let Value::Array(array) = value {
            assert!(array.strings().len() + array.scalars().len() <= array.len());
            assert_eq!(array.strings().count(), array.strings().len());
            bytes += array.strings().map(<[u8]>::len).sum::<usize>();
        }
        let _ = (gguf.u32(key), gguf.f32s(key), gguf.strings(key).map(|s| s.map(Iterator::count)));
    }
    bytes
}

#[test]
fn no_damaged_file_panics() {
    let mut random = Random(7);
    let (mut accepted, mut refused) = (0, 0);
    for path in tiny_files() {
        let whole = std::fs::read(path).unwrap();
        let gguf = Gguf::from_bytes(whole.clone()).unwrap();
        let head = gguf.tensors().map(|tensor| tensor.byte_range().start).min().unwrap();
        for round in 0..400 {
            let mut bytes = whole[..head + random.below(whole.len() - head)].to_vec();
            if round % 2 == 0 {
                bytes.clone_from(&whole);
            }
            for _ in 0..=random.below(4) {
                // Half of the time in the first bytes, where the counts are.
                let part = if random.next().is_multiple_of(2) { 64 } else { head };
                let at = random.below(part);
                match random.below(3) {
                    0 => bytes[at] ^= 1 << random.below(8),
                    1 => bytes[at] = random.next() as u8,
                    _ => {
                        let extreme = [u64::MAX, 1 << 63, 1 << 40, 0, 1][random.below(5)];
                        let end = (at + 8).min(head);
                        bytes[at..end].copy_from_slice(&extreme.to_le_bytes()[..end - at]);
                    }
                }
            }
            match Gguf::from_bytes(bytes) {
                Ok(gguf) => {
                    touch_everything(&gguf);
                    accepted += 1;
                }
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    refused += 1;
                }
            }
        }
    }
    assert!(accepted > 100 && refused > 1_000, "{accepted} accepted, {refused} refused");
}
