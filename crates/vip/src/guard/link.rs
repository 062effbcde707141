//! The daemon's side of the guard: one task that starts it, tells it the latest state, hears its answers, and collects it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::wire::{Answer, Order, line};
use super::{GuardProgram, Shared, Status};

/// Before another one is started, if the last one did not live long.
const AGAIN_MIN: Duration = Duration::from_millis(20);
/// At most.
const AGAIN_MAX: Duration = Duration::from_secs(5);
/// One that lived this long died of something else than its start.
const LIVED: Duration = Duration::from_secs(10);
/// What is left to a guard to end by itself.
const END_WITHIN: Duration = Duration::from_secs(1);
/// Has one running until `stop`.
pub(super) async fn keep(program: GuardProgram, dry_run: bool, shared: Arc<Shared>, stop: CancellationToken) {
    let mut again = AGAIN_MIN;
    loop {
        let began = Instant::now();
        let ended = match Link::start(&program, dry_run, &shared) {
            Ok(link) => link.run(&stop).await,
            Err(error) => Some(format!("cannot start {}: {error}", program.program.display())),
        };
        // What the one before has known, its successor does not.
        shared.acked.send_replace(0);
        let Some(why) = ended else { return };
        tracing::warn!("the guard of the VIPs is gone, another one is started: {why}");
        shared.status.send_replace(Status::Down(why));
        again = if began.elapsed() >= LIVED { AGAIN_MIN } else { (again * 2).min(AGAIN_MAX) };
        tokio::select! {
            () = stop.cancelled() => return,
            () = time::sleep(again) => {}
        }
    }
}

/// A guard that runs.
struct Link<'a> {
    shared: &'a Shared,
    child: Child,
    answers: Lines<BufReader<OwnedReadHalf>>,
    orders: OwnedWriteHalf,
    /// The rest of what is being written: half an order would garble the next one.
    unsent: Vec<u8>,
    /// The latest state that was written, in whole or in part.
    sent: u64,
}

impl<'a> Link<'a> {
    fn start(program: &GuardProgram, dry_run: bool, shared: &'a Shared) -> io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let (answers, orders) = UnixStream::from_std(ours)?.into_split();
        let mut command = std::process::Command::new(&program.program);
        command
            .arg0("taskd-vip-guard")
            .args(&program.args)
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null());
        // The daemon's own configuration, secrets among it, is none of its business.
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"TASKD_"))
        {
            command.env_remove(name);
        }
        let child = Command::from(command).spawn()?;
        Ok(Self {
            shared,
            child,
            answers: BufReader::new(answers).lines(),
            orders,
            unsent: line(&Order::Start { dry_run }),
            sent: 0,
        })
    }

    /// None if it was stopped, otherwise why it is gone. Its process is collected in either case.
    async fn run(mut self, stop: &CancellationToken) -> Option<String> {
        loop {
            self.compose();
            tokio::select! {
                biased;
                answer = self.answers.next_line() => {
                    let Ok(Some(text)) = answer else { break };
                    let Ok(Answer::Ack(seq)) = serde_json::from_str(&text) else { break };
                    if let Some(pid) = self.child.id().filter(|_| seq == 0) {
                        self.shared.status.send_replace(Status::Up { pid });
                    }
                    self.shared.acked.send_if_modified(|acked| {
                        let newer = seq > *acked;
                        *acked = seq.max(*acked);
                        newer
                    });
                }
                written = self.orders.write(&self.unsent), if !self.unsent.is_empty() => match written {
                    Ok(count) => drop(self.unsent.drain(..count)),
                    Err(_) => break,
                },
                () = stop.cancelled() => {
                    self.stop().await;
                    return None;
                }
                () = self.shared.changed.notified() => {}
            }
        }
        // Whoever closes the socket and lives on guards nothing.
        let _ = self.child.start_kill();
        Some(ended(time::timeout(END_WITHIN, self.child.wait()).await.ok()))
    }

    fn compose(&mut self) {
        if !self.unsent.is_empty() {
            return;
        }
        let table = self.shared.table();
        if table.seq > self.sent {
            self.sent = table.seq;
            self.unsent = line(&Order::Hold { seq: table.seq, holds: table.held() });
        }
    }

    async fn stop(mut self) {
        let farewell = async {
            self.orders.write_all(&self.unsent).await?;
            let rest = {
                let table = self.shared.table();
                // A guard that was only told to forget must not be left with what it knew before.
                let hold = line(&Order::Hold { seq: table.seq, holds: table.held() });
                let clean = table.holds.is_empty().then(|| line(&Order::Clean));
                [hold, clean.unwrap_or_default()].concat()
            };
            self.orders.write_all(&rest).await
        };
        // One that does not listen ends with the socket, or by force.
        let _ = time::timeout(END_WITHIN / 4, farewell).await;
        drop((self.orders, self.answers));
        if time::timeout(END_WITHIN / 2, self.child.wait()).await.is_err() {
            tracing::warn!("the guard of the VIPs does not end: killing it");
            let _ = self.child.start_kill();
            let _ = self.child.wait().await;
        }
    }
}

fn ended(status: Option<io::Result<ExitStatus>>) -> String {
    match status {
        Some(Ok(status)) => format!("it ended with {status}"),
        Some(Err(error)) => format!("it cannot be collected: {error}"),
        None => "it closed its socket and cannot be killed".to_owned(),
    }
}
