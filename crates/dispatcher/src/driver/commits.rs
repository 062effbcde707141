//! What was decided goes to the log; what depends on it waits in line behind the commit.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use drill::Bug;
use proto::leader::{HeartbeatReply, NotLeading};
use proto::{Incarnation, NodeId};

use super::events::Reply;
use super::{Done, Driver};
use crate::core::Effect;
use crate::storage::{Change, Commit, Failure, Refused};
use crate::watch::Watchers;

/// What a record costs in a segment beside its bytes.
const CHANGE_OVERHEAD: usize = 64;

/// What waits for a commit.
pub(super) enum Release {
    Reply(Box<dyn FnOnce() + Send>),
    Beat(Reply<Result<HeartbeatReply, NotLeading>>, HeartbeatReply, NodeId, Incarnation),
    Effect(Effect),
}

pub(super) struct Group {
    pub(super) commit: Commit,
    releases: Vec<Release>,
}

impl Driver {
    /// Hands what was decided to the log, and what depends on it to the line behind the commit.
    pub(super) fn write(&mut self) {
        if self.core.db.is_dirty() {
            for (tasks, reply) in self.watchers.wake(&self.core.db, self.core.db.changed()) {
                let views = crate::watch::views(&self.core.db, &tasks);
                self.reply(reply, Ok(views));
            }
            split(self.core.db.take_changes(), self.parts.append_bytes_max, &mut self.unwritten);
        }
        let effects = self.core.take_effects();
        self.held.extend(effects.into_iter().map(Release::Effect));
        while let Some(changes) = self.unwritten.front() {
            // A refused append takes its changes with it; a record's bytes are shared, not copied.
            match self.parts.log.append(changes.clone()) {
                Ok(commit) => {
                    self.unwritten.pop_front();
                    self.groups.push_back(Group { commit, releases: Vec::new() });
                }
                Err(Refused::Busy) => return,
                Err(error @ Refused::Full) => {
                    tracing::error!(%error, "outcomes and assignments wait until the cleaner has made room");
                    return;
                }
                Err(error) => return self.fail(error.to_string()),
            }
        }
        self.room = None;
        let held = std::mem::take(&mut self.held);
        let waits = !self.parts.drill.plants(Bug::AckUncommitted);
        if let Some(last) = self.groups.back_mut().filter(|_| waits) {
            last.releases.extend(held);
        } else {
            for release in held {
                self.release(release);
            }
        }
    }

    pub(super) fn committed(&mut self, result: Result<(), Failure>) {
        let Some(group) = self.groups.pop_front() else { return };
        match result {
            Ok(()) => {
                for release in group.releases {
                    self.release(release);
                }
            }
            Err(failure) => self.fail(failure.to_string()),
        }
    }

    /// Lets go of something whose reason has committed.
    pub(super) fn release(&mut self, release: Release) {
        match release {
            Release::Reply(reply) => reply(),
            Release::Beat(reply, answer, node, life) => {
                // The order matters: an answer may leave later than it is noted, never the other way round, and the
                // lease is read after the note, at the last moment.
                self.core.answered(self.now(), &node, life);
                let answer = if self.parts.lease.lets_out("answer") {
                    Ok(answer)
                } else {
                    Err(NotLeading { node: self.parts.node.clone(), leader: None })
                };
                let _ = reply.send(answer);
            }
            Release::Effect(Effect::Start(attempt)) => self.core.may_send(self.now(), attempt),
            Release::Effect(Effect::Cancel(attempt)) => {
                if self.parts.drill.plants(Bug::EarlyUnlock)
                    && let Some(keys) = self.core.open.get(&attempt).map(|open| open.keys.clone())
                {
                    self.core.give_back(attempt, &keys);
                }
                self.core.ask_cancel(self.now(), attempt);
            }
            Release::Effect(Effect::DeleteBody(body)) => {
                let log = Arc::clone(&self.parts.log);
                self.spawn("the removal of a payload", async move {
                    Done::BodyDeleted(log.delete_body(body).await)
                });
            }
        }
    }

    /// Nothing can be relied on any more: whatever waits for a commit is let down, and its callers are told that it is
    /// not known what became of it.
    pub(super) fn fail(&mut self, why: String) {
        if !std::mem::replace(&mut self.broken, true) {
            tracing::error!(why, "the dispatcher can do nothing more in this term");
            self.parts.failed.send_replace(Some(why));
        }
        self.groups.clear();
        self.held.clear();
        self.unwritten.clear();
        self.watchers = Watchers::default();
    }
}

/// The first outstanding commit. Cancel safe. Call it only while there is one.
pub(super) async fn first(groups: &mut VecDeque<Group>) -> Result<(), Failure> {
    match groups.front_mut() {
        Some(group) => (&mut group.commit).await,
        None => std::future::pending().await,
    }
}

/// Cuts changes into appends that fit into a segment.
fn split(changes: Vec<Change>, bytes_max: usize, into: &mut VecDeque<Vec<Change>>) {
    let mut part = Vec::new();
    let mut bytes = 0;
    for change in changes {
        let size = CHANGE_OVERHEAD + change.body.as_ref().map_or(0, Bytes::len);
        if bytes + size > bytes_max && !part.is_empty() {
            into.push_back(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += size;
        part.push(change);
    }
    if !part.is_empty() {
        into.push_back(part);
    }
}
