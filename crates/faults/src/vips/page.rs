//! `taskd vip list -o json`, as far as it matters here.

use std::collections::BTreeMap;

use serde::Deserialize;

/// What people see.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Page {
    pub(crate) services: Vec<Service>,
    pub(crate) nodes: Vec<Report>,
    #[serde(default)]
    pub(crate) events: Vec<Event>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Service {
    pub(crate) service: String,
    pub(crate) state: String,
    pub(crate) holder: Option<String>,
    pub(crate) trouble: Option<String>,
    pub(crate) remedy: Option<String>,
}

/// What a node says of itself.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Report {
    pub(crate) node: String,
    pub(crate) backend: String,
    pub(crate) stopping: bool,
    pub(crate) services: BTreeMap<String, Local>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Local {
    pub(crate) unfit: Option<String>,
    pub(crate) conflict: Option<Conflict>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Conflict {
    pub(crate) mac: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Event {
    pub(crate) what: String,
}

impl Page {
    pub(crate) fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.service == name)
    }

    /// Why not every node may hold everything, or not every service is held, if so; `all` is with the first service.
    pub(crate) fn trouble(&self, nodes: &[String], all: bool) -> Option<String> {
        for name in nodes {
            let Some(report) = self.nodes.iter().find(|report| report.node == *name) else {
                return Some(format!("{name} has not reported"));
            };
            if report.stopping || report.backend != "netlink" {
                return Some(format!("{name} is stopping, or its backend is {}", report.backend));
            }
            let unfit = report.services.iter().find_map(|(name, local)| Some((name, local.unfit.as_ref()?)));
            if let Some((service, unfit)) = unfit {
                return Some(format!("{name} cannot hold {service}: {unfit}"));
            }
        }
        let skip = usize::from(!all);
        let held = |name: &&str| self.service(name).is_some_and(|service| service.state == "held");
        let not = super::cluster::SERVICES.into_iter().skip(skip).find(|name| !held(name))?;
        Some(match self.service(not) {
            Some(service) => format!(
                "{not} is {} (holder {:?}): {}",
                service.state,
                service.holder,
                service.trouble.as_deref().unwrap_or("no trouble is told")
            ),
            None => format!("{not} is not listed"),
        })
    }

    /// Everything, in a line.
    pub(crate) fn words(&self) -> String {
        let service = |one: &Service| {
            let holder = one.holder.as_deref().unwrap_or("nobody");
            format!(
                "{} {} by {holder}: {}",
                one.service,
                one.state,
                one.trouble.as_deref().unwrap_or("no trouble")
            )
        };
        let services: Vec<_> = self.services.iter().map(service).collect();
        let nodes: Vec<_> = self.nodes.iter().map(|report| report.node.as_str()).collect();
        format!("{}; reported have {nodes:?}", services.join("; "))
    }

    /// The hardware address that keeps somebody from taking a service.
    pub(crate) fn conflict(&self, service: &str) -> Option<&str> {
        let locals = self.nodes.iter().filter_map(|report| report.services.get(service));
        locals.filter_map(|local| Some(local.conflict.as_ref()?.mac.as_str())).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(unfit: &str, state: &str) -> Page {
        let text = format!(
            r#"{{"revision":1,"services":[
                {{"service":"iscsi","state":"{state}","holder":null,"trouble":"x","remedy":null,"vips":[]}},
                {{"service":"management","state":"held","holder":"n1","trouble":null,"remedy":null}}],
                "nodes":[{{"node":"n1","backend":"netlink","stopping":false,"services":{{"iscsi":{{"unfit":{unfit},"phase":"blocked",
                "conflict":{{"address":"10.98.0.201","mac":"02:00:54:00:00:63","interface":"eth1"}}}}}}}}],"events":[]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn what_is_not_whole_is_said() {
        let nodes = ["n1".to_owned()];
        let rows = [
            (page("null", "held"), true, None),
            (page("null", "blocked"), true, Some("iscsi is blocked")),
            (page("null", "blocked"), false, None),
            (page("\"no carrier\"", "held"), true, Some("n1 cannot hold iscsi: no carrier")),
        ];
        for (page, all, expected) in rows {
            let trouble = page.trouble(&nodes, all);
            assert_eq!(trouble.is_some(), expected.is_some(), "{trouble:?}");
            assert!(trouble.unwrap_or_default().contains(expected.unwrap_or_default()));
        }
        assert!(page("null", "held").trouble(&["n2".to_owned()], true).unwrap().contains("not reported"));
        assert_eq!(page("null", "blocked").conflict("iscsi"), Some("02:00:54:00:00:63"));
    }
}
