//! Clauses: what is the matter with one node or one server. Pure.

use std::time::Duration;

use proto::status::{Condition, ConditionKind, CoordinationKind, ServerState};

use super::scene::{Link, Own, Scene, Service, TermState};
use crate::supervisor::published::Work;

/// Seconds with one decimal, as people read them; minutes and hours where there are many.
pub(super) fn span(span: Duration) -> String {
    match span.as_secs() {
        0..100 => format!("{:.1} s", span.as_secs_f64()),
        100..6_000 => format!("{} min", (span.as_secs() + 30) / 60),
        _ => format!("{} h", (span.as_secs() + 1_800) / 3_600),
    }
}

pub(super) const fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// "a", "a and b", "a, b and c".
pub(super) fn and(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// "its last term", "its last 3 terms".
fn times(count: u32, what: &str) -> String {
    if count == 1 { format!("its last {what}") } else { format!("its last {count} {what}s") }
}

/// "its last 3 terms failed (why)".
pub(super) fn failed_terms(count: u32, reason: &str) -> String {
    format!("{} failed ({reason})", times(count, "term"))
}

/// What the coordination service is called.
pub(super) const fn name(service: &Service) -> &'static str {
    match (service.embedded, service.kind) {
        (true, _) => "its own keeper",
        (false, Some(CoordinationKind::Keeper | CoordinationKind::EmbeddedKeeper)) => "the keeper",
        _ => "ZooKeeper",
    }
}

/// A clause that speaks of a node as "it", about `node`: "n2's runner boots", "n2 has been joining".
pub(super) fn about(node: &str, clause: &str) -> String {
    if let Some(rest) = clause.strip_prefix("it ") {
        format!("{node} {rest}")
    } else if let Some(rest) = clause.strip_prefix("its ") {
        format!("{node}'s {rest}")
    } else {
        format!("{node}: {clause}")
    }
}

/// What the servers do that were asked: "10.0.0.1:2181 refuses connections, …"; empty if none was.
pub(super) fn servers(service: &Service) -> String {
    let mut groups: Vec<(ServerState, Vec<String>)> = Vec::new();
    for server in &service.servers {
        match groups.iter_mut().find(|(state, _)| *state == server.state) {
            Some((_, addresses)) => addresses.push(server.address.clone()),
            None => groups.push((server.state, vec![server.address.clone()])),
        }
    }
    let each: Vec<_> = groups
        .iter()
        .map(|(state, addresses)| match addresses.as_slice() {
            [one] => format!("{one} {state}"),
            several => format!("{} {}", and(several), many(*state)),
        })
        .collect();
    each.join("; ")
}

/// [`ServerState`] of several.
const fn many(state: ServerState) -> &'static str {
    match state {
        ServerState::Serves => "answer",
        ServerState::NoQuorum => "run but have no quorum",
        ServerState::Refuses => "refuse connections",
        ServerState::Closes => "close connections at once",
        ServerState::Silent => "take connections and stay silent",
        ServerState::NoAnswer => "do not answer",
        ServerState::NoRoute => "cannot be reached: no route",
        ServerState::UnknownName => "have names that cannot be resolved",
    }
}

fn in_brackets(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

/// What to do about a coordination service that cannot be reached.
pub(super) fn coordination_remedy(service: &Service) -> String {
    let states = || service.servers.iter().map(|server| server.state);
    if service.embedded {
        return "look at this node's log: it runs the coordination service itself".to_owned();
    }
    if !service.servers.is_empty() && states().all(|state| state == ServerState::Serves) {
        return "wait: it goes on by itself; if this stays, look at this node's log".to_owned();
    }
    if !service.servers.is_empty() && states().all(|state| state == ServerState::NoRoute) {
        return "check this machine's network: ip route; ip addr".to_owned();
    }
    if states().any(|state| state == ServerState::UnknownName) {
        return "check coordination.hosts and this machine's name resolution".to_owned();
    }
    if matches!(service.kind, Some(CoordinationKind::Keeper)) {
        return format!(
            "see that the keeper runs at {}: `taskd keeper` on its data directory",
            service.hosts
        );
    }
    let bad = service.servers.iter().filter(|server| server.state != ServerState::Serves);
    let mut targets: Vec<_> = bad.map(|server| server.address.clone()).collect();
    if targets.is_empty() {
        let hosts = service.hosts.split('/').next().unwrap_or_default();
        targets = hosts.split(',').map(|host| host.trim().to_owned()).collect();
    }
    let command = targets.first().and_then(|target| target.rsplit_once(':'));
    let command = command.map(|(host, port)| format!(": echo srvr | nc {host} {port}")).unwrap_or_default();
    let check = if states().any(|state| state == ServerState::NoQuorum) {
        "bring a majority of the ZooKeeper servers back; look at"
    } else {
        "check that ZooKeeper answers at"
    };
    format!("{check} {}{command}", and(&targets))
}

/// What this node says of itself, if it is not simply running.
pub(super) fn own_condition(scene: &Scene) -> Option<Condition> {
    let own = &scene.own;
    let condition = |kind, words: String, remedy: Option<String>| Some(Condition { kind, words, remedy });
    if let Some(wedged) = &own.wedged {
        return condition(
            ConditionKind::Wedged,
            format!(
                "its {} has been blocked in phase {} for {}; it gives up its leadership and ends in {}",
                wedged.component,
                wedged.phase,
                span(wedged.since),
                span(wedged.left)
            ),
            Some(
                "wait: whoever supervises taskd starts it again; keep its log, for this is a bug".to_owned(),
            ),
        );
    }
    if let Some(ending) = &own.ending {
        let doing: Vec<_> = own.busy.iter().map(|(work, _)| work.doing().to_owned()).collect();
        let because = ending.failure.as_ref().map(|why| format!(" because {why}")).unwrap_or_default();
        let remedy = match &ending.failure {
            Some(_) => "look at its log, and start it again",
            None => "it was asked to stop: to have it back, start it again",
        };
        return condition(
            ConditionKind::Stopping,
            format!(
                "it has been stopping for {}{}{because}; it has ended in {} at the latest",
                span(ending.since),
                in_brackets(&doing.join(", ")),
                span(ending.left)
            ),
            Some(remedy.to_owned()),
        );
    }
    if let Some(condition) = term_condition(scene) {
        return Some(condition);
    }
    if let Some(condition) = starting(own, scene) {
        return Some(condition);
    }
    let service = name(&scene.service);
    // That no session comes about is what joining again means; what the servers do says why.
    let news =
        own.trouble.as_deref().map(|trouble| trouble.strip_prefix("joining again: ").unwrap_or(trouble));
    let news = news.filter(|trouble| !trouble.starts_with("no session with"));
    let trouble = news.map(|trouble| format!(": {trouble}")).unwrap_or_default();
    match &scene.link {
        Link::Over { why, since, tries } => {
            return condition(
                ConditionKind::Rejoining,
                format!(
                    "it has been joining again for {} (try {tries}), because {why}{}{trouble}",
                    span(*since),
                    in_brackets(&servers(&scene.service))
                ),
                Some(coordination_remedy(&scene.service)),
            );
        }
        Link::Lost(since) => {
            return condition(
                ConditionKind::Disconnected,
                format!(
                    "it has had no connection to {service} for {}{}",
                    span(*since),
                    in_brackets(&servers(&scene.service))
                ),
                Some(coordination_remedy(&scene.service)),
            );
        }
        Link::Never | Link::Connected => {}
    }
    if let Some(obstacle) = &scene.obstacle {
        return condition(ConditionKind::Barred, format!("it takes no part: {obstacle}"), None);
    }
    if !own.eligible {
        return condition(
            ConditionKind::NotACandidate,
            "it is not eligible".to_owned(),
            Some("set node.eligible = true in its configuration, and restart it".to_owned()),
        );
    }
    let trouble = own.trouble.as_ref().filter(|_| scene.is_connected())?;
    condition(ConditionKind::NotACandidate, trouble.clone(), None)
}

/// A term of its own that does not serve.
fn term_condition(scene: &Scene) -> Option<Condition> {
    let term = scene.own.term.as_ref()?;
    let epoch = term.epoch;
    let (kind, words, remedy) = match &term.state {
        TermState::Serving => return None,
        TermState::Recovering { left } => {
            let recovering = scene.own.busy.iter().find(|(work, _)| *work == Work::Recover);
            let doing = recovering.map_or_else(
                || "is about to recover the task database".to_owned(),
                |(_, since)| format!("has been recovering the task database for {}", span(*since)),
            );
            (
                ConditionKind::Recovering,
                format!(
                    "it was elected (epoch {epoch}), {doing}, and resigns in {} unless it serves by then",
                    span(*left)
                ),
                Some("wait; if that fails again and again, look at its log and at ZooKeeper's".to_owned()),
            )
        }
        TermState::Suspended { since, left } => {
            let why = match &scene.link {
                Link::Connected => format!("{} commits nothing", name(&scene.service)),
                _ => format!("its connection to {} is lost", name(&scene.service)),
            };
            (
                ConditionKind::Suspended,
                format!(
                    "it leads (epoch {epoch}), but has suspended its work for {}: {why}{}; it goes on if that comes \
                     back, and resigns in {} otherwise",
                    span(*since),
                    in_brackets(&servers(&scene.service)),
                    span(*left)
                ),
                Some(coordination_remedy(&scene.service)),
            )
        }
        TermState::Resigning { why, to, left, overdue } => {
            let ending = if *overdue {
                "what it led has not ended by its deadline".to_owned()
            } else {
                format!("what it leads ends in {} at the latest", span(*left))
            };
            let (kind, words) = match to {
                Some(to) => (
                    ConditionKind::HandingOver,
                    format!("it hands over to {to} (epoch {epoch}): {ending}, then {to} claims"),
                ),
                None => (
                    ConditionKind::Resigning,
                    format!("it gives up its term (epoch {epoch}) because {why}; {ending}"),
                ),
            };
            let remedy = if *overdue {
                "restart it: something of its term hangs"
            } else {
                "wait: a node takes over by itself"
            };
            (kind, words, Some(remedy.to_owned()))
        }
    };
    Some(Condition { kind, words, remedy })
}

fn starting(own: &Own, scene: &Scene) -> Option<Condition> {
    let (work, since) = own.busy.first()?;
    let since = span(*since);
    let (words, remedy) = match work {
        Work::StartKeeper => (
            format!("its embedded keeper has been starting for {since}"),
            "wait, or look at its log".to_owned(),
        ),
        Work::BootRunner => (
            format!("its runner has been booting for {since}"),
            "wait, or look at its log: the runner first ends what its former life left".to_owned(),
        ),
        Work::CleanVips => (
            format!("it has been removing an earlier life's virtual IPs for {since}"),
            "wait, or look at its log: it does not join before they are gone".to_owned(),
        ),
        Work::Join => {
            let failed = match own.joins_failed {
                0 => String::new(),
                1 => "; one try has failed".to_owned(),
                count => format!("; {count} tries have failed"),
            };
            let servers = servers(&scene.service);
            // What the servers do now says more than what was made of it then.
            let last = own.trouble.as_ref().filter(|_| servers.is_empty() && own.joins_failed > 0);
            let failed =
                last.map_or_else(|| failed.clone(), |trouble| format!("{failed}, the last one: {trouble}"));
            let with = if servers.is_empty() { String::new() } else { format!(": {servers}") };
            (
                format!("it has been joining the cluster for {since}{with}{failed}"),
                coordination_remedy(&scene.service),
            )
        }
        Work::Recover
        | Work::EndDispatcher
        | Work::DrainRunner
        | Work::ReleaseVips
        | Work::LeaveQuorum
        | Work::StopKeeper => return None,
    };
    Some(Condition { kind: ConditionKind::Starting, words, remedy: Some(remedy) })
}
