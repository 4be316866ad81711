//! `GET /admin/expenses`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::page::Pagination;

use super::Item;
use super::wanted::Wanted;
use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::http::reply;

/// The organization's claims, newest first.
pub struct OrgExpenses;

impl Endpoint for OrgExpenses {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/expenses";
    const ACCESS: Access = Access::Admins;
    type Input = Wanted;

    fn about() -> About {
        About::new("expenses", "listOrgExpenses", "The organization's claims, newest first").page::<Item>()
    }

    async fn handle(call: Call<Wanted>) -> ApiResult<HttpResponse> {
        let Wanted { page, ref filter } = call.input;
        let mut tx = call.state.db.tenant(call.caller()?.tenant()).await?;
        let (claims, total) = db::expenses::list(&mut tx, filter, page).await?;
        tx.commit().await?;
        Ok(reply::page(claims.into_iter().map(Item::from).collect(), Pagination::new(page, total)))
    }
}
