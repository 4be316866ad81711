//! Times as phones send them.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};

/// Reads `2026-03-10T08:00[:00[.123…]]Z`: UTC by a capital Z, seconds optional, any number of fraction digits, rounded
/// to the microseconds that are stored. `None` for anything else, impossible dates included.
#[must_use]
pub fn parse_utc(text: &str) -> Option<DateTime<Utc>> {
    let bytes = text.as_bytes();
    // `YYYY-MM-DDTHH:MM` and `Z` at least.
    if bytes.len() < 17 || bytes[bytes.len() - 1] != b'Z' {
        return None;
    }
    let number = |from: usize, digits: usize| -> Option<u32> {
        bytes
            .get(from..from + digits)?
            .iter()
            .try_fold(0, |value: u32, byte| byte.is_ascii_digit().then(|| value * 10 + u32::from(byte - b'0')))
    };
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':')];
    if separators.iter().any(|(place, byte)| bytes[*place] != *byte) {
        return None;
    }
    let (hour, minute) = (number(11, 2)?, number(14, 2)?);
    let (second, micros) = match &bytes[16..bytes.len() - 1] {
        [] => (0, 0),
        [b':', _, _] => (number(17, 2)?, 0),
        [b':', _, _, b'.', fraction @ ..] if !fraction.is_empty() => (number(17, 2)?, micros(fraction)?),
        _ => return None,
    };
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let date = NaiveDate::from_ymd_opt(i32::try_from(number(0, 4)?).ok()?, number(5, 2)?, number(8, 2)?)?;
    let whole = date.and_hms_opt(hour, minute, second)?.and_utc();
    // A fraction that rounds up to a whole second carries over.
    DateTime::from_timestamp_micros(whole.timestamp_micros().checked_add(micros)?)
}

/// Reads the same with a zone of its own: `Z`, or `+HH:MM` or `-HH:MM` up to 23:59. `None` for anything else.
#[must_use]
pub fn parse_time(text: &str) -> Option<DateTime<Utc>> {
    if text.ends_with('Z') {
        return parse_utc(text);
    }
    let (local, zone) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let [sign @ (b'+' | b'-'), hours @ .., b':', m1, m2] = zone.as_bytes() else { return None };
    let number = |digits: &[u8]| {
        digits.iter().try_fold(0, |value: i64, byte| byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0')))
    };
    let (hours, minutes) = (number(hours)?, number(&[*m1, *m2])?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let ahead = TimeDelta::minutes(hours * 60 + minutes);
    let local = parse_utc(&format!("{local}Z"))?;
    if *sign == b'+' { local.checked_sub_signed(ahead) } else { local.checked_add_signed(ahead) }
}

/// Microseconds of a fraction's digits, half up.
fn micros(fraction: &[u8]) -> Option<i64> {
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |place: usize| fraction.get(place).map_or(0, |byte| i64::from(byte - b'0'));
    let value = (0..6).fold(0, |value, place| value * 10 + digit(place));
    Some(value + i64::from(digit(6) >= 5))
}

#[cfg(test)]
mod tests {
    use super::{parse_time, parse_utc};

    #[test]
    fn utc_times_are_read_to_the_microsecond() {
        for (text, micros) in [
            ("2026-03-10T08:00Z", 1_773_129_600_000_000),
            ("2026-03-10T08:00:00Z", 1_773_129_600_000_000),
            ("2026-03-10T08:00:00.5Z", 1_773_129_600_500_000),
            ("2026-03-10T08:00:00.1234564Z", 1_773_129_600_123_456),
            ("2026-03-10T08:00:00.1234565Z", 1_773_129_600_123_457),
            ("2026-03-10T08:00:00.99999950000000000000000Z", 1_773_129_601_000_000),
            ("2024-02-29T00:00:00Z", 1_709_164_800_000_000),
        ] {
            assert_eq!(parse_utc(text).unwrap().timestamp_micros(), micros, "{text}");
        }
    }

    #[test]
    fn times_with_a_zone_are_read_as_utc() {
        for (text, utc) in [
            ("2026-03-10T08:00:00Z", "2026-03-10T08:00:00Z"),
            ("2026-03-10T08:00+01:00", "2026-03-10T07:00:00Z"),
            ("2026-03-10T08:00:00.25-03:30", "2026-03-10T11:30:00.25Z"),
            ("2026-01-01T00:30:00+23:59", "2025-12-31T00:31:00Z"),
            ("2026-03-10T08:00:00-00:00", "2026-03-10T08:00:00Z"),
        ] {
            assert_eq!(parse_time(text), Some(parse_utc(utc).unwrap()), "{text}");
        }
        for text in [
            "",
            "+01:00",
            "2026-03-10",
            "2026-03-10T08:00:00",
            "2026-03-10T08:00:00z",
            "2026-03-10T08:00:00+1:00",
            "2026-03-10T08:00:00+0100",
            "2026-03-10T08:00:00+01",
            "2026-03-10T08:00:00+24:00",
            "2026-03-10T08:00:00+01:60",
            "2026-03-10T08:00:00 01:00",
            "2026-03-10T08:00:00Z+01:00",
            "2026-02-30T08:00:00+01:00",
            "2026-03-10T08:00:00é01:00",
        ] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "Z",
            "2026-03-10",
            "2026-03-10T08:00:00",
            "2026-03-10T08:00:00z",
            "2026-03-10t08:00:00Z",
            "2026-03-10 08:00:00Z",
            "2026-03-10T08:00:00+00:00",
            "2026-03-10T24:00:00Z",
            "2026-03-10T08:60:00Z",
            "2026-03-10T08:00:60Z",
            "2026-02-30T08:00:00Z",
            "2025-02-29T08:00:00Z",
            "2026-13-01T08:00:00Z",
            "2026-03-10T08:00:00.Z",
            "2026-03-10T08:00:00,5Z",
            "2026-03-10T08:00:0Z",
            "2026-03-10T8:00:00Z",
            "2026-03-10T08:00:00.5+Z",
            "+2026-03-10T08:00Z",
            "2026-03-10T08:00ZZ",
            "２026-03-10T08:00Z",
        ] {
            assert_eq!(parse_utc(text), None, "{text}");
        }
    }
}
