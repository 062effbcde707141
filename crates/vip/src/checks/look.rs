//! One look of a check at its node.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time;

use super::Links;
use crate::config::Probe;
use crate::program::{self, Group};

/// `comm` holds this much of a name.
const COMM_BYTES: usize = 15;

/// Looks, never twice at a time.
#[derive(Debug)]
pub(super) struct Looker {
    service: String,
    timeout: Duration,
    /// What the last look has left behind.
    busy: Option<Busy>,
}

#[derive(Debug)]
enum Busy {
    Program(Group),
    Scan(JoinHandle<Result<(), String>>),
}

impl Looker {
    pub(super) fn new(service: String, timeout: Duration) -> Self {
        Self { service, timeout, busy: None }
    }

    /// Takes about the timeout at most. Why it fails, as a clause.
    pub(super) async fn look(
        &mut self,
        probe: &Probe,
        carrier: impl Fn(&str) -> Result<(), String>,
    ) -> Result<(), String> {
        if let Some(busy) = &mut self.busy {
            if time::timeout(self.timeout, busy.gone()).await.is_err() {
                return Err("hangs, and cannot be killed".to_owned());
            }
            self.busy = None;
        }
        match probe {
            Probe::Script(argv) => {
                let ran = program::run(argv, &[("TASKD_VIP_SERVICE", &self.service)], self.timeout).await;
                self.busy = ran.stuck.map(Busy::Program);
                ran.result
            }
            Probe::Process(name) => {
                let name = name.clone();
                let mut scan = tokio::task::spawn_blocking(move || process(Path::new("/proc"), &name));
                match time::timeout(self.timeout, &mut scan).await {
                    Ok(found) => found.unwrap_or_else(|error| Err(format!("cannot look: {error}"))),
                    Err(_) => {
                        self.busy = Some(Busy::Scan(scan));
                        Err(format!("/proc was not read within {} ms", self.timeout.as_millis()))
                    }
                }
            }
            Probe::Carrier(name) => carrier(name),
            Probe::Tcp(target) => {
                match time::timeout(self.timeout, TcpStream::connect(target.as_str())).await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(error)) => Err(format!("{target} does not accept: {error}")),
                    Err(_) => Err(format!("{target} does not accept within {} ms", self.timeout.as_millis())),
                }
            }
        }
    }
}

impl Busy {
    async fn gone(&mut self) {
        match self {
            Self::Program(group) => group.gone().await,
            Self::Scan(scan) => drop(scan.await),
        }
    }
}

/// Whether the interface is up and has a carrier.
pub(super) fn carrier(links: &Links, interface: &str) -> Result<(), String> {
    match links.get(interface) {
        None => Err(format!("there is no interface {interface}")),
        Some(link) if !link.up => Err(format!("{interface} is down")),
        Some(link) if !link.carrier => Err(format!("{interface} has no carrier")),
        Some(_) => Ok(()),
    }
}

/// Whether a process of that name lives.
fn process(proc: &Path, name: &str) -> Result<(), String> {
    let entries = fs::read_dir(proc).map_err(|error| format!("cannot read {}: {error}", proc.display()))?;
    for entry in entries.flatten() {
        let file = entry.file_name();
        if file.to_str().is_none_or(|file| !file.bytes().all(|byte| byte.is_ascii_digit())) {
            continue;
        }
        if is(&entry.path(), name).unwrap_or(false) {
            return Ok(());
        }
    }
    Err(format!("there is no process {name}"))
}

/// An error: it has ended meanwhile, or is none of ours to see.
fn is(dir: &Path, name: &str) -> io::Result<bool> {
    let stat = fs::read(dir.join("stat"))?;
    let Some((comm, state)) = parse(&stat) else { return Ok(false) };
    // What has ended and was not collected does nothing any more.
    if matches!(state, b'Z' | b'X') {
        return Ok(false);
    }
    if comm == name.as_bytes() {
        return Ok(true);
    }
    let exe = match fs::read_link(dir.join("exe")) {
        Ok(exe) => exe,
        // Somebody else's, or a kernel thread: its shortened name is all there is.
        Err(_) => return Ok(name.len() > COMM_BYTES && comm == &name.as_bytes()[..COMM_BYTES]),
    };
    let base = exe.file_name().and_then(|base| base.to_str()).unwrap_or_default();
    // An upgrade has replaced its file.
    Ok(base.strip_suffix(" (deleted)").unwrap_or(base) == name)
}

/// `4258 (name, which may hold anything) S …`
fn parse(stat: &[u8]) -> Option<(&[u8], u8)> {
    let open = stat.iter().position(|byte| *byte == b'(')?;
    let close = stat.iter().rposition(|byte| *byte == b')')?;
    Some((stat.get(open + 1..close)?, *stat.get(close + 2)?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::net::Interface;

    #[test]
    fn processes_by_name() {
        let proc = tempfile::tempdir().unwrap();
        let rows = [
            ("10", "10 (iscsid) S 1", Some("/usr/sbin/iscsid")),
            ("11", "11 (a) b) (c) R 1", Some("/usr/bin/perl")),
            ("12", "12 (tgtd) Z 1", None),
            ("13", "13 (worker/3) S 1", Some("/opt/storage-metadata-server (deleted)")),
            ("14", "14 (storage-chunk-s) S 1", None),
            ("self", "10 (hidden) S 1", None),
        ];
        for (pid, stat, exe) in rows {
            let dir = proc.path().join(pid);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("stat"), stat).unwrap();
            if let Some(exe) = exe {
                symlink(exe, dir.join("exe")).unwrap();
            }
        }
        let is = [
            ("iscsid", true),
            ("iscsi", false),
            ("a) b) (c", true),
            ("perl", true),
            ("tgtd", false),
            ("storage-metadata-server", true),
            ("storage-chunk-server", true),
            ("storage-chunk-s", true),
            ("hidden", false),
        ];
        for (name, found) in is {
            assert_eq!(process(proc.path(), name).is_ok(), found, "{name}");
        }
        // This one, as the kernel shows it.
        let me = std::env::current_exe().unwrap();
        assert_eq!(process(Path::new("/proc"), me.file_name().unwrap().to_str().unwrap()), Ok(()));
    }

    #[test]
    fn carriers() {
        let link = |name: &str, up, carrier| {
            (name.to_owned(), Interface { link: 1, name: name.to_owned(), mac: None, up, carrier })
        };
        let links =
            BTreeMap::from([link("eth0", true, true), link("eth1", true, false), link("eth2", false, false)]);
        let said = |name| carrier(&links, name).err();
        assert_eq!(said("eth0"), None);
        assert_eq!(said("eth1").unwrap(), "eth1 has no carrier");
        assert_eq!(said("eth2").unwrap(), "eth2 is down");
        assert_eq!(said("eth3").unwrap(), "there is no interface eth3");
    }

    #[tokio::test]
    async fn a_port_that_nobody_listens_at_fails_and_one_that_somebody_does_passes() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let probe = Probe::Tcp(listener.local_addr().unwrap().to_string());
        let mut looker = Looker::new("iscsi".to_owned(), Duration::from_secs(30));
        let none = |_: &str| Ok(());
        assert_eq!(looker.look(&probe, none).await, Ok(()));
        drop(listener);
        let why = looker.look(&probe, none).await.unwrap_err();
        assert!(why.contains("does not accept"), "{why}");
    }
}
