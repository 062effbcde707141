//! What no single key shows.

use std::time::Duration;

use super::{Config, Coordination, Problem, parse_address};

impl Config {
    /// Checks what no single key shows. [`load`](super::load) has done it.
    ///
    /// # Errors
    /// Every problem that was found, each with its key and what to do.
    pub fn check(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        let mut unless = |ok: bool, key: &str, message: String| {
            if !ok {
                problems.push(Problem::at(key, message));
            }
        };
        let (node, coordination, tasks) = (&self.node, &self.coordination, &self.tasks);
        unless(
            node.listen.ip().is_loopback() || node.insecure,
            "node.listen",
            format!(
                "{} is reachable from other machines, and this release encrypts and authenticates nothing (TLS is to \
                 come): listen on 127.0.0.1, or set node.insecure = true if the network is trusted",
                node.listen
            ),
        );
        match &node.advertise {
            None => unless(
                !node.listen.ip().is_unspecified(),
                "node.advertise",
                format!(
                    "not set, and {} is no address that others can connect to: set it to this node's HOST:PORT",
                    node.listen
                ),
            ),
            Some(address) => {
                if let Err(error) = parse_address(address) {
                    unless(false, "node.advertise", error);
                }
            }
        }
        unless(node.slots != Some(0), "node.slots", "0 would run nothing: use 1 or more".to_owned());
        unless(node.connections_max >= 8, "node.connections_max", "use 8 or more".to_owned());
        match (&coordination.hosts, coordination.embedded) {
            (Some(hosts), false) => {
                for server in hosts.split(',') {
                    if let Err(error) = parse_address(server.trim()) {
                        unless(false, "coordination.hosts", error);
                    }
                }
            }
            (None, true) => embedded(coordination, node.insecure, &mut unless),
            (Some(hosts), true) => unless(
                false,
                "coordination.embedded",
                format!(
                    "the node cannot both run its own coordination service and use {hosts}: leave out \
                     coordination.hosts, or embedded"
                ),
            ),
            (None, false) => unless(
                false,
                "coordination.hosts",
                "not set: name ZooKeeper's servers, in the file (hosts = \"zk1:2181,zk2:2181,zk3:2181\") or with \
                 --coordination zk1:2181,zk2:2181,zk3:2181; or let this node run its own coordination service, on \
                 one machine, with --embedded"
                    .to_owned(),
            ),
        }
        let root = &coordination.root;
        unless(
            root.len() > 1 && root.starts_with('/') && !root.ends_with('/') && !root.contains("//"),
            "coordination.root",
            format!("{root:?} is not the path of a node: use something like \"/taskd\""),
        );
        let margin = coordination.margin();
        unless(
            margin >= coordination.tick + Duration::from_millis(50) && margin < coordination.session_timeout,
            "coordination.margin",
            format!(
                "{margin:?} must be at least tick + 50ms ({:?}) and less than session_timeout ({:?})",
                coordination.tick + Duration::from_millis(50),
                coordination.session_timeout
            ),
        );
        unless(
            self.election.eligible_max >= 1,
            "election.eligible_max",
            "0 would leave the cluster without a leader: use 1 or more".to_owned(),
        );
        unless(
            tasks.kill_grace <= Duration::from_secs(2),
            "tasks.kill_grace",
            format!("{:?} is too long: use 2s or less", tasks.kill_grace),
        );
        unless(
            tasks.heartbeat >= Duration::from_millis(50),
            "tasks.heartbeat",
            format!("{:?} is too short: use 50ms or more", tasks.heartbeat),
        );
        unless(
            tasks.fence_after >= tasks.kill_grace + 3 * tasks.heartbeat,
            "tasks.fence_after",
            format!(
                "{:?} is too short: use at least kill_grace + 3 × heartbeat ({:?})",
                tasks.fence_after,
                tasks.kill_grace + 3 * tasks.heartbeat
            ),
        );
        unless(
            tasks.restart_extension <= Duration::from_secs(600),
            "tasks.restart_extension",
            format!(
                "{:?} is too long, for a node that does not come back keeps its tasks from running elsewhere: use 10m or less",
                tasks.restart_extension
            ),
        );
        unless(
            self.stop.deadline >= tasks.kill_grace + Duration::from_secs(1),
            "stop.deadline",
            format!(
                "{:?} is too short to end the tasks: use at least tasks.kill_grace + 1s ({:?})",
                self.stop.deadline,
                tasks.kill_grace + Duration::from_secs(1)
            ),
        );
        super::vip::check(&self.vip, &mut unless);
        if let Err(error) = crate::telemetry::directives(&self.log.level) {
            unless(false, "log.level", error);
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

/// What only matters when the node runs the coordination service itself.
fn embedded(coordination: &Coordination, insecure: bool, unless: &mut impl FnMut(bool, &str, String)) {
    let listen = coordination.embedded_listen;
    unless(
        listen.ip().is_loopback() || insecure,
        "coordination.embedded_listen",
        format!(
            "{listen} is reachable from other machines, and nothing there is encrypted: listen on 127.0.0.1, or set \
             node.insecure = true if the network is trusted"
        ),
    );
    let (tick, timeout) = (coordination.tick, coordination.session_timeout);
    let ticks = Duration::from_millis(1)..=Duration::from_secs(3_600);
    unless(ticks.contains(&tick), "coordination.tick", format!("{tick:?} is no tick: use 1ms to 1h"));
    unless(
        timeout >= tick * 2 && timeout <= tick * 20,
        "coordination.session_timeout",
        format!("{timeout:?} must be 2 to 20 ticks ({:?} to {:?})", tick * 2, tick * 20),
    );
}
