//! What goes wrong again and again is said once, and then now and then.

use std::time::Duration;

use tokio::time::Instant;

/// Between two times that the same is said.
const AGAIN: Duration = Duration::from_secs(10);

/// The last complaint.
#[derive(Debug, Default)]
pub(super) struct Quiet(Option<(String, Instant)>);

impl Quiet {
    /// Whether this is to be said now: it is something else than last time, or that was a while ago.
    pub(super) fn admits(&mut self, what: &str, now: Instant) -> bool {
        if self.0.as_ref().is_some_and(|(last, at)| last == what && now < *at + AGAIN) {
            return false;
        }
        self.0 = Some((what.to_owned(), now));
        true
    }

    /// It works again: the next complaint is news.
    pub(super) fn over(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_every_ten_seconds_and_something_else_at_once() {
        let (mut quiet, start) = (Quiet::default(), Instant::now());
        let rows = [
            (0, "a", true),
            (500, "a", false),
            (9_999, "a", false),
            (10_000, "a", true),
            (10_500, "b", true),
            (11_000, "b", false),
        ];
        for (ms, what, said) in rows {
            assert_eq!(quiet.admits(what, start + Duration::from_millis(ms)), said, "{what} after {ms} ms");
        }
        quiet.over();
        assert!(quiet.admits("b", start + Duration::from_millis(11_500)));
    }
}
