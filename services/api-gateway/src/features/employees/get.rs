//! `GET /admin/employees/{id}`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::EmployeeId;
use domain::api_key::Scope;
use domain::employee::Employee;

use super::NOT_FOUND;
use crate::error::ApiResult;
use crate::http::caller::{Access, KeyAccess};
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Input, Parts};
use crate::http::openapi::About;
use crate::http::reply;

/// One employee.
pub struct Get;

impl Endpoint for Get {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/employees/{id}";
    const ACCESS: Access = Access::Admins;
    const KEYS: KeyAccess = KeyAccess::Scope(Scope::ReadEmployees);
    type Input = WhichEmployee;

    fn about() -> About {
        About::new("employees", "getEmployee", "One employee")
            .ok::<Employee>()
            .refuses(404, "There is no such employee.")
    }

    async fn handle(call: Call<WhichEmployee>) -> ApiResult<HttpResponse> {
        let mut tx = call.state.db.tenant(call.caller()?.tenant()).await?;
        let employee = db::employees::find(&mut tx, call.input.0).await?.ok_or(NOT_FOUND)?;
        tx.commit().await?;
        Ok(reply::ok(employee))
    }
}

/// The employee in the path.
pub struct WhichEmployee(EmployeeId);

impl Input for WhichEmployee {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        Ok(Self(parts.path_id("id")?.into()))
    }
}
