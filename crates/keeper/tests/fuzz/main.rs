//! Whatever bytes come in, nothing panics and nothing is said that may not be said.
//!
//! `cargo test` (or nextest) first replays the corpus beside this file and then tries random inputs for a second a target.
//! `BOLERO_RANDOM_TEST_TIME_MS=600000` makes that ten minutes; a failure is shrunk, and prints its input and the
//! `BOLERO_RANDOM_SEED` that repeats it. With `cargo install cargo-bolero`, and a C++ compiler and a nightly toolchain
//! at hand, `cargo bolero test -p keeper connections` lets libFuzzer look for inputs by coverage, and keeps them here.

mod connections;
mod decoder;
mod entropy;
mod requests;

/// The codec, both directions.
#[test]
fn decoder() {
    bolero::check!().with_max_len(1024).for_each(decoder::check);
}

/// A core with several connections, from their first byte to the last expiry.
#[test]
fn connections() {
    bolero::check!().with_max_len(2048).for_each(connections::check);
}
