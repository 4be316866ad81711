//! Positions, and metres along them.

use std::f64::consts::PI;

use chrono::{DateTime, TimeDelta, Utc};
use haversine_rs::point::Point;
use haversine_rs::units::Unit;

/// Mean radius of the Earth in metres, as the distance contract fixes it.
pub const EARTH_RADIUS_M: f64 = 6_371_000.0;

/// How far ahead of the server's clock a phone's clock may be.
pub const CLOCK_TOLERANCE: TimeDelta = TimeDelta::seconds(120);

/// A place on the map: to hold one is to know that it is there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coordinate {
    latitude: f64,
    longitude: f64,
}

impl Coordinate {
    /// A place by degrees; `None` unless latitude is within ±90 and longitude within ±180 (so never NaN).
    #[must_use]
    pub fn new(latitude: f64, longitude: f64) -> Option<Self> {
        ((-90.0..=90.0).contains(&latitude) && (-180.0..=180.0).contains(&longitude))
            .then_some(Self { latitude, longitude })
    }

    /// Degrees north, −90 to 90.
    #[must_use]
    pub const fn latitude(self) -> f64 {
        self.latitude
    }

    /// Degrees east, −180 to 180.
    #[must_use]
    pub const fn longitude(self) -> f64 {
        self.longitude
    }

    /// Great-circle distance in metres (haversine, radius [`EARTH_RADIUS_M`]): 0 to half the circumference, always
    /// finite.
    #[must_use]
    pub fn distance_m(self, to: Self) -> f64 {
        let metres = haversine_rs::distance(
            Point::new(self.latitude, self.longitude),
            Point::new(to.latitude, to.longitude),
            Unit::Meters,
        );
        // Rounding can push the haversine of two antipodes past 1, whose root is then NaN; one NaN would poison a
        // route's total for ever. Antipodes are half the circumference apart.
        if metres.is_finite() { metres } else { PI * EARTH_RADIUS_M }
    }
}

/// One recorded position of a session.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fix {
    /// Where.
    pub at: Coordinate,
    /// When the phone took it; this orders a route and tells repeated fixes.
    pub recorded_at: DateTime<Utc>,
    /// Radius of uncertainty in metres, 0 or more; unknown for the fix that comes with a check-in.
    pub accuracy_m: Option<f64>,
    /// The phone's own counter, 0 to 2^53−1; kept, never used to order anything.
    pub sequence_number: Option<i64>,
}

impl Fix {
    /// Whether it was taken later than a phone's clock can reasonably run ahead.
    #[must_use]
    pub fn is_from_the_future(recorded_at: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        recorded_at > now + CLOCK_TOLERANCE
    }
}

/// Adds up metres along a route, one position after the other, in constant memory.
///
/// The sum is a left fold in the order of `recorded_at`: going on from a stored [`Odometer`] gives the same bits as
/// starting over.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Odometer {
    metres: f64,
    points: i64,
    last: Option<(Coordinate, DateTime<Utc>)>,
}

impl Odometer {
    /// Goes on from where an earlier measurement ended: its metres, its number of points, its last position.
    #[must_use]
    pub const fn resume(metres: f64, points: i64, last: Coordinate, last_at: DateTime<Utc>) -> Self {
        Self { metres, points, last: Some((last, last_at)) }
    }

    /// Moves on to the next position. Callers pass positions in the order of their time.
    pub fn advance(&mut self, to: Coordinate, at: DateTime<Utc>) {
        if let Some((from, _)) = self.last {
            self.metres += from.distance_m(to);
        }
        self.points += 1;
        self.last = Some((to, at));
    }

    /// Metres so far, unrounded.
    #[must_use]
    pub const fn metres(&self) -> f64 {
        self.metres
    }

    /// Positions so far.
    #[must_use]
    pub const fn points(&self) -> i64 {
        self.points
    }

    /// The last position and its time.
    #[must_use]
    pub const fn last(&self) -> Option<(Coordinate, DateTime<Utc>)> {
        self.last
    }

    /// Time of the last position.
    #[must_use]
    pub fn last_at(&self) -> Option<DateTime<Utc>> {
        self.last.map(|(_, at)| at)
    }

    /// Kilometres so far, as people are paid by them: metres to 2 decimals, then kilometres to 2 decimals.
    #[must_use]
    pub fn kilometres(&self) -> f64 {
        (round_2(self.metres) / 10.0 + 0.5).floor() / 100.0
    }
}

/// Rounds to 2 decimals the way the contract does: `floor(x + 0.5)`.
#[must_use]
pub fn round_2(value: f64) -> f64 {
    (value * 100.0 + 0.5).floor() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(latitude: f64, longitude: f64) -> Coordinate {
        Coordinate::new(latitude, longitude).unwrap()
    }

    #[test]
    fn places_off_the_map_do_not_exist() {
        for (latitude, longitude) in [(90.1, 0.0), (0.0, -180.1), (f64::NAN, 0.0), (0.0, f64::INFINITY)] {
            assert_eq!(Coordinate::new(latitude, longitude), None);
        }
        assert!(Coordinate::new(-90.0, 180.0).is_some());
    }

    #[test]
    fn a_degree_of_latitude_is_111_kilometres() {
        let metres = place(0.0, 0.0).distance_m(place(1.0, 0.0));
        assert!((metres - EARTH_RADIUS_M * PI / 180.0).abs() < 1e-6, "{metres}");
    }

    #[test]
    fn antipodes_are_half_the_circumference_apart() {
        let metres = place(6.525_084_930_087_53, -75.614_034_044_646_65)
            .distance_m(place(-6.525_084_930_087_53, 104.385_965_955_353_35));
        assert!((metres - PI * EARTH_RADIUS_M).abs() < 1.0, "{metres}");
    }

    #[test]
    fn the_short_way_leads_across_the_antimeridian() {
        let metres = place(0.0, 179.5).distance_m(place(0.0, -179.5));
        assert!((metres - EARTH_RADIUS_M * PI / 180.0).abs() < 1e-6, "{metres}");
    }

    #[test]
    fn going_on_gives_the_bits_of_starting_over() {
        let at = |i: i64| DateTime::from_timestamp(1_700_000_000 + i, 0).unwrap();
        let route: Vec<_> = (0..500)
            .map(|i| place(45.0 + (i as f64 * 0.37).sin() / 100.0, 13.0 + (i as f64 * 0.11).cos() / 100.0))
            .collect();
        let mut whole = Odometer::default();
        for (i, to) in route.iter().enumerate() {
            whole.advance(*to, at(i as i64));
        }
        let mut first = Odometer::default();
        for (i, to) in route[..200].iter().enumerate() {
            first.advance(*to, at(i as i64));
        }
        let mut second = Odometer::resume(first.metres(), first.points(), route[199], at(199));
        for (i, to) in route[200..].iter().enumerate() {
            second.advance(*to, at(200 + i as i64));
        }
        assert_eq!(whole.metres().to_bits(), second.metres().to_bits());
        assert_eq!(whole, second);
    }

    #[test]
    fn kilometres_round_half_up() {
        let km = |metres| Odometer { metres, points: 2, last: None }.kilometres();
        assert_eq!([km(0.0), km(4.994), km(4.995), km(2733.4), km(12_345.0)], [0.0, 0.0, 0.01, 2.73, 12.35]);
    }

    #[test]
    fn a_fix_may_be_two_minutes_ahead() {
        let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        assert!(!Fix::is_from_the_future(now + TimeDelta::seconds(120), now));
        assert!(Fix::is_from_the_future(now + TimeDelta::milliseconds(120_001), now));
    }
}
