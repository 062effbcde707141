//! What the compiler refuses, and how it says so.

#[test]
fn transitions_that_do_not_exist_do_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}

#[test]
fn the_machine_is_the_documented_one() {
    let edges: Vec<_> =
        runner::EDGES.iter().map(|edge| (edge.name, edge.from.as_str(), edge.to.as_str())).collect();
    let expected = [
        ("boot", "Booting", "Running"),
        ("drain", "Running", "Draining"),
        ("stop", "Draining", "Stopped"),
        ("leave", "Draining", "Stopped"),
    ];
    assert_eq!(edges, expected);
}
