//! Credentials in `Sec-WebSocket-Protocol`.
//!
//! The WebSocket API of browsers sets no header, so applications send a key as a sub-protocol:
//! `openai-insecure-api-key.sk-...`, `base64url.bearer.authorization.k8s.io.TOKEN` (Kubernetes), or
//! a token after the item `bearer` or `access_token`.

use super::{names, values};

/// A registered sub-protocol has no run of letters and digits as long as this.
const OPAQUE: usize = 20;

/// Removes the items that hold a credential, over all lines of one request.
#[derive(Debug, Default)]
pub struct SubProtocolFilter {
    /// The item before announced a credential.
    is_announced: bool,
}

impl SubProtocolFilter {
    /// The items of a line without those that hold a credential.
    pub fn harmless_items<'l>(&mut self, line: &'l [u8]) -> impl Iterator<Item = &'l [u8]> {
        let items = line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        items.filter(|item| !item.is_empty() && !self.removes(item))
    }

    fn removes(&mut self, item: &[u8]) -> bool {
        let names_one = announces(item) || names::is_credential_in_any_case(item);
        let removes = self.is_announced || names_one || is_opaque(item) || holds_key(item);
        self.is_announced = names_one && !self.is_announced && !item.contains(&b'.');
        removes
    }
}

fn announces(item: &[u8]) -> bool {
    let mut words = item.split(|byte| !byte.is_ascii_alphanumeric());
    words.any(|word| {
        [&b"bearer"[..], b"token", b"authorization"].iter().any(|w| w.eq_ignore_ascii_case(word))
    })
}

/// A long run that mixes letters and digits.
fn is_opaque(item: &[u8]) -> bool {
    item.split(|byte| !byte.is_ascii_alphanumeric()).any(|run| {
        run.len() >= OPAQUE
            && run.iter().any(u8::is_ascii_digit)
            && run.iter().any(u8::is_ascii_alphabetic)
    })
}

fn holds_key(item: &[u8]) -> bool {
    std::str::from_utf8(item).map_or(true, values::has_key_in_text)
}
