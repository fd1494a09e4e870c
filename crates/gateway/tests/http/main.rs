//! The server from the outside: over HTTP, on a random port, with scripted backends.

mod answers;
mod asked_guards;
mod bad_input;
mod cascade;
mod flow;
mod guards;
mod lifecycle;
mod limits;
mod recorded;
mod server;
mod sticky;
