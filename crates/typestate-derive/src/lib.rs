//! typestate-derive
