//! Random appends and faults against a model: nothing confirmed is lost, nothing refused appears.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Act {
    Append {
        keys: Vec<(u8, Option<u16>)>,
        urgent: bool,
    },
    Process(usize),
    Cut {
        applied: usize,
        lost: usize,
        late: bool,
    },
    Reconnect,
    Arrive,
    Settle,
    /// Whoever may be next reads the log, or what is new of it.
    ReadAhead,
    Reopen {
        expire: bool,
    },
}

fn act() -> impl Strategy<Value = Act> {
    let key = (0..12u8, prop_oneof![1 => Just(None), 4 => (0..300u16).prop_map(Some)]);
    prop_oneof![
        12 => (prop::collection::vec(key, 1..3), any::<bool>()).prop_map(|(keys, urgent)| Act::Append { keys, urgent }),
        6 => (1..6usize).prop_map(Act::Process),
        3 => (0..3usize, 0..4usize, any::<bool>()).prop_map(|(applied, lost, late)| Act::Cut { applied, lost, late }),
        3 => Just(Act::Reconnect),
        1 => Just(Act::Arrive),
        6 => Just(Act::Settle),
        2 => Just(Act::ReadAhead),
        1 => any::<bool>().prop_map(|expire| Act::Reopen { expire }),
    ]
}

/// What was asked of one append.
struct Asked {
    commit: Commit,
    changes: Vec<(u128, u64, Option<Bytes>)>,
    fate: Option<Result<(), CommitError>>,
}

#[derive(Default)]
struct Model {
    revision: u64,
    /// By term, in order.
    asked: Vec<Vec<Asked>>,
}

impl Model {
    fn append(&mut self, log: &TaskLog, keys: &[(u8, Option<u16>)], urgent: bool) {
        let mut changes = Vec::new();
        for (key, len) in keys {
            self.revision += 1;
            let body = len.map(|len| Bytes::from(vec![self.revision as u8; usize::from(len)]));
            changes.push(Change { key: u128::from(*key), revision: self.revision, body, urgent });
        }
        let copy = changes.iter().map(|c| (c.key, c.revision, c.body.clone())).collect();
        // The log may be full or ended; then nothing of it may ever be seen.
        if let Ok(commit) = log.handle().append(changes) {
            self.asked.last_mut().unwrap().push(Asked { commit, changes: copy, fate: None });
        }
    }

    fn listen(&mut self) {
        for term in &mut self.asked {
            for asked in term.iter_mut().filter(|asked| asked.fate.is_none()) {
                asked.fate = told(&mut asked.commit);
            }
            let untold = term.iter().position(|asked| asked.fate.is_none()).unwrap_or(term.len());
            assert!(term[untold..].iter().all(|asked| asked.fate.is_none()), "commits resolve in order");
            let bad = term.iter().position(|asked| matches!(asked.fate, Some(Err(_)))).unwrap_or(term.len());
            assert!(
                !term[bad..].iter().any(|asked| asked.fate == Some(Ok(()))),
                "nothing is confirmed after a failure"
            );
        }
    }

    /// Checks a replay; then whatever it shows is settled.
    fn check(&self, live: &[Live]) {
        let live: BTreeMap<u128, &Live> = live.iter().map(|live| (live.key, live)).collect();
        let all =
            || self.asked.iter().flatten().flat_map(|asked| asked.changes.iter().map(|c| (asked.fate, c)));
        for key in 0..12u128 {
            let confirmed = all()
                .filter(|(fate, c)| c.0 == key && *fate == Some(Ok(())))
                .map(|(_, c)| c.1)
                .max()
                .unwrap_or(0);
            // What may be the present state: the newest confirmed one or a later one that is not known to be unwritten.
            let possible: Vec<_> = all()
                .filter(|(fate, c)| {
                    let maybe = matches!(fate, Some(Ok(()) | Err(CommitError::Unknown)) | None);
                    c.0 == key && c.1 >= confirmed && maybe
                })
                .map(|(_, c)| c)
                .collect();
            match live.get(&key) {
                Some(live) => assert!(
                    possible.iter().any(|c| c.1 == live.revision && c.2.as_ref() == Some(&live.body)),
                    "key {key} has revision {} and may have {possible:?}",
                    live.revision
                ),
                None => assert!(
                    confirmed == 0 || possible.iter().any(|c| c.2.is_none()),
                    "key {key} is gone, with revision {confirmed} confirmed"
                ),
            }
        }
    }
}

/// Whoever may be next, and what it knows.
struct Standby {
    session: Session,
    ahead: Ahead,
    known: BTreeMap<u128, (u64, Bytes)>,
}

impl Standby {
    async fn read(world: &World) -> Option<Self> {
        let session = Session::new(world);
        let mut ahead = Ahead::new("/tasks");
        ahead.advance(&session).await.ok()?;
        ahead.changed.clear();
        let known = ahead.index.live().map(|(key, revision, body)| (key, (revision, body.clone()))).collect();
        Some(Self { session, ahead, known })
    }

    /// None: what it knows is of no use any more.
    async fn follow(mut self) -> Option<Self> {
        self.ahead.follow_on(&self.session).await.ok()?;
        let changed = self.ahead.take_changed();
        self.learn(changed);
        Some(self)
    }

    fn learn(&mut self, changed: Vec<Changed>) {
        for Changed { key, state } in changed {
            match state {
                Some(state) => drop(self.known.insert(key, state)),
                None => drop(self.known.remove(&key)),
            }
        }
    }

    /// Begins a term with what it knows.
    async fn lead(mut self, world: &World, options: LogOptions) -> (Session, TaskLog, Vec<Live>) {
        let names = names(world.elect());
        let store = Arc::new(self.session.clone());
        let (log, replayed) = TaskLog::open_on(store, names, options, Some(self.ahead)).await.unwrap();
        let live = match replayed {
            Replayed::Whole(live) => live,
            Replayed::Since(changed) => {
                self.ahead = Ahead::new("/tasks");
                self.learn(changed);
                let known = self.known.into_iter();
                known.map(|(key, (revision, body))| Live { key, revision, body }).collect()
            }
        };
        assert_eq!(live, log.handle().shared.core().live(), "what was read ahead, and since, is the whole");
        (self.session, log, live)
    }
}

async fn run(options: LogOptions, acts: Vec<Act>) {
    let world = World::new();
    let mut model = Model::default();
    let (mut session, mut log, _) = term_with(&world, options.clone()).await;
    session.automatic(false);
    model.asked.push(Vec::new());
    let mut passed: Vec<(Session, TaskLog)> = Vec::new();
    let mut standby: Option<Standby> = None;
    for act in acts {
        match act {
            Act::Append { keys, urgent } => model.append(&log, &keys, urgent),
            Act::Process(count) => session.process(count),
            Act::Cut { applied, lost, late } => session.cut(applied, lost, late),
            Act::Reconnect => session.reconnect(),
            Act::Arrive => session.arrive(),
            Act::Settle => settle().await,
            Act::ReadAhead => {
                standby = match standby.take() {
                    Some(standby) => standby.follow().await,
                    None => Standby::read(&world).await,
                };
            }
            Act::Reopen { expire } => {
                if expire {
                    session.expire();
                }
                // What was answered is heard before the other term is there to be read.
                settle().await;
                model.listen();
                let (next_session, next, live) = match standby.take() {
                    Some(standby) => standby.lead(&world, options.clone()).await,
                    None => term_with(&world, options.clone()).await,
                };
                model.check(&live);
                passed
                    .push((std::mem::replace(&mut session, next_session), std::mem::replace(&mut log, next)));
                session.automatic(false);
                model.asked.push(Vec::new());
            }
        }
        tokio::task::yield_now().await;
        model.listen();
    }

    // Everything that is still under way anywhere comes to its end.
    for session in passed.iter().map(|(session, _)| session).chain([&session]) {
        session.reconnect();
        session.arrive();
        session.automatic(true);
    }
    settle().await;
    model.listen();
    assert!(model.asked.iter().flatten().all(|asked| asked.fate.is_some()), "every commit resolves");
    let failed = log.handle().failure().borrow().clone();
    assert_eq!(failed, None, "nothing deposed the last term");
    let current = model.asked.last().unwrap();
    assert!(current.iter().all(|asked| asked.fate == Some(Ok(()))), "the last term's were all written");

    let stats = log.handle().stats();
    let stored: usize = world.segments().iter().map(|(_, bytes)| bytes).sum();
    assert_eq!(stats.bytes, stored as u64);
    assert_eq!(stats.segments, world.segments().len() as u64);
    assert!(stats.bytes <= 2 * stats.live_bytes + options.budget_bytes / 8 + 2048, "{stats:?}");

    let kept: Vec<Live> = log.handle().shared.core().live();
    log.stop(Duration::from_secs(1)).await.unwrap();
    let (_, _log, live) = term(&world).await;
    assert_eq!(live, kept, "replay shows what the writer held");
    model.check(&live);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 2000, ..ProptestConfig::default() })]
    #[test]
    fn nothing_confirmed_is_lost(
        in_flight in 1..=5usize,
        linger_ms in 0..=1u64,
        acts in prop::collection::vec(act(), 1..250),
    ) {
        let options = LogOptions { in_flight, linger: Duration::from_millis(linger_ms), ..options() };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(options, acts));
    }
}
