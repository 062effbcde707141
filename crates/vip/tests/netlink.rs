//! The kernel's backend on real kernels: in network namespaces, as root.

#![expect(clippy::unwrap_used, reason = "the helpers of tests, too")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use support::Space;
use vip::config::Hooks;
use vip::hooks::{HookRunner, Moment};
use vip::net::netlink::{Netlink, permitted};
use vip::net::{Address, Backend, NetError, NetEvent, Watch};

const MAIN: &str = "10.77.0.1/24";
const MAIN_6: &str = "2001:db8:77::1/64";
const VIP: &str = "10.77.0.9/24";
const VIP_6: &str = "2001:db8:77::9/64";

/// A cable between `eth1` and `peer`.
const CABLE: &str = "link add eth1 type veth peer name peer\nlink set peer up\nlink set eth1 up\n";

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

async fn link(kernel: &Netlink, name: &str) -> u32 {
    let all = kernel.interfaces().await.unwrap();
    all.iter().find(|one| one.name == name).unwrap_or_else(|| panic!("no {name} in {all:?}")).link
}

async fn find(kernel: &Netlink, address: IpNet) -> Option<Address> {
    kernel.addresses().await.unwrap().into_iter().find(|one| one.address == address)
}

/// The first event that is the one.
async fn event<T>(watch: &mut Watch, what: &str, which: impl Fn(&NetEvent) -> Option<T>) -> T {
    let waiting = async {
        loop {
            let event = watch.next().await.expect("the subscription broke");
            if let Some(found) = which(&event) {
                return found;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting)
        .await
        .unwrap_or_else(|_| panic!("no event: {what}"))
}

fn gone(event: &NetEvent, address: IpNet) -> Option<Address> {
    match event {
        NetEvent::AddressGone(one) if one.address == address => Some(one.clone()),
        _ => None,
    }
}

#[test]
fn the_kernel_removes_what_is_not_renewed_never_early_and_within_its_second() {
    let Some(space) = Space::create(CABLE) else { return };
    space.enter(async || {
        let kernel = Netlink::open().unwrap();
        let link = link(&kernel, "eth1").await;
        // Many at odd distances: the kernel's own interval is what is looked for.
        let lives: Vec<(IpNet, Duration)> = futures_all((0..24).map(|number: u64| {
            let kernel = &kernel;
            async move {
                tokio::time::sleep(Duration::from_millis(number * 83)).await;
                let address = match number % 2 {
                    0 => net(&format!("10.77.0.{}/24", 100 + number)),
                    _ => net(&format!("2001:db8:77::{number}/64")),
                };
                let valid = 1 + number % 3;
                let before = Instant::now();
                kernel.put(link, address, u32::try_from(valid).unwrap()).unwrap();
                let after = Instant::now();
                let mut there = Duration::ZERO;
                loop {
                    let asked = Instant::now();
                    if find(kernel, address).await.is_none() {
                        // It went before this answer, and after the question before.
                        let (least, most) = (there, before.elapsed());
                        let valid = Duration::from_secs(valid);
                        // A jiffy is at most 10 ms.
                        assert!(most + Duration::from_millis(10) >= valid, "{address} went early: {most:?}");
                        let late = least.saturating_sub(valid);
                        assert!(late <= Duration::from_millis(1_100), "{address} stayed {late:?} too long");
                        return (address, late);
                    }
                    there = asked.saturating_duration_since(after);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }))
        .await;
        eprintln!("late: {lives:?}");
    });
}

/// All at once, on this thread.
async fn futures_all<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    futures::future::join_all(all).await
}

#[test]
fn a_renewal_counts_from_itself() {
    let Some(space) = Space::create(CABLE) else { return };
    space.enter(async || {
        let kernel = Netlink::open().unwrap();
        let link = link(&kernel, "eth1").await;
        let mut watch = kernel.watch().await.unwrap();
        for address in [net(VIP), net(VIP_6)] {
            kernel.put(link, address, 1).unwrap();
            kernel.put(link, address, 4).unwrap();
            let renewed = Instant::now();
            assert_eq!(find(&kernel, address).await.map(|one| (one.link, one.ours)), Some((link, true)));
            let gone = event(&mut watch, "expiry", |event| gone(event, address)).await;
            let lived = renewed.elapsed();
            assert!(lived >= Duration::from_millis(3_980), "{address} lived {lived:?}");
            assert!(gone.ours);
        }
    });
}

#[test]
fn ours_are_tagged_and_the_machines_own_addresses_and_routes_stay_as_they_are() {
    // The IPv6 address is like one that a router announced: it has a lifetime, and so has the route that comes with it.
    let lines = format!(
        "{CABLE}address add {MAIN} brd + dev eth1\naddress add {MAIN_6} dev eth1 nodad valid_lft 5000 preferred_lft 4000\n"
    );
    let Some(space) = Space::create(&lines) else { return };
    let routes = space.show("route show");
    space.enter(async || {
        let kernel = Netlink::open().unwrap();
        assert!(kernel.keeps_tags());
        let link = link(&kernel, "eth1").await;
        for _ in 0..2 {
            kernel.put(link, net(VIP), 30).unwrap();
            kernel.put(link, net(VIP_6), 30).unwrap();
            kernel.put(link, net("10.77.0.10/32"), 30).unwrap();
            kernel.put(link, net("2001:db8:77::10/128"), 30).unwrap();
        }
        let seen = kernel.addresses().await.unwrap();
        let of = |address: &str| seen.iter().find(|one| one.address == net(address)).unwrap();
        for (address, ours) in
            [(MAIN, false), (MAIN_6, false), (VIP, true), (VIP_6, true), ("10.77.0.10/32", true)]
        {
            assert_eq!((of(address).ours, of(address).interface.as_str()), (ours, "eth1"), "{address}");
        }
        assert_eq!(of(MAIN).valid_for, None);
        assert!(of(VIP).valid_for.is_some_and(|seconds| (10..=30).contains(&seconds)));

        let shown = space.show("-d -o address show dev eth1");
        let line = |address: &str| shown.lines().find(|line| line.contains(address)).unwrap().to_owned();
        for word in ["scope global secondary", "eth1:vip", "brd 10.77.0.255"] {
            assert!(line(VIP).contains(word), "{word}: {}", line(VIP));
        }
        for word in ["scope global", "deprecated", "nodad"] {
            assert!(line(VIP_6).contains(word), "{word}: {}", line(VIP_6));
        }
        assert!(!line(VIP_6).contains("tentative"));
        assert!(!line(MAIN).contains("secondary"));

        assert_eq!(space.show("route show"), routes);
        let own_route = || {
            let all = space.show("-6 route show 2001:db8:77::/64");
            let line =
                all.lines().find(|line| line.contains("metric 256")).unwrap_or_else(|| panic!("{all}"));
            let rest = line.split("expires ").nth(1).unwrap_or_else(|| panic!("{line}"));
            rest.split("sec").next().unwrap().parse::<u32>().unwrap()
        };
        assert!(own_route() > 1000, "the lifetime of the machine's own route was changed");
        // Connections of this machine's own do not begin at an address that moves away.
        let route = space.show("-6 route get 2001:db8:77::5");
        assert!(route.contains("src 2001:db8:77::1 "), "{route}");
        let route = space.show("route get 10.77.0.5");
        assert!(route.contains("src 10.77.0.1 "), "{route}");

        for address in [VIP, VIP_6, "10.77.0.10/32", "2001:db8:77::10/128"] {
            assert!(kernel.remove(link, net(address)).unwrap(), "{address} was there");
            assert!(!kernel.remove(link, net(address)).unwrap(), "{address} is gone");
        }
        let left = kernel.addresses().await.unwrap();
        assert!(left.iter().all(|one| !one.ours), "{left:?}");
        assert!([MAIN, MAIN_6].iter().all(|main| left.iter().any(|one| one.address == net(main))));
        assert_eq!(space.show("route show"), routes);
        assert!(own_route() > 1000);
    });
}

#[test]
fn an_address_that_comes_first_takes_no_other_along() {
    let Some(space) = Space::create(CABLE) else { return };
    space.enter(async || {
        let setting = "/proc/sys/net/ipv4/conf/eth1/promote_secondaries";
        let kernel = Netlink::open().unwrap();
        let link = link(&kernel, "eth1").await;
        let mut watch = kernel.watch().await.unwrap();
        // One that expires, then one that a fresh process removes.
        for removed in [false, true] {
            kernel.put(link, net(VIP), if removed { 60 } else { 1 }).unwrap();
            space.ip(&format!("address add {MAIN} brd + dev eth1\n"));
            assert!(
                space
                    .show("address show dev eth1")
                    .contains("10.77.0.1/24 brd 10.77.0.255 scope global secondary")
            );
            if removed {
                std::fs::write(setting, "0").unwrap();
                assert!(Netlink::open().unwrap().remove(link, net(VIP)).unwrap());
            }
            event(&mut watch, "gone", |event| gone(event, net(VIP))).await;
            assert!(find(&kernel, net(MAIN)).await.is_some(), "it took the machine's own along");
            assert!(space.show("route show").contains("10.77.0.0/24 dev eth1"));
            space.ip(&format!("address del {MAIN} dev eth1\n"));
        }
    });
}

#[test]
fn what_is_somebody_elses_is_not_taken_and_what_a_predecessor_left_is() {
    let lines = format!("{CABLE}address add {MAIN} dev eth1\naddress add {MAIN_6} dev eth1 nodad\n");
    let Some(space) = Space::create(&lines) else { return };
    space.enter(async || {
        let kernel = Netlink::open().unwrap();
        let link = link(&kernel, "eth1").await;
        for address in [net(MAIN), net(MAIN_6)] {
            let refused = kernel.put(link, address, 2).unwrap_err();
            assert!(
                matches!(&refused, NetError::Foreign { interface, .. } if interface == "eth1"),
                "{refused}"
            );
            let there = find(&kernel, address).await.unwrap();
            assert_eq!((there.valid_for, there.ours), (None, false));
        }
        // Also where it has another prefix there.
        for (there, asked) in [(MAIN, "10.77.0.1/16"), (MAIN_6, "2001:db8:77::1/48")] {
            let refused = kernel.put(link, net(asked), 2).unwrap_err();
            assert!(refused.to_string().starts_with(&format!("{there} is on eth1 already")), "{refused}");
            let there = find(&kernel, net(there)).await.unwrap();
            assert_eq!((there.valid_for, there.ours), (None, false));
            assert_eq!(find(&kernel, net(asked)).await, None);
        }
        for address in [net(VIP), net(VIP_6)] {
            Netlink::open().unwrap().put(link, address, 60).unwrap();
            kernel.put(link, address, 90).unwrap();
            let there = find(&kernel, address).await.unwrap();
            assert!(there.valid_for.is_some_and(|seconds| seconds > 60), "{there:?}");
        }
        assert!(matches!(kernel.put(4_711, net(VIP), 2), Err(NetError::NoInterface(_))));
        assert!(!kernel.remove(4_711, net(VIP)).unwrap());
        space.ip("link delete eth1\n");
        assert!(matches!(kernel.put(link, net(VIP), 2), Err(NetError::NoInterface(name)) if name == "eth1"));
    });
}

#[test]
fn strangers_cables_and_bridges_are_seen() {
    let Some(space) = Space::create(CABLE) else { return };
    space.enter(async || {
        let kernel = Netlink::open().unwrap();
        let link = link(&kernel, "eth1").await;
        let mut watch = kernel.watch().await.unwrap();
        for (address, words) in [
            (net(VIP), format!("address del {VIP} dev eth1\n")),
            (net(VIP_6), format!("address del {VIP_6} dev eth1\n")),
        ] {
            kernel.put(link, address, 60).unwrap();
            let set = |event: &NetEvent| match event {
                NetEvent::AddressSet(one) if one.address == address => Some(one.clone()),
                _ => None,
            };
            let there = event(&mut watch, "set", set).await;
            assert_eq!((there.link, there.interface.as_str(), there.ours), (link, "eth1", true));
            space.ip(&words);
            let gone = event(&mut watch, "removed by a stranger", |event| gone(event, address)).await;
            assert_eq!((gone.link, gone.interface.as_str(), gone.ours), (link, "eth1", true));
        }

        let carrier = |expected: bool| {
            move |event: &NetEvent| match event {
                NetEvent::LinkSet(one) if one.link == link && one.carrier == expected => Some(one.clone()),
                _ => None,
            }
        };
        space.ip("link set peer down\n");
        let lost = event(&mut watch, "carrier lost", carrier(false)).await;
        assert!(lost.up && lost.mac.is_some(), "{lost:?}");
        space.ip("link set peer up\n");
        event(&mut watch, "carrier back", carrier(true)).await;

        // A port that leaves a bridge is not gone, though the bridge says so.
        space.ip(
            "link add br0 type bridge\nlink set eth1 master br0\nlink set eth1 nomaster\nlink delete eth1\n",
        );
        let mut after = Vec::new();
        event(&mut watch, "the interface is gone", |event| match event {
            NetEvent::LinkGone { link: gone, name } if *gone == link => Some(name.clone()),
            _ => None,
        })
        .await;
        assert!(kernel.interfaces().await.unwrap().iter().all(|one| one.link != link));
        while let Ok(event) = watch.events.try_recv() {
            after.push(event);
        }
        assert!(
            !after.iter().any(|event| matches!(event, NetEvent::LinkSet(one) if one.link == link)),
            "{after:?}"
        );
    });
}

#[test]
fn exotic_interfaces_hide_nothing() {
    let lines = "link add d0 type dummy\nlink add b0 type bond\nlink add br0 type bridge\nlink add v0 link d0 type vlan id 7\n\
                 link add m0 link d0 type macvlan mode bridge\nlink add x0 type vxlan id 9 dstport 4789\n\
                 link add g0 type gre local 127.0.0.1\nlink add t0 type ipip local 127.0.0.1\n";
    let Some(space) = Space::create("link set lo up\n") else { return };
    let mut expected = vec!["lo"];
    for line in lines.lines() {
        // Not every kernel has all of them; it must list those that it has.
        let made = support::run(Command::new("ip").args(["-n", &space.name, "-batch", "-"]), line);
        if made.is_ok() {
            expected.push(line.split(' ').nth(2).unwrap());
        }
    }
    assert!(expected.len() > 1, "this kernel has no kind of virtual interface");
    eprintln!("{expected:?}");
    space.enter(async || {
        let all = Netlink::open().unwrap().interfaces().await.unwrap();
        for name in expected {
            assert!(all.iter().any(|one| one.name == name), "{name}: {all:?}");
        }
    });
}

#[test]
fn more_than_fits_is_one_overrun_and_what_comes_later_is_seen() {
    let Some(space) = Space::create(CABLE) else { return };
    space.enter(async || {
        let kernel = Netlink::open().unwrap();
        let link = link(&kernel, "eth1").await;
        let mut watch = kernel.watch().await.unwrap();
        // Nobody reads: this thread is the runtime's only one.
        for _ in 0..10_000 {
            kernel.put(link, net(VIP), 60).unwrap();
            kernel.remove(link, net(VIP)).unwrap();
        }
        event(&mut watch, "overrun", |event| (*event == NetEvent::Overrun).then_some(())).await;
        kernel.put(link, net(VIP_6), 60).unwrap();
        let mut stale = 0;
        event(&mut watch, "what came later", |event| match event {
            NetEvent::AddressSet(one) => (one.address == net(VIP_6)).then_some(()),
            NetEvent::Overrun => panic!("a second overrun"),
            NetEvent::AddressGone(one) if one.address == net(VIP) => {
                panic!("older than the overrun: {one:?}")
            }
            _ => None,
        })
        .await;
        while let Ok(NetEvent::Overrun) = watch.events.try_recv() {
            stale += 1;
        }
        assert_eq!(stale, 0);

        drop(watch.events);
        let ended = tokio::time::timeout(Duration::from_secs(30), watch.tasks.join_next()).await;
        assert!(matches!(ended, Ok(Some(Ok(())))), "its task goes when nobody listens");
    });
}

#[test]
fn two_capabilities_are_enough_and_none_is_said() {
    let Some(space) = Space::create(CABLE) else { return };
    // Where an ordinary user may run it.
    let dir = tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o755)).tempdir().unwrap();
    let program = dir.path().join("netlink");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    for (capabilities, expected) in [
        ("+net_admin,+net_raw", "both"),
        ("+net_raw", "no CAP_NET_ADMIN"),
        ("+net_admin", "no CAP_NET_RAW"),
        ("", "none"),
    ] {
        let set = if capabilities.is_empty() { "-all".to_owned() } else { format!("-all,{capabilities}") };
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            &space.name,
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
        ]);
        for option in ["--inh-caps", "--ambient-caps", "--bounding-set"] {
            command.arg(format!("{option}={set}"));
        }
        command.arg(&program).args(["--ignored", "--exact", "an_ordinary_user", "--nocapture"]);
        let said = support::run(command.env("EXPECTED", expected), "");
        assert!(said.as_ref().is_ok_and(|said| said.contains("1 passed")), "{capabilities}: {said:?}");
    }
}

#[tokio::test]
#[ignore = "run by two_capabilities_are_enough_and_none_is_said"]
async fn an_ordinary_user() {
    let expected = std::env::var("EXPECTED").unwrap();
    let kernel = Netlink::open().unwrap();
    let link = link(&kernel, "eth1").await;
    let _watch = kernel.watch().await.unwrap();
    let put = kernel.put(link, net(VIP), 30);
    let missing = permitted().err().unwrap_or_default();
    let says = |name: &str| missing.contains(&format!("{name} is missing"));
    match expected.as_str() {
        "both" => {
            assert_eq!(missing, "");
            put.unwrap();
            assert!(find(&kernel, net(VIP)).await.is_some_and(|one| one.ours));
            assert!(kernel.remove(link, net(VIP)).unwrap());
            nobodys_program_inherits_them().await;
        }
        "no CAP_NET_ADMIN" => {
            assert!(says("CAP_NET_ADMIN") && matches!(put, Err(NetError::NotPermitted)), "{missing}")
        }
        "no CAP_NET_RAW" => assert!(says("CAP_NET_RAW") && put.is_ok(), "{missing}"),
        _ => assert!(
            missing.contains("both are missing") && matches!(put, Err(NetError::NotPermitted)),
            "{missing}"
        ),
    }
}

/// What hooks and checks are run by has none of the capabilities; the guard, which is started after them, has.
async fn nobodys_program_inherits_them() {
    let dir = tempfile::tempdir().unwrap();
    let (hook, seen) = (dir.path().join("hook"), dir.path().join("seen"));
    let look = ["-E", "Cap(Inh|Prm|Eff|Amb)", "/proc/self/status"];
    std::fs::write(
        &hook,
        format!("#!/bin/sh\ngrep {} '{}' {} > {}\n", look[0], look[1], look[2], seen.display()),
    )
    .unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    let hooks = Hooks { on_take: Some(hook), on_release: None };
    let (mut runner, mut failures) = HookRunner::new(hooks, Default::default());
    runner.run(&"iscsi".parse().unwrap(), Moment::Take, &[]);
    assert!(runner.finish(Duration::from_secs(30)).await);
    assert_eq!(failures.recv().await, None);
    let sets = |text: &str| -> Vec<u64> {
        text.lines()
            .map(|line| u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap())
            .collect()
    };
    assert_eq!(sets(&std::fs::read_to_string(seen).unwrap()), [0, 0, 0, 0]);
    // As the guard is started: from this thread.
    let guard = support::run(Command::new("grep").args(look), "").unwrap();
    let both = (1 << 12) | (1 << 13);
    assert_eq!(sets(&guard), [both; 4]);
}
