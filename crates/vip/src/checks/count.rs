//! When results become a verdict: so many failures in a row, so many successes in a row.

/// What a check says of its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It has not answered yet.
    Unknown,
    /// The node passes.
    Passes,
    /// It does not; why, as it was when it began to fail: what changes at each look would be news each time.
    Fails(String),
}

/// The results of one check.
#[derive(Debug)]
pub(super) struct Count {
    fall: u32,
    rise: u32,
    state: State,
    /// Results in a row that contradict the state.
    run: u32,
}

impl Count {
    /// Thresholds below 1 are 1.
    pub(super) fn new(fall: u32, rise: u32) -> Self {
        Self { fall: fall.max(1), rise: rise.max(1), state: State::Unknown, run: 0 }
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Counts a result; whether the state has changed. The first one decides alone: waiting for more would only keep a
    /// node that is fine from serving, or one that is not in service.
    pub(super) fn result(&mut self, result: Result<(), String>) -> bool {
        let (next, needed) = match (&self.state, result) {
            (State::Passes, Ok(())) | (State::Fails(_), Err(_)) => {
                self.run = 0;
                return false;
            }
            (State::Unknown, Ok(())) => (State::Passes, 1),
            (State::Unknown, Err(why)) => (State::Fails(why), 1),
            (State::Fails(_), Ok(())) => (State::Passes, self.rise),
            (State::Passes, Err(why)) => (State::Fails(why), self.fall),
        };
        self.run += 1;
        if self.run < needed {
            return false;
        }
        self.run = 0;
        self.state = next;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `results`: `+` passes, `-` fails; `states` after each of them: `P`, `F`.
    #[test]
    fn rise_and_fall() {
        let rows = [
            (2, 2, "+-+-+-", "PPPPPP"),
            (2, 2, "+--+-++", "PPFFFFP"),
            (2, 2, "-+-++-", "FFFFPP"),
            (1, 1, "-+-+", "FPFP"),
            (0, 0, "-+-+", "FPFP"),
            (3, 1, "+--+---+", "PPPPPPFP"),
            (1, 3, "++-++-+++", "PPFFFFFFP"),
        ];
        for (fall, rise, results, states) in rows {
            let mut count = Count::new(fall, rise);
            assert_eq!(*count.state(), State::Unknown);
            let mut before = State::Unknown;
            let mut seen = String::new();
            for (at, result) in results.chars().enumerate() {
                let changed = count.result(if result == '+' { Ok(()) } else { Err(format!("at {at}")) });
                assert_eq!(changed, *count.state() != before, "fall {fall}, rise {rise}, {results} at {at}");
                before = count.state().clone();
                seen.push(if before == State::Passes { 'P' } else { 'F' });
            }
            assert_eq!(seen, states, "fall {fall}, rise {rise}, {results}");
        }
    }

    #[test]
    fn the_reason_stays_while_it_fails() {
        let mut count = Count::new(1, 1);
        assert!(count.result(Err("no answer at 12:00".to_owned())));
        assert!(!count.result(Err("no answer at 12:01".to_owned())));
        assert_eq!(*count.state(), State::Fails("no answer at 12:00".to_owned()));
    }
}
