use runner::{Booting, Runner};

fn serve(runner: &Runner<Booting>) {
    let _ = runner.handle().server();
}

fn main() {}
