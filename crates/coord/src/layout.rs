//! Where everything lives (D4).

use proto::NodeId;
use proto::vip::ServiceName;

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

    /// Persistent: the configuration of the virtual IPs; its children are earlier ones.
    pub fn config(&self) -> String {
        self.under("config")
    }

    /// Persistent: the configuration that was replaced as number `revision`.
    pub fn config_history(&self, revision: u64) -> String {
        // Padded, so that names sort as numbers do.
        format!("{}/config/{revision:010}", self.root)
    }

    /// Persistent: nodes that are to hold no virtual IP.
    pub fn drained(&self) -> String {
        self.under("drained")
    }

    /// Parent of what nodes say of themselves and their virtual IPs.
    pub fn vip_nodes(&self) -> String {
        self.under("vip-nodes")
    }

    /// Ephemeral: what `node` says.
    pub fn vip_node(&self, node: &NodeId) -> String {
        format!("{}/vip-nodes/{node}", self.root)
    }

    /// Parent of the services' nodes.
    pub fn vips(&self) -> String {
        self.under("vips")
    }

    /// Persistent: parent of what there is about one service.
    pub fn vip(&self, service: &ServiceName) -> String {
        format!("{}/vips/{service}", self.root)
    }

    /// Persistent: who is to hold the service.
    pub fn vip_assignment(&self, service: &ServiceName) -> String {
        format!("{}/assignment", self.vip(service))
    }

    /// Ephemeral: who holds the service.
    pub fn vip_holder(&self, service: &ServiceName) -> String {
        format!("{}/holder", self.vip(service))
    }

    /// Persistent: whether the service's addresses may be somewhere.
    pub fn vip_term(&self, service: &ServiceName) -> String {
        format!("{}/term", self.vip(service))
    }

    /// Whether it is the virtual IPs' to say what an ephemeral at `path` is for.
    pub fn is_vip(&self, path: &str) -> bool {
        [self.vips(), self.vip_nodes()]
            .iter()
            .any(|dir| path.strip_prefix(dir.as_str()).is_some_and(|rest| rest.starts_with('/')))
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
            self.config(),
            self.drained(),
            self.vip_nodes(),
            self.vips(),
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
