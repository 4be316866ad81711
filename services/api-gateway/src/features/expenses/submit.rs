//! `POST /expenses`

use actix_web::HttpResponse;
use actix_web::http::Method;
use db::expenses::{KEY_USED, NewExpense};
use domain::ExpenseId;
use domain::event::Event;
use domain::expense::Expense;
use domain::money::Money;
use domain::receipt::ReceiptPath;
use garde::Validate;
use serde::Deserialize;

use crate::error::{ApiError, ApiResult, Problem};
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, exact, invalid, object};
use crate::http::limits::Budget;
use crate::http::openapi::About;
use crate::http::{reply, rules};
use crate::receipts::Found;
use crate::state::State;

/// Claims money that was spent. Sent again with the same idempotency key, it is refused and stored once.
pub struct Submit;

impl Endpoint for Submit {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/expenses";
    const ACCESS: Access = Access::WorkingEmployees;
    const BUDGET: Budget = Budget::Own { route: "expenses", limit: 10, window_s: 60 };
    type Input = Claim;

    fn about() -> About {
        About::new("expenses", "createExpense", "Claim money that was spent")
            .note("An idempotency key makes it safe to send a claim again: the second one is refused.")
            .created::<Expense>()
    }

    async fn handle(call: Call<Claim>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let employee = caller.working_employee()?;
        let Claim { amount, description, receipt_url, idempotency_key } = call.input.clone();
        let mut receipt_etag = None;
        if let Some(path) = receipt_url.as_deref().and_then(|text| text.parse::<ReceiptPath>().ok()) {
            if path.owner() != (caller.tenant().organization(), employee) {
                return Err(ApiError::Invalid(rules::NO_URL.map(|message| problem(message.to_owned())).into()));
            }
            receipt_etag = accepted_receipt(&call.state, path).await?;
        }
        let now = call.state.clock.now();
        let new = NewExpense {
            id: ExpenseId::generate(),
            employee,
            amount,
            description,
            receipt_url,
            receipt_etag,
            idempotency_key,
        };
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        let expense = db::expenses::submit(&mut tx, new, now).await.map_err(|error| {
            if error.is_conflict_with(KEY_USED) {
                ApiError::Refused("Duplicate expense submission (idempotency key already used)".to_owned())
            } else {
                error.into()
            }
        })?;
        db::employees::touch(&mut tx, employee, now).await?;
        db::events::record(&mut tx, &Event::ExpenseCreated(expense.clone()), now).await?;
        tx.commit().await?;
        Ok(reply::created(expense))
    }
}

/// Refuses an upload that is there and unusable. One that is not there may still be on its way, and a store that is
/// away is no reason to lose a claim: a receipt is looked at again before anybody is shown it. Answers the mark of the
/// file that was seen, where another one could still take its place.
async fn accepted_receipt(state: &State, path: ReceiptPath) -> ApiResult<Option<String>> {
    match state.receipts.store().look(path, state.clock.now()).await {
        Ok(found) => match (found.complaint(), found) {
            (Some(complaint), _) => Err(invalid("body", "receipt_url", complaint)),
            (None, Found::Receipt { etag }) => Ok(etag),
            (None, _) => Ok(None),
        },
        Err(error) => {
            tracing::warn!(error.message = %error, "a receipt was accepted unseen");
            Ok(None)
        }
    }
}

fn problem(message: String) -> Problem {
    Problem { field: "body/receipt_url".to_owned(), message }
}

/// A claim as it was sent.
#[derive(Clone)]
pub struct Claim {
    amount: Money,
    description: String,
    receipt_url: Option<String>,
    idempotency_key: Option<String>,
}

#[derive(Deserialize, Validate)]
#[garde(context(Moment))]
struct Body {
    #[serde(default, deserialize_with = "exact")]
    #[garde(custom(rules::typed("amount must be a number")), custom(rules::positive("amount must be greater than 0")))]
    amount: Field<Money>,
    #[serde(default)]
    #[garde(
        custom(rules::required),
        custom(rules::not_shorter(3, "description must be at least 3 characters")),
        custom(rules::not_longer(500, "description must not exceed 500 characters")),
        custom(rules::storable)
    )]
    description: Field<String>,
    #[serde(default)]
    #[garde(
        custom(rules::optional),
        custom(rules::url_or_receipt),
        custom(rules::https_or_receipt),
        custom(rules::storable)
    )]
    receipt_url: Field<String>,
    #[serde(default)]
    #[garde(
        custom(rules::optional),
        custom(rules::not_empty("idempotency_key must not be empty")),
        custom(rules::not_longer(255, "idempotency_key must not exceed 255 characters")),
        custom(rules::storable)
    )]
    idempotency_key: Field<String>,
}

object!(Body: amount, description, receipt_url, idempotency_key);

impl Input for Claim {
    const READS_BODY: bool = true;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let body: Body = parts.body()?;
        Ok(Self {
            amount: body.amount.into_value().unwrap_or_default(),
            description: body.description.into_value().unwrap_or_default(),
            receipt_url: body.receipt_url.into_value(),
            idempotency_key: body.idempotency_key.into_value(),
        })
    }
}
