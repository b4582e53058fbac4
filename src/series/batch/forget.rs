//! Forgetting one past version so that its neighbours can still be read.

use crate::series::Dropped;
use crate::series::batch::Batch;
use crate::series::chain;
use crate::series::delta;
use crate::series::delta::Form;
use crate::series::overlay::Edited;
use crate::series::row;
use crate::types::FsError;
use crate::types::Stamp;
use bytes::Bytes;

impl Batch<'_> {
    /// See [`crate::series::Replica::forget`].
    pub(super) fn forget_version(
        &mut self,
        key: &[u8],
        from: Stamp,
        dropped: Dropped<'_>,
    ) -> Result<bool, FsError> {
        let rows = Edited { rows: self.rows, history: &self.history };
        let Some(found) = chain::newest(&rows, key, from)?.filter(|found| found.from == from)
        else {
            return Ok(false);
        };
        let newer = chain::newer(&rows, key, from)?;
        let newer_value = newer.as_ref().map(|newer| newer.value.clone());
        let value = found.told_from(key, newer_value.as_deref().unwrap_or_default())?;
        let older = match from.0.checked_sub(1) {
            Some(before) => chain::newest(&rows, key, Stamp(before))?,
            None => None,
        };
        let older_value = match &older {
            Some(older) => Some(older.told_from(key, &value)?),
            None => None,
        };
        // The present value may have changed in this batch already; the table's is what deltas rest on until it is done.
        let newer_now = match self.series.get(key) {
            Some(timeline) if newer.as_ref().is_none_or(|newer| newer.is_present) => {
                timeline.oldest().cloned()
            }
            _ => newer_value.clone(),
        };
        dropped(older_value.as_deref(), &value, newer_now.as_deref());

        if let (Some(older), Some(older_value)) = (older, older_value)
            && older.form != Form::Image
        {
            // Its base goes. Through an image its chain may not be lengthened, so it becomes one itself.
            let told = match (found.form, &newer_value) {
                (Form::Image, _) | (_, None) => None,
                (Form::Edits | Form::Patch, Some(newer)) => delta::encode(newer, &older_value),
            };
            let row = match &told {
                Some((form, body)) => row::Past { to: older.to, form: *form, body },
                None => row::Past { to: older.to, form: Form::Image, body: &older_value },
            };
            let row = Bytes::from(row.encode(older.from));
            self.history.insert(row::past_key(key, older.from), Some(row));
        }
        self.history.insert(row::past_key(key, from), None);
        if let Some(group) = self.groups.of(key) {
            self.history.insert(row::index_key(key, group, from, found.to), None);
        }
        Ok(true)
    }
}
