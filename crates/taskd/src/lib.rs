//! taskd
