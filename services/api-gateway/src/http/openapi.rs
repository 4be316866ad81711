//! The API's description, made of the routes themselves.
//!
//! A use case says in [`About`] what only it can know: its name, and what it answers. The rest is derived, once for
//! all: what it takes, from its [`Input`](super::input::Input) and the rules there; who may ask and how they are
//! refused, from its [`Access`] and [`Budget`]; what answers look like, from the types that are written as JSON.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use domain::page::Pagination;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

use super::caller::{Access, KeyAccess};
use super::endpoint::{Endpoint, Route};
use super::input::{self, Input, Taken};
use super::limits::{Budget, DEFAULT_LIMIT, DEFAULT_WINDOW_S};
use super::reply::{RateLimited, Refusal};

/// What a use case says of itself.
#[derive(Debug)]
pub struct About {
    tag: &'static str,
    id: &'static str,
    summary: &'static str,
    note: Option<&'static str>,
    deprecated: bool,
    credentials: Option<Value>,
    meanings: Vec<(&'static str, &'static str)>,
    taken: Taken,
    answers: BTreeMap<u16, Value>,
    types: Types,
}

/// Types that descriptions mention, by name.
type Types = Vec<(String, Value)>;

impl About {
    /// `tag` and `id` are the contract's, for whatever the contract knows; `summary` is one line.
    #[must_use]
    pub fn new(tag: &'static str, id: &'static str, summary: &'static str) -> Self {
        Self {
            tag,
            id,
            summary,
            note: None,
            deprecated: false,
            credentials: None,
            meanings: Vec::new(),
            taken: Taken::default(),
            answers: BTreeMap::new(),
            types: Vec::new(),
        }
    }

    /// What else a caller should know.
    #[must_use]
    pub const fn note(mut self, note: &'static str) -> Self {
        self.note = Some(note);
        self
    }

    /// What a parameter or a field of the body means, where its name does not say it.
    #[must_use]
    pub fn means(mut self, name: &'static str, meaning: &'static str) -> Self {
        self.meanings.push((name, meaning));
        self
    }

    /// Nobody should use it any more.
    #[must_use]
    pub const fn deprecated(mut self) -> Self {
        self.deprecated = true;
        self
    }

    /// Is opened by one of these credentials, whatever its [`Access`] says; an empty name stands for none at all.
    #[must_use]
    pub fn opened_by(mut self, credentials: &[&str]) -> Self {
        let one = |name: &&str| if name.is_empty() { json!({}) } else { json!({ *name: [] }) };
        self.credentials = Some(credentials.iter().map(one).collect());
        self
    }

    /// Answers 200 with `data` in the envelope, as [`reply::ok`](super::reply::ok) writes it.
    #[must_use]
    pub fn ok<T: ToSchema>(self) -> Self {
        self.enveloped(200, "What was asked for.", |types| types.of::<T>())
    }

    /// Answers 200 with a list in the envelope.
    #[must_use]
    pub fn list<T: ToSchema>(self) -> Self {
        self.enveloped(200, "What was asked for.", |types| json!({ "type": "array", "items": types.of::<T>() }))
    }

    /// Answers 200 with `data` in the envelope, which may be `null`.
    #[must_use]
    pub fn ok_or_null<T: ToSchema>(self) -> Self {
        self.enveloped(200, "What was asked for.", |types| json!({ "oneOf": [types.of::<T>(), { "type": "null" }] }))
    }

    /// Answers 201 with `data` in the envelope, as [`reply::created`](super::reply::created) writes it.
    #[must_use]
    pub fn created<T: ToSchema>(self) -> Self {
        self.enveloped(201, "Made.", |types| types.of::<T>())
    }

    /// Answers 202 with `data` in the envelope.
    #[must_use]
    pub fn accepted<T: ToSchema>(self) -> Self {
        self.enveloped(202, "Will be done.", |types| types.of::<T>())
    }

    /// Answers 204.
    #[must_use]
    pub fn no_content(mut self) -> Self {
        self.answers.insert(204, json!({ "description": "Done." }));
        self
    }

    /// Answers 101, and speaks another protocol from then on.
    #[must_use]
    pub fn switches(mut self, when: &str) -> Self {
        self.answers.insert(101, json!({ "description": when }));
        self
    }

    /// Answers 200 with one page of a list, as [`reply::page`](super::reply::page) writes it.
    #[must_use]
    pub fn page<T: ToSchema>(mut self) -> Self {
        let schema = json!({
            "type": "object",
            "properties": {
                "success": { "type": "boolean", "const": true },
                "data": { "type": "array", "items": self.types.of::<T>() },
                "pagination": self.types.of::<Pagination>(),
            },
            "required": ["success", "data", "pagination"],
        });
        self.json(200, "A page; one past the end is empty.", schema)
    }

    /// Answers with a body of its own, without the envelope.
    #[must_use]
    pub fn bare<T: ToSchema>(mut self, status: u16, when: &str) -> Self {
        let schema = self.types.of::<T>();
        self.json(status, when, schema)
    }

    /// Answers with an object that has no type here.
    #[must_use]
    pub fn object(self, status: u16, when: &str) -> Self {
        self.json(status, when, json!({ "type": "object" }))
    }

    /// Answers with something other than JSON.
    #[must_use]
    pub fn text(mut self, status: u16, media_type: &str, when: &str) -> Self {
        let content = json!({ media_type: { "schema": { "type": "string" } } });
        self.answers.insert(status, json!({ "description": when, "content": content }));
        self
    }

    /// Refuses in its own way, in the envelope of errors. Refusals that follow from who may ask, what is taken and what
    /// it is charged to need not be said.
    #[must_use]
    pub fn refuses(mut self, status: u16, when: &str) -> Self {
        let schema = self.types.of::<Refusal<'_>>();
        self.json(status, when, schema)
    }

    /// Takes a parameter that no rule judges: `place` is `query`, `path` or `header`.
    #[must_use]
    pub fn parameter(mut self, place: &str, name: &str, required: bool, schema: Value) -> Self {
        self.taken.parameters.push(json!({ "name": name, "in": place, "required": required, "schema": schema }));
        self
    }

    /// Takes a body that no rule judges.
    #[must_use]
    pub fn body(mut self, schema: Value) -> Self {
        self.taken.body = Some(schema);
        self.taken.body_required = true;
        self
    }

    fn enveloped(mut self, status: u16, when: &str, data: impl FnOnce(&mut Types) -> Value) -> Self {
        let schema = json!({
            "type": "object",
            "properties": { "success": { "type": "boolean", "const": true }, "data": data(&mut self.types) },
            "required": ["success", "data"],
        });
        self.json(status, when, schema)
    }

    fn json(mut self, status: u16, when: &str, schema: Value) -> Self {
        let content = json!({ "application/json": { "schema": schema } });
        self.answers.insert(status, json!({ "description": when, "content": content }));
        self
    }
}

trait Mention {
    fn of<T: ToSchema>(&mut self) -> Value;
}

impl Mention for Types {
    /// A reference to a type, whose schema and those it needs are noted.
    fn of<T: ToSchema>(&mut self) -> Value {
        let mut needed = vec![(T::name().into_owned(), T::schema())];
        T::schemas(&mut needed);
        self.extend(needed.into_iter().map(|(name, schema)| (name, reply_schema(&schema))));
        json!({ "$ref": format!("{SCHEMAS}{}", T::name()) })
    }
}

const SCHEMAS: &str = "#/components/schemas/";

/// A reply's schema. utoipa takes an `Option` for a field that may be absent; serde writes it as `null`. So a field
/// that may be null is always there, and one that may be absent (`nullable = false`) is never null.
fn reply_schema(schema: &RefOr<Schema>) -> Value {
    let mut schema = serde_json::to_value(schema).unwrap_or_default();
    always_there(&mut schema);
    schema
}

fn always_there(schema: &mut Value) {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        let nullable: Vec<Value> =
            properties.iter().filter(|(_, schema)| is_nullable(schema)).map(|(name, _)| name.as_str().into()).collect();
        if let Value::Array(required) = &mut schema["required"] {
            required.extend(nullable.into_iter().filter(|name| !required.contains(name)).collect::<Vec<_>>());
        } else {
            schema["required"] = nullable.into();
        }
    }
    match schema {
        Value::Object(parts) => parts.values_mut().for_each(always_there),
        Value::Array(parts) => parts.iter_mut().for_each(always_there),
        _ => {}
    }
}

fn is_nullable(schema: &Value) -> bool {
    let null = |kind: &Value| kind == "null";
    null(&schema["type"])
        || schema["type"].as_array().is_some_and(|kinds| kinds.iter().any(null))
        || schema["oneOf"].as_array().is_some_and(|choices| choices.iter().any(is_nullable))
}

/// A use case, described.
#[derive(Debug)]
pub struct Operation {
    /// As OpenAPI writes it.
    pub described: Value,
    types: Types,
    problems: Vec<String>,
}

/// Describes a use case.
#[must_use]
pub fn operation<E: Endpoint>() -> Operation {
    let mut about = E::about();
    let read = input::describe::<E::Input>();
    about.taken.parameters.extend(read.parameters);
    if read.body.is_some() {
        about.taken.body = read.body;
        about.taken.body_required = read.body_required;
    }
    let mut problems = Vec::new();
    for (name, meaning) in about.meanings {
        match about.taken.find(name) {
            Some(described) => described["description"] = meaning.into(),
            None => problems.push(format!("{} {} takes no {name}", E::METHOD, E::PATH)),
        }
    }
    let takes_something = !about.taken.parameters.is_empty() || about.taken.body.is_some();
    let judged = takes_something && E::Input::IS_JUDGED;

    let mut answers = about.answers;
    let mut refuses = |status: u16, name: &str| {
        let shared = json!({ "$ref": format!("#/components/responses/{name}") });
        answers.entry(status).or_insert(shared);
    };
    if judged {
        refuses(400, "Rejected");
    }
    if E::ACCESS != Access::Public {
        refuses(401, "Unauthorized");
    }
    if refuses_some(E::ACCESS, E::KEYS) {
        refuses(403, "Forbidden");
    }
    if E::Input::READS_BODY {
        refuses(413, "PayloadTooLarge");
        refuses(415, "UnsupportedMediaType");
    }
    if E::BUDGET != Budget::Exempt {
        refuses(429, "TooManyRequests");
        refuses(500, "InternalError");
        refuses(503, "Unavailable");
    }
    let exempt = E::BUDGET == Budget::Exempt;
    for (status, answer) in &mut answers {
        if let Some(answer) = answer.as_object_mut().filter(|answer| !answer.contains_key("$ref")) {
            answer.insert("headers".to_owned(), headers((200..300).contains(status) && !exempt));
        }
    }

    let mut described = json!({
        "tags": [about.tag],
        "operationId": about.id,
        "summary": about.summary,
        "security": about.credentials.unwrap_or_else(|| security(E::ACCESS, E::KEYS)),
        "responses": answers.into_iter().map(|(status, answer)| (status.to_string(), answer)).collect::<Map<_, _>>(),
        "x-rate-limit": match E::BUDGET {
            Budget::Exempt => Value::Null,
            Budget::Default => json!({ "limit": DEFAULT_LIMIT, "window_seconds": DEFAULT_WINDOW_S }),
            Budget::Own { limit, window_s, .. } => json!({ "limit": limit, "window_seconds": window_s }),
        },
    });
    if let Some(note) = about.note {
        described["description"] = note.into();
    }
    if about.deprecated {
        described["deprecated"] = true.into();
    }
    if !about.taken.parameters.is_empty() {
        described["parameters"] = about.taken.parameters.into();
    }
    if let Some(schema) = about.taken.body {
        described["requestBody"] =
            json!({ "required": about.taken.body_required, "content": { "application/json": { "schema": schema } } });
    }
    Operation { described, types: about.types, problems }
}

/// The credentials that open a route, one of them.
fn security(access: Access, keys: KeyAccess) -> Value {
    match access {
        Access::Public => json!([]),
        Access::Employees | Access::WorkingEmployees => json!([{ "bearerAuth": [] }]),
        Access::Everyone | Access::Admins if keys == KeyAccess::People => json!([{ "bearerAuth": [] }]),
        Access::Everyone | Access::Admins => json!([{ "bearerAuth": [] }, { "apiKeyAuth": [] }]),
    }
}

/// Whether some who have a credential are refused: by role, or because an API key lacks a scope.
fn refuses_some(access: Access, keys: KeyAccess) -> bool {
    match access {
        Access::Public => false,
        Access::Employees | Access::WorkingEmployees | Access::Admins => true,
        Access::Everyone => keys != KeyAccess::Any,
    }
}

/// The headers of a reply.
fn headers(counted: bool) -> Value {
    let mut headers = json!({ "X-Request-Id": { "$ref": "#/components/headers/XRequestId" } });
    if counted {
        for (name, shared) in [
            ("X-RateLimit-Limit", "RateLimitLimit"),
            ("X-RateLimit-Remaining", "RateLimitRemaining"),
            ("X-RateLimit-Reset", "RateLimitReset"),
        ] {
            headers[name] = json!({ "$ref": format!("#/components/headers/{shared}") });
        }
    }
    headers
}

/// What every tag is about.
const TAGS: &[(&str, &str)] = &[
    ("health", "Liveness and readiness"),
    ("docs", "This description"),
    ("internal", "Operators"),
    ("auth", "Sign-in and identity"),
    ("identity", "The subset of Supabase Auth that its client libraries need"),
    ("attendance", "Sessions of the caller"),
    ("locations", "Where people went"),
    ("expenses", "Expense claims and their review"),
    ("analytics", "Figures"),
    ("employees", "Who works in the field"),
    ("users", "Who signs in, as what, and who no longer may"),
    ("admin", "Administration"),
    ("realtime", "The subset of Supabase Realtime that its client libraries need"),
    ("dashboard", "An employee's week"),
    ("profile", "An employee's own page"),
    ("webhooks", "Events sent to other systems"),
    ("api-keys", "Keys for other systems"),
    ("deprecated", "Kept for a clear refusal"),
];

/// The whole description; an error names what contradicts itself.
pub fn describe(routes: &[Route]) -> Result<Value, String> {
    let mut paths = Map::new();
    let mut types = Types::new();
    let mut ids = BTreeMap::new();
    let refusal = types.of::<Refusal<'_>>();
    let rate_limited = types.of::<RateLimited<'_>>();
    for route in routes {
        let Operation { described, types: mentioned, problems } = (route.operation)();
        if let Some(problem) = problems.into_iter().next() {
            return Err(problem);
        }
        types.extend(mentioned);
        let name = format!("{} {}", route.method, route.path);
        if let Some(other) = ids.insert(described["operationId"].to_string(), name.clone()) {
            return Err(format!("{name} and {other} have the same operation id"));
        }
        if !TAGS.iter().any(|(tag, _)| described["tags"][0] == *tag) {
            return Err(format!("{name} has a tag that is not listed"));
        }
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = described;
    }
    let mut schemas = Map::new();
    for (name, schema) in types {
        if schemas.get(&name).is_some_and(|other| *other != schema) {
            return Err(format!("two types are called {name}: give one another name, #[schema(as = …)]"));
        }
        schemas.insert(name, schema);
    }
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "FieldTrack",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Who is at work, where they went, the kilometres and expenses they are owed. Every GET also \
                answers HEAD. Unknown fields and parameters are ignored. Errors are for people, codes for programs.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "tags": TAGS
            .iter()
            .map(|(name, description)| json!({ "name": name, "description": description }))
            .collect::<Vec<_>>(),
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": shared_answers(&refusal, &rate_limited),
            "headers": {
                "XRequestId": {
                    "description": "The caller's X-Request-Id when it is acceptable, else a new UUID.",
                    "schema": { "type": "string" },
                },
                "RateLimitLimit": { "description": "Requests a window.", "schema": { "type": "integer" } },
                "RateLimitRemaining": { "description": "Requests left in the window.", "schema": { "type": "integer" } },
                "RateLimitReset": { "description": "Seconds until the window ends.", "schema": { "type": "integer" } },
                "RetryAfter": { "description": "Seconds.", "schema": { "type": "integer" } },
            },
            "securitySchemes": {
                "bearerAuth": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "The access token of POST /auth/login.",
                },
                "apiKeyAuth": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-API-Key",
                    "description": "Looked at only when there is no Authorization header.",
                },
                "scrapeToken": { "type": "http", "scheme": "bearer", "description": "METRICS_SCRAPE_TOKEN." },
                "tokenQuery": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "token",
                    "description": "An access token, for clients that cannot set headers.",
                },
            },
        },
    });
    write_scalars_out(&mut document);
    sort(&mut document);
    Ok(document)
}

fn shared_answers(refusal: &Value, rate_limited: &Value) -> Value {
    let answer = |description: &str, schema: &Value| {
        json!({
            "description": description,
            "headers": headers(false),
            "content": { "application/json": { "schema": schema } },
        })
    };
    let mut too_many = answer("A budget is used up.", rate_limited);
    too_many["headers"] = headers(true);
    too_many["headers"]["Retry-After"] = json!({ "$ref": "#/components/headers/RetryAfter" });
    json!({
        "Rejected": answer("Values are missing or wrong, or a rule of the business forbids it.", refusal),
        "Unauthorized": answer("The credential is missing or unusable. Decided before anything else.", refusal),
        "Forbidden": answer("The caller is known, and may not.", refusal),
        "PayloadTooLarge": answer("The body is larger than allowed.", refusal),
        "UnsupportedMediaType": answer("The body is neither JSON nor plain text.", refusal),
        "TooManyRequests": too_many,
        "InternalError": answer("Our mistake. Nothing internal is told.", refusal),
        "Unavailable": answer("Something this request needs is away, or it took too long. Try again.", refusal),
    })
}

/// Replaces references to types that are a plain string or number (ids, times, amounts) by what they are.
fn write_scalars_out(document: &mut Value) {
    let Some(schemas) = document["components"]["schemas"].as_object_mut() else { return };
    let is_scalar = |schema: &Value| {
        matches!(schema["type"].as_str(), Some("string" | "number" | "integer")) && schema.get("enum").is_none()
    };
    let scalars: Map<String, Value> = schemas
        .iter()
        .filter(|(_, schema)| is_scalar(schema))
        .map(|(name, schema)| (name.clone(), schema.clone()))
        .collect();
    schemas.retain(|name, _| !scalars.contains_key(name));
    write_out(document, &scalars);
}

fn write_out(value: &mut Value, scalars: &Map<String, Value>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| write_out(item, scalars)),
        Value::Object(parts) => {
            parts.values_mut().for_each(|part| write_out(part, scalars));
            let name = parts.get("$ref").and_then(Value::as_str).and_then(|name| name.strip_prefix(SCHEMAS));
            if let Some(scalar) = name.and_then(|name| scalars.get(name)).and_then(Value::as_object) {
                parts.remove("$ref");
                for (key, part) in scalar {
                    // What the field says of itself is closer than what its type says.
                    if key != "description" {
                        parts.entry(key.clone()).or_insert_with(|| part.clone());
                    }
                }
            }
            collapse_nullable(parts);
        }
        _ => {}
    }
}

/// `oneOf: [string, null]` is `type: [string, null]`.
fn collapse_nullable(parts: &mut Map<String, Value>) {
    let Some(Value::Array(choices)) = parts.get("oneOf") else { return };
    let null = json!({ "type": "null" });
    let mut others = choices.iter().filter(|choice| **choice != null);
    let (Some(Value::Object(only)), None, true) = (others.next(), others.next(), choices.contains(&null)) else {
        return;
    };
    if let Some(Value::String(kind)) = only.get("type").filter(|_| !only.contains_key("enum")) {
        let mut only = only.clone();
        only.insert("type".to_owned(), json!([kind, "null"]));
        parts.remove("oneOf");
        for (key, part) in only {
            parts.entry(key).or_insert(part);
        }
    }
}

/// Sorts every object by its keys, whatever map it was made of: the same routes give the same bytes.
fn sort(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(sort),
        Value::Object(parts) => {
            parts.values_mut().for_each(sort);
            let sorted: BTreeMap<String, Value> = std::mem::take(parts).into_iter().collect();
            parts.extend(sorted);
        }
        _ => {}
    }
}

/// The description as it is served.
#[derive(Debug)]
pub struct Document {
    /// As JSON.
    pub json: String,
    /// As YAML.
    pub yaml: String,
}

/// The description of this program's routes, made when it is first asked for.
pub fn document() -> Result<&'static Document, &'static str> {
    static DOCUMENT: LazyLock<Result<Document, String>> = LazyLock::new(|| {
        let document = describe(&crate::features::table())?;
        let mut json = serde_json::to_string_pretty(&document).map_err(|error| error.to_string())?;
        json.push('\n');
        let yaml = yaml_serde::to_string(&document).map_err(|error| error.to_string())?;
        Ok(Document { json, yaml })
    });
    DOCUMENT.as_ref().map_err(String::as_str)
}
