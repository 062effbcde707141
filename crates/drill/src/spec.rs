//! The text of a specification.

use std::time::Duration;

use crate::{Bug, SpecError};

/// What happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// The thread blocks for ever.
    Wedge,
    /// The thread blocks for a while.
    Block(Duration),
    /// The future waits, for ever without a time.
    Hold(Option<Duration>),
}

/// One item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Plant(Bug),
    At { point: String, nth: u64, deed: Deed },
    Stop { component: String, nth: u64 },
}

pub(crate) fn parse(spec: &str) -> Result<Vec<Item>, SpecError> {
    spec.split(';').map(str::trim).filter(|item| !item.is_empty()).map(item).collect()
}

fn item(text: &str) -> Result<Item, SpecError> {
    let wrong = |why: &str| SpecError::Item { item: text.to_owned(), why: why.to_owned() };
    let (verb, rest) = text.split_once(':').ok_or_else(|| wrong("it has no \":\""))?;
    if verb == "plant" {
        let bug = Bug::ALL.into_iter().find(|bug| bug.name() == rest);
        let names = || Bug::ALL.map(Bug::name).join(", ");
        return bug.map(Item::Plant).ok_or_else(|| wrong(&format!("the bugs are {}", names())));
    }
    let (place, time) = match rest.split_once('=') {
        Some((place, time)) => {
            (place, Some(duration(time).ok_or_else(|| wrong("a time is like 200ms or 3s"))?))
        }
        None => (rest, None),
    };
    let (place, nth) = match place.split_once('@') {
        Some((place, nth)) => (place, nth.parse().map_err(|_| wrong("@ wants a count"))?),
        None => (place, 1),
    };
    if nth == 0 || place.is_empty() {
        return Err(wrong("counts begin at 1, and a place has a name"));
    }
    let at = |deed| Item::At { point: place.to_owned(), nth, deed };
    match (verb, time) {
        ("wedge", None) => Ok(at(Deed::Wedge)),
        ("block", Some(time)) => Ok(at(Deed::Block(time))),
        ("hold", time) => Ok(at(Deed::Hold(time))),
        ("stop", None) => Ok(Item::Stop { component: place.to_owned(), nth }),
        ("wedge" | "stop", Some(_)) => Err(wrong("it takes no time")),
        ("block", None) => Err(wrong("it wants a time: block:POINT=3s")),
        _ => Err(wrong("it is none of plant, wedge, block, hold, stop")),
    }
}

fn duration(text: &str) -> Option<Duration> {
    if let Some(millis) = text.strip_suffix("ms") {
        return millis.parse().ok().map(Duration::from_millis);
    }
    text.strip_suffix('s')?.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        let at = |point: &str, nth, deed| Item::At { point: point.to_owned(), nth, deed };
        let rows = [
            ("", vec![]),
            (" ; ", vec![]),
            ("plant:no-lease", vec![Item::Plant(Bug::NoLease)]),
            ("wedge:runner.run", vec![at("runner.run", 1, Deed::Wedge)]),
            (
                "block:a=3s ; hold:b@2=40ms",
                vec![
                    at("a", 1, Deed::Block(Duration::from_secs(3))),
                    at("b", 2, Deed::Hold(Some(Duration::from_millis(40)))),
                ],
            ),
            ("hold:a", vec![at("a", 1, Deed::Hold(None))]),
            ("stop:quorum@17", vec![Item::Stop { component: "quorum".to_owned(), nth: 17 }]),
        ];
        for (spec, items) in rows {
            assert_eq!(parse(spec), Ok(items), "{spec}");
        }
        for wrong in [
            "x",
            "plant:nothing",
            "wedge:a=1s",
            "block:a",
            "hold:a=5",
            "stop:a@0",
            "stop:a@x",
            "run:a",
            "hold:",
        ] {
            assert!(matches!(parse(wrong), Err(SpecError::Item { .. })), "{wrong}");
        }
    }

    #[test]
    fn every_bug_can_be_named() {
        for bug in Bug::ALL {
            assert_eq!(parse(&format!("plant:{}", bug.name())), Ok(vec![Item::Plant(bug)]));
        }
    }
}
