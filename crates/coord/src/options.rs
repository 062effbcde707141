//! What a session needs to know.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// How far the lease margin must exceed one tick: clocks drift and timers fire late.
const DRIFT_MIN: Duration = Duration::from_millis(50);

/// Settings of a [`Session`](crate::Session) and of the leases on it.
#[derive(Clone)]
pub struct Options {
    /// The ensemble: `host:port,host:port`.
    pub hosts: String,
    /// Everything lives under this path, `/taskd` by default.
    pub root: String,
    /// The session timeout to ask for. The server may clamp it: what counts is `Link::session_timeout`.
    pub session_timeout: Duration,
    /// The ensemble's `tickTime`. A client cannot learn it, so it is configuration.
    pub tick: Duration,
    /// How much earlier than the session timeout a lease ends: at least one tick and some drift.
    pub margin: Duration,
    /// Every call on a link ends after this long.
    pub call_deadline: Duration,
    /// Scheme and credentials, `("digest", b"user:password")`. With them everything created is for its creator
    /// alone; without, for everyone who reaches the ensemble.
    pub auth: Option<(String, Vec<u8>)>,
    /// Faults that a test switches on; none by default.
    pub drill: drill::Drill,
    /// Where whoever watches the sessions' owner from outside sees that one of their tasks blocks a thread; nobody does by
    /// default. The client's own threads are not watched.
    pub pulse: pulse::Pulse,
}

impl Options {
    /// The defaults for an ensemble at `hosts` with everything under `root`.
    pub fn new(hosts: impl Into<String>, root: impl Into<String>) -> Self {
        let tick = Duration::from_secs(2);
        Self {
            hosts: hosts.into(),
            root: root.into(),
            session_timeout: Duration::from_secs(4),
            tick,
            margin: tick + Duration::from_millis(100),
            call_deadline: Duration::from_secs(2),
            auth: None,
            drill: drill::Drill::none(),
            pulse: pulse::Pulse::default(),
        }
    }

    /// [`hosts`](Self::hosts) as the client is given them: no address in the form that Rust parses itself, but one
    /// that the system's resolver reads as the same address (`2130706433` for `127.0.0.1`, `::1%0` for `::1`).
    ///
    /// To a literal the client connects without awaiting anything. If that fails at once, since there is no route, it
    /// never polls its own deadline and spins for as long as the route is missing, in one poll, so that nothing can end
    /// it. The resolver is asked on another thread: the deadline is polled, and the client gives up.
    pub fn connect_string(&self) -> String {
        let (servers, chroot) = self.hosts.split_at(self.hosts.find('/').unwrap_or(self.hosts.len()));
        let servers: Vec<_> = servers.split(',').map(not_literal).collect();
        servers.join(",") + chroot
    }

    /// Refuses settings with which a lease could not protect anything or a path could not exist.
    ///
    /// # Errors
    /// The first setting that is wrong, with what to change.
    pub fn check(&self) -> Result<(), InvalidOptions> {
        if self.hosts.trim().is_empty() {
            return Err(InvalidOptions::NoHosts);
        }
        let names = self.root.strip_prefix('/').map(|names| names.split('/'));
        let good = |name: &str| {
            !name.is_empty() && name != "." && name != ".." && !name.chars().any(char::is_control)
        };
        if !names.is_some_and(|mut names| names.all(good)) {
            return Err(InvalidOptions::Root { root: self.root.clone() });
        }
        if self.margin < self.tick + DRIFT_MIN {
            return Err(InvalidOptions::MarginTooSmall { margin: self.margin, least: self.tick + DRIFT_MIN });
        }
        if self.margin >= self.session_timeout {
            return Err(InvalidOptions::MarginTooLarge {
                margin: self.margin,
                timeout: self.session_timeout,
            });
        }
        if self.call_deadline.is_zero() {
            return Err(InvalidOptions::NoDeadline);
        }
        Ok(())
    }
}

/// Credentials are not printed.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("hosts", &self.hosts)
            .field("root", &self.root)
            .field("session_timeout", &self.session_timeout)
            .field("tick", &self.tick)
            .field("margin", &self.margin)
            .field("call_deadline", &self.call_deadline)
            .field("auth", &self.auth.as_ref().map(|(scheme, _)| scheme))
            .field("drill", &self.drill)
            .finish()
    }
}

/// Settings that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOptions {
    /// No server is named.
    #[error("no ZooKeeper server is named: give host:port,host:port")]
    NoHosts,
    /// The root is not a path.
    #[error(
        "{root:?} is not a ZooKeeper path: it starts with '/', ends without, and has no empty, '.' or '..' part"
    )]
    Root {
        /// What was given.
        root: String,
    },
    /// A lease could outlive the session.
    #[error("a lease margin of {margin:?} is less than one tick and drift: set it to {least:?} or more")]
    MarginTooSmall {
        /// What was given.
        margin: Duration,
        /// The smallest that is safe with the configured tick.
        least: Duration,
    },
    /// A lease could never hold.
    #[error(
        "a lease margin of {margin:?} leaves nothing of a session timeout of {timeout:?}: raise the timeout"
    )]
    MarginTooLarge {
        /// What was given.
        margin: Duration,
        /// The session timeout.
        timeout: Duration,
    },
    /// Calls would end before they start.
    #[error("a call deadline of zero ends every call before it starts: use two seconds")]
    NoDeadline,
}

fn not_literal(server: &str) -> String {
    let server = server.trim();
    if let Some((host, port)) = server.strip_prefix('[').and_then(|rest| rest.split_once(']'))
        && let Ok(address) = host.parse::<Ipv6Addr>()
    {
        return format!("[{address}%0]{port}");
    }
    let (host, port) = server.split_at(server.find(':').unwrap_or(server.len()));
    match host.parse::<Ipv4Addr>() {
        Ok(address) => format!("{}{port}", address.to_bits()),
        Err(_) => server.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

    use super::*;

    #[test]
    fn the_client_is_given_no_literals() {
        let rows = [
            ("127.0.0.1:2181", "2130706433:2181"),
            ("10.0.0.1,zk2:2182, 10.0.0.3:2183/chroot", "167772161,zk2:2182,167772163:2183/chroot"),
            ("[::1]:2181,[2001:db8::1]", "[::1%0]:2181,[2001:db8::1%0]"),
            ("zk1.example,localhost:2181", "zk1.example,localhost:2181"),
        ];
        for (hosts, given) in rows {
            assert_eq!(Options::new(hosts, "/taskd").connect_string(), given);
        }
    }

    #[test]
    fn the_resolver_reads_them_as_the_same_addresses() {
        for (given, address) in [("2130706433", "127.0.0.1:80"), ("::1%0", "[::1]:80")] {
            assert!(given.parse::<IpAddr>().is_err());
            let resolved: Vec<SocketAddr> = (given, 80).to_socket_addrs().expect("it is numeric").collect();
            assert_eq!(resolved.first(), address.parse().ok().as_ref(), "{given}");
        }
    }

    #[test]
    fn what_is_refused() {
        let good = Options::new("127.0.0.1:2181", "/taskd");
        assert_eq!(good.check(), Ok(()));
        type Row = (fn(&mut Options), fn(&InvalidOptions) -> bool);
        let rows: [Row; 8] = [
            (|o| o.hosts = " ".into(), |e| matches!(e, InvalidOptions::NoHosts)),
            (|o| o.root = "taskd".into(), |e| matches!(e, InvalidOptions::Root { .. })),
            (|o| o.root = "/".into(), |e| matches!(e, InvalidOptions::Root { .. })),
            (|o| o.root = "/a//b".into(), |e| matches!(e, InvalidOptions::Root { .. })),
            (|o| o.root = "/a/../b".into(), |e| matches!(e, InvalidOptions::Root { .. })),
            (
                |o| o.margin = Duration::from_millis(2049),
                |e| matches!(e, InvalidOptions::MarginTooSmall { .. }),
            ),
            (|o| o.margin = Duration::from_secs(4), |e| matches!(e, InvalidOptions::MarginTooLarge { .. })),
            (|o| o.call_deadline = Duration::ZERO, |e| matches!(e, InvalidOptions::NoDeadline)),
        ];
        for (index, (spoil, expected)) in rows.into_iter().enumerate() {
            let mut options = good.clone();
            spoil(&mut options);
            let error = options.check().expect_err("a spoilt setting is refused");
            assert!(expected(&error), "row {index}: {error}");
        }
    }

    #[test]
    fn credentials_stay_private() {
        let options =
            Options { auth: Some(("digest".into(), b"u:secret".to_vec())), ..Options::new("h", "/r") };
        assert!(!format!("{options:?}").contains("secret"));
    }
}
