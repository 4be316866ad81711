//! Whose turn it is: with any number of workers, exactly one runs a task when it is due.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::schema::schedule_turns as turns;
use crate::{DbResult, SystemTx};

/// When each task is due next; a task that never ran is missing. By the system role: the schedule belongs to no
/// organization.
pub async fn due_times(tx: &mut SystemTx) -> DbResult<Vec<(String, DateTime<Utc>)>> {
    Ok(turns::table.select((turns::task, turns::due_at)).load(tx.connection()).await?)
}

/// Takes the turn of a task that was seen to be due at `due` (`None`: it never ran); the next is due at `next`. Answers
/// whether it was taken: of several that saw the same, also on different machines, one gets it. By the system role, as
/// above.
pub async fn take_turn(
    tx: &mut SystemTx,
    task: &str,
    due: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
    next: DateTime<Utc>,
) -> DbResult<bool> {
    let times = (turns::due_at.eq(next), turns::taken_at.eq(now));
    let rows = match due {
        None => {
            diesel::insert_into(turns::table)
                .values((turns::task.eq(task), times))
                .on_conflict_do_nothing()
                .execute(tx.connection())
                .await?
        }
        Some(due) => {
            diesel::update(turns::table.find(task).filter(turns::due_at.eq(due)))
                .set(times)
                .execute(tx.connection())
                .await?
        }
    };
    Ok(rows == 1)
}

/// Gives a turn back that came to nothing: somebody may try again from `due` on. By the system role, as above.
pub async fn give_back(tx: &mut SystemTx, task: &str, due: DateTime<Utc>) -> DbResult<()> {
    diesel::update(turns::table.find(task)).set(turns::due_at.eq(due)).execute(tx.connection()).await?;
    Ok(())
}
