//! What holds for every scene.

use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proto::vip::Backend;

use super::table::{Scene, drained, local, node, plain_service, report, service};
use super::*;

const NODES: [&str; 5] = ["n1", "n2", "n3", "n4", "n5"];
const SERVICES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn any_node() -> impl Strategy<Value = NodeId> {
    prop::sample::select(&NODES[..]).prop_map(node)
}

fn any_services() -> impl Strategy<Value = Config> {
    let one = (
        vec(any_node(), 0..4),
        prop::option::of(prop::sample::select(&["g", "h"][..])),
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.9),
        prop::bool::weighted(0.2),
    );
    let one = one.prop_map(|(preferred, spread, failback, enabled, labelled)| {
        let mut service = plain_service();
        for node in preferred {
            if !service.preferred.contains(&node) {
                service.preferred.push(node);
            }
        }
        service.spread = spread.map(str::to_owned);
        (service.failback, service.enabled) = (failback, enabled);
        service.labels.extend(labelled.then(|| ("site".to_owned(), "a".to_owned())));
        service
    });
    let names = prop::sample::select(&SERVICES[..]).prop_map(service);
    btree_map(names, one, 1..=5).prop_map(|services| Config { services })
}

/// Fitness for each service, stopping, dry run, labelled.
fn any_report() -> impl Strategy<Value = (Vec<bool>, bool, bool, bool)> {
    let weighted = prop::bool::weighted;
    (vec(weighted(0.75), 5), weighted(0.1), weighted(0.15), weighted(0.6))
}

fn make_report(name: &NodeId, (fit, stopping, dry, labelled): (Vec<bool>, bool, bool, bool)) -> NodeReport {
    let mut report = report(name.as_str());
    report.stopping = stopping;
    report.backend = if dry { Backend::DryRun } else { Backend::Netlink };
    report.labels.extend(labelled.then(|| ("site".to_owned(), "a".to_owned())));
    report.services = SERVICES.iter().zip(fit).map(|(name, fit)| (service(name), local(!fit))).collect();
    report
}

fn any_standing() -> impl Strategy<Value = Standing> {
    let some = |strategy| prop::option::weighted(0.2, strategy);
    (
        prop::option::weighted(0.7, any_node()),
        vec(any_node(), 0..4),
        any::<bool>(),
        btree_set(any_node(), 0..2),
        btree_set(any_node(), 0..2),
        prop::option::weighted(0.1, any_node()),
        some(any_node()),
    )
        .prop_map(|(holder, mut order, moving, passed_over, put_last, kept_off, move_to)| {
            let mut seen = BTreeSet::new();
            order.retain(|node| seen.insert(node.clone()));
            let moving = moving
                && holder.is_some()
                && order.first().is_some_and(|first| Some(first) != holder.as_ref());
            let kept_off = kept_off.into_iter().collect();
            Standing { holder, order, moving, passed_over, put_last, kept_off, move_to }
        })
}

fn any_scene() -> impl Strategy<Value = Scene> {
    let names = prop::sample::select(&SERVICES[..]).prop_map(service);
    (
        any_services(),
        btree_map(any_node(), any_report(), 0..=5),
        btree_set(any_node(), 0..2),
        btree_map(names, any_standing(), 0..=5),
    )
        .prop_map(|(config, reports, off, standings)| Scene {
            config,
            nodes: reports
                .into_iter()
                .map(|(name, report)| (name.clone(), make_report(&name, report)))
                .collect(),
            drained: off.into_iter().map(|node| (node, drained())).collect(),
            standings,
        })
}

/// Who can have it, of those that count.
fn fit<'a>(scene: &'a Scene, name: &ServiceName) -> BTreeSet<&'a NodeId> {
    let input = scene.input();
    let of = |kind| {
        let nodes =
            scene.nodes.iter().filter(move |(_, report)| report.backend == kind).map(|(node, _)| node);
        nodes.filter(|node| obstacle(&input, name, node).is_none()).collect::<BTreeSet<_>>()
    };
    let real = of(Backend::Netlink);
    if real.is_empty() { of(Backend::DryRun) } else { real }
}

/// Those of them who are not to give it up to another of them.
fn welcome<'a>(scene: &'a Scene, name: &ServiceName) -> BTreeSet<&'a NodeId> {
    let fit = fit(scene, name);
    let Some(standing) = scene.standings.get(name) else { return fit };
    let welcome: BTreeSet<_> =
        fit.iter().copied().filter(|node| !standing.put_last.contains(*node)).collect();
    if welcome.is_empty() { fit } else { welcome }
}

/// The scene once everybody has done as placed.
fn carried_out(scene: &Scene) -> Scene {
    let mut after = scene.clone();
    for (name, placement) in scene.place() {
        let standing = after.standings.entry(name).or_default();
        standing.holder = placement.order.first().cloned();
        (standing.order, standing.moving) = (placement.order, false);
    }
    after
}

/// Whether everyone of `homeless` can be alone on one of its choices.
fn matching(homeless: &[BTreeSet<&NodeId>], used: &BTreeSet<&NodeId>) -> bool {
    let Some((first, rest)) = homeless.split_first() else { return true };
    first.difference(used).any(|node| {
        let mut used = used.clone();
        used.insert(node);
        matching(rest, &used)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn somebody_fit_holds_it_if_there_is_one(scene in any_scene()) {
        for (name, placement) in scene.place() {
            let fit = fit(&scene, &name);
            let head = placement.order.first();
            if !scene.config.services[&name].enabled {
                prop_assert!(placement.order.is_empty());
            } else if !fit.is_empty() {
                prop_assert!(head.is_some_and(|head| fit.contains(head)), "{name}: {placement:?}, fit {fit:?}");
            }
        }
    }

    /// A release keeps a service off a node only while another can have it.
    #[test]
    fn whoever_was_ordered_to_release_it_holds_it_only_if_nobody_else_can(scene in any_scene()) {
        for (name, placement) in scene.place() {
            let (fit, welcome) = (fit(&scene, &name), welcome(&scene, &name));
            let ordered = |head: &NodeId| scene.standings.get(&name).is_some_and(|at| at.move_to.as_ref() == Some(head));
            if let Some(head) = placement.order.first()
                && fit.contains(head) && !ordered(head)
            {
                prop_assert!(welcome.contains(head), "{name}: {placement:?}, fit {fit:?}");
            }
        }
    }

    #[test]
    fn nobody_drained_or_kept_off_is_in_an_order_nor_anybody_twice(scene in any_scene()) {
        for (name, placement) in scene.place() {
            let distinct: BTreeSet<_> = placement.order.iter().collect();
            prop_assert_eq!(distinct.len(), placement.order.len());
            let kept_off = scene.standings.get(&name).map(|standing| standing.kept_off.clone()).unwrap_or_default();
            for node in &placement.order {
                prop_assert!(!scene.drained.contains_key(node) && !kept_off.contains(node));
            }
        }
    }

    #[test]
    fn whoever_has_it_and_is_fit_keeps_it(scene in any_scene()) {
        for (name, placement) in scene.place() {
            let Some(standing) = scene.standings.get(&name) else { continue };
            let fit = fit(&scene, &name);
            let service = &scene.config.services[&name];
            let ordered = standing.move_to.as_ref().is_some_and(|target| fit.contains(target));
            let welcome = welcome(&scene, &name);
            if let Some(incumbent) = standing.incumbent().filter(|node| welcome.contains(node))
                && service.enabled && !service.failback && !ordered
            {
                prop_assert_eq!(placement.order.first(), Some(incumbent));
            }
        }
    }

    #[test]
    fn a_second_look_changes_nothing(scene in any_scene()) {
        let after = carried_out(&scene);
        let orders = |scene: &Scene| scene.place().into_iter().map(|(name, at)| (name, at.order)).collect::<Vec<_>>();
        prop_assert_eq!(orders(&scene), orders(&after));
    }

    /// What happens to a node moves only what it had, and with failback what prefers it.
    #[test]
    fn what_does_not_concern_the_holder_moves_nothing(scene in any_scene(), name in any_node(), now in any_report(), gone: bool) {
        let before = carried_out(&scene);
        let mut after = before.clone();
        after.nodes.remove(&name);
        if !gone {
            after.nodes.insert(name.clone(), make_report(&name, now));
        }
        let placements = after.place();
        for (service, standing) in &before.standings {
            let Some(placement) = placements.get(service) else { continue };
            let held = welcome(&after, service).into_iter().find(|node| Some(*node) == standing.holder.as_ref());
            if let Some(holder) = held
                && *holder != name && !before.config.services[service].failback && standing.move_to.is_none()
            {
                prop_assert_eq!(placement.order.first(), Some(holder));
            }
        }
    }

    /// Whoever looks for a place is alone within its group wherever all who look can be.
    #[test]
    fn a_group_is_spread_whenever_that_is_possible(mut scene in any_scene()) {
        for service in scene.config.services.values_mut() {
            service.failback = false;
        }
        let placements = scene.place();
        for group in ["g", "h"] {
            let mates = || scene.config.services.iter().filter(|(_, at)| at.enabled && at.spread.as_deref() == Some(group));
            let (mut homeless, mut used) = (Vec::new(), BTreeSet::new());
            for (name, _) in mates() {
                let (fit, welcome) = (fit(&scene, name), welcome(&scene, name));
                let standing = scene.standings.get(name).cloned().unwrap_or_default();
                let ordered = standing.move_to.as_ref().and_then(|node| fit.get(node).copied());
                let stays = [standing.incumbent(), standing.holder.as_ref()];
                let stays = stays.into_iter().flatten().find_map(|node| welcome.get(node).copied());
                if let Some(home) = ordered.or(stays) {
                    used.insert(home);
                } else if !fit.is_empty() {
                    let choices: BTreeSet<_> =
                        welcome.iter().copied().filter(|node| !standing.passed_over.contains(*node)).collect();
                    homeless.push((name, if choices.is_empty() { welcome } else { choices }));
                }
            }
            let choices: Vec<_> = homeless.iter().map(|(_, choices)| choices.clone()).collect();
            if matching(&choices, &used) {
                for (name, _) in &homeless {
                    let head = placements[*name].order.first();
                    let sharing = mates().filter(|(other, _)| {
                        let fit = !fit(&scene, other).is_empty();
                        fit && other != name && placements[*other].order.first() == head
                    });
                    prop_assert_eq!(sharing.count(), 0, "{} in {:?}", name, placements);
                }
            }
        }
    }
}
