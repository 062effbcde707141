//! Histories written by hand, a nanosecond to either side of every rule; generated ones are in `generated`.

mod generated;

use std::time::Duration;

use clock::Instant;

use super::*;

/// A lease lasts for 80 ns from its sending.
const TIMING: Timing = Timing {
    timeout: Duration::from_nanos(100),
    margin: Duration::from_nanos(20),
    tick: Duration::from_nanos(10),
};

/// A life of lines that are separated by `;`.
fn life(node: &str, end: End, lines: &str) -> Life {
    let text = lines.split(';').map(|line| format!("{}\n", line.trim())).collect::<String>();
    Life::new(node, if lines.is_empty() { String::new() } else { text }, end)
}

/// Lives of n1 and n2 that still run.
fn report(n1: &str, n2: &str) -> Report {
    check(&[life("n1", End::Running, n1), life("n2", End::Running, n2)], TIMING)
}

fn broken(report: &Report) -> Vec<Rule> {
    let mut rules: Vec<_> = report.violations.iter().map(|violation| violation.rule).collect();
    rules.sort_unstable();
    rules.dedup();
    rules
}

/// n1 and n2 write these down; exactly these rules are broken.
type Row<'a> = (&'a str, &'a str, &'a str, &'a [Rule]);

#[test]
fn leadership_to_the_nanosecond() {
    use Rule::*;
    let claimed = "10 claimed epoch=1 sent=5 valid_until=85";
    let rows: &[Row<'_>] = &[
        (
            "the last effect inside the lease",
            "10 claimed epoch=1 sent=5 valid_until=85; 84 effect epoch=1 kind=ack",
            "",
            &[],
        ),
        (
            "the first outside",
            "10 claimed epoch=1 sent=5 valid_until=85; 85 effect epoch=1 kind=ack",
            "",
            &[OutsideLease],
        ),
        (
            "the probe was known of",
            "10 claimed epoch=1 sent=5 valid_until=85; 90 probe epoch=1 sent=60 valid_until=140; 90 effect epoch=1 kind=ack",
            "",
            &[],
        ),
        (
            "the probe was not known of yet",
            "10 claimed epoch=1 sent=5 valid_until=85; 91 probe epoch=1 sent=60 valid_until=140; 90 effect epoch=1 kind=ack",
            "",
            &[OutsideLease],
        ),
        (
            "an older probe that is answered later shortens nothing",
            "10 claimed epoch=1 sent=5 valid_until=85; 60 probe epoch=1 sent=50 valid_until=130; 70 probe epoch=1 sent=20 valid_until=100; 129 effect epoch=1 kind=ack",
            "",
            &[],
        ),
        (
            "another epoch's probe proves nothing",
            "10 claimed epoch=1 sent=5 valid_until=85; 60 probe epoch=3 sent=60 valid_until=140; 90 effect epoch=1 kind=ack",
            "",
            &[OutsideLease],
        ),
        ("an honest lease", "10 claimed epoch=1 sent=10 valid_until=90", "", &[]),
        (
            "a lease that is a bit too long",
            "10 claimed epoch=1 sent=10 valid_until=91",
            "",
            &[LeaseArithmetic],
        ),
        ("a probe from the future", "10 claimed epoch=1 sent=11 valid_until=91", "", &[LeaseArithmetic]),
        (
            "with the drop",
            &format!("{claimed}; 50 lease-dropped epoch=1; 50 effect epoch=1 kind=start"),
            "",
            &[],
        ),
        (
            "after the drop",
            &format!("{claimed}; 50 lease-dropped epoch=1; 51 effect epoch=1 kind=start"),
            "",
            &[AfterDrop],
        ),
        (
            "a later drop is none",
            &format!(
                "{claimed}; 50 lease-dropped epoch=1; 60 lease-dropped epoch=1; 51 effect epoch=1 kind=start"
            ),
            "",
            &[AfterDrop],
        ),
        (
            "released with the last effect",
            &format!("{claimed}; 60 lease-dropped epoch=1; 60 effect epoch=1 kind=ack; 60 released epoch=1"),
            "",
            &[],
        ),
        (
            "released before the last effect",
            &format!("{claimed}; 60 effect epoch=1 kind=ack; 59 lease-dropped epoch=1; 59 released epoch=1"),
            "",
            &[AfterDrop, EarlyRelease],
        ),
        ("released when the lease had ended", &format!("{claimed}; 85 released epoch=1"), "", &[]),
        ("released inside the lease", &format!("{claimed}; 84 released epoch=1"), "", &[EarlyRelease]),
        (
            "released before the lease was dropped",
            &format!("{claimed}; 83 released epoch=1; 84 lease-dropped epoch=1"),
            "",
            &[EarlyRelease],
        ),
        ("from the claim on", &format!("{claimed}; 10 effect epoch=1 kind=commit"), "", &[]),
        ("before the claim", &format!("{claimed}; 9 effect epoch=1 kind=commit"), "", &[Unclaimed]),
        ("without a claim", "9 effect epoch=1 kind=commit", "", &[Unclaimed]),
        (
            "a probe is no claim",
            "8 probe epoch=1 sent=5 valid_until=85; 9 effect epoch=1 kind=commit",
            "",
            &[Unclaimed],
        ),
        ("by another's claim", claimed, "20 effect epoch=1 kind=commit", &[Unclaimed]),
        (
            "an epoch each",
            claimed,
            "85 claimed epoch=2 sent=80 valid_until=160; 90 leader node=n2 epoch=2; 90 leader node=n1 epoch=1",
            &[],
        ),
        ("an epoch for two", claimed, "85 claimed epoch=1 sent=80 valid_until=160", &[OneOwner]),
        (
            "an epoch twice",
            &format!("{claimed}; 90 claimed epoch=1 sent=85 valid_until=165"),
            "",
            &[OneOwner],
        ),
        ("another is taken for the leader", claimed, "20 leader node=n2 epoch=1", &[OneOwner]),
        ("nobody knows of the claim of one who was killed", "", "20 leader node=n1 epoch=1", &[]),
        (
            "a claim that went with a higher one",
            "100 claimed epoch=1 sent=100 valid_until=180; 100 lease-dropped epoch=1",
            "100 claimed epoch=2 sent=95 valid_until=175",
            &[],
        ),
        (
            "a claim that was sent after a higher one",
            "101 claimed epoch=1 sent=101 valid_until=181; 101 lease-dropped epoch=1",
            "100 claimed epoch=2 sent=95 valid_until=175",
            &[EpochOrder],
        ),
        ("claimed when the lease had ended", claimed, "85 claimed epoch=2 sent=80 valid_until=160", &[]),
        (
            "claimed inside the lease of another",
            claimed,
            "84 claimed epoch=2 sent=80 valid_until=160",
            &[TwoEntitled],
        ),
        (
            "claimed when the lease was dropped",
            &format!("{claimed}; 50 lease-dropped epoch=1"),
            "50 claimed epoch=2 sent=45 valid_until=125",
            &[],
        ),
        (
            "claimed before the lease was dropped",
            &format!("{claimed}; 51 lease-dropped epoch=1"),
            "50 claimed epoch=2 sent=45 valid_until=125",
            &[TwoEntitled],
        ),
        (
            "a probe is answered after another's claim and is worth nothing any more",
            &format!("{claimed}; 90 probe epoch=1 sent=10 valid_until=90"),
            "85 claimed epoch=2 sent=80 valid_until=160",
            &[],
        ),
        (
            "a probe is answered after another's claim",
            &format!("{claimed}; 90 probe epoch=1 sent=11 valid_until=91"),
            "85 claimed epoch=2 sent=80 valid_until=160",
            &[TwoEntitled],
        ),
        // The other rules have to fail first: that this one sees it by itself is what the rows are about.
        (
            "effects one after the other",
            &format!("{claimed}; 50 lease-dropped epoch=1; 60 effect epoch=1 kind=ack"),
            "55 claimed epoch=2 sent=51 valid_until=131; 61 effect epoch=2 kind=ack",
            &[AfterDrop],
        ),
        (
            "effects at a time",
            &format!("{claimed}; 50 lease-dropped epoch=1; 60 effect epoch=1 kind=ack"),
            "55 claimed epoch=2 sent=51 valid_until=131; 60 effect epoch=2 kind=ack",
            &[AfterDrop, Overlap],
        ),
        (
            "effects beside those of any higher epoch",
            &format!("{claimed}; 50 lease-dropped epoch=1; 60 effect epoch=1 kind=ack"),
            "55 claimed epoch=3 sent=51 valid_until=131; 60 effect epoch=3 kind=ack; 140 claimed epoch=4 sent=136 valid_until=216; 150 effect epoch=4 kind=ack",
            &[AfterDrop, Overlap],
        ),
    ];
    for (what, n1, n2, expected) in rows {
        // It is heard of later, too.
        let report = report(format!("900 role Follower; {n1}").trim_end_matches("; "), n2);
        assert_eq!(broken(&report), *expected, "{what}: {report}");
    }
}

#[test]
fn resources_and_stops_to_the_nanosecond() {
    use Rule::*;
    let rows: &[(&str, End, &str, &[Rule])] = &[
        (
            "opened and closed",
            End::Stopped,
            "1 open session id=a; 2 open session id=b; 3 close session id=b; 3 close session id=a",
            &[],
        ),
        ("closed at once", End::Stopped, "1 open session id=a; 1 close session id=a", &[]),
        (
            "closed before it was opened",
            End::Stopped,
            "2 open session id=a; 1 close session id=a",
            &[ClosedOnce],
        ),
        (
            "closed twice",
            End::Killed,
            "1 open session id=a; 2 close session id=a; 2 close session id=a",
            &[ClosedOnce],
        ),
        (
            "opened twice",
            End::Killed,
            "1 open session id=a; 2 close session id=a; 3 open session id=a",
            &[ClosedOnce],
        ),
        ("closed, never opened", End::Killed, "2 close session id=a", &[ClosedOnce]),
        ("another's close", End::Killed, "1 open session id=a; 2 close lease id=a", &[ClosedOnce]),
        ("abandoned", End::Stopped, "1 open session id=a; 2 abandon session id=a", &[]),
        (
            "closed, though abandoned",
            End::Stopped,
            "1 open session id=a; 2 abandon session id=a; 2 close session id=a",
            &[ClosedOnce],
        ),
        (
            "left when its effects had ended",
            End::Stopped,
            "1 open dispatcher id=3; 2 close dispatcher id=3; 2 leaving session=0x1",
            &[],
        ),
        (
            "left before its effects had ended",
            End::Stopped,
            "1 open dispatcher id=3; 2 leaving session=0x1; 3 close dispatcher id=3",
            &[LeftWithEffects],
        ),
        (
            "left without knowing",
            End::GaveUp,
            "1 open dispatcher id=3; 2 leaving session=0x1",
            &[LeftWithEffects],
        ),
        ("left open by one who stopped", End::Stopped, "1 open session id=a", &[ClosedOnce]),
        ("left open by one who was killed", End::Killed, "1 open session id=a", &[]),
        ("left open by one who gave up", End::GaveUp, "1 open session id=a", &[]),
        ("open, as the node runs", End::Running, "1 open session id=a", &[]),
        ("stopped in time", End::Stopped, "7 stop; 5000000007 stopped", &[]),
        ("stopped late", End::Stopped, "7 stop; 5000000008 stopped", &[SlowStop]),
        (
            "orders of the same and higher epochs",
            End::Running,
            "1 accept epoch=1; 2 accept epoch=1; 3 accept epoch=3",
            &[],
        ),
        (
            "orders of a lower epoch",
            End::Running,
            "1 accept epoch=3; 2 accept epoch=3; 3 accept epoch=2",
            &[StaleAccepted],
        ),
        (
            "a thread overtook another on its way to the file",
            End::Running,
            "11 accept epoch=2; 10 accept epoch=1",
            &[],
        ),
    ];
    for (what, end, lines, expected) in rows {
        let report = check(&[life("n1", *end, lines)], TIMING);
        assert_eq!(broken(&report), *expected, "{what}: {report}");
    }
}

#[test]
fn a_restarted_runner_knows_what_it_had_accepted() {
    let lives = |second: &str| {
        // In whatever order they are read.
        [
            life("n1", End::Running, second),
            life("n1", End::Killed, "1 accept epoch=4"),
            life("n2", End::Running, "9 accept epoch=1"),
        ]
    };
    assert_eq!(broken(&check(&lives("5 accept epoch=4"), TIMING)), []);
    assert_eq!(broken(&check(&lives("5 accept epoch=3"), TIMING)), [Rule::StaleAccepted]);
}

#[test]
fn only_the_last_line_of_one_who_was_killed_may_be_torn() {
    let rows = [
        ("1 stop\n2 rea", End::Killed, ""),
        ("1 stop\n2 effect epoch=1 kind=ack", End::Killed, ""),
        ("1 stop\n2 rea", End::GaveUp, ""),
        ("1 stop\n2 rea", End::Running, ""),
        ("1 stop\n2 rea", End::Stopped, "line 2, \"2 rea\", has no end"),
        ("1 stop\n2 rea\n", End::Killed, "line 2, \"2 rea\", is of an unknown kind"),
        ("1 stop\n2 rea3 stopped\n", End::Killed, "unknown kind"),
        ("stop\n", End::Killed, "does not begin with an instant"),
        ("\n", End::Killed, "does not begin with an instant"),
        ("-1 stop\n", End::Killed, "does not begin with an instant"),
        ("1 probe epoch=1 sent=x valid_until=3\n", End::Killed, "has no sent"),
        ("1 claimed sent=1 valid_until=3\n", End::Killed, "has no epoch"),
        ("1 effect epoch=1\n", End::Killed, "has no kind"),
        ("1 open id=3\n", End::Killed, "has no name"),
        ("1 close session\n", End::Killed, "has no id"),
        ("1 role Follower\n2 reached runner.boot\n", End::Stopped, ""),
    ];
    for (text, end, expected) in rows {
        let report = check(&[Life::new("n1", text, end)], TIMING);
        match &report.violations[..] {
            [] => assert_eq!(expected, "", "{text:?}"),
            [found] => assert!(
                !expected.is_empty() && found.rule == Rule::Malformed && found.text.contains(expected),
                "{text:?}: {found}"
            ),
            more => panic!("{text:?}: {more:?}"),
        }
    }
    // What was torn off does not count.
    assert_eq!(check(&[Life::new("n1", "2 effect epoch=1 kind=ack", End::Killed)], TIMING).effects, 0);
}

#[test]
fn texts_say_who_when_and_what_it_means() {
    let seconds = Timing {
        timeout: Duration::from_secs(2),
        margin: Duration::from_millis(600),
        tick: Duration::from_millis(500),
    };
    let n1 = "10000000000 claimed epoch=4 sent=9000000000 valid_until=10400000000; \
              10400000001 effect epoch=4 kind=commit; 10500000000 effect epoch=4 kind=ack; \
              11000000000 effect epoch=4 kind=ack";
    let n2 = "10450000000 claimed epoch=5 sent=10440000000 valid_until=11840000000; \
              10600000000 effect epoch=5 kind=commit";
    let lives = [life("n1", End::Running, n1), life("n2", End::Running, n2)];
    let texts: Vec<_> = check(&lives, seconds).violations.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "OutsideLease: n1 had the effect commit of epoch 4 at 10.400000001 s, 1ns after its lease had ended at \
             10.400000000 s (sent at 9.000000000 s + T 2s − margin 600ms): another node may have led by then \
             (and 2 more like it, the last at 11.000000000 s)",
            "Overlap: n1 had an effect (ack) of epoch 4 at 11.000000000 s, 400ms after the first of epoch 5 by n2 at \
             10.600000000 s: two led at a time",
        ]
    );
}

#[test]
fn gaps_are_when_nobody_who_serves_holds_a_lease() {
    let n1 = "10 claimed epoch=1 sent=5 valid_until=85; 20 effect epoch=1 kind=commit; \
              60 probe epoch=1 sent=50 valid_until=130; 150 probe epoch=1 sent=145 valid_until=225; \
              160 effect epoch=1 kind=ack; 200 lease-dropped epoch=1; 210 released epoch=1; 900 role Follower";
    let n2 = "220 claimed epoch=2 sent=215 valid_until=295; 250 effect epoch=2 kind=commit";
    let report = report(n1, n2);
    assert_eq!(broken(&report), [], "{report}");
    let gaps: Vec<_> =
        report.gaps.iter().map(|gap| (gap.after, gap.before, gap.from_ns, gap.to_ns)).collect();
    // Claimed is not serving; and a lease that lapses and comes back leaves a gap within its epoch.
    assert_eq!(gaps, [(1, Some(1), 130, 150), (1, Some(2), 200, 250), (2, None, 295, 900)]);
    assert_eq!(report.longest_gap().map(|gap| gap.length()), Some(Duration::from_nanos(50)));
    let after = |ns| report.served_after(Instant::from_nanos(ns)).map(|time| time.as_nanos());
    assert_eq!((after(20), after(21), after(251)), (Some(0), Some(139), None));
    let next = report.succeeded_after(Instant::from_nanos(21), 1).map(|time| time.as_nanos());
    assert_eq!((next, report.succeeded_after(Instant::from_nanos(21), 2)), (Some(229), None));
    assert_eq!((report.effects, report.epochs, report.kinds.get("commit")), (3, 2, Some(&2)));
    let served: Vec<_> = report.terms.iter().map(|term| (&term.node[..], term.effects)).collect();
    assert_eq!(served, [("n1", 2), ("n2", 1)]);
}

#[test]
fn a_killed_leader_leads_no_longer() {
    let n1 = "10 claimed epoch=1 sent=5 valid_until=85; 20 effect epoch=1 kind=commit";
    // Its successor takes over early, since the node came back and removed what it had left behind.
    let n2 = "40 claimed epoch=2 sent=35 valid_until=115; 41 effect epoch=2 kind=commit";
    let later = format!("{n1}; 42 role Leader");
    let rows = [
        (End::Killed, n1, &[][..], 1),
        // Its file may have been read before it gave up.
        (End::Running, n1, &[], 0),
        (End::Running, &later, &[Rule::TwoEntitled], 0),
    ];
    for (end, n1, expected, gaps) in rows {
        let report = check(&[life("n1", end, n1), life("n2", End::Running, n2)], TIMING);
        assert_eq!((broken(&report), report.gaps.len()), (expected.to_vec(), gaps), "{report}");
    }
}
