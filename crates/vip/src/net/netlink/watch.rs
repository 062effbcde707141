//! The subscription.

use std::collections::BTreeMap;

use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use tokio::sync::mpsc;
use tracing::warn;

use super::socket::{Socket, Trouble, list};
use super::wire::{self, Said};
use super::{Names, full};
use crate::net::NetEvent;

/// Reads until nobody listens any more, or the socket breaks.
///
/// While the queue is full nothing is read: the socket is the larger queue, and what does not fit there either the
/// kernel says.
pub(super) async fn run(socket: Socket, mut names: Names, events: mpsc::Sender<NetEvent>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let received = tokio::select! {
            received = socket.receive(&mut buffer) => received,
            () = events.closed() => return,
        };
        match received {
            Ok(length) => {
                for (_, _, said) in wire::decode(&buffer[..length]) {
                    let Said::Message(message) = said else { continue };
                    let Some(event) = event(&message, &mut names) else { continue };
                    if events.send(event).await.is_err() {
                        return;
                    }
                }
            }
            Err(Errno::ENOBUFS | Errno::EMSGSIZE) => {
                // Nothing that is still in the socket may come after the overrun: whoever hears of that looks at
                // everything, and would take an old event for a new one.
                let drained = socket.drain(&mut buffer).await;
                if let Ok(fresh) = list_names().await {
                    names = fresh;
                }
                if events.send(NetEvent::Overrun).await.is_err() {
                    return;
                }
                if let Err(errno) = drained {
                    warn!("the kernel's events of addresses and links end: {}", errno.desc());
                    return;
                }
            }
            Err(errno) => {
                warn!("the kernel's events of addresses and links end: {}", errno.desc());
                return;
            }
        }
    }
}

/// The names of all interfaces.
pub(super) async fn list_names() -> Result<Names, Trouble> {
    let messages = list(|| wire::list_links(None)).await?;
    let links = messages.iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewLink(message) => wire::interface(message),
        _ => None,
    });
    Ok(links.map(|link| (link.link, link.name)).collect::<BTreeMap<_, _>>())
}

fn event(message: &RouteNetlinkMessage, names: &mut Names) -> Option<NetEvent> {
    Some(match message {
        RouteNetlinkMessage::NewAddress(message) => {
            NetEvent::AddressSet(full(wire::address(message)?, names))
        }
        RouteNetlinkMessage::DelAddress(message) => {
            NetEvent::AddressGone(full(wire::address(message)?, names))
        }
        RouteNetlinkMessage::NewLink(message) => {
            let link = wire::interface(message)?;
            names.insert(link.link, link.name.clone());
            NetEvent::LinkSet(link)
        }
        RouteNetlinkMessage::DelLink(message) => {
            let link = wire::interface(message)?;
            names.remove(&link.link);
            NetEvent::LinkGone { link: link.link, name: link.name }
        }
        _ => return None,
    })
}
