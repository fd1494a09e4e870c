//! The `tandem` binary: commands and configuration; it wires everything and decides nothing.
fn main() {}
