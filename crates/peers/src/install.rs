//! What the peers need, and how it gets there: Debian's packages where we may, PyPI's and npm's below one folder.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};

use crate::peer::Peer;
use crate::process::{self, Interrupt, Owned};

/// A slow network, and a busy machine.
const INSTALL_WITHIN: Duration = Duration::from_secs(900);

const REQUIREMENTS: &str = include_str!("../scripts/requirements.txt");
const PACKAGE: &str = include_str!("../scripts/package.json");
const LOCK: &str = include_str!("../scripts/package-lock.json");
const SCRIPTS: [(&str, &str); 5] = [
    ("stamps.mjs", include_str!("../scripts/stamps.mjs")),
    ("bullmq.mjs", include_str!("../scripts/bullmq.mjs")),
    ("graphile.mjs", include_str!("../scripts/graphile.mjs")),
    ("celery_noop.py", include_str!("../scripts/celery_noop.py")),
    ("package.json", PACKAGE),
];

/// Where everything is.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) redis: PathBuf,
    /// Where `initdb`, `postgres` and `pg_isready` are.
    pub(crate) postgres: PathBuf,
    /// Whom PostgreSQL runs as: it refuses root.
    pub(crate) postgres_user: Option<User>,
    /// Of the environment with Celery.
    pub(crate) python: PathBuf,
    pub(crate) node: PathBuf,
    /// The scripts, beside `node_modules`.
    pub(crate) scripts: PathBuf,
    /// The folder of this run, which the next run removes.
    pub(crate) run: PathBuf,
    /// Names and versions.
    pub(crate) versions: Vec<String>,
}

impl Tools {
    /// Removes the folder of this run.
    pub(crate) fn cleanup(&self) -> Result<()> {
        fs::remove_dir_all(&self.run).with_context(|| format!("failed to remove {}", self.run.display()))
    }
}

/// Installs what these peers need and is not there.
pub(crate) fn everything(dir: &Path, peers: &[Peer], interrupt: &Interrupt) -> Result<Tools> {
    fs::create_dir_all(dir).with_context(|| format!("failed to create {}", dir.display()))?;
    let dir = &dir.canonicalize().with_context(|| format!("failed to find {}", dir.display()))?;
    let run = fresh_run(&dir.join("run"))?;
    debian(&run, peers, interrupt)?;
    let scripts = dir.join("scripts");
    fs::create_dir_all(&scripts)?;
    for (name, text) in SCRIPTS {
        fs::write(scripts.join(name), text).with_context(|| format!("failed to write {name}"))?;
    }
    let python = dir.join("python/bin/python");
    if peers.contains(&Peer::Celery) {
        celery(&dir.join("python"), &run, interrupt)?;
    }
    if peers.iter().any(|peer| *peer != Peer::Celery) {
        node_modules(&scripts, &run, interrupt)?;
    }
    let tools = Tools {
        redis: found("redis-server").unwrap_or_default(),
        postgres: postgres_programs().unwrap_or_default(),
        postgres_user: unprivileged()?,
        python,
        node: found("node").unwrap_or_default(),
        scripts,
        run,
        versions: Vec::new(),
    };
    let versions = versions(&tools, peers);
    Ok(Tools { versions, ..tools })
}

/// `BASE/PID`, after removing what runs left that are over.
fn fresh_run(base: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // It is in nobody's way, and the next run tries again.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let run = base.join(std::process::id().to_string());
    fs::create_dir_all(&run).with_context(|| format!("failed to create {}", run.display()))?;
    Ok(run)
}

/// Debian's packages whose programs are missing.
fn debian(run: &Path, peers: &[Peer], interrupt: &Interrupt) -> Result<()> {
    let missing = missing(peers);
    if missing.is_empty() {
        return Ok(());
    }
    let remedy = format!("sudo apt-get install -y --no-install-recommends {}", missing.join(" "));
    if !geteuid().is_root() || found("apt-get").is_none() {
        bail!("something is missing; this installs it: {remedy}");
    }
    println!("installing Debian's {}", missing.join(", "));
    let apt = |args: &[&str]| {
        let mut command = process::tied("apt-get", Signal::SIGTERM, None);
        command.args(["-qq", "-o", "Dpkg::Use-Pty=0"]).args(args).env("DEBIAN_FRONTEND", "noninteractive");
        finish("apt-get", command, run, interrupt)
    };
    apt(&["update"])?;
    apt(&[&["install", "-y", "--no-install-recommends"], &missing[..]].concat())?;
    let still = self::missing(peers);
    if still.is_empty() {
        Ok(())
    } else {
        bail!("{} did not bring what is expected: {remedy}", still.join(", "))
    }
}

fn missing(peers: &[Peer]) -> Vec<&'static str> {
    let any = |wanted: fn(&Peer) -> bool| peers.iter().any(wanted);
    let venv = || {
        let mut command = Command::new("python3");
        succeeds(command.args(["-c", "import ensurepip, venv"]))
    };
    let mut missing = Vec::new();
    if any(|peer| peer.wants_redis()) && found("redis-server").is_none() {
        missing.push("redis-server");
    }
    if any(|peer| *peer == Peer::Celery) && !venv() {
        missing.push("python3-venv");
    }
    if any(|peer| *peer != Peer::Celery) {
        missing.extend(found("node").is_none().then_some("nodejs"));
        missing.extend(found("npm").is_none().then_some("npm"));
    }
    if any(|peer| *peer == Peer::Graphile) && postgres_programs().is_none() {
        missing.push("postgresql");
    }
    missing
}

/// An environment of Python's own with exactly what the requirements say.
fn celery(venv: &Path, run: &Path, interrupt: &Interrupt) -> Result<()> {
    let installed = venv.join("requirements.txt");
    if fs::read_to_string(&installed).is_ok_and(|text| text == REQUIREMENTS) {
        return Ok(());
    }
    println!("installing Celery into {}", venv.display());
    let mut create = process::tied("python3", Signal::SIGTERM, None);
    create.args(["-m", "venv", "--clear"]).arg(venv);
    finish("python3 -m venv", create, run, interrupt)?;
    let wanted = run.join("requirements.txt");
    fs::write(&wanted, REQUIREMENTS)?;
    let mut install = process::tied(venv.join("bin/python"), Signal::SIGTERM, None);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&wanted);
    finish("pip install", install, run, interrupt).context("PyPI must be reachable, once")?;
    // Last: half an environment is none.
    fs::copy(&wanted, &installed).context("failed to note what was installed")?;
    Ok(())
}

/// BullMQ and graphile-worker exactly as the lock file says.
fn node_modules(scripts: &Path, run: &Path, interrupt: &Interrupt) -> Result<()> {
    let installed = scripts.join("node_modules/.installed-lock.json");
    if fs::read_to_string(&installed).is_ok_and(|text| text == LOCK) {
        return Ok(());
    }
    println!("installing BullMQ and graphile-worker into {}", scripts.display());
    fs::write(scripts.join("package-lock.json"), LOCK)?;
    let mut command = process::tied("npm", Signal::SIGTERM, None);
    // Without install scripts: what they would build is optional, and nothing here needs a compiler.
    command.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(scripts);
    finish("npm ci", command, run, interrupt).context("npm's registry must be reachable, once")?;
    fs::write(&installed, LOCK).context("failed to note what was installed")
}

fn finish(name: &str, command: Command, run: &Path, interrupt: &Interrupt) -> Result<()> {
    Owned::start(name, command, &run.join("install.log"), Signal::SIGTERM)?.succeed(INSTALL_WITHIN, interrupt)
}

/// The first of this name on the path.
fn found(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Debian keeps each version's programs in a folder of its own and puts only clients on the path.
fn postgres_programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin")))
        })
        .filter(|(_, bin)| bin.join("initdb").is_file())
        .max();
    newest.map(|(_, bin)| bin).or_else(|| Some(found("initdb")?.parent()?.to_owned()))
}

/// Whom PostgreSQL has to run as when we are root.
fn unprivileged() -> Result<Option<User>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name).with_context(|| format!("failed to look up {name}"))? {
            return Ok(Some(user));
        }
    }
    bail!("PostgreSQL refuses to run as root, and there is neither a user postgres nor a user nobody")
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn versions(tools: &Tools, peers: &[Peer]) -> Vec<String> {
    let says = |program: &Path| {
        let output = Command::new(program).arg("--version").output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        text.unwrap_or_default().lines().next().unwrap_or_default().to_owned()
    };
    let mut all = Vec::new();
    if peers.contains(&Peer::Celery) {
        let pinned =
            REQUIREMENTS.lines().filter(|line| line.starts_with("celery=") || line.starts_with("redis="));
        all.extend(pinned.map(|line| line.replace("==", " ")));
        all.push(says(&tools.python));
    }
    for (peer, package) in [(Peer::Bullmq, "bullmq"), (Peer::Graphile, "graphile-worker")] {
        if peers.contains(&peer) {
            all.push(format!("{package} {}", pinned(package).unwrap_or_default()));
        }
    }
    if peers.iter().any(|peer| *peer != Peer::Celery) {
        all.push(format!("Node {}", says(&tools.node)));
    }
    if peers.iter().any(|peer| peer.wants_redis()) {
        // `Redis server v=7.0.15 sha=…`
        all.push(says(&tools.redis).split(" sha=").next().unwrap_or_default().to_owned());
    }
    if peers.contains(&Peer::Graphile) {
        all.push(says(&tools.postgres.join("postgres")));
    }
    all
}

/// The version of a package in `package.json`.
fn pinned(package: &str) -> Option<String> {
    let json: serde_json::Value = serde_json::from_str(PACKAGE).ok()?;
    Some(json.get("dependencies")?.get(package)?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_pinned_and_no_registry_is_named() {
        assert!(REQUIREMENTS.lines().all(|line| line.split("==").count() == 2), "{REQUIREMENTS}");
        let lock: serde_json::Value = serde_json::from_str(LOCK).unwrap();
        for package in ["bullmq", "graphile-worker", "ioredis"] {
            let wanted = pinned(package).unwrap();
            assert!(wanted.starts_with(|first: char| first.is_ascii_digit()), "{package}: {wanted}");
            let locked = &lock["packages"][format!("node_modules/{package}")];
            assert_eq!(locked["version"].as_str(), Some(wanted.as_str()), "{package}");
        }
        // Whoever runs this gets the packages from where their own npm gets them.
        assert!(!LOCK.contains("http"));
    }

    #[test]
    fn what_dead_runs_left_is_removed_and_what_lives_stays() {
        let base = tempfile::tempdir().unwrap();
        for name in ["999999999", "1"] {
            fs::create_dir(base.path().join(name)).unwrap();
        }
        let run = fresh_run(base.path()).unwrap();
        assert!(run.is_dir());
        assert!(base.path().join("1").is_dir() && !base.path().join("999999999").exists());
    }
}
