use coord::LeaseTiming;

use super::*;

fn service(text: &str) -> Service {
    let config = parse(text).unwrap_or_else(|errors| panic!("{errors}"));
    config.services.into_values().next().expect("one service")
}

fn errors(text: &str) -> String {
    parse(text).expect_err("must be refused").to_string()
}

/// What is said of one service with these lines besides a good address.
fn complaint(lines: &str) -> String {
    let text =
        format!("[service.a]\nvips = [{{ address = \"10.0.0.9/24\", interface = \"eth0\" }}]\n{lines}\n");
    parse(&text).err().map(|errors| errors.to_string()).unwrap_or_default()
}

#[test]
fn the_example_says_what_its_comments_say() {
    let text = include_str!("../../../../docs/examples/vips.toml");
    let config = parse(text).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(
        config.services.keys().map(ServiceName::as_str).collect::<Vec<_>>(),
        ["archive", "iscsi", "management", "nfs"]
    );
    let iscsi = &config.services[&"iscsi".parse().unwrap()];
    assert_eq!(iscsi.vips.len(), 2);
    assert_eq!(iscsi.checks[0], Check::new(Probe::Tcp("127.0.0.1:3260".to_owned())));
    assert_eq!(
        iscsi.checks[1].to_string(),
        "pool: script /usr/local/lib/check-pool --online every 2s within 1s, fall 3, rise 2"
    );
    assert!(!iscsi.failback && iscsi.enabled);
    assert!(!config.services[&"archive".parse().unwrap()].enabled);
    assert_eq!(check(&config, timing(4000, 2500)), Verdict::default(), "nothing to say about it at T = 4 s");
}

#[test]
fn what_is_left_out_has_a_default() {
    let least = service("[service.a]\nvips = [{ address = \"10.0.0.9/24\", interface = \"eth0\" }]");
    assert_eq!(least, Service::new(least.vips.clone()));
    assert_eq!(parse("").unwrap(), Config::default());
}

/// Both forms of a list of tables, and kinds with their own keys.
#[test]
fn checks_are_read_in_both_forms() {
    let vips = r#"vips = [{ address = "10.0.0.9/24", interface = "eth0" }]"#;
    let inline = service(&format!(
        "[service.a]\n{vips}\ncheck = [{{ script = [\"/bin/x\", \"\"], interval = \"2s\", fall = 1 }}, {{ carrier = \"eth1\" }}]"
    ));
    let long = service(&format!(
        "[service.a]\n{vips}\n[[service.a.check]]\nscript = [\"/bin/x\", \"\"]\ninterval = \"2s\"\nfall = 1\n[[service.a.check]]\ncarrier = \"eth1\""
    ));
    assert_eq!(inline.checks, long.checks);
    assert_eq!(inline.checks[0].probe, Probe::Script(vec!["/bin/x".to_owned(), String::new()]));
    assert_eq!(
        (inline.checks[0].interval, inline.checks[0].fall, inline.checks[0].rise),
        (Duration::from_secs(2), 1, 2)
    );
}

#[test]
fn every_problem_is_found_at_once() {
    insta::assert_snapshot!(errors(include_str!("tests/everything-wrong.toml")));
}

#[test]
fn broken_toml_is_said_with_its_lines() {
    insta::assert_snapshot!(errors("[service.a]\nvips = [\nenabled = true\n[service.b\nfailback = yes\n"));
}

/// An address is refused for a reason, and a good one is not.
#[test]
fn addresses() {
    let good = [
        "172.0.20.241/24",
        "10.0.0.0/31",
        "10.0.0.1/31",
        "10.255.255.254/8",
        "fd00::1/64",
        "2001:db8::/127",
        "fe80::5/64",
        // Single addresses.
        "172.0.20.241/32",
        "fd00::1/128",
    ];
    for text in good {
        let said = complaint(&format!("# {text}")).is_empty() && address::parse(text).is_ok();
        assert!(said, "{text}: {:?}", address::parse(text));
    }
    let bad = [
        "172.0.20.241",
        "fd00::1",
        "172.0.20.241/33",
        "iscsi",
        "172.0.20.0/24",
        "172.0.20.255/24",
        "224.0.0.18/24",
        "127.0.0.1/8",
        "0.0.0.0/8",
        "0.1.2.3/8",
        "250.1.2.3/8",
        "10.0.0.9/0",
        "127.0.0.1/32",
        "0.0.0.0/32",
        "fd00::/64",
        "ff02::1/64",
        "::1/64",
        "::/64",
        "::ffff:10.0.0.9/112",
    ];
    let said: Vec<_> = bad.iter().map(|text| address::parse(text).expect_err(text)).collect();
    insta::assert_snapshot!(said.join("\n"));
}

#[test]
fn bounds() {
    let many =
        |count: usize, line: &dyn Fn(usize) -> String| (0..count).map(line).collect::<Vec<_>>().join("\n");
    let one =
        |n: usize| format!("[service.s{n}]\nvips = [{{ address = \"10.0.{n}.9/24\", interface = \"e\" }}]");
    assert!(parse(&many(SERVICES_MAX, &one)).is_ok());
    assert!(errors(&many(SERVICES_MAX + 1, &one)).contains("service: has 65 services, but at most 64"));

    let vip = |n: usize| format!("{{ address = \"10.0.0.{}/24\", interface = \"e\" }},", n + 1);
    let with = |count: usize| format!("[service.a]\nvips = [\n{}\n]", many(count, &vip));
    assert!(parse(&with(ADDRESSES_MAX)).is_ok());
    assert!(errors(&with(ADDRESSES_MAX + 1)).contains("service.a.vips: has 33 entries, but at most 32"));

    let tcp = |n: usize| format!("{{ tcp = \"h:{}\" }},", n + 1);
    assert_eq!(complaint(&format!("check = [\n{}\n]", many(CHECKS_MAX, &tcp))), "");
    assert!(
        complaint(&format!("check = [\n{}\n]", many(CHECKS_MAX + 1, &tcp)))
            .contains("service.a.check: has 9 entries")
    );
    assert!(errors(&"#".repeat(TEXT_BYTES_MAX + 1)).contains("at most 262144"));
}

fn timing(timeout_ms: u64, margin_ms: u64) -> LeaseTiming {
    LeaseTiming::new(
        Duration::from_millis(timeout_ms),
        Duration::from_millis(margin_ms),
        Duration::from_secs(1),
    )
}

#[test]
fn what_does_not_fit_the_cluster() {
    let text = r#"
        [service.thin]
        vips = [{ address = "10.0.0.1/24", interface = "e" }]
        takeover_grace = "1s"
        [service.none]
        vips = [{ address = "10.0.0.2/24", interface = "e" }]
        takeover_grace = "849ms"
        failback = true
        spread = "alone"
        [service.odd]
        vips = [{ address = "10.0.0.3/24", interface = "e" }]
        failback = true
        check = [{ process = "x", interval = "1m", fall = 3 }]
    "#;
    let verdict = check(&parse(text).unwrap(), timing(4000, 2500));
    insta::assert_snapshot!(format!(
        "errors\n{}\nwarnings\n{}",
        verdict.errors.join("\n"),
        verdict.warnings.join("\n")
    ));
    // What it proposes is enough.
    let repaired = text.replace("849ms", "850ms");
    assert!(check(&parse(&repaired).unwrap(), timing(4000, 2500)).errors.is_empty());
}

#[test]
fn differences() {
    let old = r#"
        [service.gone]
        vips = [{ address = "10.0.1.1/24", interface = "e" }]
        [service.iscsi]
        vips = [
            { address = "10.0.0.1/24", interface = "storage" },
            { address = "10.0.0.2/24", interface = "storage" },
            { address = "10.0.0.3/24", interface = "storage" },
        ]
        preferred = ["n1", "n2"]
        check = [{ tcp = "h:1" }, { process = "x" }]
        [service.same]
        vips = [{ address = "10.0.2.1/24", interface = "e" }]
        hold_down = "90s"
    "#;
    let new = r#"
        [service.same]
        hold_down = "1m 30s"     # another way to say it
        vips = [{ interface = "e", address = "10.0.2.1/24" }]
        [service.iscsi]
        vips = [
            { address = "10.0.0.4/24", interface = "storage" },
            { address = "10.0.0.3/25", interface = "storage" },
            { address = "10.0.0.2/24", interface = "management" },
        ]
        preferred = ["n2"]
        labels = { site = "a" }
        failback = true
        spread = "g"
        hold_down = "1m"
        check = [{ tcp = "h:1" }, { process = "x", fall = 5 }]
        [service.fresh]
        vips = [{ address = "10.0.1.1/24", interface = "e" }]
        enabled = false
    "#;
    let (old, new) = (parse(old).unwrap(), parse(new).unwrap());
    let lines = |changes: Vec<Change>| changes.iter().map(Change::to_string).collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!(lines(diff(&old, &new)));
    assert_eq!(diff(&new, &new), []);
    let back: Vec<_> = diff(&new, &old).iter().map(|change| change.service.clone()).collect();
    assert!(!back.contains(&"same".parse().unwrap()) && back.contains(&"gone".parse().unwrap()));
}
