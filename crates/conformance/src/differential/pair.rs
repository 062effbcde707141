//! Two servers that are given the same steps.

use std::fmt;

use anyhow::Result;

use super::observe::{Observed, same};
use super::script::{Call, Credentials, Script, Step};
use super::server::{Kind, Server};
use super::side::{SLOTS, Side};

/// Which servers are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kinds {
    /// Whose answers are right.
    pub(super) reference: Kind,
    /// Whose answers are judged.
    pub(super) subject: Kind,
}

/// The reference and the subject, in step.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) reference: Side,
    pub(super) subject: Side,
    judge: Judge,
    scripts: u32,
}

/// What both said to one step.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) reference: Vec<Observed>,
    pub(super) subject: Vec<Observed>,
    pub(super) agree: bool,
}

/// Compares what was seen, step by step.
///
/// It remembers for which slots a session has ended since they were last looked at: the ephemerals of a session die in no particular order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Judge {
    disturbed: [bool; SLOTS],
}

impl Judge {
    /// Whether the two agree about `step`.
    pub(super) fn agree(&mut self, step: &Step, one: &[Observed], other: &[Observed]) -> bool {
        let ends = match step {
            Step::Expire { .. } | Step::Open { .. } | Step::Restart => true,
            Step::Burst { calls, .. } => calls.last() == Some(&Call::CloseSession),
            _ => false,
        };
        if ends {
            self.disturbed = [true; SLOTS];
        }
        let unordered = match step {
            Step::Burst { slot, .. } | Step::Cut { slot } | Step::Resume { slot, .. } => {
                std::mem::replace(&mut self.disturbed[*slot], ends)
            }
            _ => true,
        };
        same(one, other, unordered)
    }
}

impl Pair {
    /// Starts two fresh servers.
    pub(super) fn start(kinds: Kinds) -> Result<Self> {
        let reference = Side::new(Server::start(kinds.reference)?);
        let subject = Side::new(Server::start(kinds.subject)?);
        Ok(Self { reference, subject, judge: Judge::default(), scripts: 0 })
    }

    /// Gets ready for a script below a node of its own. The sessions of the last one have been closed.
    pub(super) fn begin_script(&mut self) {
        let root = format!("/r{:04}", self.scripts % 10_000);
        self.scripts += 1;
        self.reference.begin_script(&root);
        self.subject.begin_script(&root);
        self.judge = Judge::default();
    }

    /// Gives both the same step.
    pub(super) fn step(&mut self, step: &Step) -> Said {
        self.reference.begin(step);
        self.subject.begin(step);
        let reference = self.reference.finish(step);
        let subject = self.subject.finish(step);
        let agree = self.judge.agree(step, &reference, &subject);
        Said { reference, subject, agree }
    }

    /// The steps that end what the script has left alive, so that nothing expires later.
    pub(super) fn remaining(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for slot in self.reference.alive() {
            if !self.reference.connected(slot) {
                steps.push(Step::Resume { slot, with: Credentials::Right });
            }
            steps.push(Step::Burst { slot, calls: vec![Call::CloseSession] });
        }
        steps
    }

    /// Runs a whole script; the first step that they disagree about, if there is one.
    pub(super) fn run(&mut self, script: &Script) -> Option<Divergence> {
        self.begin_script();
        let mut divergence = None;
        for (index, step) in script.0.iter().enumerate() {
            let said = self.step(step);
            if !said.agree {
                divergence = Some(Divergence::new(index, step, said));
                break;
            }
        }
        for side in [&mut self.reference, &mut self.subject] {
            side.end_script();
        }
        divergence
    }
}

/// What two servers disagree about.
#[derive(Clone, Debug)]
pub(super) struct Divergence {
    /// The step's index in its script.
    pub(super) index: usize,
    pub(super) said: Said,
    /// Which request and which part of its answer; a shorter script must show the same.
    pub(super) signature: String,
}

impl Divergence {
    pub(super) fn new(index: usize, step: &Step, said: Said) -> Self {
        let signature = signature(step, &said);
        Self { index, said, signature }
    }
}

impl fmt::Display for Divergence {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let position = position(&self.said);
        let what = |observed: &[Observed]| {
            observed.get(position).map_or_else(|| "nothing more".to_owned(), |seen| format!("{seen:?}"))
        };
        writeln!(out, "{}, at step {}:", self.signature, self.index)?;
        writeln!(out, "  reference: {}", what(&self.said.reference))?;
        write!(out, "  subject:   {}", what(&self.said.subject))
    }
}

/// The first observation that differs.
fn position(said: &Said) -> usize {
    said.reference.iter().zip(&said.subject).take_while(|(one, other)| one == other).count()
}

fn signature(step: &Step, said: &Said) -> String {
    let position = position(said);
    let replies = said.reference[..position].iter();
    let answered = replies.filter(|seen| matches!(seen, Observed::Reply { .. })).count();
    let what = match step {
        Step::Burst { calls, .. } => calls.get(answered).map_or("ping", Call::name),
        Step::Open { .. } => "open",
        Step::Resume { .. } => "resume",
        Step::Cut { .. } => "cut",
        Step::Expire { .. } => "expire",
        Step::Hello { .. } => "hello",
        Step::Restart => "restart",
    };
    let part = match (said.reference.get(position), said.subject.get(position)) {
        (
            Some(Observed::Reply { xid, zxid, err, .. }),
            Some(Observed::Reply { xid: other_xid, zxid: other_zxid, err: other_err, .. }),
        ) => {
            if err != other_err {
                format!("error {err} or {other_err}")
            } else if xid != other_xid {
                "xid".to_owned()
            } else if zxid != other_zxid {
                "zxid".to_owned()
            } else {
                "answer".to_owned()
            }
        }
        (one, other) => format!("{} or {}", kind(one), kind(other)),
    };
    format!("{what}: {part}")
}

fn kind(seen: Option<&Observed>) -> &'static str {
    match seen {
        None => "nothing",
        Some(Observed::Session { .. }) => "session",
        Some(Observed::Reply { .. }) => "reply",
        Some(Observed::Event { .. }) => "event",
        Some(Observed::Closed) => "close",
        Some(Observed::Expired { .. }) => "expiry",
        Some(Observed::Silence) => "silence",
        Some(Observed::Odd { .. }) => "oddity",
    }
}
