//! What a change of policy will do, in words.

use super::Policy;

/// The differences, a sentence each; empty when both do the same.
pub fn changes(_before: &Policy, _after: &Policy) -> Vec<String> {
    Vec::new()
}
