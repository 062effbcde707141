//! The traps of the real client that this crate works around, each on the keeper and on a real ZooKeeper: they agree. A
//! failure here is news: the client or a server has changed, and the workaround that it names may have become
//! unnecessary, or insufficient.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands, in its helpers too")]

use std::time::Duration;

use testkit::{Flow, Proxy, until};
use zookeeper_client as zk;

const SOON: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(2);

/// Each canary as a test on either server.
macro_rules! on_both {
    ($($canary:ident)*) => {
        mod on_the_keeper {
            $(#[tokio::test]
            async fn $canary() {
                super::$canary(&testkit::keeper().await.hosts()).await;
            })*
        }

        mod on_zookeeper {
            $(#[tokio::test]
            async fn $canary() {
                let Some(zookeeper) = testkit::zookeeper_or_skip().await else { return };
                super::$canary(&zookeeper.hosts()).await;
            })*
        }
    };
}

on_both! {
    persistent_watches_die_at_a_reconnect_and_one_shot_watches_do_not
    writes_made_while_disconnected_are_done_later_whoever_has_given_up
    a_lost_answer_to_a_sequential_create_is_not_resolved
    another_session_is_accepted_silently
    a_multi_does_not_report_what_it_created
    the_server_expires_a_session_before_its_client_knows
}

async fn connect(hosts: &str) -> zk::Client {
    connect_for(hosts, TIMEOUT).await
}

/// Somebody beside the client under test, who has time: a server that starts up on a busy machine may stand still for
/// longer than a short session waits.
async fn witness(hosts: &str) -> zk::Client {
    connect_for(hosts, SOON).await
}

async fn connect_for(hosts: &str, timeout: Duration) -> zk::Client {
    let connector = zk::Client::connector().with_session_timeout(timeout);
    connector.connect(hosts).await.expect("a session can be opened")
}

fn options(mode: zk::CreateMode) -> zk::CreateOptions<'static> {
    mode.with_acls(zk::Acls::anyone_all())
}

async fn persistent(client: &zk::Client, path: &str) {
    client.create(path, b"", &options(zk::CreateMode::Persistent)).await.expect("it can be created");
}

async fn reached(state: &mut zk::StateWatcher, wanted: zk::SessionState) {
    let reached = async { while state.changed().await != wanted {} };
    tokio::time::timeout(SOON, reached).await.unwrap_or_else(|_| panic!("the client is not {wanted}"));
}

/// Hence: one-shot watches only, and after every reconnect `sync` and read again.
async fn persistent_watches_die_at_a_reconnect_and_one_shot_watches_do_not(hosts: &str) {
    let proxy = Proxy::start(hosts).await;
    let (client, other) = (connect(&proxy.hosts()).await, witness(hosts).await);
    persistent(&client, "/one-shot").await;
    for (path, mode) in
        [("/recursive", zk::AddWatchMode::PersistentRecursive), ("/persistent", zk::AddWatchMode::Persistent)]
    {
        persistent(&client, path).await;
        let mut watch = client.watch(path, mode).await.unwrap();
        persistent(&other, &format!("{path}/before")).await;
        let event = tokio::time::timeout(SOON, watch.changed()).await.expect("it works before");
        assert_ne!(event.event_type, zk::EventType::Session);
        let (_, one_shot) = client.list_and_watch_children("/one-shot").await.unwrap();
        let mut state = client.state_watcher();
        proxy.cut();
        reached(&mut state, zk::SessionState::SyncConnected).await;
        persistent(&other, &format!("{path}/after")).await;
        persistent(&other, &format!("/one-shot{path}")).await;
        tokio::time::timeout(SOON, one_shot.changed()).await.expect("a one-shot watch survives");
        // The server sends events in order, so the other watch's would have come by now.
        client.sync("/").await.unwrap();
        let heard = async { while watch.changed().await.event_type == zk::EventType::Session {} };
        assert!(tokio::time::timeout(Duration::from_millis(300), heard).await.is_err(), "{mode:?} survived");
    }
}

/// Hence: the write actor submits only while connected, and undoes.
async fn writes_made_while_disconnected_are_done_later_whoever_has_given_up(hosts: &str) {
    let proxy = Proxy::start(hosts).await;
    let (client, other) = (connect(&proxy.hosts()).await, witness(hosts).await);
    let dropped = connect(&proxy.hosts()).await;
    let (mut state, mut dropped_state) = (client.state_watcher(), dropped.state_watcher());
    proxy.set(|faults| faults.refuse = true);
    proxy.cut();
    reached(&mut state, zk::SessionState::Disconnected).await;
    reached(&mut dropped_state, zk::SessionState::Disconnected).await;
    let create = options(zk::CreateMode::Persistent);
    let waited =
        tokio::time::timeout(Duration::from_millis(200), client.create("/cancelled", b"", &create)).await;
    assert!(waited.is_err(), "nothing tells the caller that it is not connected");
    drop(dropped.create("/dropped", b"", &create));
    drop(dropped);
    proxy.heal();
    for path in ["/cancelled", "/dropped"] {
        until(path, SOON, async || other.check_stat(path).await.unwrap()).await;
    }
}

/// Hence: a uuid in the name, and reading back by it.
async fn a_lost_answer_to_a_sequential_create_is_not_resolved(hosts: &str) {
    let proxy = Proxy::start(hosts).await;
    let (client, other) = (connect(&proxy.hosts()).await, witness(hosts).await);
    persistent(&client, "/members").await;
    let create = options(zk::CreateMode::EphemeralSequential);
    proxy.set(|faults| faults.to_client = Flow::Drop);
    let (lost, ()) = tokio::join!(client.create("/members/m-", b"", &create), async {
        until("it is created", SOON, async || {
            (!other.list_children("/members").await.unwrap().is_empty()).then_some(())
        })
        .await;
        proxy.heal();
        proxy.cut();
    });
    assert_eq!(lost.unwrap_err(), zk::Error::ConnectionLoss);
    client.create("/members/m-", b"", &create).await.unwrap();
    assert_eq!(other.list_children("/members").await.unwrap().len(), 2, "the retry has created a second one");
}

/// Hence: after every reconnect the session is recognised by what it creates.
async fn another_session_is_accepted_silently(hosts: &str) {
    let proxy = Proxy::start(hosts).await;
    let client = connect(&proxy.hosts()).await;
    let create = options(zk::CreateMode::Ephemeral);
    let before = client.create("/before", b"", &create).await.unwrap().0.ephemeral_owner;
    let mut state = client.state_watcher();
    proxy.set(|faults| faults.forget_session = true);
    proxy.cut();
    reached(&mut state, zk::SessionState::SyncConnected).await;
    let after = client.create("/after", b"", &create).await.unwrap().0.ephemeral_owner;
    assert_ne!(before, after, "the proxy has made it another session");
    assert_eq!(client.session_id().0, before, "the client does not know");
}

/// Hence: an ephemeral that a `multi` created is looked at once more.
async fn a_multi_does_not_report_what_it_created(hosts: &str) {
    let client = connect(hosts).await;
    let mut writer = client.new_multi_writer();
    writer.add_create("/node", b"", &options(zk::CreateMode::Ephemeral)).unwrap();
    let results = writer.commit().await.unwrap();
    assert!(
        matches!(&results[..], [zk::MultiWriteResult::Create { stat, .. }] if stat.is_invalid()),
        "{results:?}"
    );
}

/// Hence: an own lease on an own clock.
async fn the_server_expires_a_session_before_its_client_knows(hosts: &str) {
    let proxy = Proxy::start(hosts).await;
    let (client, other) = (connect(&proxy.hosts()).await, witness(hosts).await);
    client.create("/mine", b"", &options(zk::CreateMode::Ephemeral)).await.unwrap();
    proxy.blackhole();
    until("the server has expired it", SOON, async || {
        other.check_stat("/mine").await.unwrap().is_none().then_some(())
    })
    .await;
    assert_ne!(client.state(), zk::SessionState::Expired);
}
