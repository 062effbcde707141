//! One live line at the bottom of a terminal; without a terminal, a line now and then.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const WIDTH: usize = 30;
/// How often a line is printed where nobody can see it move.
const QUIET: Duration = Duration::from_secs(3);

/// A progress bar.
#[derive(Debug)]
pub(crate) struct Bar {
    live: bool,
    printed: Option<Instant>,
}

impl Bar {
    pub(crate) fn new() -> Self {
        Self { live: std::io::stdout().is_terminal(), printed: None }
    }

    /// Shows where things are.
    pub(crate) fn show(&mut self, done: usize, total: usize, note: &str) {
        let line = render(done, total, note);
        if self.live {
            print!("\r\x1b[K{line}");
            // A terminal that cannot be written to shows nothing, which is all that is lost.
            let _ = std::io::stdout().flush();
        } else if self.printed.is_none_or(|printed| printed.elapsed() >= QUIET) {
            println!("{line}");
            self.printed = Some(Instant::now());
        }
    }

    /// Prints a line that stays, above the bar.
    pub(crate) fn say(&mut self, line: &str) {
        if self.live {
            print!("\r\x1b[K");
        }
        println!("{line}");
    }
}

fn render(done: usize, total: usize, note: &str) -> String {
    let filled = (done.min(total) * WIDTH).checked_div(total).unwrap_or(0);
    format!("[{:<WIDTH$}] {done}/{total} {note}", "#".repeat(filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills() {
        assert_eq!(render(5, 10, "x"), format!("[{}{}] 5/10 x", "#".repeat(15), " ".repeat(15)));
        assert_eq!(render(0, 0, ""), format!("[{}] 0/0 ", " ".repeat(30)));
    }
}
