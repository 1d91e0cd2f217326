//! Estimate of the tokens of a request body, before its response states them.
//!
//! Text counts a quarter of its bytes. Images, audio and documents stand in JSON as long runs of
//! base64, which cost far fewer tokens than their bytes; each counts as one part. Text has no such
//! run, because it has spaces, so looking at every 512th byte finds them all.

/// A rough average over languages and encodings; the provider's quota corrects it with the usage
/// that responses report.
const BYTES_PER_TOKEN: f64 = 4.0;
/// A shorter run of base64 counts as text.
const SHORTEST_RUN: usize = 1024;
const STEP: usize = SHORTEST_RUN / 2;
/// The tokens of one image, recording or document.
const PART_TOKENS: f64 = 1000.0;

/// The tokens of a body, at least 1.
pub fn estimate_tokens(body: &[u8]) -> f64 {
    let (mut parts, mut text, mut at) = (0, body.len(), STEP);
    while at < body.len() {
        let (start, end) = base64_run(body, at);
        if end - start >= SHORTEST_RUN {
            parts += 1;
            text -= end - start;
        }
        at = at.max(end) + STEP;
    }
    (text as f64 / BYTES_PER_TOKEN + f64::from(parts) * PART_TOKENS).max(1.0)
}

/// The tokens of a body of which only the length is known.
pub fn tokens_of_length(bytes: u64) -> f64 {
    (bytes as f64 / BYTES_PER_TOKEN).max(1.0)
}

/// The run of base64 around a byte; empty if the byte is in none.
fn base64_run(body: &[u8], at: usize) -> (usize, usize) {
    let is_base64 = |byte: &&u8| {
        byte.is_ascii_alphanumeric() || matches!(**byte, b'+' | b'/' | b'=' | b'-' | b'_')
    };
    let before = body[..at].iter().rev().take_while(is_base64).count();
    let after = body[at..].iter().take_while(is_base64).count();
    if after == 0 { (at, at) } else { (at - before, at + after) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_counts_a_quarter_of_its_bytes() {
        let text = "The quick brown fox. ".repeat(2000);
        assert_eq!(estimate_tokens(text.as_bytes()), text.len() as f64 / 4.0);
        assert_eq!(estimate_tokens(b""), 1.0);
    }

    #[test]
    fn an_image_in_base64_counts_as_one_part() {
        let image = "iVBORw0KGgo+/".repeat(60_000);
        let body = format!(r#"{{"text":"describe this","url":"data:image/png;base64,{image}"}}"#);
        let tokens = estimate_tokens(body.as_bytes());
        assert!((1000.0..1100.0).contains(&tokens), "{tokens}");
        let two = format!(r#"[{{"data":"{image}"}},{{"data":"{image}"}}]"#);
        assert!((2000.0..2100.0).contains(&estimate_tokens(two.as_bytes())));
    }

    proptest! {
        #[test]
        fn a_run_is_found_wherever_it_stands(
            before in 0usize..3000, length in SHORTEST_RUN..5000, after in 0usize..3000,
        ) {
            let body = format!("{}\"{}\"{}", " ".repeat(before), "A".repeat(length), " ".repeat(after));
            let expected = (before + after + 2) as f64 / 4.0 + PART_TOKENS;
            prop_assert_eq!(estimate_tokens(body.as_bytes()), expected);
        }

        #[test]
        fn any_body_has_an_estimate(body in prop::collection::vec(any::<u8>(), 0..5000)) {
            prop_assert!(estimate_tokens(&body) >= 1.0);
        }
    }
}
