//! What happened: the one source of webhooks and live streams.
//!
//! An event is written in the transaction of the change it tells of. One event becomes a message for each name that the
//! webhook contract has for it, and at most one for open streams.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::attendance::Session;
use crate::clock::{Replied, Stored};
use crate::employee::Employee;
use crate::expense::{Expense, ExpenseStatus};
use crate::id::{EmployeeId, EventId, ExpenseId, OrganizationId, SessionId, UserId};
use crate::money::Money;

/// The names events have for webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Somebody began to work.
    SessionCheckin,
    /// Somebody stopped working.
    SessionCheckout,
    /// The older name of [`EventType::SessionCheckin`].
    EmployeeCheckedIn,
    /// The older name of [`EventType::SessionCheckout`].
    EmployeeCheckedOut,
    /// Somebody claims an expense.
    ExpenseCreated,
    /// A claim was approved.
    ExpenseApproved,
    /// A claim was rejected.
    ExpenseRejected,
    /// Somebody was employed.
    EmployeeCreated,
}

impl EventType {
    /// Every name, in the order of the contract.
    pub const ALL: [Self; 8] = [
        Self::SessionCheckin,
        Self::SessionCheckout,
        Self::EmployeeCheckedIn,
        Self::EmployeeCheckedOut,
        Self::ExpenseCreated,
        Self::ExpenseApproved,
        Self::ExpenseRejected,
        Self::EmployeeCreated,
    ];

    /// As it is written on the wire and stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SessionCheckin => "session.checkin",
            Self::SessionCheckout => "session.checkout",
            Self::EmployeeCheckedIn => "employee.checked_in",
            Self::EmployeeCheckedOut => "employee.checked_out",
            Self::ExpenseCreated => "expense.created",
            Self::ExpenseApproved => "expense.approved",
            Self::ExpenseRejected => "expense.rejected",
            Self::EmployeeCreated => "employee.created",
        }
    }

    /// Reads it; `None` for any other word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Something that happened and that others want to hear of.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Somebody began to work; the session as it was opened.
    CheckedIn(Session),
    /// A session was closed, by whomever; as it was closed.
    CheckedOut(Session),
    /// Somebody claims an expense.
    ExpenseCreated(Expense),
    /// A claim was approved or rejected; as it is now.
    ExpenseReviewed(Expense),
    /// Somebody was employed.
    EmployeeCreated(Employee),
}

/// What is stored of an event, and handed on: one for each name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its own id.
    pub id: EventId,
    /// Its name.
    pub kind: EventType,
    /// The body of a webhook request as JSON: `{id, type, version, occurred_at, organization_id, data}`. Text, so that
    /// amounts keep every digit.
    pub envelope: String,
    /// What open streams are told as JSON: `{type, payload, ts}`. On one message of an event at most.
    pub live: Option<String>,
}

#[derive(Serialize)]
struct Envelope<'a, T> {
    id: EventId,
    #[serde(rename = "type")]
    kind: &'static str,
    version: u8,
    occurred_at: Replied,
    organization_id: OrganizationId,
    data: &'a T,
}

#[derive(Serialize)]
struct Live<T> {
    #[serde(rename = "type")]
    kind: &'static str,
    payload: T,
    ts: Replied,
}

#[derive(Serialize)]
struct OfSession {
    employee_id: EmployeeId,
    session_id: SessionId,
    #[serde(skip_serializing_if = "Option::is_none")]
    checkin_at: Option<Stored>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checkout_at: Option<Stored>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LiveSession<'a> {
    session_id: SessionId,
    employee_id: EmployeeId,
    session: &'a Session,
}

impl<'a> LiveSession<'a> {
    const fn of(session: &'a Session) -> Self {
        Self { session_id: session.id, employee_id: session.employee, session }
    }
}

#[derive(Serialize)]
struct Claimed<'a> {
    expense_id: ExpenseId,
    employee_id: EmployeeId,
    amount: &'a Money,
    description: &'a str,
    submitted_at: Stored,
}

#[derive(Serialize)]
struct Approved<'a> {
    expense_id: ExpenseId,
    employee_id: EmployeeId,
    amount: &'a Money,
    description: &'a str,
    approved_by: Option<UserId>,
    reviewed_at: Option<Stored>,
}

#[derive(Serialize)]
struct Rejected<'a> {
    expense_id: ExpenseId,
    employee_id: EmployeeId,
    amount: &'a Money,
    description: &'a str,
    rejected_by: Option<UserId>,
    reviewed_at: Option<Stored>,
    rejection_comment: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LiveExpense<'a> {
    expense_id: ExpenseId,
    employee_id: EmployeeId,
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<&'a Money>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<ExpenseStatus>,
}

#[derive(Serialize)]
struct Employed<'a> {
    employee_id: EmployeeId,
    employee_code: &'a str,
    name: &'a str,
    created_at: Stored,
}

impl Event {
    /// The messages of an event of `organization` at `now`, in the order in which they are to be heard. An error is a
    /// value that is no JSON; none of ours is.
    pub fn messages(&self, organization: OrganizationId, now: DateTime<Utc>) -> serde_json::Result<Vec<Message>> {
        let moment = Moment { organization, now };
        match self {
            Self::CheckedIn(session) => {
                let data = OfSession {
                    employee_id: session.employee,
                    session_id: session.id,
                    checkin_at: Some(Stored(session.checkin_at)),
                    checkout_at: None,
                };
                Ok(vec![
                    moment.message(EventType::EmployeeCheckedIn, &data)?,
                    moment.message(EventType::SessionCheckin, &data)?.live(
                        "session.checkin",
                        LiveSession::of(session),
                        now,
                    )?,
                ])
            }
            Self::CheckedOut(session) => {
                let data = OfSession {
                    employee_id: session.employee,
                    session_id: session.id,
                    checkin_at: None,
                    checkout_at: session.checkout_at.map(Stored),
                };
                Ok(vec![
                    moment.message(EventType::EmployeeCheckedOut, &data)?,
                    moment.message(EventType::SessionCheckout, &data)?.live(
                        "session.checkout",
                        LiveSession::of(session),
                        now,
                    )?,
                ])
            }
            Self::ExpenseCreated(expense) => {
                let data = Claimed {
                    expense_id: expense.id,
                    employee_id: expense.employee,
                    amount: &expense.amount,
                    description: &expense.description,
                    submitted_at: Stored(expense.submitted_at),
                };
                let told = LiveExpense {
                    expense_id: expense.id,
                    employee_id: expense.employee,
                    amount: Some(&expense.amount),
                    status: None,
                };
                Ok(vec![moment.message(EventType::ExpenseCreated, &data)?.live("expense.created", told, now)?])
            }
            Self::ExpenseReviewed(expense) => {
                let message = if expense.status == ExpenseStatus::Rejected {
                    let data = Rejected {
                        expense_id: expense.id,
                        employee_id: expense.employee,
                        amount: &expense.amount,
                        description: &expense.description,
                        rejected_by: expense.reviewed_by,
                        reviewed_at: expense.reviewed_at.map(Stored),
                        rejection_comment: expense.rejection_comment.as_deref(),
                    };
                    moment.message(EventType::ExpenseRejected, &data)?
                } else {
                    let data = Approved {
                        expense_id: expense.id,
                        employee_id: expense.employee,
                        amount: &expense.amount,
                        description: &expense.description,
                        approved_by: expense.reviewed_by,
                        reviewed_at: expense.reviewed_at.map(Stored),
                    };
                    moment.message(EventType::ExpenseApproved, &data)?
                };
                let told = LiveExpense {
                    expense_id: expense.id,
                    employee_id: expense.employee,
                    amount: None,
                    status: Some(expense.status),
                };
                Ok(vec![message.live("expense.status", told, now)?])
            }
            Self::EmployeeCreated(employee) => {
                let data = Employed {
                    employee_id: employee.id,
                    employee_code: &employee.employee_code,
                    name: &employee.name,
                    created_at: Stored(employee.created_at),
                };
                Ok(vec![moment.message(EventType::EmployeeCreated, &data)?])
            }
        }
    }
}

/// Where and when.
#[derive(Clone, Copy)]
struct Moment {
    organization: OrganizationId,
    now: DateTime<Utc>,
}

impl Moment {
    fn message(self, kind: EventType, data: &impl Serialize) -> serde_json::Result<Message> {
        let id = EventId::generate();
        let envelope = Envelope {
            id,
            kind: kind.as_str(),
            version: 1,
            occurred_at: Replied(self.now),
            organization_id: self.organization,
            data,
        };
        Ok(Message { id, kind, envelope: serde_json::to_string(&envelope)?, live: None })
    }
}

impl Message {
    fn live(mut self, kind: &'static str, payload: impl Serialize, now: DateTime<Utc>) -> serde_json::Result<Self> {
        self.live = Some(serde_json::to_string(&Live { kind, payload, ts: Replied(now) })?);
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attendance::DistanceStatus;
    use serde_json::{Value, json};

    /// The messages of an event, read back.
    fn messages(
        event: &Event,
        organization: OrganizationId,
        now: DateTime<Utc>,
    ) -> Vec<(Message, Value, Option<Value>)> {
        let read = |text: &str| serde_json::from_str(text).unwrap();
        let messages = event.messages(organization, now).unwrap();
        messages.into_iter().map(|m| (m.clone(), read(&m.envelope), m.live.as_deref().map(read))).collect()
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_773_129_600 + seconds, 0).unwrap()
    }

    fn session() -> Session {
        Session {
            id: SessionId::generate(),
            employee: EmployeeId::generate(),
            organization: OrganizationId::generate(),
            checkin_at: at(0),
            checkout_at: None,
            total_distance_km: None,
            total_duration_seconds: None,
            distance_status: DistanceStatus::Pending,
            created_at: at(0),
            updated_at: at(0),
        }
    }

    #[test]
    fn names_are_read_back() {
        for kind in EventType::ALL {
            assert_eq!(EventType::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(EventType::parse("webhook.test"), None);
    }

    #[test]
    fn a_check_in_has_two_names_and_one_live_message() {
        let session = session();
        let messages = messages(&Event::CheckedIn(session.clone()), session.organization, at(1));
        let [(older, _, untold), (newer, _, told)] = &messages[..] else { panic!("{messages:?}") };
        assert_eq!([older.kind.as_str(), newer.kind.as_str()], ["employee.checked_in", "session.checkin"]);
        assert_ne!(older.id, newer.id);
        for (message, envelope, _) in &messages {
            let expected = json!({
                "id": message.id,
                "type": message.kind.as_str(),
                "version": 1,
                "occurred_at": "2026-03-10T08:00:01.000Z",
                "organization_id": session.organization,
                "data": {
                    "employee_id": session.employee,
                    "session_id": session.id,
                    "checkin_at": "2026-03-10T08:00:00+00:00",
                },
            });
            assert_eq!(*envelope, expected);
        }
        assert_eq!(*untold, None);
        let expected = json!({
            "type": "session.checkin",
            "payload": { "sessionId": session.id, "employeeId": session.employee, "session": session },
            "ts": "2026-03-10T08:00:01.000Z",
        });
        assert_eq!(*told, Some(expected));
    }

    #[test]
    fn a_check_out_says_when() {
        let mut session = session();
        session.checkout_at = Some(at(60));
        let messages = messages(&Event::CheckedOut(session.clone()), session.organization, at(61));
        let [(older, ..), (_, envelope, told)] = &messages[..] else { panic!("{messages:?}") };
        assert_eq!(older.kind, EventType::EmployeeCheckedOut);
        let data = json!({
            "employee_id": session.employee,
            "session_id": session.id,
            "checkout_at": "2026-03-10T08:01:00+00:00",
        });
        assert_eq!(envelope["data"], data);
        assert_eq!(told.as_ref().unwrap()["type"], "session.checkout");
    }

    #[test]
    fn claims_keep_every_digit_and_reviews_say_by_whom() {
        let mut expense = Expense {
            id: ExpenseId::generate(),
            organization: OrganizationId::generate(),
            employee: EmployeeId::generate(),
            amount: Money::from_json("12345678901234567890.12").unwrap(),
            description: "Fuel".to_owned(),
            status: ExpenseStatus::Pending,
            receipt_url: None,
            submitted_at: at(0),
            reviewed_at: None,
            reviewed_by: None,
            rejection_comment: None,
            created_at: at(0),
            updated_at: at(0),
        };
        let all = |event: Event, expense: &Expense| messages(&event, expense.organization, at(5));
        let created = all(Event::ExpenseCreated(expense.clone()), &expense);
        let [(message, envelope, told)] = &created[..] else { panic!("{created:?}") };
        assert!(message.envelope.contains(r#""amount":12345678901234567890.12,"#), "{}", message.envelope);
        assert!(message.live.as_ref().unwrap().contains(r#""amount":12345678901234567890.12}"#));
        assert_eq!(message.kind, EventType::ExpenseCreated);
        assert_eq!(envelope["data"]["submitted_at"], "2026-03-10T08:00:00+00:00");
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(keys(&envelope["data"]), "amount description employee_id expense_id submitted_at");
        assert_eq!(keys(&told.as_ref().unwrap()["payload"]), "amount employeeId expenseId");

        let reviewer = UserId::generate();
        expense.reviewed_at = Some(at(4));
        expense.reviewed_by = Some(reviewer);
        for (status, kind, by, fields) in [
            (
                ExpenseStatus::Approved,
                EventType::ExpenseApproved,
                "approved_by",
                "amount approved_by description employee_id expense_id reviewed_at",
            ),
            (
                ExpenseStatus::Rejected,
                EventType::ExpenseRejected,
                "rejected_by",
                "amount description employee_id expense_id rejected_by rejection_comment reviewed_at",
            ),
        ] {
            expense.status = status;
            let reviewed = all(Event::ExpenseReviewed(expense.clone()), &expense);
            let [(message, envelope, told)] = &reviewed[..] else { panic!("{reviewed:?}") };
            assert_eq!((message.kind, &envelope["data"][by]), (kind, &json!(reviewer)));
            assert_eq!(keys(&envelope["data"]), fields);
            let payload = json!({ "expenseId": expense.id, "employeeId": expense.employee, "status": status.as_str() });
            assert_eq!(told.as_ref().unwrap()["payload"], payload);
            assert_eq!(told.as_ref().unwrap()["type"], "expense.status");
        }
    }

    #[test]
    fn a_new_employee_is_no_live_event() {
        let employee = Employee {
            id: EmployeeId::generate(),
            organization: OrganizationId::generate(),
            user: None,
            name: "Asha".to_owned(),
            employee_code: "EMP0001".to_owned(),
            phone: Some("1".to_owned()),
            is_active: true,
            created_at: at(0),
            updated_at: at(0),
        };
        let messages = messages(&Event::EmployeeCreated(employee.clone()), employee.organization, at(0));
        let [(_, envelope, told)] = &messages[..] else { panic!("{messages:?}") };
        let data = json!({
            "employee_id": employee.id,
            "employee_code": "EMP0001",
            "name": "Asha",
            "created_at": "2026-03-10T08:00:00+00:00",
        });
        assert_eq!((&envelope["data"], told), (&data, &None));
    }
}
