//! Exit codes, all of them.

use std::process::ExitCode;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Ok,
    /// Not done.
    Failure,
    /// The command line or the request makes no sense as it is.
    Usage,
    /// `cluster status`: the cluster is not healthy.
    Unhealthy,
    /// No such task or node, or the prefix fits several tasks.
    NotFound,
    /// No node can be reached, or nobody leads. Nothing was done.
    Unavailable,
    /// The answer did not come: it is not known whether it was done.
    Unknown,
    /// `serve`, `keeper`: it could not start, or a component died.
    Died,
    /// `serve`: a component blocked a thread, or nothing moved any more; the watchdog ended the process.
    Wedged,
    /// `serve`, `keeper`: the stop missed its deadline; what was left was abandoned.
    StopLate,
    /// `serve`: the configuration cannot be used, or does not fit the cluster. Starting again does not help.
    Config,
    /// `task submit --wait`: taskd's own failure, as opposed to the task's.
    Own,
    /// Ctrl-C while waiting.
    Interrupted,
    /// Whoever read the output has gone.
    BrokenPipe,
    /// `task submit --wait`: the task's own status.
    Task(u8),
}

impl Exit {
    /// The number.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Unhealthy => 3,
            Self::NotFound => 4,
            Self::Unavailable => 5,
            Self::Unknown => 6,
            Self::Died => 69,
            Self::Wedged => 70,
            Self::StopLate => 71,
            Self::Config => 78,
            Self::Own => 125,
            Self::Interrupted => 130,
            Self::BrokenPipe => 141,
            Self::Task(status) => status,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// What `taskd --help` says about them.
pub(crate) const HELP: &str = "\
Exit codes:
    0  done
    1  not done; for `task wait`: a task ended without success; for
       `config diff`: the file would change something
    2  the command line or the request makes no sense as it is; for
       `config diff`: the present configuration cannot be read
    3  `cluster status`: the cluster is not healthy
    4  no such task, schedule, node, service or revision, or the prefix fits
       several tasks
    5  no node can be reached, nobody leads, or the node that was asked has no
       session; nothing was done
    6  the answer did not come: it is not known whether it was done
   69  `serve`, `keeper`: it could not start, or a component (the disk) died
   70  `serve`: a component hung, and the watchdog ended the process
   71  `serve`, `keeper`: the stop missed its deadline, or was cut short
   78  `serve`: the configuration cannot be used, or does not fit the cluster
  125  `task submit --wait`: taskd's own failure; any other code is the task's
128+N  `task submit --wait`: signal N ended the task
  130  Ctrl-C while waiting; tasks go on
  141  whoever read the output has gone";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_documented_and_means_one_thing() {
        let all = [
            Exit::Ok,
            Exit::Failure,
            Exit::Usage,
            Exit::Unhealthy,
            Exit::NotFound,
            Exit::Unavailable,
            Exit::Unknown,
            Exit::Died,
            Exit::Wedged,
            Exit::StopLate,
            Exit::Config,
            Exit::Own,
            Exit::Interrupted,
            Exit::BrokenPipe,
        ];
        let mut codes: Vec<_> = all.iter().map(|exit| exit.code()).collect();
        for code in &codes {
            assert!(HELP.contains(&format!("\n{code:>5}  ")), "{code} is not documented");
        }
        codes.dedup();
        assert_eq!(codes.len(), all.len());
    }
}
