//! What operators order, and what becomes of it.

use super::*;

/// A leader that dies after it has written a move is no reason to undo it; a holder that took later is one.
#[test]
fn a_move_under_way_survives_its_leader() {
    let mut desk = Desk::new("n1 n2", "a", "a@n1");
    desk.assigned("a", vec![node("n2"), node("n1")], "a move");
    desk.placer = Placer::new(Epoch(2));
    assert_eq!(said(&desk.look()), "");
    desk.taken("a", "n1");
    assert_eq!(said(&desk.look()), "a:n1,n2");
}

/// A holder that does not let go keeps the service in the end, and whoever ordered hears of it in time.
#[test]
fn a_move_that_does_not_happen_ends() {
    let mut desk = Desk::new("n1 n2", "a", "a@n1");
    desk.look();
    let effects = desk.step(Event::Order(7, Order::Move(service("a"), Some(node("n2")))));
    assert_eq!(said(&effects), "a:n2,n1");
    assert_eq!(said(&desk.commit(effects)), "");
    let answer = desk.after(ORDER_MAX);
    assert_eq!(
        said(&answer),
        "7 refused: a is assigned to n2, but n1 has not given it up within 5 s: see taskd vip why a"
    );
    assert_eq!(said(&desk.after(MOVE_MAX - ORDER_MAX)), "a:n1,n2");
}

/// A release where nobody else can have it is undone by naming the node, also within the hold-down.
#[test]
fn a_move_to_who_was_released_a_moment_ago_gives_it_back() {
    let mut desk = Desk::new("n1 n2:unfit", "a", "a@n1");
    desk.look();
    let effects = desk.step(Event::Order(1, Order::Release(service("a"))));
    assert_eq!(said(&effects), "a:n2");
    desk.commit(effects);
    desk.released("a");
    assert_eq!(said(&desk.after(ms(20))), "1: n1 has given a up");
    // Without a name it is not given back.
    let answer = said(&desk.step(Event::Order(2, Order::Move(service("a"), None))));
    assert_eq!(
        answer,
        "2 refused: nobody can have a: n1 was ordered to release it a moment ago, n2 is not fit: eth1 has no carrier"
    );
    let effects = desk.step(Event::Order(3, Order::Move(service("a"), Some(node("n1")))));
    assert_eq!(said(&effects), "a:n1,n2");
    desk.commit(effects);
    desk.taken("a", "n1");
    assert_eq!(said(&desk.after(ms(20))), "3: n1 has a");
}

/// It would be taken back from it at once.
#[test]
fn nothing_is_moved_to_a_dry_run_beside_a_real_node() {
    let mut desk = Desk::new("n1 n2:dry n3:drained", "a", "a@n1");
    desk.look();
    let to = |desk: &mut Desk, id, name| {
        said(&desk.step(Event::Order(id, Order::Move(service("a"), Some(node(name))))))
    };
    assert_eq!(
        to(&mut desk, 1, "n2"),
        "1 refused: a cannot go to n2: it only makes a dry run, and others can really hold it"
    );
    assert_eq!(to(&mut desk, 2, "n3"), "2 refused: a cannot go to n3: it is drained: taskd vip undrain n3");
    // With the real one unable it may go there, and does.
    desk.scene.nodes.get_mut(&node("n1")).unwrap().services.insert(service("a"), local(true));
    assert_eq!(to(&mut desk, 3, "n2"), "a:n2,n1");
}

/// Nobody has it and its successors could take it; but they were not asked.
#[test]
fn a_move_does_not_wait_for_a_succession() {
    let mut desk = Desk::new("n1 n2 n3", "a", "a@n1");
    desk.look();
    desk.died("n1");
    assert_eq!(said(&desk.look()), "");
    assert_eq!(said(&desk.step(Event::Order(1, Order::Move(service("a"), Some(node("n3")))))), "a:n3,n2");
}

#[test]
fn a_later_order_takes_the_place_of_an_earlier_one() {
    let mut desk = Desk::new("n1 n2 n3", "a", "a@n1");
    desk.look();
    desk.step(Event::Order(1, Order::Move(service("a"), Some(node("n2")))));
    let answers = desk.step(Event::Order(2, Order::Move(service("a"), Some(node("n3")))));
    assert_eq!(said(&answers), "1 refused: a later order for the same service took its place");
}

#[test]
fn an_order_to_a_leader_that_knows_nothing_yet_waits_its_time() {
    let mut desk = Desk::new("n1 n2", "a", "a@n1");
    desk.seen = false;
    assert_eq!(said(&desk.step(Event::Order(1, Order::Release(service("a"))))), "");
    let answer = desk.after(ORDER_MAX);
    assert!(matches!(answer.as_slice(), [Effect::Answer(1, Err(OrderError::NotDone(_)))]), "{answer:?}");
    desk.step(Event::Order(2, Order::Release(service("a"))));
    desk.seen = true;
    assert_eq!(said(&desk.look()), "a:n2,n1");
    assert_eq!(said(&desk.placer.end()), "2 refused: this node does not lead");
}

/// The applied configuration cannot be read any more, in the middle of a move.
#[test]
fn an_order_is_answered_also_when_nothing_is_known_any_more() {
    let mut desk = Desk::new("n1 n2", "a", "a@n1");
    desk.look();
    desk.step(Event::Order(1, Order::Move(service("a"), None)));
    desk.seen = false;
    assert_eq!(said(&desk.after(ms(1000))), "");
    assert_eq!(desk.placer.wake(), Some(desk.now + (ORDER_MAX - ms(1000))));
    let answer = desk.after(ORDER_MAX - ms(1000));
    assert_eq!(said(&answer), "1 refused: it is not known what became of it: see taskd vip why a");
}
