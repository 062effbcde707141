//! The incident: boot stops its own owner.

#[typestate_derive::typestate]
mod phase {
    #[machine(initial = Booting, terminal = [Stopped])]
    pub struct Runner<P> {
        phase: P,
    }

    #[phase]
    pub struct Booting;
    #[phase]
    pub struct Running;
    #[phase]
    pub struct Stopped;

    pub struct BootFailure;

    impl Runner<Booting> {
        #[edge(to = Running, fails = BootFailure)]
        pub async fn boot(self) -> Result<Runner<Running>, BootFailure> {
            self.stop().await;
            Err(BootFailure)
        }
    }

    impl Runner<Running> {
        #[edge(to = Stopped)]
        pub async fn stop(self) -> Runner<Stopped> {
            Runner { phase: Stopped }
        }
    }
}

fn main() {}
