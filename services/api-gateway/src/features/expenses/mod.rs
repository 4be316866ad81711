//! Expenses: somebody in the field claims money, an administrator reviews the claim, once.
//!
//! A claim is never edited and never deleted. It may be sent twice and is stored once: the employee's phone names it by
//! an idempotency key, and the database decides races. A review locks the claim, so the second of two administrators is
//! told what the first decided. What everybody has claimed is kept beside the claims in the same transaction, so that
//! counting never means reading them all.

mod export;
mod list;
mod my;
mod receipt;
mod receipt_upload_url;
mod review;
mod submit;
mod summary;
mod wanted;

use db::expenses::Claimed;
use domain::expense::Expense;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::endpoint::Routes;

/// The feature's routes.
pub fn routes(routes: &mut Routes<'_>) {
    routes
        .add::<receipt_upload_url::ReceiptUploadUrl>()
        .add::<submit::Submit>()
        .add::<my::MyExpenses>()
        .add::<receipt::Receipt>()
        .add::<list::OrgExpenses>()
        .add::<summary::Summary>()
        .add::<export::Export>()
        .add::<review::Review>();
}

/// A claim in a list.
#[derive(Serialize, ToSchema)]
#[schema(as = ExpenseListItem)]
struct Item {
    #[serde(flatten)]
    expense: Expense,
    employee_name: Option<String>,
    employee_code: Option<String>,
}

impl From<Claimed> for Item {
    fn from(claimed: Claimed) -> Self {
        Self {
            expense: claimed.expense,
            employee_name: Some(claimed.employee_name),
            employee_code: Some(claimed.employee_code),
        }
    }
}
