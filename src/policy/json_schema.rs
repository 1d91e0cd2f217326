//! The JSON Schema of a policy file (draft 2020-12), for editors.
//!
//! It knows keys, forms and words, and says what each key means; what only the whole policy can
//! tell (references, bounds, secrets) is left to `check`.

use serde_json::Value;

use super::sections::raw::RawFile;

pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(RawFile).to_value();
    without_null(&mut schema);
    schema
}

/// A key that may be left out is not one that may be empty, though both are an `Option`.
fn without_null(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    object.insert("type".into(), only);
                }
            }
            if let Some(Value::Array(any)) = object.get_mut("anyOf") {
                any.retain(|one| one.get("type").is_none_or(|name| name != "null"));
                if let [Value::Object(only)] = any.as_slice() {
                    let only = only.clone();
                    object.remove("anyOf");
                    object.extend(only);
                }
            }
            object.values_mut().for_each(without_null);
        }
        Value::Array(items) => items.iter_mut().for_each(without_null),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_described_and_unknown_ones_are_refused() {
        let schema = schema();
        let breaker = &schema["$defs"]["Breaker"];
        assert_eq!(breaker["additionalProperties"], Value::Bool(false));
        assert!(
            breaker["properties"]["recovery_timeout"]["description"]
                .as_str()
                .unwrap()
                .contains("5s")
        );
        assert_eq!(schema["$defs"]["Route"]["required"], serde_json::json!(["name", "providers"]));
        assert!(!schema.to_string().contains("\"null\""));
    }
}
