//! Probes, announcements and conflicts between real kernels: two network namespaces on one cable, as root.

#![expect(clippy::unwrap_used, reason = "the helpers of tests, too")]

mod support;

use std::net::IpAddr;
use std::process::Command;
use std::sync::{Barrier, mpsc};
use std::time::{Duration, Instant};

use clock::BootClock;
use support::{Space, run};
use vip::announce::packet::{Arp, Neighbour, announcements};
use vip::announce::{Announcer as _, Packets, Port, ProbePolicy};
use vip::net::{Foreign, Mac, NetError};

const NEAR: Mac = Mac([2, 0, 0, 0, 0, 0x0a]);
const FAR: Mac = Mac([2, 0, 0, 0, 0, 0x0b]);
/// Where neighbours think that the addresses are.
const OLD: Mac = Mac([2, 0, 0, 0, 0, 0x0c]);

/// A test that this one starts again, as a program with fewer rights.
const INSIDE: &str = "TASKD_VIP_TEST_INSIDE";

/// Generous: what is waited for comes at once, but this machine may be busy.
const SOON: Duration = Duration::from_secs(30);

/// Two machines on a cable, `eth1` each; and on another one, `eth2`, which has nothing to do with it.
struct Cable {
    near: Space,
    far: Space,
}

impl Cable {
    fn create() -> Option<Self> {
        let near = Space::create("")?;
        let far = Space::create("")?;
        near.ip(&format!(
            "link add eth1 address {NEAR} type veth peer name eth1 address {FAR} netns {}\nlink set eth1 up\n\
             link add eth2 type veth peer name eth2 netns {}\nlink set eth2 up\n",
            far.name, far.name
        ));
        far.ip("link set eth1 up\nlink set eth2 up\naddress add 10.77.0.2/24 dev eth1\naddress add 2001:db8:77::2/64 dev eth1 nodad\n");
        Some(Self { near, far })
    }

    /// The far one gets the addresses.
    fn give(&self, addresses: &[IpAddr]) {
        for address in addresses {
            let prefix = if address.is_ipv4() { 24 } else { 64 };
            let nodad = if address.is_ipv4() { "" } else { "nodad" };
            self.far.ip(&format!("address add {address}/{prefix} dev eth1 {nodad}\n"));
        }
    }
}

fn addresses() -> [IpAddr; 2] {
    ["10.77.0.9", "2001:db8:77::9"].map(|text| text.parse().unwrap())
}

fn open() -> Packets {
    Packets::open(BootClock::shared()).unwrap()
}

/// That thread's `eth1`.
fn port(mac: Mac) -> Port {
    port_on("eth1", mac)
}

fn port_on(interface: &str, mac: Mac) -> Port {
    let link = nix::net::if_::if_nametoindex(interface).unwrap();
    Port { link, interface: interface.to_owned(), mac }
}

/// On a busy machine the other kernel takes its time.
fn patient() -> ProbePolicy {
    ProbePolicy { count: 100, interval: Duration::from_millis(300) }
}

#[test]
fn a_kernel_that_has_the_address_answers_at_once_and_is_named() {
    let Some(cable) = Cable::create() else { return };
    let [v4, v6] = addresses();
    for (there, asked) in [(v4, vec![v4]), (v6, vec![v6]), (v6, vec![v4, v6]), (v4, vec![v6, v4])] {
        cable.give(&[there]);
        let begun = Instant::now();
        let answer = cable.near.enter(async || open().probe(&port(NEAR), &asked, patient()).await);
        assert_eq!(answer.unwrap(), Some(Foreign { address: there, mac: FAR }), "of {asked:?}");
        assert!(begun.elapsed() < patient().takes() / 2, "not only at the end: {:?}", begun.elapsed());
        cable.far.ip(&format!("address flush dev eth1 to {there}\n"));
    }
}

#[test]
fn nobody_answers_and_that_takes_what_the_policy_says() {
    let Some(cable) = Cable::create() else { return };
    // The other machine is there, with other addresses, and nobody's entry for it changes by our asking.
    cable.far.ip(&format!("neighbour replace 10.77.0.9 lladdr {OLD} dev eth1 nud stale\n"));
    cable.near.enter(async || {
        let (packets, policy) = (open(), ProbePolicy::default());
        let begun = Instant::now();
        let answer = packets.probe(&port(NEAR), &addresses(), policy).await.unwrap();
        assert_eq!(answer, None);
        assert!(begun.elapsed() >= policy.takes(), "an answer has its time: {:?}", begun.elapsed());
        // And what was never asked is not taken for free.
        let gone = Port { link: 4711, interface: "eth7".to_owned(), mac: NEAR };
        let refused = packets.probe(&gone, &addresses(), policy).await;
        assert!(matches!(&refused, Err(NetError::NoInterface(name)) if name == "eth7"), "{refused:?}");
        let refused = packets.announce(&gone, &addresses());
        assert!(matches!(&refused, Err(NetError::NoInterface(name)) if name == "eth7"), "{refused:?}");
    });
    assert!(cable.far.show("neighbour show 10.77.0.9 dev eth1").contains(&OLD.to_string()));
}

#[test]
fn two_who_ask_at_the_same_time_both_hear_of_each_other() {
    let Some(cable) = Cable::create() else { return };
    for address in addresses() {
        let start = Barrier::new(2);
        let answers = std::thread::scope(|scope| {
            let far = scope.spawn(|| ask(&cable.far, FAR, address, &start));
            (ask(&cable.near, NEAR, address, &start), far.join().unwrap())
        });
        let foreign = |mac| Some(Foreign { address, mac });
        // Whoever heard the other one first has stopped asking, perhaps before that one listened.
        assert!(answers.0 == foreign(FAR) || answers.1 == foreign(NEAR), "{answers:?}");
        assert!(answers.0.is_none_or(|heard| heard.mac == FAR), "not itself: {answers:?}");
        assert!(answers.1.is_none_or(|heard| heard.mac == NEAR), "not itself: {answers:?}");
    }
}

fn ask(space: &Space, mac: Mac, address: IpAddr, start: &Barrier) -> Option<Foreign> {
    space.enter(async || {
        let packets = open();
        let _ = start.wait();
        // Long enough for the later one to begin within it.
        let policy = ProbePolicy { count: 60, interval: Duration::from_millis(50) };
        packets.probe(&port(mac), &[address], policy).await.unwrap()
    })
}

#[test]
fn each_form_of_announcement_moves_a_neighbours_entry() {
    let Some(cable) = Cable::create() else { return };
    let [v4, v6] = addresses();
    let forms: [(&str, IpAddr, Vec<Vec<u8>>); 4] = match (v4, v6) {
        (IpAddr::V4(four), IpAddr::V6(six)) => [
            ("ARP request", v4, vec![Arp::announcement(NEAR, four).to_frame()]),
            ("ARP reply", v4, vec![Arp::gratuitous_reply(NEAR, four).to_frame()]),
            ("advertisement", v6, vec![Neighbour::announcement(NEAR, six, false).to_frame()]),
            ("a router's", v6, announcements(NEAR, v6, true)),
        ],
        _ => unreachable!("they are one of each"),
    };
    for (form, address, frames) in forms {
        // Just confirmed, so that nothing but a gratuitous one may replace it.
        cable.far.ip(&format!("neighbour replace {address} lladdr {OLD} dev eth1 nud reachable\n"));
        cable.near.enter(async || {
            for frame in frames {
                open().send(&port(NEAR), &frame).unwrap();
            }
        });
        moved(&cable.far, address, form);
    }
    for address in addresses() {
        cable.far.ip(&format!("neighbour replace {address} lladdr {OLD} dev eth1 nud reachable\n"));
    }
    cable.near.enter(async || open().announce(&port(NEAR), &addresses()).unwrap());
    for address in addresses() {
        moved(&cable.far, address, "a round");
    }
}

fn moved(space: &Space, address: IpAddr, how: &str) {
    let deadline = Instant::now() + SOON;
    loop {
        let entry = space.show(&format!("neighbour show {address} dev eth1"));
        if entry.contains(&NEAR.to_string()) {
            return;
        }
        assert!(Instant::now() < deadline, "{how}: {entry}");
        std::thread::yield_now();
    }
}

#[test]
fn a_conflict_is_heard_and_a_question_is_none() {
    let Some(cable) = Cable::create() else { return };
    for address in addresses() {
        let (ready, listening) = mpsc::channel();
        let heard = std::thread::scope(|scope| {
            let near = scope.spawn(|| {
                cable.near.enter(async || {
                    let packets = open();
                    let mut others = packets.listen(&port(NEAR), addresses().to_vec()).unwrap();
                    ready.send(()).unwrap();
                    let first = tokio::time::timeout(SOON, others.next()).await.unwrap();
                    // The link goes away and comes back, and we still hear.
                    cable.near.ip("link set eth1 down\nlink set eth1 up\n");
                    ready.send(()).unwrap();
                    let second = tokio::time::timeout(SOON, others.next()).await.unwrap();
                    [first, second]
                })
            });
            let done = || near.is_finished();
            cable.far.enter(async move || {
                let packets = open();
                listening.recv_timeout(SOON).unwrap();
                // A probe, our own frame that comes back, another address, the same one on another cable and in another
                // VLAN; then one that counts.
                let probe = ProbePolicy { count: 2, interval: Duration::from_millis(20) };
                assert_eq!(packets.probe(&port(FAR), &[address], probe).await.unwrap(), None);
                packets.announce(&port(NEAR), &[address]).unwrap();
                packets.announce(&port(OLD), &["10.77.0.8".parse().unwrap()]).unwrap();
                packets.announce(&port_on("eth2", OLD), &[address]).unwrap();
                for mut frame in announcements(OLD, address, false) {
                    frame.splice(12..12, [0x81, 0, 0, 5]);
                    packets.send(&port(FAR), &frame).unwrap();
                }
                packets.announce(&port(FAR), &[address]).unwrap();
                listening.recv_timeout(SOON).unwrap();
                // It may take the kernels a while to agree that there is a carrier.
                testkit::until("the near one has heard again", SOON, async || {
                    // Nothing can be sent before that.
                    let _ = packets.announce(&port(FAR), &[address]);
                    done().then_some(())
                })
                .await;
            });
            near.join().unwrap()
        });
        let foreign = Some(Foreign { address, mac: FAR });
        assert_eq!(heard, [foreign, foreign]);
    }
}

#[test]
fn what_was_said_before_we_asked_is_no_answer() {
    let Some(cable) = Cable::create() else { return };
    cable.near.enter(async || {
        // Opened first, so the kernel hands it each frame last: what it has heard, the other one has in its queue.
        let witness = open();
        let packets = open();
        for address in addresses() {
            let mut heard = witness.listen(&port(NEAR), vec![address]).unwrap();
            // Its task never runs.
            let unread = packets.listen(&port(NEAR), vec![address]).unwrap();
            // One frame: another might come only when we ask.
            let frame = announcements(FAR, address, false).remove(0);
            cable.far.enter(async || open().send(&port(FAR), &frame).unwrap());
            drop(unread);
            let foreign = Some(Foreign { address, mac: FAR });
            assert_eq!(tokio::time::timeout(SOON, heard.next()).await.unwrap(), foreign);
            let policy = ProbePolicy { count: 1, interval: Duration::from_millis(20) };
            assert_eq!(packets.probe(&port(NEAR), &[address], policy).await.unwrap(), None, "{address}");
        }
    });
}

#[test]
fn many_services_on_one_interface_each_hear_their_own() {
    let Some(cable) = Cable::create() else { return };
    let addresses: Vec<IpAddr> = (100..120_u8).map(|last| IpAddr::from([10, 77, 0, last])).collect();
    cable.give(&addresses);
    cable.near.enter(async || {
        let (packets, port) = (open(), port(NEAR));
        let probes = addresses.iter().map(|address| {
            let (packets, port) = (&packets, &port);
            async move { packets.probe(port, std::slice::from_ref(address), patient()).await.unwrap() }
        });
        let answers = futures::future::join_all(probes).await;
        let expected = addresses.iter().map(|address| Some(Foreign { address: *address, mac: FAR }));
        assert_eq!(answers, expected.collect::<Vec<_>>());
    });
}

#[test]
fn works_with_cap_net_raw_alone_and_says_what_is_missing_without_it() {
    if let Ok(rights) = std::env::var(INSIDE) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(inside(&rights));
        return;
    }
    let Some(cable) = Cable::create() else { return };
    cable.give(&addresses());
    for rights in ["+net_raw", "nothing"] {
        let bounds = if rights == "nothing" { "-all".to_owned() } else { format!("-all,{rights}") };
        let mut again = Command::new("ip");
        again.args(["netns", "exec", &cable.near.name, "setpriv", "--bounding-set", &bounds]);
        again.args(["--inh-caps", "-all", "--"]).arg(std::env::current_exe().unwrap());
        again.args(["--exact", "--nocapture"]);
        again.arg("works_with_cap_net_raw_alone_and_says_what_is_missing_without_it").env(INSIDE, rights);
        let said = run(&mut again, "").unwrap_or_else(|why| panic!("with {rights}: {why}"));
        assert!(said.contains(&format!("inside with {rights}")), "it ran: {said}");
    }
}

async fn inside(rights: &str) {
    println!("inside with {rights}");
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let effective = u64::from_str_radix(effective.trim(), 16).unwrap();
    if rights == "nothing" {
        assert_eq!(effective, 0);
        assert!(matches!(Packets::open(BootClock::shared()), Err(NetError::NotPermitted)));
        return;
    }
    assert_eq!(effective, 1 << 13, "CAP_NET_RAW is all there is");
    let (packets, port, [v4, v6]) = (open(), port(NEAR), addresses());
    for address in [v4, v6] {
        let answer = packets.probe(&port, &[address], patient()).await.unwrap();
        assert_eq!(answer, Some(Foreign { address, mac: FAR }));
    }
    packets.announce(&port, &[v4, v6]).unwrap();
    drop(packets.listen(&port, vec![v4, v6]).unwrap());
}
