//! The store against faults: what was promised is there afterwards, and nothing else is.
