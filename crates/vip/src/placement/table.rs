//! Cases to check by eye.
//!
//! ```text
//! nodes      n1            fit                  n1:unfit, n1:drained, n1:stopping, n1:dry, n1:site=a (a label), n1:unfit=ab (for those),
//!                                               n1:unreadable
//! services   a             no wishes            a[n1,n2] preferred · a{g} spread group · a+ failback · a/site=a label · a! disabled
//! standing   a@n1          n1 holds it          a~n1 nobody holds it, it is assigned to n1 · a@n1>n2 n1 holds it, a later assignment
//!                                               says n2 · a@n1<n2 the assignment says n2, n1 took it since
//!            a-n1          n1 lost it lately    a%n1 n1 was ordered to release it, a#n1 also if nobody else can have it · a=n1 an
//!                                               operator moves it there
//! order      a:n1,n2       n1 is to hold it, n2 follows; a: nobody
//! ```

use super::*;
use crate::config::{Service, Vip};
use proto::Incarnation;
use proto::vip::{Backend, LocalPhase, LocalService};

const TABLE: &str = "
# what                                           | nodes                      | services             | standing        | order
a first place goes to the first preferred        | n1 n2 n3                   | a[n3,n2]             |                 | a:n3,n2,n1
without wishes to the first by name              | n1 n2 n3                   | a                    |                 | a:n1,n2,n3
services without wishes share the nodes          | n1 n2 n3                   | a b c                |                 | a:n1,n2,n3 b:n2,n1,n3 c:n3,n1,n2
preferred nodes that are not fit wait            | n1 n2:unfit n3             | a[n2,n3]             |                 | a:n3,n2,n1
preferred nodes that are not there are no matter | n1 n2                      | a[n9,n2]             |                 | a:n2,n1
labels are demanded                              | n1 n2:site=a n3:site=b     | a/site=a             |                 | a:n2
labels also of whoever is preferred              | n1 n2:site=a               | a[n1]/site=a         |                 | a:n2
nobody has the label                             | n1 n2                      | a/site=a             |                 | a:
nobody is there                                  |                            | a                    |                 | a:
nobody is fit: who would, in order               | n1:unfit n2:unfit          | a[n2]                |                 | a:n2,n1
disabled                                         | n1 n2                      | a!                   | a@n1            | a:

whoever has it keeps it                          | n1 n2                      | a                    | a@n2            | a:n2,n1
also against a better one                        | n1 n2                      | a[n1]                | a@n2            | a:n2,n1
with failback it goes back                       | n1 n2                      | a[n1]+               | a@n2            | a:n1,n2
but not to one that is no better                 | n1 n2                      | a[n3]+               | a@n2            | a:n2,n1
nor to one that lost it just now                 | n1 n2                      | a[n1]+               | a@n2 a-n1       | a:n2,n1
nor to one that is not fit                       | n1:unfit n2                | a[n1]+               | a@n2            | a:n2,n1
from an unfit holder it goes to the next         | n1 n2:unfit n3             | a                    | a@n2            | a:n1,n2,n3
unless nobody else is fit                        | n1:unfit n2:unfit          | a                    | a@n2            | a:n2,n1
from a drained one                               | n1:drained n2 n3           | a[n1]                | a@n1            | a:n2,n3
even if nobody else can                          | n1:drained n2:unfit        | a                    | a@n1            | a:n2
even if nobody else is there                     | n1:drained                 | a                    | a@n1            | a:
from a stopping one                              | n1:stopping n2             | a[n1]                | a@n1            | a:n2
if it is the only one, it gets it back           | n1:stopping                | a                    | a@n1            | a:n1
from one that is gone                            | n2 n3                      | a[n1]                | a~n1            | a:n2,n3
one that cannot be read gets nothing             | n1:unreadable n2           | a[n1]                |                 | a:n2
nor keeps it                                     | n1:unreadable n2           | a                    | a@n1            | a:n2
if nobody else is there, it may                  | n1:unreadable              | a                    | a@n1            | a:n1
all are gone: as it was                          |                            | a                    | a~n1            | a:n1
assigned and not taken yet: stays                | n1 n2                      | a                    | a~n2            | a:n2,n1
a move under way goes on                         | n1 n2                      | a                    | a@n1>n2         | a:n2,n1
unless its target is not fit any more            | n1 n2:unfit n3             | a                    | a@n1>n2         | a:n1,n2,n3
a successor that took it keeps it                | n1 n2                      | a[n2]                | a@n1<n2         | a:n1,n2

who lost it is passed over                       | n1 n2 n3                   | a[n1]                | a-n1            | a:n2,n3,n1
unless it is the only one                        | n1 n2:unfit                | a[n1]                | a-n1            | a:n1,n2
who was ordered to release it comes last         | n1 n2 n3                   | a[n1]+               | a@n1 a%n1       | a:n2,n3,n1
also after one that lost it                      | n1 n2 n3:unfit             | a[n1]                | a@n1 a%n1 a-n2  | a:n2,n3,n1
and gets it if nobody else can                   | n1 n2:unfit                | a                    | a~n2 a%n1       | a:n1,n2
until another can                                | n1 n2                      | a[n1]                | a@n1 a%n1       | a:n2,n1
or an operator moves it there                    | n1 n2                      | a                    | a@n2 a%n1 a=n1  | a:n1,n2
if nobody else could, it gets it not at all      | n1 n2:unfit                | a[n1]                | a#n1 a@n1       | a:n2
an order beats preference and stickiness         | n1 n2 n3                   | a[n1]                | a@n1 a=n3       | a:n3,n1,n2
and failback                                     | n1 n2                      | a[n1]+               | a@n1 a=n2       | a:n2,n1
but not fitness                                  | n1 n2:unfit                | a                    | a@n1 a=n2       | a:n1,n2

a group takes different nodes                    | n1 n2 n3                   | a[n1]{g} b[n1]{g}    |                 | a:n1,n3,n2 b:n2,n3,n1
other groups are no matter                       | n1 n2                      | a[n1]{g} b[n1]{h}    |                 | a:n1,n2 b:n1,n2
with too few nodes it shares                     | n1                         | a{g} b{g}            |                 | a:n1 b:n1
room is made for who has only one                | n1 n2:site=x               | a[n2]{g} b{g}/site=x |                 | a:n1,n2 b:n2
room is made by shifting two                     | n1:unfit=b n2:unfit=c n3:unfit=ac | a{g} b{g} c{g} |               | a:n2,n1,n3 b:n3,n2,n1 c:n1,n3,n2
opposite wishes are met                          | n1 n2                      | a[n2,n1]{g} b[n1]{g} |                 | a:n2,n1 b:n1,n2
wishes within a group are met also if the first could do otherwise | n1 n2    | a{g} b[n1]{g}        |                 | a:n2,n1 b:n1,n2
who has a place is not moved for it              | n1 n2:site=x               | a{g} b{g}/site=x     | a@n2            | a:n2,n1 b:n2
two that share stay                              | n1 n2                      | a{g} b{g}            | a@n1 b@n1       | a:n1,n2 b:n1,n2
unless one has failback                          | n1 n2                      | a{g} b{g}+           | a@n1 b@n1       | a:n1,n2 b:n2,n1
failback does not go where its group is          | n1 n2                      | a{g} b[n1]{g}+       | a@n1 b@n2       | a:n1,n2 b:n2,n1
but two with failback change places              | n1 n2                      | a[n2]{g}+ b[n1]{g}+  | a@n1 b@n2       | a:n2,n1 b:n1,n2
of two that go, each has a successor of its own  | n1 n2 n3 n4                | a{g} b{g}            | a@n1 b@n2       | a:n1,n3,n4,n2 b:n2,n4,n3,n1

a dry run gets nothing that a real node could    | n1:dry n2                  | a[n1]                |                 | a:n2
nor keeps it                                     | n1:dry n2                  | a                    | a@n1            | a:n2
only if no real one is fit                       | n1:dry n2:unfit            | a                    |                 | a:n1,n2
dry runs among themselves                        | n1:dry n2:dry              | a[n2]                |                 | a:n2,n1
";

pub(crate) fn node(name: &str) -> NodeId {
    name.parse().unwrap_or_else(|_| panic!("{name:?} is no node"))
}

pub(crate) fn service(name: &str) -> ServiceName {
    name.parse().unwrap_or_else(|_| panic!("{name:?} is no service"))
}

pub(crate) fn report(name: &str) -> NodeReport {
    NodeReport {
        node: node(name),
        incarnation: Incarnation::from_u128(1),
        backend: Backend::Netlink,
        why_dry: None,
        unreadable: None,
        stopping: false,
        labels: BTreeMap::new(),
        services: BTreeMap::new(),
    }
}

pub(crate) fn local(unfit: bool) -> LocalService {
    let unfit = unfit.then(|| "eth1 has no carrier".to_owned());
    LocalService { unfit, phase: LocalPhase::Idle, since_ms: 0, note: None, conflict: None }
}

pub(crate) fn drained() -> Drained {
    Drained { since_ms: 0, why: "work on it".to_owned() }
}

pub(crate) fn plain_service() -> Service {
    Service::new(vec![Vip { address: "10.0.0.1/24".parse().unwrap(), interface: "e".to_owned() }])
}

/// What an [`Input`] borrows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scene {
    pub(crate) config: Config,
    pub(crate) nodes: BTreeMap<NodeId, NodeReport>,
    pub(crate) drained: BTreeMap<NodeId, Drained>,
    pub(crate) standings: BTreeMap<ServiceName, Standing>,
}

impl Scene {
    pub(crate) fn input(&self) -> Input<'_> {
        let Self { config, nodes, drained, standings } = self;
        Input { config, nodes, drained, standings }
    }

    pub(crate) fn place(&self) -> BTreeMap<ServiceName, Placement> {
        place(&self.input())
    }

    /// A scene in the notation above.
    pub(crate) fn parse(nodes: &str, services: &str, standing: &str) -> Self {
        let mut scene = Self::default();
        services.split_whitespace().for_each(|text| scene.add_service(text));
        nodes.split_whitespace().for_each(|text| scene.add_node(text));
        standing.split_whitespace().for_each(|text| scene.add_standing(text));
        scene
    }

    fn add_service(&mut self, text: &str) {
        let mut new = plain_service();
        let (name, mut rest) = text.split_at(1);
        while let Some(kind) = rest.chars().next() {
            let (part, after) = match kind {
                '[' => rest[1..].split_once(']').unwrap(),
                '{' => rest[1..].split_once('}').unwrap(),
                '/' => (&rest[1..], ""),
                _ => ("", &rest[1..]),
            };
            match kind {
                '[' => new.preferred = part.split(',').map(node).collect(),
                '{' => new.spread = Some(part.to_owned()),
                '/' => new.labels.extend([label(part)]),
                '+' => new.failback = true,
                '!' => new.enabled = false,
                other => panic!("{other:?} in {text:?}"),
            }
            rest = after;
        }
        self.config.services.insert(service(name), new);
    }

    fn add_node(&mut self, text: &str) {
        let mut parts = text.split(':');
        let name = parts.next().unwrap();
        let mut new = report(name);
        let mut unfit = String::new();
        for part in parts {
            match part.split_once('=').unwrap_or((part, "abc")) {
                ("unfit", services) => unfit = services.to_owned(),
                ("stopping", _) => new.stopping = true,
                ("unreadable", _) => new.unreadable = Some("it cannot be read".to_owned()),
                ("dry", _) => new.backend = Backend::DryRun,
                ("drained", _) => drop(self.drained.insert(node(name), drained())),
                _ => new.labels.extend([label(part)]),
            }
        }
        let local = |name: &ServiceName| (name.clone(), local(unfit.contains(name.as_str())));
        new.services = self.config.services.keys().map(local).collect();
        self.nodes.insert(node(name), new);
    }

    fn add_standing(&mut self, text: &str) {
        let (name, rest) = text.split_at(1);
        let standing = self.standings.entry(service(name)).or_default();
        let (kind, at) = rest.split_at(1);
        match kind {
            "@" if at.contains('>') => {
                let (from, to) = at.split_once('>').unwrap();
                (standing.holder, standing.order, standing.moving) = (Some(node(from)), vec![node(to)], true);
            }
            "@" if at.contains('<') => {
                let (has, said) = at.split_once('<').unwrap();
                (standing.holder, standing.order) = (Some(node(has)), vec![node(said)]);
            }
            "@" => (standing.holder, standing.order) = (Some(node(at)), vec![node(at)]),
            "~" => standing.order = vec![node(at)],
            "-" => drop(standing.passed_over.insert(node(at))),
            "%" => drop(standing.put_last.insert(node(at))),
            "#" => drop(standing.kept_off.insert(node(at))),
            "=" => standing.move_to = Some(node(at)),
            other => panic!("{other:?} in {text:?}"),
        }
    }
}

fn label(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or_else(|| panic!("{text:?} is no label"));
    (name.to_owned(), value.to_owned())
}

fn orders(placements: &BTreeMap<ServiceName, Placement>) -> String {
    let order =
        |placement: &Placement| placement.order.iter().map(NodeId::as_str).collect::<Vec<_>>().join(",");
    placements
        .iter()
        .map(|(name, placement)| format!("{name}:{}", order(placement)))
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn the_table_holds() {
    let rows: Vec<&str> =
        TABLE.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).collect();
    assert!(rows.len() >= 25);
    let mut wrong = Vec::new();
    let mut why = Vec::new();
    for row in rows {
        let [what, nodes, services, standing, expected] =
            row.split('|').map(str::trim).collect::<Vec<_>>().try_into().unwrap_or_else(|_| panic!("{row}"));
        let placements = Scene::parse(nodes, services, standing).place();
        let got = orders(&placements);
        if got != expected {
            wrong.push(format!("{what}: expected {expected}, got {got}"));
        }
        let sentences = placements.iter().map(|(name, placement)| format!("  {name}: {}", placement.why));
        why.push(format!(
            "{what} ({nodes} | {services} | {standing})\n{}",
            sentences.collect::<Vec<_>>().join("\n")
        ));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    insta::assert_snapshot!("why", why.join("\n"));
}
