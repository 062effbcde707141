use std::collections::BTreeSet;

use chrono::{Datelike, TimeZone, Timelike};
use proptest::prelude::*;

use super::*;

fn ms(at: &str) -> u64 {
    let at = DateTime::parse_from_rfc3339(at).expect("a time");
    at.timestamp_millis().try_into().expect("after 1970")
}

/// The ticks after `from`, as many as are expected.
fn check(expression: &str, zone: &str, from: &str, expected: &[&str]) {
    let ticks = Ticks::parse(expression, zone, ms(from)).expect("valid");
    let mut at = ms(from);
    for (index, tick) in expected.iter().enumerate() {
        at = ticks.next_after(at).expect("there is one");
        assert_eq!(rfc3339(at), rfc3339(ms(tick)), "tick {index} of {expression:?} in {zone} after {from}");
    }
}

#[test]
fn ticks() {
    // Exclusive, with and without seconds.
    check(
        "* * * * * *",
        "UTC",
        "2026-11-23T10:00:00.250Z",
        &["2026-11-23T10:00:01Z", "2026-11-23T10:00:02Z"],
    );
    check("30 3 * * *", "UTC", "2026-11-23T03:30:00Z", &["2026-11-24T03:30:00Z"]);
    check("@hourly", "UTC", "2026-11-23T23:00:00Z", &["2026-11-24T00:00:00Z", "2026-11-24T01:00:00Z"]);
    // Steps begin anew with each hour.
    let sevens = ["2026-11-23T10:49:00Z", "2026-11-23T10:56:00Z", "2026-11-23T11:00:00Z"];
    check("*/7 * * * *", "UTC", "2026-11-23T10:42:00Z", &sevens);
    // Names; a day of the month or a day of the week.
    check(
        "0 9 * JAN mon-wed",
        "UTC",
        "2026-11-23T10:00:00Z",
        &["2027-01-04T09:00:00Z", "2027-01-05T09:00:00Z"],
    );
    check("0 0 13 * FRI", "UTC", "2026-11-07T00:00:00Z", &["2026-11-13T00:00:00Z", "2026-11-20T00:00:00Z"]);
    // The end of months, and leap years.
    check(
        "0 0 31 * *",
        "UTC",
        "2026-11-23T00:00:00Z",
        &["2026-12-31T00:00:00Z", "2027-01-31T00:00:00Z", "2027-03-31T00:00:00Z"],
    );
    check("0 0 L * *", "UTC", "2027-01-31T00:00:00Z", &["2027-02-28T00:00:00Z", "2027-03-31T00:00:00Z"]);
    check("0 0 29 2 *", "UTC", "2026-11-23T00:00:00Z", &["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"]);
    // A zone with half an hour.
    check("0 9 * * *", "Asia/Kolkata", "2026-11-23T00:00:00Z", &["2026-11-23T03:30:00Z"]);
}

#[test]
fn daylight_saving() {
    let (vilnius, york) = ("Europe/Vilnius", "America/New_York");
    // 03:00 to 04:00 on 2026-03-29 does not exist in Vilnius.
    let gap = ["2026-03-28T03:30:00+02:00", "2026-03-29T04:00:00+03:00", "2026-03-30T03:30:00+03:00"];
    check("30 3 * * *", vilnius, "2026-03-27T12:00:00Z", &gap);
    // What would come at that instant anyway comes once.
    let both = ["2026-03-29T04:00:00+03:00", "2026-03-30T03:00:00+03:00", "2026-03-30T04:00:00+03:00"];
    check("0 3,4 * * *", vilnius, "2026-03-28T04:00:00+02:00", &both);
    // Steps have nothing to make good.
    let steps = ["2026-03-29T02:30:00+02:00", "2026-03-29T04:00:00+03:00", "2026-03-29T04:30:00+03:00"];
    check("*/30 * * * *", vilnius, "2026-03-29T02:00:00+02:00", &steps);
    // 01:00 to 02:00 on 2026-11-01 exists twice in New York.
    let fold = ["2026-10-31T01:30:00-04:00", "2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"];
    check("30 1 * * *", york, "2026-10-30T12:00:00Z", &fold);
    let steps = [
        "2026-11-01T01:30:00-04:00",
        "2026-11-01T01:00:00-05:00",
        "2026-11-01T01:30:00-05:00",
        "2026-11-01T02:00:00-05:00",
    ];
    check("*/30 * * * *", york, "2026-11-01T01:00:00-04:00", &steps);
    // Asked from within the second hour.
    check("30 1 * * *", york, "2026-11-01T01:10:00-05:00", &["2026-11-02T01:30:00-05:00"]);
    // A change of half an hour.
    check("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", &["2026-10-04T02:30:00+11:00"]);
}

#[test]
fn what_makes_no_sense_says_what_to_do() {
    let said =
        |expression: &str, zone: &str| Ticks::parse(expression, zone, 0).expect_err("refused").to_string();
    for expression in
        ["", "* * * *", "61 * * * *", "* * * * * * *", "@reboot", "x @daily", "a b c d e", &"1,".repeat(200)]
    {
        let said = said(expression, "UTC");
        assert!(said.contains("no cron expression") && said.contains("for example"), "{said}");
    }
    assert!(said("* * * * *", "Mars/Base").contains("Europe/Vilnius"));
    assert!(said("0 0 30 2 *", "UTC").contains("never comes"));
}

#[test]
fn the_newest_of_many_is_found() {
    let seconds = Ticks::parse("* * 3 * * *", "UTC", 0).expect("valid");
    let (from, to) = (ms("2020-01-01T00:00:00Z"), ms("2026-11-23T12:00:00Z"));
    assert_eq!(seconds.newest_between(from, to).map(rfc3339), Some("2026-11-23T03:59:59Z".to_owned()));
    let tick = ms("2026-11-23T03:00:07Z");
    assert_eq!(seconds.newest_between(from, tick), Some(tick - 1_000));
    assert_eq!(seconds.newest_between(tick - 1_000, tick), None);
}

/// Some values of a field, or all of them.
fn field(first: u32, last: u32) -> impl Strategy<Value = (String, BTreeSet<u32>)> {
    let all = ("*".to_owned(), (first..=last).collect());
    let some = prop::collection::btree_set(first..=last, 1..5).prop_map(|set| {
        let list: Vec<_> = set.iter().map(ToString::to_string).collect();
        (list.join(","), set)
    });
    prop_oneof![Just(all), some]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Against a walk over every minute. Where clocks change, the table above decides.
    #[test]
    fn nothing_matches_between_two_ticks(
        (minute, minutes) in field(0, 59),
        (hour, hours) in field(0, 23),
        (day, days) in field(1, 31),
        (weekday, weekdays) in field(0, 6),
        zone in prop_oneof![Just("UTC"), Just("Asia/Kolkata"), Just("America/New_York")],
        start in 0_u64..90 * 24 * 60,
    ) {
        let expression = format!("{minute} {hour} {day} * {weekday}");
        // From June on nothing changes for three months.
        let from = ms("2026-06-01T00:00:00Z") + start * 60_000;
        let ticks = Ticks::parse(&expression, zone, from).expect("valid");
        let tz: Tz = zone.parse().expect("a zone");
        let is_tick = |at: u64| {
            let local = tz.timestamp_millis_opt(at as i64).single().expect("one instant");
            let (by_day, by_weekday) = (days.contains(&local.day()), weekdays.contains(&local.weekday().num_days_from_sunday()));
            // As cron has it: where both are restricted, either will do.
            let date = if day != "*" && weekday != "*" { by_day || by_weekday } else { by_day && by_weekday };
            date && hours.contains(&local.hour()) && minutes.contains(&local.minute())
        };
        let mut expected = (1..=4 * 24 * 60_u64).map(|minute| from + minute * 60_000).filter(|at| is_tick(*at));
        let mut at = from;
        let until = from + 4 * 24 * 3_600_000;
        while let Some(next) = ticks.next_after(at).filter(|next| *next <= until) {
            prop_assert!(next > at);
            prop_assert_eq!(Some(next), expected.next());
            at = next;
        }
        prop_assert_eq!(expected.next(), None);
    }

    /// Also where clocks change: ticks strictly increase, and whoever asks from anywhere between two gets the same.
    #[test]
    fn ticks_do_not_depend_on_who_asks(
        (minute, _) in field(0, 59),
        (hour, _) in field(0, 5),
        zone in prop_oneof![Just("Europe/Vilnius"), Just("America/New_York"), Just("Australia/Lord_Howe")],
        start in 0_u64..365 * 24 * 60,
        part in 0.0..1.0_f64,
    ) {
        let ticks = Ticks::parse(&format!("{minute} {hour} * * *"), zone, 0).expect("valid");
        let mut at = ms("2026-01-01T00:00:00Z") + start * 60_000;
        for _ in 0..50 {
            let next = ticks.next_after(at).expect("there is one");
            prop_assert!(next > at);
            let between = at + ((next - at) as f64 * part) as u64;
            prop_assert_eq!(ticks.next_after(between.min(next - 1)), Some(next));
            at = next;
        }
    }
}
