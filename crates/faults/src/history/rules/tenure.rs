//! What one life wrote down of one epoch.

use std::collections::BTreeMap;

use clock::Instant;

use super::super::Timing;
use super::super::fact::Fact;
use super::Parsed;

/// What the resource is called that has all effects of an epoch, whose id is the epoch.
pub(super) const DISPATCHER: &str = "dispatcher";

/// A committed write that was known of at `at` and sent at `sent`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proof {
    pub(super) at: Instant,
    pub(super) sent: Instant,
    pub(super) valid_until: Instant,
    pub(super) claim: bool,
}

impl Proof {
    /// Until when it entitles: our arithmetic, not the node's.
    pub(super) fn until(&self, timing: Timing) -> Instant {
        self.sent + timing.term()
    }
}

#[derive(Clone, Debug)]
pub(super) struct Effect {
    pub(super) at: Instant,
    pub(super) kind: String,
}

/// One epoch as one life has it.
#[derive(Clone, Debug)]
pub(super) struct Tenure<'a> {
    pub(super) node: &'a str,
    pub(super) epoch: u64,
    /// By when they were known of.
    pub(super) proofs: Vec<Proof>,
    /// By time.
    pub(super) effects: Vec<Effect>,
    /// The first time.
    pub(super) dropped: Option<Instant>,
    /// The first time.
    pub(super) released: Option<Instant>,
    /// When the dispatcher of the epoch had ended.
    pub(super) ended: Option<Instant>,
    /// When the life was last heard of, if it is over.
    over: Option<Instant>,
    /// When it was last heard of, over or not.
    heard: Instant,
}

impl Tenure<'_> {
    pub(super) fn claims(&self) -> impl Iterator<Item = &Proof> {
        self.proofs.iter().filter(|proof| proof.claim)
    }

    /// When it declared its authority to be over, or could not have any more.
    pub(super) fn cut(&self) -> Instant {
        let ends = [self.dropped, self.released, self.over];
        ends.into_iter().flatten().min().unwrap_or(Instant::from_nanos(u64::MAX))
    }

    /// The proof that entitles longest of those that were known of at `when`.
    pub(super) fn best_at(&self, when: Instant) -> Option<&Proof> {
        let known = self.proofs.partition_point(|proof| proof.at <= when);
        self.proofs[..known].iter().max_by_key(|proof| proof.sent)
    }

    /// When it was entitled as far as that was written down: the files of processes that run are read one after the
    /// other, and what this one did after its last line nobody knows.
    pub(super) fn entitled_for_sure(&self, timing: Timing) -> impl Iterator<Item = (Instant, Instant)> {
        let heard = self.heard;
        let spans = self.entitled(timing).map(move |(from, until)| (from, until.min(heard)));
        spans.filter(|(from, until)| from < until)
    }

    /// When it was entitled: from each proof on, until the proof or all authority ends. They may overlap.
    pub(super) fn entitled(&self, timing: Timing) -> impl Iterator<Item = (Instant, Instant)> {
        let cut = self.cut();
        let spans = self.proofs.iter().map(move |proof| (proof.at, proof.until(timing).min(cut)));
        spans.filter(|(from, until)| from < until)
    }
}

/// Every tenure, by epoch.
#[derive(Debug)]
pub(super) struct Tenures<'a>(BTreeMap<(u64, usize), Tenure<'a>>);

impl<'a> Tenures<'a> {
    pub(super) fn of(lives: &[Parsed<'a>]) -> Self {
        let mut tenures = BTreeMap::new();
        for (index, life) in lives.iter().enumerate() {
            let mut of = |epoch: u64, put: &dyn Fn(&mut Tenure<'a>)| {
                put(tenures.entry((epoch, index)).or_insert_with(|| Tenure {
                    node: life.node,
                    epoch,
                    proofs: Vec::new(),
                    effects: Vec::new(),
                    dropped: None,
                    released: None,
                    ended: None,
                    over: life.over(),
                    heard: life.facts.last().map_or(Instant::default(), |(at, _)| *at),
                }));
            };
            for (at, fact) in &life.facts {
                let at = *at;
                match fact {
                    &Fact::Proof { epoch, sent, valid_until, claim } => {
                        of(epoch, &|tenure| tenure.proofs.push(Proof { at, sent, valid_until, claim }));
                    }
                    Fact::Effect { epoch, kind } => {
                        of(*epoch, &|tenure| tenure.effects.push(Effect { at, kind: kind.clone() }));
                    }
                    Fact::LeaseDropped { epoch } => of(*epoch, &|tenure| {
                        tenure.dropped.get_or_insert(at);
                    }),
                    Fact::Released { epoch } => of(*epoch, &|tenure| {
                        tenure.released.get_or_insert(at);
                    }),
                    Fact::Close { name, id } if name == DISPATCHER => {
                        if let Ok(epoch) = id.parse() {
                            of(epoch, &|tenure| {
                                tenure.ended.get_or_insert(at);
                            });
                        }
                    }
                    _ => {}
                }
            }
        }
        Self(tenures)
    }

    pub(super) fn all(&self) -> impl DoubleEndedIterator<Item = &Tenure<'a>> {
        self.0.values()
    }

    /// Who first claimed each epoch, by epoch.
    pub(super) fn claimed(&self) -> impl Iterator<Item = (&Tenure<'a>, &Proof)> {
        let mut owners = BTreeMap::new();
        for tenure in self.all() {
            for claim in tenure.claims() {
                let owner = owners.entry(tenure.epoch).or_insert((tenure, claim));
                if claim.at < owner.1.at {
                    *owner = (tenure, claim);
                }
            }
        }
        owners.into_values()
    }
}
