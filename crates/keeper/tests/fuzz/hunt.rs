//! The search for an input that fails.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::{StdRng, SysRng};
use rand::{Rng as _, RngExt as _, SeedableRng as _};

/// What an input did, as numbers that say nothing but whether they were there before.
#[derive(Debug, Default)]
pub(crate) struct Traces(HashSet<u64>);

impl Traces {
    pub(crate) fn leave(&mut self, trace: impl Hash) {
        let mut hasher = DefaultHasher::new();
        trace.hash(&mut hasher);
        self.0.insert(hasher.finish());
    }
}

type Check = fn(&[u8], &mut Traces);

/// Inputs that are kept while looking; beyond, a new one takes the place of another.
const POOL_MAX: usize = 4096;

/// Tries the corpus of a target, and then looks further.
pub(crate) fn hunt(target: &str, bytes_max: usize, check: Check) {
    let variable = |name: &str| std::env::var(name).ok();
    let seconds =
        variable("KEEPER_FUZZ_SECONDS").map_or(2.0, |value| value.parse().expect("a number of seconds"));
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut seen = Traces::default();
    let mut pool = Vec::new();
    for (path, input) in corpus_of(&corpus) {
        eprintln!("{}", path.display());
        try_one(target, &input, check, &mut seen);
        pool.push(input);
    }
    assert!(!pool.is_empty(), "no corpus in {}", corpus.display());

    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut random = StdRng::try_from_rng(&mut SysRng).expect("the system has randomness");
    let mut tried = 0;
    while Instant::now() < end {
        let input = next(&pool, bytes_max, &mut random);
        tried += 1;
        if !try_one(target, &input, check, &mut seen) {
            continue;
        }
        if variable("KEEPER_FUZZ_KEEP").is_some() {
            std::fs::write(corpus.join(name_of(&input)), &input).expect("the corpus can be written");
        }
        if pool.len() < POOL_MAX {
            pool.push(input);
        } else {
            let place = random.random_range(..pool.len());
            pool[place] = input;
        }
    }
    eprintln!(
        "{target}: {tried} inputs, {} traces, {} of the inputs left a new one",
        seen.0.len(),
        pool.len()
    );
}

/// In the order of their names.
fn corpus_of(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = std::fs::read_dir(dir).into_iter().flatten().map(|entry| entry.expect("a file").path());
    let mut files: Vec<_> = files.map(|path| (path.clone(), std::fs::read(path).expect("a file"))).collect();
    files.sort();
    files
}

fn name_of(input: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Tries an input, and says whether it did something new.
fn try_one(target: &str, input: &[u8], check: Check, seen: &mut Traces) -> bool {
    let mut traces = Traces::default();
    if catch_unwind(AssertUnwindSafe(|| check(input, &mut traces))).is_err() {
        let input = smaller(input.to_vec(), check);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{target}-{}", name_of(&input)));
        std::fs::write(&path, &input).expect("the target directory can be written");
        eprintln!("the input is in {}: {input:02x?}", path.display());
        check(&input, &mut traces);
        unreachable!("it failed before");
    }
    let before = seen.0.len();
    seen.0.extend(traces.0);
    seen.0.len() > before
}

/// The least input found in a few seconds that fails as well.
fn smaller(mut input: Vec<u8>, check: Check) -> Vec<u8> {
    let end = Instant::now() + Duration::from_secs(10);
    // What the many failures on the way say would bury what the last one does. The other target may run in another
    // thread, whose own failure would then be told less well, but not missed.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let fails =
        |input: &[u8]| catch_unwind(AssertUnwindSafe(|| check(input, &mut Traces::default()))).is_err();
    let mut length = input.len() / 2;
    while length > 0 && Instant::now() < end {
        let mut at = 0;
        while at + length <= input.len() && Instant::now() < end {
            let without = [&input[..at], &input[at + length..]].concat();
            if fails(&without) {
                input = without;
            } else {
                at += length;
            }
        }
        length /= 2;
    }
    for at in 0..input.len() {
        let before = std::mem::take(&mut input[at]);
        if Instant::now() >= end || !fails(&input) {
            input[at] = before;
        }
    }
    std::panic::set_hook(hook);
    input
}

/// An input to try: chance, or one of the pool after some changes.
fn next(pool: &[Vec<u8>], bytes_max: usize, random: &mut StdRng) -> Vec<u8> {
    let of_pool = |random: &mut StdRng| &pool[random.random_range(..pool.len())];
    let mut input = Vec::new();
    if random.random_ratio(1, 8) {
        input.resize(random.random_range(..=bytes_max), 0);
        random.fill_bytes(&mut input);
        return input;
    }
    input.extend_from_slice(of_pool(random));
    for _ in 0..random.random_range(1..=6) {
        let at = random.random_range(..=input.len());
        let length = random.random_range(..=(input.len() - at).min(16));
        match random.random_range(0..6) {
            // Another byte, or another bit.
            0 => input.iter_mut().skip(at).take(1).for_each(|byte| *byte = random.random()),
            1 => input.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.random_range(0..8)),
            // Without a piece, or with a piece twice, or with one of another input.
            2 => drop(input.drain(at..at + length)),
            3 => {
                let piece = input[at..at + length].to_vec();
                input.splice(at..at, piece);
            }
            4 => {
                let other = of_pool(random);
                let from = random.random_range(..=other.len());
                let piece = other[from..].iter().take(random.random_range(0..64)).copied();
                input.splice(at..at, piece);
            }
            // With a few more by chance.
            _ => {
                let mut piece = [0; 8];
                random.fill_bytes(&mut piece);
                input.splice(at..at, piece.into_iter().take(random.random_range(1..=8)));
            }
        }
    }
    input.truncate(bytes_max);
    input
}
