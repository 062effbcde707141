//! Scenarios over the bytes.
