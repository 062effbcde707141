//! What sort of coordination service this is: one machine, or several. Asked with ZooKeeper's own `srvr`, best effort.

use std::time::Duration;

use proto::status::{CoordinationKind, CoordinationService};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::net::SharedNetwork;

/// How long one server may take.
const SERVER_WITHIN: Duration = Duration::from_millis(500);

/// How long all of them may take together.
const ALL_WITHIN: Duration = Duration::from_millis(1_500);

/// Longer answers are none.
const ANSWER_BYTES_MAX: u64 = 4 * 1024;

/// What the keeper's version says of itself.
const KEEPER: &str = "taskd-keeper";

/// Asks the `hosts` in turn until one has said what it is.
pub(crate) async fn ask(network: &SharedNetwork, hosts: &str) -> Option<CoordinationService> {
    let all = async {
        for server in hosts.split(',') {
            let answer = tokio::time::timeout(SERVER_WITHIN, srvr(network, server.trim())).await;
            if let Some(service) = answer.ok().flatten().as_deref().and_then(parse) {
                return Some(service);
            }
        }
        None
    };
    tokio::time::timeout(ALL_WITHIN, all).await.ok().flatten()
}

async fn srvr(network: &SharedNetwork, server: &str) -> Option<String> {
    let mut stream = network.connect(server).await.ok()?;
    stream.write_all(b"srvr").await.ok()?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

/// Reads the answer to `srvr`. A server that does not serve now, or may not be asked, says neither mode nor version.
fn parse(answer: &str) -> Option<CoordinationService> {
    let value = |name: &str| answer.lines().find_map(|line| line.strip_prefix(name));
    let version = value("Zookeeper version: ")?;
    let version: String =
        version.split([',', ' ']).next()?.chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
    let standalone = value("Mode: ")?.trim() == "standalone";
    // ZooKeeper's own release is followed by its build: 3.8.0-6a76182b…
    let release = version.split('-').next()?;
    Some(match (standalone, version.contains(KEEPER)) {
        (true, true) => CoordinationService::new(CoordinationKind::Keeper, version),
        (true, false) => CoordinationService::new(CoordinationKind::StandaloneZookeeper, release),
        (false, _) => CoordinationService::new(CoordinationKind::Ensemble, release),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let rows = [
            (
                "Zookeeper version: 3.8.0-6a76182b, built on 2022-02-25\nLatency min/avg/max: 0/0.0/0\nMode: standalone\n",
                "standalone ZooKeeper 3.8.0 (one machine, not highly available; for more, ZooKeeper)",
            ),
            ("Zookeeper version: 3.6.3--6401e4a, built on x\nMode: follower\n", "ZooKeeper 3.6.3 ensemble"),
            (
                "Zookeeper version: 3.9.1, built on x\nMode: leader\nNode count: 5\n",
                "ZooKeeper 3.9.1 ensemble",
            ),
            (
                "Zookeeper version: 3.8.0-taskd-keeper-0.1.0, built on x\nMode: standalone\n",
                "keeper (one machine, not highly available; for more, ZooKeeper)",
            ),
            ("This ZooKeeper instance is not currently serving requests\n", ""),
            ("srvr is not executed because it is not in the whitelist.\n", ""),
            ("SSH-2.0-OpenSSH_9.2\n", ""),
        ];
        for (answer, expected) in rows {
            let words = parse(answer).map_or_else(String::new, |service| service.to_string());
            assert_eq!(words, expected, "{answer:?}");
        }
    }
}
