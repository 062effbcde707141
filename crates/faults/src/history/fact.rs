//! One line of a history.

use std::collections::BTreeMap;

use clock::Instant;

use super::Life;

/// What a node did, and saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fact {
    /// A committed write that proved the session alive when it was sent: the claim itself, or a probe.
    Proof {
        epoch: u64,
        sent: Instant,
        /// What the node makes of it.
        valid_until: Instant,
        claim: bool,
    },
    LeaseDropped {
        epoch: u64,
    },
    Released {
        epoch: u64,
    },
    Effect {
        epoch: u64,
        kind: String,
    },
    Accept {
        epoch: u64,
    },
    Open {
        name: String,
        id: String,
    },
    Close {
        name: String,
        id: String,
    },
    /// Left behind on purpose: it ends with the process.
    Abandon {
        name: String,
        id: String,
    },
    /// It is about to delete its member node and to close its session, which releases whatever they fence.
    Leaving,
    /// Whom it takes for the leader.
    Leader {
        node: String,
        epoch: u64,
    },
    Stop,
    Stopped,
    /// For people: no rule reads it.
    Note,
}

/// A line that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseError {
    /// It does not begin with an instant.
    #[error("line {line}, {text:?}, does not begin with an instant in nanoseconds")]
    Instant {
        /// Counted from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// No rule knows what to make of it.
    #[error("line {line}, {text:?}, is of an unknown kind")]
    Kind {
        /// Counted from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// Something is missing.
    #[error("line {line}, {text:?}, has no {field}, or not one that can be read")]
    Field {
        /// Counted from 1.
        line: usize,
        /// The line.
        text: String,
        /// What is missing.
        field: &'static str,
    },
    /// A process that stopped in an orderly way left half a line.
    #[error("line {line}, {text:?}, has no end, though the process was not killed")]
    Torn {
        /// Counted from 1.
        line: usize,
        /// The line.
        text: String,
    },
}

/// The facts of a life, by time, and what could not be read.
pub(crate) fn parse(life: &Life) -> (Vec<(Instant, Fact)>, Vec<ParseError>) {
    let (mut facts, mut errors) = (Vec::new(), Vec::new());
    let whole = life.text.rfind('\n').map_or(0, |end| end + 1);
    for (index, text) in life.text[..whole].lines().enumerate() {
        match line(index + 1, text) {
            Ok(fact) => facts.push(fact),
            Err(error) => errors.push(error),
        }
    }
    let torn = &life.text[whole..];
    if !torn.is_empty() && !life.end.tears() {
        errors.push(ParseError::Torn { line: life.text.lines().count(), text: torn.to_owned() });
    }
    // Threads may overtake each other between the clock and the file.
    facts.sort_by_key(|(at, _)| *at);
    (facts, errors)
}

fn line(number: usize, text: &str) -> Result<(Instant, Fact), ParseError> {
    let missing = |field| ParseError::Field { line: number, text: text.to_owned(), field };
    let mut words = text.split_ascii_whitespace();
    let at = words.next().and_then(|word| word.parse().ok()).map(Instant::from_nanos);
    let at = at.ok_or_else(|| ParseError::Instant { line: number, text: text.to_owned() })?;
    let kind = words.next().unwrap_or_default();
    let (mut fields, mut bare) = (BTreeMap::new(), Vec::new());
    for word in words {
        match word.split_once('=') {
            Some((key, value)) => drop(fields.insert(key, value)),
            None => bare.push(word),
        }
    }
    let number_of = |field: &'static str| {
        fields.get(field).and_then(|value| value.parse::<u64>().ok()).ok_or(missing(field))
    };
    let text_of = |field: &'static str| {
        fields
            .get(field)
            .filter(|value| !value.is_empty())
            .map(|value| (*value).to_owned())
            .ok_or(missing(field))
    };
    let name = || bare.first().map(|name| (*name).to_owned()).ok_or(missing("name"));
    let fact = match kind {
        "claimed" | "probe" => Fact::Proof {
            epoch: number_of("epoch")?,
            sent: Instant::from_nanos(number_of("sent")?),
            valid_until: Instant::from_nanos(number_of("valid_until")?),
            claim: kind == "claimed",
        },
        "lease-dropped" => Fact::LeaseDropped { epoch: number_of("epoch")? },
        "released" => Fact::Released { epoch: number_of("epoch")? },
        "effect" => Fact::Effect { epoch: number_of("epoch")?, kind: text_of("kind")? },
        "accept" => Fact::Accept { epoch: number_of("epoch")? },
        "open" => Fact::Open { name: name()?, id: text_of("id")? },
        "close" => Fact::Close { name: name()?, id: text_of("id")? },
        "abandon" => Fact::Abandon { name: name()?, id: text_of("id")? },
        "leaving" => Fact::Leaving,
        "leader" => Fact::Leader { node: text_of("node")?, epoch: number_of("epoch")? },
        "stop" => Fact::Stop,
        "stopped" => Fact::Stopped,
        "role" | "reached" => Fact::Note,
        _ => return Err(ParseError::Kind { line: number, text: text.to_owned() }),
    };
    Ok((at, fact))
}
