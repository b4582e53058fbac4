//! Instants as people type and read them, in the user's time zone.
//!
//! Not here: the forms of a date (`types::instant`, which the names under `.tsfs/at` share).

use crate::cli::Context;
use crate::types::Stamp;
use crate::types::instant;
use crate::wire::control::Moment;
use crate::wire::control::Raw;
use anyhow::bail;
use jiff::tz::TimeZone;

/// What is further ahead is the future, by anybody's clock.
const SOON_NS: u64 = 10_000_000_000;
/// Names an instant by a mark.
const MARK: &str = "mark:";

/// Reads a TIME.
///
/// # Errors
/// A sentence with the forms.
pub(super) fn moment(text: &str, context: &Context) -> anyhow::Result<Moment> {
    if let Some(name) = text.strip_prefix(MARK) {
        return Ok(Moment::Mark(Raw::from(name)));
    }
    if text == instant::NOW {
        return Ok(Moment::Now);
    }
    let at = instant::parse(text, context.now, &context.zone)?;
    // Stamps printed a moment ago may be ahead of this clock; the mount decides on those.
    if at.0 > context.now.0.saturating_add(SOON_NS) {
        bail!("{} is in the future", show(at, &context.zone));
    }
    Ok(Moment::At(at))
}

/// A stamp in a form that can be read back exactly, as a TIME and as a name under `.tsfs/at`.
pub(super) fn show(stamp: Stamp, zone: &TimeZone) -> String {
    instant::show(stamp, zone)
}

/// As [`show`], or `None` for what has not ended.
pub(super) fn show_end(stamp: Stamp, zone: &TimeZone) -> Option<String> {
    (stamp != Stamp::MAX).then(|| show(stamp, zone))
}
