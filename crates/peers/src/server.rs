//! Redis and PostgreSQL as processes of our own: on loopback, at a free port, on a fresh folder.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::install::Tools;
use crate::peer::Fsync;
use crate::process::{self, Interrupt, Owned};

const READY_WITHIN: Duration = Duration::from_secs(60);

/// A server that answers. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) process: Owned,
    pub(crate) url: String,
}

impl Server {
    /// Redis with its defaults, but for when it forces its file to the disk.
    pub(crate) fn redis(tools: &Tools, dir: &Path, fsync: Fsync, interrupt: &Interrupt) -> Result<Self> {
        let port = free_port()?;
        let mut command = process::tied(&tools.redis, Signal::SIGKILL, None);
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--daemonize", "no", "--dir"]);
        command.arg(dir);
        match fsync {
            Fsync::Never => command.args(["--appendonly", "no"]),
            Fsync::Everysec => command.args(["--appendonly", "yes", "--appendfsync", "everysec"]),
            Fsync::Always => command.args(["--appendonly", "yes", "--appendfsync", "always"]),
        };
        // Its data are thrown away: no last snapshot.
        let mut process = Owned::start("redis-server", command, &dir.join("redis.log"), Signal::SIGKILL)?;
        process::poll("an answer from redis-server", READY_WITHIN, interrupt, || {
            process.check()?;
            Ok(pong(port).ok().filter(|pong| *pong).map(drop))
        })?;
        Ok(Self { process, url: format!("redis://127.0.0.1:{port}/0") })
    }

    /// PostgreSQL with its defaults (`fsync` and `synchronous_commit` are on).
    pub(crate) fn postgres(tools: &Tools, dir: &Path, interrupt: &Interrupt) -> Result<Self> {
        let data = dir.join("postgres");
        fs::create_dir(&data).with_context(|| format!("failed to create {}", data.display()))?;
        let user = tools.postgres_user.as_ref();
        if let Some(user) = user {
            chown(&data, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
                .with_context(|| format!("failed to give {} to {}", data.display(), user.name))?;
        }
        let as_user = user.map(|user| user.name.as_str());
        let log = dir.join("postgres.log");
        let mut init = process::tied(tools.postgres.join("initdb"), Signal::SIGKILL, as_user);
        init.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-D"]).arg(&data);
        init.current_dir("/");
        Owned::start("initdb", init, &log, Signal::SIGTERM)?.succeed(READY_WITHIN, interrupt).with_context(
            || {
                let who = as_user.unwrap_or("this user");
                format!("{who} must be able to reach {}; another folder is chosen with --dir", data.display())
            },
        )?;
        let port = free_port()?.to_string();
        let mut command = process::tied(tools.postgres.join("postgres"), Signal::SIGINT, as_user);
        command.arg("-D").arg(&data).args(["-p", &port, "-h", "127.0.0.1", "-k", ""]).current_dir("/");
        // SIGINT ends it without waiting for its clients.
        let mut process = Owned::start("postgres", command, &log, Signal::SIGINT)?;
        process::poll("an answer from postgres", READY_WITHIN, interrupt, || {
            process.check()?;
            let mut ready = Command::new(tools.postgres.join("pg_isready"));
            ready.args(["-q", "-t", "2", "-h", "127.0.0.1", "-p", &port]).stdin(Stdio::null());
            Ok(ready.status().context("failed to start pg_isready")?.success().then_some(()))
        })?;
        Ok(Self { process, url: format!("postgres://postgres@127.0.0.1:{port}/postgres") })
    }
}

/// Whether Redis answers a ping.
fn pong(port: u16) -> Result<bool> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer)?;
    Ok(&answer == b"+PONG\r\n")
}

/// A port on loopback that nobody listens on just now.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("found no free port on 127.0.0.1")?;
    Ok(listener.local_addr()?.port())
}
