//! A path in words.

use election::{Effect, Standing};

use super::act::Action;
use super::bounds::Kind;
use super::node::{Node, Up};
use super::world::World;
use super::zk::name;
use crate::report::Steps;

/// What was done, when, and where that led.
pub fn tell(path: &Steps<World, Action>) -> String {
    let (mut text, mut time, mut step, mut shown) = (String::new(), 0, 0, String::new());
    for (world, action) in path {
        let now = state(world);
        if now != shown {
            text.push_str(&format!("       {now}\n"));
            shown = now;
        }
        let Some(action) = action else { break };
        step += 1;
        time += u32::from(*action == Action::Pass);
        text.push_str(&format!("{step:>3}. t={time} {}\n", words(world, *action)));
    }
    if let Some(broken) = path.last().and_then(|(world, _)| world.broken) {
        text.push_str(&format!("     broken: {broken}\n"));
    }
    text
}

/// The state in a line.
fn state(world: &World) -> String {
    let leader = world.zk.leader.as_ref().map_or_else(
        || "nobody".to_owned(),
        |(owner, record)| format!("{} (epoch {}, session {owner})", record.node, record.epoch.0),
    );
    let nodes: Vec<String> = world
        .nodes
        .iter()
        .enumerate()
        .map(|(index, node)| format!("{} {}", name(index), standing(node)))
        .collect();
    format!("`leader`: {leader}; {}", nodes.join(", "))
}

fn standing(node: &Node) -> String {
    match node.up {
        Up::Down => return "is dead".to_owned(),
        Up::Left => return "has left".to_owned(),
        Up::Up => {}
    }
    let mut text = match node.core.standing() {
        Standing::Follower => "follows".to_owned(),
        Standing::Elected(epoch) => format!("elected in {}", epoch.0),
        Standing::Suspended(epoch) => format!("suspended in {}", epoch.0),
        Standing::Resigning(epoch) => format!("resigning {}", epoch.0),
    };
    if node.inside_lease() {
        text.push_str(" [lease]");
    }
    if node.effects.is_some() {
        text.push_str(" [effects]");
    }
    text
}

fn words(world: &World, action: Action) -> String {
    let what = |node: usize, at: usize| {
        let request = &world.nodes[node].requests[at];
        let name = match &request.effect {
            Effect::Join { .. } => "join",
            Effect::Survey => "survey",
            Effect::Register => "registration",
            Effect::Withdraw => "withdrawal",
            Effect::Claim { .. } => "claim",
            Effect::CheckResume { .. } => "check before it resumes",
            Effect::Release { .. } => "release",
            Effect::WriteTerms { .. } => "note in `terms`",
            Effect::Audit => "audit",
            _ => "request",
        };
        let old = if request.old { " of an old session" } else { "" };
        format!("{}'s {name}{old}", self::name(node))
    };
    match action {
        Action::Pass => "time goes on".to_owned(),
        Action::Execute(node, at) => format!("{} is executed", what(node, at)),
        Action::Answer(node, at) => format!("the answer to {} arrives", what(node, at)),
        Action::Call(node, at) => format!("{} is executed and answered", what(node, at)),
        Action::TimeOut(node, at) => format!("{} fails", what(node, at)),
        Action::TimeOutLate(node, at) => format!("{} fails, but may yet be executed", what(node, at)),
        Action::ExecuteLate(node, at) => format!("{}, given up long ago, is executed", what(node, at)),
        Action::DropLate(node, at) => format!("{}, given up long ago, is never executed", what(node, at)),
        Action::Undo(node) => format!("{}'s unwanted claim is undone", name(node)),
        Action::Tick(node) => format!("a deadline of {} has passed", name(node)),
        Action::Watch(node) => format!("{}'s watch shows `leader`", name(node)),
        Action::Stir(node) => format!("{} hears that the line has changed", name(node)),
        Action::Lease(node) => format!("{}'s lease says: {:?}", name(node), world.nodes[node].news),
        Action::Ready(node) => format!("{} is ready", name(node)),
        Action::Serve(node) => format!("{}'s dispatcher serves", name(node)),
        Action::End(node) => format!("{}'s effects have ended", name(node)),
        Action::Notice(node) => format!("{} notices that it is disconnected", name(node)),
        Action::Heal(node) => format!("{}'s network is back", name(node)),
        Action::Ended(node) => format!("{} learns that its session is over", name(node)),
        Action::Expire(session) => format!("ZooKeeper ends session {session}"),
        Action::Return => "ZooKeeper has a majority again".to_owned(),
        Action::Resume(node) => format!("{} goes on", name(node)),
        Action::Restart(node) => format!("{} is started again", name(node)),
        Action::Fault(Kind::Outage, _) => "FAULT: ZooKeeper loses its majority".to_owned(),
        Action::Fault(kind, node) => format!("FAULT: {} {}", name(node), fault(kind)),
        Action::Spoil(kind, node, at) => format!("FAULT: {} {}", what(node, at), spoiled(kind)),
    }
}

fn fault(kind: Kind) -> &'static str {
    match kind {
        Kind::Crash => "dies",
        Kind::Cut => "loses its network",
        Kind::Pause => "is paused",
        Kind::Unready => "is no longer ready to lead",
        Kind::Unserved => "will not come to serve",
        Kind::SlowEnd => "cannot end its effects in time",
        Kind::Stop => "is told to stop",
        Kind::Handover => "is told to hand over",
        Kind::Resign => "has to give its term up",
        Kind::Priority => "gets a higher priority",
        Kind::Wedge => "is wedged: its watchdog gives its term up",
        _ => "goes wrong",
    }
}

fn spoiled(kind: Kind) -> &'static str {
    match kind {
        Kind::LoseAnswer => "is executed, its answer is lost",
        Kind::LoseRequest => "is lost",
        Kind::LateWrite => "fails for its caller, but may yet be executed",
        _ => "takes its time",
    }
}
