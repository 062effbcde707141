//! What tasks take up where they are written down.

use proto::FRAME_BYTES_MAX;
use proto::placing::Placing;
use proto::task::{AttemptEnd, TaskSpec};

use super::Task;

/// Tasks that fit into one answer.
#[derive(Debug)]
pub(crate) struct Page {
    bytes_left: usize,
}

impl Default for Page {
    /// Half a frame: the sizes are estimates, if generous ones.
    fn default() -> Self {
        Self { bytes_left: FRAME_BYTES_MAX / 2 }
    }
}

impl Page {
    /// Whether the task's view, without its payload, fits as well; takes its room.
    pub(crate) fn fits(&mut self, task: &Task) -> bool {
        // Names of the fields, numbers and ids, beside the texts.
        const VIEW: usize = 400;
        const ATTEMPT: usize = 200;
        let spec = &task.spec;
        let texts = [spec.name.as_deref(), spec.idempotency_key.as_deref(), Some(spec.kind.as_str())];
        let mut bytes = VIEW + texts.into_iter().flatten().map(str::len).sum::<usize>();
        bytes += spec.labels.iter().map(|(key, value)| 8 + key.len() + value.len()).sum::<usize>();
        bytes += spec.origin.as_ref().map_or(0, |origin| ORIGIN + origin.schedule.as_str().len());
        bytes += PROGRESS * usize::from(task.progress.is_some());
        bytes +=
            rules_bytes(spec) + task.waits_for.len() * DEPENDENCY + task.note.as_deref().map_or(0, str::len);
        for attempt in &task.attempts {
            bytes += ATTEMPT + attempt.node.as_str().len();
            if let Some(
                AttemptEnd::Lost { reason: text }
                | AttemptEnd::Failed { message: text }
                | AttemptEnd::Refused { message: text },
            ) = &attempt.end
            {
                bytes += text.len();
            }
        }
        let left = self.bytes_left.checked_sub(bytes);
        self.bytes_left = left.unwrap_or(0);
        left.is_some()
    }
}

/// Room for an [`Origin`](proto::schedule::Origin), beside its schedule's name.
const ORIGIN: usize = 60;

/// Room for one [`Progress`](progress::Progress).
const PROGRESS: usize = 300;

/// Room for one [`Dependency`].
const DEPENDENCY: usize = 80;

/// About what a spec's rules take up where they are written down.
pub(crate) fn rules_bytes(spec: &TaskSpec) -> usize {
    let Some(rules) = spec.rules.as_deref() else { return 0 };
    let limits = rules.limits.iter().map(|limit| 32 + limit.key.len()).sum::<usize>();
    let placing = rules.placing.as_deref().map_or(0, placing_bytes);
    160 + limits + rules.after.len() * DEPENDENCY + rules.permanent_exit_codes.len() * 12 + placing
}

fn placing_bytes(placing: &Placing) -> usize {
    let terms = placing.require.iter().chain(&placing.prefer);
    let terms = terms.map(|term| 8 + term.to_string().len()).sum::<usize>();
    64 + terms + placing.spread.as_deref().map_or(0, str::len)
}
