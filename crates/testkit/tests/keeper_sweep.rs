//! The keeper's start and its stop, given up at every await point: whatever was left, the next one serves on the same
//! directory, and nothing lies about in it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use clock::BootClock;
use keeper::server::{Options, Server, StartError};
use testkit::sweep::{Moment, drop_at};
use testkit::until;

const SOON: Duration = Duration::from_secs(30);

async fn start(dir: &Path) -> Result<Server, StartError> {
    let options = Options::new(dir, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    Server::start(options, BootClock::shared(), [7; 32]).await
}

/// As soon as what was given up has let go of the directory.
async fn start_again(dir: &Path) -> Server {
    until("the directory is free", SOON, async || start(dir).await.ok()).await
}

fn files(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("it is there").map(|entry| entry.expect("it can be read"));
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("it is there").flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| ["keeper\n", "keeper-log\n"].contains(&name.as_str())).count()
}

/// It can be served from the directory, and what serves can be ended in order.
async fn nothing_is_left(dir: &Path) {
    let server = start_again(dir).await;
    server.stop().await.expect("it stops in order");
    until("its threads are gone", SOON, async || (threads() == 0).then_some(())).await;
    let files = files(dir);
    assert!(files.iter().all(|name| !name.ends_with(".tmp")), "{files:?}");
}

#[tokio::test]
async fn a_start_and_a_stop_given_up_at_every_await_point_leave_nothing() {
    let mut combinations = 0;
    for moment in Moment::ALL {
        for point in 0.. {
            let dir = tempfile::tempdir().expect("a directory");
            combinations += 1;
            let started = drop_at(point, moment, start(dir.path())).await;
            let undisturbed = started.is_some();
            if let Some(started) = started {
                started.expect("it starts").stop().await.expect("it stops in order");
            }
            nothing_is_left(dir.path()).await;
            if undisturbed {
                break;
            }
        }
        for point in 0.. {
            let dir = tempfile::tempdir().expect("a directory");
            combinations += 1;
            let server = start(dir.path()).await.expect("it starts");
            let stopped = drop_at(point, moment, server.stop()).await;
            nothing_is_left(dir.path()).await;
            if stopped.is_some() {
                break;
            }
        }
    }
    eprintln!("{combinations} combinations");
    assert!(combinations >= 8, "only {combinations}: nothing was swept");
}
