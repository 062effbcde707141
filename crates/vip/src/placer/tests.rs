//! The leader's decisions, one by one. The scenes are in the notation of the placement's table.

mod moves;

use super::*;
use crate::placement::table::{Scene, drained, local, node, report, service};
use crate::store::GRACE_MAX;
use proto::Epoch;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// By which nobody of a scene has become idle lately.
const WALL_MS: u64 = 100_000_000;

/// A leader and what it sees; writes are carried out only by [`commit`](Self::commit).
struct Desk {
    scene: Scene,
    services: BTreeMap<ServiceName, Known>,
    placer: Placer,
    now: Instant,
    zxid: i64,
    revision: u64,
    seen: bool,
}

impl Desk {
    /// Of `services`, each assigned and held as `holders` says (`a@n1`: n1 holds what is assigned to n1 and the others).
    fn new(nodes: &str, services: &str, holders: &str) -> Self {
        let scene = Scene::parse(nodes, services, "");
        let now = Instant::from_nanos(1_000_000_000_000);
        let mut desk = Self {
            scene,
            services: BTreeMap::new(),
            placer: Placer::new(Epoch(1)),
            now,
            zxid: 0,
            revision: 1,
            seen: true,
        };
        for text in holders.split_whitespace() {
            let (name, holder) = text.split_once('@').unwrap();
            let others = desk.scene.nodes.keys().filter(|other| other.as_str() != holder).cloned();
            let order = [node(holder)].into_iter().chain(others).collect();
            desk.assigned(name, order, &format!("{holder} has it"));
            desk.taken(name, holder);
        }
        desk
    }

    fn assigned(&mut self, name: &str, order: Vec<NodeId>, why: &str) {
        self.zxid += 1;
        let known = self.services.entry(service(name)).or_default();
        let version = known.assignment.as_ref().map_or(0, |assigned| assigned.version + 1);
        let (service, why) = (service(name), why.to_owned());
        let document = Assignment { service, order, revision: 1, epoch: Epoch(1), why };
        known.assignment = Some(Assigned { version, mark: self.zxid, document });
        known.term.get_or_insert(Term::Free { node: None, release: None });
    }

    fn taken(&mut self, name: &str, holder: &str) {
        self.zxid += 1;
        let known = self.services.get_mut(&service(name)).unwrap();
        known.holder = Some((node(holder), self.zxid));
        known.term = Some(Term::Held { node: node(holder), take: uuid::Uuid::nil(), grace: ms(2000) });
    }

    fn released(&mut self, name: &str) {
        let known = self.services.get_mut(&service(name)).unwrap();
        known.holder = None;
        known.term = Some(Term::Free { node: None, release: None });
    }

    fn died(&mut self, name: &str) {
        self.scene.nodes.remove(&node(name));
        for known in self.services.values_mut() {
            known.holder.take_if(|(holder, _)| *holder == node(name));
        }
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        let Scene { config, nodes, drained, .. } = &self.scene;
        let world = World {
            wall_ms: WALL_MS,
            revision: self.revision,
            config,
            nodes,
            drained,
            services: &self.services,
        };
        self.placer.step(self.now, self.seen.then_some(&world), event)
    }

    fn look(&mut self) -> Vec<Effect> {
        self.step(Event::Look)
    }

    fn after(&mut self, by: Duration) -> Vec<Effect> {
        self.now = self.now + by;
        self.look()
    }

    /// Carries out the assignments, and looks until there is nothing more to do at this time.
    fn commit(&mut self, effects: Vec<Effect>) -> Vec<Effect> {
        let mut rest = Vec::new();
        for effect in effects {
            let Effect::Assign(assignment) = effect else {
                rest.push(effect);
                continue;
            };
            let name = assignment.service.clone();
            self.assigned(name.as_str(), assignment.order, &assignment.why);
            let version = self.services[&name].assignment.as_ref().map(|assigned| assigned.version);
            rest.extend(self.step(Event::Assigned(name, version)));
        }
        rest
    }
}

fn said(effects: &[Effect]) -> String {
    let line = |effect: &Effect| match effect {
        Effect::Assign(assignment) => {
            let order = assignment.order.iter().map(NodeId::as_str).collect::<Vec<_>>();
            format!("{}:{}", assignment.service, order.join(","))
        }
        Effect::Remove { service, waited } => {
            format!("remove {service}{}", if *waited { " after its grace" } else { "" })
        }
        Effect::Answer(id, Ok(what)) => format!("{id}: {what}"),
        Effect::Answer(id, Err(why)) => format!("{id} refused: {why}"),
    };
    effects.iter().map(line).collect::<Vec<_>>().join("; ")
}

#[test]
fn nothing_is_done_before_everything_was_seen() {
    let mut desk = Desk::new("n1 n2", "a b", "");
    desk.seen = false;
    assert_eq!(said(&desk.after(ms(60_000))), "");
    desk.seen = true;
    assert_eq!(said(&desk.look()), "a:n1,n2; b:n2,n1");
}

#[test]
fn a_new_service_waits_for_every_nodes_look_but_not_for_ever() {
    let mut desk = Desk::new("n1 n2", "a[n2]", "");
    desk.scene.nodes.get_mut(&node("n2")).unwrap().services.clear();
    assert_eq!(said(&desk.look()), "");
    assert_eq!(desk.placer.wake(), Some(desk.now + SETTLE));
    assert_eq!(said(&desk.after(SETTLE)), "a:n1,n2");

    let mut desk = Desk::new("n1 n2", "a[n2]", "");
    desk.scene.nodes.get_mut(&node("n2")).unwrap().services.clear();
    assert_eq!(said(&desk.look()), "");
    desk.scene.nodes.get_mut(&node("n2")).unwrap().services.insert(service("a"), local(false));
    assert_eq!(said(&desk.look()), "a:n2,n1");
}

/// A leader that finds everything as wanted writes nothing and wants no tick, and so for ever.
#[test]
fn where_nothing_changes_nothing_is_written() {
    let mut desk = Desk::new("n1 n2 n3", "a b[n2] c{g}", "a@n1 b@n2 c@n3");
    let effects = desk.look();
    assert_eq!(said(&desk.commit(effects)), "");
    // Its own words for the reasons come once, when all has settled.
    let effects = desk.after(SETTLE);
    desk.commit(effects);
    for _ in 0..10 {
        assert_eq!(said(&desk.after(ms(3_600_000))), "");
        assert_eq!(desk.placer.wake(), None);
    }
}

/// What an earlier leader decided stands, even where this one would have placed it elsewhere.
#[test]
fn a_new_leader_keeps_what_it_finds() {
    let mut desk = Desk::new("n1 n2 n3", "a[n1] b[n1]{g} c[n1]{g}", "a@n3 b@n2 c@n2");
    let first = desk.look();
    assert_eq!(said(&first), "");
    // Later only who follows and why, never who holds.
    for effect in desk.after(SETTLE) {
        let Effect::Assign(assignment) = &effect else { panic!("{effect:?}") };
        let (holder, _) = desk.services[&assignment.service].holder.clone().unwrap();
        assert_eq!(assignment.order.first(), Some(&holder));
    }
}

#[test]
fn succession_is_left_to_the_successors() {
    let mut desk = Desk::new("n1 n2 n3", "a", "a@n1");
    desk.look();
    desk.died("n1");
    assert_eq!(said(&desk.look()), "");
    assert_eq!(said(&desk.after(ms(1900))), "");
    // n2 takes it under the old assignment: it is made official, and stays.
    desk.taken("a", "n2");
    let effects = desk.look();
    assert_eq!(said(&effects), "a:n2,n3");
    desk.commit(effects);
    desk.scene.nodes.insert(node("n1"), desk.scene.nodes[&node("n2")].clone());
    assert_eq!(said(&desk.after(ms(1))), "");
}

#[test]
fn a_succession_that_does_not_happen_is_ended() {
    let mut desk = Desk::new("n1 n2 n3", "a", "a@n1");
    desk.look();
    desk.died("n1");
    assert_eq!(said(&desk.look()), "");
    assert_eq!(desk.placer.wake(), Some(desk.now + SETTLE));
    assert_eq!(said(&desk.after(SETTLE)), "a:n2,n3");
}

/// After an outage the leader may be back before the one that had the service, and that one before its successors take it.
#[test]
fn a_leader_that_is_back_first_leaves_a_service_to_those_who_come_after_it() {
    let outage = || {
        let mut desk = Desk::new("n1 n2", "a", "a@n1");
        let n1 = desk.scene.nodes[&node("n1")].clone();
        desk.died("n1");
        assert_eq!(said(&desk.look()), "");
        assert_eq!(said(&desk.after(SETTLE)), "");
        (desk, n1)
    };
    let (mut desk, n1) = outage();
    desk.scene.nodes.insert(node("n1"), n1);
    desk.taken("a", "n1");
    assert_eq!(said(&desk.after(RETURNING)), "");
    let (mut desk, _) = outage();
    desk.taken("a", "n2");
    assert_eq!(said(&desk.look()), "a:n2");
    let (mut desk, _) = outage();
    assert_eq!(desk.placer.wake(), Some(desk.now + (RETURNING - SETTLE)));
    assert_eq!(said(&desk.after(RETURNING - SETTLE)), "a:n2");
}

/// The one before it has seen the node lose the service; it sees for how long the node has been without.
#[test]
fn a_new_leader_takes_over_what_is_left_of_a_hold_down() {
    for (idle_for, expected) in [(4_000, ""), (10_000, "a:n1,n2"), (60_000, "a:n1,n2")] {
        let mut desk = Desk::new("n1 n2", "a[n1]+", "a@n2");
        let mut says = local(false);
        says.since_ms = WALL_MS - idle_for;
        desk.scene.nodes.get_mut(&node("n1")).unwrap().services.insert(service("a"), says);
        let effects = desk.look();
        assert_eq!(said(&effects), expected, "idle for {idle_for} ms");
        if expected.is_empty() {
            let effects = desk.after(ms(5_999));
            desk.commit(effects);
            assert_eq!(said(&desk.after(ms(1))), "a:n1,n2");
        }
    }
}

/// With none of the successors able, there is nothing to wait for.
#[test]
fn without_a_successor_the_leader_acts_at_once() {
    let mut desk = Desk::new("n1", "a", "a@n1");
    desk.look();
    desk.scene.nodes.insert(node("n9"), desk.scene.nodes[&node("n1")].clone());
    desk.died("n1");
    assert_eq!(said(&desk.look()), "a:n9");
}

#[test]
fn an_unfit_holder_goes_by_itself_and_is_told_only_if_it_does_not() {
    let mut desk = Desk::new("n1 n2", "a", "a@n1");
    desk.look();
    desk.scene.nodes.get_mut(&node("n1")).unwrap().services.insert(service("a"), local(true));
    assert_eq!(said(&desk.look()), "");
    assert_eq!(said(&desk.after(SETTLE)), "a:n2,n1");
}

#[test]
fn a_drained_holder_is_told_at_once() {
    let mut desk = Desk::new("n1 n2", "a", "a@n1");
    desk.look();
    desk.scene.drained.insert(node("n1"), drained());
    let effects = desk.look();
    assert_eq!(said(&effects), "a:n2");
    desk.commit(effects);
    // It is on its way: nothing more to do. Then n2 has it; undrained, n1 follows again.
    assert_eq!(said(&desk.after(ms(50))), "");
    desk.released("a");
    desk.taken("a", "n2");
    desk.scene.drained.clear();
    assert_eq!(said(&desk.after(ms(50))), "");
    assert_eq!(said(&desk.after(SETTLE)), "a:n2,n1");
}

#[test]
fn orders() {
    let mut desk = Desk::new("n1 n2 n3:unfit", "a[n1]+ b!", "a@n1");
    let effects = desk.look();
    assert_eq!(said(&effects), "b:");
    desk.commit(effects);
    let order = |desk: &mut Desk, id, order| said(&desk.step(Event::Order(id, order)));
    let to = |name: &str| Some(node(name));
    let refused = [
        Order::Move(service("x"), None),
        Order::Move(service("b"), None),
        Order::Move(service("a"), to("n1")),
        Order::Move(service("a"), to("n3")),
        Order::Move(service("a"), to("n9")),
        Order::Release(service("x")),
    ];
    let answers: Vec<_> = refused.into_iter().zip(1..).map(|(wish, id)| order(&mut desk, id, wish)).collect();
    insta::assert_snapshot!(answers.join("\n"));

    // To the next one that can; the answer comes when it is there. With failback it goes back after the hold-down.
    let effects = desk.step(Event::Order(10, Order::Move(service("a"), None)));
    assert_eq!(said(&effects), "a:n2,n1,n3");
    desk.commit(effects);
    desk.released("a");
    assert_eq!(said(&desk.after(ms(20))), "");
    desk.taken("a", "n2");
    assert_eq!(said(&desk.after(ms(20))), "10: n2 has a");
    let effects = desk.after(ms(9_000));
    desk.commit(effects);
    let effects = desk.after(ms(1_000));
    assert_eq!(said(&effects), "a:n1,n2,n3");
    desk.commit(effects);
    desk.released("a");
    desk.taken("a", "n1");
    let effects = desk.after(SETTLE);
    desk.commit(effects);

    // Released: it goes elsewhere, and not back before the hold-down has passed.
    let effects = desk.step(Event::Order(11, Order::Release(service("a"))));
    assert_eq!(said(&effects), "a:n2,n3,n1");
    desk.commit(effects);
    desk.released("a");
    assert_eq!(said(&desk.after(ms(20))), "11: n1 has given a up");
    desk.taken("a", "n2");
    assert_eq!(said(&desk.after(ms(20))), "");
    // But for the case that nobody else can have it any more; and then it is not moved off again.
    desk.died("n2");
    assert_eq!(said(&desk.after(ms(20))), "");
    desk.taken("a", "n1");
    let effects = desk.after(ms(20));
    assert_eq!(said(&effects), "a:n1,n3");
    desk.commit(effects);
    desk.scene.nodes.insert(node("n3"), desk.scene.nodes[&node("n1")].clone());
    assert_eq!(said(&desk.after(ms(20))), "");
}

/// A lost configuration is no order to remove everything.
#[test]
fn a_configuration_that_was_never_applied_removes_nothing() {
    let mut desk = Desk::new("n1 n2", "a", "a@n1");
    desk.look();
    desk.scene.config.services.clear();
    desk.revision = 0;
    assert_eq!(said(&desk.after(ms(60_000))), "");
    let answer = desk.step(Event::Order(1, Order::Release(service("a"))));
    assert_eq!(said(&answer), "1 refused: there is no service a: see taskd vip list");
}

#[test]
fn what_is_configured_no_more_is_given_up_and_then_removed() {
    let mut desk = Desk::new("n1 n2", "a", "a@n1");
    desk.look();
    desk.scene.config.services.clear();
    let effects = desk.look();
    assert_eq!(said(&effects), "a:");
    assert_eq!(said(&desk.commit(effects)), "");
    desk.released("a");
    assert_eq!(said(&desk.look()), "remove a");
    // Once.
    assert_eq!(said(&desk.look()), "");
    desk.services.clear();
    desk.step(Event::Removed(service("a"), Some(Removal::Done)));
    assert_eq!(said(&desk.after(ms(1000))), "");
    assert_eq!(desk.placer.wake(), None);
    assert!(desk.placer.memories.is_empty());
}

#[test]
fn what_was_not_released_is_removed_after_its_grace() {
    let mut desk = Desk::new("n1 n2", "a", "a@n1");
    desk.look();
    desk.scene.config.services.clear();
    let effects = desk.look();
    desk.commit(effects);
    desk.died("n1");
    assert_eq!(said(&desk.look()), "");
    assert_eq!(said(&desk.after(ms(1999))), "");
    assert_eq!(said(&desk.after(ms(1))), "remove a after its grace");
}

/// Without it nobody can take, and it is not free for its absence.
#[test]
fn a_term_that_somebody_deleted_is_written_again() {
    let mut desk = Desk::new("n1 n2", "a", "a@n1");
    let effects = desk.look();
    desk.commit(effects);
    let effects = desk.after(SETTLE);
    desk.commit(effects);
    desk.services.get_mut(&service("a")).unwrap().term = None;
    let effects = desk.look();
    assert_eq!(said(&effects), "a:n1,n2");
    desk.commit(effects);
    assert_eq!(said(&desk.after(SETTLE)), "");

    desk.scene.config.services.clear();
    let effects = desk.look();
    desk.commit(effects);
    desk.died("n1");
    desk.services.get_mut(&service("a")).unwrap().term = Some(Term::Unknown);
    assert_eq!(said(&desk.look()), "");
    assert_eq!(said(&desk.after(GRACE_MAX - ms(1))), "");
    assert_eq!(said(&desk.after(ms(1))), "remove a after its grace");
}

#[test]
fn a_write_that_failed_is_tried_again_later() {
    let mut desk = Desk::new("n1 n2", "a", "");
    assert_eq!(said(&desk.look()), "a:n1,n2");
    assert_eq!(said(&desk.step(Event::Assigned(service("a"), None))), "");
    assert_eq!(desk.placer.wake(), Some(desk.now + RETRY));
    assert_eq!(said(&desk.after(RETRY)), "a:n1,n2");
    // One whose answer never comes, too.
    assert_eq!(said(&desk.after(WRITE_MAX - ms(1))), "");
    assert_eq!(said(&desk.after(ms(1))), "a:n1,n2");
}

/// A node that comes or goes changes who follows, but not in the middle of something.
#[test]
fn who_follows_is_written_when_all_has_settled() {
    let mut desk = Desk::new("n1 n2", "a", "a@n1");
    desk.look();
    let mut n3 = report("n3");
    n3.services.insert(service("a"), local(false));
    desk.scene.nodes.insert(node("n3"), n3);
    assert_eq!(said(&desk.look()), "");
    assert_eq!(said(&desk.after(SETTLE)), "a:n1,n2,n3");
}
