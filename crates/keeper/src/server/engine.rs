//! The engine thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use clock::SharedClock;
use std::net::SocketAddr;
use tokio::sync::{oneshot, watch};

use super::control::{Control, Ending};
use super::net::Listener;
use super::{Failure, Options, StartError};

/// How a server ended.
#[derive(Clone, Debug)]
pub(super) enum Ended {
    /// As asked.
    Stopped,
    /// As asked, but its log thread still hangs in the disk.
    CutOff,
    /// By itself.
    Failed(Failure),
}

impl Ended {
    pub(super) fn into_failure(self) -> Failure {
        match self {
            Self::Stopped | Self::CutOff => Failure::Stopped,
            Self::Failed(failure) => failure,
        }
    }
}

/// What the engine thread takes along.
pub(super) struct Setup {
    pub(super) options: Options,
    pub(super) clock: SharedClock,
    pub(super) seed: [u8; 32],
    pub(super) control: Arc<Control>,
    pub(super) ready: oneshot::Sender<Result<SocketAddr, StartError>>,
}

/// The engine thread's whole life. The last thing it does is to say how it ended.
pub(super) fn run(setup: Setup, end: &watch::Sender<Option<Ended>>) {
    let ended = catch_unwind(AssertUnwindSafe(|| serve(setup))).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "without a message".to_owned());
        Ended::Failed(Failure::Panicked(message))
    });
    end.send_replace(Some(ended));
}

fn serve(setup: Setup) -> Ended {
    let Setup { options, ready, control, .. } = setup;
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = ready.send(Err(StartError::Thread(error)));
            return Ended::Stopped;
        }
    };
    runtime.block_on(async {
        let listener = match Listener::bind(options.listen) {
            Ok(listener) => listener,
            Err(source) => {
                let _ = ready.send(Err(StartError::Listen { address: options.listen, source }));
                return Ended::Stopped;
            }
        };
        let _ = ready.send(Ok(listener.address()));
        while control.ending() < Some(Ending::Stop) {
            control.changed().await;
            control.hold_while_paused();
        }
        Ended::Stopped
    })
}
