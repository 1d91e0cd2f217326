//! The time after which the client gives up, as its SDK or RPC library states it in a header.
//!
//! A response that comes later helps no one, so this time becomes the request's deadline, and a
//! silent provider leaves time for the next one. The OpenAI and Anthropic SDKs send seconds,
//! gRPC an integer with a unit (`grpc-timeout`). A header whose name ends in `-ms` has
//! milliseconds. The headers are the client's own, so a value that cannot be read is ignored.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

use crate::policy::yaml::units;

const GRPC_TIMEOUT: &str = "grpc-timeout";
/// A longer time is no limit.
const LONGEST: f64 = 30.0 * 86_400.0;
/// The response must reach the client before its time is over: a twentieth of it is left, at most
/// this much.
const LONGEST_MARGIN: Duration = Duration::from_millis(500);

/// The shortest time in these headers, less the margin.
pub fn client_timeout(names: &[HeaderName], headers: &HeaderMap) -> Option<Duration> {
    let stated = headers.iter().filter(|(name, _)| names.contains(name));
    let times =
        stated.filter_map(|(name, value)| parse(name.as_str(), value.to_str().ok()?.trim()));
    times.min().map(|time| time - (time / 20).min(LONGEST_MARGIN))
}

fn parse(name: &str, value: &str) -> Option<Duration> {
    if name == GRPC_TIMEOUT {
        return grpc_timeout(value);
    }
    if !value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return units::duration(value).ok().filter(|time| !time.is_zero());
    }
    let number: f64 = value.parse().ok()?;
    seconds(if name.ends_with("-ms") { number / 1000.0 } else { number })
}

/// `TimeoutValue TimeoutUnit` of gRPC over HTTP/2: at most eight digits, and H, M, S, m, u or n.
fn grpc_timeout(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let valid = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let number = digits.parse::<f64>().ok().filter(|_| valid)?;
    let scale = match unit {
        "H" => 3600.0,
        "M" => 60.0,
        "S" => 1.0,
        "m" => 1e-3,
        "u" => 1e-6,
        "n" => 1e-9,
        _ => return None,
    };
    seconds(number * scale)
}

fn seconds(seconds: f64) -> Option<Duration> {
    let valid = seconds > 0.0 && seconds <= LONGEST;
    Duration::try_from_secs_f64(seconds).ok().filter(|time| valid && !time.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Option<Duration> {
        Some(Duration::from_millis(ms))
    }

    #[test]
    fn each_form_is_read() {
        for (name, value, expected) in [
            ("x-stainless-read-timeout", "600", ms(600_000)),
            ("x-stainless-read-timeout", "2.5", ms(2500)),
            ("x-stainless-timeout", "60", ms(60_000)),
            ("x-request-timeout", "1500ms", ms(1500)),
            ("x-request-timeout", "1m", ms(60_000)),
            ("x-timeout-ms", "1500", ms(1500)),
            ("grpc-timeout", "1500m", ms(1500)),
            ("grpc-timeout", "2S", ms(2000)),
            ("grpc-timeout", "1H", ms(3_600_000)),
        ] {
            assert_eq!(parse(name, value), expected, "{name}: {value}");
        }
    }

    #[test]
    fn a_value_that_is_no_time_is_ignored() {
        for value in ["", "0", "0s", "-5", "none", "NaN", "1e9", "None", "99999999999", "1.2.3"] {
            assert_eq!(parse("x-stainless-timeout", value), None, "{value}");
        }
        for value in ["", "S", "5", "123456789S", "5x", "1.5S", "0S", "5é"] {
            assert_eq!(parse("grpc-timeout", value), None, "{value}");
        }
    }

    #[test]
    fn the_shortest_counts_and_leaves_a_margin() {
        let names = ["a", "b", "c"].map(HeaderName::from_static);
        let mut headers = HeaderMap::new();
        assert_eq!(client_timeout(&names, &headers), None);
        headers.insert("a", http::HeaderValue::from_static("100"));
        assert_eq!(client_timeout(&names, &headers), ms(99_500));
        headers.insert("c", http::HeaderValue::from_static("2"));
        assert_eq!(client_timeout(&names, &headers), ms(1900));
        assert_eq!(client_timeout(&names[..2], &headers), ms(99_500));
    }
}
