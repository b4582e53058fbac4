//! Messages on their way: delayed, lost, repeated, in another order, and cut off in one direction or both.

use crate::chance::Chance;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use tsfs::tsdb_log::entry::Message;
use tsfs::types::NodeId;

pub(crate) struct Network {
    /// By when they arrive, and in which order they were sent.
    under_way: BTreeMap<(u64, u64), Message>,
    sent: u64,
    /// From whom nothing reaches whom.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Of a thousand messages so many are lost, and so many arrive twice.
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) delay_max: u64,
}

impl Network {
    pub(crate) fn new() -> Network {
        Network {
            under_way: BTreeMap::new(),
            sent: 0,
            cut: BTreeSet::new(),
            lost: 0,
            doubled: 0,
            delay_max: 2,
        }
    }

    pub(crate) fn send(&mut self, now: u64, message: Message, chance: &mut Chance) {
        let copies = if chance.below(1000) < self.doubled { 2 } else { 1 };
        for _ in 0..copies {
            if chance.below(1000) < self.lost {
                continue;
            }
            self.sent += 1;
            let at = now + chance.between(1, self.delay_max);
            self.under_way.insert((at, self.sent), message.clone());
        }
    }

    /// What arrives by now.
    pub(crate) fn arrive(&mut self, now: u64) -> Vec<Message> {
        let later = self.under_way.split_off(&(now + 1, 0));
        let due = std::mem::replace(&mut self.under_way, later);
        due.into_values().filter(|m| !self.cut.contains(&(m.from, m.to))).collect()
    }

    pub(crate) fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cut.insert((from, to));
    }

    /// Everybody reaches everybody again.
    pub(crate) fn mend(&mut self) {
        self.cut.clear();
    }

    pub(crate) fn calm(&mut self) {
        self.mend();
        (self.lost, self.doubled, self.delay_max) = (0, 0, 2);
    }
}
