//! What is asked for, drawn from a seed.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use super::facts::FAILS_WITH;

/// What becomes of a job whose node is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lost {
    /// Once more, behind the fence.
    #[default]
    Requeue,
    /// Once more, at once.
    RequeueNow,
    /// It is given up.
    Fail,
}

/// How another job has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Well.
    Success,
    /// In any other way.
    Failure,
    /// At all.
    Always,
}

/// One task that is asked for.
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// Its task's name, by which its processes call themselves.
    pub name: String,
    /// Fifths of a second that it runs.
    pub pulses: u32,
    /// How many of its attempts fail.
    pub fails: u32,
    /// It does not heed SIGTERM.
    pub stubborn: bool,
    /// Attempts after the first.
    pub retries: u32,
    /// No retry helps when it fails.
    pub permanent: bool,
    /// How long an attempt may run.
    pub run_timeout_ms: Option<u64>,
    /// It starts so much later.
    pub delay_ms: Option<u64>,
    /// Higher ones first.
    pub priority: i32,
    /// Keys, and how many may run under each.
    pub limits: Vec<(String, u32)>,
    /// What has to end before.
    pub after: Vec<(String, Condition)>,
    /// What becomes of it if its node is lost.
    pub lost: Lost,
    /// It is submitted again and again under a key.
    pub keyed: bool,
    /// It is cancelled so long after it was accepted.
    pub cancel_after_ms: Option<u64>,
}

impl Job {
    /// As a line of a batch.
    pub(super) fn line(&self, script: &str, history: &str, run: &str) -> Value {
        let ms = |ms: u64| format!("{ms}ms");
        let mut line = json!({
            "name": self.name,
            "ref": self.name,
            "command": ["sh", script, history, self.name, self.pulses.to_string(), self.fails.to_string(),
                if self.stubborn { "stubborn" } else { "-" }],
            "priority": self.priority,
            "retries": self.retries,
            "retry_backoff": "300ms",
            "on_lost": match self.lost {
                Lost::Requeue => "requeue",
                Lost::RequeueNow => "requeue-now",
                Lost::Fail => "fail",
            },
        });
        if let Some(timeout) = self.run_timeout_ms {
            line["run_timeout"] = ms(timeout).into();
        }
        if let Some(delay) = self.delay_ms {
            line["delay"] = ms(delay).into();
        }
        if self.permanent {
            line["no_retry_on"] = json!([FAILS_WITH]);
        }
        if self.keyed {
            line["idempotency_key"] = format!("{run}-{}", self.name).into();
        }
        let locks: Vec<_> = self.limits.iter().filter(|(_, max)| *max == 1).map(|(key, _)| key).collect();
        if !locks.is_empty() {
            line["locks"] = json!(locks);
        }
        for (key, max) in self.limits.iter().filter(|(_, max)| *max > 1) {
            line["limits"][key] = (*max).into();
        }
        for (parent, on) in &self.after {
            line["after"][parent] = match on {
                Condition::Success => "success",
                Condition::Failure => "failure",
                Condition::Always => "always",
            }
            .into();
        }
        line
    }
}

/// Jobs that are submitted in one file: a graph, a heap, or such with keys.
pub(super) fn group(seed: u64, number: u64) -> Vec<Job> {
    let mut random = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(number));
    let kind = random.random_range(0..4);
    let count = match kind {
        0 | 1 => random.random_range(2..=10),
        2 => random.random_range(5..=25),
        _ => random.random_range(1..=8),
    };
    let mut jobs: Vec<Job> = Vec::new();
    for index in 0..count {
        let mut job = job(&mut random, format!("j{number}-{index}"));
        job.keyed = kind == 3;
        if kind < 2 && !jobs.is_empty() {
            for _ in 0..random.random_range(0..=2) {
                let Some(parent) = jobs.choose(&mut random) else { continue };
                let on = *[Condition::Success, Condition::Success, Condition::Failure, Condition::Always]
                    .choose(&mut random)
                    .unwrap_or(&Condition::Always);
                if job.after.iter().all(|(name, _)| *name != parent.name) {
                    job.after.push((parent.name.clone(), on));
                }
            }
        }
        jobs.push(job);
    }
    jobs
}

fn job(random: &mut StdRng, name: String) -> Job {
    let mut job = Job { name, priority: random.random_range(-5..=5), ..Job::default() };
    job.pulses = match random.random_range(0..100) {
        0..55 => 0,
        55..82 => random.random_range(1..=3),
        82..94 => random.random_range(3..=8),
        // Long enough to live through a failover.
        _ => random.random_range(15..=25),
    };
    if random.random_ratio(1, 4) {
        job.retries = random.random_range(1..=3);
        job.fails = random.random_range(0..=4);
        job.permanent = random.random_ratio(1, 8);
    } else {
        job.fails = if random.random_ratio(1, 12) { 99 } else { 0 };
    }
    if random.random_ratio(1, 25) {
        (job.run_timeout_ms, job.pulses) = (Some(500), 8);
    }
    if random.random_ratio(1, 10) {
        job.delay_ms = Some(random.random_range(100..2_000));
    }
    match random.random_range(0..12) {
        0 => job.limits.push((format!("lock-{}", random.random_range(0..6)), 1)),
        1 => job.limits.push((format!("pool-{}", random.random_range(0..3)), 3)),
        _ => {}
    }
    if !job.limits.is_empty() {
        // Whoever waits for it waits for all before it.
        job.pulses = job.pulses.min(3);
    }
    job.lost = match random.random_range(0..10) {
        0 => Lost::Fail,
        1 | 2 => Lost::RequeueNow,
        _ => Lost::Requeue,
    };
    if random.random_ratio(1, 12) {
        job.cancel_after_ms = Some(random.random_range(0..1_500));
        job.stubborn = random.random_ratio(1, 4);
    }
    job
}
