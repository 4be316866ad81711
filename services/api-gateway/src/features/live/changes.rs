//! Rows that have changed, read once for all sockets that follow their tables.
//!
//! Events say what happened; what a client of tables is told is the row. It is read in the organization's own
//! transaction, so row-level security stands between organizations here, too. While one read is under way further
//! events gather and share the next, so what is read does not grow with the sockets, and falls behind with the events
//! only as far as a read takes.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use db::{Db, DbResult};
use domain::change::{Column, Operation, Record, Table};
use domain::{ExpenseId, SessionId, Tenant};
use futures_util::{StreamExt, stream};
use queue::live::Live;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::Hub;

/// Events whose rows are read together.
const AT_ONCE: usize = 256;

/// Organizations that are read side by side: requests need connections, too.
const SIDE_BY_SIDE: usize = 3;

/// A row that has changed.
#[derive(Debug)]
pub struct Change {
    /// Of this table.
    pub table: Table,
    /// How.
    pub operation: Operation,
    /// As it is now.
    pub record: Record,
    /// Whose row it is.
    pub employee: Option<Uuid>,
    /// Whether a newer one follows soon: a position.
    pub is_passing: bool,
    told_at: String,
    data: String,
}

impl Change {
    /// A change that was told at that time.
    #[must_use]
    pub fn new(table: Table, operation: Operation, record: Record, told_at: String, is_passing: bool) -> Self {
        let mut change = Self {
            table,
            operation,
            employee: record.id("employee_id"),
            record,
            is_passing,
            told_at,
            data: String::new(),
        };
        let record = change.record.text();
        change.data = change.described(table.columns().iter().copied(), record);
        change
    }

    /// As clients of Supabase Realtime read it, with every column.
    #[must_use]
    pub fn data(&self) -> &str {
        &self.data
    }

    /// The same with these columns only.
    #[must_use]
    pub fn data_of(&self, columns: &[Column]) -> String {
        let values: Vec<String> = columns
            .iter()
            .map(|column| format!("{}:{}", json!(column.name), self.record.value(column.name).unwrap_or("null")))
            .collect();
        self.described(columns.iter().copied(), &format!("{{{}}}", values.join(",")))
    }

    fn described(&self, columns: impl Iterator<Item = Column>, record: &str) -> String {
        let columns: Vec<_> = columns.map(|column| json!({ "name": column.name, "type": column.kind })).collect();
        // As with the replica identity that tables have unless told otherwise: of the old row its key.
        let old = match self.operation {
            Operation::Insert => String::new(),
            Operation::Update => format!(r#""old_record":{{"id":{}}},"#, self.record.value("id").unwrap_or("null")),
        };
        format!(
            r#"{{"schema":"public","table":"{}","type":"{}","commit_timestamp":{},"columns":{},"record":{record},{old}"errors":null}}"#,
            self.table.name(),
            self.operation.as_str(),
            json!(self.told_at),
            json!(columns),
        )
    }
}

/// What open streams were told, as far as it says which row.
#[derive(Deserialize)]
struct Told {
    #[serde(rename = "type")]
    kind: String,
    payload: Named,
    ts: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    session_id: Option<Uuid>,
    expense_id: Option<Uuid>,
    recorded_at: Option<DateTime<Utc>>,
}

/// Which row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Row(Table, Uuid),
    /// Fixes are known by their session and their time.
    Fix(Uuid, DateTime<Utc>),
}

impl Told {
    fn read(body: &str) -> Option<(Table, Operation, Key, String)> {
        let Self { kind, payload, ts } = serde_json::from_str(body).ok()?;
        let (table, operation) = Table::changed_by(&kind)?;
        let key = match table {
            Table::Sessions => Key::Row(table, payload.session_id?),
            Table::Expenses => Key::Row(table, payload.expense_id?),
            Table::Locations => Key::Fix(payload.session_id?, payload.recorded_at?),
        };
        Some((table, operation, key, ts))
    }
}

/// Reads what has changed and tells the hub's sockets, for as long as there is something to read.
pub async fn run(hub: Arc<Hub>, db: Db, mut changed: mpsc::Receiver<Live>) {
    let mut batch = Vec::new();
    while changed.recv_many(&mut batch, AT_ONCE).await > 0 {
        let mut organizations: HashMap<Uuid, Vec<Live>> = HashMap::new();
        for live in batch.drain(..) {
            organizations.entry(live.organization).or_default().push(live);
        }
        stream::iter(organizations)
            .for_each_concurrent(SIDE_BY_SIDE, |(organization, events)| {
                let (hub, db) = (&hub, &db);
                async move {
                    let Some(tenant) = hub.followers(organization) else { return };
                    match read(db, tenant, events).await {
                        Ok(changes) => hub.tell(organization, &changes),
                        Err(error) => {
                            tracing::warn!(error.message = %error, "changed rows could not be read; their sockets end");
                            hub.end_followers(organization);
                        }
                    }
                }
            })
            .await;
    }
}

/// The rows that events of one organization tell of, in the order of the events.
async fn read(db: &Db, tenant: Tenant, events: Vec<Live>) -> DbResult<Vec<Arc<Change>>> {
    let told: Vec<_> =
        events.iter().filter_map(|live| Told::read(&live.body).map(|told| (told, live.about.is_some()))).collect();
    let (mut sessions, mut expenses, mut fixes) = (Vec::new(), Vec::new(), Vec::new());
    for ((_, _, key, _), _) in &told {
        match *key {
            Key::Row(Table::Expenses, id) => expenses.push(ExpenseId::from(id)),
            Key::Row(_, id) => sessions.push(SessionId::from(id)),
            Key::Fix(session, at) => fixes.push((SessionId::from(session), at)),
        }
    }
    let mut tx = db.tenant(tenant).await?;
    let found = [
        (Table::Sessions, db::changes::sessions(&mut tx, &sessions).await?),
        (Table::Expenses, db::changes::expenses(&mut tx, &expenses).await?),
        (Table::Locations, db::changes::locations(&mut tx, &fixes).await?),
    ];
    tx.commit().await?;
    let mut rows = HashMap::new();
    for (table, records) in found {
        for record in records.into_iter().filter_map(|text| Record::parse(text).ok()) {
            rows.extend(key(table, &record).map(|key| (key, record)));
        }
    }
    // A row that is gone has nothing to tell; a row with two events is told twice, as it is now.
    Ok(told
        .into_iter()
        .filter_map(|((table, operation, key, ts), is_passing)| {
            let record = rows.get(&key)?.clone();
            Some(Arc::new(Change::new(table, operation, record, ts, is_passing)))
        })
        .collect())
}

fn key(table: Table, record: &Record) -> Option<Key> {
    match table {
        Table::Sessions | Table::Expenses => Some(Key::Row(table, record.id("id")?)),
        Table::Locations => {
            let at = serde_json::from_str(record.value("recorded_at")?).ok()?;
            Some(Key::Fix(record.id("session_id")?, at))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn a_change_is_told_as_supabase_tells_it() {
        const ID: &str = "3f9f0c52-1f5e-4a55-9f0e-5d1b6f0a7c11";
        let record = || Record::parse(format!(r#"{{"id":"{ID}","employee_id":"{ID}","amount":0.10}}"#)).unwrap();
        let at = "2026-03-10T08:00:00.000Z".to_owned();
        let change = Change::new(Table::Expenses, Operation::Update, record(), at.clone(), false);
        let data: Value = serde_json::from_str(change.data()).unwrap();
        let names: Vec<&str> = data.as_object().unwrap().keys().map(String::as_str).collect();
        let expected = ["columns", "commit_timestamp", "errors", "old_record", "record", "schema", "table", "type"];
        assert_eq!(names, expected);
        assert_eq!((&data["old_record"], &data["type"]), (&json!({ "id": ID }), &json!("UPDATE")));
        assert_eq!(data["columns"][3], json!({ "name": "amount", "type": "numeric" }));
        assert!(change.data().contains(r#""amount":0.10}"#), "{}", change.data());
        let amount = Table::Expenses.column("amount").unwrap();
        let part: Value = serde_json::from_str(&change.data_of(&[amount])).unwrap();
        assert_eq!((&part["record"], part["columns"].as_array().unwrap().len()), (&json!({ "amount": 0.1 }), 1));
        let new = Change::new(Table::Expenses, Operation::Insert, record(), at, false);
        assert!(!new.data().contains("old_record"));
    }

    #[test]
    fn events_say_which_row() {
        let id = Uuid::nil();
        let body = |kind: &str, payload: serde_json::Value| {
            json!({ "type": kind, "payload": payload, "ts": "2026-03-10T08:00:00.000Z" }).to_string()
        };
        let key = |body: &str| Told::read(body).map(|(_, _, key, _)| key);
        let session = body("session.checkin", json!({ "sessionId": id, "session": {} }));
        assert_eq!(key(&session), Some(Key::Row(Table::Sessions, id)));
        let at = "2026-03-10T08:00:00.000001+00:00";
        let fix = body("location.updated", json!({ "sessionId": id, "recordedAt": at }));
        assert_eq!(key(&fix), Some(Key::Fix(id, at.parse().unwrap())));
        for nothing in ["", "{}", &body("history.gap", json!({})), &body("expense.status", json!({}))] {
            assert_eq!(key(nothing), None, "{nothing}");
        }
    }
}
