//! `exec`: runs a program. An argument array, never a shell string.

use std::collections::BTreeSet;

use nix::unistd::geteuid;
use proto::task::ExecPayload;

use super::{Process, Task, TaskService, Unfit, Work};

/// Which programs a node executes for whoever may submit a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ExecPolicy {
    /// None: the kind is not offered.
    #[default]
    Off,
    /// Those named, exactly as a task must name them.
    Only(BTreeSet<String>),
    /// Any.
    Any,
}

/// The service: payload [`ExecPayload`].
#[derive(Clone, Debug)]
pub struct Exec {
    policy: ExecPolicy,
    users: BTreeSet<String>,
}

impl Exec {
    /// Executes what `policy` allows.
    pub fn new(policy: ExecPolicy) -> Self {
        Self { policy, users: BTreeSet::new() }
    }

    /// Tasks may ask to run as these users, named exactly so: names or numbers.
    #[must_use]
    pub fn with_users(mut self, users: impl IntoIterator<Item = String>) -> Self {
        self.users.extend(users);
        self
    }
}

impl TaskService for Exec {
    fn prepare(&self, task: Task) -> Result<Work, Unfit> {
        let ExecPayload { argv, env, cwd, stdin, user, umask, resources } =
            serde_json::from_slice(&task.payload).map_err(|error| {
                Unfit(format!(
                    "the payload of exec is not {{\"argv\": [..], \"env\": {{..}}, \"cwd\": ..}}: {error}"
                ))
            })?;
        let Some(program) = argv.first().filter(|program| !program.is_empty()) else {
            return Err(Unfit("exec needs a program: its argv is empty".to_owned()));
        };
        let allowed = match &self.policy {
            ExecPolicy::Off => false,
            ExecPolicy::Only(programs) => programs.contains(program),
            ExecPolicy::Any => true,
        };
        if !allowed {
            return Err(Unfit(format!("this node's configuration does not allow to execute {program:?}")));
        }
        if let Some(name) =
            env.keys().find(|name| name.starts_with("TASKD_") || name.contains('=') || name.is_empty())
        {
            return Err(Unfit(format!(
                "{name:?} cannot be set: names are not empty, without '=' and not TASKD_*"
            )));
        }
        let texts = argv.iter().chain(env.keys()).chain(env.values()).chain(&cwd);
        if texts.into_iter().any(|text| text.contains('\0')) {
            return Err(Unfit("a NUL character cannot be passed to a program".to_owned()));
        }
        if let Some(user) = &user {
            if !geteuid().is_root() {
                return Err(Unfit(format!("only a daemon that runs as root can run a task as {user:?}")));
            }
            if !self.users.contains(user) {
                return Err(Unfit(format!("this node's exec.users does not name {user:?}")));
            }
        }
        if let Some(mask) = umask.filter(|mask| *mask > 0o777) {
            return Err(Unfit(format!("{mask:o} is no umask: use 0 to 777, octal")));
        }
        Ok(Work::Process(Process { argv, env, cwd: cwd.map(Into::into), stdin, user, umask, resources }))
    }
}

#[cfg(test)]
mod tests {
    use proto::{AttemptId, ClusterId, Epoch, FencingToken, TaskId};
    use tokio_util::sync::CancellationToken;

    use super::super::{Holds, Reports, Right};
    use super::*;

    fn prepare(policy: ExecPolicy, payload: &str) -> Result<Vec<String>, String> {
        let task = Task {
            attempt: AttemptId { task: TaskId::from_u128(1), number: 1 },
            token: FencingToken { cluster: ClusterId::from_u128(1), epoch: Epoch(1) },
            node: "n1".parse().unwrap(),
            payload: payload.into(),
            cancelled: CancellationToken::new(),
            run_timeout: None,
            right: Right::unknown(),
            checkpoint: None,
            reports: Reports::default(),
            holds: Holds::default(),
        };
        match Exec::new(policy).prepare(task) {
            Ok(Work::Process(process)) => Ok(process.argv),
            Ok(Work::InProcess(_)) => Err("not a process".to_owned()),
            Err(unfit) => Err(unfit.to_string()),
        }
    }

    #[test]
    fn what_runs_and_what_is_refused() {
        let only = || ExecPolicy::Only(["/bin/true".to_owned()].into());
        let good = r#"{"argv": ["/bin/true", "x"]}"#;
        assert_eq!(prepare(ExecPolicy::Any, good), Ok(vec!["/bin/true".to_owned(), "x".to_owned()]));
        assert!(prepare(only(), good).is_ok());
        for (policy, payload, says) in [
            (ExecPolicy::Off, good, "does not allow"),
            (only(), r#"{"argv": ["true"]}"#, "does not allow to execute \"true\""),
            (ExecPolicy::Any, r#"{"argv": []}"#, "argv is empty"),
            (ExecPolicy::Any, r#"{"argv": [""]}"#, "argv is empty"),
            (ExecPolicy::Any, "rm -rf /", "the payload of exec is not"),
            (ExecPolicy::Any, r#"{"argv": ["a"], "shell": true}"#, "unknown field"),
            (ExecPolicy::Any, r#"{"argv": ["a"], "env": {"TASKD_TOKEN": "x"}}"#, "cannot be set"),
            (ExecPolicy::Any, r#"{"argv": ["a\u0000b"]}"#, "NUL"),
            (ExecPolicy::Any, r#"{"argv": ["a"], "user": "nobody"}"#, "nobody\""),
            (ExecPolicy::Any, r#"{"argv": ["a"], "umask": 512}"#, "1000 is no umask"),
        ] {
            let refusal = prepare(policy, payload).unwrap_err();
            assert!(refusal.contains(says), "{refusal:?} should say {says:?}");
        }
    }
}
