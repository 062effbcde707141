//! Whatever bytes come in, nothing panics and nothing is said that may not be said.
//!
//! A run first tries the inputs in `corpus/`, then for two seconds a target what comes of changing them and of pure chance. An
//! input that does something new is changed further: a target tells what each input did, which stands in for the
//! coverage that a fuzzer of the compiler's would measure, and needs nothing but `cargo test`.
//!
//! `KEEPER_FUZZ_SECONDS=600` looks for longer. `KEEPER_FUZZ_KEEP=1` adds what did something new to the corpus. An input
//! that fails is made smaller and left as a file, whose path is printed: move it into the corpus, and it is
//! tried first from then on.

mod connections;
mod decoder;
mod entropy;
mod hunt;
mod requests;

/// The codec, both directions.
#[test]
fn decoder() {
    hunt::hunt("decoder", 512, decoder::check);
}

/// A core with several connections, from their first byte to the last expiry.
#[test]
fn connections() {
    hunt::hunt("connections", 1024, connections::check);
}
