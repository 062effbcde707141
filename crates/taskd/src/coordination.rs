//! What sort of coordination service this is: one machine, or several. Asked with ZooKeeper's own `srvr`, best effort.

use std::io;
use std::time::Duration;

use futures::future::join_all;
use proto::status::{CoordinationKind, CoordinationService, ServerState, ServerStatus};
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

/// Servers that are asked at a time what they do.
const SERVERS_MAX: usize = 16;

/// Asks each of the `hosts` what it does, all at once.
pub(crate) async fn servers(network: &SharedNetwork, hosts: &str) -> Vec<ServerStatus> {
    let servers = hosts.split('/').next().unwrap_or_default().split(',').map(str::trim);
    let asked = servers.take(SERVERS_MAX).map(|address| async move {
        let state = state(network, address).await;
        ServerStatus { address: address.to_owned(), state }
    });
    join_all(asked).await
}

async fn state(network: &SharedNetwork, address: &str) -> ServerState {
    let mut stream = match tokio::time::timeout(SERVER_WITHIN, network.connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return unreachable(&error),
        Err(_) => return ServerState::NoAnswer,
    };
    let exchange = async {
        stream.write_all(b"srvr").await?;
        let mut answer = String::new();
        stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    match tokio::time::timeout(SERVER_WITHIN, exchange).await {
        Ok(Ok(answer)) => said(&answer),
        Ok(Err(_)) => ServerState::Closes,
        Err(_) => ServerState::Silent,
    }
}

/// What a failed connect means.
fn unreachable(error: &io::Error) -> ServerState {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ServerState::Refuses,
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => ServerState::NoRoute,
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => ServerState::Closes,
        // What the resolver says has no kind of its own.
        _ if error.raw_os_error().is_none() => ServerState::UnknownName,
        _ => ServerState::NoAnswer,
    }
}

/// What an answer to `srvr` means.
fn said(answer: &str) -> ServerState {
    if answer.is_empty() {
        ServerState::Closes
    } else if answer.contains("not currently serving requests") {
        ServerState::NoQuorum
    } else {
        ServerState::Serves
    }
}

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
    fn what_servers_do() {
        use io::ErrorKind;
        for (kind, state) in [
            (ErrorKind::ConnectionRefused, ServerState::Refuses),
            (ErrorKind::NetworkUnreachable, ServerState::NoRoute),
            (ErrorKind::HostUnreachable, ServerState::NoRoute),
            (ErrorKind::ConnectionReset, ServerState::Closes),
            (ErrorKind::Other, ServerState::UnknownName),
        ] {
            assert_eq!(unreachable(&io::Error::from(kind)), state, "{kind:?}");
        }
        assert_eq!(said(""), ServerState::Closes);
        assert_eq!(
            said("This ZooKeeper instance is not currently serving requests\n"),
            ServerState::NoQuorum
        );
        assert_eq!(said("Zookeeper version: 3.8.0\nMode: follower\n"), ServerState::Serves);
    }

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
