//! The `Api` service of one node: answers what it knows, passes on what the leader must answer.
//!
//! Handlers are thin: tarpc drops them when their client goes away, so nothing is changed across an await here;
//! they ask a [`dispatcher::Handle`] or a peer and return.

mod vips;

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::api::{
    Api, ApiClient, ApiError, ApiErrorKind, ListFilter, Submission, Submitted, TaskPage, Via, Why,
};
use proto::operate::{OperateDone, OperateOrder, Operations};
use proto::runner::OutputChunk;
use proto::schedule::{ScheduleDone, ScheduleName, ScheduleOrder, SchedulePage, ScheduleView};
use proto::status::ClusterStatus;
use proto::task::TaskView;
use proto::vip::{Applied, ConfigEntry, ConfigText, ServiceName, VipOrder, VipPage, VipWhy};
use proto::{NodeId, TaskId};
use quorum::{HandoverError, PriorityError};
use tarpc::client::RpcError;
use tarpc::context::Context;

use crate::links;
use crate::status;
use crate::supervisor::published::Board;
use crate::wiring::Parts;

/// Time kept back from a caller's deadline for the answer's way home.
const RETURN_TRIP: Duration = Duration::from_millis(100);

/// How long a call that needs the leader waits for one when its own deadline is longer.
const LEADERLESS_WAIT_MAX: Duration = Duration::from_secs(15);

/// How long a read waits for a leader: somebody looks on, and gets a sentence rather than silence.
const LEADERLESS_READ_MAX: Duration = Duration::from_secs(2);

/// First pause before a leader is looked for again, after one turned out not to lead; doubles up to [`ASK_AGAIN_MAX`]. An
/// orderly handover is over after some tens of milliseconds.
const ASK_AGAIN_FIRST: Duration = Duration::from_millis(2);
/// Longest such pause.
const ASK_AGAIN_MAX: Duration = Duration::from_millis(50);

/// One node's face to clients and peers. Cheap to clone: tarpc clones it per request.
#[derive(Clone, Debug)]
pub(crate) struct ApiServer {
    pub(crate) parts: Arc<Parts>,
    pub(crate) board: Board,
}

/// What a call does, for its patience and for what is said when nobody could answer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// It shows something.
    Read,
    /// It waits for news, and may for long.
    News,
    /// It changes tasks.
    Write,
    /// It changes schedules.
    Schedule,
    /// It changes who leads.
    Lead,
    /// It moves virtual IPs.
    Vip,
    /// It changes what operators set.
    Operate,
}

impl Need {
    /// How long it waits for a leader when its own deadline is longer.
    const fn patience(self) -> Duration {
        match self {
            Self::Read => LEADERLESS_READ_MAX,
            Self::News | Self::Write | Self::Schedule | Self::Lead | Self::Vip | Self::Operate => {
                LEADERLESS_WAIT_MAX
            }
        }
    }

    /// What to do when its answer was lost, as the end of a sentence.
    const fn after_a_loss(self) -> &'static str {
        match self {
            Self::Read | Self::News => "ask again",
            Self::Write => {
                "whether it was done is not known. Look before you repeat it: taskd task list. Submitting again with the same \
                 id is safe"
            }
            Self::Schedule => {
                "whether it was done is not known. Look before you repeat it: taskd schedule list. Adding it again is safe"
            }
            Self::Operate => {
                "whether it was done is not known. Look before you repeat it: taskd node list. To say it again is safe"
            }
            Self::Lead => "whether it was done is not known. Look before you repeat it: taskd cluster status",
            // Where to look depends on the order; whoever gave it knows.
            Self::Vip => "whether it was done is not known",
        }
    }
}

/// Who answers a call that only the leader can answer.
enum Leader {
    Here(dispatcher::Handle),
    There(ApiClient, Context),
}

impl ApiServer {
    /// Finds the leader, waiting for one within the caller's deadline.
    async fn leader(&self, context: &Context, via: Via, need: Need) -> Result<Leader, ApiError> {
        let now = Instant::now();
        let left = context.deadline.saturating_duration_since(now).saturating_sub(RETURN_TRIP);
        let give_up = now + left.min(need.patience());
        let mut board = self.board.clone();
        loop {
            let mut trouble = None;
            if let Some(handle) = board.dispatcher() {
                return Ok(Leader::Here(handle));
            }
            match (via, board.leader_address()) {
                (Via::Peer, _) => {
                    let deposed = format!("node {} does not lead (any more)", self.parts.node);
                    if board.quorum().is_none_or(|quorum| !leads(&quorum)) {
                        return Err(ApiError::new(ApiErrorKind::NoLeader, deposed));
                    }
                    trouble = Some(deposed);
                }
                (Via::Client, Some(address)) if address != self.parts.address => {
                    match self.parts.peers.api(&address).await {
                        Ok(client) => return Ok(Leader::There(client, *context)),
                        Err(error) => {
                            trouble = Some(format!("the leader at {address} does not answer: {error}"));
                        }
                    }
                }
                (Via::Client, _) => {}
            }
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // Only now: it looks at every member, and many calls may wait.
                let trouble = trouble.unwrap_or_else(|| {
                    let now = self.parts.clock.now();
                    status::why_no_leader(&self.parts.identity, &board.snapshot(), now)
                });
                return Err(nothing_done(need, &trouble));
            }
            // A leader that does not answer may be replaced without our view changing first.
            drop(tokio::time::timeout(left.min(Duration::from_millis(200)), board.changed()).await);
        }
    }
}

impl ApiServer {
    /// Hands this node's leadership over.
    async fn hand_over(&self, to: Option<NodeId>, by: Instant) -> Result<NodeId, ApiError> {
        let Some(quorum) = self.board.quorum() else {
            return Err(ApiError::new(ApiErrorKind::NoLeader, "this node has left the cluster"));
        };
        if let Some(to) = &to {
            // A leader watches the members.
            let members: Vec<_> =
                quorum.view().borrow().members.iter().map(|member| member.node.clone()).collect();
            if !members.contains(to) {
                let members: Vec<_> = members.iter().map(NodeId::as_str).collect();
                return Err(ApiError::new(
                    ApiErrorKind::NotFound,
                    format!("{to} is not a member of this cluster; members are {}", members.join(", ")),
                ));
            }
        }
        self.prepare(&quorum, to.as_ref(), by).await;
        quorum.handover(to).await.map_err(|error| handover_failed(&error))
    }

    /// Gives whoever is to lead next a head start: while it reads the log, this node still dispatches. That takes at most
    /// half of the time that is left until `by`.
    async fn prepare(&self, quorum: &quorum::Handle, to: Option<&NodeId>, by: Instant) {
        if !self.parts.config.election.head_start {
            return;
        }
        let next = {
            let view = quorum.view();
            let view = view.borrow();
            // Whoever cannot take over is refused, and need not read a million tasks for that.
            let mut able = view.candidates.iter().filter(|node| **node != view.node);
            let next = able.find(|node| to.is_none_or(|to| to == *node));
            let next = next.and_then(|next| view.members.iter().find(|member| member.node == *next));
            next.map(|member| (member.node.clone(), member.address.clone()))
        };
        let Some((node, address)) = next else { return };
        let within = by.saturating_duration_since(Instant::now()) / 2;
        if let Err(why) = links::prepare(&self.parts.peers, &address, within).await {
            tracing::info!(%node, why, "the next leader has no head start: it will begin more slowly");
        }
    }
}

/// The end of a call for which no leader was found.
fn nothing_done(need: Need, trouble: &str) -> ApiError {
    let end = match need {
        Need::Write => "nothing was queued or changed. Try again, or look at: taskd cluster status",
        Need::Lead | Need::Vip | Need::Schedule | Need::Operate => {
            "nothing was changed. Try again, or look at: taskd cluster status"
        }
        Need::Read | Need::News => {
            "only the leader knows the tasks, so nothing can be shown before one serves; they are safe, and what runs goes \
             on meanwhile. See: taskd cluster status"
        }
    };
    ApiError::new(ApiErrorKind::NoLeader, format!("{trouble}; {end}"))
}

/// Whether a call that came back undone, because who was asked does not lead (yet, or any more), may be made again:
/// after a pause, if its caller has time for that.
async fn again(context: &Context, begun: Instant, need: Need, pause: &mut Duration) -> bool {
    let left = context.deadline.saturating_duration_since(Instant::now()).saturating_sub(RETURN_TRIP);
    let left = left.min(need.patience().saturating_sub(begun.elapsed()));
    if left <= *pause {
        return false;
    }
    tokio::time::sleep(*pause).await;
    *pause = (*pause * 2).min(ASK_AGAIN_MAX);
    true
}

fn leads(quorum: &quorum::Handle) -> bool {
    !matches!(quorum.view().borrow().role, quorum::Role::Follower)
}

/// A peer's answer, with its transport's failures put into words.
fn relay<T>(answer: Result<Result<T, ApiError>, RpcError>, need: Need) -> Result<T, ApiError> {
    let lost = match answer {
        Ok(answer) => return answer,
        Err(RpcError::DeadlineExceeded) => "the leader did not answer in time".to_owned(),
        Err(error) => format!("the connection to the leader broke ({error})"),
    };
    Err(ApiError::new(ApiErrorKind::Unknown, format!("{lost}; {}", need.after_a_loss())))
}

/// Asks the leader, wherever it is. Views lag behind each other while the leadership moves, so that a peer that we take
/// for the leader may not know it yet, or not be it any more: it has done nothing then, and the call is made again.
macro_rules! at_leader {
    ($self:ident, $context:ident, $via:ident, $need:ident, $method:ident ( $($arg:expr),* )) => {
        at_leader!(
            $self, $context, $via, $need,
            |handle| handle.$method($($arg.clone()),*),
            |client, context| client.$method(context, Via::Peer, $($arg.clone()),*)
        )
    };
    (
        $self:ident, $context:ident, $via:ident, $need:ident,
        |$handle:ident| $here:expr, |$client:ident, $inner:ident| $there:expr
    ) => {{
        let (begun, mut pause) = (Instant::now(), ASK_AGAIN_FIRST);
        loop {
            let answer = match $self.leader(&$context, $via, Need::$need).await? {
                Leader::Here($handle) => $here.await,
                Leader::There($client, $inner) => relay($there.await, Need::$need),
            };
            match answer {
                Err(error) if error.kind == ApiErrorKind::NoLeader && $via == Via::Client => {
                    if !again(&$context, begun, Need::$need, &mut pause).await {
                        return Err(nothing_done(Need::$need, &error.message));
                    }
                }
                answer => return answer,
            }
        }
    }};
}

fn handover_failed(error: &HandoverError) -> ApiError {
    let kind = match error {
        HandoverError::NotLeading { .. } | HandoverError::Stopped => ApiErrorKind::NoLeader,
        HandoverError::TimedOut => ApiErrorKind::Unknown,
        HandoverError::AlreadyLeads(_)
        | HandoverError::NotACandidate { .. }
        | HandoverError::NobodyReady
        | HandoverError::Busy => ApiErrorKind::Conflict,
    };
    ApiError::new(kind, error.to_string())
}

fn priority_failed(error: &PriorityError) -> ApiError {
    let kind = match error {
        PriorityError::NoSuchNode { .. } => ApiErrorKind::NotFound,
        PriorityError::Unknown(_) => ApiErrorKind::Unknown,
        PriorityError::Stopped => ApiErrorKind::NoLeader,
        PriorityError::Contended | PriorityError::Failed(_) => ApiErrorKind::Conflict,
    };
    ApiError::new(kind, error.to_string())
}

impl Api for ApiServer {
    async fn submit(
        self,
        context: Context,
        via: Via,
        tasks: Vec<Submission>,
    ) -> Result<Vec<Submitted>, ApiError> {
        at_leader!(self, context, via, Write, submit(tasks))
    }

    async fn show(self, context: Context, via: Via, id: String) -> Result<TaskView, ApiError> {
        at_leader!(self, context, via, Read, show(id))
    }

    async fn list(self, context: Context, via: Via, filter: ListFilter) -> Result<TaskPage, ApiError> {
        at_leader!(self, context, via, Read, list(filter))
    }

    async fn why(self, context: Context, via: Via, id: String) -> Result<Why, ApiError> {
        at_leader!(self, context, via, Read, why(id))
    }

    async fn cancel(self, context: Context, via: Via, id: String) -> Result<TaskView, ApiError> {
        at_leader!(self, context, via, Write, cancel(id))
    }

    async fn retry(self, context: Context, via: Via, id: String) -> Result<TaskView, ApiError> {
        at_leader!(self, context, via, Write, retry(id))
    }

    async fn watch(
        self,
        context: Context,
        via: Via,
        tasks: Vec<(TaskId, u64)>,
        patience_ms: u64,
    ) -> Result<Vec<TaskView>, ApiError> {
        let patience = Duration::from_millis(patience_ms);
        at_leader!(
            self,
            context,
            via,
            News,
            |handle| handle.watch(tasks.clone(), patience),
            |client, context| { client.watch(context, Via::Peer, tasks.clone(), patience_ms) }
        )
    }

    async fn schedule_order(
        self,
        context: Context,
        via: Via,
        order: ScheduleOrder,
    ) -> Result<ScheduleDone, ApiError> {
        at_leader!(self, context, via, Schedule, schedule_order(order))
    }

    async fn schedule(
        self,
        context: Context,
        via: Via,
        name: ScheduleName,
    ) -> Result<ScheduleView, ApiError> {
        at_leader!(self, context, via, Read, schedule(name))
    }

    async fn schedules(
        self,
        context: Context,
        via: Via,
        after: Option<ScheduleName>,
    ) -> Result<SchedulePage, ApiError> {
        at_leader!(self, context, via, Read, schedules(after))
    }

    async fn output(
        self,
        context: Context,
        via: Via,
        id: String,
        attempt: u32,
        offset: u64,
        bytes_max: u32,
    ) -> Result<OutputChunk, ApiError> {
        at_leader!(self, context, via, Read, output(id, attempt, offset, bytes_max))
    }

    async fn status(self, _: Context, via: Via) -> Result<ClusterStatus, ApiError> {
        Ok(status::collect(&self.parts, &self.board, via).await)
    }

    async fn handover(self, context: Context, via: Via, to: Option<NodeId>) -> Result<NodeId, ApiError> {
        at_leader!(
            self,
            context,
            via,
            Lead,
            |_handle| self.hand_over(to.clone(), context.deadline),
            |client, context| client.handover(context, Via::Peer, to.clone())
        )
    }

    async fn set_priority(self, _: Context, _: Via, node: NodeId, priority: i32) -> Result<(), ApiError> {
        if !(-100..=100).contains(&priority) {
            return Err(ApiError::new(
                ApiErrorKind::Invalid,
                format!("priority {priority} is out of range: use -100 to 100"),
            ));
        }
        let Some(quorum) = self.board.quorum() else {
            return Err(ApiError::new(
                ApiErrorKind::NoLeader,
                "this node has not joined the cluster yet: taskd cluster status says why",
            ));
        };
        quorum.set_priority(node, priority).await.map_err(|error| priority_failed(&error))
    }
    async fn vips(self, context: Context, via: Via) -> Result<VipPage, ApiError> {
        self.vip_page(context, via).await
    }

    async fn vip_why(self, context: Context, via: Via, service: ServiceName) -> Result<VipWhy, ApiError> {
        self.explain_vip(context, via, service).await
    }

    async fn vip_order(self, context: Context, via: Via, order: VipOrder) -> Result<String, ApiError> {
        match &order {
            VipOrder::Drain { .. } | VipOrder::Undrain { .. } => self.vip_order_here(context, order).await,
            VipOrder::Move { .. } | VipOrder::Release { .. } => {
                at_leader!(
                    self,
                    context,
                    via,
                    Vip,
                    |_handle| self.vip_order_here(context, order.clone()),
                    |client, context| client.vip_order(context, Via::Peer, order.clone())
                )
            }
        }
    }

    async fn config_get(self, _: Context, _: Via, revision: Option<u64>) -> Result<ConfigText, ApiError> {
        self.config(revision).await
    }

    async fn config_history(self, _: Context, _: Via) -> Result<Vec<ConfigEntry>, ApiError> {
        self.revisions().await
    }

    async fn config_apply(
        self,
        _: Context,
        _: Via,
        text: String,
        expected: Option<u64>,
    ) -> Result<Applied, ApiError> {
        self.apply(&text, expected).await
    }

    async fn operate(self, context: Context, via: Via, order: OperateOrder) -> Result<OperateDone, ApiError> {
        at_leader!(self, context, via, Operate, operate(order))
    }

    async fn operations(self, context: Context, via: Via) -> Result<Operations, ApiError> {
        at_leader!(self, context, via, Read, operations())
    }
}
