//! Webhooks: addresses of other systems that are told of what happens here.
//!
//! An administrator registers an address with a secret; the secret is sealed for its row and never shown again. Events
//! are handed on by the worker, which also makes the attempts; here deliveries are looked at and sent again. Every
//! operation has an older address without `/admin`.

mod create;
mod dead_letters;
mod delete;
mod deliveries;
mod list;
mod retry;
mod test;
mod update;

use domain::WebhookId;
use domain::job::{DeliverWebhook, Payload};
use domain::webhook::Target;
use queue::NewJob;

use crate::error::{ApiError, ApiResult};
use crate::http::endpoint::Routes;
use crate::http::input::{Field, Word, Words};
use crate::state::State;

/// The feature's routes.
pub fn routes(routes: &mut Routes<'_>) {
    routes
        .add::<list::List<false>>()
        .add::<create::Create<false>>()
        .add::<deliveries::Deliveries<{ deliveries::DELIVERIES }>>()
        .add::<deliveries::Deliveries<{ deliveries::LOGS }>>()
        .add::<retry::Retry<{ deliveries::DELIVERIES }>>()
        .add::<retry::Retry<{ deliveries::LOGS }>>()
        .add::<test::Test<false>>()
        .add::<update::Update<false>>()
        .add::<delete::Delete<false>>()
        .add::<dead_letters::DeadLetters>()
        .add::<retry::Retry<{ retry::DEAD_LETTER }>>()
        .add::<list::List<true>>()
        .add::<create::Create<true>>()
        .add::<deliveries::Deliveries<{ deliveries::OLD_LOGS }>>()
        .add::<retry::Retry<{ deliveries::OLD_LOGS }>>()
        .add::<test::Test<true>>()
        .add::<update::Update<true>>()
        .add::<delete::Delete<true>>();
}

const NOT_FOUND: ApiError = ApiError::NotFound("Webhook not found");

/// Fewest and most characters of a secret.
const SECRET: (usize, usize) = (16, 256);

/// What webhooks can be told of.
struct EventWords;

impl Words for EventWords {
    const WORDS: &'static [&'static str] = &[
        "session.checkin",
        "session.checkout",
        "employee.checked_in",
        "employee.checked_out",
        "expense.created",
        "expense.approved",
        "expense.rejected",
        "employee.created",
    ];
}

type EventItems = Vec<Field<Word<EventWords>>>;

/// The events a body names, each once.
fn named(events: Field<EventItems>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in events.into_value().into_iter().flatten().filter_map(Field::into_value) {
        if !names.contains(&name.0) {
            names.push(name.0);
        }
    }
    names
}

/// How attempts may be spread.
struct ScheduleWords;

impl Words for ScheduleWords {
    const WORDS: &'static [&'static str] = domain::webhook::RetrySchedule::WORDS;
}

/// Refuses an address that requests may not go to, as far as the address says.
fn judge(state: &State, url: &str) -> ApiResult<()> {
    match Target::parse(url, &state.config.webhook_networks) {
        Ok(_) => Ok(()),
        Err(error) => Err(ApiError::Refused(format!("Invalid webhook URL: {error}"))),
    }
}

/// Seals a secret for its webhook's row.
fn seal(state: &State, webhook: WebhookId, secret: &str) -> ApiResult<Vec<u8>> {
    let purpose = domain::webhook::sealed_for(webhook);
    state.config.secrets.seal(&purpose, secret.as_bytes()).map_err(|error| ApiError::Internal(error.to_string()))
}

/// Refuses when nobody would make the attempt: without workers, with a full queue, or without any. Asked before anything
/// is changed, so that a delivery that cannot be queued stays as it is (D52).
async fn may_be_queued(state: &State) -> ApiResult<()> {
    if !state.config.workers_enabled {
        return Err(ApiError::NoWorkers("Workers not enabled — webhook delivery requires WORKERS_ENABLED=true"));
    }
    let (depth, most) = (state.queues.deliveries.counts().await?.depth(), state.config.max_queue_depth);
    if depth >= most {
        return Err(ApiError::QueueOverloaded { queue: DeliverWebhook::QUEUE, depth, most });
    }
    Ok(())
}

/// Asks for an attempt that is written down already. The worker's schedule finds it when this fails.
async fn ask(state: &State, job: &DeliverWebhook, request_id: &str) {
    let asked = match NewJob::of(job, telemetry::traces::carrier(request_id)) {
        // Ahead of first attempts that wait: somebody looks at it.
        Ok(new) => state.deliveries.enqueue(NewJob { priority: 1, ..new }).await.map(|_| ()),
        Err(error) => Err(error),
    };
    if let Err(error) = asked {
        tracing::warn!(error.message = %error, "a delivery could not be queued; the schedule will ask again");
    }
}
