//! It runs, and says what it is there to say.

use std::process::Command;

#[test]
fn it_greets_and_ends() {
    let run = Command::new(env!("CARGO_BIN_EXE_hello-tasks")).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{out}{err}");
    assert!(out.ends_with("it has succeeded\nHello world, from attempt 1 on n1!\n"), "{out}");
}
