//! Whether another node may take part: it must be one of the cluster's, on the disk that it is known with, and not on an old
//! copy of that.
//!
//! A node that lost what it once wrote must not vote: with its old vote forgotten, two could lead in one term; with entries
//! forgotten that it had confirmed, what was acknowledged could be lost. So it comes back as a new node. Three things
//! tell: the incarnation of the disk (an empty or foreign one), the count of starts (a copy that was made while the node
//! was stopped), and what this node has itself heard from it (a copy that was made while it ran). Not here: that it has a
//! certificate, which the connection has checked.

use crate::meta::record::Incarnation;
use crate::meta::record::Node;
use crate::types::LogIndex;
use crate::types::NodeId;
use crate::types::Term;
use std::collections::HashMap;

/// What a node says of itself when it connects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    pub node: NodeId,
    pub incarnation: Incarnation,
    /// This life included.
    pub starts: u64,
    /// Drawn when the process started.
    pub boot: u64,
    /// The newest term that it has on its disk.
    pub term: Term,
    /// The last entry that it has on its disk.
    pub last: LogIndex,
}

/// What this node has heard from the others since it runs.
#[derive(Default, Debug)]
pub struct Heard(HashMap<NodeId, Known>);

#[derive(Clone, Copy, Debug)]
struct Known {
    boot: u64,
    starts: u64,
    /// The newest that it was heard in, and what it has confirmed in that.
    term: Term,
    confirmed: LogIndex,
}

impl Known {
    fn heard(&mut self, term: Term, confirmed: LogIndex) {
        if term > self.term {
            (self.term, self.confirmed) = (term, confirmed);
        } else if term == self.term {
            self.confirmed = self.confirmed.max(confirmed);
        }
    }

    /// Within a term nobody forgets: only the leader of a later one may have entries replaced.
    fn is_forgotten_by(&self, claim: &Claim) -> bool {
        claim.term < self.term || claim.term == self.term && claim.last < self.confirmed
    }
}

impl Heard {
    /// A node said, in this term, that it has the log up to here on its disk.
    pub fn confirmed(&mut self, node: NodeId, term: Term, last: LogIndex) {
        if let Some(known) = self.0.get_mut(&node) {
            known.heard(term, last);
        }
    }

    /// Lets a node in, where it is what it says. `row`: as this node's table has it.
    ///
    /// # Errors
    /// A sentence with what to do.
    pub fn admit(&mut self, claim: &Claim, row: Option<&Node>) -> Result<(), String> {
        let node = claim.node.0;
        let Some(row) = row else {
            return Err(format!(
                "node {node} does not belong to the cluster any more: stop it, empty its directory, and let it join \
                 as a new node"
            ));
        };
        let again = format!(
            "it must not vote with what it has forgotten: empty its directory, join as a new node \
             ('tsfs cluster invite'), then 'tsfs cluster remove {node}'"
        );
        if row.incarnation != claim.incarnation {
            return Err(format!("node {node} has come back with another disk; {again}"));
        }
        let known = self.0.get(&claim.node).copied();
        // One life is known by its number and by what was drawn when it began.
        let is_later =
            |starts, boot| claim.starts > starts || (claim.starts, claim.boot) == (starts, boot);
        let later = is_later(row.starts, row.boot)
            && known.is_none_or(|known| is_later(known.starts, known.boot));
        if !later || known.is_some_and(|known| known.is_forgotten_by(claim)) {
            return Err(format!("node {node} has come back with an old copy of its disk; {again}"));
        }
        let Claim { boot, starts, term, last, .. } = *claim;
        let mut known = known.unwrap_or(Known { boot, starts, term, confirmed: last });
        (known.boot, known.starts) = (boot, starts);
        known.heard(term, last);
        self.0.insert(claim.node, known);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Roles;
    use crate::types::Stamp;

    const CLAIM: Claim = Claim {
        node: NodeId(3),
        incarnation: Incarnation([3; 16]),
        starts: 5,
        boot: 55,
        term: Term(7),
        last: LogIndex(100),
    };

    fn row(starts: u64, boot: u64) -> Node {
        let (name, address) = ("c".to_owned(), "c:1".to_owned());
        let (added, incarnation) = (Stamp(1), CLAIM.incarnation);
        Node { name, address, roles: Roles::ALL, added, incarnation, starts, boot }
    }

    fn refused(heard: &mut Heard, claim: Claim, row: Option<Node>) -> String {
        heard.admit(&claim, row.as_ref()).unwrap_err()
    }

    #[test]
    fn a_node_comes_and_comes_again() {
        let mut heard = Heard::default();
        heard.admit(&CLAIM, Some(&row(4, 44))).unwrap();
        // Its start is in the row now, and its connection broke.
        heard.admit(&CLAIM, Some(&row(5, 55))).unwrap();
        heard.confirmed(CLAIM.node, Term(7), LogIndex(120));
        let restarted = Claim { starts: 6, boot: 66, last: LogIndex(120), ..CLAIM };
        heard.admit(&restarted, Some(&row(5, 55))).unwrap();
        // A later leader may have had it drop entries.
        let replaced = Claim { term: Term(8), last: LogIndex(90), ..restarted };
        heard.admit(&replaced, Some(&row(6, 66))).unwrap();
        // To a node that has just started itself, nobody is known.
        Heard::default().admit(&CLAIM, Some(&row(5, 55))).unwrap();
    }

    #[test]
    fn nobody_votes_with_amnesia() {
        let mut heard = Heard::default();
        let gone = refused(&mut heard, CLAIM, None);
        assert!(gone.contains("does not belong"), "{gone}");
        let empty = Claim { incarnation: Incarnation([9; 16]), starts: 1, ..CLAIM };
        let other = refused(&mut heard, empty, Some(row(4, 44)));
        assert!(other.contains("another disk") && other.contains("remove 3"), "{other}");
        // A copy from before its last start, which counts up to the same number.
        let copy = Claim { boot: 99, ..CLAIM };
        let old = refused(&mut heard, copy, Some(row(5, 55)));
        assert!(old.contains("old copy"), "{old}");
        // The same, with a row that does not know of the last start yet.
        heard.admit(&CLAIM, Some(&row(4, 44))).unwrap();
        assert!(refused(&mut heard, copy, Some(row(4, 44))).contains("old copy"));
        // A copy that was made while it ran.
        heard.confirmed(CLAIM.node, Term(7), LogIndex(120));
        let snapshot = Claim { starts: 6, boot: 66, ..CLAIM };
        assert!(refused(&mut heard, snapshot, Some(row(5, 55))).contains("old copy"));
        let earlier = Claim { term: Term(6), last: LogIndex(900), ..snapshot };
        assert!(refused(&mut heard, earlier, Some(row(5, 55))).contains("old copy"));
    }
}
