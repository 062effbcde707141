//! The text, key by key.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use proto::NodeId;
use proto::vip::ServiceName;
use toml::de::DeTable;

use super::reader::{ConfigErrors, Field, Problems, Section};
use super::{
    ADDRESSES_MAX, CHECKS_MAX, Check, Config, Probe, SERVICES_MAX, Service, TEXT_BYTES_MAX, Vip, address,
};
use crate::store::GRACE_MAX;

const NAMES_MAX: usize = 64;
const TEXT_CHARS_MAX: usize = 256;
const ARGUMENTS_MAX: usize = 64;

const MS_100: Duration = Duration::from_millis(100);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Reads the text of a cluster's configuration.
///
/// # Errors
/// Everything that is wrong with it, in its order, each with line, key and what to do.
pub fn parse(text: &str) -> Result<Config, ConfigErrors> {
    let mut problems = Problems::of(text);
    if text.len() > TEXT_BYTES_MAX {
        problems.add(
            &(0..0),
            "",
            format!("the text has {} bytes, but at most {TEXT_BYTES_MAX} are allowed", text.len()),
        );
        return problems.into_errors().map_or_else(|| Ok(Config::default()), Err);
    }
    let (table, broken) = DeTable::parse_recoverable(text);
    let mut lines = BTreeSet::new();
    for error in &broken {
        let span = error.span().unwrap_or(0..0);
        // What follows on a line is mostly the echo of its first.
        if lines.insert(problems.line(&span)) {
            problems.add(&span, "", format!("is no TOML: {}", error.message()));
        }
    }
    let mut config = Config::default();
    if broken.is_empty() {
        let mut seen = BTreeMap::new();
        let mut root = Section::root(&table);
        if let Some(field) = root.take("service") {
            services(&field, &mut config, &mut seen, &mut problems);
        }
        root.end(&mut problems);
    }
    problems.into_errors().map_or(Ok(config), Err)
}

/// Where each address was seen first.
type Seen = BTreeMap<IpAddr, String>;

fn services(field: &Field<'_, '_>, config: &mut Config, seen: &mut Seen, problems: &mut Problems<'_>) {
    let Some(section) = field.table(problems, "tables as [service.NAME]") else { return };
    let mut entries = section.entries();
    // As they stand in the text, so that of two that have the same address the later one is at fault.
    entries.sort_by_key(|(_, span, _)| span.start);
    if entries.len() > SERVICES_MAX {
        let count = entries.len();
        field.refuse(problems, format!("has {count} services, but at most {SERVICES_MAX} are allowed"));
    }
    for (name, span, field) in entries.into_iter().take(SERVICES_MAX) {
        let name = name
            .parse::<ServiceName>()
            .map_err(|error| problems.add(&span, field.key.clone(), error.to_string()));
        let table = field.table(problems, "a table as [service.NAME]");
        if let Some(service) = table.map(|section| service(section, &span, seen, problems))
            && let Ok(name) = name
        {
            config.services.insert(name, service);
        }
    }
}

fn service(
    mut section: Section<'_, '_>,
    name_span: &std::ops::Range<usize>,
    seen: &mut Seen,
    problems: &mut Problems<'_>,
) -> Service {
    const EXAMPLE: &str = r#"vips = [{ address = "172.0.20.241/24", interface = "storage" }]"#;
    let mut service = Service::new(Vec::new());
    match section.take("vips") {
        None => {
            problems.add(name_span, format!("{}.vips", section.key), format!("is missing: write {EXAMPLE}"))
        }
        Some(field) => {
            let list = field.list(problems, ADDRESSES_MAX, EXAMPLE);
            if list.is_empty() && field.value.get_ref().is_array() {
                field.refuse(
                    problems,
                    format!("is empty, but a service has at least one address: write {EXAMPLE}"),
                );
            }
            service.vips = list.iter().filter_map(|field| vip(field, seen, problems)).collect();
        }
    }
    service.enabled = section.flag(problems, "enabled", service.enabled);
    if let Some(field) = section.take("preferred") {
        service.preferred = preferred(&field, problems);
    }
    if let Some(field) = section.take("labels") {
        service.labels = labels(&field, problems);
    }
    service.failback = section.flag(problems, "failback", service.failback);
    service.spread = section.take("spread").and_then(|field| short(&field, problems, "the name of a group"));
    service.hold_down = section.duration(problems, "hold_down", service.hold_down, Duration::ZERO..=DAY);
    service.takeover_grace =
        section.duration(problems, "takeover_grace", service.takeover_grace, Duration::ZERO..=GRACE_MAX);
    if let Some(field) = section.take("check") {
        let list =
            field.list(problems, CHECKS_MAX, r#"check = [{ script = ["/path/of/it"], interval = "2s" }]"#);
        service.checks = list.iter().filter_map(|field| check(field, problems)).collect();
        for (n, field) in list.iter().enumerate() {
            let title = service.checks.get(n).map(Check::title);
            // A check that was refused shifts the others; then there is something to repair anyway.
            if list.len() == service.checks.len()
                && service.checks[..n].iter().any(|earlier| Some(earlier.title()) == title)
            {
                let title = title.unwrap_or_default();
                field.refuse(
                    problems,
                    format!("is a second check named {title:?}: remove it, or give it a name of its own"),
                );
            }
        }
    }
    section.end(problems);
    service
}

fn vip(field: &Field<'_, '_>, seen: &mut Seen, problems: &mut Problems<'_>) -> Option<Vip> {
    const ADDRESS: &str = "an address with its network's prefix in quotes, such as \"172.0.20.241/24\"";
    const INTERFACE: &str = "an interface's name, or a role that nodes map to one";
    let mut section = field.table(problems, r#"{ address = "172.0.20.241/24", interface = "storage" }"#)?;
    let demand = |section: &mut Section<'_, '_>, name, wanted: &str, problems: &mut Problems<'_>| {
        let found =
            section.take(name).map(|field| (field.span(), field.key.clone(), field.text(problems, wanted)));
        match found {
            None => {
                problems.add(
                    &section.span,
                    format!("{}.{name}", section.key),
                    format!("is missing: write {wanted}"),
                );
                None
            }
            Some((span, key, text)) => text.map(|text| (span, key, text.to_owned())),
        }
    };
    let address = demand(&mut section, "address", ADDRESS, problems).and_then(|(span, key, text)| {
        let net = address::parse(&text).map_err(|what| problems.add(&span, key.clone(), what)).ok()?;
        if let Some(first) = seen.get(&net.addr()) {
            let what =
                format!("{} stands at {first} already: an address belongs to one service, once", net.addr());
            problems.add(&span, key, what);
            return None;
        }
        seen.insert(net.addr(), key);
        Some(net)
    });
    let interface = demand(&mut section, "interface", INTERFACE, problems).and_then(|(span, key, text)| {
        address::check_interface(&text).map_err(|what| problems.add(&span, key, what)).ok().map(|()| text)
    });
    section.end(problems);
    Some(Vip { address: address?, interface: interface? })
}

fn preferred(field: &Field<'_, '_>, problems: &mut Problems<'_>) -> Vec<NodeId> {
    let mut nodes = Vec::new();
    for field in field.list(problems, NAMES_MAX, r#"nodes, best first, as ["n1", "n2"]"#) {
        let Some(text) = field.text(problems, "a node's name") else { continue };
        match text.parse::<NodeId>() {
            Err(error) => field.refuse(problems, error.to_string()),
            Ok(node) if nodes.contains(&node) => {
                field.refuse(problems, format!("{node} stands there twice: remove one"))
            }
            Ok(node) => nodes.push(node),
        }
    }
    nodes
}

fn labels(field: &Field<'_, '_>, problems: &mut Problems<'_>) -> BTreeMap<String, String> {
    let Some(section) = field.table(problems, r#"labels that a node must have, as { site = "a" }"#) else {
        return BTreeMap::new();
    };
    let entries = section.entries();
    if entries.len() > NAMES_MAX {
        field.refuse(problems, format!("has {} labels, but at most {NAMES_MAX} are allowed", entries.len()));
    }
    let pairs = entries.into_iter().take(NAMES_MAX);
    pairs
        .filter_map(|(name, _, field)| Some((name.to_owned(), short(&field, problems, "the label's value")?)))
        .collect()
}

fn check(field: &Field<'_, '_>, problems: &mut Problems<'_>) -> Option<Check> {
    const KINDS: [&str; 4] = ["script", "process", "carrier", "tcp"];
    let mut section = field.table(problems, r#"a table as { tcp = "127.0.0.1:3260" }"#)?;
    let name = section.take("name").and_then(|field| short(&field, problems, "a name for people"));
    let given: Vec<_> =
        KINDS.into_iter().filter_map(|kind| section.take(kind).map(|field| (kind, field))).collect();
    let probe = match given.as_slice() {
        [(kind, field)] => probe(kind, field, problems),
        [] => {
            let what = format!("says not what to check: write one of {}", KINDS.join(", "));
            problems.add(&section.span, section.key.clone(), what);
            None
        }
        [(first, _), (second, _), ..] => {
            let what = format!("has {first} as well as {second}: make two checks of it");
            problems.add(&section.span, section.key.clone(), what);
            None
        }
    };
    // Read on without one, for the other keys' problems.
    let mut check = Check::new(probe.clone().unwrap_or(Probe::Carrier(String::new())));
    check.name = name;
    check.interval = section.duration(problems, "interval", check.interval, MS_100..=HOUR);
    check.timeout = section.duration(problems, "timeout", check.timeout, MS_100..=MINUTE);
    check.fall = section.count(problems, "fall", check.fall, 1..=100);
    check.rise = section.count(problems, "rise", check.rise, 1..=100);
    section.end(problems);
    probe.map(|_| check)
}

fn probe(kind: &str, field: &Field<'_, '_>, problems: &mut Problems<'_>) -> Option<Probe> {
    match kind {
        "script" => script(field, problems),
        "process" => {
            let name = short(field, problems, "the name of a process, as ps shows it")?;
            if name.contains('/') {
                field.refuse(problems, format!("{name:?} has a '/': write only the program's own name"));
                return None;
            }
            Some(Probe::Process(name))
        }
        "carrier" => {
            let name = field.text(problems, "an interface's name, or a role that nodes map to one")?;
            address::check_interface(name).map_err(|what| field.refuse(problems, what)).ok()?;
            Some(Probe::Carrier(name.to_owned()))
        }
        _ => {
            let target = short(field, problems, "HOST:PORT, such as \"127.0.0.1:3260\"")?;
            if !address::is_target(&target) {
                field.refuse(
                    problems,
                    format!("{target:?} is no HOST:PORT: write it as 127.0.0.1:3260 or [::1]:3260"),
                );
                return None;
            }
            Some(Probe::Tcp(target))
        }
    }
}

fn script(field: &Field<'_, '_>, problems: &mut Problems<'_>) -> Option<Probe> {
    const WANTED: &str = r#"a program with its arguments, as ["/usr/local/bin/check-iscsi", "--quick"]"#;
    let list = field.list(problems, ARGUMENTS_MAX, WANTED);
    if list.is_empty() {
        if field.value.get_ref().is_array() {
            field.refuse(problems, format!("is empty: write {WANTED}"));
        }
        return None;
    }
    let mut argv = Vec::new();
    for (n, field) in list.iter().enumerate() {
        let word = match field.value.get_ref().as_str() {
            // An argument may be empty, the program may not.
            Some("") if n > 0 => "",
            _ => field.text(problems, WANTED)?,
        };
        if n == 0 && !word.starts_with('/') {
            let what = format!("{word:?} is no absolute path: a check runs with no shell and no PATH");
            field.refuse(problems, what);
            return None;
        }
        argv.push(word.to_owned());
    }
    Some(Probe::Script(argv))
}

/// A text of bounded length.
fn short(field: &Field<'_, '_>, problems: &mut Problems<'_>, wanted: &str) -> Option<String> {
    let text = field.text(problems, wanted)?;
    if text.chars().count() > TEXT_CHARS_MAX {
        field.refuse(problems, format!("is longer than {TEXT_CHARS_MAX} characters"));
        return None;
    }
    Some(text.to_owned())
}
