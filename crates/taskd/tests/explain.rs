//! What `taskd cluster status` says during faults, by real nodes: the words, with their figures masked, and that what
//! it says will happen does. Every sentence stands in `src/status/snapshots`; here are those of cheap faults.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands, in its helpers too")]

mod support;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::{Cluster, SOON, free_addresses, run_at};
use testkit::until;

/// Long enough to be asked several times before a session expires, on a busy machine too.
const LONG: &str = "\"6s\"";

/// What a machine with ten times the work that it can do adds to a claim and a recovery.
const NOISE: Duration = Duration::from_secs(5);

/// The sentence and the line below it, figures masked: "for # s", "epoch #".
#[derive(Debug)]
struct Said {
    code: i32,
    summary: String,
    remedy: String,
    /// The sentence as it was.
    raw: String,
}

async fn status(address: &str) -> Said {
    let ran = run_at(address, &["cluster", "status"]).await;
    let mut lines = ran.stdout.lines();
    let raw = lines.next().unwrap_or_default().to_owned();
    let remedy = lines.next().and_then(|line| line.strip_prefix("what to do: ")).unwrap_or_default();
    Said { code: ran.code, summary: mask(&raw), remedy: mask(remedy), raw }
}

/// Every figure before " s" and after "epoch " becomes `#`.
fn mask(text: &str) -> String {
    let is_figure = |word: &str| word.starts_with(|c: char| c.is_ascii_digit());
    let words: Vec<_> = text.split(' ').collect();
    let masked = words.iter().enumerate().map(|(at, word)| {
        let next = words.get(at + 1).map_or("", |next| next.trim_end_matches([';', ':', ',', ')']));
        if is_figure(word) && next == "s" {
            "#".to_owned()
        } else if is_figure(word) && at > 0 && words[at - 1].ends_with("epoch") {
            format!("#{}", word.trim_start_matches(|c: char| c.is_ascii_digit()))
        } else {
            (*word).to_owned()
        }
    });
    masked.collect::<Vec<_>>().join(" ")
}

/// Asks until the masked sentence has `words` in it.
async fn says(address: &str, words: &str) -> Said {
    let mut heard: Vec<String> = Vec::new();
    let asking = async {
        loop {
            let said = status(address).await;
            if said.summary.contains(words) {
                return said;
            }
            if heard.last() != Some(&said.summary) {
                heard.push(said.summary);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let said = tokio::time::timeout(SOON, asking).await;
    said.unwrap_or_else(|_| panic!("{address} never said {words:?}, but:\n{}", heard.join("\n")))
}

#[test]
fn figures_are_masked_and_nothing_else() {
    let text = "NO LEADER for 3.2 s: n1 (epoch 12) at 127.0.0.1:1 has waited 4.0 s; 3 tries";
    assert_eq!(mask(text), "NO LEADER for # s: n1 (epoch #) at 127.0.0.1:1 has waited # s; 3 tries");
}

#[tokio::test]
async fn a_node_that_reaches_no_zookeeper_says_what_each_server_does() {
    let refuses = free_addresses(1).remove(0);
    // Nobody ever accepts: the kernel does, and nothing is said.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = mute.local_addr().unwrap();
    let mut cluster = Cluster::prepare(1, |config| {
        config.set("coordination.hosts", &format!("\"{refuses},{silent}\""));
    })
    .await;
    cluster.nodes[0].spawn();
    let address = cluster.nodes[0].address.clone();

    let said = says(&address, "has been joining the cluster for # s").await;
    assert_eq!(said.code, 3, "{said:?}");
    let servers = format!("{refuses} refuses connections; {silent} takes connections and stays silent");
    assert!(said.summary.starts_with("NO LEADER known here: n1 "), "{said:?}");
    assert!(said.summary.contains(&servers), "{said:?}");
    assert!(
        said.summary.ends_with("it goes on trying by itself; the other nodes may have a leader"),
        "{said:?}"
    );
    assert!(
        said.remedy.starts_with("ask another node: taskd cluster status --addr HOST:PORT; here, "),
        "{said:?}"
    );
    assert!(said.remedy.contains("echo srvr | nc "), "{said:?}");

    for read in [&["task", "list"][..], &["task", "show", "abcdef"], &["task", "logs", "abcdef"]] {
        let ran = run_at(&address, read).await;
        ran.refused(5, &["NO LEADER known here", "only the leader knows the tasks", "taskd cluster status"]);
        assert!(!ran.stderr.contains("queued"), "words for writes: {ran:?}");
        // Two seconds of patience; the rest is this machine's.
        assert!(ran.took < Duration::from_secs(4) + NOISE, "{ran:?}");
    }
    let write = run_at(&address, &["task", "submit", "--submit-timeout", "300ms", "--", "true"]).await;
    write.refused(5, &["NO LEADER known here", "nothing was queued"]);
}

#[tokio::test]
async fn a_boot_and_a_recovery_that_take_their_time_are_named() {
    let mut cluster = Cluster::prepare(2, |config| config.set("election.serve_deadline", LONG)).await;
    cluster.nodes[0].spawn_drilled("hold:runner.boot");
    let address = cluster.nodes[0].address.clone();
    let said = says(&address, "n1's runner has been booting for # s").await;
    assert_eq!(
        said.summary,
        "NO LEADER known here: n1's runner has been booting for # s; then it joins the cluster by itself"
    );
    assert!(said.code == 3 && said.remedy.starts_with("wait, or look at its log"), "{said:?}");
    cluster.nodes[0].kill();

    cluster.nodes[0].spawn_drilled("hold:dispatcher.recover");
    let said = says(&address, "has been recovering the task database for # s").await;
    assert!(
        said.summary.starts_with("NO LEADER: n1 was elected (epoch #), has been recovering the task database for # s, and resigns in # s unless it serves by then"),
        "{said:?}"
    );
    cluster.nodes[1].spawn();
    let other = cluster.nodes[1].address.clone();
    // Its deadline passes, its term counts as failed, and the next one leads.
    let (leader, epoch) = cluster.leader(&cluster.nodes[1]).await;
    assert!(leader == "n2" && epoch > 1, "{leader} leads in epoch {epoch}");
    says(&other, "HEALTHY: n2 leads (epoch #)").await;
}

#[tokio::test]
async fn a_silent_coordination_service_suspends_the_leader_and_then_it_gives_up() {
    let mut cluster = Cluster::prepare_own_with(3, |config| {
        config.set("coordination.session_timeout", LONG);
    })
    .await
    .started()
    .await;
    let (leader, _) = cluster.leader(&cluster.nodes[0]).await;
    let (at, other) = {
        let other = cluster.nodes.iter().find(|node| node.id != leader).unwrap();
        (cluster.node(&leader).address.clone(), other.address.clone())
    };

    cluster.coordinator().pause();
    let said = says(&at, "has suspended its work for # s").await;
    let begins = format!("NO LEADER: {leader} leads (epoch #), but has suspended its work for # s: ");
    assert!(said.code == 3 && said.summary.starts_with(&begins), "{said:?}");
    assert!(
        said.summary.contains("it goes on if that comes back, and resigns in # s otherwise; n"),
        "{said:?}"
    );
    assert!(said.summary.ends_with(" is next") || said.summary.contains(" is next, but "), "{said:?}");
    let said = says(&other, "has had no connection to").await;
    assert!(said.code == 3 && said.summary.starts_with("NO LEADER"), "{said:?}");
    // Nobody is left who believes to lead, and the rows say so.
    let ran = until("the leader was one", SOON, async || {
        let ran = run_at(&at, &["cluster", "status"]).await;
        ran.stdout.contains("was leader").then_some(ran)
    })
    .await;
    assert!(ran.stdout.contains("lease gone") && ran.stdout.contains("stays silent"), "{ran:?}");

    cluster.coordinator_mut().resume();
    cluster.healthy(3).await;
}

#[tokio::test]
async fn a_paused_leader_is_waited_for_and_the_named_one_takes_over() {
    let cluster = Cluster::start_with(3, |config| config.set("coordination.session_timeout", LONG)).await;
    let (leader, _) = cluster.leader(&cluster.nodes[0]).await;
    let witness = cluster.nodes.iter().find(|node| node.id != leader).unwrap();

    cluster.node(&leader).signal(Signal::SIGSTOP);
    let said = says(&witness.address, "once its session has expired, in # s at the latest, ").await;
    let heard = Instant::now();
    assert!(
        said.code == 3 && said.summary.starts_with(&format!("NO LEADER: {leader} (epoch #) ")),
        "{said:?}"
    );
    assert!(said.remedy.starts_with(&format!("wait; then see what became of {leader} at ")), "{said:?}");
    let next =
        said.summary.strip_suffix(" takes over").and_then(|text| text.rsplit(' ').next()).unwrap().to_owned();
    let left = said.raw.split("in ").last().and_then(|text| text.split(' ').next()).unwrap().to_owned();
    let left = Duration::from_secs_f64(left.parse().unwrap());

    let new = until("another one leads", SOON, async || {
        let status = witness.status().await?;
        let node = status["leader"]["node"].as_str()?.to_owned();
        (status["health"] != "no_leader" && node != leader).then_some(node)
    })
    .await;
    assert_eq!(new, next, "who was said to take over: {said:?}");
    assert!(heard.elapsed() < left + NOISE, "{:?} after {said:?}", heard.elapsed());
    // It is a member no more once its session has expired; before that, it is one that does not answer.
    cluster.node(&leader).signal(Signal::SIGCONT);
    cluster.healthy(3).await;
}

#[tokio::test]
async fn attempts_of_a_lost_leader_wait_for_their_fence_and_the_status_says_so() {
    let started = Cluster::start_with(3, |config| {
        config.set("tasks.fence_after", "\"8s\"");
        config.set("node.labels", "{ pair = \"yes\" }");
    });
    let mut cluster = started.await;
    let mut ids = Vec::new();
    // Enough for each node to get some.
    for _ in 0..6 {
        ids.push(cluster.submit(&["--label", "pair=yes", "--", "sleep", "86397"]).await);
    }
    for id in &ids {
        cluster.reaches(id, &["running"]).await;
    }
    let (leader, _) = cluster.leader(&cluster.nodes[0]).await;
    let mut theirs = 0;
    for id in &ids {
        theirs += usize::from(cluster.task(id).await["attempts"][0]["node"] == *leader);
    }
    assert!(theirs > 0, "tasks spread over the nodes");

    cluster.node_mut(&leader).kill();
    let witness = cluster.nodes.iter().find(|node| node.id != leader).unwrap();
    let words = if theirs == 1 {
        format!("1 attempt of {leader} waits for its fence; it runs again in # s")
    } else {
        format!("{theirs} attempts of {leader} wait for its fence; the first runs again in # s")
    };
    let said = says(&witness.address, &words).await;
    assert!(said.code == 3 && said.summary.starts_with("DEGRADED: n"), "{said:?}");
    assert!(said.remedy.contains(&format!("start taskd on {leader} again")), "{said:?}");
    // They run again, and all is well.
    says(&witness.address, "HEALTHY: ").await;
    for id in &ids {
        cluster.cli(&["task", "cancel", id]).await;
        cluster.reaches(id, &["cancelled"]).await;
    }
}
