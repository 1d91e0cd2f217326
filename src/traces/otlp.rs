//! The parts of an OTLP request that spans need, in its JSON form: ids in hexadecimal, 64-bit
//! numbers as texts.

use std::fmt::Display;

use serde::Serialize;

/// The body of an export.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportRequest<'a> {
    resource_spans: [ResourceSpans<'a>; 1],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'a> {
    resource: SpanResource,
    scope_spans: [ScopeSpans<'a>; 1],
}

#[derive(Debug, Serialize)]
struct SpanResource {
    attributes: Attributes,
}

#[derive(Debug, Serialize)]
struct ScopeSpans<'a> {
    scope: SpanScope,
    spans: &'a [Span],
}

#[derive(Debug, Serialize)]
struct SpanScope {
    name: &'static str,
    version: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Span {
    pub trace_id: String,
    pub span_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_span_id: Option<String>,
    pub name: String,
    pub kind: SpanKind,
    pub start_time_unix_nano: String,
    pub end_time_unix_nano: String,
    pub attributes: Attributes,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<SpanStatus>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "u8")]
pub enum SpanKind {
    Server = 2,
    Client = 3,
    /// The run of a job: the request that enqueued it has ended.
    Consumer = 5,
}

/// The status of a span that failed.
#[derive(Debug, Serialize)]
pub struct SpanStatus {
    code: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// In the order in which they were added.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Attributes(Vec<Attribute>);

#[derive(Debug, Serialize)]
struct Attribute {
    key: &'static str,
    value: AttributeValue,
}

#[derive(Debug, Serialize)]
enum AttributeValue {
    #[serde(rename = "stringValue")]
    Text(String),
    #[serde(rename = "intValue")]
    Integer(String),
    #[serde(rename = "doubleValue")]
    Number(f64),
    #[serde(rename = "boolValue")]
    Flag(bool),
    #[serde(rename = "arrayValue")]
    List(AttributeList),
}

#[derive(Debug, Serialize)]
struct AttributeList {
    values: Vec<AttributeValue>,
}

impl<'a> ExportRequest<'a> {
    pub fn new(resource: Attributes, spans: &'a [Span]) -> ExportRequest<'a> {
        let scope = SpanScope { name: "outrigger", version: env!("CARGO_PKG_VERSION") };
        let resource = SpanResource { attributes: resource };
        let scope_spans = [ScopeSpans { scope, spans }];
        ExportRequest { resource_spans: [ResourceSpans { resource, scope_spans }] }
    }
}

impl From<SpanKind> for u8 {
    fn from(kind: SpanKind) -> u8 {
        kind as u8
    }
}

impl SpanStatus {
    pub fn error(message: Option<String>) -> SpanStatus {
        SpanStatus { code: 2, message }
    }
}

impl Attributes {
    pub fn text(&mut self, key: &'static str, value: impl Display) {
        self.add(key, AttributeValue::Text(value.to_string()));
    }

    /// Adds a text that may be absent.
    pub fn maybe(&mut self, key: &'static str, value: Option<impl Display>) {
        value.into_iter().for_each(|value| self.text(key, value));
    }

    pub fn integer(&mut self, key: &'static str, value: impl Into<u64>) {
        self.add(key, AttributeValue::Integer(value.into().to_string()));
    }

    pub fn number(&mut self, key: &'static str, value: f64) {
        self.add(key, AttributeValue::Number(value));
    }

    /// Adds a flag that is absent where it is false.
    pub fn flag(&mut self, key: &'static str, value: bool) {
        if value {
            self.add(key, AttributeValue::Flag(true));
        }
    }

    /// Adds a list that is absent where it is empty.
    pub fn list(&mut self, key: &'static str, values: Vec<String>) {
        if !values.is_empty() {
            let values = values.into_iter().map(AttributeValue::Text).collect();
            self.add(key, AttributeValue::List(AttributeList { values }));
        }
    }

    fn add(&mut self, key: &'static str, value: AttributeValue) {
        self.0.push(Attribute { key, value });
    }
}
