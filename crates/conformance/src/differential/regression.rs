//! Scripts that are kept, with what ZooKeeper said to them: replayed against the keeper alone, they need no Java.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::observe::Observed;
use super::pair::Judge;
use super::script::{ROOT, Script, Step};
use super::server::{Kind, Server};
use super::side::Side;

/// A file of the regression folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Regression {
    /// What it is about, for people.
    pub(super) about: String,
    pub(super) steps: Vec<Recorded>,
}

/// A step and what ZooKeeper said to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Recorded {
    #[serde(rename = "do")]
    pub(super) step: Step,
    /// Empty in a file that a person wrote and nobody has recorded yet.
    #[serde(default)]
    pub(super) zookeeper: Vec<Observed>,
    /// What the keeper said when this was found, where that was something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) keeper: Option<Vec<Observed>>,
}

impl Regression {
    /// Asks a fresh server of `kind` and records its answers; with `keeper`, what the keeper said to the last step.
    pub(super) fn record(
        about: String,
        script: &Script,
        kind: Kind,
        keeper: Option<Vec<Observed>>,
    ) -> Result<Self> {
        let mut side = Side::new(Server::start(kind)?);
        side.begin_script(ROOT);
        let mut steps = Vec::new();
        for step in &script.0 {
            side.begin(step);
            let zookeeper = side.finish(step);
            steps.push(Recorded { step: step.clone(), zookeeper, keeper: None });
        }
        if let Some(last) = steps.last_mut() {
            last.keeper = keeper;
        }
        Ok(Self { about, steps })
    }

    /// Asks a fresh server of `kind`, and says where it answers something else than what was recorded.
    pub(super) fn replay(&self, kind: Kind) -> Result<()> {
        let mut side = Side::new(Server::start(kind)?);
        side.begin_script(ROOT);
        let mut judge = Judge::default();
        for (index, recorded) in self.steps.iter().enumerate() {
            side.begin(&recorded.step);
            let seen = side.finish(&recorded.step);
            if !judge.agree(&recorded.step, &recorded.zookeeper, &seen) {
                bail!(
                    "step {index}, {}\n  ZooKeeper said: {}\n  this one says:  {}",
                    serde_json::to_string(&recorded.step)?,
                    serde_json::to_string(&recorded.zookeeper)?,
                    serde_json::to_string(&seen)?
                );
            }
        }
        Ok(())
    }

    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no regression", path.display()))
    }

    /// Writes it as one line per step, which a person can read and a diff can show.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let mut text = format!("{{\"about\": {}, \"steps\": [\n", serde_json::to_string(&self.about)?);
        for (index, step) in self.steps.iter().enumerate() {
            let comma = if index + 1 < self.steps.len() { "," } else { "" };
            text.push_str(&format!("{}{comma}\n", serde_json::to_string(step)?));
        }
        text.push_str("]}\n");
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The files of the folder, in order.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    Ok(files)
}
