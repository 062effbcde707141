//! Whether this node may hold a service: the checks of its configuration, and the carrier of its interfaces.
//!
//! ```text
//!  configuration ──▶ Checks ── one task for each check: look, count ──▶ Board ──▶ watch: each service's Fitness
//!  interfaces ─────────────────────────────────────────────────────────▶ at once
//! ```
//!
//! A script, where the node's own file permits any, runs in `/` with the service's name in `TASKD_VIP_SERVICE`, in a process group of its own that is killed at the
//! timeout; the last line that it prints is part of the reason.
//!
//! **Invariant** a node is fit only when every check has answered and passes; until then it is [`Fitness::Unknown`],
//! but for a node that was fit when a check was added.
//!
//! **Invariant** a check that hangs keeps nobody waiting, and never runs twice at a time.

mod board;
mod count;
mod look;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proto::vip::ServiceName;
use pulse::Pulse;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{self, Instant};

use crate::config::{Check, Probe, Service};
use crate::net::Interface;
use board::{Board, CheckId, Configured};
use count::{Count, State};
use look::Looker;

/// The interfaces of this machine, by name.
pub type Links = BTreeMap<String, Interface>;

/// Where this node stands with each service that is enabled.
pub type Fitnesses = BTreeMap<ServiceName, Fitness>;

/// Between two looks, at least, whatever the configuration says.
const INTERVAL_MIN: Duration = Duration::from_millis(50);

/// What is said of a script where the node's own file permits none.
const NO_SCRIPTS: &str = "scripts are not allowed here (vip.scripts)";

/// Whether this node may hold a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fitness {
    /// Not every check has answered yet, as a clause: it must not take the service.
    Unknown(String),
    /// It may.
    Fit,
    /// It must not, and give up what it holds; why, as a clause ("eth1 has no carrier").
    Unfit(String),
}

/// Runs the checks. Dropping it ends them, with the programs that they have started.
#[derive(Debug)]
pub struct Checks {
    board: Arc<Board>,
    links: watch::Receiver<Arc<Links>>,
    running: BTreeMap<ServiceName, Vec<Running>>,
    next: CheckId,
    tasks: JoinSet<()>,
    pulse: Pulse,
}

/// A check that runs.
#[derive(Debug)]
struct Running {
    id: CheckId,
    check: Check,
    /// It is never run, and fails for it.
    refused: bool,
    task: AbortHandle,
}

impl Checks {
    /// Checks of no service yet, on the interfaces that `links` shows: have them there before, or every service is first
    /// unfit for the lack of them. Call it inside a runtime.
    pub fn start(links: watch::Receiver<Arc<Links>>, pulse: Pulse) -> Self {
        let board = Arc::new(Board::new(Arc::clone(&links.borrow())));
        let mut tasks = JoinSet::new();
        tasks.spawn(pulse.watch("the carriers", follow(links.clone(), Arc::clone(&board))));
        Self { board, links, running: BTreeMap::new(), next: 0, tasks, pulse }
    }

    /// Each service's fitness, now and as it changes. A service is in it as soon as [`configure`](Self::configure) has
    /// returned.
    pub fn fitness(&self) -> watch::Receiver<Arc<Fitnesses>> {
        self.board.fitness()
    }

    /// Replaces the services. Checks that stay as they were go on; the others end and start. `roles` maps roles to this
    /// node's interfaces. Without `scripts` a check that is one is not run, and the node is unfit for its service:
    /// whoever may change the cluster's configuration may not, for that, run programs on every node.
    pub fn configure(
        &mut self,
        services: &BTreeMap<ServiceName, Service>,
        roles: &BTreeMap<String, String>,
        scripts: bool,
    ) {
        while self.tasks.try_join_next().is_some() {}
        let mut old = std::mem::take(&mut self.running);
        let mut rows = BTreeMap::new();
        let mut wanted = Vec::new();
        for (name, service) in services.iter().filter(|(_, service)| service.enabled) {
            let mut before = old.remove(name).unwrap_or_default();
            let mut checks = Vec::new();
            for check in &service.checks {
                let refused = !scripts && matches!(check.probe, Probe::Script(_));
                let same = |running: &Running| running.check == *check && running.refused == refused;
                let id = match before.iter().position(same) {
                    Some(same) => {
                        let same = before.swap_remove(same);
                        let id = same.id;
                        self.running.entry(name.clone()).or_default().push(same);
                        id
                    }
                    None => {
                        self.next += 1;
                        wanted.push((name.clone(), self.next, check.clone(), refused));
                        self.next
                    }
                };
                checks.push((id, check.title()));
            }
            before.iter().for_each(|running| running.task.abort());
            let carriers = service.vips.iter().map(|vip| vip.interface.clone()).collect();
            rows.insert(name.clone(), Configured { carriers, checks });
        }
        old.values().flatten().for_each(|running| running.task.abort());
        // The rows first: what a check says to none is lost.
        self.board.configure(roles, rows);
        for (service, id, check, refused) in wanted {
            let (board, links, name, looked_at) =
                (Arc::clone(&self.board), self.links.clone(), service.clone(), check.clone());
            let attend = async move {
                if refused {
                    board.state(&name, id, State::Fails(NO_SCRIPTS.to_owned()));
                } else {
                    attend(board, links, name, id, looked_at).await;
                }
            };
            let task = self.tasks.spawn(self.pulse.watch("a check", attend));
            self.running.entry(service).or_default().push(Running { id, check, refused, task });
        }
    }

    /// Ends all of them; the programs that they have started are killed.
    ///
    /// # Cancel safety
    /// As dropping it.
    pub async fn finish(mut self) {
        self.tasks.shutdown().await;
    }
}

/// A carrier that is lost is known at once, however often the checks look.
async fn follow(mut links: watch::Receiver<Arc<Links>>, board: Arc<Board>) {
    while links.changed().await.is_ok() {
        let links = Arc::clone(&links.borrow_and_update());
        board.links(links);
    }
}

async fn attend(
    board: Arc<Board>,
    mut links: watch::Receiver<Arc<Links>>,
    service: ServiceName,
    id: CheckId,
    check: Check,
) {
    let mut count = Count::new(check.fall, check.rise);
    let mut looker = Looker::new(service.to_string(), check.timeout);
    loop {
        let next = Instant::now() + check.interval.max(INTERVAL_MIN);
        // Not what the board knows of them, which may hear of a change later than this one.
        let carrier = |name: &str| look::carrier(&links.borrow(), &board.interface(name));
        let result = looker.look(&check.probe, carrier).await;
        if count.result(result) {
            board.state(&service, id, count.state().clone());
        }
        // A carrier need not be asked for: its changes are told.
        let told = async {
            match check.probe {
                Probe::Carrier(_) if links.changed().await.is_ok() => {}
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = time::sleep_until(next) => {}
            () = told => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::config::Vip;

    const SOON: Duration = Duration::from_secs(30);

    fn links(carrier: bool) -> Arc<Links> {
        let interface = Interface { link: 1, name: "eth1".to_owned(), mac: None, up: true, carrier };
        Arc::new(Links::from([("eth1".to_owned(), interface)]))
    }

    fn check(script: &str) -> Check {
        let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let interval = Duration::from_millis(50);
        Check { name: Some("it".to_owned()), interval, timeout: SOON, ..Check::new(Probe::Script(argv)) }
    }

    fn service(checks: Vec<Check>) -> Service {
        let vip = Vip { address: "10.0.0.1/24".parse().unwrap(), interface: "eth1".to_owned() };
        Service { checks, ..Service::new(vec![vip]) }
    }

    fn configure(checks: &mut Checks, services: &[(&str, Service)]) {
        let named = |(name, service): &(&str, Service)| (name.parse().unwrap(), service.clone());
        checks.configure(&services.iter().map(named).collect(), &BTreeMap::new(), true);
    }

    async fn becomes(checks: &Checks, service: &str, expected: fn(&Fitness) -> bool) {
        let service = service.parse().unwrap();
        let mut fitness = checks.fitness();
        let reached = fitness.wait_for(|all| all.get(&service).is_some_and(expected));
        let reached = time::timeout(SOON, reached).await.is_ok();
        assert!(reached, "{:?}", checks.fitness().borrow());
    }

    fn fit(fitness: &Fitness) -> bool {
        *fitness == Fitness::Fit
    }

    fn unfit(fitness: &Fitness) -> bool {
        matches!(fitness, Fitness::Unfit(_))
    }

    fn lines(path: &Path) -> usize {
        fs::read_to_string(path).map_or(0, |text| text.lines().count())
    }

    #[tokio::test]
    async fn a_script_falls_and_rises_while_another_hangs() {
        let dir = tempfile::tempdir().unwrap();
        let bad = dir.path().join("bad");
        let looks = dir.path().join("looks");
        let script =
            format!("echo >> {}; [ ! -e {} ] || {{ echo broken; exit 1; }}", looks.display(), bad.display());
        let (_keep, seen) = watch::channel(links(true));
        let mut checks = Checks::start(seen, Pulse::default());
        let all = [("hangs", service(vec![check("sleep 1000")])), ("iscsi", service(vec![check(&script)]))];
        configure(&mut checks, &all);
        becomes(&checks, "iscsi", fit).await;
        let hanging = checks.fitness().borrow()[&"hangs".parse().unwrap()].clone();
        assert_eq!(hanging, Fitness::Unknown("check \"it\" has not answered yet".to_owned()));
        fs::write(&bad, "").unwrap();
        becomes(&checks, "iscsi", unfit).await;
        let why = checks.fitness().borrow()[&"iscsi".parse().unwrap()].clone();
        assert_eq!(why, Fitness::Unfit("check \"it\": exited with 1: broken".to_owned()));
        fs::remove_file(&bad).unwrap();
        becomes(&checks, "iscsi", fit).await;
        // The same configuration again leaves the run alone; none ends it.
        configure(&mut checks, &all);
        assert!(fit(&checks.fitness().borrow()[&"iscsi".parse().unwrap()]));
        configure(&mut checks, &all[..1]);
        assert!(!checks.fitness().borrow().contains_key(&"iscsi".parse().unwrap()));
        testkit::until("the run has ended", SOON, async || {
            (checks.tasks.len() == 2).then_some(()).or_else(|| {
                while checks.tasks.try_join_next().is_some() {}
                None
            })
        })
        .await;
        time::timeout(SOON, checks.finish()).await.unwrap();
    }

    #[tokio::test]
    async fn no_script_runs_where_the_node_permits_none() {
        let dir = tempfile::tempdir().unwrap();
        let ran = dir.path().join("ran");
        let (_keep, seen) = watch::channel(links(true));
        let mut checks = Checks::start(seen, Pulse::default());
        let services =
            [("iscsi".parse().unwrap(), service(vec![check(&format!("touch {}", ran.display()))]))];
        for _ in 0..2 {
            checks.configure(&services.clone().into(), &BTreeMap::new(), false);
            becomes(&checks, "iscsi", unfit).await;
            let why = checks.fitness().borrow()[&"iscsi".parse().unwrap()].clone();
            assert_eq!(
                why,
                Fitness::Unfit("check \"it\": scripts are not allowed here (vip.scripts)".to_owned())
            );
            assert!(!ran.exists());
            // The node's file permits them from now on, and then not any more.
            checks.configure(&services.clone().into(), &BTreeMap::new(), true);
            becomes(&checks, "iscsi", fit).await;
            std::fs::remove_file(&ran).unwrap();
        }
    }

    #[tokio::test]
    async fn a_script_is_killed_at_its_timeout_and_never_runs_twice_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let (began, twice) = (dir.path().join("began"), dir.path().join("twice"));
        // The lock goes with the process that holds it.
        let script = format!(
            "exec 9> {}; flock -n 9 || echo >> {}; echo >> {}; sleep 1000",
            dir.path().join("lock").display(),
            twice.display(),
            began.display()
        );
        let hanging = Check { timeout: Duration::from_millis(300), fall: 2, ..check(&script) };
        let (_keep, seen) = watch::channel(links(true));
        let mut checks = Checks::start(seen, Pulse::default());
        configure(&mut checks, &[("iscsi", service(vec![hanging]))]);
        becomes(&checks, "iscsi", unfit).await;
        testkit::until("three looks", SOON, async || (lines(&began) >= 3).then_some(())).await;
        assert_eq!(lines(&twice), 0);
        checks.finish().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_carrier_is_known_at_once() {
        let (set, seen) = watch::channel(links(true));
        let mut checks = Checks::start(seen, Pulse::default());
        let slow = Check {
            interval: Duration::from_secs(3600),
            fall: 1,
            rise: 1,
            ..Check::new(Probe::Carrier("eth1".to_owned()))
        };
        configure(&mut checks, &[("iscsi", service(vec![])), ("checked", service(vec![slow]))]);
        becomes(&checks, "iscsi", fit).await;
        becomes(&checks, "checked", fit).await;
        let began = Instant::now();
        set.send_replace(links(false));
        becomes(&checks, "iscsi", unfit).await;
        set.send_replace(links(true));
        becomes(&checks, "iscsi", fit).await;
        becomes(&checks, "checked", fit).await;
        assert!(began.elapsed() < Duration::from_millis(1), "no timer was waited for");
    }
}
