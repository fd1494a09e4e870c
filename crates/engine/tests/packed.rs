//! The cache of packed weights: whatever is in its folder, a model loads and computes the same.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use engine::decoder::{Decoder, DecoderOptions, Logits, Work};
use engine::model::{LoadOptions, Model};
use engine::packed::{PackedCache, PackedError, PackedOutcome};
use kernels::isa::Isa;
use kernels::pool::Pool;

/// All kinds of weights: K-quants, tied and separate heads.
const MODELS: [&str; 4] = ["tiny-qwen2", "tiny-gemma3", "tiny-llama3-gqa4", "tiny-phi4-longrope"];

fn golden(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/golden/tiny/{model}.gguf"))
}

struct Fixture {
    folder: tempfile::TempDir,
    bytes_max: u64,
}

impl Fixture {
    fn new() -> Self {
        Fixture { folder: tempfile::tempdir().unwrap(), bytes_max: 1 << 30 }
    }

    fn cache(&self) -> PackedCache {
        PackedCache { folder: self.folder.path().join("packed"), bytes_max: self.bytes_max }
    }

    fn load(&self, path: &Path) -> Model {
        load(path, Some(self.cache()))
    }

    /// The packed files, whose length is not zero.
    fn packed(&self) -> Vec<PathBuf> {
        let mut paths = self.files("packed");
        paths.sort();
        paths
    }

    fn files(&self, ending: &str) -> Vec<PathBuf> {
        let files = fs::read_dir(self.cache().folder).into_iter().flatten().flatten().map(|file| file.path());
        files.filter(|path| path.extension().is_some_and(|found| found == ending)).collect()
    }

    /// A copy of a golden model, old enough to be known again by its stamp.
    fn copy(&self, model: &str) -> PathBuf {
        let path = self.folder.path().join(format!("{model}.gguf"));
        fs::copy(golden(model), &path).unwrap();
        set_age(&path, 3600);
        path
    }
}

fn set_age(path: &Path, seconds: u64) {
    let written = SystemTime::now() - Duration::from_secs(seconds);
    File::options().write(true).open(path).unwrap().set_modified(written).unwrap();
}

fn load(path: &Path, cache: Option<PackedCache>) -> Model {
    let options = LoadOptions { cache, ..LoadOptions::default() };
    Model::load(path, options, &Pool::new(2)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The bits of all logits of a few tokens.
fn logits(model: Model) -> Vec<u32> {
    let options = DecoderOptions::new(1, 64);
    let mut decoder = Decoder::new(Arc::new(model), Arc::new(Pool::new(2)), Isa::detect(), options).unwrap();
    let sequence = decoder.begin().unwrap();
    let work = Work { sequence, tokens: &[1, 7, 42, 3, 99], logits: Logits::All };
    decoder.forward(&[work]).unwrap().iter().map(|logit| logit.to_bits()).collect()
}

fn is_hit(model: &Model) -> bool {
    matches!(model.packed(), PackedOutcome::Hit)
}

fn is_new(model: &Model) -> bool {
    matches!(model.packed(), PackedOutcome::Written { damage: None })
}

#[test]
fn mapped_weights_compute_what_packed_ones_do() {
    for name in MODELS {
        let (fixture, path) = (Fixture::new(), golden(name));
        let expected = logits(load(&path, None));
        let first = fixture.load(&path);
        assert!(is_new(&first), "{name}: {:?}", first.packed());
        let bytes = (first.weight_bytes(), first.layer_macs_per_token());
        assert_eq!(logits(first), expected, "{name}, first");
        let later = fixture.load(&path);
        assert!(is_hit(&later), "{name}: {:?}", later.packed());
        assert_eq!((later.weight_bytes(), later.layer_macs_per_token()), bytes);
        assert_eq!(logits(later), expected, "{name}, later");
        assert_eq!(fixture.packed().len(), 1);
        assert!(fixture.files("writing").is_empty());
    }
}

/// The bits of the logits for drafting.
fn draft_logits(model: Model, vocabulary: usize) -> Vec<u32> {
    let options = DecoderOptions { guests: 1, ..DecoderOptions::new(1, 64) };
    let mut decoder = Decoder::new(Arc::new(model), Arc::new(Pool::new(2)), Isa::detect(), options).unwrap();
    let sequence = decoder.begin().unwrap();
    let work = Work { sequence, tokens: &[1, 7, 42, 3, 99], logits: Logits::All };
    decoder.forward_draft(&[work], vocabulary).unwrap().iter().map(|logit| logit.to_bits()).collect()
}

#[test]
fn weights_for_drafting_are_kept_beside_the_models_own() {
    for name in MODELS {
        let fixture = Fixture::new();
        let path = fixture.copy(name);
        let load = |cache: Option<PackedCache>, vocabulary: usize| {
            let options = LoadOptions { cache, draft_vocabulary: Some(vocabulary), ..LoadOptions::default() };
            Model::load(&path, options, &Pool::new(2)).unwrap()
        };
        let expected = draft_logits(load(None, 300), 300);
        assert_ne!(expected, draft_logits(fixture.load(&path), 300), "{name}: bits were taken");
        let own = fixture.packed();
        assert_eq!(own.len(), 1);
        let first = load(Some(fixture.cache()), 300);
        assert!(is_hit(&first), "{name}: its own weights are there");
        assert!(matches!(first.packed_for_drafting(), Some(PackedOutcome::Written { damage: None })));
        let packed = fixture.packed().into_iter().find(|path| !own.contains(path)).unwrap();
        let exact = LoadOptions { exact: true, ..LoadOptions::default() };
        let planned = Model::load(&path, exact, &Pool::new(1)).unwrap().drafting_bytes(300);
        assert_eq!(fs::metadata(&packed).unwrap().len(), planned, "{name}");
        assert!(first.draft_bytes(300) < fixture.load(&path).draft_bytes(300), "{name}");
        assert_eq!(logits(load(Some(fixture.cache()), 300)), logits(fixture.load(&path)), "{name}");
        assert_eq!(draft_logits(first, 300), expected, "{name}, first");
        let later = load(Some(fixture.cache()), 300);
        assert!(matches!(later.packed_for_drafting(), Some(PackedOutcome::Hit)), "{name}");
        assert_eq!(draft_logits(later, 300), expected, "{name}, later");
        // Of another head there is another file; neither is taken for the other, nor for the model's own.
        let other = load(Some(fixture.cache()), 200);
        assert!(matches!(other.packed_for_drafting(), Some(PackedOutcome::Written { damage: None })));
        assert_eq!(draft_logits(other, 300).len(), 5 * 200);
        assert_eq!(fixture.packed().len(), 3);
        for file in [&own[0], &packed] {
            let swapped = if *file == own[0] { &packed } else { &own[0] };
            let (kept, wrong) = (fs::read(file).unwrap(), fs::read(swapped).unwrap());
            fs::write(file, wrong).unwrap();
            let model = load(Some(fixture.cache()), 300);
            let outcomes = [Some(model.packed()), model.packed_for_drafting()];
            let is_damage = |outcome: &&PackedOutcome| {
                matches!(outcome, PackedOutcome::Written { damage: Some(PackedError::OtherSource) })
            };
            assert_eq!(outcomes.into_iter().flatten().filter(is_damage).count(), 1, "{name}: {outcomes:?}");
            assert_eq!(draft_logits(model, 300), expected, "{name}");
            assert_eq!(fs::read(file).unwrap(), kept, "{name}: packed again");
        }
    }
}

#[test]
fn the_exact_path_and_opened_files_use_no_cache() {
    let fixture = Fixture::new();
    let options = LoadOptions { exact: true, cache: Some(fixture.cache()), ..LoadOptions::default() };
    let model = Model::load(&golden(MODELS[0]), options, &Pool::new(1)).unwrap();
    assert!(matches!(model.packed(), PackedOutcome::Unused) && !fixture.cache().folder.exists());
}

#[test]
fn damaged_files_are_packed_anew() {
    let (fixture, path) = (Fixture::new(), golden(MODELS[0]));
    let expected = logits(fixture.load(&path));
    let packed = fixture.packed().remove(0);
    let whole = fs::read(&packed).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        bytes
    };
    let older = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] -= 1;
        bytes
    };
    let middle = whole.len() / 2;
    let mut cases = vec![Vec::new(), b"garbage".to_vec(), vec![0xA5; whole.len()], vec![0; whole.len()]];
    cases.extend([older(8), older(12), [whole.as_slice(), b"more"].concat()]);
    cases.extend([1, 100, 128, middle, whole.len() - 1].map(|length| whole[..length].to_vec()));
    cases.extend([0, 17, 50, 58, 66, 74, 90, 121, 128, 129, middle, whole.len() - 1].map(flipped));
    for (case, bytes) in cases.into_iter().enumerate() {
        fs::write(&packed, bytes).unwrap();
        let model = fixture.load(&path);
        let outcome = format!("case {case}: {:?}", model.packed());
        assert!(matches!(model.packed(), PackedOutcome::Written { damage: Some(_) }), "{outcome}");
        assert_eq!(logits(model), expected, "{outcome}");
        assert_eq!(fs::read(&packed).unwrap(), whole, "{outcome}");
        assert!(is_hit(&fixture.load(&path)), "{outcome}");
    }
}

#[test]
fn a_folder_that_cannot_be_written_to_costs_only_time() {
    let (fixture, path) = (Fixture::new(), golden(MODELS[0]));
    fs::write(fixture.cache().folder, "a file where the folder should be").unwrap();
    let model = fixture.load(&path);
    let outcome = format!("{:?}", model.packed());
    let is_told = matches!(model.packed(), PackedOutcome::NotKept { error: PackedError::Io { .. }, .. });
    assert!(is_told, "{outcome}");
    assert_eq!(logits(model), logits(load(&path, None)));
}

#[test]
fn the_limit_keeps_the_last_used_and_what_is_in_use() {
    let mut fixture = Fixture::new();
    let paths: Vec<PathBuf> = MODELS[..3].iter().map(|name| fixture.copy(name)).collect();
    let mut sizes = Vec::new();
    let mut files = Vec::new();
    for path in &paths {
        drop(fixture.load(path));
        let file = fixture.packed().into_iter().find(|file| !files.contains(file)).unwrap();
        sizes.push(fs::metadata(&file).unwrap().len());
        files.push(file);
    }
    fs::remove_file(&files[2]).unwrap();
    fixture.bytes_max = sizes.iter().sum::<u64>() - 1;
    let mut records = fixture.files("source");
    records.extend(files[..2].to_vec());
    records.iter().for_each(|file| set_age(file, 1000));
    assert!(is_hit(&fixture.load(&paths[0])), "the first is used again");
    assert!(is_new(&fixture.load(&paths[2])));
    assert!(files[0].exists() && !files[1].exists() && files[2].exists());

    let in_use = [fixture.load(&paths[0]), fixture.load(&paths[2])];
    assert!(in_use.iter().all(is_hit));
    let model = fixture.load(&paths[1]);
    let outcome = format!("{:?}", model.packed());
    assert!(
        matches!(model.packed(), PackedOutcome::NotKept { error: PackedError::NoRoom { .. }, .. }),
        "{outcome}"
    );
    assert!(files[0].exists() && files[2].exists());
    drop(in_use);

    fixture.bytes_max = 1000;
    let model = fixture.load(&paths[1]);
    assert!(matches!(model.packed(), PackedOutcome::NotKept { error: PackedError::NoRoom { .. }, .. }));
}

#[test]
fn starts_at_the_same_time_do_not_hurt_each_other() {
    let (fixture, path) = (Fixture::new(), golden(MODELS[0]));
    let expected = logits(load(&path, None));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..3 {
                    let model = fixture.load(&path);
                    assert!(is_hit(&model) || is_new(&model), "{:?}", model.packed());
                    assert_eq!(logits(model), expected);
                }
            });
        }
    });
    assert_eq!(fixture.packed().len(), 1);
    assert!(fixture.files("writing").is_empty());
    assert!(is_hit(&fixture.load(&path)));
}

#[test]
fn other_contents_at_the_same_path_are_other_weights() {
    let fixture = Fixture::new();
    let path = fixture.copy(MODELS[0]);
    assert!(is_new(&fixture.load(&path)));
    assert!(is_hit(&fixture.load(&path)));
    fs::copy(golden(MODELS[1]), &path).unwrap();
    let model = fixture.load(&path);
    assert!(is_new(&model), "{:?}", model.packed());
    assert_eq!(logits(model), logits(load(&golden(MODELS[1]), None)));
    // The same contents elsewhere are the same weights.
    assert!(is_hit(&fixture.load(&fixture.copy(MODELS[0]))));
    assert_eq!(fixture.packed().len(), 2);
}
