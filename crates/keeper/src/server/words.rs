//! The four-letter words: what people and monitoring ask a ZooKeeper server in plain text, in ZooKeeper 3.8.0's formats.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use clock::Instant;

use super::shell::Shell;
use crate::core::{ConnId, ConnectionInfo, Latency};

/// What ZooKeeper's clients parse is the number in front; what follows says whose server it is.
const VERSION: &str =
    concat!("3.8.0-taskd-keeper-", env!("CARGO_PKG_VERSION"), ", built on taskd ", env!("CARGO_PKG_VERSION"));

/// A four-letter word that ZooKeeper knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Ruok,
    Srvr,
    Stat,
    Mntr,
    Conf,
    Isro,
    Envi,
    Cons,
    Dump,
    Dirs,
    Wchs,
    Srst,
    Crst,
    /// Known and refused, as ZooKeeper refuses a word that is not on its list.
    Refused(&'static str),
}

impl Word {
    /// The word that a connection begins with, if it is one. No request can look like it: as a length it is too much.
    pub(super) fn of(first: [u8; 4]) -> Option<Self> {
        Some(match &first {
            b"ruok" => Self::Ruok,
            b"srvr" => Self::Srvr,
            b"stat" => Self::Stat,
            b"mntr" => Self::Mntr,
            b"conf" => Self::Conf,
            b"isro" => Self::Isro,
            b"envi" => Self::Envi,
            b"cons" => Self::Cons,
            b"dump" => Self::Dump,
            b"dirs" => Self::Dirs,
            b"wchs" => Self::Wchs,
            b"srst" => Self::Srst,
            b"crst" => Self::Crst,
            b"wchc" => Self::Refused("wchc"),
            b"wchp" => Self::Refused("wchp"),
            b"gtmk" => Self::Refused("gtmk"),
            b"stmk" => Self::Refused("stmk"),
            b"hash" => Self::Refused("hash"),
            _ => return None,
        })
    }

    /// What is answered to `peer`. Words that show session ids, or change something, are for people on this machine:
    /// with the id of a session anybody can have its connection closed, by resuming it with a wrong password.
    fn asked_by(self, peer: Option<IpAddr>) -> Self {
        if peer.is_some_and(|peer| peer.to_canonical().is_loopback()) {
            return self;
        }
        match self {
            Self::Cons => Self::Refused("cons"),
            Self::Dump => Self::Refused("dump"),
            Self::Srst => Self::Refused("srst"),
            Self::Crst => Self::Refused("crst"),
            other => other,
        }
    }
}

/// The answer to `word`, which came on `asker`.
pub(super) fn answer(shell: &mut Shell, asker: ConnId, word: Word) -> String {
    let mut text = String::new();
    let peer = shell.core.connections().find(|info| info.conn == asker).map(|info| info.peer.ip());
    // Writing to a string cannot fail.
    let _ = match word.asked_by(peer) {
        Word::Ruok => text.write_str("imok"),
        Word::Isro => text.write_str("rw"),
        Word::Srvr => serving(shell, &mut text, None),
        Word::Stat => serving(shell, &mut text, Some(asker)),
        Word::Mntr => monitor(shell, &mut text),
        Word::Conf => configuration(shell, &mut text),
        Word::Envi => environment(&mut text),
        Word::Cons => connections(shell, &mut text, asker, false).and_then(|()| text.write_str("\n")),
        Word::Dump => dump(shell, &mut text),
        Word::Dirs => {
            let size = bytes_in(&shell.options.data_dir);
            write!(text, "datadir_size: {size}\nlogdir_size: {size}\n")
        }
        Word::Wchs => {
            let counts = shell.core.watch_counts();
            let (connections, paths) = (counts.data_connections, counts.data_paths);
            let watches = counts.data_watches;
            write!(text, "{connections} connections watching {paths} paths\nTotal watches:{watches}\n")
        }
        Word::Srst => {
            shell.core.reset_stats();
            text.write_str("Server stats reset.\n")
        }
        Word::Crst => {
            shell.core.reset_connection_stats();
            text.write_str("Connection stats reset.\n")
        }
        Word::Refused(word) => writeln!(text, "{word} is not executed because it is not in the whitelist."),
    };
    text
}

fn serving(shell: &Shell, text: &mut String, with_clients: Option<ConnId>) -> fmt::Result {
    writeln!(text, "Zookeeper version: {VERSION}")?;
    if let Some(asker) = with_clients {
        writeln!(text, "Clients:")?;
        connections(shell, text, asker, true)?;
        writeln!(text)?;
    }
    let stats = shell.core.stats();
    let latency = &stats.latency;
    writeln!(text, "Latency min/avg/max: {}/{}/{}", latency.min_ms(), mean(latency), latency.max_ms())?;
    writeln!(text, "Received: {}", stats.packets_received)?;
    writeln!(text, "Sent: {}", stats.packets_sent)?;
    writeln!(text, "Connections: {}", shell.connections())?;
    writeln!(text, "Outstanding: {}", shell.outstanding())?;
    writeln!(text, "Zxid: {:#x}", shell.synced_zxid())?;
    writeln!(text, "Mode: standalone")?;
    writeln!(text, "Node count: {}", shell.core.state().counts().znodes)
}

/// A mean in milliseconds as ZooKeeper shows it: at most four decimals, at least one.
fn mean(latency: &Latency) -> String {
    let rounded = (latency.avg_ms() * 10_000.0).round() / 10_000.0;
    format!("{rounded:?}")
}

fn monitor(shell: &Shell, text: &mut String) -> fmt::Result {
    let stats = shell.core.stats();
    let counts = shell.core.state().counts();
    let lines: [(&str, &dyn fmt::Display); 23] = [
        ("version", &VERSION),
        ("server_state", &"standalone"),
        ("ephemerals_count", &counts.ephemerals),
        ("num_alive_connections", &shell.connections()),
        ("avg_latency", &mean(&stats.latency)),
        ("outstanding_requests", &shell.outstanding()),
        ("znode_count", &counts.znodes),
        ("global_sessions", &shell.core.session_count()),
        ("local_sessions", &0),
        ("packets_sent", &stats.packets_sent),
        ("packets_received", &stats.packets_received),
        ("connection_drop_probability", &"0.0"),
        ("watch_count", &shell.core.watch_counts().watches),
        ("auth_failed_count", &stats.auth_failed),
        ("min_latency", &stats.latency.min_ms()),
        ("max_latency", &stats.latency.max_ms()),
        ("max_file_descriptor_count", &descriptors_max()),
        ("open_file_descriptor_count", &descriptors_open()),
        ("approximate_data_size", &counts.data_bytes),
        ("uptime", &shell.uptime().as_millis()),
        ("connection_rejected", &shell.rejected()),
        ("stale_sessions_expired", &stats.sessions_expired),
        ("snap_count", &shell.snapshots()),
    ];
    for (name, value) in lines {
        writeln!(text, "zk_{name}\t{value}")?;
    }
    Ok(())
}

fn configuration(shell: &Shell, text: &mut String) -> fmt::Result {
    let options = &shell.options;
    let dir = options.data_dir.display();
    let bytes = bytes_in(&options.data_dir);
    writeln!(text, "clientPort={}", shell.address().port())?;
    writeln!(text, "secureClientPort=-1")?;
    writeln!(text, "dataDir={dir}\ndataDirSize={bytes}")?;
    writeln!(text, "dataLogDir={dir}\ndataLogSize={bytes}")?;
    writeln!(text, "tickTime={}", options.tick.as_millis())?;
    // Per address, which is not bounded; 0 is ZooKeeper's word for that.
    writeln!(text, "maxClientCnxns=0")?;
    writeln!(text, "minSessionTimeout={}", options.session_min().as_millis())?;
    writeln!(text, "maxSessionTimeout={}", options.session_max().as_millis())?;
    writeln!(text, "clientPortListenBacklog={}", super::net::BACKLOG)?;
    writeln!(text, "serverId=0")
}

fn environment(text: &mut String) -> fmt::Result {
    let kernel = |name: &str| {
        let read = fs::read_to_string(Path::new("/proc/sys/kernel").join(name));
        read.map_or_else(|_| "<NA>".to_owned(), |value| value.trim().to_owned())
    };
    writeln!(text, "Environment:")?;
    writeln!(text, "zookeeper.version={VERSION}")?;
    writeln!(text, "host.name={}", kernel("hostname"))?;
    writeln!(text, "os.name={}", kernel("ostype"))?;
    writeln!(text, "os.arch={}", std::env::consts::ARCH)?;
    writeln!(text, "os.version={}", kernel("osrelease"))
}

fn connections(shell: &Shell, text: &mut String, asker: ConnId, brief: bool) -> fmt::Result {
    for info in shell.core.connections() {
        connection(shell, text, &info, asker, brief)?;
    }
    Ok(())
}

fn connection(
    shell: &Shell,
    text: &mut String,
    info: &ConnectionInfo<'_>,
    asker: ConnId,
    brief: bool,
) -> fmt::Result {
    let stats = info.stats;
    // The one that asks has said a word and is read no more.
    let asks = info.conn == asker;
    let (interest, received) = if asks { (0, 1) } else { (1, stats.packets_received) };
    let queued = shell.outstanding_of(info.conn);
    write!(
        text,
        " /{}[{interest}](queued={queued},recved={received},sent={}",
        info.peer, stats.packets_sent
    )?;
    if !brief && info.session != 0 {
        write!(text, ",sid={:#x},lop={},est={}", info.session, stats.last_op, stats.established_ms)?;
        write!(text, ",to={}", info.timeout_ms)?;
        if stats.last_cxid >= 0 {
            write!(text, ",lcxid={:#x}", stats.last_cxid)?;
        }
        write!(text, ",lzxid={:#x},lresp={}", stats.last_zxid, stats.last_response_ms)?;
        let latency = &stats.latency;
        write!(text, ",llat={},minlat={}", stats.last_latency_ms, latency.min_ms())?;
        write!(text, ",avglat={},maxlat={}", latency.avg_ms() as u64, latency.max_ms())?;
    }
    writeln!(text, ")")
}

fn dump(shell: &Shell, text: &mut String) -> fmt::Result {
    let now = shell.now();
    // An instant of the monotonic clock on the calendar.
    let date = |ms: u64| Date(now.wall_ms + ms as i64 - (now.monotonic.as_nanos() / 1_000_000) as i64);
    writeln!(text, "SessionTracker dump:")?;
    let buckets: Vec<_> = shell.core.expiries().collect();
    let sessions: usize = buckets.iter().map(|(_, sessions)| sessions.len()).sum();
    writeln!(text, "Session Sets ({})/({sessions}):", buckets.len())?;
    for (due_ms, sessions) in &buckets {
        writeln!(text, "{} expire at {}:", sessions.len(), date(*due_ms))?;
        for session in *sessions {
            writeln!(text, "\t{session:#x}")?;
        }
    }
    writeln!(text, "ephemeral nodes dump:")?;
    let ephemerals: Vec<_> = shell.core.state().all_ephemerals().collect();
    writeln!(text, "Sessions with Ephemerals ({}):", ephemerals.len())?;
    for (session, paths) in ephemerals {
        writeln!(text, "{session:#x}:")?;
        for path in paths {
            writeln!(text, "\t{path}")?;
        }
    }
    writeln!(text, "Connections dump:")?;
    // A connection goes with its session, and without one when its handshake is overdue.
    let due: BTreeMap<i64, u64> = buckets
        .iter()
        .flat_map(|(due_ms, sessions)| sessions.iter().map(move |session| (*session, *due_ms)))
        .collect();
    let mut sets: BTreeMap<u64, Vec<ConnectionInfo<'_>>> = BTreeMap::new();
    for info in shell.core.connections() {
        let handshake = shell.handshake_due(info.conn).unwrap_or(now.monotonic);
        let due_ms = due.get(&info.session).copied().unwrap_or_else(|| in_ms(handshake));
        sets.entry(due_ms).or_default().push(info);
    }
    let connections: usize = sets.values().map(Vec::len).sum();
    writeln!(text, "Connections Sets ({})/({connections}):", sets.len())?;
    for (due_ms, infos) in &sets {
        writeln!(text, "{} expire at {}:", infos.len(), date(*due_ms))?;
        for info in infos {
            writeln!(text, "\tip: /{} sessionId: {:#x}", info.peer, info.session)?;
        }
    }
    Ok(())
}

fn in_ms(instant: Instant) -> u64 {
    instant.as_nanos() / 1_000_000
}

/// Milliseconds since 1970, shown as Java shows a date, in UTC.
struct Date(i64);

impl fmt::Display for Date {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.div_euclid(1_000);
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // Days to a date by eras of 400 years that begin in March: Howard Hinnant, "chrono-compatible low-level date
        // algorithms", civil_from_days.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = (month_from_march + 2) % 12;
        let year = year_of_era + era * 400 + i64::from(month < 2);
        let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
        let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let name = |names: &[&'static str], index: i64| {
            usize::try_from(index).ok().and_then(|index| names.get(index).copied()).unwrap_or("?")
        };
        let (weekday, month) = (name(&weekday, days.rem_euclid(7)), name(&months, month));
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(formatter, "{weekday} {month} {day:02} {hour:02}:{minute:02}:{second:02} UTC {year}")
    }
}

/// The bytes of the files in a directory; 0 if it cannot be read.
fn bytes_in(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

fn descriptors_open() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

fn descriptors_max() -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next());
    soft.and_then(|soft| soft.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_javas() {
        for (ms, expected) in [
            (0, "Thu Jan 01 00:00:00 UTC 1970"),
            (1_795_427_639_999, "Mon Nov 23 09:53:59 UTC 2026"),
            (951_782_400_000, "Tue Feb 29 00:00:00 UTC 2000"),
            (4_107_542_399_000, "Sun Feb 28 23:59:59 UTC 2100"),
        ] {
            assert_eq!(Date(ms).to_string(), expected);
        }
    }

    #[test]
    fn only_the_words_are_words() {
        assert_eq!(Word::of(*b"ruok"), Some(Word::Ruok));
        assert_eq!(Word::of(*b"RUOK"), None);
        assert_eq!(Word::of(45_i32.to_be_bytes()), None);
    }
    #[test]
    fn session_ids_are_shown_on_this_machine_only() {
        let (here, away) = (["127.0.0.1", "::1", "::ffff:127.0.0.1"], ["10.0.0.1", "fe80::1"]);
        let peers = |texts: &[&str]| texts.iter().map(|text| text.parse().ok()).collect::<Vec<_>>();
        for word in [b"cons", b"dump", b"srst", b"crst"].map(|word| Word::of(*word).unwrap()) {
            assert!(peers(&here).into_iter().all(|peer| word.asked_by(peer) == word), "{word:?}");
            let refused = |peer| matches!(word.asked_by(peer), Word::Refused(_));
            assert!(peers(&away).into_iter().all(refused) && refused(None), "{word:?}");
        }
        assert!(peers(&away).into_iter().all(|peer| Word::Srvr.asked_by(peer) == Word::Srvr));
    }
}
