//! A TOML table that is read key by key, and remembers every problem instead of stopping at the first.
//!
//! Serde would stop at the first, and cannot refuse unknown keys of a table whose keys it flattens.

use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One thing that is wrong with the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line of the text, from 1.
    pub line: usize,
    /// The key, as `service.iscsi.vips[0].address`; empty if it is about the text as such.
    pub key: String,
    /// What is wrong and what to do.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)
    }
}

/// Everything that is wrong with the text, in the text's order; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<Problem>);

impl fmt::Display for ConfigErrors {
    /// A line each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            fmt::Display::fmt(problem, f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// What is found on the way.
pub(super) struct Problems<'t> {
    text: &'t str,
    found: Vec<Problem>,
}

impl<'t> Problems<'t> {
    pub(super) fn of(text: &'t str) -> Self {
        Self { text, found: Vec::new() }
    }

    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    pub(super) fn add(&mut self, span: &Range<usize>, key: impl Into<String>, what: impl Into<String>) {
        let line = self.line(span);
        self.found.push(Problem { line, key: key.into(), what: what.into() });
    }

    pub(super) fn into_errors(mut self) -> Option<ConfigErrors> {
        self.found.sort_by_key(|problem| problem.line);
        (!self.found.is_empty()).then_some(ConfigErrors(self.found))
    }
}

/// A value and the key that leads to it.
#[derive(Clone)]
pub(super) struct Field<'a, 'i> {
    pub(super) key: String,
    pub(super) value: &'a Spanned<DeValue<'i>>,
}

impl<'a, 'i> Field<'a, 'i> {
    pub(super) fn span(&self) -> Range<usize> {
        self.value.span()
    }

    /// Says that this value is wrong.
    pub(super) fn refuse(&self, problems: &mut Problems<'_>, what: impl Into<String>) {
        problems.add(&self.span(), self.key.clone(), what);
    }

    fn mistyped(&self, problems: &mut Problems<'_>, wanted: &str) {
        let kind = match self.value.get_ref() {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) | DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.refuse(problems, format!("is {kind}: write {wanted}"));
    }

    /// A text that is not empty.
    pub(super) fn text(&self, problems: &mut Problems<'_>, wanted: &str) -> Option<&'a str> {
        match self.value.get_ref() {
            DeValue::String(text) if text.trim().is_empty() => {
                self.refuse(problems, format!("is empty: write {wanted}"));
                None
            }
            DeValue::String(text) => Some(text),
            _ => {
                self.mistyped(problems, wanted);
                None
            }
        }
    }

    /// The elements of a list of at most `max`.
    pub(super) fn list(&self, problems: &mut Problems<'_>, max: usize, wanted: &str) -> Vec<Field<'a, 'i>> {
        let DeValue::Array(list) = self.value.get_ref() else {
            self.mistyped(problems, wanted);
            return Vec::new();
        };
        if list.len() > max {
            self.refuse(problems, format!("has {} entries, but at most {max} are allowed", list.len()));
        }
        let numbered = list.iter().take(max).enumerate();
        numbered.map(|(n, value)| Field { key: format!("{}[{n}]", self.key), value }).collect()
    }

    /// A table, to be read key by key.
    pub(super) fn table(&self, problems: &mut Problems<'_>, wanted: &str) -> Option<Section<'a, 'i>> {
        match self.value.get_ref() {
            DeValue::Table(table) => {
                Some(Section { key: self.key.clone(), span: self.span(), table, known: Vec::new() })
            }
            _ => {
                self.mistyped(problems, wanted);
                None
            }
        }
    }
}

/// A table, and which of its keys were asked for.
pub(super) struct Section<'a, 'i> {
    pub(super) key: String,
    pub(super) span: Range<usize>,
    table: &'a DeTable<'i>,
    known: Vec<&'static str>,
}

impl<'a, 'i> Section<'a, 'i> {
    pub(super) fn root(table: &'a Spanned<DeTable<'i>>) -> Self {
        Self { key: String::new(), span: table.span(), table: table.get_ref(), known: Vec::new() }
    }

    fn path(&self, name: &str) -> String {
        if self.key.is_empty() { name.to_owned() } else { format!("{}.{name}", self.key) }
    }

    /// The key's value, if it is there. A key that nobody asks for is refused by [`end`](Self::end).
    pub(super) fn take(&mut self, name: &'static str) -> Option<Field<'a, 'i>> {
        self.known.push(name);
        let (_, value) = self.table.iter().find(|(key, _)| key.get_ref() == name)?;
        Some(Field { key: self.path(name), value })
    }

    /// Every key with its value and where the key stands, for tables whose keys are names.
    pub(super) fn entries(&self) -> Vec<(&'a str, Range<usize>, Field<'a, 'i>)> {
        let entries = self.table.iter();
        entries
            .map(|(key, value)| {
                (key.get_ref().as_ref(), key.span(), Field { key: self.path(key.get_ref()), value })
            })
            .collect()
    }

    pub(super) fn flag(&mut self, problems: &mut Problems<'_>, name: &'static str, default: bool) -> bool {
        let Some(field) = self.take(name) else { return default };
        match field.value.get_ref() {
            DeValue::Boolean(flag) => *flag,
            _ => {
                field.mistyped(problems, "true or false");
                default
            }
        }
    }

    pub(super) fn count(
        &mut self,
        problems: &mut Problems<'_>,
        name: &'static str,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> u32 {
        let Some(field) = self.take(name) else { return default };
        let wanted = format!("a number from {} to {}", range.start(), range.end());
        let DeValue::Integer(number) = field.value.get_ref() else {
            field.mistyped(problems, &wanted);
            return default;
        };
        match u32::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) if range.contains(&number) => number,
            _ => {
                field.refuse(problems, format!("{} is out of range: write {wanted}", number.as_str()));
                default
            }
        }
    }

    pub(super) fn duration(
        &mut self,
        problems: &mut Problems<'_>,
        name: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(field) = self.take(name) else { return default };
        let (from, to) =
            (humantime::format_duration(*range.start()), humantime::format_duration(*range.end()));
        let wanted = format!(
            "a duration from {from} to {to} in quotes, such as \"{}\"",
            humantime::format_duration(default)
        );
        let Some(text) = field.text(problems, &wanted) else { return default };
        match humantime::parse_duration(text) {
            Ok(duration) if range.contains(&duration) => duration,
            Ok(_) => {
                field.refuse(problems, format!("{text} is out of range: write {wanted}"));
                default
            }
            Err(_) => {
                field.refuse(problems, format!("{text:?} is no duration: write {wanted}"));
                default
            }
        }
    }

    /// Refuses every key that nobody asked for.
    pub(super) fn end(self, problems: &mut Problems<'_>) {
        for (name, span, field) in self.entries() {
            if !self.known.contains(&name) {
                let what = format!("is not known here; known are {}", self.known.join(", "));
                problems.add(&span, field.key, what);
            }
        }
    }
}
