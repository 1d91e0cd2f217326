//! The JSON Schema of a policy file (draft 2020-12), for editors.
//!
//! It has keys, forms, words and defaults, and the meaning of each key; `check` finds
//! problems that only the whole policy shows (references, secrets).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::section::describe::{KeyText, Reference, SectionText, ValueShape};
use super::sections;

pub fn schema() -> Value {
    let mut reference = Reference::default();
    let keys = sections::describe(&mut reference);
    let mut definitions = Definitions::default();
    for (name, section) in &reference.sections {
        let value = definitions.section(section);
        definitions.0.insert((*name).to_owned(), value);
    }
    let text = "A policy file of Outrigger. All files of the directory are merged.".to_owned();
    let mut schema = definitions.section(&SectionText { text, keys });
    // Only one of the files has to give the version.
    if let Some(object) = schema.as_object_mut() {
        object.remove("required");
        object.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
        object.insert("title".into(), "Policy".into());
        object.insert("$defs".into(), definitions.0.into_iter().collect::<Map<_, _>>().into());
    }
    schema
}

#[derive(Default)]
struct Definitions(BTreeMap<String, Value>);

impl Definitions {
    fn section(&mut self, section: &SectionText) -> Value {
        let required: Vec<_> =
            section.keys.iter().filter(|key| key.required).map(|key| key.name).collect();
        let properties: Map<_, _> =
            section.keys.iter().map(|key| (key.name.to_owned(), self.key(key))).collect();
        let mut schema = json!({
            "description": section.text, "type": "object",
            "properties": properties, "additionalProperties": false,
        });
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        schema
    }

    fn key(&mut self, key: &KeyText) -> Value {
        let mut schema = self.shape(&key.shape);
        let mut text = key.text.clone();
        if let Some(limits) = &key.limits {
            text.push_str(&format!(" Allowed: {limits}."));
        }
        if let Some(default) = &key.default {
            text.push_str(&format!(" Default: {default}."));
        }
        if let Some(object) = schema.as_object_mut() {
            object.insert("description".into(), text.into());
        }
        schema
    }

    fn shape(&mut self, shape: &ValueShape) -> Value {
        match shape {
            ValueShape::Scalar(name, schema) if schema.as_object().is_some_and(|o| o.len() > 1) => {
                let name = name.replace(' ', "_");
                self.0.insert(name.clone(), schema.clone());
                json!({ "$ref": format!("#/$defs/{name}") })
            }
            ValueShape::Scalar(_, schema) => schema.clone(),
            ValueShape::Words(words) => json!({ "type": "string", "enum": words }),
            ValueShape::Described(words) => {
                let one = |(word, text): &(_, _)| json!({ "const": word, "description": text });
                json!({ "type": "string", "oneOf": words.iter().map(one).collect::<Vec<_>>() })
            }
            ValueShape::Section(name) => json!({ "$ref": format!("#/$defs/{name}") }),
            ValueShape::List(of) => json!({ "type": "array", "items": self.shape(of) }),
            ValueShape::Map(_, of) => {
                json!({ "type": "object", "additionalProperties": self.shape(of) })
            }
            ValueShape::OneOf(shapes) => {
                let shapes: Vec<_> = shapes.iter().map(|shape| self.shape(shape)).collect();
                json!({ "anyOf": shapes })
            }
            ValueShape::Any => json!({}),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_described_and_unknown_ones_are_rejected() {
        let schema = schema();
        let breaker = &schema["$defs"]["Breaker"];
        assert_eq!(breaker["additionalProperties"], Value::Bool(false));
        let text = &breaker["properties"]["recovery_timeout"]["description"];
        assert!(text.as_str().unwrap().ends_with("Allowed: from `1ms` to `1d`. Default: 5s."));
        assert_eq!(schema["$defs"]["Route"]["required"], json!(["name", "providers"]));
        let class = &schema["$defs"]["ClassifyRule"]["properties"]["as"]["oneOf"][4];
        assert_eq!(class["const"], "unsupported");
        assert!(class["description"].as_str().unwrap().contains("unknown model"), "{class}");
        let sections = schema["$defs"].as_object().unwrap().values();
        let keys = sections.filter_map(|section| section["properties"].as_object()).flatten();
        for (name, key) in keys {
            assert!(key["description"].as_str().is_some_and(|text| !text.is_empty()), "{name}");
        }
    }
}
