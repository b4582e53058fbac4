//! From time lines to rows: present rows, past ones as deltas, the index, the record of what changed.

use crate::series::Groups;
use crate::series::batch::Batch;
use crate::series::batch::timeline::Ended;
use crate::series::batch::timeline::Timeline;
use crate::series::chain;
use crate::series::changes::Record;
use crate::series::changes::What;
use crate::series::changes::Writer;
use crate::series::delta;
use crate::series::delta::Form;
use crate::series::overlay::Edited;
use crate::series::row;
use crate::series::row::CHAIN_MAX;
use crate::series::row::Listed;
use crate::series::row::Present;
use crate::series::table;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::types::FsError;
use crate::types::Stamp;
use bytes::Bytes;
use std::collections::BTreeMap;

impl Batch<'_> {
    /// Adds the rows of all series that changed, and the record of it.
    pub(super) fn settle(&mut self, changes: &mut table::Changes) -> Result<(), FsError> {
        let origin = self.origin;
        let mut record = Writer::new(origin.stamp, origin.session, origin.seq, &self.by);
        let mut events = Vec::new();
        for (key, timeline) in std::mem::take(&mut self.series) {
            if timeline.is_unchanged() {
                continue;
            }
            events.clear();
            tell(&timeline, &mut events);
            if !events.is_empty() {
                record.push(&key, &events);
            }
            let run = match rebase(self.rows, &mut self.history, &key, &timeline)? {
                Some(run) => run,
                None => timeline.former.as_ref().map_or(0, |former| former.run),
            };
            let run = push_past(changes, self.groups, &key, &timeline, run);
            let present = timeline
                .live
                .as_ref()
                .map(|(from, value)| Bytes::from(Present { from: *from, run, value }.encode()));
            if present.is_some() || timeline.former.is_some() {
                changes.rows.push((Family::Current, key, present));
            }
        }
        if !record.is_empty() {
            changes.put(Family::Changes, Record::key(origin.stamp), record.finish());
        }
        Ok(())
    }
}

/// Adds the versions that ended, oldest first, each told from its successor where that pays. Returns how many of the newest
/// are deltas in a row, `run` being how many were before.
fn push_past(
    changes: &mut table::Changes,
    groups: Groups,
    key: &[u8],
    timeline: &Timeline,
    mut run: u8,
) -> u8 {
    for (n, Ended { from, to, value }) in timeline.ended.iter().enumerate() {
        // After a deletion the newest past version is an image: what may follow later knows nothing of it.
        let next = match timeline.ended.get(n + 1) {
            Some(next) if next.from == *to => Some(&next.value),
            Some(_) => None,
            None => timeline.live.as_ref().filter(|(from, _)| from == to).map(|(_, value)| value),
        };
        let told = match next {
            Some(next) if run < CHAIN_MAX => delta::encode(next, value),
            _ => None,
        };
        let row = match &told {
            Some((form, body)) => row::Past { to: *to, form: *form, body },
            None => row::Past { to: *to, form: Form::Image, body: value },
        };
        run = if told.is_some() { run + 1 } else { 0 };
        changes.put(Family::History, row::past_key(key, *from), row.encode(*from));
        if let Some(group) = groups.of(key) {
            let listed = Listed::new(*from, *to, value).encode();
            changes.put(Family::History, row::index_key(key, group, *from, *to), listed);
        }
    }
    run
}

/// Where the table's present value changed in place or went, tells the past version that was told from it anew. Returns the
/// length of the run that is left; `None` where nothing rested on it or it still stands.
fn rebase(
    rows: &dyn Rows,
    history: &mut BTreeMap<Vec<u8>, Option<Bytes>>,
    key: &[u8],
    timeline: &Timeline,
) -> Result<Option<u8>, FsError> {
    let Some(former) = timeline.former.as_ref().filter(|former| former.run > 0) else {
        return Ok(None);
    };
    let stands = timeline.stands();
    if stands == Some(&former.value) {
        return Ok(None);
    }
    let edited = Edited { rows, history };
    let newest = chain::newest(&edited, key, Stamp::MAX)?;
    let Some(newest) = newest.filter(|newest| newest.form != Form::Image) else {
        return Ok(Some(0));
    };
    let value = newest.told_from(key, &former.value)?;
    let told = stands.and_then(|base| delta::encode(base, &value));
    let (row, run) = match &told {
        Some((form, body)) => (row::Past { to: newest.to, form: *form, body }, former.run),
        None => (row::Past { to: newest.to, form: Form::Image, body: &value }, 0),
    };
    history.insert(row::past_key(key, newest.from), Some(row.encode(newest.from).into()));
    Ok(Some(run))
}

/// What happened to the key, oldest first.
fn tell(timeline: &Timeline, events: &mut Vec<(Stamp, What)>) {
    let Timeline { former, ended, live, forgotten } = timeline;
    // When the version before the one looked at ended; the table's own needs no beginning.
    let mut before = former.as_ref().map(|former| former.from);
    for (n, version) in ended.iter().enumerate() {
        if before != Some(version.from) {
            events.push((version.from, What::Began));
        }
        let next = ended.get(n + 1).map(|next| next.from).or(live.as_ref().map(|(from, _)| *from));
        let what = if next == Some(version.to) { What::Replaced } else { What::Removed };
        events.push((version.to, what));
        before = Some(version.to);
    }
    if let Some((from, _)) = live
        && before != Some(*from)
    {
        events.push((*from, What::Began));
    }
    if let Some(stamp) = forgotten {
        events.push((*stamp, What::Forgotten));
        events.sort_by_key(|(stamp, _)| *stamp);
    }
}
