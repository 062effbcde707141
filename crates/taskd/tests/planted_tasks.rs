//! Protections of tasks taken out: the checker of the `faults` crate finds it in what the tasks' own processes wrote down,
//! and without the bug it finds nothing.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands, in its helpers too")]

mod support;

use std::path::PathBuf;

use faults::tasks::{Evidence, Job, Report, Rule, SCRIPT, ScheduleView, View, check};
use serde_json::Value;
use support::{Cluster, Node, NodeConfig, SOON, run_at};
use testkit::until;

/// A cluster whose tasks write a history.
struct Watched {
    cluster: Cluster,
    script: PathBuf,
    history: PathBuf,
}

impl Watched {
    /// Starts every node, each with the same bug.
    async fn start(mut cluster: Cluster, bug: &str) -> Self {
        for node in &mut cluster.nodes {
            node.spawn_drilled(bug);
        }
        cluster.healthy(cluster.nodes.len()).await;
        let dir = cluster.dir.path();
        let (script, history) = (dir.join("attempt.sh"), dir.join("history"));
        std::fs::write(&script, SCRIPT).unwrap();
        Self { cluster, script, history }
    }

    /// The command of a job, as the script wants it.
    fn command(&self, job: &Job) -> Vec<String> {
        let ours = [&self.script, &self.history].map(|path| path.to_str().unwrap().to_owned());
        let more = [job.name.clone(), job.pulses.to_string(), job.fails.to_string()];
        let mode = if job.stubborn { "stubborn" } else { "-" }.to_owned();
        ["--".to_owned(), "sh".to_owned()].into_iter().chain(ours).chain(more).chain([mode]).collect()
    }

    fn history(&self) -> String {
        std::fs::read_to_string(&self.history).unwrap_or_default()
    }

    async fn says(&self, what: &str) {
        until(what, SOON, async || self.history().lines().any(|line| line.contains(what)).then_some(()))
            .await;
    }

    /// The newest tasks that the cluster knows.
    async fn views(&self) -> Vec<View> {
        let page = self.cluster.cli(&["task", "list", "--limit", "1000", "-o", "json"]).await;
        serde_json::from_value(page.json()["tasks"].clone()).unwrap()
    }

    async fn judged(&self, jobs: &[Job], acknowledged: &str, schedules: &[ScheduleView]) -> Report {
        let history = format!("{}{acknowledged}", self.history());
        let report = check(Evidence { jobs, history: &history, views: &self.views().await, schedules });
        eprintln!("{report}");
        report
    }
}

fn clean(report: &Report) {
    assert!(report.violations.is_empty() && report.runs > 0, "without the bug: {report}");
}

/// A task that does not heed SIGTERM is cancelled, while another waits for its lock.
async fn cancelled_with_a_lock(bug: &str) -> Report {
    let cluster = Cluster::embedded(|config| {
        config.set("tasks.kill_grace", "\"2s\"");
        config.set("node.slots", "4");
    });
    let watched = Watched::start(cluster, bug).await;
    let limits = vec![("disk".to_owned(), 1)];
    let (name, stubborn) = ("first".to_owned(), true);
    let first = Job { name, stubborn, pulses: 200, limits, cancel_after_ms: Some(0), ..Job::default() };
    let second = Job { name: "second".to_owned(), limits: first.limits.clone(), ..Job::default() };
    let mut acknowledged = String::new();
    let mut ids = Vec::new();
    for job in [&first, &second] {
        let command = watched.command(job);
        let mut args = vec!["--name", &job.name, "--lock", "disk"];
        args.extend(command.iter().map(String::as_str));
        let id = watched.cluster.submit(&args).await;
        watched.says("S ").await;
        acknowledged += &format!("A {} {id}\n", job.name);
        ids.push(id);
    }
    assert_eq!(watched.cluster.cli(&["task", "cancel", &ids[0]]).await.code, 0);
    watched.cluster.reaches(&ids[1], &["succeeded"]).await;
    watched.cluster.reaches(&ids[0], &["cancelled"]).await;
    watched.judged(&[first, second], &acknowledged, &[]).await
}

#[tokio::test]
async fn finds_planted_early_unlock() {
    clean(&cancelled_with_a_lock("").await);
    let report = cancelled_with_a_lock("plant:early-unlock").await;
    assert!(report.breaks(Rule::KeyOverfull), "{report}");
}

/// A leader that hears nothing of the coordination service any more is given tasks while its lease lasts.
async fn submitted_to_the_cut_off(bug: &str) -> Report {
    let longer = |config: &mut NodeConfig| {
        config.set("coordination.session_timeout", "\"6s\"");
        config.set("tasks.heartbeat", "\"200ms\"");
    };
    let (cluster, proxies) = Cluster::behind_proxies(3, longer).await;
    let watched = Watched::start(cluster, bug).await;
    let before = Job { name: "before".to_owned(), ..Job::default() };
    let command = watched.command(&before);
    let mut args = vec!["--name", "before"];
    args.extend(command.iter().map(String::as_str));
    let id = watched.cluster.submit(&args).await;
    watched.cluster.reaches(&id, &["succeeded"]).await;
    let mut acknowledged = format!("A before {id}\n");

    let (old, _) = watched.cluster.leader(&watched.cluster.nodes[0]).await;
    let place = watched.cluster.nodes.iter().position(|node: &Node| node.id == old).unwrap();
    let address = watched.cluster.node(&old).address.clone();
    proxies[place].blackhole();
    let submit = ["task", "submit", "--name", "meanwhile", "--submit-timeout", "8s", "--kind", "noop"];
    let ran = run_at(&address, &submit).await;
    if ran.code == 0 {
        acknowledged += &format!("A meanwhile {}\n", ran.stdout.trim());
    }
    let witness = &watched.cluster.nodes[(place + 1) % 3];
    until("another one leads", SOON, async || {
        let status = witness.status().await?;
        (status["leader"]["node"] != *old && status["leader"]["serving"] == true).then_some(())
    })
    .await;
    proxies[place].heal();
    watched.cluster.healthy(3).await;
    // What was acknowledged and is there becomes final; what is not is looked for in vain.
    until("everything is final", SOON, async || {
        watched.views().await.iter().all(View::is_final).then_some(())
    })
    .await;
    watched.judged(&[before], &acknowledged, &[]).await
}

#[tokio::test]
async fn finds_planted_ack_uncommitted() {
    clean(&submitted_to_the_cut_off("").await);
    let report = submitted_to_the_cut_off("plant:ack-uncommitted").await;
    assert!(report.breaks(Rule::Lost), "{report}");
}

/// A schedule of every second goes through a handover.
async fn ticks_through_a_handover(bug: &str) -> Report {
    let watched = Watched::start(Cluster::prepare(2, |_| ()).await, bug).await;
    let beat = Job { name: "beat".to_owned(), ..Job::default() };
    let command = watched.command(&beat);
    let mut args = vec!["schedule", "add", "beat", "--cron", "* * * * * *", "--misfire", "all"];
    args.extend(command.iter().map(String::as_str));
    let added = watched.cluster.cli(&args).await;
    assert_eq!(added.code, 0, "{added:?}");
    let shown = async || {
        let ran = watched.cluster.cli(&["schedule", "show", "beat", "-o", "json"]).await;
        if ran.code == 0 { ran.json() } else { Value::default() }
    };
    let ticked = async |count: u64| {
        let counted = |shown: &Value| shown["counts"]["tasks"].as_u64().is_some_and(|tasks| tasks >= count);
        until("some ticks have come", SOON, async || counted(&shown().await).then_some(())).await;
    };
    ticked(4).await;
    let before = shown().await["counts"]["tasks"].as_u64().unwrap();
    let ran = watched.cluster.cli(&["cluster", "handover"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    ticked(before + 6).await;
    let paused = watched.cluster.cli(&["schedule", "pause", "beat", "-o", "json"]).await;
    assert_eq!(paused.code, 0, "{paused:?}");
    until("everything is final", SOON, async || {
        watched.views().await.iter().all(View::is_final).then_some(())
    })
    .await;
    let schedule: ScheduleView = serde_json::from_value(shown().await).unwrap();
    let schedule = ScheduleView { every_s: 1, all: true, ..schedule };
    watched.judged(&[], "", &[schedule]).await
}

#[tokio::test]
async fn finds_planted_tick_twice() {
    clean(&ticks_through_a_handover("").await);
    let report = ticks_through_a_handover("plant:tick-twice").await;
    assert!(report.breaks(Rule::TickTwice), "{report}");
}
