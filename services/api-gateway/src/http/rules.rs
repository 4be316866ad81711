//! The contract's rules for single values, in the contract's words.
//!
//! Each function makes a rule for garde's `custom`. A rule passes values that are missing, `null` or of the wrong type
//! when another rule of the same field reports that already: [`required`] and [`optional`] do.
//!
//! A rule also says what it is, in the words of JSON Schema: its first line is `moment.rule(…)?`, which ends it right
//! there when the API description asks. So a limit is written once, and described as it is enforced.

use chrono::TimeDelta;
use domain::auth::looks_like_email;
use domain::employee::MAX_WIRE_INTEGER;
use domain::location::{CLOCK_TOLERANCE, Fix};
use domain::money::Money;
use domain::receipt::ReceiptPath;
use serde_json::{Value, json};
use url::Url;

use super::input::{Field, Kind, Moment, NULLABLE, REQUIRED, TimeText, UtcText, UuidText};

/// A rule's verdict.
type Verdict = garde::Result;

fn refuse(message: impl Into<String>) -> Verdict {
    Err(garde::Error::new(message.into()))
}

/// A limit as JSON writes it: whole numbers without a fraction.
#[expect(clippy::cast_possible_truncation, reason = "only whole numbers that fit are cast")]
fn limit(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 1e15 { json!(number as i64) } else { json!(number) }
}

/// `Invalid input: expected T, received R`.
#[must_use]
pub fn mistyped<T: Kind>(received: &str) -> garde::Error {
    garde::Error::new(T::mistyped(received))
}

/// The value must be there, of its type.
pub fn required<T: Kind>(field: &Field<T>, moment: &Moment) -> Verdict {
    moment.rule(|| REQUIRED.with(T::schema()))?;
    match field {
        Field::Value(_) => Ok(()),
        other => Err(mistyped::<T>(other.received())),
    }
}

/// The value may be missing, but not `null` or of another type.
pub fn optional<T: Kind>(field: &Field<T>, moment: &Moment) -> Verdict {
    moment.rule(T::schema)?;
    match field {
        Field::Value(_) | Field::Missing => Ok(()),
        other => Err(mistyped::<T>(other.received())),
    }
}

/// The value may be missing or `null`, but not of another type.
pub fn nullable<T: Kind>(field: &Field<T>, moment: &Moment) -> Verdict {
    moment.rule(|| NULLABLE.with(T::schema()))?;
    match field {
        Field::Wrong(received) => Err(mistyped::<T>(received)),
        _ => Ok(()),
    }
}

/// A number that is one: queries can hold NaN and infinities.
pub fn finite(field: &Field<f64>, moment: &Moment) -> Verdict {
    moment.rule(f64::schema)?;
    match field.value() {
        Some(number) if number.is_nan() => refuse("Invalid input: expected number, received NaN"),
        Some(number) if number.is_infinite() => refuse("Invalid input: expected number, received Infinity"),
        _ => Ok(()),
    }
}

/// A number from `least` on.
pub fn at_least(least: f64) -> impl Fn(&Field<f64>, &Moment) -> Verdict {
    move |field, moment| {
        moment.rule(|| json!({ "minimum": limit(least) }))?;
        match field.value() {
            Some(number) if *number < least => refuse(format!("Too small: expected number to be >={least}")),
            _ => Ok(()),
        }
    }
}

/// A number up to `most`.
pub fn at_most(most: f64) -> impl Fn(&Field<f64>, &Moment) -> Verdict {
    move |field, moment| {
        moment.rule(|| json!({ "maximum": limit(most) }))?;
        match field.value() {
            Some(number) if *number > most => refuse(format!("Too big: expected number to be <={most}")),
            _ => Ok(()),
        }
    }
}

/// A whole number that every client can hold exactly.
pub fn whole(field: &Field<f64>, moment: &Moment) -> Verdict {
    moment.rule(|| json!({ "type": "integer", "minimum": -MAX_WIRE_INTEGER, "maximum": MAX_WIRE_INTEGER }))?;
    match field.value() {
        Some(number) if number.is_finite() && number.fract() != 0.0 => {
            refuse("Invalid input: expected int, received number")
        }
        #[expect(clippy::cast_precision_loss, reason = "2^53-1 is exact")]
        Some(number) if number.is_finite() && *number > MAX_WIRE_INTEGER as f64 => {
            refuse(format!("Too big: expected int to be <={MAX_WIRE_INTEGER}"))
        }
        #[expect(clippy::cast_precision_loss, reason = "2^53-1 is exact")]
        Some(number) if number.is_finite() && *number < -(MAX_WIRE_INTEGER as f64) => {
            refuse(format!("Too small: expected int to be >=-{MAX_WIRE_INTEGER}"))
        }
        _ => Ok(()),
    }
}

/// A number from 0 on, with a message of its own.
pub fn not_negative(message: &'static str) -> impl Fn(&Field<f64>, &Moment) -> Verdict {
    move |field, moment| {
        moment.rule(|| json!({ "minimum": 0 }))?;
        match field.value() {
            Some(number) if *number < 0.0 => refuse(message),
            _ => Ok(()),
        }
    }
}

/// Text of at least `least` UTF-16 code units.
pub fn text_at_least(least: usize) -> impl Fn(&Field<String>, &Moment) -> Verdict {
    move |field, moment| {
        moment.rule(|| json!({ "minLength": least }))?;
        match field.value() {
            Some(text) if text.encode_utf16().count() < least => {
                refuse(format!("Too small: expected string to have >={least} characters"))
            }
            _ => Ok(()),
        }
    }
}

/// Text of at most `most` UTF-16 code units.
pub fn text_at_most(most: usize) -> impl Fn(&Field<String>, &Moment) -> Verdict {
    move |field, moment| {
        moment.rule(|| json!({ "maxLength": most }))?;
        match field.value() {
            Some(text) if text.encode_utf16().count() > most => {
                refuse(format!("Too big: expected string to have <={most} characters"))
            }
            _ => Ok(()),
        }
    }
}

/// Text that is not empty, with a message of its own.
pub fn not_empty(message: &'static str) -> impl Fn(&Field<String>, &Moment) -> Verdict {
    move |field, moment| {
        moment.rule(|| json!({ "minLength": 1 }))?;
        match field.value() {
            Some(text) if text.is_empty() => refuse(message),
            _ => Ok(()),
        }
    }
}

/// A value of its type, with a message of its own for whatever else stands there.
pub fn typed<T: Kind>(message: &'static str) -> impl Fn(&Field<T>, &Moment) -> Verdict {
    move |field, moment| {
        moment.rule(|| REQUIRED.with(T::schema()))?;
        match field {
            Field::Value(_) => Ok(()),
            _ => refuse(message),
        }
    }
}

/// An amount above zero, with a message of its own.
pub fn positive(message: &'static str) -> impl Fn(&Field<Money>, &Moment) -> Verdict {
    move |field, moment| {
        moment.rule(|| json!({ "exclusiveMinimum": 0 }))?;
        match field.value() {
            Some(amount) if !amount.is_positive() => refuse(message),
            _ => Ok(()),
        }
    }
}

/// Text of at least `least` UTF-16 code units, with a message of its own.
pub fn not_shorter(least: usize, message: &'static str) -> impl Fn(&Field<String>, &Moment) -> Verdict {
    move |field, moment| {
        moment.rule(|| json!({ "minLength": least }))?;
        match field.value() {
            Some(text) if text.encode_utf16().count() < least => refuse(message),
            _ => Ok(()),
        }
    }
}

/// Text of at most `most` UTF-16 code units, with a message of its own.
pub fn not_longer(most: usize, message: &'static str) -> impl Fn(&Field<String>, &Moment) -> Verdict {
    move |field, moment| {
        moment.rule(|| json!({ "maxLength": most }))?;
        match field.value() {
            Some(text) if text.encode_utf16().count() > most => refuse(message),
            _ => Ok(()),
        }
    }
}

/// One of some words, which must be there, with a message of its own.
pub fn word(words: &'static [&'static str], message: &'static str) -> impl Fn(&Field<String>, &Moment) -> Verdict {
    move |field, moment| {
        moment.rule(|| REQUIRED.with(json!({ "type": "string", "enum": words })))?;
        match field.value() {
            Some(text) if words.contains(&text.as_str()) => Ok(()),
            _ => refuse(message),
        }
    }
}

/// What is said of a receipt that is neither an https address nor the path of an upload: both, where both apply.
pub const NO_URL: [&str; 2] = ["receipt_url must be a valid URL", "receipt_url must use HTTPS"];

/// An address, or the path of an uploaded receipt.
pub fn url_or_receipt(field: &Field<String>, _: &Moment) -> Verdict {
    match field.value() {
        Some(text) if !is_receipt(text) && Url::parse(text).is_err() => refuse(NO_URL[0]),
        _ => Ok(()),
    }
}

/// An address that begins with `https://`, or the path of an uploaded receipt.
pub fn https_or_receipt(field: &Field<String>, _: &Moment) -> Verdict {
    match field.value() {
        Some(text) if !is_receipt(text) && !text.starts_with("https://") => refuse(NO_URL[1]),
        _ => Ok(()),
    }
}

fn is_receipt(text: &str) -> bool {
    text.parse::<ReceiptPath>().is_ok()
}

/// An address, with a message of its own.
pub fn url(message: &'static str) -> impl Fn(&Field<String>, &Moment) -> Verdict {
    move |field, moment| {
        moment.rule(|| json!({ "format": "uri" }))?;
        match field.value() {
            Some(text) if Url::parse(text).is_err() => refuse(message),
            _ => Ok(()),
        }
    }
}

/// A list of at least one item, with a message of its own.
pub fn some_items<T>(message: &'static str) -> impl Fn(&Field<Vec<T>>, &Moment) -> Verdict {
    move |field, moment| {
        moment.rule(|| json!({ "minItems": 1 }))?;
        match field.value() {
            Some(items) if items.is_empty() => refuse(message),
            _ => Ok(()),
        }
    }
}

/// A number above 0, in the words of lists that say it so.
pub fn above_zero(field: &Field<f64>, moment: &Moment) -> Verdict {
    moment.rule(|| json!({ "minimum": 1 }))?;
    match field.value() {
        Some(number) if *number <= 0.0 => refuse("Too small: expected number to be >0"),
        _ => Ok(()),
    }
}

/// Text that the database can hold: PostgreSQL knows no NUL (lone surrogates arrive here as NUL, too).
pub fn storable(field: &Field<String>, _: &Moment) -> Verdict {
    match field.value() {
        Some(text) if text.contains('\0') => refuse("must not contain characters that cannot be stored"),
        _ => Ok(()),
    }
}

/// An e-mail address.
pub fn email(field: &Field<String>, moment: &Moment) -> Verdict {
    moment.rule(|| json!({ "format": "email" }))?;
    match field.value() {
        Some(text) if !looks_like_email(text) => refuse("Invalid email address"),
        _ => Ok(()),
    }
}

/// One of some words.
pub fn one_of(words: &'static [&'static str]) -> impl Fn(&Field<String>, &Moment) -> Verdict {
    move |field, moment| {
        moment.rule(|| json!({ "type": "string", "enum": words }))?;
        match field {
            Field::Missing => Ok(()),
            Field::Value(text) if words.contains(&text.as_str()) => Ok(()),
            _ => {
                let list = words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join("|");
                refuse(format!("Invalid option: expected one of {list}"))
            }
        }
    }
}

/// One of some words, which must be there.
pub fn choice(words: &'static [&'static str]) -> impl Fn(&Field<String>, &Moment) -> Verdict {
    let known = one_of(words);
    move |field, moment| {
        moment.rule(|| REQUIRED.with(json!({ "type": "string", "enum": words })))?;
        match field {
            Field::Missing => known(&Field::Null, moment),
            _ => known(field, moment),
        }
    }
}

/// One of some words, with a message of its own.
pub fn one_of_saying(
    words: &'static [&'static str],
    message: &'static str,
) -> impl Fn(&Field<String>, &Moment) -> Verdict {
    move |field, moment| {
        moment.rule(|| json!({ "type": "string", "enum": words }))?;
        match field {
            Field::Missing => Ok(()),
            Field::Value(text) if words.contains(&text.as_str()) => Ok(()),
            _ => refuse(message),
        }
    }
}

/// A time with its zone, with a message of its own.
pub fn time(message: &'static str) -> impl Fn(&Field<TimeText>, &Moment) -> Verdict {
    move |field, _| match field.value() {
        Some(TimeText(None)) => refuse(message),
        _ => Ok(()),
    }
}

/// A UUID, with a message of its own.
pub fn uuid(message: &'static str) -> impl Fn(&Field<UuidText>, &Moment) -> Verdict {
    move |field, _| match field.value() {
        Some(UuidText(None)) => refuse(message),
        _ => Ok(()),
    }
}

/// A time in UTC.
pub fn utc(field: &Field<UtcText>, _: &Moment) -> Verdict {
    match field.value() {
        Some(UtcText(None)) => refuse("Invalid ISO datetime"),
        _ => Ok(()),
    }
}

const _: () =
    assert!(CLOCK_TOLERANCE.num_seconds() == TimeDelta::minutes(2).num_seconds(), "the message says 2 minutes");

/// A time that a phone's clock could show by now.
pub fn not_from_the_future(field: &Field<UtcText>, moment: &Moment) -> Verdict {
    match field.value() {
        Some(UtcText(Some(time))) if Fix::is_from_the_future(*time, moment.now) => {
            refuse("recorded_at cannot be more than 2 minutes in the future")
        }
        _ => Ok(()),
    }
}

/// A list of at least `least` items.
pub fn items_at_least<T>(least: usize) -> impl Fn(&Field<Vec<T>>, &Moment) -> Verdict {
    move |field, moment| {
        moment.rule(|| json!({ "minItems": least }))?;
        match field.value() {
            Some(items) if items.len() < least => refuse(format!("Too small: expected array to have >={least} items")),
            _ => Ok(()),
        }
    }
}

/// A list of at most `most` items.
pub fn items_at_most<T>(most: usize) -> impl Fn(&Field<Vec<T>>, &Moment) -> Verdict {
    move |field, moment| {
        moment.rule(|| json!({ "maxItems": most }))?;
        match field.value() {
            Some(items) if items.len() > most => refuse(format!("Too big: expected array to have <={most} items")),
            _ => Ok(()),
        }
    }
}
