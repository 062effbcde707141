//! Edges that expansion rejects.

#[typestate_derive::typestate]
mod phase {
    #[machine(initial = Open, terminal = [Closed])]
    pub struct File<P> {
        phase: P,
    }
    #[phase]
    pub struct Open;
    #[phase]
    pub struct Closed;

    pub struct Full;

    impl File<Open> {
        #[edge(to = Closed)]
        pub fn by_mut(&mut self) -> File<Closed> {
            File { phase: Closed }
        }
        #[edge(to = Closed)]
        pub fn by_ref(&self) -> File<Closed> {
            File { phase: Closed }
        }
        #[edge(to = Closed)]
        pub fn from_nothing() -> File<Closed> {
            File { phase: Closed }
        }
        #[edge(to = Closed)]
        pub fn to_elsewhere(self) -> File<Open> {
            self
        }
        #[edge(to = Closed)]
        pub fn to_nowhere(self) {}
        #[edge(to = Closed)]
        pub fn failing_silently(self) -> Result<File<Closed>, Full> {
            Err(Full)
        }
        #[edge(to = Closed, fails = Full)]
        pub fn never_failing(self) -> File<Closed> {
            File { phase: Closed }
        }
        #[edge(to = Closed, fails = Full)]
        pub fn failing_otherwise(self) -> Result<File<Closed>, String> {
            Err(String::new())
        }
        #[edge(to = [Open, Closed])]
        pub fn either(self) -> File<Closed> {
            File { phase: Closed }
        }
        pub fn undeclared(self) -> File<Closed> {
            File { phase: Closed }
        }
    }

    #[cfg(unix)]
    impl File<Open> {
        #[edge(to = Closed)]
        pub fn sometimes(self) -> File<Closed> {
            File { phase: Closed }
        }
    }

    impl<P> File<P> {
        #[edge(to = Closed)]
        pub fn from_anywhere(self) -> File<Closed> {
            File { phase: Closed }
        }
    }

    impl<P> Drop for File<P> {
        fn drop(&mut self) {}
    }
}

fn main() {}
