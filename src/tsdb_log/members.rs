//! Who takes part in the log: what a majority is, how a change is written down, and which steps lead there.
//!
//! A change of more than one member goes through a state in which a majority of the former voters and one of the new
//! ones are both needed; a second entry ends it. `docs/decisions/0011-several-members.md` has the rules, `docs/format.md`
//! the bytes. Not here: whether a change is wise, which the leader judges when it is asked for.

use crate::tsdb_log::entry::Members;
use crate::types::FsError;
use crate::types::NodeId;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeSet;

/// The version of both encodings.
const VERSION: u8 = 1;

impl Members {
    /// One voter: the embedded store.
    pub fn alone(node: NodeId) -> Members {
        Members { voters: vec![node], ..Members::default() }
    }

    /// Everybody who gets what is in the log.
    pub fn all(&self) -> BTreeSet<NodeId> {
        let lists = [&self.voters, &self.learners, &self.outgoing, &self.demoted];
        lists.into_iter().flatten().copied().collect()
    }

    /// Whether it decides.
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.outgoing.contains(&node)
    }

    /// Whether `node` decides everything by itself, though others may listen.
    pub fn decides_alone(&self, node: NodeId) -> bool {
        self.voters == [node] && self.outgoing.is_empty()
    }

    /// Whether there is anybody but `node`.
    pub fn has_peers(&self, node: NodeId) -> bool {
        self.all().iter().any(|member| *member != node)
    }

    /// A change is half done.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether those of whom it holds are enough to decide.
    pub fn is_quorum(&self, holds: impl Fn(NodeId) -> bool) -> bool {
        majority(&self.voters, &holds) && (!self.is_joint() || majority(&self.outgoing, &holds))
    }

    /// The row of the table that remembers them.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("a vector grows as needed")
    }

    /// # Errors
    /// `Damaged`.
    pub fn decode(row: &[u8]) -> Result<Members, FsError> {
        decode(row, "the row of the log's members")
    }
}

fn majority(voters: &[NodeId], holds: &impl Fn(NodeId) -> bool) -> bool {
    let count = voters.iter().filter(|node| holds(**node)).count();
    count > voters.len() / 2
}

fn decode<T: for<'a> Deserialize<'a>>(bytes: &[u8], what: &str) -> Result<T, FsError> {
    let damaged = || FsError::Damaged(format!("{what} cannot be read"));
    match bytes.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(|_| damaged()),
        Some((version, _)) => Err(FsError::Damaged(format!(
            "{what} has version {version}, this program reads version {VERSION}"
        ))),
        None => Err(damaged()),
    }
}

/// The body of an entry that changes the members.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Change {
    /// From whoever takes part when it is applied, to these.
    To { voters: Vec<NodeId>, learners: Vec<NodeId> },
    /// The former voters are not needed any more.
    Leave,
}

/// One step of a change, as the engine knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Voter(NodeId),
    Learner(NodeId),
    Gone(NodeId),
}

impl Change {
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("a vector grows as needed")
    }

    /// # Errors
    /// `Damaged`.
    pub fn decode(body: &[u8]) -> Result<Change, FsError> {
        decode(body, "an entry that changes the log's members")
    }
}

/// What leads from `now`, where no change is under way, to these voters and learners.
pub(crate) fn steps(now: &Members, voters: &[NodeId], learners: &[NodeId]) -> Vec<Step> {
    let added = voters.iter().filter(|node| !now.voters.contains(node)).map(|n| Step::Voter(*n));
    let taught = learners.iter().filter(|node| !now.learners.contains(node));
    let taught = taught.map(|node| Step::Learner(*node));
    let gone = now.all().into_iter();
    let gone = gone.filter(|node| !voters.contains(node) && !learners.contains(node));
    added.chain(taught).chain(gone.map(Step::Gone)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes<const N: usize>(ids: [u64; N]) -> Vec<NodeId> {
        ids.map(NodeId).to_vec()
    }

    #[test]
    fn while_a_change_is_under_way_both_majorities_are_needed() {
        let joint =
            Members { voters: nodes([3, 4, 5]), outgoing: nodes([1, 2, 3]), ..Members::default() };
        let holds = |ids: &[u64]| joint.is_quorum(|node| ids.contains(&node.0));
        assert!(holds(&[1, 3, 4]));
        assert!(!holds(&[3, 4, 5]), "no majority of the former ones");
        assert!(!holds(&[1, 2, 3]), "no majority of the new ones");
        assert!(Members::alone(NodeId(1)).is_quorum(|node| node == NodeId(1)));
        assert!(!Members::default().is_quorum(|_| true), "nobody is no majority");
    }

    #[test]
    fn rows_and_changes_come_back_and_foreign_bytes_are_refused() {
        let members = Members { learners: nodes([7]), ..Members::alone(NodeId(1)) };
        assert_eq!(Members::decode(&members.encode()), Ok(members));
        let to = Change::To { voters: nodes([1, 2, 3]), learners: nodes([4]) };
        for change in [to, Change::Leave] {
            let bytes = change.encode();
            assert_eq!(Change::decode(&bytes), Ok(change));
            assert!(Change::decode(&[&[9], &bytes[1..]].concat()).is_err());
        }
        assert!(Change::decode(&[]).is_err());
        assert!(Members::decode(&[1, 200]).is_err());
    }

    #[test]
    fn a_change_is_the_difference_to_who_is_there() {
        let now = Members { voters: nodes([1, 2]), learners: nodes([3, 4]), ..Members::default() };
        let steps = steps(&now, &nodes([1, 3]), &nodes([2, 5]));
        let wanted = [
            Step::Voter(NodeId(3)),
            Step::Learner(NodeId(2)),
            Step::Learner(NodeId(5)),
            Step::Gone(NodeId(4)),
        ];
        assert_eq!(steps, wanted);
    }
}
