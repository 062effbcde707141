//! What this node alone does about its addresses, on the real kernel: in a network namespace of each test's own.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands, in its helpers too")]

mod clean;
mod guard;

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use ipnet::IpNet;
use nix::sched::{CloneFlags, unshare};

const ADDRESSES: [&str; 2] = ["172.0.20.241/24", "fd00:20::241/64"];
const FOREIGN: [&str; 2] = ["172.0.20.7/24", "fd00:20::7/64"];
const SOON: Duration = Duration::from_secs(30);

/// A namespace with an interface `vip0` that has two addresses of somebody else. None, with a printed reason, if this
/// user may not.
fn namespace() -> Option<()> {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        testkit::skip(&format!("a network namespace needs root: {error}"));
        return None;
    }
    let steps =
        ["link set lo up", "link add vip0 type veth peer vip1", "link set vip0 up"].map(str::to_owned);
    for step in
        steps.into_iter().chain(FOREIGN.map(|address| format!("address add {address} dev vip0 nodad")))
    {
        // IPv4 knows no duplicate detection.
        let step = if step.contains("172.") { step.replace(" nodad", "") } else { step };
        let done = Command::new("ip").args(step.split(' ')).status().expect("ip is installed");
        assert!(done.success(), "ip {step}");
    }
    Some(())
}

/// How many of them the kernel has, by its own files: nothing of ours is asked, and no program has to be started.
fn there(addresses: &[&str]) -> usize {
    // Of this thread: it alone has moved to the namespace.
    let read = |name| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap();
    let (four, six) = (read("fib_trie"), read("if_inet6"));
    let is_there = |address: &&&str| match address.parse::<IpNet>().unwrap().addr() {
        IpAddr::V4(address) => four.contains(&format!("-- {address}\n")),
        IpAddr::V6(address) => six.contains(&format!("{:032x}", address.to_bits())),
    };
    addresses.iter().filter(is_there).count()
}

fn link() -> u32 {
    let output = Command::new("ip").args(["-o", "link", "show", "dev", "vip0"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(':').next().unwrap().parse().unwrap()
}
