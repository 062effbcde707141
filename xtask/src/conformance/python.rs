//! A private Python with what kazoo's tests need, under the target folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::install;
use crate::shell;
use crate::workspace::Workspace;

const REQUIREMENTS: &str = "xtask/kazoo/requirements.txt";
/// A slow network, and some C to compile.
const INSTALL_WITHIN: Duration = Duration::from_secs(600);
const VENV_WITHIN: Duration = Duration::from_secs(120);

/// The virtual environment.
#[derive(Debug)]
pub(super) struct Python {
    dir: PathBuf,
}

impl Python {
    /// The environment for the committed requirements: the one that is there, or a new one.
    pub(super) fn prepare(workspace: &Workspace) -> Result<Self> {
        let requirements = workspace.root.join(REQUIREMENTS);
        let wanted = fs::read_to_string(&requirements)
            .with_context(|| format!("failed to read {}", requirements.display()))?;
        let dir = workspace.target.join("kazoo");
        // Written last, so that half an environment is never taken for one.
        let stamp = dir.join("installed.txt");
        let python = Self { dir };
        let current = fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted);
        if current && shell::succeeds(python.command().args(["-c", "import kazoo.tests"])) {
            return Ok(python);
        }
        println!("installing kazoo and what its tests need into {}", python.dir.display());
        python.create()?;
        let mut pip = python.command();
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]);
        let output = shell::output(pip.arg("--requirement").arg(&requirements), INSTALL_WITHIN)?;
        if !output.status.success() {
            bail!(
                "pip failed: {}\nwithout a C compiler and Python's headers this does it: {}",
                output.stderr.trim(),
                install::PYTHON_REMEDY
            );
        }
        fs::write(&stamp, wanted).with_context(|| format!("failed to write {}", stamp.display()))?;
        Ok(python)
    }

    fn create(&self) -> Result<()> {
        if self.dir.exists() {
            fs::remove_dir_all(&self.dir)
                .with_context(|| format!("failed to remove {}", self.dir.display()))?;
        }
        if venv("python3", &self.dir).is_ok() {
            return Ok(());
        }
        install::python()?;
        // Debian's, whichever comes first on the path.
        venv("/usr/bin/python3", &self.dir)
    }

    /// Its interpreter, undisturbed by what the caller has set for another Python.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(self.program());
        command.env_remove("PYTHONPATH").env_remove("PYTHONHOME").env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    pub(super) fn program(&self) -> PathBuf {
        self.dir.join("bin/python")
    }

    /// The folder whose `kazoo/tests` holds the tests.
    pub(super) fn packages(&self) -> Result<PathBuf> {
        let code = "import kazoo, os; print(os.path.dirname(os.path.dirname(kazoo.__file__)))";
        Ok(PathBuf::from(self.print(code)?))
    }

    /// kazoo's release.
    pub(super) fn kazoo_version(&self) -> Result<String> {
        self.print("import kazoo.version; print(kazoo.version.__version__)")
    }

    fn print(&self, code: &str) -> Result<String> {
        let output = shell::output(self.command().args(["-c", code]), Duration::from_secs(30))?;
        if !output.status.success() {
            bail!("{} failed: {}", self.program().display(), output.stderr.trim());
        }
        Ok(output.stdout.trim().to_owned())
    }
}

fn venv(program: &str, dir: &Path) -> Result<()> {
    let output = shell::output(Command::new(program).args(["-m", "venv"]).arg(dir), VENV_WITHIN)?;
    if !output.status.success() {
        bail!("{program} -m venv failed: {}{}", output.stdout.trim(), output.stderr.trim());
    }
    Ok(())
}
