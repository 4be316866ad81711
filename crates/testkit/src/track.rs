//! Recordings of real movement, and the distance they must give.
//!
//! A recording is read from GPX, FIT or NMEA into one shape, [`Track`], which obeys what the product asks of a
//! session: points in the order of time, no two at the same microsecond. The distance is computed here by another
//! crate than the product uses (`geo`), so that agreement between the two says something.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Days, NaiveDate, NaiveDateTime, NaiveTime, SubsecRound, TimeDelta, Utc};
use geo::{Distance, HaversineMeasure, Point};

/// Mean radius of the Earth that the contract measures with, in metres.
const EARTH_RADIUS_M: f64 = 6_371_000.0;

/// Error in range of a civil receiver, in metres: times the dilution of precision it gives an accuracy.
const RANGE_ERROR_M: f64 = 5.0;

/// Degrees of a FIT "semicircle", the unit of its coordinates.
const DEGREES_PER_SEMICIRCLE: f64 = 180.0 / 2_147_483_648.0;

/// Finds the positions in the content of a file, or says what is wrong with it.
type Parser = fn(&[u8]) -> Result<Vec<TrackPoint>, String>;

/// Where somebody was, and when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrackPoint {
    /// Degrees north, −90 to 90.
    pub latitude: f64,
    /// Degrees east, −180 to 180.
    pub longitude: f64,
    /// When the position was taken, to the microsecond.
    pub recorded_at: DateTime<Utc>,
    /// Radius around the position in metres, where the recording tells.
    pub accuracy_m: Option<f64>,
}

/// A recorded movement: points in the order of time, each at a microsecond of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Track {
    /// The points, oldest first.
    pub points: Vec<TrackPoint>,
}

/// Why a recording cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrackError {
    /// The file cannot be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The extension names no format that is understood.
    #[error("{} is none of .gpx, .fit, .nmea", .0.display())]
    UnknownFormat(PathBuf),
    /// The file is not what its extension says.
    #[error("{} is not a valid {format} file: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// GPX, FIT or NMEA.
        format: &'static str,
        /// What the parser said.
        problem: String,
    },
    /// The file is valid but holds no position with a time.
    #[error("{} holds no position with a time", .0.display())]
    Empty(PathBuf),
}

impl Track {
    /// Reads a recording; the extension (`.gpx`, `.fit`, `.nmea`) chooses the format.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, TrackError> {
        let path = path.as_ref();
        let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
        let (format, parse): (&str, Parser) = match extension.as_deref() {
            Some("gpx") => ("GPX", parse_gpx),
            Some("fit") => ("FIT", parse_fit),
            Some("nmea") => ("NMEA", parse_nmea),
            _ => return Err(TrackError::UnknownFormat(path.to_owned())),
        };
        let content = fs::read(path).map_err(|source| TrackError::Unreadable { path: path.to_owned(), source })?;
        let points =
            parse(&content).map_err(|problem| TrackError::Malformed { path: path.to_owned(), format, problem })?;
        let track = Self::from_points(points);
        if track.points.is_empty() { Err(TrackError::Empty(path.to_owned())) } else { Ok(track) }
    }

    /// Orders points by time and keeps the first of those that share a microsecond, as the product does.
    pub fn from_points(mut points: Vec<TrackPoint>) -> Self {
        for point in &mut points {
            point.recorded_at = point.recorded_at.trunc_subsecs(6);
        }
        points.sort_by_key(|point| point.recorded_at);
        points.dedup_by_key(|point| point.recorded_at);
        Self { points }
    }

    /// Time between the first and the last point; zero when there are fewer than two.
    pub fn duration(&self) -> TimeDelta {
        match (self.points.first(), self.points.last()) {
            (Some(first), Some(last)) => last.recorded_at - first.recorded_at,
            _ => TimeDelta::zero(),
        }
    }
}

/// Metres along `points` in the order given: the great-circle sum on a sphere of 6 371 km, unrounded.
pub fn reference_m(points: &[TrackPoint]) -> f64 {
    let earth = HaversineMeasure::new(EARTH_RADIUS_M);
    let place = |point: &TrackPoint| Point::new(point.longitude, point.latitude);
    points.windows(2).map(|pair| earth.distance(place(&pair[0]), place(&pair[1]))).sum()
}

/// Kilometres along `points` as the contract rounds them: metres to 2 decimals first, then kilometres to 2.
pub fn reference_km(points: &[TrackPoint]) -> f64 {
    round_km(reference_m(points))
}

fn round_km(metres: f64) -> f64 {
    let metres = (metres * 100.0 + 0.5).floor() / 100.0;
    (metres / 10.0 + 0.5).floor() / 100.0
}

/// A made-up walk of `n` points, the same for the same seed.
///
/// It has what real ones have: uneven intervals, pauses that jitter, turns, fixes of poor accuracy. Meant for
/// property tests, where thousands of different tracks are wanted and no file can supply them.
pub fn walk(seed: u64, n: usize) -> Track {
    const METRES_PER_DEGREE: f64 = 111_194.9;
    let mut random = SplitMix(seed);
    let mut latitude = random.between(-60.0, 60.0);
    let mut longitude = random.between(-179.0, 179.0);
    let mut heading = random.between(0.0, std::f64::consts::TAU);
    // 2026-03-02T08:00:00Z: any moment will do, as long as it is the same each time.
    let mut recorded_at = DateTime::UNIX_EPOCH + TimeDelta::seconds(1_772_438_400);
    let mut points = Vec::with_capacity(n);
    for _ in 0..n {
        let accuracy_m = (random.between(0.0, 1.0) < 0.9).then(|| (random.between(3.0, 40.0) * 10.0).round() / 10.0);
        points.push(TrackPoint { latitude, longitude, recorded_at, accuracy_m });
        let wait_us = 1 + (random.between(0.2, 15.0) * 1e6) as i64;
        recorded_at += TimeDelta::microseconds(wait_us);
        let standing = random.between(0.0, 1.0) < 0.1;
        let step_m = if standing { random.between(0.0, 2.0) } else { random.between(0.5, 2.0) * wait_us as f64 / 1e6 };
        heading += random.between(-0.6, 0.6);
        latitude = (latitude + step_m * heading.cos() / METRES_PER_DEGREE).clamp(-89.0, 89.0);
        let east = step_m * heading.sin() / (METRES_PER_DEGREE * latitude.to_radians().cos());
        longitude = (longitude + east).clamp(-180.0, 180.0);
    }
    Track { points }
}

/// A small seeded generator (SplitMix64): tests must repeat, and need nothing better.
#[derive(Clone, Debug)]
pub struct SplitMix(pub u64);

impl SplitMix {
    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// A number in `low..high`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        let unit = (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        low + unit * (high - low)
    }

    /// Puts `items` in a random order (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = (self.next_u64() % (last as u64 + 1)) as usize;
            items.swap(last, other);
        }
    }
}

fn parse_gpx(content: &[u8]) -> Result<Vec<TrackPoint>, String> {
    let gpx = gpx::read(content).map_err(|error| error.to_string())?;
    let mut points = Vec::new();
    for waypoint in gpx.tracks.iter().flat_map(|track| &track.segments).flat_map(|segment| &segment.points) {
        // A point without a time belongs to a planned route, not to a recording.
        let Some(time) = waypoint.time else { continue };
        let time = time.format().map_err(|error| error.to_string())?;
        let recorded_at = DateTime::parse_from_rfc3339(&time).map_err(|error| error.to_string())?.to_utc();
        let accuracy_m = waypoint.hdop.map(|dilution| dilution * RANGE_ERROR_M);
        let place = waypoint.point();
        points.push(TrackPoint { latitude: place.y(), longitude: place.x(), recorded_at, accuracy_m });
    }
    Ok(points)
}

fn parse_fit(content: &[u8]) -> Result<Vec<TrackPoint>, String> {
    use fitparser::{Value, profile::MesgNum};

    let records = fitparser::from_bytes(content).map_err(|error| error.to_string())?;
    let mut points = Vec::new();
    for record in records.iter().filter(|record| record.kind() == MesgNum::Record) {
        let value = |name| record.fields().iter().find(|field| field.name() == name).map(|field| field.value());
        // A watch goes on recording (heart rate, cadence) where it has no view of the sky.
        let (Some(Value::SInt32(latitude)), Some(Value::SInt32(longitude)), Some(Value::Timestamp(time))) =
            (value("position_lat"), value("position_long"), value("timestamp"))
        else {
            continue;
        };
        let accuracy_m = match value("gps_accuracy") {
            Some(Value::UInt8(metres)) => Some(f64::from(*metres)),
            _ => None,
        };
        points.push(TrackPoint {
            latitude: f64::from(*latitude) * DEGREES_PER_SEMICIRCLE,
            longitude: f64::from(*longitude) * DEGREES_PER_SEMICIRCLE,
            recorded_at: time.to_utc(),
            accuracy_m,
        });
    }
    Ok(points)
}

/// A GGA sentence has a time of day but no date, an RMC sentence both but no precision: each completes the other.
fn parse_nmea(content: &[u8]) -> Result<Vec<TrackPoint>, String> {
    use nmea::{ParseResult, sentences::RmcData, sentences::rmc::RmcStatusOfFix};

    struct Position {
        time: NaiveTime,
        latitude: f64,
        longitude: f64,
        dilution: Option<f64>,
    }

    let mut understood = 0_usize;
    let mut latest: Option<NaiveDateTime> = None;
    let mut waiting: Option<Position> = None;
    let mut points: Vec<TrackPoint> = Vec::new();
    let mut keep = |at: NaiveDateTime, latitude, longitude, dilution: Option<f64>| {
        let accuracy_m = dilution.map(|dilution| dilution * RANGE_ERROR_M);
        // Receivers tell milliseconds at most; the parser carries them as a fraction that is not exact.
        points.push(TrackPoint { latitude, longitude, recorded_at: at.and_utc().round_subsecs(3), accuracy_m });
    };
    // A position whose RMC is missing belongs to the day of the last one, or to the next after midnight.
    let complete = |position: &Position, latest: Option<NaiveDateTime>| -> Option<NaiveDateTime> {
        let latest = latest?;
        let at = latest.date().and_time(position.time);
        if latest - at > TimeDelta::hours(12) { at.checked_add_days(Days::new(1)) } else { Some(at) }
    };

    for line in content.split(|byte| *byte == b'\n') {
        // A recording is taken from a running stream: comments and cut-off sentences are ordinary in it.
        let Ok(sentence) = nmea::parse_bytes(line.trim_ascii()) else { continue };
        understood += 1;
        match sentence {
            ParseResult::GGA(gga) => {
                if let Some(position) = waiting.take()
                    && let Some(at) = complete(&position, latest)
                {
                    keep(at, position.latitude, position.longitude, position.dilution);
                }
                if gga.fix_type.is_some_and(|fix| fix.is_valid())
                    && let (Some(time), Some(latitude), Some(longitude)) = (gga.fix_time, gga.latitude, gga.longitude)
                {
                    waiting = Some(Position { time, latitude, longitude, dilution: gga.hdop.map(decimal) });
                }
            }
            ParseResult::RMC(RmcData {
                fix_time: Some(time), fix_date: Some(date), status_of_fix, lat, lon, ..
            }) => {
                let at = NaiveDate::and_time(&date, time);
                let mut dilution = None;
                if let Some(position) = waiting.take() {
                    if position.time == time {
                        dilution = position.dilution;
                    } else if let Some(other) = complete(&position, latest.or(Some(at))) {
                        keep(other, position.latitude, position.longitude, position.dilution);
                    }
                }
                latest = Some(at);
                if status_of_fix != RmcStatusOfFix::Invalid
                    && let (Some(latitude), Some(longitude)) = (lat, lon)
                {
                    keep(at, latitude, longitude, dilution);
                }
            }
            _ => {}
        }
    }
    if let Some(position) = waiting
        && let Some(at) = complete(&position, latest)
    {
        keep(at, position.latitude, position.longitude, position.dilution);
    }
    if understood == 0 { Err("no line is an NMEA sentence".to_owned()) } else { Ok(points) }
}

/// The number a sentence wrote, not its nearest `f32`: 1.1 and not 1.100000023841858.
fn decimal(value: f32) -> f64 {
    (f64::from(value) * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording(name: &str) -> Track {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/traces").join(name);
        Track::read(path).unwrap()
    }

    fn assert_in_order(track: &Track) {
        assert!(track.points.windows(2).all(|pair| pair[0].recorded_at < pair[1].recorded_at));
    }

    #[test]
    fn the_car_drives_2733_m() {
        let car = recording("car-visnjan.gpx");
        assert_eq!(car.points.len(), 104);
        assert_in_order(&car);
        assert!((reference_m(&car.points) - 2733.0).abs() < 1.0, "{}", reference_m(&car.points));
        assert_eq!(reference_km(&car.points), 2.73);
        assert_eq!(car.points[0].recorded_at.to_rfc3339(), "2020-12-18T06:15:50+00:00");
        assert_eq!(car.duration(), TimeDelta::seconds(514));
    }

    #[test]
    fn the_walk_has_68_valid_fixes_whose_jitter_sums_to_153_m() {
        let walk = recording("walk-30m-haicom.nmea");
        assert_eq!(walk.points.len(), 68);
        assert_in_order(&walk);
        assert!((reference_m(&walk.points) - 153.0).abs() < 1.0, "{}", reference_m(&walk.points));
        let last = walk.points.last().unwrap();
        assert_eq!(last.recorded_at.to_rfc3339(), "2007-04-08T09:54:15.787+00:00");
        assert_eq!(last.accuracy_m, Some(9.0));
        assert!((last.latitude + 27.210_673).abs() < 1e-6 && (last.longitude - 153.052).abs() < 1e-6);
    }

    #[test]
    fn the_run_is_as_long_as_the_watch_says() {
        let run = recording("run-4835m.fit");
        // Of its 590 records 583 have a position, and 7 of these carry the second of the one before: the product
        // keeps the first of two points with one time, and so does a track.
        assert_eq!(run.points.len(), 576);
        assert_in_order(&run);
        // The watch smooths its own figure: a plain sum comes near it, not upon it.
        let metres = reference_m(&run.points);
        assert!((metres - 4835.38).abs() < 60.0, "{metres}");
    }

    #[test]
    fn kilometres_are_rounded_twice_and_halves_go_up() {
        assert_eq!(round_km(2733.0), 2.73);
        assert_eq!(round_km(2735.0), 2.74);
        assert_eq!(round_km(2734.995), 2.74);
        assert_eq!(round_km(2734.994), 2.73);
        assert_eq!(round_km(0.0), 0.0);
    }

    #[test]
    fn points_are_put_in_order_and_the_first_of_a_microsecond_is_kept() {
        let at = |nanos| DateTime::UNIX_EPOCH + TimeDelta::nanoseconds(nanos);
        let point = |latitude, nanos| TrackPoint { latitude, longitude: 0.0, recorded_at: at(nanos), accuracy_m: None };
        let track = Track::from_points(vec![point(3.0, 9_000), point(1.0, 1_000), point(2.0, 1_999)]);
        assert_eq!(track.points, [point(1.0, 1_000), point(3.0, 9_000)]);
    }

    #[test]
    fn a_position_without_its_rmc_takes_the_day_of_the_last_one_and_passes_midnight() {
        let sentences = "$GPRMC,235958.000,A,2712.6404,S,15303.1200,E,2.11,96.86,080407,,,A*48\n\
                         $GPGGA,000001.000,2712.6404,S,15303.1200,E,1,06,01.8,3.5,M,42.2,M,,*79\n";
        // Checksums of edited sentences are computed here, so that the test stays readable.
        let sentences: String = sentences
            .lines()
            .map(|line| {
                let body = &line[1..line.find('*').unwrap()];
                format!("${body}*{:02X}\r\n", body.bytes().fold(0, |sum, byte| sum ^ byte))
            })
            .collect();
        let track = Track::from_points(parse_nmea(sentences.as_bytes()).unwrap());
        let times: Vec<_> = track.points.iter().map(|point| point.recorded_at.to_rfc3339()).collect();
        assert_eq!(times, ["2007-04-08T23:59:58+00:00", "2007-04-09T00:00:01+00:00"]);
    }

    #[test]
    fn a_refused_file_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let written = |name: &str, content: &str| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            Track::read(path).unwrap_err()
        };
        assert!(matches!(written("a.kml", ""), TrackError::UnknownFormat(_)));
        assert!(matches!(written("a.gpx", "not xml"), TrackError::Malformed { format: "GPX", .. }));
        assert!(matches!(written("a.fit", "not fit"), TrackError::Malformed { format: "FIT", .. }));
        assert!(matches!(written("a.nmea", "# nothing"), TrackError::Malformed { format: "NMEA", .. }));
        let empty = "<gpx version=\"1.1\" creator=\"x\" xmlns=\"http://www.topografix.com/GPX/1/1\"></gpx>";
        assert!(matches!(written("empty.gpx", empty), TrackError::Empty(_)));
        assert!(matches!(Track::read("missing.gpx"), Err(TrackError::Unreadable { .. })));
    }

    #[test]
    fn a_seed_always_makes_the_same_walk_and_it_is_valid() {
        assert_eq!(walk(7, 50), walk(7, 50));
        assert_ne!(walk(7, 50), walk(8, 50));
        for seed in 0..50 {
            let track = walk(seed, 200);
            assert_eq!(track.points.len(), 200);
            assert_in_order(&track);
            assert!(track.points.iter().all(|point| point.latitude.abs() <= 90.0 && point.longitude.abs() <= 180.0));
            assert!(reference_m(&track.points) > 100.0);
        }
    }
}
