//! Random scripts: which step is next, and which requests a burst holds.

use std::collections::VecDeque;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::model::Model;
use super::observe::Observed;
use super::requests;
use super::script::{Call, Credentials, Data, ROOT, Step};
use super::side::{SLOTS, Side};

/// The most requests in one burst.
const BURST_MAX: usize = 60;

/// How often what is slow happens, in operations.
const EXPIRE_EVERY: u64 = 12_000;
const RESTART_EVERY: u64 = 60_000;

/// Generates a script, step by step, as the reference answers it.
#[derive(Debug)]
pub(super) struct Generator {
    random: StdRng,
    model: Model,
    planned: VecDeque<Step>,
}

impl Generator {
    pub(super) fn new(seed: u64) -> Self {
        let mut planned = VecDeque::new();
        planned.push_back(Step::Open { slot: 0, timeout_ms: i32::MAX, read_only: Some(false) });
        planned.push_back(Step::Burst { slot: 0, calls: vec![requests::root()] });
        Self { random: StdRng::seed_from_u64(seed), model: Model::default(), planned }
    }

    /// Takes notice of what the reference said.
    pub(super) fn learn(&mut self, step: &Step, observed: &[Observed], side: &Side) {
        if let Step::Burst { slot, calls } = step {
            self.model.learn(*slot, calls, side.first_xid(), observed);
        }
        let alive = side.alive();
        for slot in (0..SLOTS).filter(|slot| !alive.contains(slot)) {
            self.model.ended(slot);
        }
    }

    /// The next step of a script that has `side` as its reference.
    pub(super) fn next(&mut self, side: &Side) -> Step {
        if let Some(step) = self.planned.pop_front() {
            return step;
        }
        let alive = side.alive();
        let dead: Vec<usize> = (0..SLOTS).filter(|slot| !alive.contains(slot)).collect();
        if let Some(slot) = dead.choose(&mut self.random)
            && (alive.len() < 3 || self.random.random_ratio(1, 6))
        {
            return self.open(*slot);
        }
        let connected: Vec<usize> = alive.iter().copied().filter(|slot| side.connected(*slot)).collect();
        let adrift: Vec<usize> = alive.iter().copied().filter(|slot| !side.connected(*slot)).collect();
        if let Some(slot) = adrift.choose(&mut self.random)
            && (connected.is_empty() || self.random.random_ratio(1, 2))
        {
            return self.resume(*slot);
        }
        let Some(slot) = connected.choose(&mut self.random).copied() else { return self.open(0) };
        if !self.model.contains(ROOT) {
            return Step::Burst { slot, calls: vec![requests::root()] };
        }
        // Operations per step are some fifteen.
        let step_every = |operations: u64| u32::try_from(operations / 15).unwrap_or(u32::MAX);
        if connected.len() >= 2 && self.random.random_ratio(1, step_every(EXPIRE_EVERY)) {
            let witness = connected.iter().copied().find(|other| *other != slot).unwrap_or(slot);
            return self.expire(slot, witness);
        }
        if self.random.random_ratio(1, step_every(RESTART_EVERY)) {
            return Step::Restart;
        }
        match self.random.random_range(0..1000) {
            0..12 => Step::Cut { slot },
            12..16 => self.resume(slot),
            16..22 => {
                let all = [
                    Credentials::WrongPassword,
                    Credentials::ShortPassword,
                    Credentials::NoPassword,
                    Credentials::Unknown,
                    Credentials::Ahead,
                ];
                Step::Resume { slot, with: *all.choose(&mut self.random).unwrap_or(&Credentials::Unknown) }
            }
            22..32 => {
                let mut calls = self.calls(slot);
                calls.push(Call::CloseSession);
                Step::Burst { slot, calls }
            }
            32..34 => Step::Hello { hex: requests::hello(&mut self.random) },
            34..60 => Step::Burst { slot, calls: vec![requests::auth(&mut self.random)] },
            60..85 => Step::Burst { slot, calls: vec![requests::spoilt(&mut self.random, &self.model)] },
            85..87 => self.large(slot),
            _ => Step::Burst { slot, calls: self.calls(slot) },
        }
    }

    fn open(&mut self, slot: usize) -> Step {
        // Mostly the longest: a session that ends by itself while nobody waits for it would end at another moment on the other server.
        let timeout_ms = if self.random.random_ratio(1, 2) { i32::MAX } else { 20_000 };
        let read_only = *[Some(false), Some(false), None].choose(&mut self.random).unwrap_or(&None);
        if self.random.random_ratio(1, 2) {
            let calls = vec![requests::digest(&mut self.random)];
            self.planned.push_back(Step::Burst { slot, calls });
        }
        Step::Open { slot, timeout_ms, read_only }
    }

    fn resume(&mut self, slot: usize) -> Step {
        if self.random.random_ratio(2, 3) {
            let calls = vec![requests::set_watches(&mut self.random, &self.model)];
            self.planned.push_back(Step::Burst { slot, calls });
        }
        Step::Resume { slot, with: Credentials::Right }
    }

    /// The slot gets the shortest session there is, uses it a little, and loses it.
    fn expire(&mut self, slot: usize, witness: usize) -> Step {
        let calls = self.calls(slot).into_iter().chain(requests::ephemerals(&mut self.random)).collect();
        self.planned.push_back(Step::Burst { slot, calls });
        let watching = self.calls(witness);
        self.planned.push_back(Step::Burst { slot: witness, calls: watching });
        let cut = self.random.random_ratio(1, 2);
        self.planned.push_back(Step::Expire { slot, cut, witness });
        if self.random.random_ratio(1, 2) {
            self.planned.push_back(Step::Resume { slot, with: Credentials::Right });
        }
        let timeout_ms = *[1, 0, -1, i32::MIN].choose(&mut self.random).unwrap_or(&0);
        Step::Open { slot, timeout_ms, read_only: Some(false) }
    }

    /// Data near the limit of a frame, or past it, which ends the connection.
    fn large(&mut self, slot: usize) -> Step {
        let path = format!("{ROOT}/large");
        let length = *[100_000, 1_048_500, 1_048_575, 3_000_000].choose(&mut self.random).unwrap_or(&0);
        let get = Call::GetData { path: path.clone(), watch: false };
        self.planned.push_back(Step::Burst { slot, calls: vec![get] });
        let delete = Call::Delete { path: path.clone(), version: -1 };
        self.planned.push_back(Step::Burst { slot, calls: vec![delete] });
        let data = Data::Fill(length);
        Step::Burst { slot, calls: vec![Call::Create { path, data, acl: requests::open_acl(), flags: 0 }] }
    }

    /// Requests that may be pipelined.
    fn calls(&mut self, slot: usize) -> Vec<Call> {
        // Short ones are frequent, long ones fill the servers' queues.
        let longest = self.random.random_range(1..=BURST_MAX);
        let length = self.random.random_range(1..=longest);
        let mut calls: Vec<Call> =
            (0..length).map(|_| requests::any(&mut self.random, &self.model, slot)).collect();
        // ZooKeeper checks a request against the new ACL or the old one, as its queues happen to be: nothing is pipelined behind a change.
        if let Some(change) = calls.iter().position(|call| matches!(call, Call::SetAcl { .. })) {
            calls.truncate(change + 1);
        }
        calls
    }
}
