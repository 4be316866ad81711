//! What operators look at: queues, dead letters, jobs that could not be queued, dependencies, and what is only there to
//! find mistakes.

mod auth_debug;
mod debug_redis;
mod internal_metrics;
mod queues;
mod queues_status;
mod ready_deep;
mod replay;
mod retry_intents;
mod system_health;

use crate::http::endpoint::Routes;

/// The feature's routes.
pub fn routes(routes: &mut Routes<'_>) {
    routes
        .add::<queues::QueueCounts>()
        .add::<replay::Replay>()
        .add::<retry_intents::RetryIntents>()
        .add::<system_health::SystemHealth>()
        .add::<internal_metrics::InternalMetrics>()
        .add::<queues_status::QueuesStatus>()
        .add::<ready_deep::ReadyDeep>()
        .add::<debug_redis::DebugRedis>()
        .add::<auth_debug::AuthDebug>();
}
