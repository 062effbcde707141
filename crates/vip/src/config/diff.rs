//! What differs between two configurations, for people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use humantime::format_duration;
use proto::vip::ServiceName;

use super::{Config, Service, Vip};

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Of which service.
    pub service: ServiceName,
    /// What: `+ 172.0.20.242/24 on storage`, `failback false → true`.
    pub what: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "service {}: {}", self.service, self.what)
    }
}

/// An address that another service has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Which.
    pub address: IpAddr,
    /// Whose it was.
    pub from: ServiceName,
    /// Whose it would be.
    pub to: ServiceName,
}

/// Addresses that one service has in `old` and another one in `new`. What keeps two nodes from having an address (holder,
/// term, grace) belongs to its service: nothing of that stands between two services.
pub fn moved(old: &Config, new: &Config) -> Vec<Moved> {
    let owners: BTreeMap<IpAddr, &ServiceName> = old
        .services
        .iter()
        .flat_map(|(name, service)| service.addresses().map(move |address| (address, name)))
        .collect();
    let mut moved = Vec::new();
    for (to, service) in &new.services {
        for address in service.addresses() {
            if let Some(from) = owners.get(&address).filter(|from| **from != to) {
                moved.push(Moved { address, from: (*from).clone(), to: to.clone() });
            }
        }
    }
    moved
}

/// What an apply of `new` over `old` changes, service by service; empty if it means the same.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    let names: BTreeSet<&ServiceName> = old.services.keys().chain(new.services.keys()).collect();
    for name in names {
        let mut lines = Vec::new();
        match (old.services.get(name), new.services.get(name)) {
            (None, Some(service)) => {
                lines.push("new".to_owned());
                // Its settings as differences from a service that says nothing.
                compare(&Service::new(Vec::new()), service, &mut lines);
            }
            (Some(service), None) => {
                lines.push("removed".to_owned());
                lines.extend(service.vips.iter().map(|vip| format!("- {vip}")));
            }
            (Some(old), Some(new)) => compare(old, new, &mut lines),
            (None, None) => {}
        }
        changes.extend(lines.into_iter().map(|what| Change { service: name.clone(), what }));
    }
    changes
}

fn compare(old: &Service, new: &Service, lines: &mut Vec<String>) {
    vips(&old.vips, &new.vips, lines);
    let mut setting = |name: &str, old: String, new: String| {
        if old != new {
            lines.push(format!("{name} {old} → {new}"));
        }
    };
    setting("enabled", old.enabled.to_string(), new.enabled.to_string());
    setting("preferred", list(&old.preferred), list(&new.preferred));
    setting("labels", labels(&old.labels), labels(&new.labels));
    setting("failback", old.failback.to_string(), new.failback.to_string());
    let spread = |service: &Service| service.spread.clone().unwrap_or_else(|| "none".to_owned());
    setting("spread", spread(old), spread(new));
    let duration = |duration| format_duration(duration).to_string();
    setting("hold_down", duration(old.hold_down), duration(new.hold_down));
    setting("takeover_grace", duration(old.takeover_grace), duration(new.takeover_grace));
    for gone in old.checks.iter().filter(|check| !new.checks.contains(check)) {
        lines.push(format!("- check {gone}"));
    }
    for added in new.checks.iter().filter(|check| !old.checks.contains(check)) {
        lines.push(format!("+ check {added}"));
    }
}

fn vips(old: &[Vip], new: &[Vip], lines: &mut Vec<String>) {
    let by_address =
        |vips: &[Vip]| vips.iter().map(|vip| (vip.address.addr(), vip.clone())).collect::<BTreeMap<_, _>>();
    let (old, new) = (by_address(old), by_address(new));
    let addresses: BTreeSet<&IpAddr> = old.keys().chain(new.keys()).collect();
    for address in addresses {
        match (old.get(address), new.get(address)) {
            (Some(gone), None) => lines.push(format!("- {gone}")),
            (None, Some(added)) => lines.push(format!("+ {added}")),
            (Some(old), Some(new)) if old != new => lines.push(format!("~ {old} → {new}")),
            _ => {}
        }
    }
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

fn labels(labels: &BTreeMap<String, String>) -> String {
    list(&labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>())
}
