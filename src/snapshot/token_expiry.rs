//! When a token expires, if it says so.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// The claims of a JSON Web Token that matter here.
#[derive(Deserialize)]
struct TokenClaims {
    /// Unix time in seconds; may have a fraction.
    exp: f64,
}

/// The time at which a JSON Web Token expires (RFC 7519, 4.1.4). `None` for any other credential.
pub fn token_expiry(credential: &str) -> Option<SystemTime> {
    let token = credential.rsplit(' ').next()?;
    let mut parts = token.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    let TokenClaims { exp } = serde_json::from_slice(&claims).ok()?;
    UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(exp).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("Bearer {}.{}.c2ln", part(r#"{"alg":"RS256"}"#), part(claims))
    }

    #[test]
    fn a_json_web_token_states_when_it_expires_and_nothing_else_does() {
        let at = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        assert_eq!(token_expiry(&token(r#"{"iss":"x","exp":1900000000}"#)), at(1_900_000_000));
        assert_eq!(token_expiry(&token(r#"{"exp":12.0}"#)), at(12));
        for other in [
            token("{}"),
            token(r#"{"exp":-1}"#),
            token(r#"{"exp":1e300}"#),
            token(r#"{"exp":"soon"}"#),
            token("not JSON"),
            "Bearer sk-test".to_owned(),
            "Bearer a.b.c".to_owned(),
            String::new(),
        ] {
            assert_eq!(token_expiry(&other), None, "{other}");
        }
    }
}
