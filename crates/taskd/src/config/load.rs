//! Puts the layers together and keeps track of where each value came from.

use std::path::{Path, PathBuf};

use figment::error::Kind;
use figment::providers::{Env, Format, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Error, Figment, Metadata, Profile, Provider};
use proto::NodeId;
use serde::Serialize;

use super::{Config, ConfigError, Problem, VipBackend};

/// Maps whose keys are the user's own.
const FREE_MAPS: [&str; 2] = ["node.labels", "vip.interfaces"];

/// What `taskd serve` was told on its command line; it wins over file and environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--node-id`
    pub node_id: Option<String>,
    /// `--listen`
    pub listen: Option<String>,
    /// `--coordination`, `HOSTS[/root]`
    pub coordination: Option<String>,
    /// `--embedded`
    pub embedded: bool,
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
    /// `--allow-exec`
    pub allow_exec: bool,
    /// `--on-stop`.
    pub on_stop: Option<String>,
}

/// Reads `file` (if given; it must exist then), the environment and `flags`, and checks the result.
///
/// # Errors
/// Everything that is wrong, each with its key, where its value came from, and what to do.
pub fn load(file: Option<&Path>, flags: &Flags) -> Result<Config, ConfigError> {
    let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let id = host_name.trim().split('.').next().unwrap_or_default().to_ascii_lowercase();
    let mut figment = Figment::from(Serialized::defaults(defaults()?));
    if id.parse::<NodeId>().is_ok() {
        figment = figment.merge(Given { origin: "the machine's host name", key: "node.id", value: id });
    }
    let value = data_dir().display().to_string();
    figment = figment.merge(Given { origin: "the default for this user", key: "node.data_dir", value });
    if let Some(path) = file {
        if !path.is_file() {
            let problem = Problem::at("--config", format!("there is no file {}", path.display()));
            return Err(ConfigError(vec![problem]));
        }
        figment = figment.merge(Toml::file_exact(path));
    }
    // TASKD_ADDR and what tasks find in their environment have no section, and are not ours.
    figment = figment.merge(Env::prefixed("TASKD_").filter(|key| key.as_str().contains("__")).split("__"));
    extract(&flags.over(figment))
}

/// Where this user's daemons keep their data unless told otherwise: `/var/lib/taskd`, or, where that is not theirs, a
/// directory under their home. So a person needs no root to try it, and a service has its data where services have it.
pub fn data_dir() -> PathBuf {
    let system = Path::new(super::DATA_DIR);
    let theirs = nix::unistd::Uid::effective().is_root()
        || nix::unistd::access(system, nix::unistd::AccessFlags::W_OK).is_ok();
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    data_dir_of(theirs, variable("XDG_STATE_HOME"), variable("HOME"))
}

fn data_dir_of(system_is_theirs: bool, state: Option<PathBuf>, home: Option<PathBuf>) -> PathBuf {
    // What is not absolute means nothing there, by the rules of XDG.
    let whole = |path: &PathBuf| path.is_absolute();
    let state = || state.filter(whole).or_else(|| Some(home.filter(whole)?.join(".local/state")));
    let own = if system_is_theirs { None } else { state() };
    own.map_or_else(|| PathBuf::from(super::DATA_DIR), |state| state.join("taskd"))
}

/// The defaults as values, without what has none.
fn defaults() -> Result<Value, ConfigError> {
    let mut defaults = reference()?;
    for (section, key) in [("node", "id"), ("coordination", "hosts")] {
        if let Value::Dict(_, sections) = &mut defaults
            && let Some(Value::Dict(_, keys)) = sections.get_mut(section)
        {
            keys.remove(key);
        }
    }
    Ok(defaults)
}

/// A configuration with every key that there is.
fn reference() -> Result<Value, ConfigError> {
    let impossible = |error: String| ConfigError(vec![Problem::at("the built-in defaults", error)]);
    let id = "x".parse::<NodeId>().map_err(|error| impossible(error.to_string()))?;
    let mut config = Config::new(id, "x");
    config.vip.backend = VipBackend::Auto;
    Value::serialize(config).map_err(|error| impossible(error.to_string()))
}

fn extract(figment: &Figment) -> Result<Config, ConfigError> {
    let found: Dict = figment.extract().map_err(|error| explain(figment, error))?;
    let known = reference()?.into_dict().unwrap_or_default();
    let mut problems = Vec::new();
    unknown(figment, "", &found, &known, &mut problems);
    if !problems.is_empty() {
        return Err(ConfigError(problems));
    }
    let config: Config = figment.extract().map_err(|error| explain(figment, error))?;
    match config.check() {
        Ok(()) => Ok(config),
        Err(mut problems) => {
            for problem in &mut problems {
                problem.origin = origin(figment, &problem.key);
            }
            Err(ConfigError(problems))
        }
    }
}

/// Finds keys that mean nothing, which are typing errors more often than not.
fn unknown(figment: &Figment, path: &str, found: &Dict, known: &Dict, problems: &mut Vec<Problem>) {
    for (key, value) in found {
        let full = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (known.get(key), value) {
            (None, _) => {
                let what = if path.is_empty() { "section" } else { "key" };
                let message = match nearest(key, known.keys()) {
                    Some(near) => format!("there is no such {what}: did you mean {near:?}?"),
                    None => {
                        let names: Vec<_> = known.keys().map(String::as_str).collect();
                        format!("there is no such {what}: use one of {}", names.join(", "))
                    }
                };
                let origin = describe(figment, first_leaf(value), &full);
                problems.push(Problem { key: full, origin, message });
            }
            (Some(Value::Dict(_, known)), Value::Dict(_, found)) if !FREE_MAPS.contains(&full.as_str()) => {
                unknown(figment, &full, found, known, problems);
            }
            _ => {}
        }
    }
}

/// A dictionary that several layers contributed to has no origin of its own; what is in it has.
fn first_leaf(value: &Value) -> &Value {
    match value {
        Value::Dict(_, dict) => dict.values().next().map_or(value, first_leaf),
        _ => value,
    }
}

/// The name most like `wrong`, if any is much like it.
fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a String>) -> Option<&'a str> {
    names
        .map(|name| (distance(wrong, name), name.as_str()))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Where the value of `key` came from, in words.
fn origin(figment: &Figment, key: &str) -> String {
    figment.find_value(key).map(|value| describe(figment, &value, key)).unwrap_or_default()
}

fn describe(figment: &Figment, value: &Value, key: &str) -> String {
    figment.get_metadata(value.tag()).map(|metadata| words(metadata, key)).unwrap_or_default()
}

fn words(metadata: &Metadata, key: &str) -> String {
    if let Some(path) = metadata.source.as_ref().and_then(figment::Source::file_path) {
        return format!("in {}", path.display());
    }
    match metadata.name.as_ref() {
        name if name.contains("environment") => {
            format!("from the environment variable TASKD_{}", key.replace('.', "__").to_uppercase())
        }
        // What serialised the defaults is of no interest to anyone.
        name if name.contains("Value") => "the default".to_owned(),
        name => format!("from {name}"),
    }
}

fn explain(figment: &Figment, errors: Error) -> ConfigError {
    let problems = errors.into_iter().map(|error| {
        let mut key = error.path.join(".");
        let message = match &error.kind {
            Kind::MissingField(field) => {
                if !key.is_empty() {
                    key.push('.');
                }
                key.push_str(field);
                match key.as_str() {
                    "node.id" => {
                        "not set, and the machine's host name is no node id: name this node, in the file \
                        (id = \"n1\") or with --node-id n1"
                            .to_owned()
                    }
                    _ => "not set".to_owned(),
                }
            }
            kind => kind.to_string(),
        };
        let origin = match &error.metadata {
            _ if matches!(error.kind, Kind::MissingField(_)) => String::new(),
            Some(metadata) => words(metadata, &key),
            None => origin(figment, &key),
        };
        if key.is_empty() {
            "the file".clone_into(&mut key);
        }
        Problem { key, origin, message: message.trim_end().to_owned() }
    });
    ConfigError(problems.collect())
}

impl Flags {
    /// Puts what was given over the other layers.
    fn over(&self, mut figment: Figment) -> Figment {
        let mut give = |origin: &'static str, key: &'static str, value: Option<String>| {
            if let Some(value) = value {
                figment = std::mem::take(&mut figment).merge(Given { origin, key, value });
            }
        };
        give("the flag --node-id", "node.id", self.node_id.clone());
        give("the flag --listen", "node.listen", self.listen.clone());
        if let Some(coordination) = &self.coordination {
            let (hosts, root) = match coordination.find('/') {
                Some(at) => (&coordination[..at], Some(coordination[at..].to_owned())),
                None => (coordination.as_str(), None),
            };
            give("the flag --coordination", "coordination.hosts", Some(hosts.to_owned()));
            give("the flag --coordination", "coordination.root", root);
        }
        let data_dir = self.data_dir.as_ref().map(|path| path.display().to_string());
        give("the flag --data-dir", "node.data_dir", data_dir);
        give("the flag --on-stop", "tasks.on_stop", self.on_stop.clone());
        for (origin, key, given) in [
            ("the flag --embedded", "coordination.embedded", self.embedded),
            ("the flag --allow-exec", "exec.allow", self.allow_exec),
        ] {
            if given {
                figment = figment.merge(Given { origin, key, value: true });
            }
        }
        figment
    }
}

/// One value; text is text whatever it looks like.
struct Given<T> {
    origin: &'static str,
    key: &'static str,
    value: T,
}

impl<T: Serialize> Provider for Given<T> {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        Serialized::default(self.key, &self.value).data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_directories_by_user() {
        let path = |text: &str| Some(PathBuf::from(text)).filter(|_| !text.is_empty());
        let rows = [
            (true, "/state", "/home/u", "/var/lib/taskd"),
            (false, "/state", "/home/u", "/state/taskd"),
            (false, "", "/home/u", "/home/u/.local/state/taskd"),
            (false, "relative", "/home/u", "/home/u/.local/state/taskd"),
            (false, "", "", "/var/lib/taskd"),
        ];
        for (theirs, state, home, expected) in rows {
            let found = data_dir_of(theirs, path(state), path(home));
            assert_eq!(found, Path::new(expected), "{theirs} {state:?} {home:?}");
        }
    }
}
