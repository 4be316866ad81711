//! People and sessions to test with.

use chrono::{DateTime, TimeDelta, Utc};
use db::Db;
use domain::location::{Coordinate, Fix};
use domain::{Clock, EmployeeId, SessionId, SystemClock, Tenant};
use testkit::database::{TestDatabase, tenant};
use uuid::Uuid;

/// An organization with one employee who has checked in an hour ago.
pub struct Field {
    pub tenant: Tenant,
    pub employee: EmployeeId,
    pub session: SessionId,
    pub checkin_at: DateTime<Utc>,
}

impl Field {
    pub async fn new(database: &TestDatabase, db: &Db) -> Self {
        let organization = Uuid::now_v7();
        let mut tx = db.system().await.unwrap();
        let slug = format!("o{}", organization.simple());
        db::organizations::create(&mut tx, organization.into(), "Field Services", &slug).await.unwrap();
        tx.commit().await.unwrap();
        let tenant = tenant(organization);
        let employee = EmployeeId::generate();
        let session = SessionId::generate();
        let checkin_at = SystemClock.now() - TimeDelta::hours(1);
        let mut tx = db.tenant(tenant).await.unwrap();
        let new = db::employees::NewEmployee {
            id: employee,
            user: None,
            name: "Asha".into(),
            employee_code: None,
            phone: None,
        };
        db::employees::create(&mut tx, new, checkin_at).await.unwrap();
        db::attendance::open(&mut tx, session, employee, checkin_at).await.unwrap();
        tx.commit().await.unwrap();
        let _ = database;
        Self { tenant, employee, session, checkin_at }
    }

    /// A fix so many seconds after the check-in, a little further north each second.
    pub fn fix(&self, seconds: i64) -> Fix {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let north = seconds as f64 * 1e-5;
        Fix {
            at: Coordinate::new(45.0 + north, 13.0).unwrap(),
            recorded_at: self.checkin_at + TimeDelta::seconds(seconds),
            accuracy_m: Some(5.0),
            sequence_number: Some(seconds),
        }
    }
}
