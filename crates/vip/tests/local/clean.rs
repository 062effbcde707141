//! What an earlier life left is removed, and nothing else.

use std::process::Command;
use std::time::Duration;

use vip::clean::clean;
use vip::local_db::{Entry, LocalDb};
use vip::net::Backend;
use vip::net::netlink::Netlink;

use crate::{ADDRESSES, FOREIGN, link, namespace, there};

/// What the cleaning promises; it is asserted with room for other tests on the machine.
const PROMISED: Duration = Duration::from_millis(100);
const ROOM: Duration = Duration::from_millis(900);

#[tokio::test]
async fn what_we_put_goes_within_a_tenth_of_a_second_and_the_rest_stays() {
    let Some(()) = namespace() else { return };
    let dir = tempfile::tempdir().unwrap();
    let entry = |address: &str| Entry {
        service: "iscsi".parse().unwrap(),
        interface: "vip0".to_owned(),
        // As it was before a reboot.
        link: 77,
        address: address.parse().unwrap(),
    };
    {
        // A life that is over: one of its addresses is known to the kernel alone, as if the database had been lost.
        let db = LocalDb::open(dir.path()).await.unwrap();
        // Somebody has added it anew after ours had gone.
        db.add(vec![entry(ADDRESSES[0]), entry(FOREIGN[0]), entry("10.9.9.9/24")]).await.unwrap();
        let kernel = Netlink::open().unwrap();
        for address in ADDRESSES {
            kernel.put(link(), address.parse().unwrap(), 1000).unwrap();
        }
    }
    let many: Vec<String> = (1..=100).map(|n| format!("10.1.0.{n}/32")).collect();
    let kernel = Netlink::open().unwrap();
    for address in &many {
        kernel.put(link(), address.parse().unwrap(), 1000).unwrap();
    }
    let other =
        ["address", "add", "10.2.0.1/24", "dev", "vip0", "valid_lft", "1000", "preferred_lft", "1000"];
    assert!(Command::new("ip").args(other).status().unwrap().success());

    let db = LocalDb::open(dir.path()).await.unwrap();
    let kernel = Netlink::open().unwrap();
    let cleaned = clean(&kernel, &db, PROMISED + ROOM).await.unwrap();
    println!("{} addresses were gone after {:?}", cleaned.removed.len(), cleaned.took);
    assert!(cleaned.took < PROMISED + ROOM, "{:?}", cleaned.took);
    assert_eq!(cleaned.removed.len(), ADDRESSES.len() + many.len());
    let of = |address: &str| {
        let found = cleaned.removed.iter().find(|left| left.address.to_string() == address);
        found.unwrap().service.as_ref().map(ToString::to_string)
    };
    assert_eq!((of(ADDRESSES[0]).as_deref(), of(ADDRESSES[1])), (Some("iscsi"), None));
    let said: Vec<String> = cleaned.foreign.iter().map(|left| left.address.to_string()).collect();
    assert_eq!(said, [FOREIGN[0]]);
    assert_eq!((there(&ADDRESSES), there(&FOREIGN), there(&["10.2.0.1/24"])), (0, 2, 1));
    assert_eq!(there(&many.iter().map(String::as_str).collect::<Vec<_>>()), 0);
    assert!(LocalDb::open(dir.path()).await.unwrap().entries().is_empty());
}
