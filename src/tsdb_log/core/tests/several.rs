//! Members that come and go, hand over, lease, and remember less than they said.

use super::*;
use crate::tsdb_log::entry::MessageKind;

fn three() -> [Member; 3] {
    let ids = [NodeId(1), NodeId(2), NodeId(3)];
    let members = Members { voters: ids.to_vec(), ..Members::default() };
    ids.map(|node| {
        let options = Options { seed: node.0, ..Options::alone(node) };
        Member::open(options, &members, Arc::default(), LogIndex(0))
    })
}

fn led_by_first() -> [Member; 3] {
    let mut all = three();
    tick_until(&mut all, None, |all| all.iter().any(|member| member.core.is_leader()));
    if !all[0].core.is_leader() {
        let leader = all.iter_mut().find(|member| member.core.is_leader()).unwrap();
        leader.core.hand_over(NodeId(1)).unwrap();
    }
    tick_until(&mut all, None, |all| all[0].core.is_settled());
    all
}

fn nodes<const N: usize>(ids: [u64; N]) -> Vec<NodeId> {
    ids.map(NodeId).to_vec()
}

#[test]
fn members_change_one_by_one_and_several_at_once() {
    let mut all = led_by_first();
    let refused = |result: Result<LogIndex, FsError>, word: &str| {
        let why = result.unwrap_err().to_string();
        assert!(why.contains(word), "{why}");
    };
    refused(all[1].core.change_members(nodes([1]), vec![]), "does not lead");
    refused(all[0].core.change_members(nodes([2, 3]), vec![]), "hand the lead over");
    refused(all[0].core.change_members(nodes([1, 2, 3, 4]), vec![]), "learner before");
    refused(all[0].core.change_members(nodes([1, 2, 3]), vec![]), "already");
    all[0].core.change_members(nodes([1]), nodes([2])).unwrap();
    refused(all[0].core.change_members(nodes([1, 2]), vec![]), "being changed");
    settle(&mut all, None);
    tick_until(&mut all, None, |all| {
        all[0].core.members().voters == nodes([1]) && !all[0].core.members().is_joint()
    });
    assert_eq!(all[0].core.members().learners, nodes([2]));
    assert!(!all[0].core.carry_on_change());
    // It decides alone now; the learner hears of it.
    all[0].core.propose(Bytes::new(), body(1)).unwrap();
    settle(&mut all, None);
    tick_until(&mut all, None, |all| all[1].bodies().len() == 1);
    assert_eq!(all[2].bodies().len(), 0);
    all[0].core.change_members(nodes([1, 2]), vec![]).unwrap();
    settle(&mut all, None);
    tick_until(&mut all, None, |all| all[1].core.members().voters == nodes([1, 2]));
}

#[test]
fn a_majority_that_does_not_answer_is_not_relied_on() {
    let mut all = led_by_first();
    // Node 3 is silent: of nodes 1 and 3 alone there would be no majority.
    for _ in 0..14 {
        all.iter_mut().for_each(|member| member.core.tick());
        settle(&mut all, Some(NodeId(3)));
    }
    let followers = all[0].core.followers();
    assert!(followers[0].active && !followers[1].active, "{followers:?}");
    let why = all[0].core.change_members(nodes([1, 3]), vec![]).unwrap_err();
    assert!(why.to_string().contains("no majority answers"), "{why}");
    all[0].core.change_members(nodes([1, 2]), vec![]).unwrap();
}

#[test]
fn a_round_is_confirmed_by_a_majority_and_not_by_less() {
    let mut all = led_by_first();
    let mut network = VecDeque::new();
    all[0].drive(&mut network);
    all[0].core.ask_round();
    let ready = all[0].core.ready().unwrap().unwrap();
    let round = ready.round.unwrap();
    all[0].core.persisted(ready.number);
    assert!(all[0].core.confirmed().is_none_or(|confirmed| confirmed < round));
    let heartbeat = ready.send.into_iter().find(|m| m.to == NodeId(2)).unwrap();
    all[1].core.step(heartbeat).unwrap();
    all[1].drive(&mut network);
    let answer = network.pop_back().unwrap();
    assert_eq!(answer.kind, MessageKind::HeartbeatResponse);
    let forged = Message { context: Bytes::from_static(&[0xff; 8]), ..answer.clone() };
    all[0].core.step(forged).unwrap();
    assert!(all[0].core.confirmed().is_none_or(|confirmed| confirmed < round));
    all[0].core.step(answer).unwrap();
    assert_eq!(all[0].core.confirmed(), Some(round));
    assert!(all[0].core.may_lease());
    all[0].core.hand_over(NodeId(2)).unwrap();
    assert!(!all[0].core.may_lease());
}

#[test]
fn who_was_just_started_votes_for_nobody() {
    let mut all = led_by_first();
    let members = all[1].core.members().clone();
    let options = Options { seed: 9, ..Options::alone(NodeId(2)) };
    let log = all[1].log.clone();
    all[1] = Member::open(options, &members, log, LogIndex(0));
    let ask = Message {
        kind: MessageKind::RequestVote,
        from: NodeId(3),
        to: NodeId(2),
        term: Term(all[0].core.term().0 + 1),
        index: all[2].log.last(),
        log_term: Term(99),
        entries: Vec::new(),
        commit: LogIndex(0),
        commit_term: Term(0),
        reject: false,
        reject_hint: LogIndex(0),
        request_snapshot: LogIndex(0),
        priority: 0,
        context: Bytes::new(),
    };
    let mut network = VecDeque::new();
    all[1].core.step(ask.clone()).unwrap();
    all[1].drive(&mut network);
    assert!(network.is_empty(), "it may have answered a leader before: {network:?}");
    for _ in 0..10 {
        all[1].core.tick();
    }
    all[1].drive(&mut network);
    all[1].core.step(ask).unwrap();
    all[1].drive(&mut network);
    assert!(network.iter().any(|m| m.kind == MessageKind::RequestVoteResponse && !m.reject));
}

#[test]
fn a_disk_that_has_lost_what_was_acknowledged_is_found_out() {
    let mut all = led_by_first();
    all[0].core.propose(Bytes::new(), body(1)).unwrap();
    settle(&mut all, None);
    // Node 2 is started from an older copy of its disk.
    let old = Arc::new(Memory::default());
    *old.hard.lock() = *all[1].log.hard.lock();
    let members = all[1].core.members().clone();
    all[1] = Member::open(Options::alone(NodeId(2)), &members, old, LogIndex(0));
    let mut network = VecDeque::new();
    let mut found = None;
    for _ in 0..4 {
        all[0].core.tick();
        all[0].drive(&mut network);
        for message in network.drain(..).filter(|m| m.to == NodeId(2)) {
            found = found.or(all[1].core.step(message).err());
        }
    }
    assert!(matches!(found, Some(FsError::Damaged(why)) if why.contains("old copy")));
}
