//! Measuring a session: its stored points are the only truth, and every way to ask gives the same kilometres.

use chrono::{DateTime, Utc};
use domain::SessionId;
use domain::attendance::{Session, average_speed_kmh, duration_s};
use domain::location::Odometer;

use crate::attendance::{Measured, lock_for_measurement, save_measurement};
use crate::{DbResult, TenantTx, locations};

/// Where a measurement begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// At the checkpoint of the last one, if nothing older has come since.
    Checkpoint,
    /// At the first point.
    Beginning,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// There is no such session in the organization.
    NoSuchSession,
    /// The session holds more points than allowed; nothing was changed.
    TooManyPoints,
    /// Fewer points are stored than were measured before, since retention has dropped some; nothing was changed.
    PointsGone,
    /// Measured and saved.
    Measured(Session, Measured),
}

/// Measures a session up to its check-out, or up to `now` while it is open, and saves the result with everything that
/// adds it up: days, totals, the employee's state. The session stays locked until the transaction ends; the caller
/// commits.
///
/// `most` is the number of points a session may have.
#[tracing::instrument(name = "measure session", skip_all, fields(session.id = %id))]
pub async fn measure(tx: &mut TenantTx, id: SessionId, from: From, most: i64, now: DateTime<Utc>) -> DbResult<Outcome> {
    let Some(locked) = lock_for_measurement(tx, id).await? else { return Ok(Outcome::NoSuchSession) };
    let mut odometer = match from {
        From::Checkpoint => locked.start(),
        From::Beginning => Odometer::default(),
    };
    if !locations::measure(tx, id, locked.session.checkin_at, &mut odometer, most).await? {
        return Ok(Outcome::TooManyPoints);
    }
    // Points are never deleted one by one: what was paid for must not shrink because its points grew too old to keep.
    if odometer.points() < locked.measured_points() {
        return Ok(Outcome::PointsGone);
    }
    let distance_km = odometer.kilometres();
    let duration_s = duration_s(locked.session.checkin_at, locked.session.checkout_at.unwrap_or(now));
    let measured = Measured { distance_km, duration_s, average_kmh: average_speed_kmh(distance_km, duration_s) };
    save_measurement(tx, id, measured, &odometer, now).await?;
    crate::figures::session_counts(tx, id, now).await?;
    Ok(Outcome::Measured(locked.session, measured))
}
