//! Work that can be asked for. A payload says what to look at, never the answer, so running it twice is harmless.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::event::EventType;
use crate::id::{DeliveryId, EmployeeId, EventId, ExpenseId, OrganizationId, SessionId, WebhookId};

/// What a job of one kind carries, and how it travels.
///
/// Blue and green share the queues: a name is never reused for other work, and a field is only ever added.
pub trait Payload: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The queue these jobs travel on.
    const QUEUE: &'static str;
    /// The job's name on that queue.
    const NAME: &'static str;
    /// Its fields in words, for whoever sent something else.
    const FIELDS: &'static str;
    /// How often it may be tried.
    const ATTEMPTS: u32 = 5;
    /// First delay between attempts; it doubles each time.
    const BACKOFF: Duration = Duration::from_secs(1);
    /// How long it waits before its first attempt: what is asked for meanwhile collapses into it.
    const DELAY: Duration = Duration::ZERO;
    /// Where a copy is kept for operators once it was given up; `None` when the kind keeps its own record.
    const DEAD_LETTERS: Option<&'static str>;

    /// For whom; absent in jobs of producers that do not know.
    fn organization(&self) -> Option<OrganizationId>;

    /// What it must not do twice: it collapses into a waiting job of the same name, and while one runs, the last that
    /// was asked for runs afterwards.
    fn deduplication(&self) -> Option<String> {
        None
    }
}

/// Where measurements are kept that were given up.
pub const DISTANCE_LETTERS: &str = "distance-failed";
/// Where daily totals are kept that were given up.
pub const METRICS_LETTERS: &str = "analytics-failed";
/// Where updates of read models are kept that were given up.
pub const SNAPSHOT_LETTERS: &str = "snapshot-failed";

/// The name of every job on a dead-letter queue.
pub const DEAD_LETTER: &str = "dead-letter";

/// Measure a session anew from its stored points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecalculateDistance {
    /// The session to measure.
    #[serde(rename = "sessionId")]
    pub session: SessionId,
    /// Its organization; absent in jobs of foreign producers.
    #[serde(rename = "organizationId", default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<OrganizationId>,
}

impl Payload for RecalculateDistance {
    const QUEUE: &'static str = "distance-engine";
    const NAME: &'static str = "recalculate";
    const FIELDS: &'static str = "{sessionId, organizationId}";
    const DEAD_LETTERS: Option<&'static str> = Some(DISTANCE_LETTERS);

    fn organization(&self) -> Option<OrganizationId> {
        self.organization
    }

    fn deduplication(&self) -> Option<String> {
        Some(self.session.to_string())
    }
}

/// Set the daily totals of a closed session's employee and organization.
///
/// The measurement of a session does the same in its own transaction; this is asked for by other producers, and heals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateMetrics {
    /// The closed session.
    #[serde(rename = "sessionId")]
    pub session: SessionId,
    /// Its organization; looked up when absent.
    #[serde(rename = "organizationId", default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<OrganizationId>,
    /// Its employee; the session knows better.
    #[serde(rename = "employeeId", default, skip_serializing_if = "Option::is_none")]
    pub employee: Option<EmployeeId>,
}

impl Payload for UpdateMetrics {
    const QUEUE: &'static str = "analytics";
    const NAME: &'static str = "update-metrics";
    const FIELDS: &'static str = "{sessionId, organizationId, employeeId}";
    const ATTEMPTS: u32 = 3;
    const BACKOFF: Duration = Duration::from_secs(5);
    const DELAY: Duration = Duration::from_secs(10);
    const DEAD_LETTERS: Option<&'static str> = Some(METRICS_LETTERS);

    fn organization(&self) -> Option<OrganizationId> {
        self.organization
    }

    fn deduplication(&self) -> Option<String> {
        Some(self.session.to_string())
    }
}

/// What happened, as far as read models care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Occasion {
    /// Somebody began to work.
    CheckIn,
    /// Somebody stopped working.
    CheckOut,
    /// Somebody moved.
    LocationUpdate,
    /// Somebody claims an expense.
    ExpenseCreated,
    /// A claim was approved.
    ExpenseApproved,
    /// A claim was rejected.
    ExpenseRejected,
    /// Nothing in particular: everything of the organization is compared with what it is made of.
    Reconcile,
}

/// Bring the read models up to date after something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// What happened.
    #[serde(rename = "type")]
    pub occasion: Occasion,
    /// Where.
    #[serde(rename = "organizationId")]
    pub organization: OrganizationId,
    /// Whose it is; nobody's for [`Occasion::Reconcile`].
    #[serde(rename = "employeeId", default, skip_serializing_if = "Option::is_none")]
    pub employee: Option<EmployeeId>,
    /// The claim, for those of claims.
    #[serde(rename = "expenseId", default, skip_serializing_if = "Option::is_none")]
    pub expense: Option<ExpenseId>,
}

impl Payload for Snapshot {
    const QUEUE: &'static str = "snapshot-engine";
    const NAME: &'static str = "snapshot";
    const FIELDS: &'static str = "{type, employeeId, organizationId, …}";
    const DEAD_LETTERS: Option<&'static str> = Some(SNAPSHOT_LETTERS);

    fn organization(&self) -> Option<OrganizationId> {
        Some(self.organization)
    }

    /// Everything of an employee is set anew whatever happened, so one waiting job stands for all of them.
    fn deduplication(&self) -> Option<String> {
        match (self.expense, self.employee) {
            (Some(expense), _) => Some(expense.to_string()),
            (None, Some(employee)) => Some(employee.to_string()),
            (None, None) => Some(format!("reconcile-{}", self.organization)),
        }
    }
}

/// A job that follows an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Following {
    /// Read models.
    Snapshot(Snapshot),
    /// Daily totals.
    UpdateMetrics(UpdateMetrics),
}

/// The jobs that follow an event: its name, its organization, its envelope as stored. An action with two names is
/// followed once. An envelope that does not say whose it is is followed by nothing; reconciliation makes up for it.
#[must_use]
pub fn following(kind: EventType, organization: OrganizationId, envelope: &str) -> Vec<Following> {
    #[derive(Deserialize)]
    struct Envelope {
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        employee_id: EmployeeId,
        session_id: Option<SessionId>,
        expense_id: Option<ExpenseId>,
    }
    let occasion = match kind {
        EventType::SessionCheckin => Occasion::CheckIn,
        EventType::SessionCheckout => Occasion::CheckOut,
        EventType::ExpenseCreated => Occasion::ExpenseCreated,
        EventType::ExpenseApproved => Occasion::ExpenseApproved,
        EventType::ExpenseRejected => Occasion::ExpenseRejected,
        EventType::EmployeeCheckedIn | EventType::EmployeeCheckedOut | EventType::EmployeeCreated => return Vec::new(),
    };
    let Ok(Envelope { data }) = serde_json::from_str(envelope) else { return Vec::new() };
    let employee = Some(data.employee_id);
    let mut jobs = vec![Following::Snapshot(Snapshot { occasion, organization, employee, expense: data.expense_id })];
    if let (Occasion::CheckOut, Some(session)) = (occasion, data.session_id) {
        jobs.push(Following::UpdateMetrics(UpdateMetrics { session, organization: Some(organization), employee }));
    }
    jobs
}

/// Make one attempt to deliver an event to a webhook. Further attempts are jobs of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliverWebhook {
    /// The delivery.
    #[serde(rename = "delivery_id")]
    pub delivery: DeliveryId,
    /// Where to.
    #[serde(rename = "webhook_id")]
    pub webhook: WebhookId,
    /// What.
    #[serde(rename = "event_id")]
    pub event: EventId,
    /// Which attempt it is, from 1: a job that comes late, or twice, finds that it was made.
    #[serde(rename = "attempt_number")]
    pub attempt: i32,
    /// Whose webhook; without it nothing can be found.
    #[serde(rename = "organization_id", default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<OrganizationId>,
}

impl Payload for DeliverWebhook {
    const QUEUE: &'static str = "webhook-delivery";
    const NAME: &'static str = "deliver-webhook";
    const FIELDS: &'static str = "{delivery_id, webhook_id, event_id, attempt_number, organization_id}";
    const ATTEMPTS: u32 = 1;
    const DEAD_LETTERS: Option<&'static str> = None;

    fn organization(&self) -> Option<OrganizationId> {
        self.organization
    }

    fn deduplication(&self) -> Option<String> {
        Some(format!("{}.{}", self.delivery, self.attempt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_organization_may_be_missing() {
        let job: RecalculateDistance =
            serde_json::from_str(r#"{"sessionId":"c1d5a0de-64f4-4c1b-b6d8-7b8a8f3d2c33","more":1}"#).unwrap();
        assert_eq!(job.organization, None);
        assert_eq!(serde_json::to_string(&job).unwrap(), r#"{"sessionId":"c1d5a0de-64f4-4c1b-b6d8-7b8a8f3d2c33"}"#);
    }

    #[test]
    fn a_check_out_is_followed_once_and_a_hiring_not_at_all() {
        let organization = OrganizationId::generate();
        let (employee, session, expense) = (EmployeeId::generate(), SessionId::generate(), ExpenseId::generate());
        let envelope = serde_json::json!({ "data": { "employee_id": employee, "session_id": session } }).to_string();
        let whose = Some(employee);
        let snapshot = Snapshot { occasion: Occasion::CheckOut, organization, employee: whose, expense: None };
        let metrics = UpdateMetrics { session, organization: Some(organization), employee: whose };
        assert_eq!(
            following(EventType::SessionCheckout, organization, &envelope),
            [Following::Snapshot(snapshot), Following::UpdateMetrics(metrics)]
        );
        assert_eq!(following(EventType::EmployeeCheckedOut, organization, &envelope), []);
        assert_eq!(following(EventType::EmployeeCreated, organization, &envelope), []);
        assert_eq!(following(EventType::SessionCheckin, organization, "{}"), []);

        let envelope = serde_json::json!({ "data": { "employee_id": employee, "expense_id": expense } }).to_string();
        let snapshot = Snapshot { occasion: Occasion::ExpenseCreated, expense: Some(expense), ..snapshot };
        assert_eq!(following(EventType::ExpenseCreated, organization, &envelope), [Following::Snapshot(snapshot)]);
        assert!(
            serde_json::to_string(&snapshot).unwrap().starts_with(r#"{"type":"EXPENSE_CREATED","organizationId":"#)
        );
    }

    #[test]
    fn jobs_of_one_employee_collapse_and_those_of_claims_do_not() {
        let organization = OrganizationId::generate();
        let employee = Some(EmployeeId::generate());
        let of = |occasion, expense| Snapshot { occasion, organization, employee, expense }.deduplication();
        assert_eq!(of(Occasion::CheckIn, None), of(Occasion::LocationUpdate, None));
        let (one, other) = (ExpenseId::generate(), ExpenseId::generate());
        assert_ne!(of(Occasion::ExpenseCreated, Some(one)), of(Occasion::ExpenseCreated, Some(other)));
        assert_ne!(of(Occasion::ExpenseCreated, Some(one)), of(Occasion::CheckIn, None));
        let reconcile = Snapshot { occasion: Occasion::Reconcile, organization, employee: None, expense: None };
        assert_eq!(reconcile.deduplication(), Some(format!("reconcile-{organization}")));
    }
}
