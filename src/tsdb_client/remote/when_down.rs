//! What calls do while the cluster is away, and the words for it.

use std::str::FromStr;
use std::time::Duration;

/// Longest time that a call waits before it fails, where it may fail at all.
const EIO_MAX: Duration = Duration::from_secs(24 * 3600);

/// What a call does while no majority of the nodes answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WhenDown {
    /// Waits for it, as long as it takes.
    #[default]
    Wait,
    /// Waits so long, then fails.
    Eio(Duration),
    /// Fails at once; the past is read from whatever node answers.
    Stale,
}

impl FromStr for WhenDown {
    type Err = String;

    /// `wait`, `eio`, `eio:30s`, `stale`.
    fn from_str(text: &str) -> Result<WhenDown, String> {
        let known = "write when-down=wait, when-down=eio:30s or when-down=stale";
        match text.split_once(':') {
            None if text == "wait" => Ok(WhenDown::Wait),
            None if text == "stale" => Ok(WhenDown::Stale),
            None if text == "eio" => Ok(WhenDown::Eio(Duration::from_secs(30))),
            Some(("eio", time)) => {
                let (digits, unit) =
                    time.split_at(time.trim_end_matches(char::is_alphabetic).len());
                let seconds = match unit {
                    "s" => 1,
                    "m" => 60,
                    "h" => 3600,
                    _ => return Err(format!("'{time}' is no time such as 30s or 5m; {known}")),
                };
                let count: u64 = digits
                    .parse()
                    .map_err(|_| format!("'{time}' is no time such as 30s; {known}"))?;
                let time = Duration::from_secs(count.saturating_mul(seconds));
                match time.is_zero() || time > EIO_MAX {
                    true => Err(format!("a call can wait between 1s and 24h, not {digits}{unit}")),
                    false => Ok(WhenDown::Eio(time)),
                }
            }
            _ => Err(format!("'{text}' is nothing to do while the cluster is away; {known}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_while_the_cluster_is_away_is_read_or_refused() {
        let eio = |seconds| Ok(WhenDown::Eio(Duration::from_secs(seconds)));
        for (text, read) in [
            ("wait", Ok(WhenDown::Wait)),
            ("stale", Ok(WhenDown::Stale)),
            ("eio", eio(30)),
            ("eio:5s", eio(5)),
            ("eio:2m", eio(120)),
            ("eio:1h", eio(3600)),
        ] {
            assert_eq!(text.parse::<WhenDown>(), read, "{text}");
        }
        for (text, why) in [
            ("eio:", "no time"),
            ("eio:5", "no time"),
            ("eio:s", "no time"),
            ("eio:5d", "no time"),
            ("eio:0s", "between 1s and 24h"),
            ("eio:25h", "between 1s and 24h"),
            ("block", "'block' is nothing"),
            ("wait:5s", "'wait:5s' is nothing"),
        ] {
            let error = text.parse::<WhenDown>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
