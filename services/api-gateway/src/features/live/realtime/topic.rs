//! A topic a client has joined: which changes of which tables it wants to hear of.

use domain::change::{Column, Filter, Operation, Table};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::protocol::{Ref, Vsn, write};
use crate::features::live::changes::Change;

/// What one topic may want at the most.
const MOST_BINDINGS: usize = 50;

/// Which rows a client may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sees {
    /// Those of the whole organization.
    Everything,
    /// Those of one employee.
    Only(Uuid),
}

/// Which operations are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Any,
    Only(Operation),
    /// Rows of these tables are never deleted.
    Never,
}

/// One thing a topic wants.
#[derive(Debug)]
struct Binding {
    id: u64,
    wanted: Wanted,
    /// `None`: every table that can be followed.
    table: Option<Table>,
    filter: Filter,
    /// `None`: every column.
    columns: Option<Vec<Column>>,
}

/// A topic that was joined.
#[derive(Debug)]
pub struct Topic {
    /// The message that joined it.
    pub join_ref: Ref,
    bindings: Vec<Binding>,
}

/// What a client asks of a topic.
#[derive(Debug, Default, Deserialize)]
pub struct Join {
    #[serde(default)]
    config: Config,
    /// Who asks.
    pub access_token: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Config {
    #[serde(default)]
    postgres_changes: Vec<Map<String, Value>>,
}

#[derive(Deserialize)]
struct Asked {
    event: String,
    schema: String,
    table: Option<String>,
    filter: Option<String>,
    select: Option<Vec<String>>,
}

impl Topic {
    /// Reads what is asked; answers the topic, and what the client is told of it. `next` is the number of the next
    /// binding: numbers are not used again, so a late message of a topic that was left fits no binding of a new one.
    pub fn read(join: &Join, join_ref: Ref, next: &mut u64) -> Result<(Self, Value), String> {
        let asked = &join.config.postgres_changes;
        if asked.len() > MOST_BINDINGS {
            return Err(format!("at most {MOST_BINDINGS} postgres_changes a channel"));
        }
        let (mut bindings, mut told) = (Vec::new(), Vec::new());
        for one in asked {
            let read = Asked::deserialize(Value::Object(one.clone())).map_err(|error| error.to_string())?;
            *next += 1;
            bindings.push(Binding::read(read, *next)?);
            // The client compares what it asked for with what comes back.
            let mut one = one.clone();
            one.insert("id".to_owned(), (*next).into());
            told.push(Value::Object(one));
        }
        Ok((Self { join_ref, bindings }, json!({ "postgres_changes": told })))
    }

    /// How many things it wants to hear of.
    pub const fn wants(&self) -> usize {
        self.bindings.len()
    }

    /// The tables it wants to hear of.
    pub fn tables(&self) -> impl Iterator<Item = Table> + '_ {
        let heard = self.bindings.iter().filter(|binding| binding.wanted != Wanted::Never);
        heard.flat_map(|binding| Table::ALL.into_iter().filter(|table| binding.table.is_none_or(|one| one == *table)))
    }

    /// The messages that tell it of a change: one for all who want every column, and one for each who wants some.
    pub fn messages(&self, vsn: Vsn, name: &str, change: &Change, sees: Sees) -> Vec<String> {
        let may_see = match sees {
            Sees::Everything => true,
            Sees::Only(employee) => change.employee == Some(employee),
        };
        if !may_see {
            return Vec::new();
        }
        let message = |ids: &[u64], data: &str| {
            let payload = format!(r#"{{"ids":{},"data":{data}}}"#, json!(ids));
            write(vsn, &self.join_ref, &Ref::none(), name, "postgres_changes", &payload)
        };
        let (some, all): (Vec<&Binding>, Vec<&Binding>) =
            self.bindings.iter().filter(|one| one.matches(change)).partition(|one| one.columns.is_some());
        let mut messages = Vec::new();
        if !all.is_empty() {
            messages.push(message(&all.iter().map(|one| one.id).collect::<Vec<_>>(), change.data()));
        }
        for binding in some {
            let columns = binding.columns.as_deref().unwrap_or_default();
            messages.push(message(&[binding.id], &change.data_of(columns)));
        }
        messages
    }
}

impl Binding {
    fn read(asked: Asked, id: u64) -> Result<Self, String> {
        let Asked { event, schema, table, filter, select } = asked;
        let wanted = match event.to_ascii_uppercase().as_str() {
            "*" => Wanted::Any,
            "INSERT" => Wanted::Only(Operation::Insert),
            "UPDATE" => Wanted::Only(Operation::Update),
            "DELETE" => Wanted::Never,
            _ => return Err(format!("there is no event {event:?}")),
        };
        if !matches!(schema.as_str(), "public" | "*") {
            return Err(format!("the schema {schema:?} cannot be followed"));
        }
        let table = match table.as_deref() {
            None | Some("*") => None,
            Some(name) => Some(Table::parse(name).ok_or_else(|| format!("the table {name:?} cannot be followed"))?),
        };
        let of_one_table = |what: &str| table.ok_or_else(|| format!("a {what} needs a table"));
        let filter = match filter.as_deref() {
            None | Some("") => Filter::default(),
            Some(text) => Filter::parse(of_one_table("filter")?, text).map_err(|error| error.to_string())?,
        };
        let columns = match select {
            None => None,
            Some(names) => {
                let table = of_one_table("selection of columns")?;
                let column = |name: String| table.column(&name).ok_or_else(|| format!("there is no column {name:?}"));
                Some(names.into_iter().map(column).collect::<Result<Vec<_>, _>>()?)
            }
        };
        Ok(Self { id, wanted, table, filter, columns })
    }

    fn matches(&self, change: &Change) -> bool {
        let operation = match self.wanted {
            Wanted::Any => true,
            Wanted::Only(operation) => operation == change.operation,
            Wanted::Never => false,
        };
        operation && self.table.is_none_or(|table| table == change.table) && self.filter.matches(&change.record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(asked: Value) -> Result<(Topic, Value), String> {
        let join = Join::deserialize(json!({ "config": { "postgres_changes": asked } })).unwrap();
        Topic::read(&join, Ref::none(), &mut 6)
    }

    #[test]
    fn what_was_asked_for_comes_back_with_a_number() {
        let one = json!({ "event": "*", "schema": "public", "table": "expenses", "filter": "status=eq.PENDING" });
        let two = json!({ "event": "DELETE", "schema": "public" });
        let (topic, told) = read(json!([one, two])).unwrap();
        assert_eq!(told["postgres_changes"][0]["id"], 7);
        assert_eq!(told["postgres_changes"][0]["filter"], "status=eq.PENDING");
        assert_eq!(told["postgres_changes"][1], json!({ "id": 8, "event": "DELETE", "schema": "public" }));
        assert_eq!(topic.tables().collect::<Vec<_>>(), [Table::Expenses]);
        let (all, _) = read(json!([{ "event": "insert", "schema": "*" }])).unwrap();
        assert_eq!(all.tables().collect::<Vec<_>>(), Table::ALL);
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        for (asked, why) in [
            (json!({ "event": "*", "schema": "public", "table": "users" }), "the table \"users\" cannot be followed"),
            (json!({ "event": "*", "schema": "auth" }), "the schema \"auth\" cannot be followed"),
            (json!({ "event": "TRUNCATE", "schema": "public" }), "there is no event \"TRUNCATE\""),
            (json!({ "event": "*", "schema": "public", "filter": "id=eq.1" }), "a filter needs a table"),
            (json!({ "event": "*" }), "missing field `schema`"),
            (
                json!({ "event": "*", "schema": "public", "table": "expenses", "select": ["secret"] }),
                "there is no column \"secret\"",
            ),
        ] {
            assert_eq!(read(json!([asked])).unwrap_err(), why);
        }
        let many = vec![json!({ "event": "*", "schema": "public" }); MOST_BINDINGS + 1];
        assert!(read(json!(many)).is_err());
    }
}
