//! The built `tandem` binary from the outside: exit codes, what is on stdout, and a server with two
//! tiny models.

mod chat;
mod commands;
mod eval;
mod fixture;
mod guards;
mod replay;
mod serve;
