//! The sentence: what is wrong, since when, what happens next by itself and when; and the line that says what to do.
//! Pure: a [`Scene`] in, a [`Verdict`] out.

use std::time::Duration;

use proto::NodeId;
use proto::operate::Said;
use proto::status::{Condition, ConditionKind, Health, MemberStatus};

use super::members::{TWINS, UNREACHABLE};
use super::scene::{Holder, InLine, Link, Scene, TermState};
use super::words::{about, and, failed_terms, name, own_condition, plural, span};
use crate::supervisor::published::Work;

/// What a claim takes beyond session timeout and tick.
const EXPIRY_SLACK: Duration = Duration::from_millis(500);

/// From which share of the log's budget on it is said, in percent.
const BUDGET_ALARM: u64 = 80;

/// A session timeout that differs by less was granted as asked: servers count in milliseconds.
const TIMEOUT_SLACK: Duration = Duration::from_millis(1);

/// What is said first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) health: Health,
    pub(super) summary: String,
    pub(super) remedy: Option<String>,
    pub(super) notes: Vec<String>,
}

/// Something that is the matter, and what to do about it.
struct Trouble {
    words: String,
    remedy: Option<String>,
}

impl Trouble {
    fn new(words: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { words: words.into(), remedy: Some(remedy.into()) }
    }
}

/// Decides.
pub(super) fn judge(scene: &Scene) -> Verdict {
    let notes = notes(scene);
    let Some((leader, epoch)) = leads(scene) else {
        let Trouble { words, remedy } = leaderless(scene);
        let known_here = if scene.is_connected() || is_own(scene) { "" } else { " known here" };
        let span = match scene.leaderless_for {
            Some(since) if scene.leader.is_none() => format!(" for {}", span(since)),
            _ => String::new(),
        };
        let summary = format!("NO LEADER{known_here}{span}: {words}");
        return Verdict { health: Health::NoLeader, summary, remedy, notes };
    };
    let count = scene.members.len();
    let base = format!("{leader} leads (epoch {epoch}), {count} member{}", plural(count));
    let mut troubles = troubles(scene).into_iter();
    let Some(first) = troubles.next() else {
        return Verdict { health: Health::Healthy, summary: format!("HEALTHY: {base}"), remedy: None, notes };
    };
    let mut words = first.words;
    let mut remedy = first.remedy;
    for trouble in troubles {
        words = format!("{words}; {}", trouble.words);
        remedy = remedy.or(trouble.remedy);
    }
    Verdict { health: Health::Degraded, summary: format!("DEGRADED: {base}; but {words}"), remedy, notes }
}

/// Whether what this node says of the leadership is about itself, so that it knows whatever its connection is like.
fn is_own(scene: &Scene) -> bool {
    scene.own.term.is_some()
}

/// Who leads and serves, as well as can be known here.
fn leads(scene: &Scene) -> Option<(&NodeId, proto::Epoch)> {
    if let Some((node, epoch)) = &scene.serving {
        return Some((node, *epoch));
    }
    // Unasked, what is written down has to do.
    let leader = scene.leader.as_ref()?;
    let told = !scene.asked && scene.is_connected() && leader.serving && leader.node != scene.node;
    told.then_some((&leader.node, leader.epoch))
}

/// What needs a look although a leader serves; the most urgent first.
fn troubles(scene: &Scene) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    if scene.serving.as_ref().is_some_and(|(node, _)| *node != scene.node)
        && let Some(condition) = own_condition(scene)
        && condition.kind < ConditionKind::NotACandidate
    {
        let words = format!("here, {}", about(scene.node.as_str(), &condition.words));
        troubles.push(Trouble { words, remedy: condition.remedy });
    }
    for member in scene.members.iter().filter(|member| member.node != scene.node) {
        if member.phase == UNREACHABLE {
            let heard = member
                .heard_ms
                .map(|ms| format!(" (the leader heard of it {} ago)", span(Duration::from_millis(ms))));
            let heard = heard.unwrap_or_default();
            let held = still_named(scene, &member.node);
            troubles.push(Trouble::new(
                format!("{} does not answer at {}{heard}{held}", member.node, member.address),
                format!(
                    "look at {}: its log, its machine, its network; if it is gone, its tasks move by themselves",
                    member.node
                ),
            ));
        } else if let Some(condition) =
            member.condition.as_ref().filter(|condition| condition.kind < ConditionKind::NotACandidate)
        {
            troubles.push(of_member(&member.node, condition));
        }
    }
    troubles.extend(twins(&scene.members));
    for fence in &scene.fences {
        let (count, node, left) =
            (fence.attempts, &fence.node, span(Duration::from_millis(fence.over_in_ms)));
        let one = count == 1;
        let (wait, first) = if one { ("waits", "it") } else { ("wait", "the first") };
        let then = match fence.run_again {
            0 if one => "it is given up".to_owned(),
            0 => "they are given up".to_owned(),
            _ => format!("{first} runs again"),
        };
        troubles.push(Trouble::new(
            format!(
                "{count} attempt{} of {node} {wait} for its fence; {then} in {left}",
                if one { "" } else { "s" }
            ),
            format!("wait, or start taskd on {node} again: once it is back they need not wait"),
        ));
    }
    for (words, remedy) in &scene.vips.troubles {
        troubles.push(Trouble { words: words.clone(), remedy: remedy.clone() });
    }
    troubles.extend(budget(scene));
    troubles
}

/// The services whose holder a silent member is: until its session ends, `vip list` shows them as held.
fn still_named(scene: &Scene, node: &NodeId) -> String {
    let mine = scene.vips.holders.iter().filter(|(holder, _)| holder == node);
    let services: Vec<_> = mine.map(|(_, service)| service.clone()).collect();
    if services.is_empty() {
        return String::new();
    }
    format!(" and is named as the holder of {}, until its session ends and others take over", and(&services))
}

/// What a member says of itself.
fn of_member(node: &NodeId, condition: &Condition) -> Trouble {
    Trouble {
        words: about(node.as_str(), &condition.words),
        remedy: condition.remedy.as_ref().map(|remedy| on(node, remedy)),
    }
}

/// What to do at a certain node; waiting is done anywhere.
fn on(node: &NodeId, remedy: &str) -> String {
    if remedy.starts_with("wait") { remedy.to_owned() } else { format!("on {node}: {remedy}") }
}

fn twins(members: &[MemberStatus]) -> Option<Trouble> {
    let mut ids: Vec<_> = members
        .iter()
        .filter(|member| member.note.as_deref().is_some_and(|note| note.starts_with(TWINS)))
        .map(|member| &member.node)
        .collect();
    ids.dedup();
    ids.sort_unstable();
    ids.dedup();
    let first = *ids.first()?;
    let of = |id: &NodeId| {
        let where_: Vec<_> =
            members.iter().filter(|member| member.node == *id).map(|m| m.address.clone()).collect();
        format!("the members at {} all call themselves {id}", and(&where_))
            .replace("all call", if where_.len() == 2 { "both call" } else { "all call" })
    };
    let words: Vec<_> = ids.iter().map(|id| of(id)).collect();
    Some(Trouble::new(
        format!("{} ({first} shares its id with another member)", and(&words)),
        "start one of them with its own --node-id and data directory; until then one of them gets no work",
    ))
}

fn budget(scene: &Scene) -> Option<Trouble> {
    let log = scene.log.as_ref()?;
    let percent = log.live_bytes.saturating_mul(100) / log.budget_bytes.max(1);
    if percent < BUDGET_ALARM {
        return None;
    }
    let next = if percent >= 100 { "new tasks are refused" } else { "at 100 % new tasks are refused" };
    Some(Trouble::new(
        format!("the task log holds {percent} % of its budget; {next}"),
        "let tasks end or cancel some (taskd task list --state queued), or raise tasks.log_bytes_budget",
    ))
}

/// What is worth knowing and no fault.
fn notes(scene: &Scene) -> Vec<String> {
    let mut notes = operated(scene);
    notes.extend(scene.vips.notes.iter().cloned());
    let (granted, asked) = (scene.timing.session, scene.timing.session_asked);
    let apart = granted.abs_diff(asked);
    if apart > TIMEOUT_SLACK {
        notes.push(format!(
            "{} grants a session timeout of {} instead of {}: a leader that is lost is replaced within {}; its \
             minSessionTimeout and maxSessionTimeout decide, or set coordination.session_timeout to what it grants",
            name(&scene.service),
            span(granted),
            span(asked),
            span(granted + scene.timing.tick + EXPIRY_SLACK)
        ));
    }
    for flaps in &scene.flapping {
        notes.push(format!(
            "{} has joined again {} times within {}: it loses its session or restarts; look at its log",
            flaps.node,
            flaps.again,
            span(flaps.span)
        ));
    }
    for place in &scene.line {
        if let (Some(held), Some((count, reason))) = (place.held_down, &place.failed)
            && leads(scene).is_some()
        {
            notes.push(format!(
                "{} stays out of the line for {}: {}",
                place.node,
                span(held),
                failed_terms(*count, reason)
            ));
        }
    }
    notes
}

/// What operators have set, and how to take it back.
fn operated(scene: &Scene) -> Vec<String> {
    let words = |said: &Said| {
        let by = said.by.as_deref().map_or_else(String::new, |by| format!(" by {by}"));
        let reason = said.reason.as_deref().map_or_else(String::new, |reason| format!(" ({reason})"));
        format!("{by}{reason}")
    };
    let paused = scene.paused.iter().map(|said| {
        format!(
            "tasks are paused{}: nothing new starts, what runs goes on; taskd cluster resume ends that",
            words(said)
        )
    });
    let drained = scene.drained.iter().map(|(node, drain)| {
        format!(
            "{node} is drained{} and gets no new tasks; taskd node list shows what runs there, taskd node undrain {node} \
             ends that",
            words(&drain.said)
        )
    });
    paused.chain(drained).collect()
}

/// Why nobody serves, what happens next, and what to do.
fn leaderless(scene: &Scene) -> Trouble {
    if let Some(obstacle) = scene.obstacle.as_ref().filter(|_| scene.is_connected()) {
        return obstructed(obstacle);
    }
    if let Some(term) = &scene.own.term
        && !matches!(term.state, TermState::Serving)
    {
        return holder_says(scene, &scene.node);
    }
    if !scene.is_connected() {
        return cut_off(scene);
    }
    match &scene.leader {
        Some(leader) => held(scene, leader),
        None => vacant(scene),
    }
}

/// A person has to act. Where the obstacle says how, that is the remedy.
fn obstructed(obstacle: &str) -> Trouble {
    const RESTORE: &str = "; restore ";
    let split = match obstacle.find(RESTORE) {
        Some(at) => Some((&obstacle[..at], &obstacle[at + 2..])),
        None => obstacle.split_once(": "),
    };
    let (what, remedy) = split.unwrap_or((obstacle, "look at this node's log"));
    Trouble::new(format!("{what}; nothing changes by itself"), remedy)
}

/// The leader, this node or one that answered, says itself why it does not serve.
fn holder_says(scene: &Scene, leader: &NodeId) -> Trouble {
    let own = (*leader == scene.node).then(|| own_condition(scene)).flatten();
    let told = scene.member(leader).and_then(|member| member.condition.clone());
    let Some(condition) = own.or(told) else {
        return Trouble::new(
            format!("{leader} was the leader, and its lease is gone; {}", successor(scene, leader)),
            "wait: a node takes over by itself",
        );
    };
    let next = match condition.kind {
        ConditionKind::HandingOver => String::new(),
        ConditionKind::Recovering | ConditionKind::Suspended => {
            format!("; {}", after(scene, leader, "is next"))
        }
        _ => format!("; {}", successor(scene, leader)),
    };
    let Trouble { words, remedy } = of_member(leader, &condition);
    Trouble { words: format!("{words}{next}"), remedy }
}

/// This node is not connected, so it does not know who leads; nobody who could be asked leads.
fn cut_off(scene: &Scene) -> Trouble {
    let service = name(&scene.service);
    let what = match own_condition(scene) {
        Some(condition) => condition.words,
        None => "it has not joined the cluster yet".to_owned(),
    };
    let remedy = own_condition(scene).and_then(|condition| condition.remedy);
    let others: Vec<_> = scene.members.iter().filter(|member| member.node != scene.node).collect();
    let silent: Vec<_> = others.iter().filter(|member| member.phase == UNREACHABLE).collect();
    let names = |list: &[&&MemberStatus]| and(&list.iter().map(|m| m.node.to_string()).collect::<Vec<_>>());
    let unjoined = matches!(scene.link, Link::Never) && others.is_empty();
    let boots = scene
        .own
        .busy
        .iter()
        .any(|(work, _)| matches!(work, Work::StartKeeper | Work::BootRunner | Work::CleanVips));
    let next = if unjoined && boots {
        "; then it joins the cluster by itself".to_owned()
    } else if !scene.asked || unjoined {
        "; it goes on trying by itself; the other nodes may have a leader".to_owned()
    } else if others.is_empty() {
        format!("; it leads again by itself once {service} is back")
    } else if silent.is_empty() {
        format!(
            "; none of the others leads either ({} answer{}); one does by itself once {service} is back",
            names(&others.iter().collect::<Vec<_>>()),
            if others.len() == 1 { "s" } else { "" }
        )
    } else {
        format!("; {} may have a leader: no answer from there", names(&silent))
    };
    let ask = others.first().filter(|_| !silent.is_empty()).map(|_| {
        let addresses: Vec<_> = silent.iter().map(|member| member.address.clone()).collect();
        format!("ask another node: taskd cluster status --addr {}", addresses.join(","))
    });
    let ask = ask.or_else(|| {
        let alone = scene.service.embedded || boots || !unjoined;
        (!alone).then(|| "ask another node: taskd cluster status --addr HOST:PORT".to_owned())
    });
    let remedy = match (ask, remedy) {
        (Some(ask), Some(remedy)) => Some(format!("{ask}; here, {remedy}")),
        (ask, remedy) => ask.or(remedy),
    };
    Trouble { words: format!("{}{next}", about(scene.node.as_str(), &what)), remedy }
}

/// Somebody holds `leader` and does not serve.
fn held(scene: &Scene, leader: &Holder) -> Trouble {
    let Holder { node, epoch, .. } = leader;
    let member = scene.member(node);
    if *node == scene.node {
        return holder_says(scene, node);
    }
    if !scene.asked {
        let left = scene.timing.serve.saturating_sub(leader.known_for);
        return Trouble::new(
            format!(
                "{node} was elected (epoch {epoch}) {} ago and does not serve yet; it resigns in {} at the latest",
                span(leader.known_for),
                span(left)
            ),
            "wait: it serves, or a node takes over by itself",
        );
    }
    // One that is not listed was not asked either.
    if member.is_none_or(|member| member.phase == UNREACHABLE) {
        return silent(scene, leader);
    }
    let whole = scene.timing.session + scene.timing.tick + EXPIRY_SLACK;
    match member.and_then(|member| member.condition.as_ref()) {
        Some(condition) if condition.kind == ConditionKind::Starting => Trouble::new(
            format!(
                "{node} led (epoch {epoch}) and was started again: {}; {} within {} of its end",
                condition.words,
                successor(scene, node),
                span(whole)
            ),
            "wait: a node takes over by itself",
        ),
        Some(_) => holder_says(scene, node),
        None if leader.known_for < scene.timing.serve && !leader.serving => Trouble::new(
            format!(
                "{node} was elected (epoch {epoch}) {} ago and does not serve yet; it resigns in {} at the latest; {}",
                span(leader.known_for),
                span(scene.timing.serve.saturating_sub(leader.known_for)),
                after(scene, node, "is next")
            ),
            "wait: it serves, or a node takes over by itself",
        ),
        None => Trouble::new(
            format!(
                "{node} led (epoch {epoch}), answers, and does not lead any more; {} within {}",
                successor(scene, node),
                span(whole)
            ),
            "wait: a node takes over by itself",
        ),
    }
}

/// The leader does not answer: its session is waited out.
fn silent(scene: &Scene, leader: &Holder) -> Trouble {
    let Holder { node, address, epoch, .. } = leader;
    let whole = scene.timing.session + scene.timing.tick + EXPIRY_SLACK;
    let silent_for = leader.silent_for.unwrap_or_default();
    let says_nothing = match leader.silent_for {
        Some(since) => format!("{node} (epoch {epoch}) has not answered for {}", span(since)),
        None => format!("{node} (epoch {epoch}) does not answer"),
    };
    let left = whole.saturating_sub(silent_for);
    if left.is_zero() {
        return Trouble::new(
            format!(
                "{says_nothing}, but its session lives: it is cut off from {} and not from {}, or it hangs; nobody takes \
                 over while its session lives",
                scene.node,
                name(&scene.service)
            ),
            format!(
                "check the network between {} and {address}; if {node} hangs, end its process: another takes over within {}",
                scene.node,
                span(whole)
            ),
        );
    }
    if !scene.line.iter().any(|place| place.node != *node) {
        return Trouble::new(
            format!("{says_nothing}; no other node is ready to lead, so nobody takes over by itself"),
            format!("start taskd on {node} ({address}) again, or look at the logs of the other nodes"),
        );
    }
    Trouble::new(
        format!(
            "{says_nothing}; once its session has expired, in {} at the latest, {}",
            span(left),
            successor(scene, node)
        ),
        format!("wait; then see what became of {node} at {address}"),
    )
}

/// Who comes after `leader`: "n2 takes over".
fn successor(scene: &Scene, leader: &NodeId) -> String {
    after(scene, leader, "takes over")
}

fn after(scene: &Scene, leader: &NodeId, does: &str) -> String {
    let next = scene.line.iter().find(|place| place.node != *leader && place.held_down.is_none());
    match next {
        Some(place) => match ails(scene, &place.node) {
            Some(but) => format!("{} {does}, but {but}", place.node),
            None => format!("{} {does}", place.node),
        },
        None => "no other node is ready to lead".to_owned(),
    }
}

/// What keeps a candidate from claiming, as far as it or its silence tells.
fn ails(scene: &Scene, node: &NodeId) -> Option<String> {
    if *node == scene.node {
        return own_condition(scene).map(|condition| condition.words);
    }
    let member = scene.member(node)?;
    if member.phase == UNREACHABLE {
        return Some("it does not answer".to_owned());
    }
    member.condition.as_ref().map(|condition| condition.words.clone())
}

/// Nobody holds `leader`.
fn vacant(scene: &Scene) -> Trouble {
    let Some(first) = scene.line.first() else { return nobody(scene) };
    let node = &first.node;
    let takes_over = |place: &InLine| {
        let but = ails(scene, &place.node).map(|but| format!(", but {but}")).unwrap_or_default();
        match place.claims_in {
            Some(wait) if !wait.is_zero() => format!("; {} takes over in {}{but}", place.node, span(wait)),
            _ => format!("; {} may claim by now, too{but}", place.node),
        }
    };
    let next = scene.line.get(1).map(takes_over).unwrap_or_default();
    if let Some(held) = first.held_down {
        let why = first.failed.as_ref().map(|(count, reason)| failed_terms(*count, reason));
        let why = why.unwrap_or_else(|| "its last term failed".to_owned());
        return Trouble::new(
            format!("{node} is first in line, but {why}; it may claim in {}{next}", span(held)),
            format!("look at the log of {node}: why its term failed; it tries again by itself"),
        );
    }
    if let Some(but) = ails(scene, node) {
        let silent = scene.member(node).is_some_and(|member| member.phase == UNREACHABLE);
        let told = scene.member(node).and_then(|member| member.condition.clone());
        let remedy = match (silent, told.and_then(|condition| condition.remedy)) {
            (false, Some(remedy)) => on(node, &remedy),
            _ => format!("wait; then look at {node}: its process, its machine, its network"),
        };
        return Trouble::new(format!("{node} is first in line but {but}{next}"), remedy);
    }
    Trouble::new(
        format!("{node} is first in line and is about to claim{next}"),
        "wait: a node takes over by itself",
    )
}

/// Nobody stands for leader: why not, of each member.
fn nobody(scene: &Scene) -> Trouble {
    if scene.members.is_empty() {
        return Trouble::new(
            "no node is a member yet",
            "wait, or start more nodes: taskd serve --config FILE",
        );
    }
    let reasons: Vec<_> = scene
        .members
        .iter()
        .map(|member| {
            let why = ails(scene, &member.node);
            let why = why.unwrap_or_else(|| "it is about to stand for leader".to_owned());
            about(member.node.as_str(), &why)
        })
        .collect();
    let helps = scene.members.iter().filter_map(|member| {
        let node = &member.node;
        let own = (*node == scene.node).then(|| own_condition(scene)).flatten();
        let condition = own.or_else(|| member.condition.clone());
        match condition.map(|condition| (condition.kind, condition.remedy)) {
            _ if member.phase == UNREACHABLE => Some(format!("look at {node}, its machine and its network")),
            None | Some((ConditionKind::Starting | ConditionKind::Rejoining, _)) => None,
            Some((ConditionKind::Stopping, _)) => Some(format!("start {node} again")),
            Some((_, remedy)) => remedy.map(|remedy| on(node, &remedy)),
        }
    });
    let helps: Vec<_> = helps.collect();
    let comes_up = helps.len() < scene.members.len();
    let remedy = match (comes_up, helps.is_empty()) {
        (true, true) => "wait: a node takes over by itself".to_owned(),
        (true, false) => format!("wait, or {}", helps.join(", or ")),
        (false, _) => helps.join(", or "),
    };
    Trouble::new(format!("no node is ready to lead: {}", reasons.join("; ")), remedy)
}
