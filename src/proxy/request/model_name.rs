//! The `model` of a JSON body, found without parsing the whole body.
//!
//! The body is read only up to the key, so that a long prompt behind it costs nothing and a body
//! that has arrived in part can be read. If there is no such string, the body is not rewritten.

use std::ops::Range;

use crate::json::{scan, value};

/// The top-level `model` of a JSON body.
#[derive(Clone, Debug)]
pub struct ModelName {
    pub name: String,
    /// The position of its value, quotes included.
    pub at: Range<usize>,
}

impl ModelName {
    pub fn find(body: &[u8]) -> Option<ModelName> {
        let at = scan::string_member(body, "model")?;
        let name = value::text(body.get(at.clone())?)?.into_owned();
        Some(ModelName { name, at })
    }
}
