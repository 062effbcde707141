//! What a node's history says of the resources that it had.

use std::collections::BTreeMap;

/// The components in the order in which they have to end.
const ORDER: [&str; 6] = ["dispatcher", "runner", "vips", "quorum", "keeper", "listener"];

/// What was opened, and what became of each, by name and id.
#[derive(Debug, Default)]
pub(crate) struct Resources {
    /// In order: the deed (`open`, `close`, `abandon`), the resource's name, its id.
    deeds: Vec<(String, String, String)>,
    claimed: Vec<String>,
    dropped: Vec<String>,
    /// The connection was lost, so that the session may have been, too.
    lost: bool,
}

impl Resources {
    pub(crate) fn of(history: &[String]) -> Self {
        let mut found = Self::default();
        for line in history {
            let words: Vec<_> = line.split(' ').skip(1).collect();
            match words.as_slice() {
                [deed @ ("open" | "close" | "abandon"), name, id] => {
                    found.deeds.push(((*deed).to_owned(), (*name).to_owned(), (*id).to_owned()));
                }
                ["reached", "coord.lost"] => found.lost = true,
                ["claimed", epoch, ..] => found.claimed.push((*epoch).to_owned()),
                ["lease-dropped", epoch] => found.dropped.push((*epoch).to_owned()),
                _ => {}
            }
        }
        found
    }

    /// Those of this name that were opened.
    pub(crate) fn opened(&self, name: &str) -> usize {
        self.deeds.iter().filter(|(deed, of, _)| deed == "open" && of == name).count()
    }

    /// What is wrong, if anything: each was opened once and ended once, by a close, and the components in their order.
    /// A node that has not lost its session ends it after all that it fences.
    pub(crate) fn wrong(&self) -> Vec<String> {
        let mut wrong = self.unfinished(&["close"]);
        let last = |name: &str| self.deeds.iter().rposition(|(deed, of, _)| deed == "close" && of == name);
        let ends: Vec<_> = ORDER.into_iter().filter_map(|name| Some((last(name)?, name))).collect();
        if !ends.is_sorted() {
            wrong.push(format!("they ended out of order: {ends:?}"));
        }
        // Before the quorum runs, a session fences nothing; the one that it joined with is the last before that.
        let begun = self.deeds.iter().position(|(deed, of, _)| deed == "open" && of == "quorum");
        let before = begun.map_or(&[][..], |at| &self.deeds[..at]);
        let control = before.iter().rfind(|(deed, of, _)| deed == "open" && of == "session");
        let closed = control.and_then(|(.., control)| {
            self.deeds.iter().position(|(deed, of, id)| deed == "close" && of == "session" && id == control)
        });
        if !self.lost && closed.is_some_and(|closed| last("runner").is_some_and(|runner| closed < runner)) {
            wrong.push("the session was closed before the runner had ended".to_owned());
        }
        if self.claimed != self.dropped {
            wrong
                .push(format!("leases were begun for {:?} and dropped for {:?}", self.claimed, self.dropped));
        }
        wrong
    }

    /// What was not opened once and ended once, by one of these deeds.
    pub(crate) fn unfinished(&self, ends: &[&str]) -> Vec<String> {
        let mut state: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        for (deed, name, id) in &self.deeds {
            state.entry((name, id)).or_default().push(deed);
        }
        state
            .into_iter()
            .filter(|(_, deeds)| !matches!(deeds.as_slice(), ["open", end] if ends.contains(end)))
            .map(|((name, id), deeds)| format!("{name} {id}: {deeds:?}"))
            .collect()
    }
}

#[test]
fn what_is_wrong_is_noticed() {
    let wrong = |lines: &[&str]| {
        let history: Vec<_> = lines.iter().map(|line| format!("7 {line}")).collect();
        Resources::of(&history).wrong()
    };
    let right = ["open listener id=1", "open runner id=a", "open session id=s", "open quorum id=1"];
    let ends = ["close runner id=a", "close session id=s", "close quorum id=1", "close listener id=1"];
    assert_eq!(wrong(&[right, ends].concat()), Vec::<String>::new());
    let rows = [
        ("the session before the runner", [right, [ends[1], ends[0], ends[2], ends[3]]].concat()),
        ("the quorum before the runner", [right, [ends[2], ends[0], ends[1], ends[3]]].concat()),
        ("the listener is open", [&right[..], &ends[..3]].concat()),
        ("the listener is closed twice", [&right[..], &ends[..], &ends[3..]].concat()),
        ("the session is abandoned", vec!["open session id=s", "abandon session id=s"]),
        ("the lease is kept", vec!["claimed epoch=3 sent=1 valid_until=2"]),
    ];
    for (what, lines) in rows {
        assert_eq!(wrong(&lines).len(), 1, "{what}: {:?}", wrong(&lines));
    }
}
