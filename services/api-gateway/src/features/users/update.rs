//! `PATCH /admin/users/{id}`

use actix_web::HttpResponse;
use actix_web::http::Method;
use db::audit::{self, Entry};
use db::employees::NewEmployee;
use db::users;
use domain::auth::Role;
use domain::employee::name_from_email;
use domain::event::Event;
use domain::user::{BAN, User};
use domain::{EmployeeId, UserId};
use garde::Validate;
use secrecy::SecretString;
use serde::Deserialize;

use super::{last_administrator, ours_to_manage};
use crate::error::{ApiError, ApiResult};
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, invalid, object};
use crate::http::openapi::About;
use crate::http::{reply, rules};
use crate::identity::passwords;

/// The roles as requests spell them.
pub const ROLES: &[&str] = &["ADMIN", "EMPLOYEE"];

const NOT_FOUND: ApiError = ApiError::NotFound("User not found");

/// Gives a user another role or another password, keeps them out, or lets them in again.
///
/// A ban and a new password end their sign-ins. Access tokens that are still good are refused within half a minute of
/// a ban or of another role, whichever replica they reach.
pub struct Update;

impl Endpoint for Update {
    const METHOD: Method = Method::PATCH;
    const PATH: &'static str = "/admin/users/{id}";
    const ACCESS: Access = Access::Admins;
    type Input = Change;

    fn about() -> About {
        About::new("users", "updateUser", "Change a user's role or password, keep them out or let them in")
            .note(
                "At least one field. A ban and a new password end their sign-ins. The only administrator who can sign \
                 in cannot be banned or given another role.",
            )
            .ok::<User>()
            .refuses(404, "There is no such user.")
    }

    async fn handle(call: Call<Change>) -> ApiResult<HttpResponse> {
        ours_to_manage(&call.state)?;
        let caller = call.caller()?;
        let Change { id, role, banned, password } = &call.input;
        let (id, now) = (*id, call.state.clock.now());
        // Hashing takes a while on purpose: not inside the transaction.
        let hash = match password {
            None => None,
            Some(password) => {
                let hash = call.state.passwords.hash(password.clone()).await;
                Some(hash.map_err(|error| ApiError::Unavailable(error.to_string()))?)
            }
        };
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        let user = users::find(&mut tx, id).await?.ok_or(NOT_FOUND)?;
        let steps_down = *role == Some(Role::Employee) || *banned == Some(true);
        if user.role == Role::Admin && steps_down && !users::has_other_administrator(&mut tx, id, now).await? {
            return Err(last_administrator());
        }
        let mut entry = Entry::new("USER_UPDATED", caller.actor()).on("user", id);
        if let Some(role) = role.filter(|role| *role != user.role) {
            users::set_role(&mut tx, id, role, now).await?;
            entry = entry.with("role", role.as_str());
            if role == Role::Employee && user.employee.is_none() {
                let name = name_from_email(&user.email);
                let new =
                    NewEmployee { id: EmployeeId::generate(), user: Some(id), name, employee_code: None, phone: None };
                let employee = db::employees::create(&mut tx, new, now).await?;
                let made = Entry::new("EMPLOYEE_CREATED", caller.actor()).on("employee", employee.id);
                audit::record(&mut tx, &made, now).await?;
                db::events::record(&mut tx, &Event::EmployeeCreated(employee), now).await?;
            }
        }
        if let Some(banned) = banned {
            users::set_ban(&mut tx, id, banned.then_some(now + BAN), now).await?;
            entry = entry.with("banned", *banned);
        }
        if let Some(hash) = &hash {
            users::set_password(&mut tx, id, hash, now).await?;
            entry = entry.with("password_reset", true);
        }
        if *banned == Some(true) || hash.is_some() {
            users::end_sign_ins(&mut tx, id, now).await?;
        }
        audit::record(&mut tx, &entry, now).await?;
        let user = users::find(&mut tx, id).await?.ok_or(NOT_FOUND)?;
        tx.commit().await?;
        call.state.standing.remove(&(caller.tenant().organization(), id));
        Ok(reply::ok(user))
    }
}

/// What changes about whom; what is `None` stays.
pub struct Change {
    id: UserId,
    role: Option<Role>,
    banned: Option<bool>,
    password: Option<SecretString>,
}

#[derive(Deserialize, Validate)]
#[garde(context(Moment))]
struct Body {
    #[serde(default)]
    #[garde(custom(rules::one_of(ROLES)))]
    role: Field<String>,
    #[serde(default)]
    #[garde(custom(rules::optional))]
    banned: Field<bool>,
    #[serde(default)]
    #[garde(
        custom(rules::optional),
        custom(rules::text_at_least(passwords::MIN_CHARACTERS)),
        custom(rules::text_at_most(passwords::MAX_CHARACTERS))
    )]
    password: Field<String>,
}

object!(Body: role, banned, password);

impl Input for Change {
    const READS_BODY: bool = true;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let id = parts.path_id("id")?.into();
        let body: Body = parts.body()?;
        let change = Self {
            id,
            role: body.role.value().and_then(|role| Role::parse(role)),
            banned: body.banned.into_value(),
            password: body.password.into_value().map(Into::into),
        };
        if change.role.is_none() && change.banned.is_none() && change.password.is_none() {
            return Err(invalid("body", "", "At least one field must be provided"));
        }
        Ok(change)
    }
}
