//! An expense: money somebody in the field spent, claimed, and reviewed once.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::clock::{stored, stored_or_null};
use crate::id::{EmployeeId, ExpenseId, OrganizationId, UserId};
use crate::money::Money;

/// Where a claim stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum ExpenseStatus {
    /// Nobody has reviewed it.
    Pending,
    /// It will be paid.
    Approved,
    /// It will not be paid.
    Rejected,
}

impl ExpenseStatus {
    /// As it is stored and sent.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Approved => "APPROVED",
            Self::Rejected => "REJECTED",
        }
    }

    /// Reads it; `None` for any other word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Approved, Self::Rejected].into_iter().find(|status| status.as_str() == text)
    }
}

/// A claim as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Expense {
    /// Its id.
    pub id: ExpenseId,
    /// For whom the money was spent.
    #[serde(rename = "organization_id")]
    pub organization: OrganizationId,
    /// Who spent it.
    #[serde(rename = "employee_id")]
    pub employee: EmployeeId,
    /// How much.
    pub amount: Money,
    /// What for.
    pub description: String,
    /// Where the claim stands.
    pub status: ExpenseStatus,
    /// The receipt: an https address, or the path of an upload.
    pub receipt_url: Option<String>,
    /// When it was claimed.
    #[serde(serialize_with = "stored")]
    pub submitted_at: DateTime<Utc>,
    /// When it was reviewed.
    #[serde(serialize_with = "stored_or_null")]
    pub reviewed_at: Option<DateTime<Utc>>,
    /// Who reviewed it; `None` also when an API key did.
    pub reviewed_by: Option<UserId>,
    /// Why it was rejected.
    pub rejection_comment: Option<String>,
    /// When the row was made.
    #[serde(serialize_with = "stored")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(serialize_with = "stored")]
    pub updated_at: DateTime<Utc>,
}

/// What a reviewer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Pay it.
    Approve,
    /// Do not pay it, for this reason; without one the claim cannot be rejected.
    Reject(Option<String>),
}

/// Why a review does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// Somebody was faster.
    #[error("Expense has already been {}. Only PENDING expenses can be actioned.", .0.as_str().to_lowercase())]
    AlreadyReviewed(ExpenseStatus),
    /// Whoever is refused money is told why.
    #[error("rejection_comment is required when rejecting an expense")]
    CommentMissing,
}

impl Expense {
    /// Reviews the claim, once and for all: `reviewer` is `None` when an API key speaks. The claim is unchanged when the
    /// review does not count.
    pub fn review(
        &mut self,
        verdict: Verdict,
        reviewer: Option<UserId>,
        now: DateTime<Utc>,
    ) -> Result<(), ReviewError> {
        if self.status != ExpenseStatus::Pending {
            return Err(ReviewError::AlreadyReviewed(self.status));
        }
        let (status, comment) = match verdict {
            Verdict::Approve => (ExpenseStatus::Approved, None),
            Verdict::Reject(Some(comment)) if !comment.is_empty() => (ExpenseStatus::Rejected, Some(comment)),
            Verdict::Reject(_) => return Err(ReviewError::CommentMissing),
        };
        self.status = status;
        self.rejection_comment = comment;
        self.reviewed_by = reviewer;
        // A clock that was set back must not review a claim before it was made.
        self.reviewed_at = Some(now.max(self.submitted_at));
        self.updated_at = now.max(self.updated_at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    fn claim() -> Expense {
        let at = DateTime::from_timestamp_micros(1_773_129_600_123_000).unwrap();
        Expense {
            id: ExpenseId::generate(),
            organization: OrganizationId::generate(),
            employee: EmployeeId::generate(),
            amount: Money::from_json("250.50").unwrap(),
            description: "Fuel".into(),
            status: ExpenseStatus::Pending,
            receipt_url: None,
            submitted_at: at,
            reviewed_at: None,
            reviewed_by: None,
            rejection_comment: None,
            created_at: at,
            updated_at: at,
        }
    }

    #[test]
    fn a_claim_is_reviewed_once() {
        let (mut claim, admin) = (claim(), UserId::generate());
        let later = claim.submitted_at + TimeDelta::hours(3);
        claim.review(Verdict::Approve, Some(admin), later).unwrap();
        assert_eq!(
            (claim.status, claim.reviewed_by, claim.reviewed_at, claim.updated_at),
            (ExpenseStatus::Approved, Some(admin), Some(later), later)
        );
        let reviewed = claim.clone();
        for verdict in [Verdict::Approve, Verdict::Reject(None), Verdict::Reject(Some("No receipt".into()))] {
            let refused = claim.review(verdict, None, later).unwrap_err();
            assert_eq!(
                refused.to_string(),
                "Expense has already been approved. Only PENDING expenses can be actioned."
            );
        }
        assert_eq!(claim, reviewed);
    }

    #[test]
    fn a_rejection_says_why() {
        let mut claim = claim();
        let now = claim.submitted_at;
        for silence in [None, Some(String::new())] {
            let refused = claim.review(Verdict::Reject(silence), None, now).unwrap_err();
            assert_eq!(refused.to_string(), "rejection_comment is required when rejecting an expense");
            assert_eq!(claim.status, ExpenseStatus::Pending);
        }
        claim.review(Verdict::Reject(Some("No receipt".into())), None, now).unwrap();
        assert_eq!((claim.status, claim.rejection_comment.as_deref()), (ExpenseStatus::Rejected, Some("No receipt")));
        assert_eq!(claim.reviewed_by, None);
        let again = claim.review(Verdict::Approve, None, now).unwrap_err();
        assert_eq!(again.to_string(), "Expense has already been rejected. Only PENDING expenses can be actioned.");
    }

    #[test]
    fn a_clock_that_was_set_back_reviews_nothing_before_it_was_made() {
        let mut claim = claim();
        claim.review(Verdict::Approve, None, claim.submitted_at - TimeDelta::hours(1)).unwrap();
        assert_eq!(claim.reviewed_at, Some(claim.submitted_at));
    }

    #[test]
    fn the_wire_shows_the_amount_as_a_number_and_stored_times() {
        let json = serde_json::to_string(&claim()).unwrap();
        assert!(
            json.contains(r#""amount":250.5,"description":"Fuel","status":"PENDING","receipt_url":null"#),
            "{json}"
        );
        assert!(json.contains(r#""submitted_at":"2026-03-10T08:00:00.123+00:00","reviewed_at":null"#), "{json}");
    }

    #[test]
    fn status_words_are_read_back() {
        for status in [ExpenseStatus::Pending, ExpenseStatus::Approved, ExpenseStatus::Rejected] {
            assert_eq!(ExpenseStatus::parse(status.as_str()), Some(status));
        }
        assert_eq!(ExpenseStatus::parse("pending"), None);
    }
}
