//! Before the node joins: what an earlier life left goes.

use std::time::Duration;

use tokio::sync::watch;

use super::{Driver, Mode};
use crate::checks::Links;
use crate::clean::{self, Cleaned};
use crate::error::CleanFailure;
use crate::handle::Handle;
use crate::local_db::LocalDb;
use crate::net::{BackendKind, Watch};
use crate::options::Options;

/// What the kernel may take to list its addresses; removing them takes some 50 µs each.
const CLEAN_WITHIN: Duration = Duration::from_secs(1);

/// What the cleaning leaves for the loop.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(super) options: Options,
    pub(super) db: LocalDb,
    pub(super) watch: Watch,
    pub(super) links: Links,
    pub(super) cleaned: Cleaned,
}

impl Prepared {
    pub(crate) fn into_driver(self, mode: watch::Receiver<Mode>) -> (Driver, Handle) {
        Driver::new(self, mode)
    }
}

impl Driver {
    /// Removes what an earlier life left, and looks at the machine.
    pub(crate) async fn prepare(options: Options) -> Result<Prepared, CleanFailure> {
        let db = LocalDb::open(&options.data_dir).await?;
        // First, so that nothing is missed between the look and the loop.
        let watch = options.backend.watch().await?;
        let cleaned = clean::clean(&*options.backend, &db, CLEAN_WITHIN).await?;
        let links = options.backend.interfaces().await?;
        let links = links.into_iter().map(|link| (link.name.clone(), link)).collect();
        if options.backend.kind() == BackendKind::DryRun {
            tracing::warn!("virtual IPs are a dry run: nothing is changed on this machine");
        }
        Ok(Prepared { options, db, watch, links, cleaned })
    }
}
