//! Where a task may run, beyond the labels that its node must carry.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::task::InvalidSpec;

/// Where a task may run, and where it would rather. Apart from the rest of its rules, since most tasks have none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Placing {
    /// The node has to meet all of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub require: Vec<Term>,
    /// Of the nodes that have room, one that meets most of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefer: Vec<Term>,
    /// Of the nodes that have room, one on which fewest tasks with the same key run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<String>,
    /// How many of the node's slots it takes.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub slots: u32,
}

const fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
const fn is_one(slots: &u32) -> bool {
    *slots == 1
}

impl Default for Placing {
    /// Anywhere, in one slot.
    fn default() -> Self {
        Self { require: Vec::new(), prefer: Vec::new(), spread: None, slots: 1 }
    }
}

impl Placing {
    /// Most terms, required and preferred ones together.
    pub const TERMS_MAX: usize = 32;
    /// Most slots that a task may take.
    pub const SLOTS_MAX: u32 = 100_000;

    pub(crate) fn check(&self) -> Result<(), InvalidSpec> {
        let count = self.require.len() + self.prefer.len();
        if count > Self::TERMS_MAX {
            let what = "terms about its node";
            return Err(InvalidSpec::TooMany { what, count, limit: Self::TERMS_MAX });
        }
        for term in self.require.iter().chain(&self.prefer) {
            term.check()?;
        }
        let spread = self.spread.as_deref().unwrap_or("-");
        if spread.is_empty() {
            return Err(InvalidSpec::EmptySpread);
        }
        if spread.len() > 128 {
            let what = "the key to spread by";
            return Err(InvalidSpec::TooLong { what, chars: spread.len(), limit: 128 });
        }
        if self.slots == 0 || self.slots > Self::SLOTS_MAX {
            return Err(InvalidSpec::Slots(self.slots));
        }
        Ok(())
    }
}

/// Something about a node's label: `KEY=VALUE`, `KEY!=VALUE`; several values with `|` between them; or just `KEY`, which
/// has to be there, or `!KEY`, which must not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Term {
    key: String,
    /// Any of them; none: the label is there, whatever its value.
    values: Vec<String>,
    /// It is the other way round.
    not: bool,
}

impl Term {
    /// Whether a node with these labels meets it. A label that is not there has none of the values.
    pub fn is_met_by(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = match labels.get(&self.key) {
            Some(value) => self.values.is_empty() || self.values.contains(value),
            None => false,
        };
        has != self.not
    }

    /// The opposite: what is to be avoided.
    #[must_use]
    pub fn negated(self) -> Self {
        Self { not: !self.not, ..self }
    }

    fn check(&self) -> Result<(), InvalidSpec> {
        let longest = self.values.iter().map(String::len).max().unwrap_or(0);
        for (what, chars, limit) in [("a label's key", self.key.len(), 64), ("a label's value", longest, 256)]
        {
            if chars > limit {
                return Err(InvalidSpec::TooLong { what, chars, limit });
            }
        }
        if self.values.len() > 16 {
            return Err(InvalidSpec::TooMany {
                what: "values of a label",
                count: self.values.len(),
                limit: 16,
            });
        }
        Ok(())
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join("|"));
        match (self.values.is_empty(), self.not) {
            (true, false) => write!(f, "{key}"),
            (true, true) => write!(f, "!{key}"),
            (false, false) => write!(f, "{key}={values}"),
            (false, true) => write!(f, "{key}!={values}"),
        }
    }
}

/// Not a [`Term`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} says nothing about a label: use KEY=VALUE, KEY!=VALUE, KEY=ONE|OTHER, KEY or !KEY")]
pub struct NoTerm(pub String);

impl FromStr for Term {
    type Err = NoTerm;

    fn from_str(text: &str) -> Result<Self, NoTerm> {
        let wrong = || NoTerm(text.to_owned());
        let (key, values, not) = match text.split_once('=') {
            Some((key, values)) => {
                let not = key.ends_with('!');
                let values: Vec<String> = values.split('|').map(str::to_owned).collect();
                (key.strip_suffix('!').unwrap_or(key), values, not)
            }
            None => (text.strip_prefix('!').unwrap_or(text), Vec::new(), text.starts_with('!')),
        };
        if key.is_empty() || key.contains(['!', '|']) || key.trim() != key {
            return Err(wrong());
        }
        Ok(Self { key: key.to_owned(), values, not })
    }
}

impl TryFrom<String> for Term {
    type Error = NoTerm;

    fn try_from(text: String) -> Result<Self, NoTerm> {
        text.parse()
    }
}

impl From<Term> for String {
    fn from(term: Term) -> String {
        term.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_say_what_they_say_and_print_as_they_parse() {
        let labels: BTreeMap<String, String> =
            [("zone", "a"), ("disk", "ssd")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        for (text, met) in [
            ("zone=a", true),
            ("zone=b", false),
            ("zone!=b", true),
            ("zone!=a", false),
            ("zone=b|a", true),
            ("zone!=b|a", false),
            ("zone", true),
            ("gpu", false),
            ("!gpu", true),
            ("!zone", false),
            ("gpu!=old", true),
            ("disk=", false),
        ] {
            let term: Term = text.parse().expect("a term");
            assert_eq!(term.is_met_by(&labels), met, "{text}");
            assert_eq!(term.to_string(), text);
            assert_eq!(term.negated().is_met_by(&labels), !met, "the opposite of {text}");
        }
        for bad in ["", "=a", "!=a", "!", " zone=a", "a|b=c"] {
            assert!(bad.parse::<Term>().is_err(), "{bad:?}");
        }
    }
}
