//! An address of ours that goes must not take others along.
//!
//! Linux removes with the first IPv4 address of a network on an interface all others of that network there, unless
//! `promote_secondaries` is set (where systemd sets the defaults it is). Ours is the first where the machine's own comes
//! later, for example from a slow DHCP server, and where several services share a network in which the machine has
//! nothing.

use std::io;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

/// Sees to it that the others of a network are promoted when the first goes.
pub(super) fn ensure(interface: &str) {
    if is_set("all") || is_set(interface) {
        return;
    }
    match std::fs::write(setting(interface), "1") {
        Ok(()) => info!(
            "net.ipv4.conf.{interface}.promote_secondaries was set to 1: or a virtual IP that goes would take the other \
             addresses of its network along"
        ),
        // The interface has just gone.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => warn!(
            "net.ipv4.conf.{interface}.promote_secondaries is 0 and cannot be set ({error}): a virtual IP that is the \
             first address of its network there takes the others along when it goes; set it to 1, or write virtual IPs \
             with /32"
        ),
    }
}

fn is_set(interface: &str) -> bool {
    std::fs::read_to_string(setting(interface)).is_ok_and(|text| text.trim() != "0")
}

fn setting(interface: &str) -> PathBuf {
    Path::new("/proc/sys/net/ipv4/conf").join(interface).join("promote_secondaries")
}
