//! What a running node takes over from its file, and what has to wait for its next start.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::config::{Config, VipBackend};
use crate::vips;

/// Hands a node's file to the node while it runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reloader {
    /// What holds: the file's facts as they were taken over, the rest as the node was started with.
    running: Arc<Mutex<Config>>,
    facts: watch::Sender<vip::Facts>,
}

/// What differs from what held before, a line each: `vip.interfaces.storage "eth1" → "eth2"`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// What holds now.
    pub now: Vec<String>,
    /// What holds from the node's next start on.
    pub at_next_start: Vec<String>,
}

impl Reloader {
    pub(crate) fn new(config: Config, facts: watch::Sender<vip::Facts>) -> Self {
        Self { running: Arc::new(Mutex::new(config)), facts }
    }

    /// Takes over what can be: the node's labels as far as virtual IPs look at them, its interfaces, its hooks,
    /// and whether it permits scripts.
    ///
    /// What [`load`](crate::config::load) refuses never comes here, so a file that is wrong changes nothing.
    pub fn reload(&self, new: &Config) -> Reloaded {
        // The configuration is plain data: what a panic left of it is whole.
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, after) = (leaves(&running), leaves(new));
        let mut reloaded = Reloaded::default();
        let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
        for key in keys {
            let (old, new) = (before.get(key), after.get(key));
            if old == new {
                continue;
            }
            let or_none = |value: Option<&String>| value.map_or("none", String::as_str).to_owned();
            let line = format!("{key} {} → {}", or_none(old), or_none(new));
            if running.vip.backend == VipBackend::Off || !is_fact(key) {
                reloaded.at_next_start.push(line);
            } else {
                if key.starts_with("node.labels") {
                    reloaded.at_next_start.push(format!("{line}, for the placing of tasks"));
                }
                reloaded.now.push(line);
            }
        }
        if running.vip.backend != VipBackend::Off {
            running.node.labels.clone_from(&new.node.labels);
            running.vip.interfaces.clone_from(&new.vip.interfaces);
            running.vip.on_take.clone_from(&new.vip.on_take);
            running.vip.on_release.clone_from(&new.vip.on_release);
            running.vip.scripts = new.vip.scripts;
            let facts = vips::facts(&running);
            self.facts.send_if_modified(|known| {
                let changed = *known != facts;
                *known = facts;
                changed
            });
        }
        reloaded
    }
}

fn is_fact(key: &str) -> bool {
    key.starts_with("node.labels.")
        || key.starts_with("vip.interfaces.")
        || matches!(key, "vip.on_take" | "vip.on_release" | "vip.scripts")
}

/// Every value by its key.
fn leaves(config: &Config) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    if let Ok(table) = toml::Table::try_from(config) {
        collect("", &table, &mut found);
    }
    found
}

fn collect(path: &str, table: &toml::Table, found: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        let full = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match value {
            toml::Value::Table(table) => collect(&full, table, found),
            value => {
                found.insert(full, value.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Vip;

    fn config(backend: VipBackend) -> Config {
        let mut config = Config::new("n1".parse().unwrap(), "zk:2181");
        config.vip = Vip::new(backend);
        config.vip.interfaces.insert("storage".to_owned(), "eth1".to_owned());
        config
    }

    #[test]
    fn facts_now_and_the_rest_at_the_next_start() {
        let running = config(VipBackend::DryRun);
        let (facts, mut seen) = watch::channel(vips::facts(&running));
        let reloader = Reloader::new(running.clone(), facts);
        assert_eq!(reloader.reload(&running), Reloaded::default());
        assert!(!seen.has_changed().unwrap(), "nothing is handed over that has not changed");

        let mut new = running;
        new.vip.interfaces.insert("storage".to_owned(), "eth2".to_owned());
        new.vip.backend = VipBackend::Netlink;
        new.vip.on_take = Some("/bin/true".into());
        new.vip.scripts = true;
        new.node.labels.insert("zone".to_owned(), "a".to_owned());
        let at_next_start = vec![
            "node.labels.zone none → \"a\", for the placing of tasks".to_owned(),
            "vip.backend \"dry-run\" → \"netlink\"".to_owned(),
        ];
        let reloaded = reloader.reload(&new);
        assert_eq!(
            reloaded.now,
            [
                "node.labels.zone none → \"a\"",
                "vip.interfaces.storage \"eth1\" → \"eth2\"",
                "vip.on_take none → \"/bin/true\"",
                "vip.scripts false → true",
            ]
        );
        assert_eq!(reloaded.at_next_start, at_next_start);
        let facts = seen.borrow_and_update().clone();
        assert_eq!((facts.interface("storage"), &*facts.labels["zone"], facts.scripts), ("eth2", "a", true));

        // What waits is said each time, until the node is started anew.
        let again = reloader.reload(&new);
        assert_eq!((again.now.as_slice(), again.at_next_start.as_slice()), (&[][..], &at_next_start[1..]));
        assert!(!seen.has_changed().unwrap());
    }

    #[test]
    fn a_node_that_takes_no_part_takes_over_nothing() {
        let running = config(VipBackend::Off);
        let (facts, seen) = watch::channel(vips::facts(&running));
        let reloader = Reloader::new(running.clone(), facts);
        let mut new = running;
        new.vip.interfaces.clear();
        assert_eq!(reloader.reload(&new).at_next_start, ["vip.interfaces.storage \"eth1\" → none"]);
        assert!(!seen.has_changed().unwrap());
    }
}
