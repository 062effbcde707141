//! Printing: tables for eyes, JSON for scripts, colours only where they are seen.

use std::io::{self, IsTerminal, Write};

use anstream::adapter::strip_str;
use comfy_table::{ContentArrangement, Table, presets};
use proto::task::{TaskState, TaskView};
use serde::Serialize;
use serde_json::Value;

use super::args::Format;

const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

/// How a line is set off, on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Busy,
    Bad,
    Title,
}

impl Tone {
    pub(super) fn of(state: TaskState) -> Self {
        match state {
            TaskState::Scheduled | TaskState::Blocked | TaskState::Queued | TaskState::Cancelled => {
                Self::Plain
            }
            TaskState::Running | TaskState::Retrying | TaskState::Cancelling => Self::Busy,
            TaskState::Succeeded => Self::Good,
            TaskState::Failed | TaskState::TimedOut | TaskState::Lost | TaskState::Dead => Self::Bad,
        }
    }

    pub(super) fn paint(self, text: &str) -> String {
        let colour = match self {
            Self::Plain => return text.to_owned(),
            Self::Good => GREEN,
            Self::Busy => YELLOW,
            Self::Bad => RED,
            Self::Title => BOLD,
        };
        format!("{colour}{text}{PLAIN}")
    }
}

/// What the person asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    format: Format,
}

impl From<Format> for Output {
    fn from(format: Format) -> Self {
        Self { format }
    }
}

impl Output {
    pub(super) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Prints `json` as JSON, or `text` for eyes.
    ///
    /// # Errors
    /// stdout cannot be written.
    pub(super) fn either(
        self,
        json: impl FnOnce() -> Value,
        text: impl FnOnce() -> String,
    ) -> io::Result<()> {
        if self.is_json() { line(&pretty(&json())) } else { line(&text()) }
    }
}

/// One line, or several, on stdout. Colours are dropped unless it is a terminal and `NO_COLOR` is not set.
///
/// # Errors
/// stdout cannot be written.
pub(super) fn line(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Bytes as they are on stdout.
///
/// # Errors
/// stdout cannot be written.
pub(super) fn raw(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// A hint or an error on stderr. Whether it can be written changes nothing.
pub(super) fn say(text: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

/// Whether a person watches stderr.
pub(super) fn progress_is_seen() -> bool {
    io::stderr().is_terminal()
}

/// Rows under a header, each with its tone.
pub(super) fn table(header: &[&str], rows: &[(Tone, Vec<String>)]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().copied());
    for (_, row) in rows {
        table.add_row(row.iter().map(|cell| clean(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let tones = std::iter::once(Tone::Title).chain(rows.iter().map(|(tone, _)| *tone));
    let lines: Vec<_> = table.lines().zip(tones).map(|(line, tone)| tone.paint(line.trim_end())).collect();
    lines.join("\n")
}

/// What others wrote, on one line and without anything that a terminal would obey.
pub(super) fn clean(text: &str) -> String {
    strip_str(text).to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Left column names, right column values.
pub(super) fn fields(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let lines: Vec<_> =
        rows.iter().map(|(name, value)| format!("{name:<width$}  {}", clean(value))).collect();
    lines.join("\n")
}

/// `value` as JSON. A payload that is text is shown as that text, not as numbers.
pub(super) fn json<T: Serialize>(value: &T) -> Value {
    let mut value = serde_json::to_value(value).unwrap_or(Value::Null);
    payload_as_text(&mut value);
    value
}

fn payload_as_text(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(payload_as_text),
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                match field.as_array() {
                    Some(numbers) if name == "payload" || name == "checkpoint" => {
                        let bytes: Option<Vec<u8>> = numbers
                            .iter()
                            .map(|number| number.as_u64().and_then(|number| u8::try_from(number).ok()))
                            .collect();
                        if let Some(Ok(text)) = bytes.map(String::from_utf8) {
                            *field = Value::String(text);
                        }
                    }
                    _ => payload_as_text(field),
                }
            }
        }
        _ => {}
    }
}

pub(super) fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// What a task is called in a table: its name, or what it does.
pub(super) fn title(task: &TaskView) -> String {
    if let Some(name) = &task.spec.name {
        return shorten(name);
    }
    match serde_json::from_slice::<proto::task::ExecPayload>(&task.spec.payload) {
        Ok(payload) if task.spec.kind == "exec" => shorten(&payload.argv.join(" ")),
        _ => task.spec.kind.clone(),
    }
}

fn shorten(text: &str) -> String {
    const CHARS_MAX: usize = 40;
    if text.chars().count() <= CHARS_MAX {
        return text.to_owned();
    }
    text.chars().take(CHARS_MAX - 1).chain(['…']).collect()
}

/// Milliseconds as a span for people, in its two largest units.
pub(super) fn span(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0 => format!("{ms}ms"),
        1..60 => format!("{seconds}.{}s", ms % 1_000 / 100),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// How long ago `ms` since 1970 was.
pub(super) fn ago(ms: u64) -> String {
    span(now_ms().saturating_sub(ms))
}

/// Now, by the wall clock, for people.
pub(super) fn now_ms() -> u64 {
    use clock::Clock as _;
    clock::BootClock.wall().0
}

/// `ms` since 1970 as a date and time in UTC.
pub(super) fn date(ms: u64) -> String {
    humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms)).to_string()
}

/// Bytes for people.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_for_people() {
        let spans = [0, 999, 1_550, 61_000, 3_600_000, 90_000_000].map(span);
        assert_eq!(spans, ["0ms", "999ms", "1.5s", "1m01s", "1h00m", "1d01h"]);
        assert_eq!([0, 1_023, 1_536, 8 << 20].map(bytes), ["0 B", "1023 B", "1.5 KiB", "8.0 MiB"]);
    }

    #[test]
    fn a_table_obeys_nobody() {
        let rows = [(Tone::Plain, vec!["a".to_owned(), "\x1b[2Jevil\nname".to_owned()])];
        assert_eq!(strip_str(&table(&["ID", "NAME"], &rows)).to_string(), "ID  NAME\na   evil name");
    }

    #[test]
    fn payloads_are_text_where_they_are() {
        let spec =
            |payload: &[u8]| json(&proto::task::TaskSpec::new("noop", payload.to_vec()))["payload"].clone();
        assert_eq!(spec(b"{\"ms\":1}"), "{\"ms\":1}");
        assert_eq!(spec(b""), "");
        assert_eq!(spec(&[0xff]), serde_json::json!([255]));
    }
}
