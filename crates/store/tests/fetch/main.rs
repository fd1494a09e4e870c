//! Fetching end to end: from a stand-in for pip, and from a local server that speaks the hub's protocol.
#![cfg(unix)]

mod fixture;
mod hub;
mod hub_server;
mod pip;
mod sources;
