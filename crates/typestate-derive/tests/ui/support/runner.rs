//! The machine that the cases beside this directory misuse.

#[typestate_derive::typestate]
pub mod phase {
    #[machine(initial = Booting, terminal = [Stopped])]
    pub struct Runner<P> {
        phase: P,
    }

    #[phase]
    pub struct Booting;
    #[phase]
    pub struct Running {
        tasks: Vec<String>,
    }
    #[phase]
    pub struct Draining;
    #[phase]
    pub struct Stopped;

    pub struct BootFailure;
    pub struct Deadline;

    impl Runner<Booting> {
        pub fn new() -> Self {
            Self { phase: Booting }
        }

        #[edge(to = Running, fails = BootFailure)]
        pub async fn boot(self) -> Result<Runner<Running>, BootFailure> {
            Ok(Runner { phase: Running { tasks: Vec::new() } })
        }
    }

    impl Runner<Running> {
        pub fn submit(&mut self, task: &str) {
            self.phase.tasks.push(task.to_owned());
        }

        #[edge(to = Draining)]
        pub fn drain(self, _deadline: Deadline) -> Runner<Draining> {
            Runner { phase: Draining }
        }

        #[edge(to = Stopped)]
        pub async fn stop(self) -> Runner<Stopped> {
            Runner { phase: Stopped }
        }
    }

    impl Runner<Draining> {
        #[edge(to = Stopped)]
        pub async fn stop(self) -> Runner<Stopped> {
            Runner { phase: Stopped }
        }
    }
}
