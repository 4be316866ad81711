//! Stores single fixes: whatever arrives while a statement is under way travels in the next one.

use std::sync::Arc;

use db::locations::{PointToRecord, Recorded, record_points_of};
use db::{Db, DbError};
use domain::Clock;
use gather::Gather;

use crate::error::{ApiError, ApiResult};

/// Statements under way at once. More would make each smaller and all of them slower.
const IN_FLIGHT: usize = 2;

/// Stores single fixes, gathered.
#[derive(Clone)]
pub struct Recorder {
    gather: Gather<PointToRecord, Result<Recorded, String>>,
}

impl Recorder {
    /// Starts on the current runtime; at most `most` fixes share a statement. With 1, every fix has a statement and a
    /// commit of its own, and only the pool of connections bounds how many are under way.
    #[must_use]
    pub fn start(db: Db, clock: Arc<dyn Clock>, most: usize) -> Self {
        let in_flight = if most == 1 { usize::MAX >> 3 } else { IN_FLIGHT };
        let gather = Gather::start(most, in_flight, move |points: Vec<PointToRecord>| {
            let (db, clock) = (db.clone(), Arc::clone(&clock));
            async move { record_all(&db, clock.as_ref(), &points).await }
        });
        Self { gather }
    }

    /// Stores one fix; answers after its commit.
    #[tracing::instrument(name = "record point", skip_all)]
    pub async fn record(&self, point: PointToRecord) -> ApiResult<Recorded> {
        let answer = self.gather.call(point).await.map_err(|error| ApiError::Unavailable(error.to_string()))?;
        answer.map_err(ApiError::Unavailable)
    }
}

/// One statement for all; when it is refused, one each, so that a fix which cannot be stored takes no other with it.
async fn record_all(db: &Db, clock: &dyn Clock, points: &[PointToRecord]) -> Vec<Result<Recorded, String>> {
    match record_points_of(db, points, clock.now()).await {
        Ok(answers) => answers.into_iter().map(Ok).collect(),
        Err(error @ DbError::Unavailable(_)) => vec![Err(error.to_string()); points.len()],
        Err(error) if points.len() == 1 => vec![Err(error.to_string())],
        Err(_) => {
            let mut answers = Vec::with_capacity(points.len());
            for point in points {
                let alone = record_points_of(db, std::slice::from_ref(point), clock.now()).await;
                answers.push(match alone.as_deref() {
                    Ok([answer]) => Ok(*answer),
                    Ok(_) => Err("a fix got no answer".to_owned()),
                    Err(error) => Err(error.to_string()),
                });
            }
            answers
        }
    }
}
