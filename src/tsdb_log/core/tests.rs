//! One member alone, and three that talk: the same code. Logs are vectors, the network is a queue.

use crate::tsdb_log::core::Core;
use crate::tsdb_log::core::Options;
use crate::tsdb_log::entry::Entry;
use crate::tsdb_log::entry::EntryKind;
use crate::tsdb_log::entry::HardState;
use crate::tsdb_log::entry::Members;
use crate::tsdb_log::entry::Message;
use crate::tsdb_log::store::Group;
use crate::tsdb_log::store::LogRead;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::NodeId;
use crate::types::Term;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

mod several;

/// What a log store keeps, in memory. Begins at index 1.
#[derive(Default)]
struct Memory {
    entries: Mutex<Vec<Entry>>,
    hard: Mutex<HardState>,
}

impl Memory {
    fn append(&self, group: &Group) {
        if let Some(hard) = group.hard {
            *self.hard.lock() = hard;
        }
        let mut entries = self.entries.lock();
        if let Some(first) = group.entries.first() {
            entries.truncate(first.index.0 as usize - 1);
        }
        entries.extend(group.entries.iter().cloned());
    }
}

impl LogRead for Memory {
    fn first(&self) -> LogIndex {
        LogIndex(1)
    }

    fn last(&self) -> LogIndex {
        LogIndex(self.entries.lock().len() as u64)
    }

    fn term(&self, index: LogIndex) -> Option<Term> {
        match index.0 {
            0 => Some(Term(0)),
            n => self.entries.lock().get(n as usize - 1).map(|entry| entry.term),
        }
    }

    fn entries(&self, from: LogIndex, to: LogIndex, bytes_max: u64) -> Result<Vec<Entry>, FsError> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        for entry in &self.entries.lock()[from.0 as usize - 1..to.0 as usize - 1] {
            bytes += entry.body.len() as u64;
            if bytes > bytes_max && !taken.is_empty() {
                break;
            }
            taken.push(entry.clone());
        }
        Ok(taken)
    }
}

struct Member {
    core: Core,
    log: Arc<Memory>,
    applied: Vec<Entry>,
}

impl Member {
    fn open(options: Options, members: &Members, log: Arc<Memory>, applied: LogIndex) -> Member {
        let hard = *log.hard.lock();
        let core = Core::open(options, hard, members, log.clone(), applied).unwrap();
        Member { core, log, applied: Vec::new() }
    }

    /// Does everything that is to be done, in the order that `Core` asks for.
    fn drive(&mut self, network: &mut VecDeque<Message>) {
        self.core.carry_on_change();
        while let Some(ready) = self.core.ready().unwrap() {
            network.extend(ready.send);
            self.log.append(&ready.persist);
            self.core.persisted(ready.number);
            network.extend(ready.send_after);
            if let Some(last) = ready.committed.last() {
                let last = last.index;
                self.applied.extend(ready.committed);
                self.core.applied(last);
            }
        }
    }

    fn bodies(&self) -> Vec<&[u8]> {
        let commands = self.applied.iter().filter(|entry| entry.kind == EntryKind::Command);
        commands.map(|entry| &entry.body[..]).filter(|body| !body.is_empty()).collect()
    }
}

fn body(n: u32) -> Bytes {
    Bytes::from(n.to_be_bytes().to_vec())
}

#[test]
fn one_voter_leads_at_once_and_commits_what_is_on_its_disk() {
    let members = Members::alone(NodeId(1));
    let options = Options::alone(NodeId(1));
    let mut member = Member::open(options, &members, Arc::default(), LogIndex(0));
    assert!(member.core.propose(Bytes::new(), body(0)).is_err(), "nobody leads yet");
    member.core.campaign().unwrap();
    let nobody = &mut VecDeque::new();
    member.drive(nobody);
    assert!(member.core.is_leader());

    let first = member.core.propose(Bytes::from_static(b"header"), body(1)).unwrap();
    let second = member.core.propose(Bytes::new(), body(2)).unwrap();
    assert_eq!((first, second), (LogIndex(2), LogIndex(3)));
    let ready = member.core.ready().unwrap().unwrap();
    assert_eq!(ready.persist.entries.len(), 2, "one group for both");
    assert!(ready.committed.is_empty(), "nothing is committed before it is on disk");
    member.log.append(&ready.persist);
    member.core.persisted(ready.number);
    member.drive(nobody);
    assert_eq!(member.bodies(), [&body(1)[..], &body(2)[..]]);
    assert_eq!(member.applied[1].header, "header");
    assert!(nobody.is_empty());
}

#[test]
fn after_a_restart_what_was_not_applied_is_handed_out_again_in_pages() {
    let members = Members::alone(NodeId(1));
    let log = Arc::new(Memory::default());
    let mut member = Member::open(Options::alone(NodeId(1)), &members, log.clone(), LogIndex(0));
    member.core.campaign().unwrap();
    member.drive(&mut VecDeque::new());
    for n in 0..5 {
        let large = Bytes::from(vec![n as u8; 3 << 20]);
        member.core.propose(body(n), large).unwrap();
        member.drive(&mut VecDeque::new());
    }
    let before = std::mem::take(&mut member.applied);
    drop(member);

    let mut again = Member::open(Options::alone(NodeId(1)), &members, log.clone(), LogIndex(2));
    again.core.campaign().unwrap();
    again.drive(&mut VecDeque::new());
    assert_eq!(again.applied[..4], before[2..], "from the first that was not applied");
    assert_eq!(again.applied.len(), 5, "and the new reign's first entry");
    assert!(again.core.term() > before[0].term);

    let ahead =
        Core::open(Options::alone(NodeId(1)), HardState::default(), &members, log, LogIndex(100));
    assert!(matches!(ahead.err(), Some(FsError::Damaged(_))), "a table ahead of the log");
}

/// Delivers everything until nobody has more to say. `cut` is reached by nobody and reaches nobody.
fn settle(members: &mut [Member], cut: Option<NodeId>) {
    let mut network = VecDeque::new();
    loop {
        for member in members.iter_mut() {
            member.drive(&mut network);
        }
        let Some(message) = network.pop_front() else { return };
        if cut.is_some_and(|cut| message.from == cut || message.to == cut) {
            continue;
        }
        members[message.to.0 as usize - 1].core.step(message).unwrap();
    }
}

fn tick_until(members: &mut [Member], cut: Option<NodeId>, done: impl Fn(&[Member]) -> bool) {
    for _ in 0..200 {
        members.iter_mut().for_each(|member| member.core.tick());
        settle(members, cut);
        if done(members) {
            return;
        }
    }
    let each = members.iter().map(|m| {
        (m.core.term(), m.core.leader(), m.core.commit(), m.core.last(), m.core.members().clone())
    });
    panic!("not reached in 200 ticks: {:?}", each.collect::<Vec<_>>());
}

#[test]
fn three_members_elect_replicate_and_overwrite_what_a_cut_off_leader_left() {
    let ids = [NodeId(1), NodeId(2), NodeId(3)];
    let members = Members { voters: ids.to_vec(), ..Members::default() };
    let mut all = ids.map(|node| {
        let options = Options { seed: node.0, ..Options::alone(node) };
        Member::open(options, &members, Arc::default(), LogIndex(0))
    });
    tick_until(&mut all, None, |all| all.iter().any(|member| member.core.is_leader()));
    if !all[0].core.is_leader() {
        let leader = all.iter_mut().find(|member| member.core.is_leader()).unwrap();
        leader.core.hand_over(NodeId(1)).unwrap();
        settle(&mut all, None);
    }
    all[0].core.propose(Bytes::new(), body(1)).unwrap();
    settle(&mut all, None);
    tick_until(&mut all, None, |all| all.iter().all(|member| member.bodies().len() == 1));

    // Cut off, the leader writes an entry that nobody gets; the others go on without it.
    let cut = Some(NodeId(1));
    all[0].core.propose(Bytes::new(), body(66)).unwrap();
    settle(&mut all, cut);
    let lost = all[0].log.last();
    assert_eq!(all[0].log.entries.lock().last().unwrap().body, body(66));
    tick_until(&mut all, cut, |all| all[1..].iter().any(|member| member.core.is_leader()));
    let leader = all[1..].iter_mut().find(|member| member.core.is_leader()).unwrap();
    leader.core.propose(Bytes::new(), body(2)).unwrap();
    settle(&mut all, cut);

    tick_until(&mut all, None, |all| all.iter().all(|member| member.bodies().len() == 2));
    let one = all[1].log.entries.lock().clone();
    assert_eq!(*all[0].log.entries.lock(), one, "the cut-off member took the others' log");
    assert_eq!(*all[2].log.entries.lock(), one);
    assert!(one[lost.0 as usize - 1].body != body(66));
    assert!(all.iter().all(|member| member.bodies() == [&body(1)[..], &body(2)[..]]));
    assert!(one.iter().all(|entry| entry.kind == EntryKind::Command));
}

#[test]
fn a_leader_that_is_known_to_be_gone_is_followed_soon_and_by_one() {
    let ids = [NodeId(1), NodeId(2), NodeId(3)];
    let members = Members { voters: ids.to_vec(), ..Members::default() };
    for seed in 0..20 {
        let mut all = ids.map(|node| {
            let options = Options { seed: seed * 3 + node.0, ..Options::alone(node) };
            Member::open(options, &members, Arc::default(), LogIndex(0))
        });
        tick_until(&mut all, None, |all| all.iter().any(|member| member.core.is_leader()));
        // So that everybody has just heard of it.
        (0..20).for_each(|_| {
            all.iter_mut().for_each(|member| member.core.tick());
            settle(&mut all, None);
        });
        let leader = all.iter().position(|member| member.core.is_leader()).unwrap();
        let (gone, term) = (ids[leader], all[leader].core.term());
        all.iter_mut().for_each(|member| member.core.unreachable(gone));
        let mut ticks = 0;
        while !all.iter().any(|member| member.core.is_leader() && member.core.term() > term) {
            for (n, member) in all.iter_mut().enumerate() {
                if n != leader {
                    member.core.tick();
                }
            }
            settle(&mut all, Some(gone));
            ticks += 1;
            assert!(ticks <= Options::alone(gone).election_ticks, "seed {seed}: {ticks} ticks");
        }
        let next = all.iter().find(|member| member.core.is_leader() && member.core.term() > term);
        assert_eq!(next.unwrap().core.term(), Term(term.0 + 1), "seed {seed}: one stood once");
        // Where it was a connection only, it is followed as before, and patience is as it was.
        (0..40).for_each(|_| {
            all.iter_mut().for_each(|member| member.core.tick());
            settle(&mut all, None);
        });
        assert!(all.iter().all(|member| member.core.hurry.is_none()));
    }
}
