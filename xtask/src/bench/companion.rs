//! A program that a benchmark talks to, line by line.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::shell::{self, Interrupt};

/// For its end, once its standard input is closed.
const END_WITHIN: Duration = Duration::from_secs(30);

/// Dropping it kills the program.
#[derive(Debug)]
pub(super) struct Companion {
    child: Child,
    orders: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Companion {
    /// Starts it and waits for its line `ready`.
    pub(super) fn start(command: &mut Command, within: Duration, interrupt: &Interrupt) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start {command:?}"))?;
        let orders = child.stdin.take();
        let stdout = child.stdout.take().context("no pipe")?;
        let (lines, answers) = sync_channel(64);
        // It ends with the program, which this value ends.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    return;
                }
            }
        });
        let companion = Self { child, orders, answers };
        let answer = companion.answer(within, interrupt)?;
        if answer != "ready" {
            bail!("{command:?} says {answer:?} instead of ready");
        }
        Ok(companion)
    }

    /// Gives an order and waits for the one line that answers it.
    pub(super) fn ask(&mut self, order: &str, within: Duration, interrupt: &Interrupt) -> Result<String> {
        writeln!(self.orders.as_mut().context("it was told to end")?, "{order}")
            .with_context(|| format!("the program that was to {order} has ended; what it said is above"))?;
        self.answer(within, interrupt)
    }

    fn answer(&self, within: Duration, interrupt: &Interrupt) -> Result<String> {
        let start = Instant::now();
        loop {
            interrupt.check()?;
            match self.answers.recv_timeout(shell::POLL) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("a program of the benchmark ended; what it said is above")
                }
                Err(RecvTimeoutError::Timeout) if start.elapsed() > within => {
                    bail!("a program of the benchmark said nothing for {within:?}")
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Lets it end.
    pub(super) fn end(mut self) -> Result<()> {
        drop(self.orders.take());
        match shell::wait(&mut self.child, END_WITHIN)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("a program of the benchmark ended with {status}"),
            None => bail!("a program of the benchmark did not end within {END_WITHIN:?}"),
        }
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        // One that has ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_asked_and_answers_and_ends() {
        let within = Duration::from_secs(20);
        let never = Interrupt::never();
        let script = "echo ready; while read -r line; do echo \"$line?\"; done";
        let mut program = Companion::start(Command::new("sh").args(["-c", script]), within, &never).unwrap();
        assert_eq!(program.ask("who", within, &never).unwrap(), "who?");
        assert_eq!(program.ask("where", within, &never).unwrap(), "where?");
        program.end().unwrap();
        let silent = Companion::start(Command::new("sh").args(["-c", "exit 3"]), within, &never);
        assert!(silent.unwrap_err().to_string().contains("ended"));
    }
}
