//! `GET /locations/my-route`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::SessionId;
use garde::Validate;

use super::wire::Location;
use crate::error::{ApiError, ApiResult};
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, UuidText};
use crate::http::openapi::About;
use crate::http::{reply, rules};

/// The caller's own fixes of one session, oldest first; somebody else's session is empty.
pub struct MyRoute;

impl Endpoint for MyRoute {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/locations/my-route";
    const ACCESS: Access = Access::Employees;
    type Input = Wanted;

    fn about() -> About {
        About::new("locations", "getMyRoute", "The caller's own fixes of one session, oldest first")
            .note("Either spelling of the session's id will do. Somebody else's session is empty.")
            .means("session_id", "The other spelling; sessionId wins when both are given.")
            .list::<Location>()
    }

    async fn handle(call: Call<Wanted>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let employee = caller.working_employee()?;
        let session = call.input.0.ok_or_else(|| ApiError::RefusedField {
            message: "sessionId is required".to_owned(),
            field: "sessionId",
        })?;
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        let route = db::locations::route_of(&mut tx, employee, session, call.state.config.max_points).await?;
        tx.commit().await?;
        Ok(reply::ok(route.into_iter().map(Location::from).collect::<Vec<_>>()))
    }
}

/// The session asked for, in either spelling.
pub struct Wanted(Option<SessionId>);

#[derive(Validate)]
#[garde(context(Moment))]
#[expect(non_snake_case, reason = "the fields are named as the query spells them")]
struct Query {
    #[garde(custom(rules::optional), custom(rules::uuid("sessionId must be a valid UUID")))]
    sessionId: Field<UuidText>,
    #[garde(custom(rules::optional), custom(rules::uuid("session_id must be a valid UUID")))]
    session_id: Field<UuidText>,
}

impl Input for Wanted {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let query = parts.query();
        let query = Query { sessionId: query.id("sessionId"), session_id: query.id("session_id") };
        parts.judge("querystring", &query, &["sessionId", "session_id"])?;
        let id = |field: &Field<UuidText>| field.value().and_then(|id| id.0).map(SessionId::from);
        Ok(Self(id(&query.sessionId).or_else(|| id(&query.session_id))))
    }
}
