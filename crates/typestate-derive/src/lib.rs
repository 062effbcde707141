//! Machines whose phases are types: declared once, drawn, and checked while they are compiled.
//!
//! A *phase* is a type that owns what exists only in that phase; an *edge* is a method that takes the machine by value and
//! returns it in the next phase, or a failure that has already unwound what it had started. What cannot be done in a phase is
//! then not a case to handle but a program that does not compile: a runner that is still booting has no `stop`, so a
//! boot that stops its own owner cannot be written.
//!
//! # Example
//!
//! ```
//! #[typestate_derive::typestate]
//! pub mod phase {
//!     use std::num::NonZero;
//!
//!     /// Executes tasks.
//!     #[machine(initial = Booting, terminal = [Stopped])]
//!     #[derive(Debug)]
//!     pub struct Runner<P> {
//!         name: String, // what all phases share
//!         phase: P,     // what only this one has
//!     }
//!
//!     /// Not yet accepting anything.
//!     #[phase]
//!     #[derive(Debug)]
//!     pub struct Booting;
//!
//!     /// Executing.
//!     #[phase]
//!     #[derive(Debug)]
//!     pub struct Running {
//!         slots: NonZero<usize>,
//!         tasks: Vec<String>,
//!     }
//!
//!     /// Done.
//!     #[phase]
//!     #[derive(Debug)]
//!     pub struct Stopped {
//!         unfinished: usize,
//!     }
//!
//!     /// There was nothing to run on.
//!     #[derive(Debug, PartialEq, Eq)]
//!     pub struct NoSlots;
//!
//!     impl Runner<Booting> {
//!         /// A function without `#[edge]` is passed through.
//!         pub fn new(name: &str) -> Self {
//!             Self { name: name.to_owned(), phase: Booting }
//!         }
//!
//!         /// Starts accepting tasks. Edges may be `async`, and take what they like.
//!         #[edge(to = Running, fails = NoSlots)]
//!         pub fn boot(self, slots: usize) -> Result<Runner<Running>, NoSlots> {
//!             let slots = NonZero::new(slots).ok_or(NoSlots)?;
//!             Ok(Runner { name: self.name, phase: Running { slots, tasks: Vec::new() } })
//!         }
//!     }
//!
//!     impl Runner<Running> {
//!         /// Whether there was a slot for `task`.
//!         pub fn submit(&mut self, task: &str) -> bool {
//!             let free = self.phase.tasks.len() < self.phase.slots.get();
//!             if free {
//!                 self.phase.tasks.push(format!("{}/{task}", self.name));
//!             }
//!             free
//!         }
//!
//!         /// Ends everything.
//!         #[edge(to = Stopped)]
//!         pub fn stop(self) -> Runner<Stopped> {
//!             Runner { name: self.name, phase: Stopped { unfinished: self.phase.tasks.len() } }
//!         }
//!     }
//!
//!     impl Runner<Stopped> {
//!         /// How many tasks the stop cut short.
//!         pub fn unfinished(&self) -> usize {
//!             self.phase.unfinished
//!         }
//!     }
//! }
//!
//! use phase::{EDGES, MERMAID, NoSlots, PhaseId, Runner};
//!
//! let mut runner = Runner::new("r1").boot(1)?;
//! assert!(runner.submit("scrub"));
//! assert_eq!(runner.phase_id(), PhaseId::Running);
//! let stopped = runner.stop(); // `runner` is gone from here on
//! assert_eq!(stopped.unfinished(), 1);
//!
//! // The graph is data, for logs, status and documents.
//! assert!(stopped.phase_id().is_terminal());
//! let edges: Vec<String> = EDGES.iter().map(|edge| format!("{} {} {}", edge.from, edge.name, edge.to)).collect();
//! assert_eq!(edges, ["Booting boot Running", "Running stop Stopped"]);
//! assert!(MERMAID.contains("Booting --> [*] : boot fails with NoSlots"));
//! # Ok::<(), NoSlots>(())
//! ```
//!
//! # What the module gains
//!
//! | item | what it is |
//! |---|---|
//! | `trait Phase` | sealed; bounds the machine's parameter; `const ID: PhaseId`. A generic impl reads `impl<P: Phase> .. for Runner<P>` |
//! | `enum PhaseId` | the phases as values: `ALL`, `as_str()`, `is_terminal()`, `Display`, comparisons and `Hash` |
//! | `Machine::phase_id(&self)` | the phase a machine is in, as a value |
//! | `struct Edge`, `EDGES` | the edges as data: `name`, `from`, `to`, `fails` |
//! | `MERMAID` | the graph as a `stateDiagram-v2`, also in the documentation of the machine |
//! | `#[must_use]` | on the machine and on its edges, with a message |
//!
//! They have the visibility of the machine. The names `__sealed` and `__edges` are taken too.
//!
//! # What the compiler says
//!
//! An edge taken from a phase that it does not leave:
//!
//! ```text
//! error[E0277]: `Runner` cannot `stop` from phase `Booting`
//!    |
//! 22 |             self.stop().await;
//!    |                  ^^^^ `stop` leaves only `Running`
//!    |
//!    = note: edges out of Booting: boot → Running | BootFailure
//!    = note: edges out of Running: stop → Stopped
//!    = note: edges out of Stopped: none, it is terminal
//! ```
//!
//! A machine used after its transition is E0382, "use of moved value", which points at the edge that took it. A function that is
//! not an edge and belongs to another phase is E0599, which names the phases that have it.
//!
//! The first of these needs a method to exist in every phase, so phases that an edge does not leave get a hidden one with a bound that
//! nothing meets. Its one cost: `Runner::stop` as a path is ambiguous; write `Runner::<Running>::stop`, or call it as a method.
//!
//! # What expansion rejects
//!
//! - a phase that no path of edges reaches, a dead end that is not terminal, a cycle that no terminal phase can be reached from, an edge out of a terminal phase;
//! - an edge that does not take `self` by value, or whose return type is not the declared one (written out, without an alias);
//! - a public function that takes `self` and returns another phase without being declared an edge;
//! - an unknown phase, two edges of one name out of one phase, a generic phase, `#[cfg]` on the machine, a phase or an edge;
//! - no machine or two machines in the module, a machine with other than one parameter;
//! - `Drop` for the machine.
//!
//! The module is written inline, since a macro does not see into another file; a long body may well be a function elsewhere that the edge
//! calls. An edge has one target. Where a step can end in two phases, branch before it, and declare an edge for each.
//!
//! # `Drop` belongs on an inner guard
//!
//! An edge moves fields out of `self`, and a type with a `Drop` impl cannot be moved out of (E0509). It would also run in the
//! middle of every transition. So the machine cannot implement `Drop`, in this module or another; a field can: a guard
//! that is idempotent (`Option::take`), never blocks, and cleans up only what is still there.
//!
//! ```
//! struct Abort(Option<std::thread::JoinHandle<()>>);
//!
//! impl Drop for Abort {
//!     fn drop(&mut self) {
//!         if let Some(thread) = self.0.take() {
//!             thread.thread().unpark(); // asks, and does not wait
//!         }
//!     }
//! }
//! # drop(Abort(Some(std::thread::spawn(|| ()))));
//! ```
//!
//! # Where typestate ends
//!
//! A phase as a type says what *this process may do with a value it owns*. It ends at the RPC edge, and at everything that others change: a
//! peer's phase, a role that a coordination service grants and takes away, a session that expires. Those are runtime values:
//! publish a [`PhaseId`](#what-the-module-gains) or an enum of your own through a watch channel, and let the owner of the machine decide
//! which edge to take. An owner that holds "a machine in some phase" keeps an enum with one variant per phase, each holding its typed value.

mod args;
mod check;
mod diagram;
mod edges;
mod expand;
mod model;
mod parse;
mod syntax;

use proc_macro::TokenStream;

/// Turns a module into a machine: reads `#[machine(..)]`, `#[phase]` and `#[edge(..)]` in it, checks the graph they declare, and adds
/// the items of [the crate's documentation](crate#what-the-module-gains).
///
/// - `#[machine(initial = Phase, terminal = [Phase, ..])]` on the struct, whose only parameter is the phase;
/// - `#[phase]` on each phase, a struct or an enum;
/// - `#[edge(to = Phase)]` on a method that takes `self` and returns `Machine<Phase>`, or `#[edge(to = Phase, fails = Error)]`
///   on one that returns `Result<Machine<Phase>, Error>`, in an `impl Machine<Phase>` block of the module.
#[proc_macro_attribute]
pub fn typestate(args: TokenStream, item: TokenStream) -> TokenStream {
    expand::typestate(args.into(), item.into()).into()
}
