//! Instants as people write and read them: `2026-11-22T17:30`, `-15m`, `yesterday`, `@1795365000.5`.
//!
//! One parser for commands and for the names under `.tsfs/at`. Not here: which time it is and where one is; both
//! come in as arguments.

use crate::types::FsError;
use crate::types::Stamp;
use jiff::SignedDuration;
use jiff::Span;
use jiff::Timestamp;
use jiff::Zoned;
use jiff::civil::Date;
use jiff::civil::DateTime;
use jiff::civil::Time;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;

/// The forms of an instant, for error messages.
pub const FORMS: &str = "write 2026-11-22T17:30:00+01:00, 2026-11-22T17:30 (local time), 2026-11-22 (its first moment), \
                         -15m, -2h or -3d (so long ago), yesterday, today, now, @1795365000.5 (seconds since 1970), \
                         @GMT-2026.11.22-16.30.00 (as Samba does) or, for commands, mark:NAME";

/// The present, whenever it is read.
pub const NOW: &str = "now";

/// As Samba writes the names of previous versions.
const SAMBA: &str = "@GMT-%Y.%m.%d-%H.%M.%S";

/// Reads an instant. Without an offset it is meant in `zone`; days are calendar days there.
///
/// # Errors
/// `BadInstant` with the forms.
pub fn parse(text: &str, now: Stamp, zone: &TimeZone) -> Result<Stamp, FsError> {
    let found = relative(text, now, zone).or_else(|| seconds(text)).or_else(|| date(text, zone));
    found.and_then(stamp).ok_or_else(|| {
        FsError::BadInstant(format!("'{}' is no instant; {FORMS}", text.escape_default()))
    })
}

/// Whether what the text means depends on when it is read.
pub fn is_relative(text: &str) -> bool {
    text.starts_with('-') || matches!(text, NOW | "today" | "yesterday")
}

/// A stamp to the nanosecond, with the offset of `zone`: [`parse`] reads it back exactly, wherever it is read. `now`
/// for what lies beyond every date, as [`Stamp::MAX`].
pub fn show(stamp: Stamp, zone: &TimeZone) -> String {
    match timestamp(stamp) {
        Some(timestamp) => {
            let offset = zone.to_offset(timestamp);
            format!("{:.9}", timestamp.display_with_offset(offset))
        }
        None => NOW.to_owned(),
    }
}

/// As [`show`], for messages where nobody's zone is known.
pub fn utc(stamp: Stamp) -> String {
    show(stamp, &TimeZone::UTC)
}

fn timestamp(stamp: Stamp) -> Option<Timestamp> {
    Timestamp::from_nanosecond(i128::from(stamp.0)).ok().filter(|_| stamp != Stamp::MAX)
}

/// `None` before 1970 and after 2554.
fn stamp(timestamp: Timestamp) -> Option<Stamp> {
    u64::try_from(timestamp.as_nanosecond()).ok().map(Stamp)
}

fn relative(text: &str, now: Stamp, zone: &TimeZone) -> Option<Timestamp> {
    let now = Zoned::new(timestamp(now)?, zone.clone());
    let then = match text {
        NOW => now,
        "today" => now.start_of_day().ok()?,
        "yesterday" => now.checked_sub(Span::new().days(1)).ok()?,
        _ => now.checked_sub(span(text.strip_prefix('-')?)?).ok()?,
    };
    Some(then.timestamp())
}

/// `15m`, `1h30m`, `3d`.
fn span(text: &str) -> Option<Span> {
    let (mut span, mut rest) = (Span::new(), text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = rest[..digits].parse().ok()?;
        let unit = rest[digits..].chars().next()?;
        span = match unit {
            's' => span.try_seconds(number),
            'm' => span.try_minutes(number),
            'h' => span.try_hours(number),
            'd' => span.try_days(number),
            'w' => span.try_weeks(number),
            'y' => span.try_years(number),
            _ => return None,
        }
        .ok()?;
        rest = &rest[digits + unit.len_utf8()..];
    }
    (!text.is_empty()).then_some(span)
}

/// `@1795365000`, `@1795365000.5`; a full stamp also without the sign.
fn seconds(text: &str) -> Option<Timestamp> {
    let (text, signed) = match text.strip_prefix('@') {
        Some(text) => (text, true),
        None => (text, false),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    // A bare number is likelier a year or a typing error than a stamp.
    if !signed && fraction.len() != 9 {
        return None;
    }
    let nanos: i32 = format!("{fraction:0<9}").parse().ok()?;
    Timestamp::from_duration(SignedDuration::new(whole.parse().ok()?, nanos)).ok()
}

fn date(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Some(timestamp);
    }
    let local = if text.starts_with('@') {
        let local = strtime::parse(SAMBA, text).ok()?.to_datetime().ok()?;
        return local.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    } else if let Ok(date) = strtime::parse("%Y-%m-%d", text).and_then(|parts| parts.to_date()) {
        first_moment(date)
    } else {
        text.parse::<DateTime>().ok()?
    };
    local.to_zoned(zone.clone()).ok().map(|zoned| zoned.timestamp())
}

fn first_moment(date: Date) -> DateTime {
    date.to_datetime(Time::midnight())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-22T17:30:00Z, a Sunday.
    const NOW: Stamp = Stamp(1_795_368_600_000_000_000);
    const SECOND: u64 = 1_000_000_000;
    const DAY: u64 = 86_400 * SECOND;

    fn in_zone(text: &str, zone: &str) -> Option<u64> {
        parse(text, NOW, &TimeZone::get(zone).unwrap()).ok().map(|stamp| stamp.0)
    }

    fn utc(text: &str) -> Option<u64> {
        in_zone(text, "UTC")
    }

    #[test]
    fn every_form_is_read() {
        for same in [
            "now",
            "-0s",
            "2026-11-22T17:30:00Z",
            "2026-11-22T18:30:00+01:00",
            "2026-11-22T17:30:00",
            "2026-11-22 17:30",
            "2026-11-22T17:30",
            "@1795368600",
            "@1795368600.0",
            "1795368600.000000000",
            "@GMT-2026.11.22-17.30.00",
        ] {
            assert_eq!(utc(same), Some(NOW.0), "{same}");
        }
        assert_eq!(utc("today"), Some(NOW.0 - 63_000 * SECOND));
        assert_eq!(utc("2026-11-22"), Some(NOW.0 - 63_000 * SECOND));
        assert_eq!(utc("yesterday"), Some(NOW.0 - DAY));
        assert_eq!(utc("-15m"), Some(NOW.0 - 900 * SECOND));
        assert_eq!(utc("-1h30m"), Some(NOW.0 - 5400 * SECOND));
        assert_eq!(utc("-3d"), Some(NOW.0 - 3 * DAY));
        assert_eq!(utc("-2w"), Some(NOW.0 - 14 * DAY));
        assert_eq!(utc("-1y"), Some(NOW.0 - 365 * DAY));
        assert_eq!(utc("@7.25"), Some(7_250_000_000));
        assert_eq!(utc("2026-11-22T17:30:00.000000001Z"), Some(NOW.0 + 1));
    }

    #[test]
    fn without_an_offset_it_is_local() {
        assert_eq!(in_zone("2026-11-22T18:30", "Europe/Berlin"), Some(NOW.0));
        assert_eq!(in_zone("2026-11-22T17:30Z", "Europe/Berlin"), Some(NOW.0));
        // A day of 25 hours lies between: 30 days ago is the same time of day, not the same number of hours.
        assert_eq!(in_zone("-30d", "Europe/Berlin"), in_zone("2026-10-23T18:30", "Europe/Berlin"));
    }

    #[test]
    fn what_is_none_explains_the_forms() {
        for bad in [
            "",
            "-",
            "-5",
            "-5x",
            "-m",
            "tomorrow",
            "2026",
            "1795368600",
            "2026-13-01",
            "2026-02-30",
            "@",
            "@x",
            "@1.0000000001",
            "1969-12-31",
            "3000-01-01",
            "12:30",
            "2026-11-22T25:00",
            "-99999999999y",
            "@GMT-2026.11.22",
            "\u{7}",
            "2026-11-22T17:30:00Z ",
        ] {
            let fault = parse(bad, NOW, &TimeZone::UTC).unwrap_err().to_string();
            assert!(fault.contains("is no instant; write 2026"), "{bad}: {fault}");
        }
    }

    #[test]
    fn what_is_shown_is_read_back_exactly() {
        let stamp = Stamp(NOW.0 + 123_456_789);
        for zone in ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"] {
            let text = show(stamp, &TimeZone::get(zone).unwrap());
            assert_eq!(in_zone(&text, "UTC"), Some(stamp.0), "{text}");
        }
        assert_eq!(show(stamp, &TimeZone::UTC), "2026-11-22T17:30:00.123456789+00:00");
        assert_eq!(utc(&stamp.to_string()), Some(stamp.0));
        assert_eq!(show(Stamp::MAX, &TimeZone::UTC), "now");
        assert!(is_relative("-3d") && is_relative("today") && !is_relative("@5"));
    }
}
