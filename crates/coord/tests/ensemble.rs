//! Three servers: the loss of one, the leading one included, costs a session nothing.

mod common;

use std::time::Duration;

use clock::{BootClock, Clock};
use common::{SOON, ephemeral, layout, options, reached};
use coord::{ClientRuntime, Lease, LeaseTiming, Op, Session};
use proto::Epoch;

#[tokio::test]
async fn a_session_and_its_writes_survive_the_leading_server() {
    let Some(mut ensemble) = testkit::ensemble_or_skip(3).await else { return };
    // On a busy machine an election takes a while.
    let patient = coord::Options { session_timeout: SOON, ..options(ensemble.hosts()) };
    let runtime = ClientRuntime::start().unwrap();
    let session = Session::connect(&patient, runtime, BootClock::shared()).await.unwrap();
    let link = session.link();
    layout().ensure(&link).await.unwrap();
    let sent = BootClock.now();
    link.write(ephemeral("/test/leader"), SOON).await.unwrap();
    let timing =
        LeaseTiming::new(link.session_timeout(), Duration::from_millis(600), Duration::from_millis(500));
    let authority = vec![Op::Check { path: "/test/leader".into(), version: 0 }];
    let probe = layout().probe(&"n1".parse().unwrap());
    let lease = Lease::start(link.clone(), authority, probe, Epoch(1), sent, timing, BootClock::shared());
    let leader = ensemble.leader().await;
    let writes = (0..20).map(|n| link.write(ephemeral(&format!("/test/{n}")), SOON * 2)).collect::<Vec<_>>();
    ensemble.servers[leader].kill().await;
    // Each was done, before the crash or after: none twice, or it would be refused as NodeExists.
    for (n, write) in writes.into_iter().enumerate() {
        let done = write.await;
        assert!(done.is_ok(), "write {n}: {done:?}");
    }
    reached(&link, "connected", |state| state.connection().is_some()).await;
    link.sync("/").await.unwrap();
    assert_eq!(link.own_ephemerals("/test").await.unwrap().len(), 21, "the leader's node and twenty");
    lease.stop().await;
    session.close(SOON).await.unwrap();
}
