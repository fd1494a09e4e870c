//! Models from the Hugging Face Hub.

use std::fs;
use std::path::Path;
use std::time::Duration;

use store::{Catalogue, Options, Phase, Reference, Sha256, Store, StoreError, Token};

use crate::fixture::{Bench, model_bytes, nobody, phases};
use crate::hub_server::{COMMIT, HubServer};

const MODEL_BYTES: usize = 3 << 20;
const HEAD: &str = "HEAD /o/r/resolve/main/f.gguf";

fn wanted() -> Reference {
    Reference::parse("hf:o/r/f.gguf", &Catalogue::builtin()).unwrap()
}

fn get() -> String {
    format!("GET /o/r/resolve/{COMMIT}/f.gguf")
}

fn options(bench: &Bench, server: &HubServer) -> Options {
    Options { hub_endpoint: server.endpoint.clone(), ..bench.options(Catalogue::builtin()) }
}

async fn setting() -> (Bench, Vec<u8>, HubServer, Store) {
    let (bench, model) = (Bench::new(), model_bytes(MODEL_BYTES));
    let server = HubServer::start(&model).await;
    let store = bench.store_with(options(&bench, &server));
    (bench, model, server, store)
}

async fn pull(store: &Store) -> Result<Vec<u8>, StoreError> {
    store.pull(&wanted(), &mut nobody()).await.map(|path| fs::read(path).unwrap())
}

#[tokio::test]
async fn a_file_is_fetched_at_its_commit_and_verified() {
    let (bench, model, server, _) = setting().await;
    let token = Some(Token::new("secret"));
    let store = bench.store_with(Options { hub_token: token, ..options(&bench, &server) });
    let mut seen = Vec::new();
    let path = store.pull(&wanted(), &mut phases(&mut seen)).await.unwrap();
    assert_eq!(path, bench.models().join("hf/o/r/f.gguf"));
    assert_eq!(fs::read(&path).unwrap(), model);
    let all = MODEL_BYTES as u64;
    assert_eq!(seen.last(), Some(&(Phase::Verifying, all, Some(all))));
    let requests = [format!("{HEAD} with token"), format!("{} with token", get()), "GET content".to_owned()];
    assert_eq!(server.seen(), requests, "the token goes to the hub only");
    assert_eq!(store.installed().unwrap()[0].reference, wanted());
    assert_eq!(store.locate(&wanted()).unwrap(), Some(path.clone()));
    let note = fs::read_to_string(path.with_file_name("f.gguf.sha256")).unwrap();
    assert_eq!(note, format!("{}  f.gguf\n", Sha256::of(&model)));

    assert_eq!(pull(&store).await.unwrap(), model);
    assert_eq!(server.seen(), Vec::<String>::new(), "what is here and right needs no hub");
    fs::write(&path, b"something else").unwrap();
    let text = store.verify(&wanted(), &mut nobody()).await.unwrap_err().to_string();
    assert!(text.contains("f.gguf: its sha256 is") && text.contains("tandem pull hf:o/r/f.gguf"), "{text}");
    assert_eq!(pull(&store).await.unwrap(), model);
}

#[tokio::test]
async fn a_broken_connection_is_resumed() {
    let (_bench, model, server, store) = setting().await;
    server.set(|script| script.breaks = vec![1_000_000, 1_500_000, 10]);
    assert_eq!(pull(&store).await.unwrap(), model);
    let seen = server.seen();
    let starts: Vec<&String> = seen.iter().filter(|request| request.contains("content")).collect();
    assert_eq!(
        starts,
        [
            "GET content",
            "GET content bytes=1000000-",
            "GET content bytes=2500000-",
            "GET content bytes=2500010-"
        ]
    );
}

#[tokio::test]
async fn an_interrupted_pull_goes_on_in_another_run() {
    let (bench, model, server, _) = setting().await;
    server.set(|script| script.breaks = vec![2_000_000]);
    let once = Options { attempts_max: 1, ..options(&bench, &server) };
    let error = pull(&bench.store_with(once)).await.unwrap_err();
    assert!(error.to_string().contains("Hugging Face, o/r/f.gguf: "), "{error}");
    assert!(!error.is_missing());
    assert_eq!(pull(&bench.store_with(options(&bench, &server))).await.unwrap(), model);
    assert_eq!(server.seen().last().unwrap(), "GET content bytes=2000000-");
    assert_eq!(bench.left_over(), Vec::<&Path>::new());
}

#[tokio::test]
async fn a_pull_that_is_dropped_keeps_what_came() {
    let (bench, model, server, store) = setting().await;
    server.set(|script| script.stalls = 1);
    let dropped = tokio::time::timeout(Duration::from_millis(300), pull(&store)).await;
    assert!(dropped.is_err());
    assert_eq!(pull(&bench.store_with(options(&bench, &server))).await.unwrap(), model);
    assert_eq!(server.seen().last().unwrap(), "GET content bytes=10-");
}

#[tokio::test]
async fn bytes_of_another_version_are_not_joined() {
    let (bench, model, server, _) = setting().await;
    server.set(|script| script.breaks = vec![2_000_000]);
    let once = Options { attempts_max: 1, ..options(&bench, &server) };
    assert!(pull(&bench.store_with(once)).await.is_err());
    let newer: Vec<u8> = model.iter().map(|byte| byte ^ 1).collect();
    server.set(|script| {
        script.etag = Some(format!("\"{}\"", Sha256::of(&newer)));
        script.content = newer.clone();
    });
    assert_eq!(pull(&bench.store_with(options(&bench, &server))).await.unwrap(), newer);
    assert_eq!(server.seen().last().unwrap(), "GET content");
}

#[tokio::test]
async fn a_silent_server_is_left_and_asked_again() {
    let (bench, model, server, _) = setting().await;
    server.set(|script| script.stalls = 1);
    let impatient = Options { read_timeout: Duration::from_millis(200), ..options(&bench, &server) };
    assert_eq!(pull(&bench.store_with(impatient)).await.unwrap(), model);
    assert_eq!(server.seen().last().unwrap(), "GET content bytes=10-");
}

#[tokio::test]
async fn attempts_that_bring_nothing_have_an_end() {
    let (_bench, _, server, store) = setting().await;
    server.set(|script| script.breaks = vec![0; 100]);
    let error = pull(&store).await.unwrap_err();
    assert!(!error.is_missing());
    assert_eq!(server.seen().iter().filter(|request| request.contains("content")).count(), 4);
}

#[tokio::test]
async fn a_server_that_knows_no_ranges_starts_over() {
    let (_bench, model, server, store) = setting().await;
    server.set(|script| (script.ignores_range, script.breaks) = (true, vec![2_000_000]));
    assert_eq!(pull(&store).await.unwrap(), model);
}

#[tokio::test]
async fn refusals_of_the_hub_are_said_with_advice() {
    for (status, advice, requests) in [
        (404, "status 404 (no such repository, file or revision)", 1),
        (401, "accept its terms and give a token", 1),
        (503, "status 503", 4),
    ] {
        let (bench, _, server, store) = setting().await;
        server.set(|script| script.statuses = vec![status; 10]);
        let error = pull(&store).await.unwrap_err();
        assert!(error.to_string().contains(advice), "{error}");
        assert!(error.to_string().contains("/o/r/resolve/main/f.gguf"), "{error}");
        assert_eq!(error.is_missing(), status == 404);
        assert_eq!(server.seen().len(), requests, "status {status}");
        assert_eq!(store.locate(&wanted()).unwrap(), None);
        assert_eq!(bench.left_over(), Vec::<&Path>::new());
    }
}

#[tokio::test]
async fn a_busy_hub_is_asked_again() {
    let (_bench, model, server, store) = setting().await;
    server.set(|script| script.statuses = vec![503, 429]);
    assert_eq!(pull(&store).await.unwrap(), model);
}

#[tokio::test]
async fn a_moved_repository_is_followed() {
    let (_bench, model, server, store) = setting().await;
    let old = Reference::parse("hf:old/r/f.gguf", &Catalogue::builtin()).unwrap();
    let path = store.pull(&old, &mut nobody()).await.unwrap();
    assert_eq!(fs::read(path).unwrap(), model);
    assert_eq!(server.seen()[..2], ["HEAD /old/r/resolve/main/f.gguf", HEAD]);
}

#[tokio::test]
async fn other_bytes_than_the_hub_named_are_refused_with_both_digests() {
    let (bench, model, server, store) = setting().await;
    let wrong: Vec<u8> = model.iter().map(|byte| byte ^ 1).collect();
    server.set(|script| script.content = wrong.clone());
    let text = pull(&store).await.unwrap_err().to_string();
    for piece in ["hf:o/r/f.gguf".to_owned(), Sha256::of(&model).to_string(), Sha256::of(&wrong).to_string()]
    {
        assert!(text.contains(&piece), "{text} should say {piece}");
    }
    assert_eq!(store.locate(&wanted()).unwrap(), None);
    assert_eq!(bench.left_over(), Vec::<&Path>::new());
}

#[tokio::test]
async fn more_bytes_than_the_hub_named_are_refused() {
    let (_bench, model, server, store) = setting().await;
    server.set(|script| script.content.push(0));
    let text = pull(&store).await.unwrap_err().to_string();
    assert!(text.contains(&format!("not {}", model.len())), "{text}");
    server.set(|script| script.content = model.clone());
    assert_eq!(pull(&store).await.unwrap(), model);
    assert_eq!(server.seen().last().unwrap(), "GET content", "nothing of the wrong file was kept");
}

#[tokio::test]
async fn lying_headers_are_errors() {
    type Change = fn(&mut crate::hub_server::Script);
    let cases: [(Change, &str); 6] = [
        (|script| script.size = None, "the answer has no length"),
        (|script| script.size = Some("many".to_owned()), "the answer has no length"),
        (|script| script.size = Some("0".to_owned()), "a length of 0 bytes"),
        (|script| script.size = Some(u64::MAX.to_string()), "a length of 18446744073709551615 bytes"),
        (|script| script.etag = None, "the answer has no ETag"),
        (
            |script| (script.range_error, script.breaks) = (1, vec![100_000]),
            "asked for the bytes from 100000 on",
        ),
    ];
    for (change, expected) in cases {
        let (_bench, _, server, store) = setting().await;
        server.set(change);
        let text = pull(&store).await.unwrap_err().to_string();
        assert!(text.contains(expected), "{text} should say {expected}");
    }
}

#[tokio::test]
async fn a_file_without_a_named_digest_is_taken_and_its_digest_recorded() {
    let (_bench, model, server, store) = setting().await;
    server.set(|script| script.etag = Some("\"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b\"".to_owned()));
    assert_eq!(pull(&store).await.unwrap(), model);
    let verified = store.verify(&wanted(), &mut nobody()).await.unwrap();
    assert_eq!((verified.sha256, verified.known), (Sha256::of(&model), true));
}
