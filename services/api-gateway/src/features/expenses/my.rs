//! `GET /expenses/my`

use actix_web::HttpResponse;
use actix_web::http::Method;
use db::expenses::Filter;
use domain::api_key::Scope;
use domain::page::Pagination;

use super::Item;
use super::wanted::Wanted;
use crate::error::ApiResult;
use crate::http::caller::{Access, KeyAccess};
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::http::reply;

/// The caller's own claims, newest first; whoever is no employee has none. Another employee's id changes nothing.
pub struct MyExpenses;

impl Endpoint for MyExpenses {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/expenses/my";
    const ACCESS: Access = Access::Everyone;
    const KEYS: KeyAccess = KeyAccess::Scope(Scope::WriteExpenses);
    type Input = Wanted;

    fn about() -> About {
        About::new("expenses", "listMyExpenses", "The caller's own claims, newest first")
            .note("Whoever is no employee has none. Another employee's id is validated and otherwise ignored.")
            .page::<Item>()
    }

    async fn handle(call: Call<Wanted>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let Wanted { page, ref filter } = call.input;
        let (claims, total) = match caller.employee() {
            None => (Vec::new(), 0),
            Some(employee) => {
                let own = Filter { employee: Some(employee), ..filter.clone() };
                let mut tx = call.state.db.tenant(caller.tenant()).await?;
                let found = db::expenses::list(&mut tx, &own, page).await?;
                tx.commit().await?;
                found
            }
        };
        let nameless = |claimed: db::expenses::Claimed| Item {
            expense: claimed.expense,
            employee_name: None,
            employee_code: None,
        };
        Ok(reply::page(claims.into_iter().map(nameless).collect(), Pagination::new(page, total)))
    }
}
