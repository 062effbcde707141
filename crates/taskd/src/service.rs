//! Task services of your own: typed payloads in, typed output out.
//!
//! ```
//! use serde::Deserialize;
//! use taskd::service::{Context, Service, TaskError};
//! use taskd::{Config, Node};
//!
//! #[derive(Deserialize)]
//! struct Greet {
//!     name: String,
//! }
//!
//! struct Greeter;
//!
//! impl Service for Greeter {
//!     type Payload = Greet;
//!     type Output = String;
//!
//!     async fn run(&self, context: Context, greet: Greet) -> Result<String, TaskError> {
//!         if greet.name.is_empty() {
//!             return Err(TaskError::permanent("nobody to greet"));
//!         }
//!         context.progress(50, "clearing the throat");
//!         Ok(format!("Hello {}, from {}", greet.name, context.node()))
//!     }
//! }
//!
//! # fn node() -> Result<(), Box<dyn std::error::Error>> {
//! let node = Node::builder(Config::embedded("n1".parse()?)).service("greet", Greeter);
//! # drop(node); Ok(())
//! # }
//! ```
//!
//! # What an attempt is promised, and what it has to do
//!
//! - **A payload that does not fit never reaches the handler.** The attempt fails for good, with a message that names the field.
//! - **Cancelled means gone.** When the attempt has to end (its task is cancelled, its time is up, its node stops or lost the
//!   right to run it), [`Context::cancelled`] fires. After a grace of at most two seconds the future is dropped at its next
//!   await point. The cluster counts the attempt as ended only when the future *and* every thread started by
//!   [`Context::blocking`] are gone: only then its locks are free. What outlives the deadline of its node's fence calls the
//!   node's [`LastRung`](crate::LastRung), which has to end the process; the daemon's does, [`LogOnly`](crate::LogOnly)
//!   only shouts. A future that never reaches an await point is caught by the watchdog in the same way.
//! - **At most one attempt at a time**, unless a whole machine is paused and resumed. Work on shared storage therefore
//!   shows its [`Token`] to whatever guards that; see `examples/storage-maintenance`.
//! - **At least once.** A node may be lost after the work was done and before anybody heard of it. The next attempt gets
//!   the last [checkpoint](Context::checkpoint).
//!
//! What is not typed, or runs processes, implements [`runner::TaskService`] itself.

mod context;
mod error;

use std::fmt;
use std::sync::Arc;

use runner::{Unfit, Work, WorkError};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use context::{Context, SaveError, Token};
pub use error::TaskError;

/// Executes tasks of one kind, inside this process. See the [module](self).
pub trait Service: Send + Sync + 'static {
    /// What a task carries, as JSON. An empty payload counts as `null`, which `()` and `Option` accept.
    type Payload: DeserializeOwned + Send + 'static;
    /// What becomes the task's output, as JSON; `()` for none.
    type Output: Serialize + Send + 'static;

    /// Does the work of one attempt.
    ///
    /// It must not block a thread: what computes or reads files for long belongs into [`Context::blocking`].
    ///
    /// # Errors
    /// What goes wrong: worth another attempt unless it is [permanent](TaskError::permanent). How many attempts there
    /// are is the task's business.
    ///
    /// # Cancel safety
    /// It is dropped at any await point when the attempt has to end and the grace is over.
    fn run(
        &self,
        context: Context,
        payload: Self::Payload,
    ) -> impl Future<Output = Result<Self::Output, TaskError>> + Send;
}

/// A [`Service`] for the runner.
pub(crate) struct Typed<S> {
    kind: String,
    service: Arc<S>,
}

impl<S> Typed<S> {
    pub(crate) fn new(kind: String, service: S) -> Self {
        Self { kind, service: Arc::new(service) }
    }
}

impl<S> fmt::Debug for Typed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Typed").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl<S: Service> runner::TaskService for Typed<S> {
    fn prepare(&self, mut task: runner::Task) -> Result<Work, Unfit> {
        let payload = match parse::<S::Payload>(&std::mem::take(&mut task.payload)) {
            Ok(payload) => payload,
            // Not "unfit", which another node could be better at: this one fits nowhere.
            Err(what) => {
                let message = format!("the payload does not fit kind {:?}: {what}", self.kind);
                return Ok(Work::InProcess(Box::pin(std::future::ready(Err(WorkError {
                    message,
                    permanent: true,
                })))));
            }
        };
        let service = Arc::clone(&self.service);
        Ok(Work::InProcess(Box::pin(async move {
            let output = service.run(Context::begin(task), payload).await?;
            let output = serde_json::to_vec(&output)
                .map_err(|error| TaskError::permanent(format!("its output is no JSON: {error}")))?;
            Ok(if output == b"null" { Vec::new() } else { output })
        })))
    }
}

/// The payload, or what is wrong with which of its fields.
fn parse<T: DeserializeOwned>(payload: &[u8]) -> Result<T, String> {
    let payload = if payload.is_empty() { b"null" } else { payload };
    let mut json = serde_json::Deserializer::from_slice(payload);
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        if path == "." { error.inner().to_string() } else { format!("field `{path}`: {}", error.inner()) }
    })?;
    json.end().map_err(|error| error.to_string())?;
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "it is only parsed")]
    struct Scrub {
        volume: String,
        chunk: Option<Chunk>,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "it is only parsed")]
    struct Chunk {
        bytes: u32,
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (payload, says) in [
            (r"{}", "missing field `volume`"),
            (r#"{"volume": 7}"#, "field `volume`: invalid type: integer `7`, expected a string"),
            (
                r#"{"volume": "v", "chunk": {"bytes": -1}}"#,
                "field `chunk.bytes`: invalid value: integer `-1`",
            ),
            (r#"{"volume": "v", "size": 1}"#, "unknown field `size`"),
            (r#"{"volume": "v"} x"#, "trailing characters"),
            ("", "invalid type: null"),
            ("scrub it", "expected value"),
        ] {
            let what = parse::<Scrub>(payload.as_bytes()).unwrap_err();
            assert!(what.contains(says), "{what:?} should say {says:?}");
        }
        assert!(parse::<Scrub>(br#"{"volume": "v"}"#).is_ok() && parse::<()>(b"").is_ok());
    }
}
