//! Limits that the description names are those that requests are held to: at each limit a value passes, beyond it is
//! refused by name. Without a server: what a route takes is read as it reads it.

use actix_web::test::TestRequest;
use api_gateway::error::ApiError;
use api_gateway::features;
use api_gateway::http::endpoint::Route;
use api_gateway::http::input::Parts;
use chrono::Utc;
use serde_json::{Value, json};

use crate::schema::{Shape, described};

const ID: &str = "3f9f0c52-1f5e-4a55-9f0e-5d1b6f0a7c11";

/// A request that can be sent to a route.
#[derive(Clone)]
struct Request {
    query: Vec<(String, String)>,
    path: Vec<(String, String)>,
    body: Option<Value>,
}

impl Request {
    /// What is said of the value at that place: `body/points/0/latitude`.
    fn problems(&self, route: &Route, place: &str) -> Vec<String> {
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.query).finish();
        let mut request = TestRequest::default().uri(&format!("/?{query}"));
        for (name, value) in &self.path {
            request = request.param(name.clone(), value.clone());
        }
        if self.body.is_some() {
            request = request.insert_header(("content-type", "application/json"));
        }
        let body = self.body.as_ref().map(Value::to_string).unwrap_or_default();
        match (route.read)(&Parts::of(&request.to_http_request(), body.as_bytes(), Utc::now())) {
            Err(ApiError::Invalid(problems)) => {
                problems.into_iter().filter(|problem| problem.field == place).map(|problem| problem.message).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// A value that is as a schema says, as far as the schema says it.
fn sample(schema: &Value) -> Value {
    let shape = described().shape(schema);
    let is_of = |kind: &str| shape.kinds.contains(kind);
    let length = limit(&shape, "minLength").unwrap_or(1.0).max(3.0);
    if let Some(word) = shape.words.first() {
        return json!(word);
    }
    match shape.format.as_str() {
        Some("uuid") => return json!(ID),
        Some("date-time") => return json!("2026-03-10T08:00:00Z"),
        Some("date") => return json!("2026-03-10"),
        Some("email") => return json!("asha@people.example"),
        Some("uri") => return json!("https://hooks.example.com/fieldtrack"),
        _ => {}
    }
    if is_of("object") {
        let fields = shape.fields.iter().filter(|(name, _)| shape.required.contains(*name));
        return fields.map(|(name, field)| (name.clone(), sample(field))).collect();
    }
    if is_of("array") {
        let item = shape.items.as_ref().map(sample).unwrap_or_default();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
        return vec![item; limit(&shape, "minItems").unwrap_or(1.0) as usize].into();
    }
    if is_of("string") {
        return json!(text(length));
    }
    if is_of("boolean") {
        return json!(true);
    }
    number(limit(&shape, "minimum").unwrap_or(1.0).max(1.0))
}

fn limit(shape: &Shape, name: &str) -> Option<f64> {
    shape.limits.get(name)?.as_f64()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
fn text(length: f64) -> String {
    "x".repeat(length as usize)
}

/// A number as JSON writes it: whole ones without a fraction.
#[expect(clippy::cast_possible_truncation, reason = "whole and small")]
fn number(value: f64) -> Value {
    if value.fract() == 0.0 { json!(value as i64) } else { json!(value) }
}

/// A value within and one beyond each limit of a schema.
fn pairs(schema: &Value) -> Vec<(String, Value, Value)> {
    let shape = described().shape(schema);
    let good = sample(schema);
    let mut pairs: Vec<(String, Value, Value)> = Vec::new();
    let mut pair = |what: &str, within: Value, beyond: Value| pairs.push((what.to_owned(), within, beyond));
    if let Some(least) = limit(&shape, "minimum") {
        pair("minimum", number(least), number(least - 1.0));
    }
    if let Some(most) = limit(&shape, "maximum") {
        pair("maximum", number(most), number(most + 1.0));
    }
    if let Some(least) = limit(&shape, "exclusiveMinimum") {
        pair("exclusiveMinimum", number(least + 1.0), number(least));
    }
    // Text of a format has to be of that format at any length.
    if let Some(least) = limit(&shape, "minLength").filter(|_| shape.format.is_null()) {
        pair("minLength", json!(text(least)), json!(text(least - 1.0)));
    }
    if let Some(most) = limit(&shape, "maxLength").filter(|_| shape.format.is_null()) {
        pair("maxLength", json!(text(most)), json!(text(most + 1.0)));
    }
    if let Some(item) = &shape.items {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
        let list = |length: f64| Value::from(vec![sample(item); length as usize]);
        if let Some(least) = limit(&shape, "minItems") {
            pair("minItems", list(least), list(least - 1.0));
        }
        if let Some(most) = limit(&shape, "maxItems") {
            pair("maxItems", list(most), list(most + 1.0));
        }
    }
    for word in &shape.words {
        pair("words", json!(word), json!(format!("{word}x")));
    }
    if !shape.format.is_null() {
        pair("format", good.clone(), json!("x"));
    }
    if shape.kinds.contains("integer") {
        pair("whole", good.clone(), json!(1.5));
    }
    pairs
}

/// Every place within a body, with its schema: `/points/0/latitude`.
fn places(schema: &Value, place: &str, found: &mut Vec<(String, Value, bool)>) {
    let shape = described().shape(schema);
    for (name, field) in &shape.fields {
        let place = format!("{place}/{name}");
        found.push((place.clone(), field.clone(), shape.required.contains(name)));
        places(field, &place, found);
    }
    if let Some(items) = shape.items.as_ref().filter(|items| items.get("properties").is_some()) {
        places(items, &format!("{place}/0"), found);
    }
}

/// Puts a value at a place; `None` removes what is there.
fn put(body: &mut Value, place: &str, value: Option<Value>) {
    let (parent, name) = place.rsplit_once('/').unwrap();
    let parent = body.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Some(value) => parent.insert(name.to_owned(), value),
        None => parent.remove(name),
    };
}

/// Checks that what is wrong beyond the limit is not wrong within it.
fn check(route: &Route, what: &str, place: &str, within: &Request, beyond: &Request) {
    let (fine, refused) = (within.problems(route, place), beyond.problems(route, place));
    assert!(
        refused.iter().any(|problem| !fine.contains(problem)),
        "{} {}: {what} of {place} is described, and not what requests are held to: within {fine:?}, beyond {refused:?}",
        route.method,
        route.path,
    );
}

#[test]
fn every_limit_that_is_described_is_the_limit_that_requests_are_held_to() {
    let mut checked = 0;
    for route in features::table() {
        let operation = (route.operation)().described;
        let judged = operation["responses"]["400"]["$ref"] == "#/components/responses/Rejected";
        if !judged {
            continue;
        }
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let given = |place: &str| -> Vec<(String, String)> {
            let those = parameters.iter().filter(|one| one["in"] == place && one["required"] == true);
            those.map(|one| (text(&one["name"]), text(&sample(&one["schema"])))).collect()
        };
        let body = (!schema.is_null()).then(|| sample(schema));
        let good = Request { query: given("query"), path: given("path"), body };

        for parameter in &parameters {
            let (name, schema) = (text(&parameter["name"]), &parameter["schema"]);
            let in_path = parameter["in"] == "path";
            let place = format!("{}/{name}", if in_path { "params" } else { "querystring" });
            for (what, within, beyond) in pairs(schema) {
                let with = |value: &Value| {
                    let mut request = good.clone();
                    let list = if in_path { &mut request.path } else { &mut request.query };
                    list.retain(|(known, _)| *known != name);
                    list.push((name.clone(), text(value)));
                    request
                };
                check(&route, &what, &place, &with(&within), &with(&beyond));
                checked += 1;
            }
            if !in_path && parameter["required"] == true {
                let mut without = good.clone();
                without.query.retain(|(known, _)| *known != name);
                check(&route, "required", &place, &good, &without);
            }
        }
        let mut inside = Vec::new();
        places(schema, "", &mut inside);
        for (at, schema, required) in inside {
            let place = format!("body{at}");
            let with = |value: Option<Value>| {
                let mut request = good.clone();
                put(request.body.as_mut().unwrap(), &at, value);
                request
            };
            let fine = with(Some(sample(&schema)));
            for (what, within, beyond) in pairs(&schema) {
                check(&route, &what, &place, &with(Some(within)), &with(Some(beyond)));
                checked += 1;
            }
            let kinds = described().shape(&schema).kinds;
            let wrong = if kinds.contains("boolean") { json!(5) } else { json!(true) };
            check(&route, "type", &place, &fine, &with(Some(wrong)));
            let (missing, null) = (with(None), with(Some(Value::Null)));
            if required {
                check(&route, "required", &place, &fine, &missing);
            } else {
                assert_eq!(missing.problems(&route, &place), Vec::<String>::new(), "{} {place}", route.path);
            }
            if kinds.contains("null") {
                assert_eq!(null.problems(&route, &place), Vec::<String>::new(), "{} {place}", route.path);
            } else {
                check(&route, "null", &place, &fine, &null);
            }
            checked += 1;
        }
    }
    assert!(checked >= 40, "{checked}");
}
