//! `POST /admin/employees`

use actix_web::HttpResponse;
use actix_web::http::Method;
use db::audit::{self, Entry};
use db::employees::{CODE_TAKEN, NO_SUCH_USER, NewEmployee, USER_TAKEN};
use db::identity::{EMAIL_TAKEN, NewUser};
use domain::auth::Role;
use domain::employee::Employee;
use domain::event::Event;
use domain::{EmployeeId, UserId};
use garde::Validate;
use secrecy::SecretString;
use serde::Deserialize;

use crate::error::{ApiError, ApiResult};
use crate::features::users::{email_taken, ours_to_manage};
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, UuidText, invalid, object};
use crate::http::openapi::About;
use crate::http::{reply, rules};
use crate::identity::passwords;

/// Characters of a code: it is looked up and sorted by, and an index takes only so much (D53).
const MOST_OF_CODE: usize = 100;

/// Makes an employee; with an address and a password, also the user they sign in as, in the same transaction.
pub struct Create;

impl Endpoint for Create {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/admin/employees";
    const ACCESS: Access = Access::Admins;
    type Input = NewPerson;

    fn about() -> About {
        About::new("employees", "createEmployee", "Employ somebody")
            .note("With an e-mail address and a password, also the user they sign in as, in one transaction.")
            .means("employee_code", "Made up when it is missing: EMP and a number of four digits.")
            .means("user_id", "A user of the organization who is nobody's employee yet.")
            .means("email", "Given together with password; not with user_id.")
            .created::<Employee>()
    }

    async fn handle(call: Call<NewPerson>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let NewPerson { name, employee_code, user, phone, sign_in } = &call.input;
        // Hashing takes a while on purpose: not inside the transaction.
        let login = match sign_in {
            None => None,
            Some((email, password)) => {
                ours_to_manage(&call.state)?;
                let hash = call
                    .state
                    .passwords
                    .hash(password.clone())
                    .await
                    .map_err(|error| ApiError::Unavailable(error.to_string()))?;
                Some((UserId::generate(), email.as_str(), hash))
            }
        };
        let now = call.state.clock.now();
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        if let Some((id, email, password_hash)) = &login {
            let new = NewUser { id: *id, email, role: Role::Employee, password_hash };
            db::identity::create_user(&mut tx, &new)
                .await
                .map_err(|error| if error.is_conflict_with(EMAIL_TAKEN) { email_taken(email) } else { error.into() })?;
        }
        let user = login.as_ref().map(|(id, ..)| *id).or(*user);
        let new = NewEmployee {
            id: EmployeeId::generate(),
            user,
            name: name.clone(),
            employee_code: employee_code.clone(),
            phone: phone.clone(),
        };
        let employee = db::employees::create(&mut tx, new, now).await.map_err(|error| {
            let user = user.map(|id| id.to_string()).unwrap_or_default();
            if error.is_conflict_with(CODE_TAKEN) {
                let code = employee_code.as_deref().unwrap_or_default();
                ApiError::Refused(format!("employee_code '{code}' is already in use within this organization"))
            } else if error.is_conflict_with(USER_TAKEN) {
                ApiError::Refused(format!("user_id '{user}' is already linked to another employee"))
            } else if error.is_conflict_with(NO_SUCH_USER) {
                ApiError::Refused(format!("user_id '{user}' does not correspond to any registered user"))
            } else {
                error.into()
            }
        })?;
        db::events::record(&mut tx, &Event::EmployeeCreated(employee.clone()), now).await?;
        if let Some((id, ..)) = &login {
            let entry = Entry::new("USER_CREATED", caller.actor()).on("user", id).with("role", Role::Employee.as_str());
            audit::record(&mut tx, &entry, now).await?;
        }
        let entry = Entry::new("EMPLOYEE_CREATED", caller.actor()).on("employee", employee.id);
        audit::record(&mut tx, &entry, now).await?;
        tx.commit().await?;
        Ok(reply::created(employee))
    }
}

/// Somebody to be employed.
pub struct NewPerson {
    name: String,
    employee_code: Option<String>,
    user: Option<UserId>,
    phone: Option<String>,
    sign_in: Option<(String, SecretString)>,
}

#[derive(Deserialize, Validate)]
#[garde(context(Moment))]
struct Body {
    #[serde(default)]
    #[garde(custom(rules::required), custom(rules::not_empty("name is required")), custom(rules::storable))]
    name: Field<String>,
    #[serde(default)]
    #[garde(
        custom(rules::optional),
        custom(rules::text_at_least(1)),
        custom(rules::text_at_most(MOST_OF_CODE)),
        custom(rules::storable)
    )]
    employee_code: Field<String>,
    #[serde(default)]
    #[garde(custom(rules::optional), custom(rules::uuid("user_id must be a valid UUID")))]
    user_id: Field<UuidText>,
    #[serde(default)]
    #[garde(custom(rules::optional), custom(rules::storable))]
    phone: Field<String>,
    #[serde(default)]
    #[garde(custom(rules::optional), custom(rules::email))]
    email: Field<String>,
    #[serde(default)]
    #[garde(
        custom(rules::optional),
        custom(rules::text_at_least(passwords::MIN_CHARACTERS)),
        custom(rules::text_at_most(passwords::MAX_CHARACTERS))
    )]
    password: Field<String>,
}

object!(Body: name, employee_code, user_id, phone, email, password);

impl Input for NewPerson {
    const READS_BODY: bool = true;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let body: Body = parts.body()?;
        let user = body.user_id.value().and_then(|id| id.0).map(UserId::from);
        let sign_in = match (body.email.into_value(), body.password.into_value()) {
            (Some(_), Some(_)) if user.is_some() => {
                return Err(invalid("body", "", "user_id cannot be combined with email and password"));
            }
            (Some(email), Some(password)) => Some((email.to_lowercase(), password.into())),
            (None, None) => None,
            _ => return Err(invalid("body", "", "email and password must be given together")),
        };
        Ok(Self {
            name: body.name.into_value().unwrap_or_default(),
            employee_code: body.employee_code.into_value(),
            user,
            phone: body.phone.into_value(),
            sign_in,
        })
    }
}
