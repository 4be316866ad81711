//! `GET /admin/users`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::auth::Role;
use domain::page::{PageRequest, Pagination};
use domain::user::User;
use garde::Validate;

use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, page_request};
use crate::http::openapi::About;
use crate::http::{reply, rules};

/// The users of the organization, by address.
pub struct List;

impl Endpoint for List {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/users";
    const ACCESS: Access = Access::Admins;
    type Input = Wanted;

    fn about() -> About {
        About::new("users", "listUsers", "The users of the organization, by address").page::<User>()
    }

    async fn handle(call: Call<Wanted>) -> ApiResult<HttpResponse> {
        let Wanted { page, role } = call.input;
        let mut tx = call.state.db.tenant(call.caller()?.tenant()).await?;
        let (users, total) = db::users::list(&mut tx, role, page).await?;
        tx.commit().await?;
        Ok(reply::page(users, Pagination::new(page, total)))
    }
}

/// Which page of which users.
pub struct Wanted {
    page: PageRequest,
    role: Option<Role>,
}

#[derive(Validate)]
#[garde(context(Moment))]
struct Query {
    #[garde(custom(rules::finite), custom(rules::whole), custom(rules::at_least(1.0)))]
    page: Field<f64>,
    #[garde(custom(rules::finite), custom(rules::whole), custom(rules::at_least(1.0)), custom(rules::at_most(200.0)))]
    limit: Field<f64>,
    #[garde(custom(rules::one_of(super::update::ROLES)))]
    role: Field<String>,
}

impl Input for Wanted {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let query = parts.query();
        let query = Query { page: query.number("page"), limit: query.number("limit"), role: query.text("role") };
        parts.judge("querystring", &query, &["page", "limit", "role"])?;
        Ok(Self {
            page: page_request(&query.page, &query.limit, 50),
            role: query.role.value().and_then(|role| Role::parse(role)),
        })
    }
}
