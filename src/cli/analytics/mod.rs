//! The commands that judge the last hour: `retry`, `balance` and `recommendations`.

mod balance;
mod recommendations;
mod retry;

pub use balance::run as balance;
pub use recommendations::run as recommendations;
pub use retry::run as retry;

use std::collections::BTreeMap;

use super::output::{NONE, decimal, duration};

/// The time that figures cover, as a sentence.
fn covered(seconds: u64) -> String {
    match seconds {
        0 => "no figures yet: they are taken every 10 seconds".to_owned(),
        seconds => format!("figures of the last {}", duration(seconds * 1000)),
    }
}

/// `12 %`.
fn share(share: Option<f64>) -> String {
    share.map_or_else(|| NONE.to_owned(), |share| format!("{} %", decimal(100.0 * share, 0)))
}

fn milliseconds(ms: Option<f64>) -> String {
    ms.map_or_else(|| NONE.to_owned(), |ms| format!("{}ms", decimal(ms, 0)))
}

/// `3 failure, 1 throttled`.
fn counts<'c>(all: impl Iterator<Item = (&'c str, u64)>) -> String {
    let all: Vec<_> = all.map(|(name, count)| format!("{count} {name}")).collect();
    if all.is_empty() { NONE.to_owned() } else { all.join(", ") }
}

/// `0.03 USD`.
fn cost(all: &BTreeMap<String, f64>) -> String {
    let all = all.iter().filter(|(_, cost)| **cost > 0.0);
    let all: Vec<_> = all.map(|(currency, cost)| format!("{} {currency}", amount(*cost))).collect();
    if all.is_empty() { NONE.to_owned() } else { all.join(", ") }
}

/// Two digits, and more for small amounts.
pub fn amount(cost: f64) -> String {
    decimal(cost, if cost.abs() < 0.1 { 4 } else { 2 })
}
