//! The fenced, chained, compacted log of task states (D6).
