//! Each op of the cluster on rows in memory: what it puts, and what it refuses.

use super::*;
use crate::meta::apply::Rules;
use crate::meta::op::Batch;
use crate::meta::op::Op;
use crate::meta::op::Outcome;
use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::Past;
use crate::series::Present;
use crate::series::Replica;
use crate::series::Visit;
use crate::types::BatchSeq;
use crate::types::Roles;
use crate::types::placement::Share;
use std::collections::BTreeMap;

/// Rows of state, and what time it is.
struct Rows {
    rows: BTreeMap<Vec<u8>, Bytes>,
    now: Stamp,
}

impl Present for Rows {
    fn get(&mut self, _: &[u8]) -> Result<Option<Bytes>, FsError> {
        unreachable!("a cluster has no series")
    }

    fn scan(&mut self, _: &KeyRange, _: Direction, _: Visit<'_>) -> Result<(), FsError> {
        unreachable!("a cluster has no series")
    }

    fn put(&mut self, _: &[u8], _: Bytes, _: Past) {
        unreachable!("a cluster has no series")
    }

    fn remove(&mut self, _: &[u8], _: Past) {
        unreachable!("a cluster has no series")
    }

    fn cut(&mut self) {}

    fn state(&mut self, key: &[u8]) -> Result<Option<Bytes>, FsError> {
        Ok(self.rows.get(key).cloned())
    }

    fn state_put(&mut self, key: &[u8], value: Option<Bytes>) {
        match value {
            Some(value) => self.rows.insert(key.to_vec(), value),
            None => self.rows.remove(key),
        };
    }

    fn state_scan(&mut self, range: &KeyRange, visit: Visit<'_>) -> Result<(), FsError> {
        for (key, row) in self.rows.iter().filter(|(key, _)| range.contains(key)) {
            if visit(key, row).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn stamp(&self) -> Option<Stamp> {
        Some(self.now)
    }

    fn replica(&mut self) -> Option<&mut dyn Replica> {
        None
    }
}

impl Rows {
    fn new() -> Rows {
        Rows { rows: BTreeMap::new(), now: Stamp(1_000) }
    }

    /// Applies a batch, as a replica does: all of it or nothing.
    fn batch(&mut self, ops: Vec<ClusterOp>) -> Result<(), String> {
        let ops = ops.into_iter().map(Op::Cluster).collect();
        let (session, seq) = (SessionId(0), BatchSeq(0));
        let batch = Batch { session, seq, epoch: 0, by: Vec::new(), ops, direct: None };
        let before = self.rows.clone();
        match Rules::new([0; 16]).apply_batch(self, &batch).expect("the rows are whole") {
            Outcome::Applied => Ok(()),
            Outcome::Refused { error, .. } => {
                self.rows = before;
                Err(error.to_string())
            }
            other => panic!("{other:?}"),
        }
    }

    fn row<T: Record>(&self, key: ClusterKey) -> Option<T> {
        let key = key.encode();
        self.rows.get(&key).map(|row| T::from_row(&key, row).expect("the row is whole"))
    }

    fn node(&self, node: u64) -> Option<Node> {
        self.row(ClusterKey::Node { node: NodeId(node) })
    }
}

fn set_node(node: Option<u64>, disk: u8, address: &str) -> ClusterOp {
    ClusterOp::SetNode {
        node: node.map(NodeId),
        incarnation: Incarnation([disk; 16]),
        name: "a host".to_owned(),
        address: address.to_owned(),
        roles: Roles::ALL,
    }
}

fn invite(digest: u8, expires: u64) -> ClusterOp {
    ClusterOp::Invite { digest: [digest; 32], expires: Stamp(expires), to: Invited::Node }
}

fn use_invite(digest: u8) -> ClusterOp {
    ClusterOp::UseInvite { digest: [digest; 32], by: "somebody".to_owned() }
}

#[test]
fn nodes_are_numbered_and_no_number_comes_twice() {
    let mut rows = Rows::new();
    rows.batch(vec![set_node(None, 1, "a:1")]).unwrap();
    rows.batch(vec![set_node(None, 2, "b:1"), set_node(None, 3, "c:1")]).unwrap();
    assert_eq!(rows.node(3).unwrap().address, "c:1");
    rows.batch(vec![ClusterOp::RemoveNode { node: NodeId(3) }]).unwrap();
    rows.batch(vec![set_node(None, 4, "c:1")]).unwrap();
    assert_eq!((rows.node(3), rows.node(4).unwrap().added), (None, Stamp(1_000)));
    rows.now = Stamp(2_000);
    rows.batch(vec![set_node(Some(2), 2, "moved:1")]).unwrap();
    let moved = rows.node(2).unwrap();
    assert_eq!((moved.address.as_str(), moved.added), ("moved:1", Stamp(1_000)));
}

#[test]
fn what_would_make_two_nodes_one_is_refused() {
    let mut rows = Rows::new();
    rows.batch(vec![set_node(None, 1, "a:1"), set_node(None, 2, "b:1")]).unwrap();
    let cases = [
        (set_node(None, 3, "a:1"), "has this address"),
        (set_node(None, 1, "c:1"), "has this disk"),
        (set_node(Some(1), 9, "a:1"), "another disk"),
        (set_node(Some(7), 9, "c:1"), "no such node"),
        (set_node(None, 3, "c"), "HOST:PORT"),
        (set_node(None, 3, ":7000"), "HOST:PORT"),
        (set_node(None, 3, "c:port"), "HOST:PORT"),
        (ClusterOp::RemoveNode { node: NodeId(3) }, "no such node"),
    ];
    for (op, why) in cases {
        let error = rows.batch(vec![op.clone()]).unwrap_err();
        assert!(error.contains(why), "{op:?}: {error}");
    }
    let many = (3..=NODES_MAX).map(|n| set_node(None, n as u8, &format!("x:{n}"))).collect();
    rows.batch(many).unwrap();
    let error = rows.batch(vec![set_node(None, 99, "y:1")]).unwrap_err();
    assert!(error.contains("at most 64"), "{error}");
}

#[test]
fn an_old_copy_of_a_disk_has_fewer_starts() {
    let mut rows = Rows::new();
    rows.batch(vec![set_node(None, 1, "a:1")]).unwrap();
    let started = |starts, disk| ClusterOp::NodeStarted {
        node: NodeId(1),
        incarnation: Incarnation([disk; 16]),
        starts,
        boot: 77,
    };
    rows.batch(vec![started(2, 1)]).unwrap();
    assert_eq!(rows.node(1).unwrap().starts, 2);
    assert!(rows.batch(vec![started(2, 1)]).unwrap_err().contains("more often"));
    assert!(rows.batch(vec![started(3, 9)]).unwrap_err().contains("another disk"));
    rows.batch(vec![set_node(Some(1), 1, "b:1")]).unwrap();
    assert_eq!(rows.node(1).unwrap().starts, 2, "a new address does not change them");
}

#[test]
fn an_invitation_works_once_and_in_time() {
    let mut rows = Rows::new();
    rows.batch(vec![invite(1, 2_000), invite(2, 1_500)]).unwrap();
    assert!(rows.batch(vec![use_invite(3)]).unwrap_err().contains("did not make"));
    rows.now = Stamp(2_000);
    assert!(rows.batch(vec![use_invite(2)]).unwrap_err().contains("expired"));
    // A batch that is refused for another reason does not use it up.
    let error = rows.batch(vec![use_invite(1), set_node(None, 1, "no port")]).unwrap_err();
    assert!(error.contains("HOST:PORT"), "{error}");
    rows.batch(vec![use_invite(1), set_node(None, 1, "a:1")]).unwrap();
    let used: Invite = rows.row(ClusterKey::Invite { digest: [1; 32] }).unwrap();
    assert_eq!(used.used, Some(Used { by: "somebody".to_owned(), at: Stamp(2_000) }));
    let error = rows.batch(vec![use_invite(1), set_node(None, 2, "b:1")]).unwrap_err();
    assert!(error.contains("used already"), "{error}");
    assert_eq!(rows.node(2), None);
}

#[test]
fn invitations_are_forgotten_long_after_they_ended_and_are_limited() {
    let mut rows = Rows::new();
    rows.batch((0..INVITES_MAX).map(|n| numbered(n as u16)).collect()).unwrap();
    assert!(rows.batch(vec![invite(1, 9_000)]).unwrap_err().contains("remembers"));
    rows.now = Stamp(9_001 + INVITE_KEPT_NS);
    rows.batch(vec![invite(1, u64::MAX)]).unwrap();
    let left = rows.rows.keys().filter(|key| ClusterKey::invites().contains(key)).count();
    assert_eq!(left, 1);
}

fn numbered(n: u16) -> ClusterOp {
    let mut digest = [0xff; 32];
    digest[..2].copy_from_slice(&n.to_be_bytes());
    ClusterOp::Invite { digest, expires: Stamp(9_000), to: Invited::Node }
}

#[test]
fn there_is_one_authority_and_no_session_changes_anything() {
    let mut rows = Rows::new();
    let authority = |text: &'static str| ClusterOp::SetAuthority { authority: text.into() };
    rows.batch(vec![authority("one")]).unwrap();
    rows.batch(vec![authority("one")]).unwrap();
    assert!(rows.batch(vec![authority("two")]).unwrap_err().contains("exists"));
    let op = Op::Cluster(invite(1, 9_000));
    let refused = Rules::new([0; 16]).apply(&mut rows, SessionId(3), &op);
    assert!(matches!(refused, Err(FsError::NotPermitted(_))), "{refused:?}");
}

#[test]
fn what_counts_for_a_block_changes_only_to_what_was_to_be() {
    let mut rows = Rows::new();
    rows.batch((1..=5).map(|n| set_node(None, n, &format!("a:{n}"))).collect()).unwrap();
    let layout = |nodes: &[u64]| {
        let share = |node: &u64| Share { node: NodeId(*node), weight: 8 };
        Layout::new(3, nodes.iter().map(share).collect())
    };
    let place = |number, now, next| ClusterOp::Place {
        placement: Placement { number, copies: 3, now, next },
    };
    let [some, all, others] = [layout(&[1, 2, 3]), layout(&[1, 2, 3, 4, 5]), layout(&[3, 4, 5])];
    let refused = |rows: &mut Rows, op: ClusterOp, why: &str| {
        let error = rows.batch(vec![op]).unwrap_err();
        assert!(error.contains(why), "{error}");
    };
    refused(&mut rows, place(2, None, some.clone()), "came first");
    refused(&mut rows, place(1, some.clone(), None), "where they do");
    refused(&mut rows, place(1, None, layout(&[1, 9])), "no such node");
    let none = Placement { number: 1, copies: 0, now: None, next: None };
    refused(&mut rows, ClusterOp::Place { placement: none }, "no placement");
    rows.batch(vec![place(1, None, some.clone())]).unwrap();
    refused(&mut rows, place(2, all.clone(), None), "where they do");
    refused(&mut rows, place(2, some.clone(), all.clone()), "where they do");
    rows.batch(vec![place(2, some.clone(), None)]).unwrap();
    refused(&mut rows, place(3, None, None), "where they do");
    // What is to be may change as often as it likes.
    rows.batch(vec![place(3, some.clone(), all.clone())]).unwrap();
    rows.batch(vec![place(4, some.clone(), others.clone())]).unwrap();
    refused(&mut rows, place(5, all, None), "where they do");
    refused(&mut rows, ClusterOp::RemoveNode { node: NodeId(1) }, "home to blocks");
    refused(&mut rows, ClusterOp::RemoveNode { node: NodeId(4) }, "home to blocks");
    rows.batch(vec![place(5, others.clone(), None)]).unwrap();
    rows.batch(vec![ClusterOp::RemoveNode { node: NodeId(1) }]).unwrap();
    let kept: Placement = rows.row(ClusterKey::Placement).unwrap();
    assert_eq!((kept.number, kept.now), (5, others));
}
