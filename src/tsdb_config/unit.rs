//! Sizes and durations as people write them: `256MiB`, `50ms`, `90d`.

use std::time::Duration;

const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("K", 1 << 10),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("M", 1 << 20),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("G", 1 << 30),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("T", 1 << 40),
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
];

/// In nanoseconds. A year has 365 days: retention counts days, not birthdays.
const DURATIONS: &[(&str, u64)] = &[
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
    ("w", 604_800_000_000_000),
    ("y", 31_536_000_000_000_000),
];

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Bytes.
///
/// # Errors
/// A sentence with the forms.
pub fn size(text: &str) -> Result<u64, String> {
    parse(text, SIZES).ok_or_else(|| {
        format!("'{text}' is no size; write a whole number with a unit, as 64KiB, 256MiB or 2GiB")
    })
}

/// # Errors
/// A sentence with the forms.
pub fn duration(text: &str) -> Result<Duration, String> {
    parse(text, DURATIONS).map(Duration::from_nanos).ok_or_else(|| {
        format!(
            "'{text}' is no length of time; write a whole number with a unit (us ms s m h d w y), \
             as 50ms, 12h, 90d or 2y"
        )
    })
}

/// Bytes for people: three digits at most, and the unit they would choose.
pub fn show_size(bytes: u64) -> String {
    const NAMES: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    // 999.5 would print as four digits.
    while value >= 999.5 && unit + 1 < NAMES.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    let digits = usize::from(value < 9.95);
    format!("{value:.digits$} {}", NAMES[unit])
}

/// A duration in its largest exact unit, in the form that [`duration`] reads.
pub fn show_duration(duration: Duration) -> String {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    if nanos == 0 {
        return "0s".to_owned();
    }
    let exact = DURATIONS.iter().rev().find(|(name, factor)| *name != "w" && nanos % factor == 0);
    match exact {
        Some((unit, factor)) => format!("{}{unit}", nanos / factor),
        None => format!("{duration:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_come_back_or_refuse() {
        assert_eq!(size("256MiB"), Ok(256 << 20));
        assert_eq!(size(" 2 GiB "), Ok(2 << 30));
        assert_eq!(size("5kB"), Ok(5000));
        assert_eq!(duration("50ms"), Ok(Duration::from_millis(50)));
        assert_eq!(duration("90d"), Ok(Duration::from_secs(90 * 86_400)));
        for bad in ["", "7", "MiB", "-1MiB", "1.5GiB", "1 mib", "99999999999TiB"] {
            assert!(size(bad).unwrap_err().contains(bad), "{bad}");
        }
        for bad in ["", "7", "soon", "1 month", "999999999999y"] {
            assert!(duration(bad).unwrap_err().contains(bad), "{bad}");
        }
        for text in ["100us", "50ms", "1s", "90m", "12h", "90d", "2y"] {
            assert_eq!(show_duration(duration(text).unwrap()), text);
        }
        assert_eq!(show_duration(Duration::from_secs(604_800)), "7d");
    }

    #[test]
    fn sizes_are_shown_short() {
        assert_eq!(show_size(0), "0 B");
        assert_eq!(show_size(1023), "1023 B");
        assert_eq!(show_size(1536), "1.5 KiB");
        assert_eq!(show_size(256 << 20), "256 MiB");
        assert_eq!(show_size((1 << 30) - 1), "1.0 GiB");
        assert_eq!(show_size(u64::MAX), "16 EiB");
    }
}
