//! What is wrong with a configuration, said so that it can be put right.

use std::fmt;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which key, `section.key`.
    pub key: String,
    /// Where its value came from; empty if it has none.
    pub origin: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl Problem {
    /// `key` is wrong as `message` says; where it comes from is not known yet.
    pub fn at(key: &str, message: impl Into<String>) -> Self {
        Self { key: key.to_owned(), origin: String::new(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key)?;
        if !self.origin.is_empty() {
            write!(f, " ({})", self.origin)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// A configuration that cannot be used, with everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub Vec<Problem>);

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [problem] => write!(f, "the configuration cannot be used: {problem}"),
            problems => {
                f.write_str("the configuration cannot be used:")?;
                problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}
