//! Changes of rows, as they are told to clients that follow tables: which tables, which columns, and which of their rows
//! somebody wants to hear of.
//!
//! Filters are those of Supabase Realtime: conditions `column=operator.value` with commas between them, all of which must
//! hold. What a condition says of a column is decided as SQL decides it: about `NULL` most of them say neither yes nor no.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::money::Money;

/// A table that can be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// Sessions of work.
    Sessions,
    /// Where people were.
    Locations,
    /// Claims.
    Expenses,
}

/// What happened to a row. Nothing of these tables is ever deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// It is new.
    Insert,
    /// It has changed.
    Update,
}

impl Operation {
    /// As clients read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
        }
    }
}

/// A column, with its type as PostgreSQL calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// The name of its type.
    pub kind: &'static str,
}

const fn column(name: &'static str, kind: &'static str) -> Column {
    Column { name, kind }
}

const SESSIONS: &[Column] = &[
    column("id", "uuid"),
    column("organization_id", "uuid"),
    column("employee_id", "uuid"),
    column("checkin_at", "timestamptz"),
    column("checkout_at", "timestamptz"),
    column("distance_recalculation_status", "text"),
    column("total_distance_km", "float8"),
    column("total_duration_seconds", "int4"),
    column("created_at", "timestamptz"),
    column("updated_at", "timestamptz"),
];

const LOCATIONS: &[Column] = &[
    column("id", "uuid"),
    column("organization_id", "uuid"),
    column("session_id", "uuid"),
    column("employee_id", "uuid"),
    column("latitude", "float8"),
    column("longitude", "float8"),
    column("accuracy", "float8"),
    column("recorded_at", "timestamptz"),
    column("sequence_number", "int8"),
    column("is_duplicate", "bool"),
];

const EXPENSES: &[Column] = &[
    column("id", "uuid"),
    column("organization_id", "uuid"),
    column("employee_id", "uuid"),
    column("amount", "numeric"),
    column("description", "text"),
    column("status", "expense_status"),
    column("receipt_url", "text"),
    column("submitted_at", "timestamptz"),
    column("reviewed_at", "timestamptz"),
    column("reviewed_by", "uuid"),
    column("rejection_comment", "text"),
    column("idempotency_key", "text"),
    column("created_at", "timestamptz"),
    column("updated_at", "timestamptz"),
];

impl Table {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sessions, Self::Locations, Self::Expenses];

    /// Its name in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sessions => "attendance_sessions",
            Self::Locations => "gps_locations",
            Self::Expenses => "expenses",
        }
    }

    /// The table of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }

    /// The columns that are told: those of the contract, and none that are only ours.
    #[must_use]
    pub const fn columns(self) -> &'static [Column] {
        match self {
            Self::Sessions => SESSIONS,
            Self::Locations => LOCATIONS,
            Self::Expenses => EXPENSES,
        }
    }

    /// The column of that name, if it is told.
    #[must_use]
    pub fn column(self, name: &str) -> Option<Column> {
        self.columns().iter().copied().find(|column| column.name == name)
    }

    /// What an event that open streams are told means for a table; `None` for one that means nothing.
    #[must_use]
    pub fn changed_by(event: &str) -> Option<(Self, Operation)> {
        match event {
            "session.checkin" => Some((Self::Sessions, Operation::Insert)),
            "session.checkout" => Some((Self::Sessions, Operation::Update)),
            "location.updated" => Some((Self::Locations, Operation::Insert)),
            "expense.created" => Some((Self::Expenses, Operation::Insert)),
            "expense.status" => Some((Self::Expenses, Operation::Update)),
            _ => None,
        }
    }
}

/// A row as JSON, every digit of it.
#[derive(Debug, Clone)]
pub struct Record {
    text: String,
    values: BTreeMap<String, Box<RawValue>>,
}

impl Record {
    /// Reads the row.
    pub fn parse(text: String) -> serde_json::Result<Self> {
        Ok(Self { values: serde_json::from_str(&text)?, text })
    }

    /// All of it, as JSON.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A column, as JSON.
    #[must_use]
    pub fn value(&self, column: &str) -> Option<&str> {
        self.values.get(column).map(|value| value.get())
    }

    /// A column that is a UUID.
    #[must_use]
    pub fn id(&self, column: &str) -> Option<Uuid> {
        serde_json::from_str(self.value(column)?).ok()
    }

    /// What a column holds; `None` for `NULL`, and for what is not of its type.
    fn typed(&self, column: Column) -> Option<Value> {
        let json = self.value(column.name)?;
        match json.as_bytes().first()? {
            b'"' => Value::parse(column, &serde_json::from_str::<String>(json).ok()?),
            b'n' => None,
            _ => Value::parse(column, json),
        }
    }
}

/// A value of a column.
#[derive(Debug, Clone, PartialEq, PartialOrd)]
enum Value {
    Uuid(Uuid),
    Time(DateTime<Utc>),
    Number(Money),
    Bool(bool),
    Text(String),
}

impl Value {
    fn parse(column: Column, text: &str) -> Option<Self> {
        match column.kind {
            "uuid" => Uuid::try_parse(text).ok().map(Self::Uuid),
            "timestamptz" => DateTime::parse_from_rfc3339(text).ok().map(|time| Self::Time(time.to_utc())),
            "float8" | "int4" | "int8" | "numeric" => Money::from_json(text).map(Self::Number),
            "bool" => match text {
                "true" | "t" => Some(Self::Bool(true)),
                "false" | "f" => Some(Self::Bool(false)),
                _ => None,
            },
            _ => Some(Self::Text(text.to_owned())),
        }
    }
}

/// What a condition asks of a column.
#[derive(Debug, Clone, PartialEq)]
enum Test {
    /// Any of these orders, compared with the value.
    Compares(&'static [Ordering], Value),
    /// One of these.
    In(Vec<Value>),
    /// `%` stands for anything, `_` for one character.
    Like { pattern: Vec<char>, any_case: bool },
    /// `NULL`.
    IsNull,
    /// True or false.
    Is(bool),
    /// Another value; `NULL` is another than any.
    Differs(Option<Value>),
}

#[derive(Debug, Clone, PartialEq)]
struct Condition {
    column: Column,
    negated: bool,
    test: Test,
}

/// Which rows of a table somebody wants to hear of.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Filter(Vec<Condition>);

/// Why a filter is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A condition is none.
    #[error("the filter {0:?} is not of the form column=operator.value")]
    Malformed(String),
    /// There is no such column.
    #[error("there is no column {0:?}")]
    NoColumn(String),
    /// There is no such operator here.
    #[error("the operator {0:?} is not provided")]
    NoOperator(String),
    /// A value is not of its column's type.
    #[error("{value:?} is no value of {column}")]
    NoValue {
        /// The column.
        column: &'static str,
        /// What was given for it.
        value: String,
    },
}

/// What a filter may be long.
pub const MAX_FILTER_LEN: usize = 2048;

impl Filter {
    /// Reads a filter of a table; an empty one lets everything pass.
    pub fn parse(table: Table, text: &str) -> Result<Self, FilterError> {
        let malformed = |part: &str| FilterError::Malformed(part.chars().take(100).collect());
        if text.len() > MAX_FILTER_LEN {
            return Err(malformed(text));
        }
        if text.is_empty() {
            return Ok(Self::default());
        }
        let mut conditions = Vec::new();
        for part in pieces(text).ok_or_else(|| malformed(text))? {
            let (name, rest) = part.split_once('=').ok_or_else(|| malformed(part))?;
            let column = table.column(name.trim()).ok_or_else(|| FilterError::NoColumn(name.trim().to_owned()))?;
            let (negated, rest) = rest.strip_prefix("not.").map_or((false, rest), |rest| (true, rest));
            let (operator, value) = rest.split_once('.').ok_or_else(|| malformed(part))?;
            conditions.push(Condition { column, negated, test: test(column, operator, value)? });
        }
        Ok(Self(conditions))
    }

    /// Whether a row is wanted.
    #[must_use]
    pub fn matches(&self, record: &Record) -> bool {
        self.0.iter().all(|condition| condition.holds(record) == Some(true))
    }
}

impl Condition {
    /// Yes, no, or, as about most of what is `NULL`, neither.
    fn holds(&self, record: &Record) -> Option<bool> {
        let value = record.typed(self.column);
        let holds = match &self.test {
            Test::IsNull => value.is_none(),
            Test::Is(wanted) => value == Some(Value::Bool(*wanted)),
            Test::Differs(other) => value != *other,
            Test::Compares(orders, other) => orders.contains(&value?.partial_cmp(other)?),
            Test::In(others) => others.contains(&value?),
            Test::Like { pattern, any_case } => match value? {
                Value::Text(text) if *any_case => is_like(&letters(&text.to_lowercase()), pattern),
                Value::Text(text) => is_like(&letters(&text), pattern),
                _ => return None,
            },
        };
        Some(holds != self.negated)
    }
}

fn letters(text: &str) -> Vec<char> {
    text.chars().collect()
}

fn test(column: Column, operator: &str, text: &str) -> Result<Test, FilterError> {
    use Ordering::{Equal, Greater, Less};
    let value = |text: &str| {
        let given = unquoted(text);
        Value::parse(column, &given).ok_or(FilterError::NoValue { column: column.name, value: given })
    };
    let no_value = || FilterError::NoValue { column: column.name, value: text.to_owned() };
    Ok(match operator {
        "eq" => Test::Compares(&[Equal], value(text)?),
        "neq" => Test::Compares(&[Less, Greater], value(text)?),
        "lt" => Test::Compares(&[Less], value(text)?),
        "lte" => Test::Compares(&[Less, Equal], value(text)?),
        "gt" => Test::Compares(&[Greater], value(text)?),
        "gte" => Test::Compares(&[Greater, Equal], value(text)?),
        "in" => {
            let list = text.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).ok_or_else(no_value)?;
            Test::In(pieces(list).ok_or_else(no_value)?.into_iter().map(value).collect::<Result<_, _>>()?)
        }
        "like" | "ilike" if matches!(column.kind, "text" | "expense_status") => {
            let (pattern, any_case) = (unquoted(text), operator == "ilike");
            Test::Like { pattern: letters(&if any_case { pattern.to_lowercase() } else { pattern }), any_case }
        }
        "is" => match text {
            "null" => Test::IsNull,
            "true" | "false" if column.kind == "bool" => Test::Is(text == "true"),
            _ => return Err(no_value()),
        },
        "isdistinct" if text == "null" => Test::Differs(None),
        "isdistinct" => Test::Differs(Some(value(text)?)),
        other => return Err(FilterError::NoOperator(other.chars().take(20).collect())),
    })
}

/// What stands between commas that are in neither quotes nor parentheses; `None` when one of those is not closed.
fn pieces(text: &str) -> Option<Vec<&str>> {
    let (mut found, mut begin) = (Vec::new(), 0);
    let (mut quoted, mut escaped, mut depth) = (false, false, 0_u32);
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth = depth.checked_sub(1)?,
            ',' if !quoted && depth == 0 => {
                found.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    found.push(&text[begin..]);
    (!quoted && depth == 0).then_some(found)
}

/// A value without the quotes around it.
fn unquoted(text: &str) -> String {
    let Some(inner) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return text.to_owned() };
    let mut plain = String::with_capacity(inner.len());
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        plain.push(if letter == '\\' { letters.next().unwrap_or('\\') } else { letter });
    }
    plain
}

/// Whether a text is like a pattern, in time of at most their product.
fn is_like(text: &[char], pattern: &[char]) -> bool {
    let (mut at, mut place) = (0, 0);
    // Where the last `%` was, and how much of the text it stands for so far.
    let mut last: Option<(usize, usize)> = None;
    while at < text.len() {
        let (literal, width) = match pattern.get(place) {
            Some('\\') => (pattern.get(place + 1).copied(), 2),
            Some('%') => {
                last = Some((place, at));
                place += 1;
                continue;
            }
            Some('_') => {
                (at, place) = (at + 1, place + 1);
                continue;
            }
            other => (other.copied(), 1),
        };
        if literal == Some(text[at]) {
            (at, place) = (at + 1, place + width);
        } else if let Some((percent, stands_for)) = last {
            last = Some((percent, stands_for + 1));
            (at, place) = (stands_for + 1, percent + 1);
        } else {
            return false;
        }
    }
    pattern[place..].iter().all(|letter| *letter == '%')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f9f0c52-1f5e-4a55-9f0e-5d1b6f0a7c11";

    fn expense() -> Record {
        Record::parse(format!(
            r#"{{"id":"{ID}","organization_id":"{ID}","amount":12345678901234567890.12,"description":"Fuel, and \"oil\"",
                "status":"PENDING","receipt_url":null,"submitted_at":"2026-03-10T08:00:00.5+00:00"}}"#
        ))
        .unwrap()
    }

    fn wants(filter: &str) -> bool {
        Filter::parse(Table::Expenses, filter).unwrap_or_else(|error| panic!("{filter}: {error}")).matches(&expense())
    }

    #[test]
    fn conditions_are_decided_as_sql_decides_them() {
        for yes in [
            "",
            "id=eq.3f9f0c52-1f5e-4a55-9f0e-5d1b6f0a7c11",
            "id=eq.3F9F0C52-1F5E-4A55-9F0E-5D1B6F0A7C11",
            "status=neq.APPROVED",
            "status=in.(APPROVED,PENDING)",
            "status=not.in.(APPROVED,REJECTED)",
            "amount=gt.12345678901234567890.11",
            "amount=lte.12345678901234567890.12",
            "amount=eq.12345678901234567890.120",
            "submitted_at=gte.2026-03-10T09:00:00+01:00",
            "submitted_at=lt.2026-03-10T08:00:01Z",
            "receipt_url=is.null",
            "description=not.is.null",
            "receipt_url=isdistinct.x",
            "description=like.Fuel%",
            "description=like.%and _oil_",
            "description=ilike.fUEL%OIL%",
            r#"description=eq."Fuel, and \"oil\"""#,
            r#"description=in.(a,"Fuel, and \"oil\"")"#,
            "status=eq.PENDING,amount=gt.1",
        ] {
            assert!(wants(yes), "{yes}");
        }
        for no in [
            "status=eq.APPROVED",
            "status=not.eq.PENDING",
            "status=in.(APPROVED,REJECTED)",
            "amount=lt.12345678901234567890.12",
            "submitted_at=gt.2026-03-10T08:00:00.5Z",
            "status=eq.PENDING,amount=lt.1",
            "description=like.fuel%",
            "description=like.Fuel",
            "description=not.like.%oil%",
            // About NULL neither yes nor no is said.
            "receipt_url=eq.x",
            "receipt_url=neq.x",
            "receipt_url=not.eq.x",
            "receipt_url=isdistinct.null",
            "receipt_url=not.is.null",
        ] {
            assert!(!wants(no), "{no}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let refused = |filter: &str| Filter::parse(Table::Expenses, filter).unwrap_err().to_string();
        assert_eq!(refused("dirty_from=eq.1"), "there is no column \"dirty_from\"");
        assert_eq!(refused("description=match.^F"), "the operator \"match\" is not provided");
        assert_eq!(refused("id=eq.7"), "\"7\" is no value of id");
        assert_eq!(refused("amount=gt.much"), "\"much\" is no value of amount");
        assert_eq!(refused("id=like.3%"), "the operator \"like\" is not provided");
        for malformed in ["status", "status=PENDING", "status=in.(a", "description=eq.\"a", "status=eq.a)"] {
            assert!(refused(malformed).contains("is not of the form"), "{malformed}");
        }
        assert!(refused("status=in.PENDING").contains("is no value"));
        assert!(refused(&"x".repeat(MAX_FILTER_LEN + 1)).contains("is not of the form"));
    }

    #[test]
    fn patterns_with_many_wildcards_end() {
        let text = "a".repeat(1000);
        let pattern = letters(&"%a".repeat(500));
        assert!(is_like(&letters(&text), &pattern));
        assert!(!is_like(&letters(&text), &[pattern, letters("b")].concat()));
        assert!(is_like(&letters("50%"), &letters("50\\%")) && !is_like(&letters("500"), &letters("50\\%")));
        assert!(is_like(&[], &letters("%")) && !is_like(&[], &letters("_")));
    }

    #[test]
    fn events_that_streams_are_told_are_changes_of_tables() {
        assert_eq!(Table::changed_by("session.checkout"), Some((Table::Sessions, Operation::Update)));
        assert_eq!(Table::changed_by("connected"), None);
        for table in Table::ALL {
            assert_eq!(Table::parse(table.name()), Some(table));
            assert!(table.column("organization_id").is_some() && table.column("employee_id").is_some());
        }
        assert_eq!(expense().id("id"), Uuid::try_parse(ID).ok());
    }
}
