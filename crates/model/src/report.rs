//! What a run has found, for people.

use std::fmt;
use std::time::{Duration, Instant};

use stateright::{Checker, Expectation, Model, Path};

/// A run of the checker.
#[derive(Debug)]
pub struct Report<S, A> {
    /// Which model.
    pub model: &'static str,
    /// Within which bounds.
    pub bounds: String,
    /// Different states.
    pub unique: usize,
    /// Steps taken, to known states or new ones.
    pub generated: usize,
    /// The longest of the shortest paths.
    pub depth: usize,
    /// How long it took.
    pub time: Duration,
    /// It stopped before it ran out of states.
    pub cut_short: bool,
    /// What was asked, and the path that answers it: a counterexample, or an example.
    pub verdicts: Vec<Verdict<S, A>>,
}

/// States, and the action that leads on from each.
pub type Steps<S, A> = Vec<(S, Option<A>)>;

/// One property's.
pub type Verdict<S, A> = (&'static str, Expectation, Option<Steps<S, A>>);

/// Explores `model` breadth first, with at most `steps_max` steps.
pub fn explore<M>(
    name: &'static str,
    bounds: String,
    model: M,
    threads: usize,
    steps_max: Option<usize>,
) -> Report<M::State, M::Action>
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + PartialEq + std::hash::Hash + std::fmt::Debug + Send + Sync + 'static,
    M::Action: Clone + PartialEq + std::fmt::Debug + Send + Sync + 'static,
{
    let (begun, properties) = (Instant::now(), model.properties());
    let mut builder = model.checker().threads(threads);
    if let Some(steps) = steps_max {
        builder = builder.target_state_count(steps);
    }
    let checker = builder.spawn_bfs().join();
    let time = begun.elapsed();
    let mut found = checker.discoveries();
    Report {
        model: name,
        bounds,
        unique: checker.unique_state_count(),
        generated: checker.state_count(),
        depth: checker.max_depth(),
        time,
        cut_short: steps_max.is_some_and(|steps| steps <= checker.state_count()),
        verdicts: properties
            .into_iter()
            .map(|property| {
                let path = found.remove(property.name).map(Path::into_vec);
                (property.name, property.expectation, path)
            })
            .collect(),
    }
}

impl<S, A> Report<S, A> {
    /// What an `always` forbids was reached, or what a `sometimes` promises was not.
    pub fn broken(&self) -> impl Iterator<Item = &Verdict<S, A>> {
        self.verdicts
            .iter()
            .filter(|(_, expectation, path)| path.is_some() != matches!(expectation, Expectation::Sometimes))
    }

    /// The path for `property`, if there is one.
    pub fn path(&mut self, property: &str) -> Option<Steps<S, A>> {
        let verdict = self.verdicts.iter_mut().find(|(name, ..)| *name == property)?;
        verdict.2.take()
    }
}

impl<S, A> fmt::Display for Report<S, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "model             {}", self.model)?;
        writeln!(f, "bounds            {}", self.bounds)?;
        writeln!(f, "unique states     {}", self.unique)?;
        writeln!(f, "generated states  {}", self.generated)?;
        writeln!(f, "depth             {}", self.depth)?;
        let note = if self.cut_short { " (stopped early: not all of the space)" } else { "" };
        writeln!(f, "time              {:.1} s{note}", self.time.as_secs_f64())?;
        for (name, expectation, path) in &self.verdicts {
            let verdict = match (expectation, path) {
                (Expectation::Sometimes, Some(_)) => "reached",
                (Expectation::Sometimes, None) => "NEVER REACHED",
                (_, None) => "holds",
                (_, Some(_)) => "VIOLATED",
            };
            writeln!(f, "  {verdict:<13} {name}")?;
        }
        Ok(())
    }
}
