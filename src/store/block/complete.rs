//! Up to where the log every block that is to be here is here, also while new ones are named all the time.
//!
//! A list that is never empty says nothing of how old what is on it is. So what comes on the list since some entry of the log is told apart from
//! what was on it then; when the latter is gone, everything up to that entry is here, and another entry is noted. In memory: a node that
//! has started begins anew. Not here: the list itself (`listed`).

use crate::store::block::BlockStore;
use crate::types::BlockId;
use crate::types::LogIndex;
use std::collections::HashSet;

/// So many blocks are told apart. What comes on the list beyond them counts as if it had been there before: then it takes longer.
const YOUNG_MAX: usize = 1 << 20;

#[derive(Default)]
pub(super) struct Complete {
    /// Everything that is named up to here and is to be here is here.
    through: LogIndex,
    /// The same, once nothing is on the list but `young` ones. `None`: nothing was noted under this placement.
    next: Option<LogIndex>,
    /// Listed since `next` was noted.
    young: HashSet<BlockId>,
}

impl Complete {
    pub(super) fn listed(&mut self, block: BlockId) {
        if self.next.is_some() && self.young.len() < YOUNG_MAX {
            self.young.insert(block);
        }
    }

    pub(super) fn unlisted(&mut self, block: BlockId) {
        self.young.remove(&block);
    }

    /// Another placement, so that what is to be here is something else; or damage was found in what had been here.
    pub(super) fn begin_anew(&mut self) {
        *self = Complete::default();
    }

    fn look(&mut self, applied: LogIndex, listed: u64) -> LogIndex {
        if listed == 0 {
            self.through = self.through.max(applied);
        }
        if self.next.is_none() || listed == self.young.len() as u64 {
            self.through = self.through.max(self.next.unwrap_or_default());
            self.next = Some(applied);
            self.young.clear();
        }
        self.through
    }
}

impl BlockStore {
    /// Up to which entry of the log every block is here that is to be here. `applied` is one that was applied before this was called.
    /// To be asked again and again: it notes the next.
    pub fn complete(&self, applied: LogIndex) -> LogIndex {
        let state = &mut *self.state.lock();
        // Rows of another placement do not say what is to be here.
        match state.placing.stands() {
            true => state.complete.look(applied, state.listed),
            false => LogIndex(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::SessionId;

    fn block(number: u64) -> BlockId {
        BlockId { session: SessionId(1), number }
    }

    #[test]
    fn what_was_listed_before_an_entry_is_told_from_what_came_since() {
        let mut complete = Complete::default();
        // Two were listed before anybody asked.
        assert_eq!(complete.look(LogIndex(10), 2), LogIndex(0));
        complete.listed(block(3));
        assert_eq!(complete.look(LogIndex(20), 3), LogIndex(0));
        complete.unlisted(block(1));
        assert_eq!(complete.look(LogIndex(30), 2), LogIndex(0), "one of the two is still missing");
        complete.unlisted(block(2));
        assert_eq!(complete.look(LogIndex(40), 1), LogIndex(10), "only what came since is missing");
        // From now on the third is an old one.
        complete.listed(block(4));
        complete.unlisted(block(3));
        assert_eq!(complete.look(LogIndex(50), 1), LogIndex(40));
        complete.unlisted(block(4));
        assert_eq!(complete.look(LogIndex(60), 0), LogIndex(60), "nothing is missing");
        complete.begin_anew();
        assert_eq!(complete.look(LogIndex(70), 1), LogIndex(0));
    }
}
