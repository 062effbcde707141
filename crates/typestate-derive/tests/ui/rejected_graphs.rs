//! Graphs that expansion rejects.

use typestate_derive::typestate;

#[typestate]
mod lost {
    #[machine(initial = Open, terminal = [Closed])]
    pub struct Unreachable<P>(P);
    #[phase]
    pub struct Open;
    #[phase]
    pub struct Forgotten;
    #[phase]
    pub struct Closed;

    impl Unreachable<Open> {
        #[edge(to = Closed)]
        pub fn close(self) -> Unreachable<Closed> {
            Unreachable(Closed)
        }
    }
    impl Unreachable<Forgotten> {
        #[edge(to = Closed)]
        pub fn close(self) -> Unreachable<Closed> {
            Unreachable(Closed)
        }
    }
}

#[typestate]
mod stuck {
    #[machine(initial = Open, terminal = [Closed])]
    pub struct DeadEnd<P>(P);
    #[phase]
    pub struct Open;
    #[phase]
    pub struct Broken;
    #[phase]
    pub struct Spinning;
    #[phase]
    pub struct Closed;

    impl DeadEnd<Open> {
        #[edge(to = Closed)]
        pub fn close(self) -> DeadEnd<Closed> {
            DeadEnd(Closed)
        }
        #[edge(to = Broken)]
        pub fn smash(self) -> DeadEnd<Broken> {
            DeadEnd(Broken)
        }
        #[edge(to = Spinning)]
        pub fn spin(self) -> DeadEnd<Spinning> {
            DeadEnd(Spinning)
        }
    }
    impl DeadEnd<Spinning> {
        #[edge(to = Spinning)]
        pub fn spin(self) -> Self {
            self
        }
    }
}

#[typestate]
mod undead {
    #[machine(initial = Open, terminal = [Closed])]
    pub struct Revived<P>(P);
    #[phase]
    pub struct Open;
    #[phase]
    pub struct Closed;

    impl Revived<Open> {
        #[edge(to = Closed)]
        pub fn close(self) -> Revived<Closed> {
            Revived(Closed)
        }
    }
    impl Revived<Closed> {
        #[edge(to = Open)]
        pub fn reopen(self) -> Revived<Open> {
            Revived(Open)
        }
    }
}

#[typestate]
mod misspelt {
    #[machine(initial = Opne, terminal = [Closed, Shut])]
    pub struct Unknown<P>(P);
    #[phase]
    pub struct Open;
    #[phase]
    pub struct Closed;

    impl Unknown<Open> {
        #[edge(to = Ajar)]
        pub fn push(self) -> Unknown<Closed> {
            Unknown(Closed)
        }
    }
}

#[typestate]
mod twice {
    #[machine(initial = Open, terminal = [Closed])]
    pub struct Ambiguous<P>(P);
    #[phase]
    pub struct Open;
    #[phase]
    pub struct Closed;

    impl Ambiguous<Open> {
        #[edge(to = Closed)]
        pub fn close(self) -> Ambiguous<Closed> {
            Ambiguous(Closed)
        }
        #[edge(to = Closed)]
        pub fn close(self) -> Ambiguous<Closed> {
            Ambiguous(Closed)
        }
    }
}

#[typestate]
mod none {
    pub struct Plain;
}

#[typestate]
mod two {
    #[machine(initial = Open, terminal = [Open])]
    pub struct First<P>(P);
    #[machine(initial = Open, terminal = [Open])]
    pub struct Second<P>(P);
    #[phase]
    pub struct Open;
}

fn main() {}
