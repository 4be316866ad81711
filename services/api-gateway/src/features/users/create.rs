//! `POST /admin/users`

use actix_web::HttpResponse;
use actix_web::http::Method;
use db::audit::{self, Entry};
use db::employees::NewEmployee;
use db::identity::{EMAIL_TAKEN, NewUser};
use domain::auth::Role;
use domain::employee::name_from_email;
use domain::event::Event;
use domain::user::User;
use domain::{EmployeeId, UserId};
use garde::Validate;
use secrecy::SecretString;
use serde::Deserialize;

use super::{email_taken, ours_to_manage};
use crate::error::{ApiError, ApiResult};
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, object};
use crate::http::openapi::About;
use crate::http::{reply, rules};
use crate::identity::passwords;

/// Makes a user. One who works in the field becomes an employee in the same transaction, called by the local part of
/// the address unless a name is given; an administrator does not.
pub struct Create;

impl Endpoint for Create {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/admin/users";
    const ACCESS: Access = Access::Admins;
    type Input = NewPerson;

    fn about() -> About {
        About::new("users", "createUser", "Make a user")
            .note("One of role EMPLOYEE becomes an employee too, called by the address unless a name is given.")
            .created::<User>()
    }

    async fn handle(call: Call<NewPerson>) -> ApiResult<HttpResponse> {
        ours_to_manage(&call.state)?;
        let caller = call.caller()?;
        let NewPerson { email, password, role, name } = &call.input;
        let now = call.state.clock.now();
        // Hashing takes a while on purpose: not inside the transaction.
        let hash = call.state.passwords.hash(password.clone()).await;
        let hash = hash.map_err(|error| ApiError::Unavailable(error.to_string()))?;
        let id = UserId::generate();
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        let new = NewUser { id, email, role: *role, password_hash: &hash };
        db::identity::create_user(&mut tx, &new)
            .await
            .map_err(|error| if error.is_conflict_with(EMAIL_TAKEN) { email_taken(email) } else { error.into() })?;
        let entry = Entry::new("USER_CREATED", caller.actor()).on("user", id).with("role", role.as_str());
        audit::record(&mut tx, &entry, now).await?;
        if *role == Role::Employee {
            let name = name.clone().unwrap_or_else(|| name_from_email(email));
            let new =
                NewEmployee { id: EmployeeId::generate(), user: Some(id), name, employee_code: None, phone: None };
            let employee = db::employees::create(&mut tx, new, now).await?;
            let entry = Entry::new("EMPLOYEE_CREATED", caller.actor()).on("employee", employee.id);
            audit::record(&mut tx, &entry, now).await?;
            db::events::record(&mut tx, &Event::EmployeeCreated(employee), now).await?;
        }
        let user = db::users::find(&mut tx, id).await?;
        let user = user.ok_or_else(|| ApiError::Internal("a user just made is not there".to_owned()))?;
        tx.commit().await?;
        Ok(reply::created(user))
    }
}

/// Somebody to sign in.
pub struct NewPerson {
    email: String,
    password: SecretString,
    role: Role,
    name: Option<String>,
}

#[derive(Deserialize, Validate)]
#[garde(context(Moment))]
struct Body {
    #[serde(default)]
    #[garde(custom(rules::required), custom(rules::email))]
    email: Field<String>,
    #[serde(default)]
    #[garde(
        custom(rules::required),
        custom(rules::text_at_least(passwords::MIN_CHARACTERS)),
        custom(rules::text_at_most(passwords::MAX_CHARACTERS))
    )]
    password: Field<String>,
    #[serde(default)]
    #[garde(custom(rules::choice(super::update::ROLES)))]
    role: Field<String>,
    #[serde(default)]
    #[garde(custom(rules::optional), custom(rules::text_at_least(1)), custom(rules::storable))]
    name: Field<String>,
}

object!(Body: email, password, role, name);

impl Input for NewPerson {
    const READS_BODY: bool = true;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let body: Body = parts.body()?;
        Ok(Self {
            email: body.email.into_value().unwrap_or_default().to_lowercase(),
            password: body.password.into_value().unwrap_or_default().into(),
            // The rules have asked for one of the two.
            role: body.role.value().and_then(|role| Role::parse(role)).unwrap_or(Role::Employee),
            name: body.name.into_value(),
        })
    }
}
