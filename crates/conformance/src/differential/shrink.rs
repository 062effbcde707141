//! Makes a script shorter as long as the two servers disagree in the same way.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::pair::{Divergence, Kinds, Pair};
use super::script::{Call, Script, Step};

/// Shrinking is for the reader's convenience: it ends when this is used up.
const ENOUGH: Duration = Duration::from_secs(90);

/// A script that shows a divergence on fresh servers.
#[derive(Debug)]
pub(super) struct Shrunk {
    pub(super) script: Script,
    pub(super) divergence: Divergence,
}

struct Shrinker {
    kinds: Kinds,
    pair: Pair,
    signature: String,
    deadline: Instant,
    /// Whether every divergence is followed by fresh servers, which takes a second or two.
    careful: bool,
}

/// Shrinks `script`, in which a divergence with `signature` was seen; `None` if fresh servers agree about it.
///
/// # Errors
/// A server does not start.
pub(super) fn shrink(kinds: Kinds, script: &Script, signature: &str) -> Result<Option<Shrunk>> {
    // Mostly what the two servers keep of a divergence does not matter to the next script, which has a node and sessions of its own.
    match attempt(kinds, script.clone(), signature, false)? {
        Some(shrunk) => Ok(Some(shrunk)),
        None => attempt(kinds, script.clone(), signature, true),
    }
}

fn attempt(kinds: Kinds, mut script: Script, signature: &str, careful: bool) -> Result<Option<Shrunk>> {
    let deadline = Instant::now() + ENOUGH;
    let pair = Pair::start(kinds)?;
    let mut shrinker = Shrinker { kinds, pair, signature: signature.to_owned(), deadline, careful };
    match shrinker.shows(&script)? {
        Some(divergence) => script.0.truncate(divergence.index + 1),
        None => return Ok(None),
    }
    loop {
        let before = script.clone();
        script = Script(shrinker.list(script.0, &|steps| Script(steps.to_vec()))?);
        for index in 0..script.0.len() {
            script = shrinker.burst(script, index)?;
        }
        if script == before || Instant::now() > deadline {
            break;
        }
    }
    // What was found on servers with a past must show on fresh ones.
    shrinker.pair = Pair::start(kinds)?;
    let divergence = shrinker.pair.run(&script);
    Ok(divergence.map(|divergence| Shrunk { script, divergence }))
}

impl Shrinker {
    /// The divergence, if `script` shows the one that is looked for.
    fn shows(&mut self, script: &Script) -> Result<Option<Divergence>> {
        let Some(divergence) = self.pair.run(script) else { return Ok(None) };
        if self.careful {
            self.pair = Pair::start(self.kinds)?;
        }
        Ok((divergence.signature == self.signature).then_some(divergence))
    }

    /// Delta debugging: the shortest list found such that what `build` makes of it shows the divergence.
    fn list<T: Clone>(&mut self, mut items: Vec<T>, build: &dyn Fn(&[T]) -> Script) -> Result<Vec<T>> {
        let mut size = items.len().div_ceil(2);
        while size > 0 {
            let mut start = 0;
            let mut shorter = false;
            // From the end: what comes last is mostly what the divergence needs least of, beside the last step itself.
            while start < items.len() && Instant::now() < self.deadline {
                let end = items.len() - start;
                let cut = end.saturating_sub(size);
                let rest: Vec<T> = items[..cut].iter().chain(&items[end..]).cloned().collect();
                if self.shows(&build(&rest))?.is_some() {
                    items = rest;
                    shorter = true;
                } else {
                    start += size;
                }
            }
            if size == 1 && !shorter {
                break;
            }
            size = if size == 1 { 1 } else { size.div_ceil(2) };
            if Instant::now() >= self.deadline {
                break;
            }
        }
        Ok(items)
    }

    /// Shortens the requests of one burst, and the operations of its multis.
    fn burst(&mut self, script: Script, index: usize) -> Result<Script> {
        let Some(Step::Burst { slot, calls }) = script.0.get(index).cloned() else { return Ok(script) };
        let with = |calls: &[Call]| {
            let mut script = script.clone();
            script.0[index] = Step::Burst { slot, calls: calls.to_vec() };
            script
        };
        let mut calls = self.list(calls, &with)?;
        for at in 0..calls.len() {
            let Call::Multi { ops } = &calls[at] else { continue };
            let before = calls.clone();
            let ops = self.list(ops.clone(), &|ops| {
                let mut calls = before.clone();
                calls[at] = Call::Multi { ops: ops.to_vec() };
                with(&calls)
            })?;
            calls[at] = Call::Multi { ops };
        }
        Ok(with(&calls))
    }
}
