//! Making things go wrong, and making them well again.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::kind::{Act, Kind, Plan, Victim};
use crate::lab::Lab;
use crate::node::Stopped;
use crate::sys::boot_ns;
use crate::watch::Watch;

/// For a node's sessions to move to the only server that is left to it; a refused connection is tried elsewhere at once.
const STEERED: Duration = Duration::from_secs(4);

/// From when on nothing keeps a healthy node and a majority of ZooKeeper from having a leader.
#[derive(Debug)]
pub(crate) enum Cause {
    /// From the fault itself, or from its end if that has come already: somebody healthy is there all the time.
    Over(u64),
    /// From this instant, or from the healing if that comes first: until then the node that nothing reaches is heard, and
    /// ZooKeeper is right to believe that it lives.
    Heard(u64),
    /// From when another ZooKeeper server leads, be it before or after the healing.
    Ensemble(Watch),
    /// From the healing, at which the time is yet to be told.
    Healing,
    /// From when ZooKeeper has a leader after the healing.
    EnsembleHealed,
}

/// What makes it well again.
#[derive(Debug)]
enum Undo {
    PassNode(usize),
    PassServer(usize),
    Route(usize),
    Resume(usize),
    ResumeServer(usize),
    StartServers,
    Wall(usize),
    /// A node that does not run is started by [`heal`] whatever the fault was.
    Nodes,
    Nothing,
}

/// A fault that is there.
#[derive(Debug)]
pub(crate) struct Injected {
    pub(crate) cause: Cause,
    /// The node that it was done to.
    pub(crate) node: Option<usize>,
    pub(crate) paused: bool,
    /// A stop that was the fault itself.
    pub(crate) stopped: Option<Stopped>,
    /// What people read.
    pub(crate) what: String,
    undo: Undo,
}

/// Does it.
pub(crate) fn inject(lab: &mut Lab, act: Act, leader: usize, plan: &Plan) -> Result<Injected> {
    let others: Vec<usize> = (0..lab.nodes.len()).filter(|index| *index != leader).collect();
    let (node, drawn) = match act.victim {
        Victim::Leader => (leader, 0),
        Victim::Other(which) => (others[which % others.len()], 0),
        Victim::Ensemble(drawn) => (leader, drawn),
    };
    let on_node = !matches!(act.victim, Victim::Ensemble(_));
    let name = lab.nodes[node].name.clone();
    let done = |what: String, undo, cause| Injected {
        cause,
        node: on_node.then_some(node),
        paused: false,
        stopped: None,
        what,
        undo,
    };
    let now = || Cause::Over(boot_ns());
    let filter = |lab: &Lab, rules: &[(&str, &str)]| lab.net.filter(&name, rules);
    Ok(match act.kind {
        Kind::NodeCut => {
            filter(lab, &[("in", "iifname eth0 drop"), ("out", "oifname eth0 drop")])?;
            done(format!("{name} cut"), Undo::PassNode(node), now())
        }
        Kind::NodeDeaf => {
            filter(lab, &[("in", "iifname eth0 drop")])?;
            let heard = u64::try_from((lab.timing.timeout * 2 / 3).as_nanos()).unwrap_or_default();
            let until_ns = boot_ns() + heard;
            done(format!("{name} deaf"), Undo::PassNode(node), Cause::Heard(until_ns))
        }
        Kind::NodeMute => {
            filter(lab, &[("out", "oifname eth0 drop")])?;
            done(format!("{name} mute"), Undo::PassNode(node), now())
        }
        Kind::NodeRejected => {
            let (from, to) = ("iifname eth0 meta l4proto tcp", "oifname eth0 meta l4proto tcp");
            let reject = |what: &str| format!("{what} reject with tcp reset");
            filter(lab, &[("in", &reject(from)), ("out", &reject(to))])?;
            done(format!("{name} rejected"), Undo::PassNode(node), now())
        }
        Kind::RouteRemoved => {
            lab.net.route(&name, false)?;
            done(format!("{name} without a route"), Undo::Route(node), now())
        }
        Kind::CoordinationCut => {
            let servers = list(lab, |_| true);
            filter(
                lab,
                &[
                    ("in", &format!("ip saddr {{ {servers} }} drop")),
                    ("out", &format!("ip daddr {{ {servers} }} drop")),
                ],
            )?;
            done(format!("{name} cut from ZooKeeper"), Undo::PassNode(node), now())
        }
        Kind::PacketLoss => {
            let some = "numgen random mod 100 < 33 drop";
            filter(
                lab,
                &[("in", &format!("iifname eth0 {some}")), ("out", &format!("oifname eth0 {some}"))],
            )?;
            done(format!("{name} loses packets"), Undo::PassNode(node), Cause::Healing)
        }
        Kind::FollowerCut => follower_cut(lab, node, done)?,
        Kind::LeaderPaused | Kind::FollowerPaused => {
            lab.nodes[node].signal(Signal::SIGSTOP)?;
            Injected { paused: true, ..done(format!("{name} paused"), Undo::Resume(node), now()) }
        }
        Kind::LeaderKilled | Kind::FollowerKilled => {
            lab.nodes[node].kill()?;
            done(format!("{name} killed"), Undo::Nodes, now())
        }
        Kind::LeaderStopped | Kind::Pair => {
            let net = std::sync::Arc::clone(&lab.net);
            let stopped = lab.nodes[node].stop(&net)?;
            let cause = Cause::Over(stopped.at_ns);
            Injected { stopped: Some(stopped), ..done(format!("{name} told to stop"), Undo::Nodes, cause) }
        }
        Kind::ClockStepped => {
            lab.nodes[node].step_wall(plan.step_s)?;
            done(format!("{name}'s wall clock off by {} s", plan.step_s), Undo::Wall(node), now())
        }
        Kind::EnsemblePaused => {
            let first = lab.ensemble_leader()?;
            lab.servers[first].signal(Signal::SIGSTOP)?;
            let cause = Cause::Ensemble(lab.watch(Some(first)));
            done(format!("{}, which led, paused", lab.servers[first].host), Undo::ResumeServer(first), cause)
        }
        Kind::ServerKilled => {
            let (led, which) = (lab.ensemble_leader()?, drawn % lab.servers.len());
            lab.servers[which].kill()?;
            let cause = if led == which { Cause::Ensemble(lab.watch(Some(which))) } else { now() };
            done(format!("{} killed", lab.servers[which].host), Undo::StartServers, cause)
        }
        Kind::ServersRolled => {
            for index in 0..lab.servers.len() {
                lab.servers[index].kill()?;
                let net = std::sync::Arc::clone(&lab.net);
                lab.servers[index].start(&net)?;
                lab.ensemble_serves()?;
            }
            done("ZooKeeper rolled".to_owned(), Undo::Nothing, now())
        }
        Kind::EnsembleDown => {
            for server in &lab.servers {
                server.signal(Signal::SIGKILL)?;
            }
            for server in &mut lab.servers {
                server.kill()?;
            }
            done("ZooKeeper down".to_owned(), Undo::StartServers, Cause::EnsembleHealed)
        }
    })
}

/// Moves the node's sessions to a follower, then cuts that one from the other servers: the node goes on hearing it.
fn follower_cut(
    lab: &mut Lab,
    node: usize,
    done: impl Fn(String, Undo, Cause) -> Injected,
) -> Result<Injected> {
    let first = lab.ensemble_leader()?;
    let follower = (first + 1) % lab.servers.len();
    let (name, target) = (lab.nodes[node].name.clone(), lab.servers[follower].address);
    let others = list(lab, |index| index != follower);
    lab.net.filter(&name, &[("out", &format!("ip daddr {{ {others} }} reject with tcp reset"))])?;
    let settled = lab.nodes[node].settles_on(target, STEERED, &lab.interrupt)?;
    lab.net.pass(&name)?;
    lab.net.filter(
        &lab.servers[follower].host,
        &[
            ("in", &format!("ip saddr {{ {others} }} drop")),
            ("out", &format!("ip daddr {{ {others} }} drop")),
        ],
    )?;
    let alone = if settled { "alone" } else { "not alone" };
    let what =
        format!("{} cut from the other servers, {name} connected to it {alone}", lab.servers[follower].host);
    Ok(done(what, Undo::PassServer(follower), Cause::Over(boot_ns())))
}

/// The addresses of servers as nftables wants them.
fn list(lab: &Lab, wanted: impl Fn(usize) -> bool) -> String {
    let servers = lab.servers.iter().enumerate().filter(|(index, _)| wanted(*index));
    servers.map(|(_, server)| server.address.to_string()).collect::<Vec<_>>().join(", ")
}

/// Makes it well again; when it was, on the boot-time clock.
pub(crate) fn heal(lab: &mut Lab, injected: &Injected) -> Result<()> {
    match injected.undo {
        Undo::PassNode(index) => lab.net.pass(&lab.nodes[index].name),
        Undo::PassServer(index) => lab.net.pass(&lab.servers[index].host),
        Undo::Route(index) => lab.net.route(&lab.nodes[index].name, true),
        Undo::Resume(index) if lab.nodes[index].runs() => lab.nodes[index].signal(Signal::SIGCONT),
        Undo::ResumeServer(index) => lab.servers[index].signal(Signal::SIGCONT),
        Undo::StartServers => {
            let net = std::sync::Arc::clone(&lab.net);
            lab.servers.iter_mut().filter(|server| !server.runs()).try_for_each(|server| server.start(&net))
        }
        Undo::Wall(index) => lab.nodes[index].step_wall(0),
        Undo::Resume(_) | Undo::Nodes | Undo::Nothing => Ok(()),
    }
}
