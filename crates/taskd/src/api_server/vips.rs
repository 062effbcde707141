//! Virtual IPs and the cluster's configuration: what any node with a session answers by itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use coord::{LeaseTiming, WriteError};
use proto::NodeId;
use proto::api::{ApiError, ApiErrorKind, Via};
use proto::vip::{Applied, ConfigEntry, ConfigText, Drained, ServiceName, VipOrder, VipPage, VipWhy};
use tarpc::context::Context;
use vip::OrderError;
use vip::config::{Config, Moved};
use vip::store::{ApplyError, ReadError, Store, StoreError};

use super::{ApiServer, Need, RETURN_TRIP, relay};

impl ApiServer {
    /// What this node knows, and who leads as far as it does; none where it takes no part.
    fn vip_view(&self) -> Option<(Arc<vip::View>, Option<NodeId>)> {
        let view = Arc::clone(&self.board.vips()?.view().borrow());
        let leader = self.board.view().and_then(|view| Some(view.leader.as_ref()?.node.clone()));
        Some((view, leader))
    }

    /// What a node that takes no part says, if nobody else can be asked.
    fn takes_no_part(&self) -> ApiError {
        let node = &self.parts.node;
        let message = if self.parts.vips.is_some() {
            format!(
                "the virtual IPs of {node} are starting or stopping: ask again, or another node with --addr"
            )
        } else {
            format!(
                "{node} takes no part in virtual IPs (vip.backend = \"off\"): ask another node with --addr"
            )
        };
        ApiError::new(ApiErrorKind::Conflict, message)
    }

    pub(super) async fn vip_page(&self, context: Context, via: Via) -> Result<VipPage, ApiError> {
        match self.vip_view() {
            Some((view, leader)) => known(&view).map(|view| vip::page(view, leader.as_ref())),
            None => match self.instead(via).await {
                Some(client) => relay(client.vips(context, Via::Peer).await, Need::Read),
                None => Err(self.takes_no_part()),
            },
        }
    }

    pub(super) async fn explain_vip(
        &self,
        context: Context,
        via: Via,
        service: ServiceName,
    ) -> Result<VipWhy, ApiError> {
        let Some((view, leader)) = self.vip_view() else {
            return match self.instead(via).await {
                Some(client) => relay(client.vip_why(context, Via::Peer, service).await, Need::Read),
                None => Err(self.takes_no_part()),
            };
        };
        vip::why(known(&view)?, leader.as_ref(), &service)
            .ok_or_else(|| no_such_service(&service, &view.config))
    }

    /// The leader, where another node than this one leads and may be asked in its place.
    async fn instead(&self, via: Via) -> Option<proto::api::ApiClient> {
        let address = self.board.leader_address().filter(|address| *address != self.parts.address)?;
        if via == Via::Peer { None } else { self.parts.peers.api(&address).await.ok() }
    }

    /// Carries an order out with this node's own means.
    pub(super) async fn vip_order_here(&self, context: Context, order: VipOrder) -> Result<String, ApiError> {
        let Some(handle) = self.board.vips() else {
            return match order {
                VipOrder::Drain { node, why } => self.drain(node, why).await,
                VipOrder::Undrain { node } => self.undrain(node).await,
                VipOrder::Move { .. } | VipOrder::Release { .. } => Err(self.takes_no_part()),
            };
        };
        if let VipOrder::Move { service, .. } | VipOrder::Release { service } = &order {
            let view = Arc::clone(&handle.view().borrow());
            let view = known(&view)?;
            if !view.config.services.contains_key(service) {
                return Err(no_such_service(service, &view.config));
            }
        }
        let left = context.deadline.saturating_duration_since(Instant::now()).saturating_sub(RETURN_TRIP);
        match tokio::time::timeout(left, handle.order(order)).await {
            Ok(done) => done.map_err(|error| order_failed(&error)),
            Err(_) => Err(ApiError::new(
                ApiErrorKind::Unknown,
                "it was not done within the call's time; whether it is done yet is not known",
            )),
        }
    }

    async fn drain(&self, node: NodeId, why: String) -> Result<String, ApiError> {
        let drained = Drained { since_ms: self.parts.clock.wall().0, why };
        let new = self.store()?.drain(&node, drained).await.map_err(|error| store_failed(&error))?;
        Ok(if new { format!("{node} is drained") } else { format!("{node} was drained already") })
    }

    async fn undrain(&self, node: NodeId) -> Result<String, ApiError> {
        let was = self.store()?.undrain(&node).await.map_err(|error| store_failed(&error))?;
        Ok(if was { format!("{node} may hold services again") } else { format!("{node} was not drained") })
    }

    /// The documents, on this node's session.
    fn store(&self) -> Result<Store, ApiError> {
        let link = self.board.view().and_then(|view| view.control.clone()).ok_or_else(|| {
            ApiError::new(
                ApiErrorKind::NoLeader,
                format!(
                    "{} has no session with the coordination service, so nothing was read or changed: taskd cluster status \
                     says why",
                    self.parts.node
                ),
            )
        })?;
        let layout = coord::Layout::new(self.parts.config.coordination.root.clone());
        Ok(Store::new(link, layout, Arc::clone(&self.parts.clock)))
    }

    pub(super) async fn config(&self, revision: Option<u64>) -> Result<ConfigText, ApiError> {
        let store = self.store()?;
        let Some(revision) = revision else {
            return store.config().await.map_err(|error| config_failed(&error));
        };
        store.config_at(revision).await.map_err(|error| read_failed(&error))?.ok_or_else(|| {
            ApiError::new(
                ApiErrorKind::NotFound,
                format!("there is no revision {revision} (any more): taskd config history lists those that are kept"),
            )
        })
    }

    pub(super) async fn revisions(&self) -> Result<Vec<ConfigEntry>, ApiError> {
        self.store()?.config_history().await.map_err(|error| read_failed(&error))
    }

    pub(super) async fn apply(&self, text: &str, expected: Option<u64>) -> Result<Applied, ApiError> {
        let invalid = |what: String| ApiError::new(ApiErrorKind::Invalid, what);
        let new = vip::config::parse(text)
            .map_err(|errors| invalid(format!("the configuration cannot be applied:\n{errors}")))?;
        let store = self.store()?;
        let verdict = vip::config::check(&new, self.timing());
        if !verdict.errors.is_empty() {
            return Err(invalid(format!(
                "the configuration cannot be applied:\n{}",
                verdict.errors.join("\n")
            )));
        }
        let expected = self.keeps_addresses_apart(&store, &new, expected).await?;
        let by = &self.parts.node;
        let applied = store.apply(text, expected, by, self.parts.clock.wall().0).await;
        let applied = applied.map_err(|error| apply_failed(&error))?;
        // What held before may be from another release, of which this one does not understand all.
        let before = vip::config::parse(&applied.before.text).unwrap_or_default();
        let changes: Vec<_> = vip::config::diff(&before, &new).iter().map(ToString::to_string).collect();
        if applied.now.revision != applied.before.revision {
            tracing::info!(
                revision = applied.now.revision,
                ?changes,
                "a configuration of virtual IPs was applied"
            );
        }
        Ok(Applied { revision: applied.now.revision, changes, warnings: verdict.warnings })
    }

    /// Refuses to give a service what another one has, or had so lately that a node which has not heard of it may still
    /// have the address. Returns the revision that this was judged against.
    async fn keeps_addresses_apart(
        &self,
        store: &Store,
        new: &Config,
        expected: Option<u64>,
    ) -> Result<Option<u64>, ApiError> {
        let now = match store.config().await {
            Ok(now) => now,
            // It is to be replaced, whatever it says.
            Err(ReadError::Garbage(_)) if expected.is_none() => return Ok(None),
            Err(error) => return Err(config_failed(&error)),
        };
        let timing = self.timing();
        let (wall_ms, mut ended_ms) = (self.parts.clock.wall().0, None);
        let mut earlier = Some(now.clone());
        while let Some(text) = earlier {
            // What this release cannot read is nothing that it could compare.
            let old = vip::config::parse(&text.text).unwrap_or_default();
            let longest =
                old.services.values().map(|service| service.takeover_grace).max().unwrap_or_default();
            // A node that is cut off keeps an address until its lease, the grace and the kernel's second are over.
            let wait = timing.timeout + longest + Duration::from_secs(2);
            let passed =
                ended_ms.map_or(Duration::ZERO, |ended| Duration::from_millis(wall_ms.saturating_sub(ended)));
            if passed >= wait {
                break;
            }
            if let Some(Moved { address, from, to }) = vip::config::moved(&old, new).into_iter().next() {
                let left = (wait - passed).as_secs() + 1;
                return Err(ApiError::new(
                    ApiErrorKind::Conflict,
                    format!(
                        "nothing was changed: {address} cannot go from service {from} to {to} at once, since a node that holds \
                         {from} and has not heard of it may still have the address. Apply it without {address} in either, wait \
                         {left} s, then apply it with {address} in {to}"
                    ),
                ));
            }
            ended_ms = Some(text.applied_ms);
            earlier = match text.revision {
                0 | 1 => None,
                revision => store.config_at(revision - 1).await.map_err(|error| config_failed(&error))?,
            };
        }
        Ok(Some(expected.unwrap_or(now.revision)))
    }

    /// What leases of this node's session are worth.
    fn timing(&self) -> LeaseTiming {
        let coordination = &self.parts.config.coordination;
        let timeout = self.board.view().map_or(coordination.session_timeout, |view| view.session_timeout);
        LeaseTiming::new(timeout, coordination.margin(), coordination.tick)
    }
}

/// The view, once it says anything: a node that has never seen the configuration knows of no service, which is no answer.
fn known(view: &vip::View) -> Result<&vip::View, ApiError> {
    let node = &view.node;
    let unknown = || {
        let what = format!(
            "{node} does not know yet which virtual IPs there are: it has not read the configuration since its start. Ask \
             another node with --addr; what it waits for: taskd cluster status"
        );
        ApiError::new(ApiErrorKind::NoLeader, what)
    };
    if view.known { Ok(view) } else { Err(unknown()) }
}

fn no_such_service(service: &ServiceName, config: &Config) -> ApiError {
    let known: Vec<_> = config.services.keys().map(ServiceName::as_str).collect();
    let known = if known.is_empty() {
        "none is configured".to_owned()
    } else {
        format!("there are {}", known.join(", "))
    };
    ApiError::new(ApiErrorKind::NotFound, format!("there is no service {service}; {known}"))
}

fn order_failed(error: &OrderError) -> ApiError {
    let kind = match error {
        // Nothing was done.
        OrderError::NotLeader | OrderError::NotDone(_) => ApiErrorKind::NoLeader,
        OrderError::Refused(_) | OrderError::Ended => ApiErrorKind::Conflict,
        OrderError::Unknown(_) => ApiErrorKind::Unknown,
    };
    ApiError::new(kind, error.to_string())
}

fn apply_failed(error: &ApplyError) -> ApiError {
    match error {
        ApplyError::TooLarge { .. } => ApiError::new(ApiErrorKind::Invalid, error.to_string()),
        ApplyError::Conflict { .. } => ApiError::new(ApiErrorKind::Conflict, error.to_string()),
        ApplyError::Store(StoreError::Read(error)) => config_failed(error),
        ApplyError::Store(error) => store_failed(error),
    }
}

fn store_failed(error: &StoreError) -> ApiError {
    let kind = match error {
        StoreError::Read(error) => return read_failed(error),
        StoreError::Write { source: WriteError::Unknown | WriteError::Ended(_), .. } => ApiErrorKind::Unknown,
        StoreError::Write { .. } | StoreError::Contended { .. } | StoreError::NotOurs { .. } => {
            ApiErrorKind::Conflict
        }
        StoreError::TooLarge { .. } | StoreError::TooMany { .. } => ApiErrorKind::Full,
    };
    ApiError::new(kind, error.to_string())
}

/// The configuration that holds was not read.
fn config_failed(error: &ReadError) -> ApiError {
    let mut failed = read_failed(error);
    if matches!(error, ReadError::Garbage(_)) {
        failed
            .message
            .push_str("; one that can be read takes its place with: taskd config apply FILE --expect any");
    }
    failed
}

fn read_failed(error: &ReadError) -> ApiError {
    let kind = match error {
        ReadError::Call(_) => ApiErrorKind::NoLeader,
        ReadError::Garbage(_) => ApiErrorKind::Conflict,
    };
    ApiError::new(kind, format!("nothing was changed: {error}"))
}
