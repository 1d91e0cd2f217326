//! JSON Pointer (RFC 6901): the path to a value inside a JSON document.
//!
//! A pointer is parsed once, when the policy is loaded, so that a request only walks its tokens.
//! Inside a token `~1` stands for `/` and `~0` for `~`. The empty pointer is the whole document.

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pointer {
    tokens: Vec<String>,
}

impl Pointer {
    /// # Errors
    /// A message for the policy's author.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self { tokens: Vec::new() });
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err(format!(
                "`{text}` is not a JSON pointer: expected a `/` first, like `/{text}`"
            ));
        };
        let tokens =
            rest.split('/').map(|token| unescape(token, text)).collect::<Result<_, _>>()?;
        Ok(Self { tokens })
    }

    /// The path from the outside in. A number may be an index or a key, depending on the document.
    pub fn tokens(&self) -> &[String] {
        &self.tokens
    }

    /// Whether it points to the whole document.
    pub fn is_root(&self) -> bool {
        self.tokens.is_empty()
    }
}

fn unescape(token: &str, whole: &str) -> Result<String, String> {
    let mut out = String::with_capacity(token.len());
    let mut chars = token.chars();
    while let Some(c) = chars.next() {
        match (c, c == '~').1.then(|| chars.next()) {
            None => out.push(c),
            Some(Some('0')) => out.push('~'),
            Some(Some('1')) => out.push('/'),
            Some(_) => {
                return Err(format!(
                    "`{whole}` is not a JSON pointer: write `~` as `~0`, and `/` inside a key as `~1`"
                ));
            }
        }
    }
    Ok(out)
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for token in &self.tokens {
            write!(f, "/{}", token.replace('~', "~0").replace('/', "~1"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_the_rfc_have_their_tokens() {
        let tokens = |text: &str| Pointer::parse(text).unwrap().tokens().to_vec();
        assert_eq!(tokens(""), Vec::<String>::new());
        assert_eq!(tokens("/foo/0"), ["foo", "0"]);
        assert_eq!(tokens("/"), [""]);
        assert_eq!(tokens("/a~1b"), ["a/b"]);
        assert_eq!(tokens("/m~0n"), ["m~n"]);
        assert_eq!(tokens("/~01"), ["~1"]);
    }

    #[test]
    fn an_invalid_pointer_is_rejected_with_the_way_to_write_it() {
        assert!(Pointer::parse("model").unwrap_err().contains("like `/model`"));
        assert!(Pointer::parse("/a~2").is_err());
        assert!(Pointer::parse("/a~").is_err());
    }

    proptest! {
        #[test]
        fn a_pointer_is_displayed_as_it_was_written(text in "(/[a-z~/ 0-9]{0,4}){0,4}") {
            if let Ok(pointer) = Pointer::parse(&text) {
                prop_assert_eq!(pointer.to_string(), text);
            }
        }
    }
}
