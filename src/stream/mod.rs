//! What an answer's bytes mean: events, content, ends, errors, usage; and how one answer goes on from another.
//! No I/O.
