//! A small world: nodes that take and give up as the protocol says, a leader that comes and goes, late news. Whatever
//! happens, once it stops everything is where it should be, and nobody writes any more.

use proptest::prelude::*;
use proto::Epoch;

use super::*;
use crate::placement::table::{Scene, drained, local, node, plain_service, service};
use crate::placement::{Input, obstacle};

const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];
const SERVICES: [&str; 3] = ["a", "b", "c"];
/// Nobody has become idle lately.
const WALL_MS: u64 = 100_000_000;
const TICK: Duration = Duration::from_millis(100);
/// Once nothing happens any more.
const LONG_TICK: Duration = Duration::from_millis(500);

#[derive(Clone, Debug)]
enum Act {
    /// It comes or dies.
    Node(usize),
    /// It becomes fit or unfit for a service.
    Fit(usize, usize),
    Drain(usize),
    /// Configured, or no more.
    Service(usize),
    Enable(usize),
    Order(usize, Option<usize>),
    Release(usize),
    /// Another leads, and knows nothing.
    Leader,
    /// The next write is lost.
    Fail,
    /// The leader hears nothing for so many ticks.
    Deaf(u8),
    Pass(u8),
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0..4usize).prop_map(Act::Node),
        3 => (0..4usize, 0..3usize).prop_map(|(node, service)| Act::Fit(node, service)),
        2 => (0..4usize).prop_map(Act::Drain),
        1 => (0..3usize).prop_map(Act::Service),
        1 => (0..3usize).prop_map(Act::Enable),
        2 => (0..3usize, prop::option::of(0..4usize)).prop_map(|(service, node)| Act::Order(service, node)),
        1 => (0..3usize).prop_map(Act::Release),
        1 => Just(Act::Leader),
        1 => Just(Act::Fail),
        1 => (1..20u8).prop_map(Act::Deaf),
        8 => (1..40u8).prop_map(Act::Pass),
    ]
}

struct Sim {
    scene: Scene,
    services: BTreeMap<ServiceName, Known>,
    /// What the leader has heard.
    heard: (Scene, BTreeMap<ServiceName, Known>),
    deaf: u8,
    placer: Placer,
    epoch: u64,
    now: Instant,
    zxid: i64,
    fail: bool,
    writes: u64,
    orders: BTreeSet<OrderId>,
    next: OrderId,
}

impl Sim {
    fn new() -> Self {
        let mut scene = Scene::parse("n1 n2 n3 n4", "a[n1,n2]{g} b[n2,n1]{g} c[n3]+", "");
        for service in scene.config.services.values_mut() {
            service.hold_down = Duration::from_secs(3);
        }
        let heard = (scene.clone(), BTreeMap::new());
        let (placer, now) = (Placer::new(Epoch(1)), Instant::from_nanos(1_000_000_000_000));
        let services = BTreeMap::new();
        let (orders, next) = (BTreeSet::new(), 0);
        Self {
            scene,
            services,
            heard,
            deaf: 0,
            placer,
            epoch: 1,
            now,
            zxid: 0,
            fail: false,
            writes: 0,
            orders,
            next,
        }
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Node(n) => {
                let name = node(NODES[n]);
                if self.scene.nodes.remove(&name).is_none() {
                    let fresh = Scene::parse(NODES[n], "a b c", "");
                    self.scene.nodes.extend(fresh.nodes);
                }
            }
            Act::Fit(n, s) => {
                if let Some(report) = self.scene.nodes.get_mut(&node(NODES[n])) {
                    let local = report.services.entry(service(SERVICES[s])).or_insert_with(|| local(false));
                    local.unfit = if local.unfit.is_some() { None } else { Some("it fails".to_owned()) };
                }
            }
            Act::Drain(n) => {
                if self.scene.drained.remove(&node(NODES[n])).is_none() {
                    self.scene.drained.insert(node(NODES[n]), drained());
                }
            }
            Act::Service(s) => {
                let name = service(SERVICES[s]);
                if self.scene.config.services.remove(&name).is_none() {
                    self.scene.config.services.insert(name, plain_service());
                }
            }
            Act::Enable(s) => {
                if let Some(service) = self.scene.config.services.get_mut(&service(SERVICES[s])) {
                    service.enabled = !service.enabled;
                }
            }
            Act::Order(s, to) => {
                self.order(Order::Move(service(SERVICES[s]), to.map(|n| node(NODES[n]))));
            }
            Act::Release(s) => self.order(Order::Release(service(SERVICES[s]))),
            Act::Leader => {
                self.epoch += 1;
                let ended = std::mem::replace(&mut self.placer, Placer::new(Epoch(self.epoch)));
                let effects = ended.end();
                self.carry_out(effects);
            }
            Act::Fail => self.fail = true,
            Act::Deaf(ticks) => self.deaf = ticks,
            Act::Pass(ticks) => (0..ticks).for_each(|_| self.tick(TICK)),
        }
    }

    fn order(&mut self, order: Order) {
        self.next += 1;
        self.orders.insert(self.next);
        self.step(Event::Order(self.next, order));
    }

    fn step(&mut self, event: Event) {
        let (scene, services) = &self.heard;
        let Scene { config, nodes, drained, .. } = scene;
        let world = World { wall_ms: WALL_MS, revision: 1, config, nodes, drained, services };
        let effects = self.placer.step(self.now, Some(&world), event);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Answer(id, _) => assert!(self.orders.remove(&id), "order {id} was answered twice"),
                Effect::Assign(assignment) => {
                    self.writes += 1;
                    let name = assignment.service.clone();
                    if std::mem::take(&mut self.fail) {
                        self.step(Event::Assigned(name, None));
                        continue;
                    }
                    self.zxid += 1;
                    let known = self.services.entry(name.clone()).or_default();
                    let version = known.assignment.as_ref().map_or(0, |assigned| assigned.version + 1);
                    known.assignment = Some(Assigned { version, mark: self.zxid, document: assignment });
                    known.term.get_or_insert(Term::Free { node: None, release: None });
                    self.step(Event::Assigned(name, Some(version)));
                }
                Effect::Remove { service, .. } => {
                    self.writes += 1;
                    let removal = if self.services.get(&service).is_some_and(|known| known.holder.is_some()) {
                        Removal::Held
                    } else {
                        self.services.remove(&service);
                        Removal::Done
                    };
                    self.step(Event::Removed(service, Some(removal)));
                }
            }
        }
    }

    /// The nodes do their part, then the leader.
    fn tick(&mut self, by: Duration) {
        self.now = self.now + by;
        let standings = BTreeMap::new();
        let Scene { config, nodes, drained, .. } = &self.scene;
        let input = Input { config, nodes, drained, standings: &standings };
        for (name, known) in &mut self.services {
            let able =
                |node: &NodeId| config.services.contains_key(name) && obstacle(&input, name, node).is_none();
            if let Some((holder, mark)) = known.holder.clone() {
                let assigned = known.assignment.as_ref();
                let moved =
                    assigned.is_some_and(|at| at.mark > mark && at.document.order.first() != Some(&holder));
                let drained = drained.contains_key(&holder);
                // A drained one waits to be told.
                if !nodes.contains_key(&holder) {
                    known.holder = None;
                } else if moved || (!able(&holder) && !drained) {
                    known.holder = None;
                    known.term = Some(Term::Free { node: Some(holder), release: None });
                }
            } else if let Some(taker) = known.order().iter().find(|node| able(node)).cloned() {
                self.zxid += 1;
                let (take, grace) = (uuid::Uuid::nil(), Duration::from_secs(2));
                known.holder = Some((taker.clone(), self.zxid));
                known.term = Some(Term::Held { node: taker, take, grace });
            }
        }
        if self.deaf > 0 {
            self.deaf -= 1;
        } else {
            self.heard = (self.scene.clone(), self.services.clone());
        }
        self.step(Event::Look);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everything_comes_to_rest_where_it_should_be(acts in prop::collection::vec(any_act(), 1..60)) {
        let mut sim = Sim::new();
        for act in &acts {
            sim.act(act);
        }
        (0..80).for_each(|_| sim.tick(LONG_TICK));
        prop_assert!(sim.orders.is_empty(), "not answered: {:?}", sim.orders);

        let writes = sim.writes;
        (0..80).for_each(|_| sim.tick(LONG_TICK));
        prop_assert_eq!(sim.placer.wake(), None, "it waits for something");
        prop_assert_eq!(sim.writes, writes, "something is still written 40 s later");

        // Another leader leaves everything where it is.
        let holders = |sim: &Sim| -> Vec<_> { sim.services.iter().map(|(name, at)| (name.clone(), at.holder.clone())).collect() };
        let before = holders(&sim);
        sim.act(&Act::Leader);
        (0..80).for_each(|_| sim.tick(LONG_TICK));
        prop_assert_eq!(holders(&sim), before);

        let standings = BTreeMap::new();
        let input = Input { standings: &standings, ..sim.scene.input() };
        for (name, known) in &sim.services {
            prop_assert!(sim.scene.config.services.contains_key(name), "{name} is configured no more: {known:?}");
        }
        for (name, configured) in &sim.scene.config.services {
            let known = &sim.services[name];
            let fit: Vec<_> = sim.scene.nodes.keys().filter(|node| obstacle(&input, name, node).is_none()).collect();
            match known.holder() {
                Some(holder) => {
                    prop_assert!(configured.enabled && fit.contains(&holder), "{name} is on {holder}; fit: {fit:?}");
                    prop_assert_eq!(Some(holder), known.order().first());
                }
                None => prop_assert!(!configured.enabled || fit.is_empty(), "nobody has {name}; fit: {fit:?}"),
            }
        }
    }
}
