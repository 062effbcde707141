//! What the checks and tests need beyond a Rust toolchain, and how it gets there.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::run::coordinator;
use crate::shell;
use crate::workspace::Workspace;

/// A cargo subcommand from crates.io.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    /// The crate and its program.
    name: &'static str,
    /// Known to work here; a fresh machine gets this one.
    version: &'static str,
}

pub(crate) const DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2" };
pub(crate) const NEXTEST: Tool = Tool { name: "cargo-nextest", version: "0.9.143" };

impl Tool {
    /// The command that a person would type to get it.
    pub(crate) fn remedy(self) -> String {
        format!("cargo install --locked {}@{}", self.name, self.version)
    }

    /// Where it is: on the path, or installed here by an earlier run.
    pub(crate) fn find(self, workspace: &Workspace) -> Option<PathBuf> {
        let ours = workspace.target.join("tools/bin").join(self.name);
        [PathBuf::from(self.name), ours]
            .into_iter()
            .find(|program| shell::succeeds(Command::new(program).arg("--version")))
    }

    /// Builds it once, under the target folder; takes minutes.
    pub(crate) fn install(self, workspace: &Workspace) -> Result<PathBuf> {
        let root = workspace.target.join("tools");
        println!(
            "building {} {} into {} (once; takes some minutes)",
            self.name,
            self.version,
            root.display()
        );
        let start = Instant::now();
        let mut command =
            workspace.cargo(&["install", "--quiet", "--locked", "--version", self.version, self.name]);
        command.arg("--root").arg(&root);
        command.env("CARGO_TARGET_DIR", root.join("build"));
        // Most of a tool's life here is its build: optimised as its authors release it, with fat LTO, cargo-deny takes
        // four times as long to build and saves a second per use.
        for (setting, value) in
            [("DEBUG", "none"), ("OPT_LEVEL", "0"), ("LTO", "off"), ("CODEGEN_UNITS", "16")]
        {
            command.env(format!("CARGO_PROFILE_RELEASE_{setting}"), value);
        }
        shell::run(&format!("install {}", self.name), &mut command)?;
        // Its objects would only fill the target folder.
        if let Err(error) = std::fs::remove_dir_all(root.join("build")) {
            eprintln!("warning: failed to remove {}: {error}", root.join("build").display());
        }
        println!("built {} in {} s", self.name, start.elapsed().as_secs());
        Ok(root.join("bin").join(self.name))
    }

    /// Finds it, or installs it.
    pub(crate) fn ensure(self, workspace: &Workspace) -> Result<PathBuf> {
        self.find(workspace).map_or_else(|| self.install(workspace), Ok)
    }
}

/// The one command that installs ZooKeeper.
pub(crate) const ZOOKEEPER_REMEDY: &str = "sudo apt-get install -y --no-install-recommends zookeeper";

/// Debian's `zookeeper`: whether it is there in the end. Installs it where this process may.
pub(crate) fn zookeeper() -> Result<()> {
    if coordinator::zookeeper_installed() {
        return Ok(());
    }
    if !may_install() {
        bail!("ZooKeeper is not installed; this does it: {ZOOKEEPER_REMEDY}");
    }
    println!("installing Debian's zookeeper (and Java)");
    apt_install(&["zookeeper"])?;
    if !coordinator::zookeeper_installed() {
        bail!("the package zookeeper was installed, but {} is not there", coordinator::JAR);
    }
    Ok(())
}

/// The one command that installs what a private Python needs.
pub(crate) const PYTHON_REMEDY: &str = "sudo apt-get install -y python3-venv python3-dev gcc libc6-dev";

/// Debian's Python with `venv`, and what compiles a package without a wheel. Installs it where this process may.
pub(crate) fn python() -> Result<()> {
    if !may_install() {
        bail!("python3 with venv is not installed; this does it: {PYTHON_REMEDY}");
    }
    println!("installing Debian's python3 with venv");
    apt_install(&["python3-venv", "python3-dev", "gcc", "libc6-dev"])
}

/// The one command that installs what the faults in network namespaces need.
pub(crate) const NETWORK_LAB_REMEDY: &str =
    "sudo apt-get install -y --no-install-recommends iproute2 nftables libfaketime zookeeper";

/// The one command that installs what virtual IPs are measured beside.
pub(crate) const KEEPALIVED_REMEDY: &str = "sudo apt-get install -y --no-install-recommends keepalived";

/// Network namespaces, rules for packets, clocks that are off, and ZooKeeper. Installs them where this process may.
pub(crate) fn network_lab() -> Result<()> {
    let there = |program: &str, arg: &str| shell::succeeds(Command::new(program).arg(arg));
    let libraries = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let clocks = libraries.into_iter().any(|entry| entry.path().join("faketime").is_dir());
    if coordinator::zookeeper_installed() && there("ip", "-V") && there("nft", "-v") && clocks {
        return Ok(());
    }
    if !may_install() {
        bail!("something is missing; as root this does it: {NETWORK_LAB_REMEDY}");
    }
    println!("installing Debian's iproute2, nftables, libfaketime and zookeeper (and Java)");
    apt_install(&["iproute2", "nftables", "libfaketime", "zookeeper"])
}

/// Debian's keepalived, which virtual IPs are measured beside. Installs it where this process may.
pub(crate) fn keepalived() -> Result<()> {
    if shell::succeeds(Command::new("keepalived").arg("--version")) {
        return Ok(());
    }
    if !may_install() {
        bail!("keepalived is missing; as root this does it: {KEEPALIVED_REMEDY}");
    }
    println!("installing Debian's keepalived");
    apt_install(&["keepalived"])
}

fn may_install() -> bool {
    nix::unistd::geteuid().is_root() && Path::new("/usr/bin/apt-get").exists()
}

fn apt_install(packages: &[&str]) -> Result<()> {
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(["-qq", "-o", "Dpkg::Use-Pty=0"]).args(args).env("DEBIAN_FRONTEND", "noninteractive");
        shell::run("apt-get", &mut command)
    };
    apt(&["update"])?;
    apt(&[&["install", "-y", "--no-install-recommends"], packages].concat())
}
