//! Reads the parameters of a query by the schema of its endpoint, so that every error states what was
//! found and what was expected.

use serde_json::{Map, Number, Value};

/// The characters of a value that an error shows.
const SHOWN: usize = 80;

/// The parameters as an object of the schema's type. A parameter of type `array` may be repeated.
///
/// # Errors
/// With what was found and expected: an unknown, repeated or missing parameter, or a wrong type.
pub fn read(schema: &Value, pairs: Vec<(String, String)>) -> Result<Map<String, Value>, String> {
    let mut found = Map::new();
    for (name, text) in pairs {
        let Some(property) = schema["properties"].get(&name) else {
            return Err(unknown(schema, &name));
        };
        if is_type(property, "array") {
            let list = found.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            list.as_array_mut().into_iter().for_each(|list| list.push(text.clone().into()));
            continue;
        }
        let value = value(property, &text)
            .map_err(|expected| format!("`{name}` is `{}` (expected {expected})", shown(&text)))?;
        if found.contains_key(&name) {
            return Err(format!("`{name}` is repeated (expected one)"));
        }
        found.insert(name, value);
    }
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    match required.into_iter().find(|name| !found.contains_key(*name)) {
        Some(missing) => Err(format!("`{missing}` is missing (expected {})", names(schema))),
        None => Ok(found),
    }
}

/// The names of all parameters.
pub fn names(schema: &Value) -> String {
    let properties = schema["properties"].as_object().into_iter().flatten();
    let names: Vec<_> = properties.map(|(name, _)| name.as_str()).collect();
    if names.is_empty() { "no parameters".to_owned() } else { names.join(", ") }
}

fn unknown(schema: &Value, name: &str) -> String {
    let known = schema["properties"].as_object().into_iter().flatten();
    let distance = |known: &str| strsim::damerau_levenshtein(known, name);
    let near = known.map(|(known, _)| known).filter(|known| distance(known) <= 2);
    let near = near.min_by_key(|known| distance(known));
    let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    format!("unknown parameter `{}` (expected {}{near})", shown(name), names(schema))
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SHOWN).collect()
}

fn is_type(schema: &Value, name: &str) -> bool {
    match &schema["type"] {
        Value::Array(any) => any.iter().any(|one| one == name),
        one => one == name,
    }
}

/// The value of the text, or what was expected.
fn value(schema: &Value, text: &str) -> Result<Value, String> {
    if is_type(schema, "boolean") {
        let value = text.parse::<bool>().map(Value::Bool);
        return value.map_err(|_| "true or false".to_owned());
    }
    if is_type(schema, "integer") {
        return integer(schema, text);
    }
    if is_type(schema, "number") {
        let number = text.parse().ok().and_then(Number::from_f64);
        return number.map(Value::Number).ok_or_else(|| "a number".to_owned());
    }
    let words = schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let words: Vec<_> = words.collect();
    if words.is_empty() || words.contains(&text) {
        return Ok(text.into());
    }
    Err(format!("one of {}", words.join(", ")))
}

fn integer(schema: &Value, text: &str) -> Result<Value, String> {
    let (least, most) = (schema["minimum"].as_i64(), schema["maximum"].as_u64());
    let expected = || match (least, most) {
        (Some(least), Some(most)) => format!("a whole number from {least} to {most}"),
        (Some(least), None) => format!("a whole number, at least {least}"),
        _ => "a whole number".to_owned(),
    };
    let number: i64 = text.parse().map_err(|_| expected())?;
    let is_low = least.is_some_and(|least| number < least);
    let is_high = most.is_some_and(|most| u64::try_from(number).is_ok_and(|it| it > most));
    if is_low || is_high { Err(expected()) } else { Ok(number.into()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Value, String> {
        let schema = json!({
            "properties": {
                "filter": { "type": "string" },
                "limit": { "type": ["integer", "null"], "minimum": 0 },
                "step": { "type": "integer", "minimum": 1, "maximum": 9 },
                "where": { "type": "array", "items": { "type": "string" } },
                "all": { "type": "boolean" },
                "by": { "type": "string", "enum": ["a", "b"] },
            },
            "required": ["filter"],
        });
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        read(&schema, pairs.iter().map(owned).collect()).map(Value::Object)
    }

    #[test]
    fn parameters_have_the_types_of_the_schema() {
        let pairs =
            [("filter", "7"), ("limit", "7"), ("where", "a"), ("where", "b"), ("all", "true")];
        let expected = json!({ "filter": "7", "limit": 7, "where": ["a", "b"], "all": true });
        assert_eq!(parse(&pairs), Ok(expected));
    }

    #[test]
    fn an_error_states_what_was_found_and_expected() {
        for (pairs, expected) in [
            (&[("fliter", "x")][..], "unknown parameter `fliter` (expected filter, limit, "),
            (&[("fliter", "x")], "; did you mean `filter`?)"),
            (&[("limit", "x")], "`limit` is `x` (expected a whole number, at least 0)"),
            (&[("limit", "-1")], "`limit` is `-1` (expected a whole number, at least 0)"),
            (&[("step", "10")], "`step` is `10` (expected a whole number from 1 to 9)"),
            (&[("all", "yes")], "`all` is `yes` (expected true or false)"),
            (&[("by", "c")], "`by` is `c` (expected one of a, b)"),
            (&[("limit", "1"), ("limit", "2")], "`limit` is repeated (expected one)"),
            (&[("limit", "1")], "`filter` is missing (expected filter, limit, "),
        ] {
            let error = parse(pairs).expect_err("an error");
            assert!(error.contains(expected), "{error}");
        }
    }
}
