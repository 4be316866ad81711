//! `PATCH /admin/employees/{id}/status`

use actix_web::HttpResponse;
use actix_web::http::Method;
use chrono::{DateTime, Utc};
use db::TenantTx;
use db::audit::{self, Entry};
use db::{DbResult, attendance, employees, sign_in, users};
use domain::attendance::Session;
use domain::auth::Role;
use domain::employee::Employee;
use domain::event::Event;
use domain::user::BAN;
use domain::{EmployeeId, UserId};
use garde::Validate;
use serde::Deserialize;

use super::NOT_FOUND;
use crate::error::ApiResult;
use crate::features::users::last_administrator;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, object};
use crate::http::openapi::About;
use crate::http::{reply, rules};

/// Says whether an employee may work.
///
/// Whoever may not has no open session any more when the reply comes, is told nothing by their refresh token, and
/// cannot sign in; all of it in the transaction that says so (D26). Activation lets them in again. Another identity
/// provider is told afterwards, by the worker.
pub struct SetStatus;

impl Endpoint for SetStatus {
    const METHOD: Method = Method::PATCH;
    const PATH: &'static str = "/admin/employees/{id}/status";
    const ACCESS: Access = Access::Admins;
    type Input = NewStatus;

    fn about() -> About {
        About::new("employees", "setEmployeeStatus", "Enable or disable an employee")
            .note(
                "Disabling closes the open session, ends sign-ins and blocks new ones, all before the reply; enabling \
                 lifts the block. The only administrator who can sign in cannot be disabled. Another identity provider \
                 is told of the block as soon as it can be.",
            )
            .ok::<Employee>()
            .refuses(404, "There is no such employee.")
    }

    async fn handle(call: Call<NewStatus>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let NewStatus { id, is_active } = call.input;
        let now = call.state.clock.now();
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        // Sessions are locked before employees wherever both are: so nobody waits in a circle with an upload.
        let mut closed = Vec::new();
        if !is_active {
            closed.extend(close(&mut tx, id, now).await?);
        }
        let (employee, was_active) = employees::set_active(&mut tx, id, is_active, now).await?.ok_or(NOT_FOUND)?;
        if !is_active {
            // Whoever checked in between the two; from here on nobody can, until this is decided.
            closed.extend(close(&mut tx, id, now).await?);
        }
        if let Some(user) = employee.user {
            let ours = call.state.identity.built_in().is_some();
            if is_active {
                users::set_ban(&mut tx, user, None, now).await?;
            } else {
                // Another provider's administrators are not ours to count.
                keep_out(&mut tx, user, ours, now).await?;
            }
            if !ours {
                // The worker tells the provider, however long that takes.
                sign_in::note(&mut tx, user, now).await?;
            }
        }
        if was_active != is_active {
            let mut entry =
                Entry::new("EMPLOYEE_STATUS_CHANGED", caller.actor()).on("employee", id).with("is_active", is_active);
            if let Some(session) = closed.last() {
                entry = entry.with("closed_session_id", session.id.to_string());
            }
            audit::record(&mut tx, &entry, now).await?;
        }
        tx.commit().await?;
        for session in closed {
            call.state.jobs.ask_at_check_out(caller.tenant(), session.id, &call.request_id);
        }
        if let Some(user) = employee.user {
            call.state.standing.remove(&(caller.tenant().organization(), user));
        }
        Ok(reply::ok(employee))
    }
}

/// Closes the open session, if there is one, marks it for measurement and tells of it.
async fn close(tx: &mut TenantTx, employee: EmployeeId, now: DateTime<Utc>) -> DbResult<Option<Session>> {
    let closed = attendance::close(tx, employee, now).await?;
    if let Some(session) = &closed {
        db::events::record(tx, &Event::CheckedOut(session.clone()), now).await?;
    }
    Ok(closed)
}

/// Keeps a user out and ends their sign-ins; refused for the only administrator, after whom nobody could undo it.
async fn keep_out(tx: &mut TenantTx, user: UserId, ours: bool, now: DateTime<Utc>) -> ApiResult<()> {
    let is_admin = users::find(tx, user).await?.is_some_and(|user| user.role == Role::Admin);
    if ours && is_admin && !users::has_other_administrator(tx, user, now).await? {
        return Err(last_administrator());
    }
    users::set_ban(tx, user, Some(now + BAN), now).await?;
    users::end_sign_ins(tx, user, now).await?;
    Ok(())
}

/// Whether whom may work.
pub struct NewStatus {
    id: EmployeeId,
    is_active: bool,
}

#[derive(Deserialize, Validate)]
#[garde(context(Moment))]
struct Body {
    #[serde(default)]
    #[garde(custom(rules::required))]
    is_active: Field<bool>,
}

object!(Body: is_active);

impl Input for NewStatus {
    const READS_BODY: bool = true;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let id = parts.path_id("id")?.into();
        let body: Body = parts.body()?;
        // The rules have asked for it.
        Ok(Self { id, is_active: body.is_active.into_value().unwrap_or_default() })
    }
}
