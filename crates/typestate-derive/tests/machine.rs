//! What a user of the macro sees at run time: methods, data about the graph, futures that are `Send` when the body's is.

use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use runner::{EDGES, MERMAID, PhaseId, Runner};

/// A machine with every kind of edge.
#[typestate_derive::typestate]
pub mod runner {
    use super::BootFailure;

    /// Executes tasks.
    #[machine(initial = Booting, terminal = [Stopped])]
    #[derive(Debug)]
    pub struct Runner<P> {
        name: String,
        phase: P,
    }

    /// Being booted.
    #[phase]
    #[derive(Debug)]
    pub struct Booting;

    /// Executing.
    #[phase]
    #[derive(Debug)]
    pub struct Running {
        tasks: Vec<u32>,
    }

    /// Finishing what runs.
    #[phase]
    #[derive(Debug)]
    pub struct Draining(usize);

    /// Done.
    #[phase]
    #[derive(Debug)]
    pub struct Stopped {
        report: String,
    }

    impl Runner<Booting> {
        /// A runner that has started nothing.
        pub fn new(name: &str) -> Self {
            Self { name: name.to_owned(), phase: Booting }
        }

        /// Starts it.
        ///
        /// # Errors
        ///
        /// When there is no room.
        #[edge(to = Running, fails = BootFailure)]
        pub async fn boot<T: Into<u32>>(
            self,
            (first, second): (T, T),
            room: &mut usize,
        ) -> Result<Runner<Running>, BootFailure> {
            let Some(left) = room.checked_sub(2) else { return Err(BootFailure(*room)) };
            *room = left;
            Ok(Runner { name: self.name, phase: Running { tasks: vec![first.into(), second.into()] } })
        }
    }

    impl Runner<Running> {
        /// The tasks that run.
        pub fn tasks(&self) -> &[u32] {
            &self.phase.tasks
        }

        /// Takes one more.
        #[edge(to = Running)]
        pub fn accept(mut self, task: u32) -> Self {
            self.phase.tasks.push(task);
            self
        }

        /// Accepts nothing more.
        #[edge(to = Draining)]
        pub fn next(self) -> Runner<Draining> {
            Runner { name: self.name, phase: Draining(self.phase.tasks.len()) }
        }

        /// Drops what runs.
        #[edge(to = Stopped)]
        pub async fn stop(self, why: &str) -> Runner<Stopped> {
            let report = format!("{}: {} aborted, {why}", self.name, self.phase.tasks.len());
            Runner { name: self.name, phase: Stopped { report } }
        }
    }

    impl Runner<Draining> {
        /// Waits for the rest.
        #[edge(to = Stopped)]
        pub fn next(self) -> Runner<Stopped> {
            let report = format!("{}: {} finished", self.name, self.phase.0);
            Runner { name: self.name, phase: Stopped { report } }
        }

        /// Stops waiting.
        #[edge(to = Stopped)]
        pub async fn stop(self, why: &str) -> Runner<Stopped> {
            let report = format!("{}: {} abandoned, {why}", self.name, self.phase.0);
            Runner { name: self.name, phase: Stopped { report } }
        }
    }

    impl Runner<Stopped> {
        /// What happened.
        pub fn into_report(self) -> String {
            self.phase.report
        }
    }
}

/// A machine that is not `Send`, and one edge name with differing results.
#[typestate_derive::typestate]
mod local {
    use std::rc::Rc;

    #[machine(initial = Open, terminal = [Closed])]
    #[derive(Debug)]
    pub(crate) struct File<P> {
        pub(crate) content: Rc<String>,
        phase: P,
    }

    #[phase]
    #[derive(Debug)]
    pub(crate) struct Open;
    #[phase]
    #[derive(Debug)]
    pub(crate) struct Dirty;
    #[phase]
    #[derive(Debug)]
    pub(crate) struct Closed;

    impl File<Open> {
        pub(crate) fn new(content: Rc<String>) -> Self {
            Self { content, phase: Open }
        }

        #[edge(to = Dirty)]
        pub(crate) async fn write(self, text: &str) -> File<Dirty> {
            let content = Rc::new(format!("{}{text}", self.content));
            std::future::ready(()).await;
            File { content, phase: Dirty }
        }

        #[edge(to = Closed)]
        pub(crate) fn close(self) -> File<Closed> {
            File { content: self.content, phase: Closed }
        }
    }

    impl File<Dirty> {
        #[edge(to = Closed, fails = std::io::Error)]
        pub(crate) fn close(self) -> Result<File<Closed>, std::io::Error> {
            let Self { content, phase: Dirty } = self;
            if content.len() > 8 {
                Err(std::io::ErrorKind::FileTooLarge.into())
            } else {
                Ok(File { content, phase: Closed })
            }
        }
    }
}

/// Why a boot failed: the room that was left.
#[derive(Debug, PartialEq, Eq)]
pub struct BootFailure(usize);

/// Polls a future that never waits.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the future waits"),
    }
}

fn send<F: Future + Send>(future: F) -> F {
    future
}

#[test]
fn a_machine_walks_its_edges() {
    let mut room = 3;
    let booting = Runner::new("r1");
    assert_eq!(booting.phase_id(), PhaseId::Booting);
    let running = now(send(booting.boot((1_u8, 2), &mut room))).expect("there is room for two");
    assert_eq!((running.phase_id(), room), (PhaseId::Running, 1));
    let running = running.accept(3);
    assert_eq!(running.tasks(), [1, 2, 3]);
    let stopped = running.next().next();
    assert!(stopped.phase_id().is_terminal());
    assert_eq!(stopped.into_report(), "r1: 3 finished");

    let failure = now(Runner::new("r2").boot((1_u8, 2), &mut room)).map(|_| ()).unwrap_err();
    assert_eq!(failure, BootFailure(1));
}

#[test]
fn one_name_leaves_several_phases() {
    let running = || now(Runner::new("r").boot((1_u8, 2), &mut 2)).expect("there is room for two");
    assert_eq!(now(send(running().stop("test"))).into_report(), "r: 2 aborted, test");
    assert_eq!(now(send(running().next().stop("test"))).into_report(), "r: 2 abandoned, test");
}

#[test]
fn a_machine_may_be_local_and_results_may_differ() {
    let open = || local::File::new(Rc::new("1234".to_owned()));
    assert_eq!(*open().close().content, "1234");
    let closed = now(open().write("5678")).close().expect("eight bytes fit");
    assert_eq!(closed.phase_id(), local::PhaseId::Closed);
    assert!(now(open().write("56789")).close().is_err());
}

#[test]
fn the_graph_is_data() {
    let names: Vec<&str> = PhaseId::ALL.iter().map(|id| id.as_str()).collect();
    assert_eq!(names, ["Booting", "Running", "Draining", "Stopped"]);
    assert_eq!(format!("{:>9}", PhaseId::Running), "  Running");
    let edges: Vec<_> = EDGES.iter().map(|edge| (edge.name, edge.from, edge.to, edge.fails)).collect();
    use PhaseId::{Booting, Draining, Running, Stopped};
    assert_eq!(
        edges,
        [
            ("boot", Booting, Running, Some("BootFailure")),
            ("accept", Running, Running, None),
            ("next", Running, Draining, None),
            ("stop", Running, Stopped, None),
            ("next", Draining, Stopped, None),
            ("stop", Draining, Stopped, None),
        ]
    );
    assert_eq!(
        MERMAID,
        "stateDiagram-v2\n    [*] --> Booting\n    Booting --> Running : boot\n    Booting --> [*] : boot fails with BootFailure\n    \
         Running --> Running : accept\n    Running --> Draining : next\n    Running --> Stopped : stop\n    \
         Draining --> Stopped : next\n    Draining --> Stopped : stop\n    Stopped --> [*]\n"
    );
}
