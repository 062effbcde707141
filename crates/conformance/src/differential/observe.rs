//! What a server said, made comparable.
//!
//! Two servers that agree say the same, except for what no two can agree on; this is all of it:
//!
//! - *Session ids and passwords* are the server's own: an owner of an ephemeral becomes the number of its session in order of creation.
//! - *Times* differ: a node's are checked against the others of the same server instead (one zxid has one time, and time does not run backwards),
//!   and left out. What does not fit is [`Observed::Odd`], which the other server will not have said.
//! - *Children and ephemerals* come out of hash sets: they are sorted.
//! - *What a multiRead had read* before it came to a path that is null: ZooKeeper answers with an error as a whole and with that behind it. No
//!   client reads on behind an error; the keeper sends nothing there.
//! - *Zxids* are compared exactly, as the distance from the last one before the script, which is 0 on a fresh server.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::hex;
use super::jute::Reader;
use super::script::{Access, Call, Data, PING_XID};

const MULTI_READ: i32 = 22;
const MARSHALLING_ERROR: i32 = -5;

/// One thing that a connection saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "saw")]
pub(super) enum Observed {
    /// The answer to a session's first frame; `session` is 0 for a refusal. `password` says whether one was given.
    Session { version: i32, timeout_ms: i32, session: u32, password: bool, read_only: Option<bool> },
    /// A reply.
    Reply { xid: i32, zxid: i64, err: i32, answer: Answer },
    /// A watch event.
    Event { xid: i32, zxid: i64, err: i32, kind: i32, state: i32, path: String },
    /// The server closed the connection.
    Closed,
    /// The session expired; `zxid` is the one that this took.
    Expired { zxid: i64 },
    /// Nothing came within the deadline.
    Silence,
    /// Something that no server may say.
    Odd { why: String },
}

/// The body of a reply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Nothing,
    Path(String),
    Created {
        path: String,
        stat: Stat,
    },
    Stat(Stat),
    Data {
        data: Data,
        stat: Stat,
    },
    Acl {
        acl: Vec<Access>,
        stat: Stat,
    },
    Names(Vec<String>),
    Children {
        children: Vec<String>,
        stat: Stat,
    },
    Multi(Vec<Part>),
    Number(i32),
    Identities(Vec<(String, String)>),
    Token(Data),
    /// Bytes that are no answer to this request.
    Unreadable(String),
}

/// What one operation of a `multi` came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) op: i32,
    pub(super) err: i32,
    pub(super) answer: Answer,
}

/// A node's stat, without its times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stat {
    pub(super) czxid: i64,
    pub(super) mzxid: i64,
    pub(super) pzxid: i64,
    pub(super) version: i32,
    pub(super) cversion: i32,
    pub(super) aversion: i32,
    /// 0 for none; otherwise the number of the session, -1 for one that nobody here opened.
    pub(super) owner: i64,
    pub(super) data_length: i32,
    pub(super) num_children: i32,
}

/// Makes one server's answers comparable.
#[derive(Debug, Default)]
pub(super) struct Translator {
    /// The last zxid before the script.
    pub(super) base: i64,
    /// The sessions' numbers within the script.
    pub(super) sessions: BTreeMap<i64, u32>,
    /// The time of each zxid that a stat has shown, in ms.
    times: BTreeMap<i64, i64>,
    odd: Option<String>,
}

impl Translator {
    pub(super) fn zxid(&self, zxid: i64) -> i64 {
        if zxid > 0 { zxid - self.base } else { zxid }
    }

    /// What was odd since the last time it was asked for.
    pub(super) fn odd(&mut self) -> Option<Observed> {
        self.odd.take().map(|why| Observed::Odd { why })
    }

    pub(super) fn event(&self, header: (i32, i64, i32), body: &[u8]) -> Observed {
        let mut reader = Reader(body);
        let mut read = || {
            let (kind, state) = (reader.int()?, reader.int()?);
            let path = reader.string()?;
            reader.end((kind, state, path))
        };
        let (xid, zxid, err) = header;
        match read() {
            Some((kind, state, path)) => {
                Observed::Event { xid, zxid: self.zxid(zxid), err, kind, state, path }
            }
            None => Observed::Odd { why: format!("an event that holds {}", hex::encode(body)) },
        }
    }

    /// The body of a reply to a request with op code `op`.
    pub(super) fn answer(&mut self, op: i32, err: i32, body: &[u8]) -> Answer {
        if body.is_empty() || (op == MULTI_READ && err == MARSHALLING_ERROR) {
            return Answer::Nothing;
        }
        let mut reader = Reader(body);
        let answer = self.read(op, &mut reader);
        answer.and_then(|answer| reader.end(answer)).unwrap_or_else(|| Answer::Unreadable(hex::encode(body)))
    }

    fn read(&mut self, op: i32, from: &mut Reader<'_>) -> Option<Answer> {
        Some(match op {
            1 | 9 => Answer::Path(from.string()?),
            15 | 19 | 21 => Answer::Created { path: from.string()?, stat: self.stat(from)? },
            3 | 5 | 7 | 13 => Answer::Stat(self.stat(from)?),
            4 | 16 => Answer::Data { data: Data::of(from.buffer()?), stat: self.stat(from)? },
            6 => {
                let acl = from.vector(|from| {
                    Some(Access { perms: from.int()?, scheme: from.string()?, id: from.string()? })
                })?;
                Answer::Acl { acl, stat: self.stat(from)? }
            }
            8 | 103 => Answer::Names(sorted(from.vector(Reader::string)?)),
            12 => Answer::Children { children: sorted(from.vector(Reader::string)?), stat: self.stat(from)? },
            14 | 22 => Answer::Multi(self.parts(from)?),
            // What addWatch answers is an error code that is always 0.
            104 | 106 => Answer::Number(from.int()?),
            107 => Answer::Identities(from.vector(|from| Some((from.string()?, from.string()?)))?),
            102 => Answer::Token(Data::of(from.buffer()?)),
            _ => return None,
        })
    }

    fn parts(&mut self, from: &mut Reader<'_>) -> Option<Vec<Part>> {
        let mut parts = Vec::new();
        loop {
            let (op, done, err) = (from.int()?, from.boolean()?, from.int()?);
            if done {
                return (op == -1 && err == -1).then_some(parts);
            }
            let answer = match op {
                -1 => Answer::Number(from.int()?),
                2 | 13 => Answer::Nothing,
                1 | 15 | 19 | 21 | 4 | 5 | 8 => self.read(op, from)?,
                _ => return None,
            };
            parts.push(Part { op, err, answer });
        }
    }

    fn stat(&mut self, from: &mut Reader<'_>) -> Option<Stat> {
        let (czxid, mzxid, ctime, mtime) = (from.long()?, from.long()?, from.long()?, from.long()?);
        let (version, cversion, aversion) = (from.int()?, from.int()?, from.int()?);
        let owner = from.long()?;
        let (data_length, num_children, pzxid) = (from.int()?, from.int()?, from.long()?);
        self.time(czxid, ctime);
        self.time(mzxid, mtime);
        Some(Stat {
            czxid: self.zxid(czxid),
            mzxid: self.zxid(mzxid),
            pzxid: self.zxid(pzxid),
            version,
            cversion,
            aversion,
            owner: match owner {
                0 => 0,
                id => self.sessions.get(&id).map_or(-1, |number| i64::from(*number)),
            },
            data_length,
            num_children,
        })
    }

    /// Notes that `zxid` happened at `time`, and whether that fits what is known.
    fn time(&mut self, zxid: i64, time: i64) {
        let before = self.times.range(..zxid).next_back().map_or(0, |(_, time)| *time);
        let after = self.times.range(zxid + 1..).next().map_or(i64::MAX, |(_, time)| *time);
        let known = *self.times.entry(zxid).or_insert(time);
        if known != time || !(before..=after).contains(&time) {
            self.odd = Some(format!(
                "zxid {} happened at {time} ms, but also at {known} ms, after {before} ms and before {after} ms",
                self.zxid(zxid)
            ));
        }
    }

    /// Forgets what only matters within a script, to begin one after `base`.
    pub(super) fn begin(&mut self, base: i64) {
        self.base = base;
        self.sessions.clear();
        // The nodes of former scripts are not looked at again, except the few that every server has.
        self.times.retain(|zxid, _| *zxid == 0);
    }
}

fn sorted<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort();
    items
}

/// For each of `calls`, of which the first has the xid `first` unless it is a ping, the code and the body of its reply, if it got one.
pub(super) fn replies<'a>(
    calls: &'a [Call],
    first: i32,
    observed: &'a [Observed],
) -> impl Iterator<Item = (&'a Call, Option<(i32, &'a Answer)>)> {
    let mut next = first;
    let mut left = observed.iter().filter_map(|seen| match seen {
        Observed::Reply { xid, err, answer, .. } => Some((*xid, *err, answer)),
        _ => None,
    });
    let mut front = left.next();
    calls.iter().map(move |call| {
        let xid = if *call == Call::Ping {
            PING_XID
        } else {
            next += 1;
            next - 1
        };
        let reply = front.filter(|(of, ..)| *of == xid).map(|(_, err, answer)| (err, answer));
        if reply.is_some() {
            front = left.next();
        }
        (call, reply)
    })
}

/// Whether two servers said the same.
///
/// `unordered`: a session ended since these connections were last looked at. Its ephemerals die in the order of a hash set, so that what lies between
/// two replies is compared as a set.
///
/// What no server may say is a difference even where both say it: a server that died is no witness.
pub(super) fn same(one: &[Observed], other: &[Observed], unordered: bool) -> bool {
    let wrong = |seen: &Observed| matches!(seen, Observed::Odd { .. } | Observed::Silence);
    if one.iter().chain(other).any(wrong) {
        return false;
    }
    if one == other {
        return true;
    }
    unordered && settled(one) == settled(other)
}

/// The events between two replies, sorted.
fn settled(observed: &[Observed]) -> Vec<Observed> {
    let mut settled = observed.to_vec();
    let events = |one: &Observed, other: &Observed| {
        matches!((one, other), (Observed::Event { .. }, Observed::Event { .. }))
    };
    for run in settled.chunk_by_mut(events) {
        run.sort_by_cached_key(|event| format!("{event:?}"));
    }
    settled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: i32, path: &str) -> Observed {
        Observed::Event { xid: -1, zxid: -1, err: 0, kind, state: 3, path: path.to_owned() }
    }

    fn reply(xid: i32, zxid: i64, err: i32, answer: Answer) -> Observed {
        Observed::Reply { xid, zxid, err, answer }
    }

    fn stat() -> Stat {
        Stat {
            czxid: 3,
            mzxid: 4,
            pzxid: 5,
            version: 1,
            cversion: 2,
            aversion: 0,
            owner: 0,
            data_length: 9,
            num_children: 2,
        }
    }

    #[test]
    fn nothing_that_differs_passes() {
        let base = vec![event(1, "/a"), reply(1, 7, 0, Answer::Stat(stat())), event(2, "/b"), event(3, "/c")];
        let differs = |what: &str, change: &dyn Fn(&mut Vec<Observed>)| {
            let mut other = base.clone();
            change(&mut other);
            assert!(!same(&base, &other, false), "{what}");
        };
        assert!(same(&base, &base, false));
        differs("an error", &|seen| seen[1] = reply(1, 7, -101, Answer::Stat(stat())));
        differs("a zxid", &|seen| seen[1] = reply(1, 8, 0, Answer::Stat(stat())));
        differs("an answer", &|seen| seen[1] = reply(1, 7, 0, Answer::Nothing));
        for field in 0..9 {
            let mut fields = serde_json::to_value(stat()).expect("a stat is JSON");
            let name = [
                "czxid",
                "mzxid",
                "pzxid",
                "version",
                "cversion",
                "aversion",
                "owner",
                "data_length",
                "num_children",
            ][field];
            fields[name] = 77.into();
            let other: Stat = serde_json::from_value(fields).expect("a stat");
            differs(name, &|seen| seen[1] = reply(1, 7, 0, Answer::Stat(other.clone())));
        }
        differs("a missing event", &|seen| drop(seen.remove(0)));
        differs("an event that comes after the reply", &|seen| seen.swap(0, 1));
        differs("the order of events", &|seen| seen.swap(2, 3));
        differs("the path of an event", &|seen| seen[0] = event(1, "/aa"));
        differs("the type of an event", &|seen| seen[0] = event(2, "/a"));
        differs("a closed connection", &|seen| seen.push(Observed::Closed));
    }

    #[test]
    fn only_the_events_between_two_replies_may_change_places_where_a_session_ended() {
        let answered = || reply(1, 7, 0, Answer::Nothing);
        let base = [event(2, "/a"), event(2, "/b"), answered(), event(3, "/c")];
        assert!(same(&base, &[event(2, "/b"), event(2, "/a"), answered(), event(3, "/c")], true));
        assert!(!same(&base, &[event(2, "/a"), answered(), event(2, "/b"), event(3, "/c")], true));
        assert!(!same(&base, &[event(2, "/a"), event(2, "/a"), answered(), event(3, "/c")], true));
    }

    #[test]
    fn a_server_that_says_what_none_may_say_agrees_with_nobody() {
        for wrong in [Observed::Silence, Observed::Odd { why: "it died".to_owned() }] {
            assert!(!same(std::slice::from_ref(&wrong), std::slice::from_ref(&wrong), false));
        }
    }

    #[test]
    fn one_zxid_has_one_time_and_time_does_not_run_backwards() {
        let odd = |times: &[(i64, i64)]| {
            let mut translator = Translator::default();
            times.iter().for_each(|(zxid, time)| translator.time(*zxid, *time));
            translator.odd().is_some()
        };
        assert!(!odd(&[(1, 10), (3, 10), (2, 10), (3, 10), (9, 12)]));
        assert!(odd(&[(1, 10), (1, 11)]));
        assert!(odd(&[(2, 10), (1, 11)]));
        assert!(odd(&[(1, 10), (2, 9)]));
    }
}
