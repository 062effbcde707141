//! The leader's writes: prepared, fenced, and taken away only from nobody.

use std::time::Duration;

use coord::Op;
use uuid::Uuid;
use vip::store::{AssignError, GRACE_MAX, Release, Removal, TakeRequest, Term};

use crate::world::{Party, assignment, layout, node, web};

const GRACE: Duration = Duration::from_millis(2_000);

async fn take(party: &Party, id: u128, assignment: i32) -> vip::store::Taken {
    let (service, holder) = (web(), party.holder(id));
    let (member, grace) = (party.member.as_str(), GRACE);
    let request = TakeRequest { service: &service, holder: &holder, assignment, member, grace };
    party.store.take(request).await.expect("nobody else has it")
}

#[tokio::test]
async fn only_who_leads_assigns() {
    let coordinator = testkit::coordinator().await;
    let hosts = coordinator.hosts();
    let (n1, n2) = (Party::start(hosts.clone(), "n1").await, Party::start(hosts, "n2").await);
    let first = n1.elect().await;
    assert_eq!(n1.store.assignment(&web()).await.unwrap(), None);
    assert_eq!(n1.store.assign(&first, &assignment(&["n1", "n2"])).await, Ok(0));
    assert_eq!(n2.store.term(&web()).await.unwrap(), Some(Term::Free { node: None, release: None }));
    assert_eq!(n2.store.services().await.unwrap(), [web()]);
    assert_eq!(n1.store.assign(&first, &assignment(&["n1", "n2"])).await, Ok(0), "nothing is to be written");
    assert_eq!(n1.store.assign(&first, &assignment(&["n2"])).await, Ok(1));

    let second = n2.elect().await;
    assert_eq!(n1.store.assign(&first, &assignment(&["n1"])).await, Err(AssignError::NotLeading));
    let removed = n1.store.remove(&first, &web(), true).await;
    assert_eq!(removed, Err(AssignError::NotLeading));
    assert_eq!(n2.store.assignment(&web()).await.unwrap(), Some(assignment(&["n2"])));
    assert_eq!(n2.store.assign(&second, &assignment(&[])).await, Ok(2));
    second.lease.drop_now();
    assert_eq!(n2.store.assign(&second, &assignment(&["n1"])).await, Err(AssignError::NotLeading));
    n1.end().await;
    n2.end().await;
}

#[tokio::test]
async fn a_service_goes_when_its_addresses_have() {
    let coordinator = testkit::coordinator().await;
    let hosts = coordinator.hosts();
    let (n1, n2) = (Party::start(hosts.clone(), "n1").await, Party::start(hosts, "n2").await);
    let leading = n1.elect().await;
    let remove = async |waited| n1.store.remove(&leading, &web(), waited).await.unwrap();
    assert_eq!(remove(false).await, Removal::Done, "there is nothing");
    n1.store.assign(&leading, &assignment(&["n2"])).await.unwrap();
    let taken = take(&n2, 1, 0).await;
    assert_eq!(remove(true).await, Removal::Held);
    assert_eq!(n2.store.release(&taken, Uuid::from_u128(2)).await, Ok(Release::Done));
    assert_eq!(remove(false).await, Removal::Done);
    assert!(!n1.exists(&layout().vip(&web())).await);

    // A new one of that name, whose holder dies.
    assert_eq!(n1.store.assign(&leading, &assignment(&["n2"])).await, Ok(0));
    take(&n2, 3, 0).await;
    n2.end().await;
    n1.absent(&layout().vip_holder(&web())).await;
    assert_eq!(remove(false).await, Removal::NotFree { node: Some(node("n2")), grace: GRACE });
    // Nor is it free because nobody can read that it is not.
    let unknown = Removal::NotFree { node: None, grace: GRACE_MAX };
    n1.set(layout().vip_term(&web()), b"{").await;
    assert_eq!(remove(false).await, unknown);
    n1.write(Op::Delete { path: layout().vip_term(&web()), version: None }).await;
    assert_eq!(remove(false).await, unknown);
    assert_eq!(remove(true).await, Removal::Done);
    assert!(n1.store.services().await.unwrap().is_empty());
    n1.end().await;
}

/// Only a service of which there was nothing at all is free.
#[tokio::test]
async fn a_term_that_somebody_deletes_is_written_again_and_is_not_free() {
    let coordinator = testkit::coordinator().await;
    let n1 = Party::start(coordinator.hosts(), "n1").await;
    let leading = n1.elect().await;
    let delete = async |path| n1.write(Op::Delete { path, version: None }).await;
    n1.store.assign(&leading, &assignment(&["n1"])).await.unwrap();
    take(&n1, 1, 0).await;
    delete(layout().vip_term(&web())).await;
    assert_eq!(n1.store.assign(&leading, &assignment(&["n1"])).await, Ok(1), "also if that is all");
    assert_eq!(n1.store.term(&web()).await.unwrap(), Some(Term::Unknown));
    assert_eq!(n1.store.disown(&web()).await, Ok(Release::Done));
    assert_eq!(take(&n1, 2, 1).await.wait, GRACE_MAX);
    // Without a leader, its holder goes all the same, and leaves a term behind.
    delete(layout().vip_term(&web())).await;
    assert_eq!(n1.store.disown(&web()).await, Ok(Release::Done));
    assert_eq!(n1.store.term(&web()).await.unwrap(), Some(Term::Unknown));
    assert_eq!(take(&n1, 3, 1).await.wait, GRACE_MAX);

    delete(layout().vip_holder(&web())).await;
    delete(layout().vip_term(&web())).await;
    delete(layout().vip_assignment(&web())).await;
    n1.store.assign(&leading, &assignment(&["n1"])).await.unwrap();
    assert_eq!(n1.store.term(&web()).await.unwrap(), Some(Term::Unknown));
    n1.end().await;
}
