//! Tests of the state as a whole.
