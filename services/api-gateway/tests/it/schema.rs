//! Schemas of the description: what they say, and whether an answer is as they say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use api_gateway::http::openapi;
use serde_json::Value;

/// The description of this gateway.
pub fn described() -> &'static Api {
    static DESCRIBED: LazyLock<Api> =
        LazyLock::new(|| Api(serde_json::from_str(&openapi::document().unwrap().json).unwrap()));
    &DESCRIBED
}

/// What limits a value.
pub const LIMITS: [&str; 8] =
    ["minimum", "maximum", "exclusiveMinimum", "minLength", "maxLength", "minItems", "maxItems", "pattern"];

/// A value without quotes and brackets.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join("|"),
        other => other.to_string(),
    }
}

/// A document.
pub struct Api(pub Value);

/// What a schema says, however it is written.
#[derive(Debug, Default)]
pub struct Shape {
    pub kinds: BTreeSet<String>,
    pub format: Value,
    pub words: BTreeSet<String>,
    pub limits: BTreeMap<String, Value>,
    pub fields: BTreeMap<String, Value>,
    pub required: BTreeSet<String>,
    pub items: Option<Value>,
}

impl Api {
    /// Every operation by its name: `GET /health`.
    pub fn operations(&self) -> BTreeMap<String, Value> {
        let mut operations = BTreeMap::new();
        for (path, item) in self.0["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                operations.insert(format!("{} {path}", method.to_uppercase()), operation.clone());
            }
        }
        operations
    }

    /// What a reference points at.
    pub fn resolved(&self, value: &Value) -> Value {
        match value["$ref"].as_str() {
            None => value.clone(),
            Some(reference) => {
                let pointer = reference.strip_prefix('#').unwrap();
                self.0.pointer(pointer).unwrap_or_else(|| panic!("{reference} points nowhere")).clone()
            }
        }
    }

    pub fn shape(&self, schema: &Value) -> Shape {
        let mut shape = Shape::default();
        self.add(schema, &mut shape);
        // Every number of JSON ends there.
        shape.limits.retain(|_, limit| limit.as_f64().is_none_or(|limit| limit.abs() < 9.0e15));
        shape
    }

    fn add(&self, schema: &Value, shape: &mut Shape) {
        if schema.get("$ref").is_some() {
            return self.add(&self.resolved(schema), shape);
        }
        for choice in ["allOf", "oneOf", "anyOf"] {
            schema[choice].as_array().into_iter().flatten().for_each(|part| self.add(part, shape));
        }
        match &schema["type"] {
            Value::String(kind) => shape.kinds.extend([kind.clone()]),
            Value::Array(kinds) => shape.kinds.extend(kinds.iter().map(plain)),
            _ => {}
        }
        match &schema["const"] {
            Value::Null => {}
            Value::Bool(_) => shape.kinds.extend(["boolean".to_owned()]),
            Value::Number(_) => shape.kinds.extend(["integer".to_owned()]),
            other => {
                shape.kinds.extend(["string".to_owned()]);
                shape.words.extend([plain(other)]);
            }
        }
        for word in schema["enum"].as_array().into_iter().flatten() {
            match word {
                Value::Null => shape.kinds.extend(["null".to_owned()]),
                word => shape.words.extend([plain(word)]),
            }
        }
        // Formats of numbers are a hint for compilers only.
        if let Some(format) =
            schema["format"].as_str().filter(|format| !matches!(*format, "int32" | "int64" | "double"))
        {
            shape.format = format.into();
        }
        for limit in LIMITS {
            if let Some(value) = schema.get(limit) {
                let value = value.as_f64().map_or_else(|| value.clone(), Value::from);
                shape.limits.insert(limit.to_owned(), value);
            }
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            shape.fields.insert(name.clone(), field.clone());
        }
        shape.required.extend(schema["required"].as_array().into_iter().flatten().map(plain));
        if let Some(items) = schema.get("items") {
            shape.items = Some(items.clone());
        }
    }
}

/// Every answer of every test is what the description says of it: a status that is named, of the media type that is
/// named, with the fields that are named and no others.
pub fn check_answer(method: &str, path: &str, status: u16, media_type: Option<&str>, text: &str) {
    static OPERATIONS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| described().operations());
    let Some((name, operation)) = OPERATIONS
        .iter()
        .filter(|(name, _)| name.split_once(' ').is_some_and(|(verb, pattern)| verb == method && fits(pattern, path)))
        // A name in the path wins over a parameter, as it does in the router.
        .min_by_key(|(name, _)| name.matches('{').count())
    else {
        return;
    };
    let answer = &operation["responses"][status.to_string()];
    assert!(!answer.is_null(), "{name} answers {status}, which its description does not name: {text}");
    let answer = described().resolved(answer);
    let Some(content) = answer["content"].as_object() else {
        assert_eq!(text, "", "{name} {status} has a body, which its description does not name");
        return;
    };
    let essence = |kind: &str| kind.split(';').next().unwrap_or_default().to_owned();
    let media_type = essence(media_type.unwrap_or_default());
    let found = content.iter().find(|(kind, _)| matches!(kind.as_str(), "*/*") || essence(kind) == media_type);
    let (_, content) = found.unwrap_or_else(|| panic!("{name} {status} is {media_type}, described as {content:?}"));
    if media_type == "application/json" {
        let body = serde_json::from_str(text).unwrap();
        if let Err(problem) = described().check(&body, &content["schema"], "") {
            panic!("{name} {status} is not what its description says: {problem}\n{text}");
        }
    }
}

/// Whether a path is of that pattern.
fn fits(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), path.split('/').collect());
    pattern.len() == path.len()
        && pattern.iter().zip(path).all(|(part, given)| *part == given || (part.starts_with('{') && !given.is_empty()))
}

impl Api {
    fn check(&self, value: &Value, schema: &Value, place: &str) -> Result<(), String> {
        let shape = self.shape(schema);
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.as_f64().is_some_and(|number| number.fract() == 0.0) => "integer",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let is_of = |kind: &str| shape.kinds.contains(kind);
        if !(shape.kinds.is_empty() || is_of(kind) || (kind == "integer" && is_of("number"))) {
            return Err(format!("{place} is {kind}, described as {:?}", shape.kinds));
        }
        if let (Value::String(text), false) = (value, shape.words.is_empty())
            && !shape.words.contains(text)
        {
            return Err(format!("{place} is {text}, described as one of {:?}", shape.words));
        }
        if let Value::String(text) = value {
            let fine = match shape.format.as_str() {
                Some("uuid") => uuid::Uuid::try_parse(text).is_ok(),
                Some("date-time") => chrono::DateTime::parse_from_rfc3339(text).is_ok(),
                Some("date") => text.parse::<chrono::NaiveDate>().is_ok(),
                _ => true,
            };
            if !fine {
                return Err(format!("{place} is {text}, described as {}", shape.format));
            }
        }
        if let Value::Object(parts) = value
            && !shape.fields.is_empty()
        {
            if let Some(name) = shape.required.iter().find(|name| !parts.contains_key(*name)) {
                return Err(format!("{place}.{name} is not there"));
            }
            for (name, part) in parts {
                let field = shape.fields.get(name).ok_or_else(|| format!("{place}.{name} is not described"))?;
                self.check(part, field, &format!("{place}.{name}"))?;
            }
        }
        if let (Value::Array(parts), Some(items)) = (value, &shape.items) {
            for (at, part) in parts.iter().enumerate() {
                self.check(part, items, &format!("{place}[{at}]"))?;
            }
        }
        Ok(())
    }
}
