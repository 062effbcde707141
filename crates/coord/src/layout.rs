//! Where everything lives (D4).

use proto::NodeId;

use crate::{CallError, Link, Options};

/// The paths under one root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: String,
}

impl Layout {
    /// The layout under `root`.
    pub fn new(root: impl Into<String>) -> Self {
        Self { root: root.into() }
    }

    /// The layout that `options` name.
    pub fn of(options: &Options) -> Self {
        Self::new(options.root.clone())
    }

    /// The root itself.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Persistent: cluster uuid, format version, feature level. `quorum` creates it.
    pub fn cluster(&self) -> String {
        self.under("cluster")
    }

    /// Parent of the ephemeral sequential member nodes.
    pub fn members(&self) -> String {
        self.under("members")
    }

    /// Parent of the ephemeral candidate nodes.
    pub fn candidates(&self) -> String {
        self.under("candidates")
    }

    /// Persistent: node id to priority.
    pub fn priority(&self) -> String {
        self.under("priority")
    }

    /// Ephemeral: who leads.
    pub fn leader(&self) -> String {
        self.under("leader")
    }

    /// Persistent: its version is the epoch.
    pub fn epoch(&self) -> String {
        self.under("epoch")
    }

    /// Persistent: recent terms, failed ones and hold-downs.
    pub fn terms(&self) -> String {
        self.under("terms")
    }

    /// Parent of the probe nodes.
    pub fn probes(&self) -> String {
        self.under("probes")
    }

    /// Persistent: where `node` commits its lease probes. Nobody watches it.
    pub fn probe(&self, node: &NodeId) -> String {
        format!("{}/probes/{node}", self.root)
    }

    /// Parent of the segments of the task log.
    pub fn log_dir(&self) -> String {
        self.under("tasks")
    }

    /// Parent of the parts of large payloads.
    pub fn bodies_dir(&self) -> String {
        self.under("tasks/bodies")
    }

    /// Creates what is persistent and has no content of its own; writes nothing where it exists already. The
    /// cluster record and the probe nodes are their users' to create.
    ///
    /// # Errors
    /// The first path that could not be created.
    ///
    /// # Cancel safety
    /// Safe: what has been created stays, and is what the next call finds.
    pub async fn ensure(&self, link: &Link) -> Result<(), CallError> {
        let paths = [
            self.members(),
            self.candidates(),
            self.priority(),
            self.epoch(),
            self.terms(),
            self.probes(),
            self.bodies_dir(),
        ];
        for path in paths {
            link.ensure(&path).await?;
        }
        Ok(())
    }

    fn under(&self, name: &str) -> String {
        format!("{}/{name}", self.root)
    }
}
