//! What a command is given, and what it may use.

use std::path::PathBuf;

use clap::Args;
use proto::task::ResourceLimits;

#[derive(Debug, Default, Args)]
pub(in crate::cli) struct RunningArgs {
    /// What the command reads from its standard input: a file of yours, or - for stdin; text, kept with the task
    #[arg(long, value_name = "FILE|-")]
    pub(in crate::cli) stdin: Option<PathBuf>,
    /// Run the command as this user; the node must run as root, and name it in its exec.users
    #[arg(long, value_name = "NAME|UID")]
    pub(in crate::cli) user: Option<String>,
    /// The command's file mode creation mask, octal
    #[arg(long, value_name = "MODE", value_parser = parse_umask)]
    pub(in crate::cli) umask: Option<u32>,
    /// Memory that each process of it may take (address space), for example 512M or 2G
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    memory: Option<u64>,
    /// Seconds on a processor that each process of it may take; then SIGXCPU
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    cpu_seconds: Option<u64>,
    /// Files that each process of it may have open
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(3..))]
    open_files: Option<u64>,
    /// Processes that its user may have while it forks; root is not limited
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    processes: Option<u64>,
    /// Size of any file that it writes, for example 10G; then SIGXFSZ
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    file_size: Option<u64>,
}

impl RunningArgs {
    pub(in crate::cli) fn resources(&self) -> ResourceLimits {
        ResourceLimits {
            memory_bytes: self.memory,
            cpu_seconds: self.cpu_seconds,
            open_files: self.open_files,
            processes: self.processes,
            file_bytes: self.file_size,
        }
    }

    /// Whether nothing of it was asked for.
    pub(in crate::cli) fn is_empty(&self) -> bool {
        self.stdin.is_none() && self.user.is_none() && self.umask.is_none() && self.resources().is_none()
    }
}

pub(in crate::cli) fn parse_umask(text: &str) -> Result<u32, String> {
    let mask = u32::from_str_radix(text, 8).ok().filter(|mask| *mask <= 0o777);
    mask.ok_or_else(|| format!("{text:?} is no umask: use 0 to 777, octal, for example 027"))
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match &text[digits.len()..] {
        "" | "B" => Some(0),
        "K" | "k" | "KiB" => Some(10),
        "M" | "MiB" => Some(20),
        "G" | "GiB" => Some(30),
        "T" | "TiB" => Some(40),
        _ => None,
    };
    let bytes = shift.and_then(|shift| digits.parse::<u64>().ok()?.checked_mul(1 << shift));
    bytes
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| format!("{text:?} is no size: use for example 65536, 512M or 2G"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_masks() {
        assert_eq!(
            ["7", "4K", "512M", "2GiB"].map(parse_bytes),
            [Ok(7), Ok(4096), Ok(512 << 20), Ok(2 << 30)]
        );
        for bad in ["", "0", "x", "5Q", "-1", "1.5G", "99999999999999999999T"] {
            assert!(parse_bytes(bad).is_err(), "{bad:?}");
        }
        assert_eq!(parse_umask("027"), Ok(0o27));
        assert!(parse_umask("1777").is_err() && parse_umask("8").is_err());
    }
}
