//! What a predecessor left: exactly the addresses that this node had put are removed, before it joins.
//!
//! | in the database | on the machine | the kernel keeps tags | what happens |
//! |---|---|---|---|
//! | – or yes | tagged as ours | yes | removed |
//! | yes | without our tag, with a lifetime | no | removed: nothing else can tell |
//! | yes | without our tag | otherwise | left alone, and said: it belongs to somebody else by now |
//! | no | without our tag | – | left alone |
//! | yes | no | – | forgotten |
//!
//! Linux keeps tags since 5.18. An address without a lifetime is none of ours on any kernel.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::IpNet;
use proto::vip::ServiceName;
use tokio::time::{self, Instant};

use crate::local_db::{Entry, LocalDb, WriteError};
use crate::net::{Address, Backend, BackendKind, NetError};

/// An address that was there when it should not have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Whose it was, if the database knows.
    pub service: Option<ServiceName>,
    /// Where.
    pub interface: String,
    /// The kernel's number of that interface.
    pub link: u32,
    /// The address and its prefix.
    pub address: IpNet,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Gone from the machine; in a dry run, what would be.
    pub removed: Vec<Leftover>,
    /// In our database, but without our tag: not ours any more, and still there.
    pub foreign: Vec<Leftover>,
    /// How long it took until the addresses were gone.
    pub took: Duration,
}

/// Something may have been left.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The kernel does not say which addresses there are.
    #[error("cannot see which addresses this node has left")]
    List(#[source] NetError),
    /// It does not say so in time.
    #[error("the kernel did not list its addresses within {} ms", .0.as_millis())]
    TooLate(Duration),
    /// Some are still there.
    #[error("addresses that this node has left could not be removed: {}", .0.join("; "))]
    Remains(Vec<String>),
    /// They are gone, but the database could not be told.
    #[error("the addresses that this node had left are gone, but it cannot forget them")]
    Forget(#[source] WriteError),
}

/// Removes what this node has left, logging `Clean VIP for service: iscsi vip: 172.0.20.241` for each. `within` bounds
/// what the kernel is given; the write of the database that follows is not counted.
///
/// # Errors
/// Whatever may have been left is named. Everything that could be removed is, all the same.
///
/// # Cancel safety
/// What is not removed yet stays in the database, and is found again.
pub async fn clean(backend: &dyn Backend, db: &LocalDb, within: Duration) -> Result<Cleaned, Failure> {
    let began = Instant::now();
    let listed = time::timeout(within, backend.addresses()).await;
    let addresses = listed.map_err(|_| Failure::TooLate(within))?.map_err(Failure::List)?;
    let entries = db.entries();
    let tags = backend.keeps_tags();
    let plan = plan(&entries, &addresses, tags);
    let mut cleaned = Cleaned { foreign: plan.foreign, ..Cleaned::default() };
    let mut remains = Vec::new();
    for leftover in plan.remove {
        match backend.remove(leftover.link, leftover.address) {
            // Gone by itself meanwhile is as good.
            Ok(_) => cleaned.removed.push(leftover),
            Err(error) => remains.push((leftover, error)),
        }
    }
    cleaned.took = began.elapsed();
    say(&cleaned, db.lost().is_some() && !tags);
    let dry = backend.kind() == BackendKind::DryRun;
    let still_there = |entry: &&Entry| {
        let same =
            |leftover: &Leftover| leftover.interface == entry.interface && leftover.address == entry.address;
        remains.iter().any(|(leftover, _)| same(leftover)) || (dry && cleaned.removed.iter().any(same))
    };
    let forget = entries.iter().filter(|entry| !still_there(entry)).cloned().collect();
    let forgotten = db.remove(forget).await;
    if !remains.is_empty() {
        let name =
            |(left, error): &(Leftover, NetError)| format!("{} on {}: {error}", left.address, left.interface);
        return Err(Failure::Remains(remains.iter().map(name).collect()));
    }
    forgotten.map_err(Failure::Forget)?;
    Ok(cleaned)
}

fn say(cleaned: &Cleaned, nothing_tells: bool) {
    for leftover in &cleaned.removed {
        tracing::info!("{}", line(leftover));
    }
    for Leftover { address, interface, .. } in &cleaned.foreign {
        tracing::warn!(
            "{address} on {interface} is in the database of this node's VIPs, but does not carry its tag: somebody else has \
             added it, so it stays. Remove it by hand if it should not be there"
        );
    }
    if nothing_tells {
        tracing::warn!(
            "the database of this node's VIPs is lost, and this kernel (older than 5.18) does not keep the tag that names \
             them: compare `ip address` with `taskd vip list`, and remove by hand what a predecessor left"
        );
    }
}

/// As people know it from the daemon before this one, and their scripts look for it.
fn line(Leftover { service, address, .. }: &Leftover) -> String {
    let service = service.as_ref().map_or("?", ServiceName::as_str);
    format!("Clean VIP for service: {service} vip: {}", address.addr())
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    remove: Vec<Leftover>,
    foreign: Vec<Leftover>,
}

fn plan(entries: &BTreeSet<Entry>, addresses: &[Address], tags: bool) -> Plan {
    let mut plan = Plan::default();
    for found in addresses {
        let mut known = entries.iter().filter(|entry| entry.address == found.address);
        let here = known.clone().find(|entry| entry.interface == found.interface);
        // An interface may have been renamed: the service is the same.
        let service = here.or_else(|| known.next()).map(|entry| entry.service.clone());
        let leftover = Leftover {
            service,
            interface: found.interface.clone(),
            link: found.link,
            address: found.address,
        };
        if found.ours || (here.is_some() && !tags && found.valid_for.is_some()) {
            plan.remove.push(leftover);
        } else if here.is_some() {
            plan.foreign.push(leftover);
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::FutureExt;
    use futures::future::BoxFuture;

    use super::*;
    use crate::net::{Interface, Watch};

    const HERE: &str = "172.0.20.241/24";

    fn entry(interface: &str, address: &str) -> Entry {
        let (service, interface) = ("iscsi".parse().unwrap(), interface.to_owned());
        Entry { service, interface, link: 9, address: address.parse().unwrap() }
    }

    fn found(interface: &str, address: &str, ours: bool) -> Address {
        let (interface, address) = (interface.to_owned(), address.parse().unwrap());
        Address { link: 3, interface, address, ours, valid_for: Some(2) }
    }

    /// Every row of the table in the module's documentation, and what else there may be.
    #[test]
    fn exactly_what_we_added_goes() {
        let no = || None::<Entry>;
        let here = || Some(entry("eth1", HERE));
        let renamed = || Some(entry("eth0", HERE));
        #[rustfmt::skip]
        let rows = [
            // database  interface address           ours   tags   removed foreign of
            (no(),      "eth1",   HERE,              true,  true,  true,   false, None),
            (here(),    "eth1",   HERE,              true,  true,  true,   false, Some("iscsi")),
            (renamed(), "eth1",   HERE,              true,  true,  true,   false, Some("iscsi")),
            (here(),    "eth1",   HERE,              false, false, true,   false, Some("iscsi")),
            (here(),    "eth1",   HERE,              false, true,  false,  true,  Some("iscsi")),
            (no(),      "eth1",   HERE,              false, true,  false,  false, None),
            (no(),      "eth1",   HERE,              false, false, false,  false, None),
            (renamed(), "eth1",   HERE,              false, false, false,  false, None),
            (here(),    "eth1",   "172.0.20.241/32", false, false, false,  false, None),
            (here(),    "eth1",   "172.0.20.242/24", false, false, false,  false, None),
        ];
        for (number, (entry, interface, address, ours, tags, removed, foreign, of)) in
            rows.into_iter().enumerate()
        {
            let entries = entry.into_iter().collect();
            let found = found(interface, address, ours);
            let plan = plan(&entries, std::slice::from_ref(&found), tags);
            assert_eq!(
                (plan.remove.len(), plan.foreign.len()),
                (removed.into(), foreign.into()),
                "row {number}"
            );
            for leftover in plan.remove.iter().chain(&plan.foreign) {
                assert_eq!(leftover.service.as_ref().map(ServiceName::as_str), of, "row {number}");
                assert_eq!(leftover.link, 3, "row {number}: the present number, not the recorded one");
            }
            let for_ever = super::plan(&entries, &[Address { valid_for: None, ..found }], tags);
            assert_eq!(
                for_ever.remove.len(),
                usize::from(ours),
                "row {number}: what never expires is not ours"
            );
        }
    }

    #[derive(Debug)]
    struct Kernel {
        addresses: Mutex<Vec<Address>>,
        refuses: &'static str,
        kind: BackendKind,
    }

    impl Kernel {
        fn with(addresses: &[&str]) -> Self {
            let addresses = addresses.iter().map(|address| found("eth1", address, true)).collect();
            Self { addresses: Mutex::new(addresses), refuses: "", kind: BackendKind::Netlink }
        }
    }

    impl Backend for Kernel {
        fn kind(&self) -> BackendKind {
            self.kind
        }

        fn addresses(&self) -> BoxFuture<'_, Result<Vec<Address>, NetError>> {
            let answer = match self.refuses {
                "hangs" => return futures::future::pending().boxed(),
                _ => Ok(self.addresses.lock().unwrap().clone()),
            };
            async { answer }.boxed()
        }

        fn interfaces(&self) -> BoxFuture<'_, Result<Vec<Interface>, NetError>> {
            unreachable!("nobody asks")
        }

        fn put(&self, _: u32, _: IpNet, _: u32) -> Result<(), NetError> {
            unreachable!("nothing is put")
        }

        fn remove(&self, link: u32, address: IpNet) -> Result<bool, NetError> {
            if address.to_string() == self.refuses {
                return Err(NetError::NotPermitted);
            }
            let mut addresses = self.addresses.lock().unwrap();
            let before = addresses.len();
            if self.kind == BackendKind::Netlink {
                addresses.retain(|found| (found.link, found.address) != (link, address));
            }
            Ok(addresses.len() < before)
        }

        fn watch(&self) -> BoxFuture<'_, Result<Watch, NetError>> {
            unreachable!("nobody watches")
        }
    }

    const WITHIN: Duration = Duration::from_secs(30);

    async fn database(addresses: &[&str]) -> (tempfile::TempDir, LocalDb) {
        let dir = tempfile::tempdir().unwrap();
        let db = LocalDb::open(dir.path()).await.unwrap();
        db.add(addresses.iter().map(|address| entry("eth1", address)).collect()).await.unwrap();
        (dir, db)
    }

    #[tokio::test]
    async fn what_cannot_be_removed_is_named_and_remembered_and_the_rest_goes() {
        let all = ["10.0.0.1/24", "10.0.0.2/24", "10.0.0.3/24"];
        let (_dir, db) = database(&all).await;
        let kernel = Kernel { refuses: all[1], ..Kernel::with(&all) };
        let failure = clean(&kernel, &db, WITHIN).await.unwrap_err();
        assert!(failure.to_string().contains("10.0.0.2/24 on eth1: not permitted"), "{failure}");
        assert_eq!(kernel.addresses.lock().unwrap().len(), 1);
        assert!(db.entries().iter().eq(&[entry("eth1", all[1])]));
        let kernel = Kernel { refuses: "", ..kernel };
        assert_eq!(clean(&kernel, &db, WITHIN).await.unwrap().removed.len(), 1);
        assert!(kernel.addresses.lock().unwrap().is_empty() && db.entries().is_empty());
    }

    #[tokio::test]
    async fn a_garbled_database_is_survived_by_the_tag() {
        let (dir, db) = database(&[HERE]).await;
        drop(db);
        std::fs::write(dir.path().join(crate::local_db::FILE), b"{").unwrap();
        let db = LocalDb::open(dir.path()).await.unwrap();
        let kernel = Kernel::with(&[HERE]);
        let cleaned = clean(&kernel, &db, WITHIN).await.unwrap();
        assert_eq!(
            cleaned.removed.iter().map(line).collect::<Vec<_>>(),
            ["Clean VIP for service: ? vip: 172.0.20.241"]
        );
        assert!(kernel.addresses.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_dry_run_forgets_nothing_that_is_still_there() {
        let (_dir, db) = database(&[HERE, "10.0.0.1/24"]).await;
        let kernel = Kernel { kind: BackendKind::DryRun, ..Kernel::with(&[HERE]) };
        let cleaned = clean(&kernel, &db, WITHIN).await.unwrap();
        let lines: Vec<_> = cleaned.removed.iter().map(line).collect();
        assert_eq!(lines, ["Clean VIP for service: iscsi vip: 172.0.20.241"]);
        assert!(db.entries().iter().eq(&[entry("eth1", HERE)]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_kernel_that_does_not_answer_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let db = LocalDb::open(dir.path()).await.unwrap();
        let kernel = Kernel { refuses: "hangs", ..Kernel::with(&[]) };
        let failure = clean(&kernel, &db, Duration::from_millis(100)).await.unwrap_err();
        assert!(matches!(failure, Failure::TooLate(_)), "{failure}");
    }
}
