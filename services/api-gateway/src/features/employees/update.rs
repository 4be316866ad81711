//! `PATCH /admin/employees/{id}`

use actix_web::HttpResponse;
use actix_web::http::Method;
use db::audit::{self, Entry};
use domain::EmployeeId;
use domain::employee::Employee;
use garde::Validate;
use serde::Deserialize;

use super::NOT_FOUND;
use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, object};
use crate::http::openapi::About;
use crate::http::{reply, rules};

/// Changes an employee's name or phone number. Nothing to change is no mistake: only the time of change moves.
pub struct Update;

impl Endpoint for Update {
    const METHOD: Method = Method::PATCH;
    const PATH: &'static str = "/admin/employees/{id}";
    const ACCESS: Access = Access::Admins;
    type Input = Change;

    fn about() -> About {
        About::new("employees", "updateEmployee", "Change name or phone")
            .note("Nothing to change only moves the time of change.")
            .ok::<Employee>()
            .refuses(404, "There is no such employee.")
    }

    async fn handle(call: Call<Change>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let Change { id, name, phone } = &call.input;
        let now = call.state.clock.now();
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        let phone = phone.as_ref().map(Option::as_deref);
        let employee = db::employees::update(&mut tx, *id, name.as_deref(), phone, now).await?.ok_or(NOT_FOUND)?;
        // Which fields, not what they hold: the log is kept for ever, and people may ask to be forgotten.
        let changed: Vec<&str> = [(name.is_some(), "name"), (phone.is_some(), "phone")]
            .into_iter()
            .filter_map(|(given, field)| given.then_some(field))
            .collect();
        let entry = Entry::new("EMPLOYEE_UPDATED", caller.actor()).on("employee", id).with("fields", changed);
        audit::record(&mut tx, &entry, now).await?;
        tx.commit().await?;
        Ok(reply::ok(employee))
    }
}

/// What changes about whom; what is `None` stays.
pub struct Change {
    id: EmployeeId,
    name: Option<String>,
    phone: Option<Option<String>>,
}

#[derive(Default, Deserialize, Validate)]
#[garde(context(Moment))]
struct Body {
    #[serde(default)]
    #[garde(custom(rules::optional), custom(rules::text_at_least(1)), custom(rules::storable))]
    name: Field<String>,
    #[serde(default)]
    #[garde(custom(rules::nullable), custom(rules::storable))]
    phone: Field<String>,
}

object!(Body: name, phone);

impl Input for Change {
    const READS_BODY: bool = true;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let id = parts.path_id("id")?.into();
        let body = parts.optional_body::<Body>()?.unwrap_or_default();
        let phone = match body.phone {
            Field::Missing => None,
            phone => Some(phone.into_value()),
        };
        Ok(Self { id, name: body.name.into_value(), phone })
    }
}
