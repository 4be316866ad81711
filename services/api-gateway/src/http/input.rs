//! What callers send, before anything is believed of it.
//!
//! The contract wants every problem of a body named at once, missing and mistyped values included. So a body is read
//! into [`Field`]s, which take whatever stands there; garde then judges all of them by the rules of [`super::rules`],
//! and only a body without a problem becomes a type of its own.
//!
//! The API description is read off the same code: [`Input::read`] is run once over a request that only takes notes
//! ([`describe`]), and every rule asked says what it is. What a use case takes is never written down a second time.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;

use actix_web::HttpRequest;
use chrono::{DateTime, Utc};
use domain::id::parse_uuid;
use domain::money::Money;
use domain::page::PageRequest;
use garde::{Path, Report, Validate};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::timestamp::{parse_time, parse_utc};
use crate::error::{ApiError, ApiResult, Problem};

/// Whatever stands where a value of type `T` should.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Field<T> {
    /// Nothing at all.
    #[default]
    Missing,
    /// `null`.
    Null,
    /// A value of another type, named as JavaScript names it.
    Wrong(&'static str),
    /// A value of that type.
    Value(T),
}

impl<T> Field<T> {
    /// The value, if one is there.
    pub const fn value(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            _ => None,
        }
    }

    /// The value itself, if one is there.
    pub fn into_value(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            _ => None,
        }
    }

    /// What was received, in the contract's words.
    pub const fn received(&self) -> &'static str {
        match self {
            Self::Missing => "undefined",
            Self::Null => "null",
            Self::Wrong(received) => received,
            Self::Value(_) => "value",
        }
    }
}

impl Field<f64> {
    /// The whole number that was found acceptable, or what stands for it when it is missing.
    #[expect(clippy::cast_possible_truncation, reason = "the rules keep it a whole number below 2^53")]
    pub fn whole_or(&self, default: i64) -> i64 {
        self.value().map_or(default, |number| *number as i64)
    }
}

/// The page that `page` and `limit` ask for, both found acceptable: the first one, of `default_limit` rows, when they
/// are missing.
#[must_use]
pub fn page_request(page: &Field<f64>, limit: &Field<f64>, default_limit: i64) -> PageRequest {
    PageRequest { page: page.whole_or(1), limit: limit.whole_or(default_limit) }
}

/// A type that a JSON value can be. Each kind says which JSON values it takes; the rest is [`Field::Wrong`].
pub trait Kind: Sized {
    /// Its name in messages.
    const EXPECTED: &'static str;

    /// For an object: its fields, and those of objects within, in the order in which problems are named.
    const ORDER: &'static [&'static str] = &[];

    /// What it is in the API description, as JSON Schema.
    fn schema() -> Value {
        json!({ "type": Self::EXPECTED })
    }

    /// What is wrong with whatever else stands there.
    fn mistyped(received: &str) -> String {
        format!("Invalid input: expected {}, received {received}", Self::EXPECTED)
    }

    /// From a number.
    fn from_number(_: f64) -> Option<Self> {
        None
    }

    /// From a string.
    fn from_text(_: &str) -> Option<Self> {
        None
    }

    /// From `true` or `false`.
    fn from_bool(_: bool) -> Option<Self> {
        None
    }

    /// From a list; must read it to its end.
    fn from_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    /// From an object; must read it to its end.
    fn from_object<'de, A: MapAccess<'de>>(mut object: A) -> Result<Option<Self>, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

impl<'de, T: Kind> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any<T>(PhantomData<T>);

        impl<'de, T: Kind> Visitor<'de> for Any<T> {
            type Value = Field<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON value")
            }

            fn visit_unit<E>(self) -> Result<Field<T>, E> {
                Ok(Field::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Field<T>, E> {
                Ok(T::from_bool(value).map_or(Field::Wrong("boolean"), Field::Value))
            }

            #[expect(
                clippy::cast_precision_loss,
                reason = "JSON numbers are doubles; larger integers are refused by range"
            )]
            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Field<T>, E> {
                self.visit_f64(number as f64)
            }

            #[expect(
                clippy::cast_precision_loss,
                reason = "JSON numbers are doubles; larger integers are refused by range"
            )]
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Field<T>, E> {
                self.visit_f64(number as f64)
            }

            fn visit_f64<E>(self, number: f64) -> Result<Field<T>, E> {
                Ok(T::from_number(number).map_or(Field::Wrong("number"), Field::Value))
            }

            fn visit_str<E>(self, text: &str) -> Result<Field<T>, E> {
                Ok(T::from_text(text).map_or(Field::Wrong("string"), Field::Value))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Field<T>, A::Error> {
                Ok(T::from_list(list)?.map_or(Field::Wrong("array"), Field::Value))
            }

            fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Field<T>, A::Error> {
                Ok(T::from_object(object)?.map_or(Field::Wrong("object"), Field::Value))
            }
        }

        deserializer.deserialize_any(Any(PhantomData))
    }
}

impl Kind for f64 {
    const EXPECTED: &'static str = "number";

    fn from_number(number: f64) -> Option<Self> {
        Some(number)
    }
}

impl Kind for Money {
    const EXPECTED: &'static str = "number";

    fn from_number(number: f64) -> Option<Self> {
        Self::from_double(number)
    }
}

/// Reads an amount by the digits that were written, where a number would have passed through a double. For
/// `#[serde(deserialize_with = "exact")]`.
pub fn exact<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Field<Money>, D::Error> {
    let written = Box::<RawValue>::deserialize(deserializer)?;
    Ok(match written.get().as_bytes().first() {
        Some(b'n') => Field::Null,
        Some(b't' | b'f') => Field::Wrong("boolean"),
        Some(b'"') => Field::Wrong("string"),
        Some(b'[') => Field::Wrong("array"),
        Some(b'{') => Field::Wrong("object"),
        _ => Money::from_json(written.get()).map_or(Field::Wrong("number"), Field::Value),
    })
}

impl Kind for bool {
    const EXPECTED: &'static str = "boolean";

    fn from_bool(value: bool) -> Option<Self> {
        Some(value)
    }
}

impl Kind for String {
    const EXPECTED: &'static str = "string";

    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

/// A string that should be a UUID; `None` when it is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UuidText(pub Option<Uuid>);

impl Kind for UuidText {
    const EXPECTED: &'static str = "string";

    fn schema() -> Value {
        json!({ "type": "string", "format": "uuid" })
    }

    fn from_text(text: &str) -> Option<Self> {
        Some(Self(parse_uuid(text)))
    }
}

/// A string that should be a time in UTC; `None` when it is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UtcText(pub Option<DateTime<Utc>>);

impl Kind for UtcText {
    const EXPECTED: &'static str = "string";

    fn schema() -> Value {
        json!({
            "type": "string",
            "format": "date-time",
            "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d+)?)?Z$",
            "examples": ["2026-03-10T08:00:00Z"],
        })
    }

    fn from_text(text: &str) -> Option<Self> {
        Some(Self(parse_utc(text)))
    }
}

/// A string that should be a time with its zone; `None` when it is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeText(pub Option<DateTime<Utc>>);

impl Kind for TimeText {
    const EXPECTED: &'static str = "string";

    fn schema() -> Value {
        json!({ "type": "string", "format": "date-time" })
    }

    fn from_text(text: &str) -> Option<Self> {
        Some(Self(parse_time(text)))
    }
}

/// The words a [`Word`] can be.
pub trait Words: 'static {
    /// All of them.
    const WORDS: &'static [&'static str];
}

/// One of some words; anything else is no such word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word<W>(pub String, PhantomData<W>);

impl<W: Words> Kind for Word<W> {
    const EXPECTED: &'static str = "string";

    fn schema() -> Value {
        json!({ "type": "string", "enum": W::WORDS })
    }

    fn mistyped(_: &str) -> String {
        let list = W::WORDS.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join("|");
        format!("Invalid option: expected one of {list}")
    }

    fn from_text(text: &str) -> Option<Self> {
        W::WORDS.contains(&text).then(|| Self(text.to_owned(), PhantomData))
    }
}

impl<W> Validate for Word<W> {
    type Context = Moment;

    fn validate_into(&self, _: &Moment, _: &mut dyn FnMut() -> Path, _: &mut Report) {}
}

/// A list of whatever stands there.
impl<T: Kind> Kind for Vec<Field<T>> {
    const EXPECTED: &'static str = "array";

    fn schema() -> Value {
        json!({ "type": "array", "items": T::schema() })
    }

    fn from_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        let mut items = Self::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Some(items))
    }
}

/// Makes a struct of [`Field`]s readable from an object; lists its fields, and those of objects within, in the order in
/// which problems are named (garde finds them in the order of the alphabet).
macro_rules! object {
    ($name:ty: $($field:ident),+) => {
        impl $crate::http::input::Kind for $name {
            const EXPECTED: &'static str = "object";
            const ORDER: &'static [&'static str] = &[$(stringify!($field)),+];

            fn schema() -> serde_json::Value {
                $crate::http::input::object_schema::<Self>()
            }

            fn from_object<'de, A: serde::de::MapAccess<'de>>(object: A) -> Result<Option<Self>, A::Error> {
                serde::Deserialize::deserialize(serde::de::value::MapAccessDeserializer::new(object)).map(Some)
            }
        }
    };
}
pub(crate) use object;

/// What rules may need to know besides the value.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The present.
    pub now: DateTime<Utc>,
    /// Whether rules shall say what they are instead of judging.
    describing: bool,
}

impl Moment {
    /// Judges at `now`.
    #[must_use]
    pub const fn at(now: DateTime<Utc>) -> Self {
        Self { now, describing: false }
    }

    /// The first line of every rule that can be described: ends it here, with what it is in JSON Schema's words, when
    /// the API description asks. garde carries that where it otherwise carries messages.
    pub fn rule(&self, schema: impl FnOnce() -> Value) -> garde::Result {
        if self.describing { Err(garde::Error::new(schema().to_string())) } else { Ok(()) }
    }
}

/// A mark of a field that JSON Schema keeps elsewhere than at the field.
pub struct Mark(&'static str);

/// The field must be there.
pub const REQUIRED: Mark = Mark("x-required");
/// The field may be `null`.
pub const NULLABLE: Mark = Mark("x-nullable");

impl Mark {
    /// A field's schema with the mark on it.
    #[must_use]
    pub fn with(&self, mut schema: Value) -> Value {
        schema[self.0] = true.into();
        schema
    }
}

/// What a request of a route may hold, as far as its [`Input`] reads it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Taken {
    /// Parameters of path and query, as OpenAPI writes them.
    pub parameters: Vec<Value>,
    /// The schema of the body, if one is read.
    pub body: Option<Value>,
    /// Whether the body must be there.
    pub body_required: bool,
}

/// Reads an input off a request that only takes notes.
#[must_use]
pub fn describe<I: Input>() -> Taken {
    // The one way to have a request without a connection.
    let request = actix_web::test::TestRequest::default().to_http_request();
    let notes = RefCell::default();
    // What is made of the empty values does not matter, and nor does whether anything can be.
    let _ = I::read(&Parts { request: &request, body: &[], now: DateTime::UNIX_EPOCH, notes: Some(&notes) });
    notes.into_inner()
}

/// The schema of an object, from the rules of its fields.
#[must_use]
pub fn object_schema<T: Kind + Validate<Context = Moment>>() -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    if let Some(empty) = empty::<T>() {
        for (name, field) in fields(&empty) {
            if field.required {
                required.push(Value::from(name.clone()));
            }
            properties.insert(name, field.schema);
        }
    }
    required.sort_by_key(|name| T::ORDER.iter().position(|field| name == field));
    json!({ "type": "object", "properties": properties, "required": required })
}

/// An object without a single field.
fn empty<T: Kind>() -> Option<T> {
    serde_json::from_str::<Field<T>>("{}").ok()?.into_value()
}

struct FieldSchema {
    schema: Value,
    required: bool,
}

/// Each field of a struct by its name, described by its own rules.
fn fields<T: Validate<Context = Moment>>(value: &T) -> Vec<(String, FieldSchema)> {
    let Err(report) = value.validate_with(&Moment { now: DateTime::UNIX_EPOCH, describing: true }) else {
        return Vec::new();
    };
    let mut fields: Vec<(String, Map<String, Value>)> = Vec::new();
    for (path, said) in report.iter() {
        let path = path.to_string();
        let Ok(Value::Object(said)) = serde_json::from_str(said.message()) else { continue };
        match fields.iter_mut().find(|(name, _)| *name == path) {
            Some((_, schema)) => said.into_iter().for_each(|(key, value)| merge(schema, key, value)),
            None => fields.push((path, said)),
        }
    }
    let finished = fields.into_iter().map(|(name, mut schema)| {
        let required = schema.remove(REQUIRED.0).is_some();
        if schema.remove(NULLABLE.0).is_some()
            && let Some(kind) = schema.get_mut("type")
        {
            *kind = json!([kind.take(), "null"]);
        }
        (name, FieldSchema { schema: schema.into(), required })
    });
    finished.collect()
}

/// Adds what a further rule says: the narrower limit holds, and an integer is a number, too.
fn merge(schema: &mut Map<String, Value>, key: String, value: Value) {
    let narrower = match (schema.get(&key), key.as_str()) {
        (Some(present), "minimum" | "minLength" | "minItems") => value.as_f64() > present.as_f64(),
        (Some(present), "maximum" | "maxLength" | "maxItems") => value.as_f64() < present.as_f64(),
        (Some(present), "type") => present == "number",
        _ => true,
    };
    if narrower {
        schema.insert(key, value);
    }
}

impl<T: Validate<Context = Moment> + Kind> Validate for Field<T> {
    type Context = Moment;

    fn validate_into(&self, moment: &Moment, parent: &mut dyn FnMut() -> Path, report: &mut Report) {
        if let Err(described) = moment.rule(|| REQUIRED.with(T::schema())) {
            return report.append(parent(), described);
        }
        match self {
            Self::Value(value) => value.validate_into(moment, parent, report),
            other => report.append(parent(), super::rules::mistyped::<T>(other.received())),
        }
    }
}

/// A field whose value is judged from within, if it is there at all.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(transparent, bound = "T: Kind")]
pub struct IfThere<T>(pub Field<T>);

impl<T> Default for IfThere<T> {
    fn default() -> Self {
        Self(Field::Missing)
    }
}

impl<T: Validate<Context = Moment> + Kind> Validate for IfThere<T> {
    type Context = Moment;

    fn validate_into(&self, moment: &Moment, parent: &mut dyn FnMut() -> Path, report: &mut Report) {
        if let Err(described) = moment.rule(T::schema) {
            return report.append(parent(), described);
        }
        if !matches!(self.0, Field::Missing) {
            self.0.validate_into(moment, parent, report);
        }
    }
}

/// A request as a use case reads it.
pub struct Parts<'a> {
    /// The request's head.
    pub request: &'a HttpRequest,
    /// The whole body; empty when there is none, or when the route ignores it.
    pub body: &'a [u8],
    /// The present.
    pub now: DateTime<Utc>,
    /// Where to take notes instead of reading.
    notes: Option<&'a RefCell<Taken>>,
}

/// What a use case takes from a request.
pub trait Input: Sized {
    /// Whether the body is looked at. A route that ignores it takes anything.
    const READS_BODY: bool;

    /// Whether what it reads can be refused with 400. Protocols that answer in their own way say no.
    const IS_JUDGED: bool = true;

    /// Reads it: path first, then body, then query; only the first failing part is reported, with all its problems.
    fn read(parts: &Parts<'_>) -> ApiResult<Self>;
}

/// A route that needs nothing but its caller.
impl Input for () {
    const READS_BODY: bool = false;

    fn read(_: &Parts<'_>) -> ApiResult<Self> {
        Ok(())
    }
}

impl<'a> Parts<'a> {
    /// The parts of a request.
    #[must_use]
    pub const fn of(request: &'a HttpRequest, body: &'a [u8], now: DateTime<Utc>) -> Self {
        Self { request, body, now, notes: None }
    }

    /// Takes a note, when that is all that is wanted.
    fn note(&self, note: impl FnOnce(&mut Taken)) -> bool {
        self.notes.map(|notes| note(&mut notes.borrow_mut())).is_some()
    }

    /// A path parameter that is a UUID.
    pub fn path_id(&self, name: &str) -> ApiResult<Uuid> {
        let schema = UuidText::schema();
        if self.note(|taken| {
            taken.parameters.push(json!({ "name": name, "in": "path", "required": true, "schema": schema }));
        }) {
            return Ok(Uuid::nil());
        }
        parse_uuid(self.request.match_info().query(name)).ok_or_else(|| {
            ApiError::Invalid(vec![Problem { field: format!("params/{name}"), message: "Invalid UUID".to_owned() }])
        })
    }

    /// The JSON body, judged by its own rules. No body at all reads as `null`.
    pub fn body<T>(&self) -> ApiResult<T>
    where
        T: Kind + Validate<Context = Moment>,
    {
        if self.note(|taken| taken.body::<T>(true)) {
            return empty().ok_or(ApiError::MalformedJson);
        }
        match self.json::<T>()? {
            Field::Value(body) => {
                self.judge("body", &body, T::ORDER)?;
                Ok(body)
            }
            other => Err(invalid("body", "", super::rules::mistyped::<T>(other.received()).message())),
        }
    }

    /// The JSON body where none is needed: `None` when it is absent or `null`.
    pub fn optional_body<T>(&self) -> ApiResult<Option<T>>
    where
        T: Kind + Validate<Context = Moment>,
    {
        if self.note(|taken| taken.body::<T>(false)) {
            return Ok(None);
        }
        match self.json::<T>()? {
            Field::Null | Field::Missing => Ok(None),
            Field::Value(body) => {
                self.judge("body", &body, T::ORDER)?;
                Ok(Some(body))
            }
            other => Err(invalid("body", "", super::rules::mistyped::<T>(other.received()).message())),
        }
    }

    fn json<T: Kind>(&self) -> ApiResult<Field<T>> {
        if self.body.is_empty() {
            return Ok(Field::Null);
        }
        if is_plain_text(self.request) {
            return Ok(Field::Wrong("string"));
        }
        match serde_json::from_slice(self.body) {
            Ok(body) => Ok(body),
            // Text that JSON can express and PostgreSQL cannot hold: read on with NUL in its place, which the rules of
            // the field then refuse by its name.
            Err(error) if error.to_string().contains("hex escape") => {
                serde_json::from_str(&without_lone_surrogates(self.body)).map_err(|_| ApiError::MalformedJson)
            }
            Err(_) => Err(ApiError::MalformedJson),
        }
    }

    /// The query, parameter by parameter.
    #[must_use]
    pub fn query(&self) -> Query {
        Query(form_urlencoded::parse(self.request.query_string().as_bytes()).into_owned().collect())
    }

    /// Judges values by their own rules; problems are named in this order of fields.
    pub fn judge<T: Validate<Context = Moment>>(&self, part: &str, value: &T, order: &[&str]) -> ApiResult<()> {
        if self.note(|taken| taken.parameters(part, value, order)) {
            return Ok(());
        }
        value.validate_with(&Moment::at(self.now)).map_err(|report| {
            let mut problems: Vec<(String, &garde::Error)> =
                report.iter().map(|(path, error)| (path.to_string(), error)).collect();
            problems.sort_by_cached_key(|(path, _)| place(path, order));
            let problems = problems
                .into_iter()
                .map(|(path, error)| Problem { field: field(part, &path), message: error.message().to_owned() });
            ApiError::Invalid(problems.collect())
        })
    }
}

impl Taken {
    /// A parameter, or a field of the body.
    pub(super) fn find(&mut self, name: &str) -> Option<&mut Value> {
        let parameter = self.parameters.iter_mut().find(|one| one["name"] == name);
        parameter.or_else(|| self.body.as_mut()?.get_mut("properties")?.get_mut(name))
    }

    /// Notes a body; a second one describes further fields of the same object.
    fn body<T: Kind>(&mut self, required: bool) {
        let mut schema = T::schema();
        if let Some(first) = self.body.take() {
            for part in ["properties", "required"] {
                match (&first[part], &mut schema[part]) {
                    (Value::Object(before), Value::Object(now)) => now.extend(before.clone()),
                    (Value::Array(before), Value::Array(now)) => now.extend(before.clone()),
                    _ => {}
                }
            }
        }
        self.body = Some(schema);
        self.body_required |= required;
    }

    /// Notes the fields of a judged part as parameters.
    fn parameters<T: Validate<Context = Moment>>(&mut self, part: &str, value: &T, order: &[&str]) {
        let place = if part == "params" { "path" } else { "query" };
        let mut fields = fields(value);
        fields.sort_by_key(|(name, _)| order.iter().position(|field| name == field));
        self.parameters.extend(fields.into_iter().map(|(name, FieldSchema { schema, required })| {
            json!({ "name": name, "in": place, "required": required || place == "path", "schema": schema })
        }));
    }
}

/// Where a path like `points[3].latitude` stands among problems: by field, by place in the list, by field within.
fn place(path: &str, order: &[&str]) -> Vec<usize> {
    path.split(['.', '[', ']'])
        .filter(|step| !step.is_empty())
        .map(|step| {
            step.parse().unwrap_or_else(|_| order.iter().position(|field| *field == step).unwrap_or(order.len()))
        })
        .collect()
}

/// One problem with one field.
#[must_use]
pub fn invalid(part: &str, path: &str, message: &str) -> ApiError {
    ApiError::Invalid(vec![Problem { field: field(part, path), message: message.to_owned() }])
}

/// `points[3].latitude` → `body/points/3/latitude`; the whole part is `body/`.
fn field(part: &str, path: &str) -> String {
    format!("{part}/{}", path.replace('[', "/").replace(']', "").replace('.', "/"))
}

/// Whether the body says that it is plain text; like the original we take it, and find that it is no object.
#[must_use]
pub fn is_plain_text(request: &HttpRequest) -> bool {
    media_type(request).is_some_and(|kind| kind.eq_ignore_ascii_case("text/plain"))
}

/// The media type of the body, without parameters.
#[must_use]
pub fn media_type(request: &HttpRequest) -> Option<&str> {
    let value = request.headers().get(actix_web::http::header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim())
}

/// Replaces `\ud800`-like escapes that have no partner by `\u0000`.
fn without_lone_surrogates(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let escape_at = |at: usize| -> Option<u32> {
        let digits = text.get(at..)?.strip_prefix("\\u")?.get(..4)?;
        u32::from_str_radix(digits, 16).ok()
    };
    let mut clean = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(letter) = text[at..].chars().next() {
        if letter != '\\' {
            clean.push(letter);
            at += letter.len_utf8();
            continue;
        }
        match (escape_at(at), escape_at(at + 6)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => {
                clean.push_str(&text[at..at + 12]);
                at += 12;
            }
            (Some(0xD800..=0xDFFF), _) => {
                clean.push_str("\\u0000");
                at += 6;
            }
            _ => {
                // Any other escape is at least two characters long; `\\` must not be taken apart.
                let end = text[at + 1..].chars().next().map_or(at + 1, |next| at + 1 + next.len_utf8());
                clean.push_str(&text[at..end]);
                at = end;
            }
        }
    }
    clean
}

/// Query parameters in the order they came.
#[derive(Debug, Clone)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// A parameter given once.
    #[must_use]
    pub fn text(&self, name: &str) -> Field<String> {
        let mut values = self.0.iter().filter(|(key, _)| key == name);
        match (values.next(), values.next()) {
            (None, _) => Field::Missing,
            (Some((_, value)), None) => Field::Value(value.clone()),
            (Some(_), Some(_)) => Field::Wrong("array"),
        }
    }

    /// A parameter read as JavaScript's `Number()` reads it: `""` is 0, `" 7 "` is 7, `1e1` is 10, nonsense and
    /// repeated parameters are NaN.
    #[must_use]
    pub fn number(&self, name: &str) -> Field<f64> {
        match self.text(name) {
            Field::Value(text) => Field::Value(javascript_number(&text)),
            Field::Missing => Field::Missing,
            _ => Field::Value(f64::NAN),
        }
    }

    /// A parameter that is a time with its zone.
    #[must_use]
    pub fn time(&self, name: &str) -> Field<TimeText> {
        match self.text(name) {
            Field::Value(text) => Field::Value(TimeText(parse_time(&text))),
            Field::Missing => Field::Missing,
            Field::Null => Field::Null,
            Field::Wrong(received) => Field::Wrong(received),
        }
    }

    /// A parameter that is a UUID.
    #[must_use]
    pub fn id(&self, name: &str) -> Field<UuidText> {
        match self.text(name) {
            Field::Value(text) => Field::Value(UuidText(parse_uuid(&text))),
            Field::Missing => Field::Missing,
            Field::Null => Field::Null,
            Field::Wrong(received) => Field::Wrong(received),
        }
    }
}

fn javascript_number(text: &str) -> f64 {
    let text = text.trim();
    let radix = |digits: &str, radix| {
        // Longer digits would only lose precision; the range rules refuse such numbers anyway.
        #[expect(clippy::cast_precision_loss, reason = "JavaScript numbers are doubles")]
        u64::from_str_radix(digits, radix).map_or(f64::NAN, |number| number as f64)
    };
    match text.get(..2).map(str::to_ascii_lowercase).as_deref() {
        _ if text.is_empty() => 0.0,
        Some("0x") => radix(&text[2..], 16),
        Some("0o") => radix(&text[2..], 8),
        Some("0b") => radix(&text[2..], 2),
        // Rust also reads "inf" and "nan", JavaScript only this spelling of infinity.
        _ if matches!(text, "Infinity" | "+Infinity") => f64::INFINITY,
        _ if text == "-Infinity" => f64::NEG_INFINITY,
        _ if text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte)) => {
            text.parse().unwrap_or(f64::NAN)
        }
        _ => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_javascript_reads_them() {
        for (text, number) in [
            ("", 0.0),
            (" 7 ", 7.0),
            ("1e1", 10.0),
            ("0x10", 16.0),
            ("-3.5", -3.5),
            ("5.", 5.0),
            (".5", 0.5),
            ("Infinity", f64::INFINITY),
        ] {
            assert_eq!(javascript_number(text), number, "{text:?}");
        }
        for text in ["seven", "1,5", "inf", "nan", "NaN", "1 2", "0xg", "--1", "é"] {
            assert!(javascript_number(text).is_nan(), "{text:?}");
        }
    }

    #[test]
    fn a_field_takes_whatever_stands_there() {
        let read = |json: &str| serde_json::from_str::<Field<f64>>(json).unwrap();
        assert_eq!(read("5"), Field::Value(5.0));
        assert_eq!(read("null"), Field::Null);
        assert_eq!(read("\"5\""), Field::Wrong("string"));
        assert_eq!(read("true"), Field::Wrong("boolean"));
        assert_eq!(serde_json::from_str::<Field<bool>>("false").unwrap(), Field::Value(false));
        assert_eq!(serde_json::from_str::<Field<bool>>("\"true\"").unwrap(), Field::Wrong("string"));
        assert_eq!(read("[1,[2]]"), Field::Wrong("array"));
        assert_eq!(read("{\"a\":{\"b\":1}}"), Field::Wrong("object"));
    }

    #[test]
    fn amounts_keep_every_digit_that_was_written() {
        #[derive(serde::Deserialize)]
        struct Body {
            #[serde(default, deserialize_with = "exact")]
            amount: Field<Money>,
        }
        let read = |json: &str| serde_json::from_str::<Body>(json).unwrap().amount;
        for (json, digits) in [
            (r#"{"amount":12345678901234567890.123456789}"#, "12345678901234567890.123456789"),
            (r#"{"amount": 0.10 }"#, "0.1"),
            (r#"{"amount":1e-7}"#, "0.0000001"),
            (r#"{"amount":-2}"#, "-2"),
        ] {
            assert_eq!(read(json).value().unwrap().to_string(), digits, "{json}");
        }
        for (json, field) in [
            ("{}", Field::Missing),
            (r#"{"amount":null}"#, Field::Null),
            (r#"{"amount":"5"}"#, Field::Wrong("string")),
            (r#"{"amount":true}"#, Field::Wrong("boolean")),
            (r#"{"amount":[5]}"#, Field::Wrong("array")),
            (r#"{"amount":{"n":5}}"#, Field::Wrong("object")),
            (r#"{"amount":1e999}"#, Field::Wrong("number")),
        ] {
            assert_eq!(read(json), field, "{json}");
        }
        assert!(serde_json::from_str::<Body>(r#"{"amount":01}"#).is_err());
    }

    #[test]
    fn lone_surrogates_become_nul_and_pairs_stay() {
        assert_eq!(
            without_lone_surrogates(br#"{"a":"\ud83d\ude00 \ud800 \\ud800 \udc00"}"#),
            r#"{"a":"\ud83d\ude00 \u0000 \\ud800 \u0000"}"#
        );
    }
}
