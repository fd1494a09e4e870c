//! Random clients against gateway and engine in one process: whatever they do, nothing is left of them.
//!
//! `cargo test` lets a few hundred loose; with the feature `thorough`, which `cargo xtask real` switches
//! on, there are 10,000.
#![cfg(unix)]

mod behaviours;
mod client;
mod world;

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use behaviours::BEHAVIOURS;
use client::{Client, Random};
use world::World;

/// Clients in all.
const CLIENTS: u64 = if cfg!(feature = "thorough") { 10_000 } else { 400 };
/// Clients at once: more than the server has places, fewer than it has connections.
const AT_ONCE: usize = 28;
/// Longest that any of them may take; far above every limit of the server.
const CLIENT_TIME_MAX: Duration = Duration::from_secs(60);

/// Which behaviour and which details a client has follows from its number alone.
async fn let_loose(world: &World) -> Vec<String> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut clients = JoinSet::new();
    let mut complaints = Vec::new();
    for number in 0..CLIENTS {
        let place = Arc::clone(&places).acquire_owned().await.unwrap();
        let mut random = Random::new(number);
        let (name, behave) = BEHAVIOURS[random.below(BEHAVIOURS.len())];
        let client = Client::new(world.address, random, world.known.clone());
        clients.spawn(async move {
            let ended = timeout(CLIENT_TIME_MAX, behave(client)).await;
            drop(place);
            let complaint = ended.unwrap_or_else(|_| Err("no end".to_owned())).err();
            complaint.map(|complaint| format!("client {number}, which {name}: {complaint}"))
        });
        while let Some(ended) = clients.try_join_next() {
            complaints.extend(ended.unwrap());
        }
    }
    complaints.extend(clients.join_all().await.into_iter().flatten());
    complaints
}

#[test]
fn whatever_clients_do_nothing_is_left_of_them() {
    let world = World::start();
    let clients = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let complaints = clients.block_on(let_loose(&world));
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
    world.assert_nothing_is_left();
    world.assert_everything_is_recorded();
}
