//! What virtual IPs need of this machine, chosen once at the node's start: whether addresses are really changed, by whom,
//! and who removes them if the process dies.

mod alone;

use std::sync::Arc;
use std::time::Duration;

use clock::SharedClock;
use vip::announce::{self, Announcer};
use vip::guard::GuardProgram;
use vip::net::netlink::{self, Netlink};
use vip::net::{Backend, dry_run};

pub(crate) use self::alone::Alone;
use crate::config::{Config, Problem, VipBackend};

/// How long a predecessor that was just killed may take until the kernel has closed what it had open.
const ALONE_WITHIN: Duration = Duration::from_millis(500);
const ALONE_RETRY: Duration = Duration::from_millis(20);

/// Any process may take the name, so it need not be a taskd.
const TAKEN: &str = "another process of this machine has the name @taskd-vip, as a taskd that changes addresses does; \
                     find it (`ss -xlp | grep @taskd-vip`) and stop one of the two";

/// How this node takes part.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) backend: Arc<dyn Backend>,
    /// Why that is a dry run although the file does not say so.
    pub(crate) why_dry: Option<String>,
    pub(crate) announcer: Arc<dyn Announcer>,
    pub(crate) guard: Option<GuardProgram>,
    /// That nobody else on this machine changes what is tagged as ours.
    _alone: Option<Alone>,
}

/// What the node's own file says for virtual IPs.
pub(crate) fn facts(config: &Config) -> vip::Facts {
    vip::Facts {
        interfaces: config.vip.interfaces.clone(),
        labels: config.node.labels.clone(),
        hooks: vip::config::Hooks {
            on_take: config.vip.on_take.clone(),
            on_release: config.vip.on_release.clone(),
        },
        scripts: config.vip.scripts,
    }
}

/// Chooses, and says so; none where the node takes no part.
///
/// # Errors
/// The kernel's backend was demanded and cannot be had, or this machine's interfaces cannot even be seen.
pub(crate) async fn machine(
    config: &Config,
    clock: &SharedClock,
    guard: Option<GuardProgram>,
) -> Result<Option<Machine>, Problem> {
    let wanted = config.vip.backend;
    let real = match wanted {
        VipBackend::Off => return Ok(None),
        VipBackend::DryRun => {
            tracing::warn!(
                "virtual IPs: this node makes a dry run, as vip.backend says, and puts no address anywhere"
            );
            return dry(clock, None).map(Some);
        }
        VipBackend::Auto | VipBackend::Netlink => {
            timing(config)?;
            real(clock, guard).await
        }
    };
    match real {
        Ok(machine) => {
            if machine.guard.is_none() {
                tracing::warn!(
                    "virtual IPs have no guard: if this process dies, its addresses stay until the kernel's own timer \
                     removes them"
                );
            }
            tracing::info!("virtual IPs: this node holds them in the kernel");
            Ok(Some(machine))
        }
        Err(why) if wanted == VipBackend::Netlink => {
            Err(Problem::at("vip.backend", format!("\"netlink\" is not possible: {why}")))
        }
        Err(why) => {
            tracing::warn!("virtual IPs: THIS NODE ONLY MAKES A DRY RUN and puts no address anywhere: {why}");
            dry(clock, Some(why)).map(Some)
        }
    }
}

/// A dry run looks at the machine's real interfaces, which needs no capability.
fn dry(clock: &SharedClock, why_dry: Option<String>) -> Result<Machine, Problem> {
    let seen = Netlink::open().map_err(|error| {
        Problem::at(
            "vip.backend",
            format!("this machine's interfaces cannot be seen: {error}: set it to \"off\""),
        )
    })?;
    Ok(Machine {
        backend: Arc::new(dry_run::DryRun::new(Arc::new(seen), Arc::clone(clock))),
        why_dry,
        announcer: Arc::new(announce::DryRun::new()),
        guard: None,
        _alone: None,
    })
}

/// The kernel's, if this process may change addresses and nobody else on this machine does.
async fn real(clock: &SharedClock, guard: Option<GuardProgram>) -> Result<Machine, String> {
    netlink::permitted()?;
    let alone = alone().await?;
    Ok(Machine {
        backend: Arc::new(Netlink::open().map_err(|error| error.to_string())?),
        why_dry: None,
        announcer: Arc::new(announce::Packets::open(Arc::clone(clock)).map_err(|error| error.to_string())?),
        guard,
        _alone: Some(alone),
    })
}

async fn alone() -> Result<Alone, String> {
    let give_up = tokio::time::Instant::now() + ALONE_WITHIN;
    loop {
        match Alone::new() {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                if tokio::time::Instant::now() >= give_up {
                    return Err(TAKEN.to_owned());
                }
                tokio::time::sleep(ALONE_RETRY).await;
            }
            Err(error) => return Err(format!("it cannot be made sure that no other taskd does: {error}")),
            Ok(alone) => return Ok(alone),
        }
    }
}

/// Whether this node could hold a service that says nothing of its own grace (D8's arithmetic): refused where addresses
/// were demanded, said where they were not.
fn timing(config: &Config) -> Result<(), Problem> {
    let coordination = &config.coordination;
    let grace = vip::config::Service::new(Vec::new()).takeover_grace;
    match vip::check_timing(coordination.session_timeout, coordination.margin(), grace) {
        Ok(None) => Ok(()),
        Ok(Some(thin)) => {
            tracing::warn!("virtual IPs: {thin}");
            Ok(())
        }
        Err(refusal) if config.vip.backend == VipBackend::Netlink => {
            Err(Problem::at("coordination.session_timeout", refusal.to_string()))
        }
        Err(refusal) => {
            tracing::warn!("virtual IPs: this node can only hold services with a longer grace: {refusal}");
            Ok(())
        }
    }
}
