//! Values that look like a credential, whatever their name is.

/// Authentication schemes; a single token follows the scheme, or a list of parameters.
const SCHEMES: [&str; 26] = [
    "apikey",
    "api-key",
    "aws",
    "aws4-ecdsa-p256-sha256",
    "aws4-hmac-sha256",
    "basic",
    "bearer",
    "digest",
    "dpop",
    "geniekey",
    "goog4-hmac-sha256",
    "goog4-rsa-sha256",
    "hawk",
    "hmac-sha256",
    "jwt",
    "mac",
    "negotiate",
    "ntlm",
    "oauth",
    "sharedaccesssignature",
    "sharedkey",
    "signature",
    "splunk",
    "ssws",
    "token",
    "vapid",
];

/// How the keys of well-known providers begin.
const KEY_PREFIXES: [&str; 42] = [
    "AIza",
    "AKIA",
    "ASIA",
    "EAAC",
    "GOCSPX-",
    "SG.",
    "dapi",
    "dop_v1_",
    "dp.pt.",
    "figd_",
    "ghp_",
    "gho_",
    "ghr_",
    "ghs_",
    "ghu_",
    "github_pat_",
    "glcbt-",
    "glpat-",
    "gsk_",
    "hf_",
    "hvs.",
    "lin_api_",
    "npm_",
    "ntn_",
    "nvapi-",
    "pplx-",
    "pypi-",
    "r8_",
    "rk_live_",
    "rk_test_",
    "shpat_",
    "sk-",
    "sk_",
    "sq0csp-",
    "xai-",
    "xapp-",
    "xoxa-",
    "xoxb-",
    "xoxp-",
    "xoxs-",
    "ya29.",
    "AGE-SECRET-KEY-",
];

/// The first bytes of all prefixes.
const FIRST_BYTES: [bool; 256] = {
    let mut found = [false; 256];
    let mut at = 0;
    while at < KEY_PREFIXES.len() {
        found[KEY_PREFIXES[at].as_bytes()[0] as usize] = true;
        at += 1;
    }
    found
};

/// A key has at least this many characters after its prefix.
const SHORTEST_KEY: usize = 8;

/// Whether a value is a credential: a scheme with a token or parameters, a key with a well-known
/// prefix, or a JSON web token (RFC 7519).
pub fn is_credential(value: &[u8]) -> bool {
    let value = value.trim_ascii();
    value.len() > SHORTEST_KEY && (has_scheme(value) || is_key(value) || is_web_token(value))
}

fn has_scheme(value: &[u8]) -> bool {
    let Some(end) = value.iter().take(24).position(|byte| *byte == b' ') else { return false };
    let (scheme, rest) = (&value[..end], value[end..].trim_ascii());
    let is_one = SCHEMES.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(scheme));
    is_one && (rest.contains(&b'=') || scheme.eq_ignore_ascii_case(b"bearer") || is_token(rest))
}

/// One word that is not plain English: `Token Counter` is the title of a program.
fn is_token(text: &[u8]) -> bool {
    !text.contains(&b' ') && text.iter().skip(1).any(|byte| !byte.is_ascii_lowercase())
}

fn is_key(value: &[u8]) -> bool {
    if !value.first().is_some_and(|first| FIRST_BYTES[usize::from(*first)]) {
        return false;
    }
    let rest = KEY_PREFIXES.iter().find_map(|prefix| value.strip_prefix(prefix.as_bytes()));
    rest.is_some_and(|rest| token_length(rest) >= SHORTEST_KEY)
}

/// `eyJ` is `{"` in base64.
fn is_web_token(value: &[u8]) -> bool {
    let Some(rest) = value.strip_prefix(b"eyJ") else { return false };
    let length = token_length(rest);
    length >= SHORTEST_KEY && rest.get(length) == Some(&b'.')
}

fn token_length(value: &[u8]) -> usize {
    let of_token = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    value.iter().take_while(|byte| of_token(byte)).count()
}

/// Whether a text holds the start of a key, or a scheme with a token, anywhere. It errs on the side
/// of yes, because it decides what is shown.
pub fn has_key_in_text(text: &str) -> bool {
    let begins_word = |at: usize| !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
    let has = |prefix: &str| text.match_indices(prefix).any(|(at, _)| begins_word(at));
    text.len() > SHORTEST_KEY
        && (KEY_PREFIXES.iter().any(|prefix| has(prefix))
            || ["eyJ", "Bearer ", "Basic "].iter().any(|prefix| has(prefix)))
}
