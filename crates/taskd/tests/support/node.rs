//! One `taskd serve` process.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use testkit::until;

use super::{processes_with, run_at};

/// Lines of a node's log that a failed test shows.
const LOG_LINES: usize = 60;

/// The binary with nothing in its environment that would change what it does.
pub(crate) fn taskd(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taskd"));
    command.args(args).stdin(Stdio::null()).env("NO_COLOR", "1");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TASKD_")) {
        command.env_remove(name);
    }
    command
}

/// The same command where no file may become larger than `kib`, which to it looks like a disk that fails.
pub(crate) fn with_files_of(kib: u64, taskd: &Command) -> Command {
    let mut shell = Command::new("sh");
    // Ignored, the signal leaves the write to fail; the shell counts in units of 512 bytes.
    shell.args(["-c", &format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", kib * 2), "sh"]);
    shell.arg(taskd.get_program()).args(taskd.get_args()).stdin(Stdio::null()).env("NO_COLOR", "1");
    shell
}

/// A configuration file: sections of keys with TOML values.
#[derive(Clone, Debug)]
pub(crate) struct NodeConfig {
    pub(crate) id: String,
    pub(crate) listen: String,
    pub(crate) data_dir: PathBuf,
    /// What its files are called, if not like the node.
    pub(crate) file: String,
    /// The tests' coordination service may be a chroot in a shared one.
    chroot: String,
    sections: BTreeMap<String, BTreeMap<String, String>>,
}

impl NodeConfig {
    pub(crate) fn new(id: &str, listen: &str, hosts: &str, data_dir: &Path) -> Self {
        let (hosts, chroot) = hosts.split_at(hosts.find('/').unwrap_or(hosts.len()));
        let mut config = Self {
            id: id.to_owned(),
            listen: listen.to_owned(),
            data_dir: data_dir.to_owned(),
            file: id.to_owned(),
            chroot: chroot.to_owned(),
            sections: BTreeMap::new(),
        };
        let quoted = |text: &str| format!("{text:?}");
        config.set("node.id", &quoted(id));
        config.set("node.listen", &quoted(listen));
        config.set("node.data_dir", &quoted(&data_dir.display().to_string()));
        config.set("node.slots", "8");
        config.set("node.labels", &format!("{{ node = {id:?} }}"));
        config.set("coordination.hosts", &quoted(hosts));
        config.set_root("/taskd");
        config.set("coordination.session_timeout", "\"2s\"");
        config.set("coordination.tick", "\"500ms\"");
        config.set("coordination.margin", "\"600ms\"");
        config.set("election.hold_down", "\"1s\"");
        config.set("exec.allow", "true");
        // They share this machine's interfaces, which are not theirs.
        config.set("vip.backend", "\"dry-run\"");
        config.set("log.level", "\"info\"");
        config
    }

    /// With the coordination service inside, on a free port, and at the defaults of everything that concerns it.
    pub(crate) fn embedded(id: &str, listen: &str, data_dir: &Path) -> Self {
        let mut config = Self::new(id, listen, "", data_dir);
        config.sections.remove("coordination");
        config.set("coordination.embedded", "true");
        config.set("coordination.embedded_listen", "\"127.0.0.1:0\"");
        config
    }

    /// Sets the root within the tests' own part of the coordination service.
    pub(crate) fn set_root(&mut self, root: &str) {
        let root = format!("\"{}{root}\"", self.chroot);
        self.set("coordination.root", &root);
    }

    /// Sets `SECTION.KEY` to a TOML value.
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        let (section, key) = key.split_once('.').unwrap();
        self.sections.entry(section.to_owned()).or_default().insert(key.to_owned(), value.to_owned());
    }

    fn toml(&self) -> String {
        let mut text = String::new();
        for (section, keys) in &self.sections {
            text.push_str(&format!("[{section}]\n"));
            for (key, value) in keys {
                text.push_str(&format!("{key} = {value}\n"));
            }
        }
        text
    }
}

/// A node that can be started again and again with the same data.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) address: String,
    pub(crate) data_dir: PathBuf,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    started: bool,
}

impl Node {
    /// Writes the configuration into `dir`; starts nothing.
    pub(crate) fn new(config: NodeConfig, dir: &Path) -> Self {
        let path = dir.join(format!("{}.toml", config.file));
        std::fs::write(&path, config.toml()).unwrap();
        let log = dir.join(format!("{}.log", config.file));
        Self {
            id: config.id,
            address: config.listen,
            data_dir: config.data_dir,
            config: path,
            log,
            child: None,
            started: false,
        }
    }

    pub(crate) fn config_path(&self) -> &Path {
        &self.config
    }

    pub(crate) fn spawn(&mut self) {
        self.spawn_by(|taskd| taskd);
    }

    fn spawn_by(&mut self, by: impl FnOnce(Command) -> Command) {
        assert!(self.child.is_none(), "{} runs already", self.id);
        self.started = true;
        let log = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let mut command = by(taskd(&["serve", "--config", self.config.to_str().unwrap()]));
        self.child = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    /// Starts it where no file may become larger than `kib`.
    pub(crate) fn spawn_with_files_of(&mut self, kib: u64) {
        self.spawn_by(|taskd| with_files_of(kib, &taskd));
    }

    /// Starts it with faults switched on.
    pub(crate) fn spawn_drilled(&mut self, drill: &str) {
        self.spawn_by(|mut taskd| {
            taskd.env("TASKD_DRILL", drill);
            taskd
        });
    }

    /// The same, and lets it write down in `history` what a checker wants to know.
    pub(crate) fn spawn_recorded(&mut self, drill: &str, history: &Path) {
        self.spawn_by(|mut taskd| {
            taskd.env("TASKD_DRILL", drill).env("TASKD_DRILL_HISTORY", history);
            taskd
        });
    }

    pub(crate) fn runs(&self) -> bool {
        self.child.is_some()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.as_ref().expect("it was started").id()).unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// `kill -9`, and waits for the end.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Waits until the process has ended by itself: how, and how long it took.
    pub(crate) async fn ended(&mut self, within: Duration) -> (ExitStatus, Duration) {
        let since = Instant::now();
        let what = format!("{} ends", self.id);
        let status = until(&what, within, async || self.child.as_mut().unwrap().try_wait().unwrap()).await;
        self.child = None;
        (status, since.elapsed())
    }

    /// How it has ended by itself, if it has.
    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().unwrap();
        if status.is_some() {
            self.child = None;
        }
        status
    }

    /// SIGTERM, and waits for the end.
    pub(crate) async fn stop(&mut self) -> (ExitStatus, Duration) {
        self.signal(Signal::SIGTERM);
        self.ended(Duration::from_secs(20)).await
    }

    /// `cluster status -o json` of this node, if it answers.
    pub(crate) async fn status(&self) -> Option<Value> {
        let ran = run_at(&self.address, &["cluster", "status", "-o", "json"]).await;
        matches!(ran.code, 0 | 3).then(|| ran.json())
    }

    /// Everything it has logged, in all its lives.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until its log says `text`, `times` times in all.
    pub(crate) async fn logged(&self, text: &str, times: usize, within: Duration) {
        let what = format!("{} logs {text:?}", self.id);
        until(&what, within, async || (self.log().matches(text).count() >= times).then_some(())).await;
    }

    pub(crate) fn show_log(&self) {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        eprintln!("---- the end of the log of {} ({} lines)", self.id, lines.len());
        for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
            eprintln!("{}: {line}", self.id);
        }
    }

    /// The processes that work for this node, except itself.
    pub(crate) fn shims(&self) -> Vec<(i32, String)> {
        let own = self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok());
        let mut found = processes_with(self.data_dir.to_str().unwrap());
        found.retain(|(pid, _)| Some(*pid) != own);
        found
    }

    /// The most memory that the daemon has ever used, in KiB.
    pub(crate) fn memory_peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !self.started {
            return;
        }
        if let Some(mut child) = self.child.take() {
            // It may have ended already, which is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
        // What a killed daemon leaves behind ends by itself later; nobody here wants to wait for it.
        for (pid, _) in self.shims() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}
