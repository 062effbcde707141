//! What must not compile, and what the compiler then says. `TRYBUILD=overwrite` rewrites the expectations.

#[test]
fn misuse_is_explained() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
