//! Requests of a route with a cache: key, lookup, fetch, revalidation, invalidation.

pub mod fetch;
pub mod invalidate;
pub mod key;
pub mod lookup;
pub mod revalidate;
