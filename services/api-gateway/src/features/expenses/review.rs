//! `PATCH /admin/expenses/{id}`

use actix_web::HttpResponse;
use actix_web::http::Method;
use db::audit::Entry;
use domain::ExpenseId;
use domain::api_key::Scope;
use domain::auth::Actor;
use domain::event::Event;
use domain::expense::{ExpenseStatus, Verdict};
use garde::Validate;
use serde::Deserialize;

use super::Item;
use crate::error::{ApiError, ApiResult};
use crate::http::caller::{Access, KeyAccess};
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, object};
use crate::http::openapi::About;
use crate::http::{reply, rules};

/// Approves or rejects a claim, once and for all.
pub struct Review;

impl Endpoint for Review {
    const METHOD: Method = Method::PATCH;
    const PATH: &'static str = "/admin/expenses/{id}";
    const ACCESS: Access = Access::Admins;
    const KEYS: KeyAccess = KeyAccess::Scope(Scope::WriteExpenses);
    type Input = Reviewed;

    fn about() -> About {
        About::new("expenses", "reviewExpense", "Approve or reject a claim, once and for all")
            .ok::<Item>()
            .refuses(404, "There is no such claim.")
    }

    async fn handle(call: Call<Reviewed>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let Reviewed { id, verdict } = call.input.clone();
        let actor = caller.actor();
        let reviewer = match &actor {
            Actor::User(user) => Some(*user),
            Actor::ApiKey(_) | Actor::System => None,
        };
        let now = call.state.clock.now();
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        let mut claimed =
            db::expenses::lock_for_review(&mut tx, id).await?.ok_or(ApiError::NotFound("Expense not found"))?;
        let expense = &mut claimed.expense;
        expense.review(verdict, reviewer, now).map_err(|error| ApiError::Refused(error.to_string()))?;
        db::expenses::save_review(&mut tx, expense).await?;
        db::events::record(&mut tx, &Event::ExpenseReviewed(expense.clone()), now).await?;
        let what = if expense.status == ExpenseStatus::Approved { "EXPENSE_APPROVED" } else { "EXPENSE_REJECTED" };
        let entry = Entry::new(what, actor)
            .on("expense", expense.id)
            .with("employee_id", expense.employee.to_string())
            .with("amount", expense.amount.to_string());
        let entry = match &expense.rejection_comment {
            Some(comment) => entry.with("rejection_comment", comment.as_str()),
            None => entry,
        };
        db::audit::record(&mut tx, &entry, now).await?;
        tx.commit().await?;
        Ok(reply::ok(Item::from(claimed)))
    }
}

/// A claim and what is said of it.
#[derive(Clone)]
pub struct Reviewed {
    id: ExpenseId,
    verdict: Verdict,
}

const VERDICTS: &[&str] = &["APPROVED", "REJECTED"];

#[derive(Deserialize, Validate)]
#[garde(context(Moment))]
struct Body {
    #[serde(default)]
    #[garde(custom(rules::word(VERDICTS, "status must be APPROVED or REJECTED")))]
    status: Field<String>,
    #[serde(default)]
    #[garde(
        custom(rules::optional),
        custom(rules::not_longer(1000, "rejection_comment must not exceed 1000 characters")),
        custom(rules::storable)
    )]
    rejection_comment: Field<String>,
}

object!(Body: status, rejection_comment);

impl Input for Reviewed {
    const READS_BODY: bool = true;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let id = parts.path_id("id")?.into();
        let body: Body = parts.body()?;
        let verdict = match body.status.value().map(String::as_str) {
            Some("APPROVED") => Verdict::Approve,
            _ => Verdict::Reject(body.rejection_comment.into_value()),
        };
        Ok(Self { id, verdict })
    }
}
