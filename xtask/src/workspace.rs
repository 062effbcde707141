//! What cargo says about this workspace.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::shell;

/// How a program is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    Release,
}

/// The workspace.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// Its root folder.
    pub(crate) root: PathBuf,
    /// Where cargo builds.
    pub(crate) target: PathBuf,
    /// Its packages, by name.
    pub(crate) packages: Vec<Package>,
}

/// One package.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// What it asks for.
    pub(crate) dependencies: Vec<Dependency>,
}

/// One entry of a dependency table.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Dependency {
    /// The package's name.
    pub(crate) name: String,
    /// `None` is a normal dependency; else `dev` or `build`.
    pub(crate) kind: Option<String>,
    /// What of it is switched on.
    #[serde(default)]
    pub(crate) features: Vec<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn load() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
        let output = Command::new(shell::cargo())
            .args(["metadata", "--format-version", "1", "--no-deps", "--manifest-path"])
            .arg(&manifest)
            .output()
            .context("failed to run cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let metadata: Metadata =
            serde_json::from_slice(&output.stdout).context("failed to read what cargo metadata printed")?;
        let mut packages = metadata.packages;
        packages.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { root: metadata.workspace_root, target: metadata.target_directory, packages })
    }

    /// A cargo command at the workspace's root.
    pub(crate) fn cargo(&self, args: &[&str]) -> Command {
        let mut command = Command::new(shell::cargo());
        command.args(args).current_dir(&self.root);
        command
    }

    /// Builds the daemon and says where it is.
    pub(crate) fn build_taskd(&self, profile: Profile) -> Result<PathBuf> {
        self.build("taskd", profile)
    }

    /// Builds a package's program of the same name and says where it is.
    pub(crate) fn build(&self, name: &str, profile: Profile) -> Result<PathBuf> {
        let [program] = &self.build_together(&[name], profile)?[..] else {
            bail!("cargo built something else")
        };
        Ok(program.clone())
    }

    /// Builds several packages' programs at once, so that what one turns on is on in all of them.
    pub(crate) fn build_together(&self, names: &[&str], profile: Profile) -> Result<Vec<PathBuf>> {
        let mut args = vec!["build"];
        for name in names {
            args.extend(["--package", name, "--bin", name]);
        }
        let folder = match profile {
            Profile::Dev => "debug",
            Profile::Release => {
                args.push("--release");
                "release"
            }
        };
        shell::run(&format!("build {}", names.join(" and ")), &mut self.cargo(&args))?;
        Ok(names.iter().map(|name| self.target.join(folder).join(name)).collect())
    }
}
