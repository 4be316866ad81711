//! `POST /admin/queues/replay-distance-dlq`

use std::collections::HashSet;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::{Method, StatusCode};
use db::audit::{self, Entry};
use domain::job::{DISTANCE_LETTERS, Payload, RecalculateDistance};
use domain::{SessionId, Tenant};
use garde::Validate;
use queue::{Dead, QueueError, Waiting};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{ApiError, ApiResult};
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, object};
use crate::http::limits::PATIENCE;
use crate::http::openapi::About;
use crate::http::{reply, rules};
use crate::state::State;

/// Asks anew for measurements of the caller's organization that were given up, the oldest first (D13).
pub struct Replay;

/// How long an organization waits between two.
const COOL_DOWN: Duration = Duration::from_secs(15);

/// Jobs asked for in one go.
const AT_ONCE: usize = 50;

impl Endpoint for Replay {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/admin/queues/replay-distance-dlq";
    const ACCESS: Access = Access::Admins;
    type Input = Limit;

    fn about() -> About {
        About::new("admin", "replayDistanceDlq", "Put dead distance jobs back in the queue")
            .note("Those of the caller's organization, the oldest first; once every 15 s.")
            .bare::<Replayed>(200, "Replayed.")
            .refuses(429, "The last one was less than 15 s ago.")
            .refuses(503, "The queue is full or away; nothing was replayed.")
    }

    async fn handle(call: Call<Limit>) -> ApiResult<HttpResponse> {
        let state = &call.state;
        let organization = call.caller()?.tenant().organization();
        let key = format!("replay:{DISTANCE_LETTERS}:{organization}");
        if let Some(left) = state.limits.take(&key, COOL_DOWN).await? {
            state.metrics.rate_limited(Self::PATH);
            return Err(ApiError::CoolingDown { queue: DISTANCE_LETTERS, left, whole: COOL_DOWN });
        }
        match replay(&call).await {
            Ok(replayed) => Ok(reply::json(StatusCode::OK, &Replayed { success: true, replayed, limit: call.input.0 })),
            Err(error) => {
                // Nothing was done, so nothing has to cool down.
                if let Err(error) = state.limits.clear(&key, PATIENCE).await {
                    tracing::debug!(error.message = %error, "a cool-down could not be ended");
                }
                Err(error)
            }
        }
    }
}

async fn replay(call: &Call<Limit>) -> ApiResult<usize> {
    let (state, caller) = (&call.state, call.caller()?);
    let queues = &state.queues;
    let (depth, most) = (queues.distance.counts().await?.depth(), state.config.max_queue_depth);
    let overloaded = |depth| ApiError::QueueOverloaded { queue: RecalculateDistance::QUEUE, depth, most };
    if depth >= most {
        return Err(overloaded(depth));
    }
    let letters = queues.distance_letters.waiting().await?;
    let chosen = of_organization(state, caller.tenant(), &letters, call.input.0).await?;
    let mut replayed = Vec::with_capacity(chosen.len());
    for part in chosen.chunks(AT_ONCE) {
        let asked = part.iter().map(|(_, session)| state.jobs.ask_now(caller.tenant(), *session, &call.request_id));
        let mut failure = None;
        for ((letter, _), asked) in part.iter().zip(futures_util::future::join_all(asked).await) {
            match asked {
                Ok(()) => replayed.push(letter.clone()),
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            None => {}
            Some(QueueError::Overloaded { depth, .. }) if replayed.is_empty() => return Err(overloaded(depth)),
            Some(error) if replayed.is_empty() => return Err(error.into()),
            // The rest stays where it is.
            Some(_) => break,
        }
    }
    // The jobs are queued before their letters go: dying in between means that some are replayed twice, which is harmless.
    queues.distance_letters.discard_waiting(&replayed).await?;
    let failed: Vec<(String, u64)> = replayed.iter().filter_map(|letter| Dead::of_copy(letter)).collect();
    queues.distance.discard_failed(&failed).await?;
    let entry = Entry::new("DLQ_REPLAY_EXECUTED", caller.actor())
        .on("queue", DISTANCE_LETTERS)
        .with("replayed", replayed.len())
        .with("limit", call.input.0);
    let mut tx = state.db.tenant(caller.tenant()).await?;
    audit::record(&mut tx, &entry, state.clock.now()).await?;
    tx.commit().await?;
    Ok(replayed.len())
}

/// Up to `most` letters about sessions of the organization. Foreign producers do not say whose a session is; the
/// database does.
async fn of_organization(
    state: &State,
    tenant: Tenant,
    letters: &[Waiting],
    most: usize,
) -> ApiResult<Vec<(String, SessionId)>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Letter {
        original_data: RecalculateDistance,
    }
    let read: Vec<(&Waiting, RecalculateDistance)> = letters
        .iter()
        .filter_map(|letter| Some((letter, serde_json::from_str::<Letter>(&letter.data).ok()?.original_data)))
        .collect();
    let unknown: Vec<SessionId> =
        read.iter().filter(|(_, job)| job.organization.is_none()).map(|(_, job)| job.session).collect();
    let ours: HashSet<SessionId> = if unknown.is_empty() {
        HashSet::new()
    } else {
        let mut tx = state.db.tenant(tenant).await?;
        let ours = db::attendance::known(&mut tx, &unknown).await?;
        tx.commit().await?;
        ours.into_iter().collect()
    };
    Ok(read
        .into_iter()
        .filter(|(_, job)| match job.organization {
            Some(organization) => organization == tenant.organization(),
            None => ours.contains(&job.session),
        })
        .take(most)
        .map(|(letter, job)| (letter.id.clone(), job.session))
        .collect())
}

/// What was put back.
#[derive(Serialize, ToSchema)]
#[schema(as = DlqReplay)]
struct Replayed {
    success: bool,
    /// Jobs that were put back.
    replayed: usize,
    /// As many as were allowed.
    limit: usize,
}

/// How many at the most.
pub struct Limit(usize);

#[derive(Deserialize, Validate)]
#[garde(context(Moment))]
struct Body {
    #[serde(default)]
    #[garde(
        custom(rules::optional),
        custom(rules::whole),
        custom(rules::at_least(1.0)),
        custom(rules::at_most(500.0))
    )]
    limit: Field<f64>,
}

object!(Body: limit);

impl Input for Limit {
    const READS_BODY: bool = true;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let limit = parts.optional_body::<Body>()?.map_or(100, |body| body.limit.whole_or(100));
        Ok(Self(usize::try_from(limit).unwrap_or(1)))
    }
}
