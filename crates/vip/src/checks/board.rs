//! What every check says, and what follows for each service.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::vip::ServiceName;
use tokio::sync::watch;

use super::count::State;
use super::{Fitness, Fitnesses, Links, look};

/// Names one run of a check: what an aborted one says late is nobody's business.
pub(super) type CheckId = u64;

/// Shared by the checks. Locked only in memory.
#[derive(Debug)]
pub(super) struct Board {
    known: Mutex<Known>,
    fitness: watch::Sender<Arc<Fitnesses>>,
}

#[derive(Debug)]
struct Known {
    links: Arc<Links>,
    /// Role to interface.
    roles: BTreeMap<String, String>,
    services: BTreeMap<ServiceName, Row>,
}

/// What a service's fitness depends on.
#[derive(Debug)]
pub(super) struct Configured {
    /// Interfaces or roles of its addresses.
    pub(super) carriers: Vec<String>,
    /// Its checks, and what people call them.
    pub(super) checks: Vec<(CheckId, String)>,
}

/// One service.
#[derive(Debug)]
struct Row {
    /// Interfaces or roles of its addresses.
    carriers: Vec<String>,
    /// In the order of the configuration, which is the order of the reasons.
    checks: Vec<(CheckId, String, State)>,
}

impl Board {
    pub(super) fn new(links: Arc<Links>) -> Self {
        let known = Known { links, roles: BTreeMap::new(), services: BTreeMap::new() };
        Self { known: Mutex::new(known), fitness: watch::channel(Arc::default()).0 }
    }

    pub(super) fn fitness(&self) -> watch::Receiver<Arc<Fitnesses>> {
        self.fitness.subscribe()
    }

    pub(super) fn links(&self, links: Arc<Links>) {
        let mut known = self.known();
        known.links = links;
        self.publish(&known);
    }

    /// What a check says now.
    pub(super) fn state(&self, service: &ServiceName, check: CheckId, state: State) {
        let mut known = self.known();
        let row = known.services.get_mut(service);
        let found = row.and_then(|row| row.checks.iter_mut().find(|(id, ..)| *id == check));
        if let Some((.., old)) = found {
            *old = state;
            self.publish(&known);
        }
    }

    /// Replaces the services, each with its carriers and checks; what known checks have said stays.
    pub(super) fn configure(
        &self,
        roles: &BTreeMap<String, String>,
        services: BTreeMap<ServiceName, Configured>,
    ) {
        let mut known = self.known();
        known.roles = roles.clone();
        let mut old = std::mem::take(&mut known.services);
        for (name, Configured { carriers, checks }) in services {
            let said = old.remove(&name).map(|row| row.checks).unwrap_or_default();
            let checks = checks.into_iter().map(|(id, title)| {
                let state = said.iter().find(|(known, ..)| *known == id).map(|(.., state)| state.clone());
                (id, title, state.unwrap_or(State::Unknown))
            });
            known.services.insert(name, Row { carriers, checks: checks.collect() });
        }
        self.publish(&known);
    }

    /// The interface that an interface's name or a role means here.
    pub(super) fn interface(&self, name: &str) -> String {
        self.known().interface(name).to_owned()
    }

    /// Called under the lock, so that what is said later is newer.
    fn publish(&self, known: &Known) {
        self.fitness.send_if_modified(|fitness| {
            let verdict =
                |(name, row): (&ServiceName, &Row)| (name.clone(), known.verdict(row, fitness.get(name)));
            let new: Fitnesses = known.services.iter().map(verdict).collect();
            let changed = new != **fitness;
            *fitness = Arc::new(new);
            changed
        });
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn interface<'a>(&'a self, name: &'a str) -> &'a str {
        self.roles.get(name).map_or(name, String::as_str)
    }

    fn verdict(&self, row: &Row, before: Option<&Fitness>) -> Fitness {
        if let Some(why) =
            row.carriers.iter().find_map(|name| look::carrier(&self.links, self.interface(name)).err())
        {
            return Fitness::Unfit(why);
        }
        let fails = |(_, title, state): &(CheckId, String, State)| match state {
            State::Fails(why) => Some(format!("check \"{title}\": {why}")),
            State::Unknown | State::Passes => None,
        };
        if let Some(why) = row.checks.iter().find_map(fails) {
            return Fitness::Unfit(why);
        }
        match row.checks.iter().find(|(.., state)| *state == State::Unknown) {
            // A check that was just added says nothing against a node that serves.
            Some((_, title, _)) if before != Some(&Fitness::Fit) => {
                Fitness::Unknown(format!("check \"{title}\" has not answered yet"))
            }
            _ => Fitness::Fit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Interface;

    fn links(up: bool) -> Arc<Links> {
        let interface = Interface { link: 1, name: "eth1".to_owned(), mac: None, up, carrier: up };
        Arc::new(Links::from([("eth1".to_owned(), interface)]))
    }

    fn configure(board: &Board, checks: &[(CheckId, &str)]) {
        let checks = checks.iter().map(|(id, title)| (*id, (*title).to_owned())).collect();
        let roles = BTreeMap::from([("storage".to_owned(), "eth1".to_owned())]);
        let service = Configured { carriers: vec!["storage".to_owned()], checks };
        board.configure(&roles, BTreeMap::from([(iscsi(), service)]));
    }

    fn iscsi() -> ServiceName {
        "iscsi".parse().unwrap()
    }

    #[track_caller]
    fn says(board: &Board, expected: &str) {
        let fitness = board.fitness().borrow()[&iscsi()].clone();
        let said = match fitness {
            Fitness::Unknown(why) => format!("? {why}"),
            Fitness::Unfit(why) => format!("- {why}"),
            Fitness::Fit => "+".to_owned(),
        };
        assert_eq!(said, expected);
    }

    #[test]
    fn a_node_is_fit_when_everything_has_answered_and_passes() {
        let board = Board::new(links(true));
        configure(&board, &[]);
        says(&board, "+");
        board.links(links(false));
        says(&board, "- eth1 is down");
        configure(&board, &[(1, "target"), (2, "disk")]);
        board.links(links(true));
        says(&board, "? check \"target\" has not answered yet");
        board.state(&iscsi(), 1, State::Passes);
        says(&board, "? check \"disk\" has not answered yet");
        board.state(&iscsi(), 2, State::Fails("full".to_owned()));
        says(&board, "- check \"disk\": full");
        board.state(&iscsi(), 2, State::Passes);
        says(&board, "+");
    }

    #[test]
    fn a_new_check_takes_nothing_from_a_node_that_serves_until_it_fails() {
        let board = Board::new(links(true));
        configure(&board, &[(1, "target")]);
        board.state(&iscsi(), 1, State::Passes);
        configure(&board, &[(1, "target"), (2, "disk")]);
        says(&board, "+");
        board.state(&iscsi(), 2, State::Fails("full".to_owned()));
        says(&board, "- check \"disk\": full");
        // It was edited: a new run of it, and the node was unfit.
        configure(&board, &[(1, "target"), (3, "disk")]);
        says(&board, "? check \"disk\" has not answered yet");
        // The old run says something late.
        board.state(&iscsi(), 2, State::Passes);
        says(&board, "? check \"disk\" has not answered yet");
        board.state(&iscsi(), 3, State::Passes);
        says(&board, "+");
        let mut fitness = board.fitness();
        fitness.mark_unchanged();
        board.state(&iscsi(), 3, State::Passes);
        assert!(!fitness.has_changed().unwrap(), "only changes are told");
    }
}
