//! Which kinds of ops were under way, or came to an end, while which faults lasted: a run that has not met everything proves
//! little.

use crate::faults::Fault;
use crate::mount::Kind;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;

/// Every kind of op, in the order of the table's rows.
pub(crate) const KINDS: [Kind; 32] = [
    Kind::Open,
    Kind::Renew,
    Kind::Numbers,
    Kind::Whole,
    Kind::Yield,
    Kind::End,
    Kind::Local,
    Kind::Direct,
    Kind::Make,
    Kind::Write,
    Kind::WriteBlock,
    Kind::Cut,
    Kind::Remove,
    Kind::Move,
    Kind::Link,
    Kind::Attributes,
    Kind::Xattr,
    Kind::Version,
    Kind::Release,
    Kind::Look,
    Kind::Put,
    Kind::Fetch,
    Kind::Repair,
    Kind::Collect,
    Kind::Place,
    Kind::LetGo,
    Kind::Lock,
    Kind::Unlock,
    Kind::Sync,
    Kind::Past,
    Kind::Mark,
    Kind::Purge,
];

#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Cover {
    met: BTreeMap<(Kind, Fault), u64>,
    done: BTreeMap<Kind, u64>,
}

impl Cover {
    /// Something was done while all these lasted.
    pub(crate) fn done(&mut self, kind: Kind, active: &BTreeSet<Fault>) {
        *self.done.entry(kind).or_default() += 1;
        for fault in active {
            *self.met.entry((kind, *fault)).or_default() += 1;
        }
    }

    /// A fault struck while all these were under way.
    pub(crate) fn struck(&mut self, fault: Fault, kinds: &BTreeSet<Kind>) {
        for kind in kinds {
            *self.met.entry((*kind, fault)).or_default() += 1;
        }
    }

    pub(crate) fn add(&mut self, other: &Cover) {
        for (met, count) in &other.met {
            *self.met.entry(*met).or_default() += count;
        }
        for (kind, count) in &other.done {
            *self.done.entry(*kind).or_default() += count;
        }
    }

    /// Pairs that were not met.
    pub(crate) fn holes(&self, faults: &[Fault]) -> Vec<(Kind, Fault)> {
        let pairs = KINDS.iter().flat_map(|kind| faults.iter().map(|fault| (*kind, *fault)));
        pairs.filter(|pair| !self.met.contains_key(pair)).collect()
    }

    /// Kinds that never came to an end.
    pub(crate) fn undone(&self) -> Vec<Kind> {
        KINDS.iter().filter(|kind| !self.done.contains_key(kind)).copied().collect()
    }
}

impl fmt::Debug for Cover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>14} {:>9}", "", "done")?;
        for kind in KINDS {
            let done = self.done.get(&kind).copied().unwrap_or(0);
            write!(f, "{:>14} {done:>9}", format!("{kind:?}"))?;
            for fault in crate::faults::ALL {
                let count = self.met.get(&(kind, fault)).copied().unwrap_or(0);
                write!(f, " {count:>6}")?;
            }
            writeln!(f)?;
        }
        write!(f, "columns:")?;
        crate::faults::ALL.iter().try_for_each(|fault| write!(f, " {fault:?}"))
    }
}
