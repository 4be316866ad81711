//! Stores fixes: whatever arrives while a statement is under way travels in the next one.
//!
//! A statement and its commit cost the database more than a fix does, so they are shared by all who wait for them
//! anyway. There is no timer: a lone phone's fix leaves at once.

use std::future::Future;
use std::sync::Arc;

use db::locations::{BatchToRecord, PointToRecord, Recorded, record_batches_of, record_points_of};
use db::{Db, DbError, DbResult};
use domain::Clock;
use gather::{Gather, Pace};

use crate::error::{ApiError, ApiResult};

/// Uploads: while one statement waits for the disk, others can work.
const UPLOADS: Pace = Pace { most: 16, in_flight: 3, worthwhile: 1 };

/// What became of each, or why it could not be stored.
type Answer = Result<Recorded, String>;

/// Stores fixes, gathered.
#[derive(Clone)]
pub struct Recorder {
    points: Gather<PointToRecord, Answer>,
    uploads: Gather<BatchToRecord, Answer>,
}

impl Recorder {
    /// Starts on the current runtime; at most `points` single fixes share a statement. With 1, every fix has a
    /// statement and a commit of its own, and only the pool of connections bounds how many are under way.
    #[must_use]
    pub fn start(db: Db, clock: Arc<dyn Clock>, points: usize) -> Self {
        let pace = match points {
            1 => Pace { most: 1, in_flight: usize::MAX, worthwhile: 1 },
            // A statement costs as much as fifteen fixes, so a further one has to carry many.
            most => Pace { most, in_flight: 2, worthwhile: 16 },
        };
        let (its_db, its_clock) = (db.clone(), Arc::clone(&clock));
        Self {
            points: Gather::start(pace, move |points: Vec<PointToRecord>| {
                let (db, clock) = (its_db.clone(), Arc::clone(&its_clock));
                async move { all_or_each(&points, |some| record_points_of(&db, some, clock.now())).await }
            }),
            uploads: Gather::start(UPLOADS, move |uploads: Vec<BatchToRecord>| {
                let (db, clock) = (db.clone(), Arc::clone(&clock));
                async move { all_or_each(&uploads, |some| record_batches_of(&db, some, clock.now())).await }
            }),
        }
    }

    /// Stores one fix; answers after its commit. No span of its own: it is all its request does.
    pub async fn record(&self, point: PointToRecord) -> ApiResult<Recorded> {
        answered(self.points.call(point).await)
    }

    /// Stores one upload, whole or not at all; answers after its commit.
    #[tracing::instrument(name = "record upload", skip_all)]
    pub async fn record_batch(&self, upload: BatchToRecord) -> ApiResult<Recorded> {
        answered(self.uploads.call(upload).await)
    }
}

fn answered(answer: Result<Answer, gather::Unanswered>) -> ApiResult<Recorded> {
    answer.map_err(|error| ApiError::Unavailable(error.to_string()))?.map_err(ApiError::Unavailable)
}

/// One statement for all; when it is refused, one each, so that what cannot be stored takes nothing else with it.
async fn all_or_each<'a, T, F>(items: &'a [T], store: impl Fn(&'a [T]) -> F) -> Vec<Answer>
where
    F: Future<Output = DbResult<Vec<Recorded>>>,
{
    match store(items).await {
        Ok(answers) => answers.into_iter().map(Ok).collect(),
        Err(error @ DbError::Unavailable(_)) => vec![Err(error.to_string()); items.len()],
        Err(error) if items.len() == 1 => vec![Err(error.to_string())],
        Err(_) => {
            let mut answers = Vec::with_capacity(items.len());
            for item in items {
                let alone = store(std::slice::from_ref(item)).await;
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
