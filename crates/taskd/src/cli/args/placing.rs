//! Where a task may run, beyond `--label`.

use clap::Args;
use proto::placing::{Placing, Term};

#[derive(Debug, Default, Args)]
pub(in crate::cli) struct PlacingArgs {
    /// Run it only on nodes whose labels are like that, for example disk=ssd, zone!=b, zone=a|b or !spare (repeatable)
    #[arg(long, value_name = "TERM")]
    require: Vec<Term>,
    /// Rather run it on a node whose labels are like that, if one has room (repeatable)
    #[arg(long, value_name = "TERM")]
    prefer: Vec<Term>,
    /// Rather run it on a node whose labels are not like that, if one has room (repeatable)
    #[arg(long, value_name = "TERM")]
    avoid: Vec<Term>,
    /// Rather run it where fewest tasks with the same key run
    #[arg(long, value_name = "KEY")]
    spread: Option<String>,
    /// How many of its node's slots it takes [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(Placing::SLOTS_MAX)))]
    slots: Option<u32>,
}

impl PlacingArgs {
    /// None if nothing was asked for.
    pub(in crate::cli) fn placing(&self) -> Option<Box<Placing>> {
        let Self { require, prefer, avoid, spread, slots } = self;
        placing(require.clone(), prefer.clone(), avoid.clone(), spread.clone(), *slots)
    }
}

/// None if nothing is asked for.
pub(in crate::cli) fn placing(
    require: Vec<Term>,
    mut prefer: Vec<Term>,
    avoid: Vec<Term>,
    spread: Option<String>,
    slots: Option<u32>,
) -> Option<Box<Placing>> {
    prefer.extend(avoid.into_iter().map(Term::negated));
    let placing = Placing { require, prefer, spread, slots: slots.unwrap_or(1) };
    (placing != Placing::default()).then(|| Box::new(placing))
}
