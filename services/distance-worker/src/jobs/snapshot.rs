//! `snapshot` on `snapshot-engine`: read models after something happened.
//!
//! Whatever happened, everything of the employee is set from what it is made of, so jobs may come twice, late or out of
//! order. `RECONCILE`, which the schedule asks for, compares all of an organization: it finds what no event told of.

use domain::Tenant;
use domain::job::{Occasion, Snapshot};
use queue::JobError;
use serde_json::{Value, json};

use super::{Context, Kind, retry};

/// Jobs at once in a process.
pub const CONCURRENCY: usize = 5;

/// Transactions that a span of days is compared in at most.
const MOST_TURNS: usize = 1000;

/// Sets the read models of an employee, or of a whole organization.
pub struct Snapshots {
    /// What it may reach.
    pub cx: Context,
}

impl Kind for Snapshots {
    type Payload = Snapshot;

    async fn run(&self, asked: &Snapshot) -> Result<Value, JobError> {
        let Some(tenant) = Tenant::of_job(asked) else {
            return Err(JobError::GiveUp("the job does not say for whom it is".to_owned()));
        };
        if asked.occasion == Occasion::Reconcile {
            return self.reconcile(tenant, asked).await;
        }
        let now = self.cx.clock.now();
        let mut tx = self.cx.db.tenant(tenant).await.map_err(retry)?;
        let employee = asked.employee.ok_or_else(|| JobError::GiveUp("the job names no employee".to_owned()))?;
        if let Occasion::ExpenseCreated | Occasion::ExpenseApproved | Occasion::ExpenseRejected = asked.occasion {
            let expense = asked.expense.ok_or_else(|| JobError::GiveUp("the job names no expense".to_owned()))?;
            if !db::figures::expense_counts(&mut tx, expense, now).await.map_err(retry)? {
                return Err(JobError::GiveUp(format!("there is no expense {expense}")));
            }
        } else if !db::figures::employee_counts(&mut tx, employee, now).await.map_err(retry)? {
            return Err(JobError::GiveUp(format!("there is no employee {employee}")));
        }
        if asked.occasion != Occasion::LocationUpdate {
            db::figures::set_dashboard(&mut tx, now).await.map_err(retry)?;
        }
        tx.commit().await.map_err(retry)?;
        Ok(json!({ "employeeId": employee }))
    }
}

impl Snapshots {
    /// Each span of days in a transaction of its own, so that nobody waits long for a row.
    async fn reconcile(&self, tenant: Tenant, asked: &Snapshot) -> Result<Value, JobError> {
        let now = self.cx.clock.now();
        let mut tx = self.cx.db.tenant(tenant).await.map_err(retry)?;
        let Some(comparison) = db::figures::comparison(&mut tx, now).await.map_err(retry)? else {
            return Err(JobError::GiveUp(format!("there is no organization {}", asked.organization)));
        };
        tx.commit().await.map_err(retry)?;
        let mut wrong = 0;
        for (first, last) in comparison.spans {
            // What is set is right afterwards, so this ends; a limit all the same.
            for _ in 0..MOST_TURNS {
                let mut tx = self.cx.db.tenant(tenant).await.map_err(retry)?;
                let found = db::figures::compare_days(&mut tx, first, last, now).await.map_err(retry)?;
                tx.commit().await.map_err(retry)?;
                wrong += found;
                if found < db::figures::DAYS_AT_ONCE {
                    break;
                }
            }
        }
        let mut tx = self.cx.db.tenant(tenant).await.map_err(retry)?;
        wrong += db::figures::compare_people(&mut tx, comparison.is_whole, now).await.map_err(retry)?;
        tx.commit().await.map_err(retry)?;
        if wrong > 0 {
            tracing::info!(wrong, "figures were set right");
        }
        Ok(json!({ "organizationId": asked.organization, "setRight": wrong }))
    }
}
