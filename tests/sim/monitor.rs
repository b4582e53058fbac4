//! Where blocks are kept, as a member looks after it: the one that leads decides, and each lets go of what it need not have.
//!
//! What is decided is the production's: which nodes are homes and when they count (`cluster::heard`, `cluster::place`), what goes
//! and when (`data::surplus`). The questions that they wait for go over lines here: how the others stand, which is asked for the
//! next look, and whether what a member has beside may go, which is asked until somebody says yes to the very same question.

use crate::chance::Chance;
use crate::data::Around;
use crate::door;
use crate::door::Came;
use crate::lines;
use crate::lines::HELLO;
use crate::lines::LineId;
use crate::lines::Side as End;
use crate::lines::What;
use crate::member::Clocks;
use bytes::Bytes;
use parking_lot::Mutex;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tsfs::env::Clock;
use tsfs::meta::apply::FEATURES;
use tsfs::meta::key::ClusterKey;
use tsfs::meta::key::StateKey;
use tsfs::meta::op::ClusterOp;
use tsfs::meta::op::Op;
use tsfs::meta::record::Node;
use tsfs::meta::record::Record;
use tsfs::series::Direction;
use tsfs::series::table::Family;
use tsfs::series::table::Rows;
use tsfs::store::block::BlockStore;
use tsfs::store::table::MemoryTable;
use tsfs::tsdb_server::cluster::heard::Heard;
use tsfs::tsdb_server::cluster::heard::Waits;
use tsfs::tsdb_server::cluster::plan::Facts;
use tsfs::tsdb_server::cluster::seams::Follower;
use tsfs::tsdb_server::data::surplus;
use tsfs::tsdb_server::data::surplus::Surplus;
use tsfs::tsdb_server::replica::stepped::Stepped;
use tsfs::tsdb_server::task::Task;
use tsfs::types::LogIndex;
use tsfs::types::NodeId;
use tsfs::types::placement::Placed;
use tsfs::types::placement::Placement;
use tsfs::wire::message;
use tsfs::wire::message::Request;
use tsfs::wire::message::Response;
use tsfs::wire::message::Standing;
use tsfs::wire::packet::Form;
use tsfs::wire::packet::Packet;

/// How often the one that leads looks at the others, and a member at what it may let go of.
const LOOK_MS: u64 = 100;
/// Whoever has not answered by then is asked anew.
const PATIENCE_MS: u64 = 300;
/// How often a member goes through all its blocks. What was put by the placement before may come late.
const AGAIN: Duration = Duration::from_millis(400);
/// A lease and a half, as in production; and how long is waited for a node that is away.
const WAITS: Waits = Waits {
    heard: Duration::from_millis(door::LEASES.lease.as_millis() as u64 * 3 / 2),
    gone: Duration::from_millis(5000),
};
/// Fewer nodes than this never are all homes: with one copy, damage that nobody has met yet would be the end of a block.
const HOMES_MIN: usize = 2;

/// A placement, ready to be asked: computed once for all members and mounts.
pub(crate) fn placed(placement: &Placement) -> Arc<Placed> {
    thread_local! {
        static KNOWN: RefCell<HashMap<Placement, Arc<Placed>>> = RefCell::default();
    }
    KNOWN.with_borrow_mut(|known| {
        let new = || Arc::new(Placed::new(placement));
        known.entry(placement.clone()).or_insert_with(new).clone()
    })
}

/// The placement, as rows say.
pub(crate) fn placement_in(table: &MemoryTable) -> Placement {
    let key = ClusterKey::Placement.encode();
    let row = table.get(Family::State, &key).unwrap();
    row.map_or_else(Placement::default, |row| Placement::from_row(&key, &row).unwrap())
}

/// What letting go asks and is answered, of one thing at a time: everything that is named up to an entry, by a placement's number.
#[derive(Default)]
struct Post {
    question: Option<(u64, LogIndex)>,
    answer: Option<((u64, LogIndex), bool)>,
}

impl Post {
    fn is_at_home(&mut self, asked: (u64, LogIndex)) -> bool {
        if let Some((_, yes)) = self.answer.take().filter(|(of, _)| *of == asked) {
            return yes;
        }
        self.question = Some(asked);
        false
    }
}

type Applied = (Arc<Placement>, LogIndex);

/// What an answer belongs to.
enum Asked {
    Standing(NodeId),
    MayLetGo((u64, LogIndex)),
}

/// What is known of the cluster besides.
pub(crate) struct Cluster<'a> {
    /// Nodes that are to keep nothing.
    pub(crate) leaving: &'a BTreeSet<NodeId>,
    /// Bytes of this member's disk, as it says.
    pub(crate) disk: u64,
}

pub(crate) struct Monitor {
    here: NodeId,
    blocks: Arc<BlockStore>,
    table: Arc<MemoryTable>,
    clock: Arc<Clocks>,
    heard: Heard,
    /// What others said a moment ago, and when.
    standings: BTreeMap<NodeId, (Standing, u64)>,
    look_at: u64,
    proposed: Option<Came>,
    /// There was nothing to be changed, and everybody said how it stands.
    pub(crate) content: bool,
    surplus: Surplus,
    surplus_at: u64,
    post: Arc<Mutex<Post>>,
    /// The placement that this member knows, and up to where it has applied the log.
    applied: Arc<Mutex<Applied>>,
    asks: BTreeMap<u64, (Asked, u64)>,
    lines: BTreeMap<usize, LineId>,
    next_id: u64,
}

impl Monitor {
    /// `upkeep` is set where rows of blocks are to be written.
    pub(crate) fn new(
        here: NodeId,
        blocks: Arc<BlockStore>,
        table: Arc<MemoryTable>,
        clock: Arc<Clocks>,
        upkeep: Arc<AtomicBool>,
    ) -> Monitor {
        let (post, applied) = (Arc::<Mutex<Post>>::default(), Arc::<Mutex<Applied>>::default());
        let (asks, knows) = (post.clone(), applied.clone());
        let parts = surplus::Parts {
            blocks: blocks.clone(),
            clock: clock.clone(),
            applied: Box::new(move || Ok(knows.lock().clone())),
            is_at_home: Box::new(move |number, named| Ok(asks.lock().is_at_home((number, named)))),
            upkeep: Box::new(move || {
                upkeep.store(true, SeqCst);
                Ok(())
            }),
        };
        Monitor {
            here,
            blocks,
            table,
            clock,
            heard: Heard::default(),
            standings: BTreeMap::new(),
            look_at: 0,
            proposed: None,
            content: false,
            surplus: Surplus::new(parts, surplus::Options { again: AGAIN }),
            surplus_at: 0,
            post,
            applied,
            asks: BTreeMap::new(),
            lines: BTreeMap::new(),
            next_id: 0,
        }
    }

    /// What this member says of itself to the one that leads.
    pub(crate) fn standing(&self, running: &Stepped, disk: u64) -> Standing {
        let applied = running.progress().index;
        let placed = self.blocks.placed();
        Standing {
            features: FEATURES,
            complete: self.blocks.complete(applied),
            placed,
            lacks: self.blocks.listed(),
            disk_total: disk,
            disk_free: disk,
            room: disk,
            sync_us: None,
        }
    }

    /// What this member says to one that wants to let go; none where it does not lead.
    pub(crate) fn is_at_home(
        &self,
        running: &Stepped,
        number: u64,
        named: LogIndex,
    ) -> Option<bool> {
        let placement = running.placement();
        running.leadership().here.then(|| self.heard.is_at_home(&placement, number, named))
    }

    /// One millisecond.
    pub(crate) fn work(
        &mut self,
        around: &mut Around<'_>,
        running: &mut Stepped,
        cluster: &Cluster<'_>,
    ) {
        let now = around.now;
        self.forget(now);
        if now >= self.look_at {
            self.look_at = now + LOOK_MS;
            self.look(around, running, cluster);
        }
        if now < self.surplus_at {
            return;
        }
        self.surplus_at = now + LOOK_MS;
        *self.applied.lock() = (running.placement(), running.progress().index);
        // Whatever went wrong: it is tried again.
        let _ = self.surplus.work();
        let question = self.post.lock().question.take();
        if let Some(question) = question {
            self.ask_for(question, around, running);
        }
    }

    /// Questions that nobody answers are no questions any more.
    fn forget(&mut self, now: u64) {
        self.asks.retain(|_, (_, until)| *until > now);
    }

    fn ask_for(&mut self, question: (u64, LogIndex), around: &mut Around<'_>, running: &Stepped) {
        let (number, named) = question;
        if let Some(yes) = self.is_at_home(running, number, named) {
            self.post.lock().answer = Some((question, yes));
            self.surplus_at = around.now + 1;
            return;
        }
        let under_way = self.asks.values().any(|(asked, _)| matches!(asked, Asked::MayLetGo(_)));
        let Some(leader) = running.leadership().leader.filter(|_| !under_way) else { return };
        let request = Request::MayLetGo { number, named };
        self.ask(leader, &request, Asked::MayLetGo(question), around);
    }

    /// The one that leads looks at the others, and asks how they stand for the next time.
    fn look(&mut self, around: &mut Around<'_>, running: &mut Stepped, cluster: &Cluster<'_>) {
        self.content = false;
        if !running.leadership().here {
            (self.heard, self.proposed) = (Heard::default(), None);
            self.standings.clear();
            return;
        }
        self.standings.retain(|_, (_, at)| *at + PATIENCE_MS >= around.now);
        let said = self.standings.iter().map(|(node, (standing, _))| (*node, standing.clone()));
        let mut standings: BTreeMap<NodeId, Standing> = said.collect();
        standings.insert(self.here, self.standing(running, cluster.disk));
        let facts = self.facts(running, standings);
        let now = self.clock.steady();
        self.heard.listen(&facts, now);
        let leaving = spared(cluster.leaving, &facts);
        let to_be = self.heard.to_place(&facts, &leaving, WAITS, now);
        let everybody = |node: &NodeId| facts.standings.contains_key(node) && facts.follows(*node);
        self.content = to_be.is_none()
            && facts.placement.next.is_none()
            && facts.members.all().iter().all(everybody);
        self.proposed.take_if(|came| came.lock().is_some());
        if let Some(placement) = to_be.filter(|_| self.proposed.is_none()) {
            self.proposed = Some(door::propose(running, vec![place(placement)]));
        }
        for node in (1..=around.members as u64).map(NodeId) {
            if node == self.here {
                continue;
            }
            self.ask(node, &Request::Standing, Asked::Standing(node), around);
        }
    }

    fn facts(&self, running: &Stepped, standings: BTreeMap<NodeId, Standing>) -> Facts {
        let mut nodes = BTreeMap::new();
        let mut row = |key: &[u8], row: &[u8]| {
            if let Some(StateKey::Cluster(ClusterKey::Node { node })) = StateKey::decode(key) {
                nodes.insert(node, Node::from_row(key, row).unwrap());
            }
            ControlFlow::Continue(())
        };
        let range = ClusterKey::nodes();
        self.table.scan(Family::State, &range, Direction::Forward, &mut row).unwrap();
        let committed = running.commit();
        let follower = |other: tsfs::tsdb_log::core::Follower| Follower {
            node: other.node,
            answers: other.active,
            lag: committed.0.saturating_sub(other.matched.0),
        };
        Facts {
            leader: self.here,
            nodes,
            members: running.members(),
            followers: running.followers().into_iter().map(follower).collect(),
            standings,
            placement: (*running.placement()).clone(),
            committed,
        }
    }

    fn ask(&mut self, node: NodeId, request: &Request, asked: Asked, around: &mut Around<'_>) {
        self.next_id += 1;
        let other = node.0 as usize - 1;
        let Around { now, who, lines, network, chance, .. } = around;
        let line = *self.lines.entry(other).or_insert_with(|| {
            let line = lines.open(lines::caller(*who), other);
            lines.send(*now, (line, End::Member), &door::hello(0), network, chance);
            line
        });
        let (form, kind, id) = (Form::Ask, message::REQUEST, self.next_id);
        let packet = Packet { form, kind, id, meta: message::encode(request), tail: Bytes::new() };
        self.asks.insert(id, (asked, *now + PATIENCE_MS));
        lines.send(*now, (line, End::Member), &packet, network, chance);
    }

    /// Another member has answered, or its line has ended.
    pub(crate) fn hear(&mut self, now: u64, line: LineId, other: usize, what: &What) {
        if self.lines.get(&other) != Some(&line) {
            return;
        }
        let (id, response) = match what {
            What::End => {
                self.lines.remove(&other);
                return;
            }
            What::Packet(packet) if packet.kind == HELLO => return,
            What::Packet(packet) => {
                (packet.id, message::decode(&packet.meta).expect("a whole packet"))
            }
        };
        match (self.asks.remove(&id), response) {
            (Some((Asked::Standing(node), _)), Response::Standing(standing)) => {
                self.standings.insert(node, (standing, now));
            }
            (Some((Asked::MayLetGo(question), _)), Response::MayLetGo(yes)) => {
                self.post.lock().answer = Some((question, yes));
                self.surplus_at = 0;
            }
            // Nobody waits for it any more, or it does not lead.
            (None, _) | (_, Response::Failed(_)) => {}
            (_, other) => panic!("another answer than was asked for: {other:?}"),
        }
    }
}

/// Those that are to keep nothing, where enough others are left: nobody has the last one emptied.
fn spared(leaving: &BTreeSet<NodeId>, facts: &Facts) -> BTreeSet<NodeId> {
    let stays = |node: &&NodeId| !leaving.contains(*node) && facts.follows(**node);
    let left = facts.members.all().iter().filter(stays).count();
    if left >= HOMES_MIN { leaving.clone() } else { BTreeSet::new() }
}

pub(crate) fn place(placement: Placement) -> Op {
    Op::Cluster(ClusterOp::Place { placement })
}

/// Somebody wants another number of copies.
pub(crate) fn want_copies(running: &mut Stepped, chance: &mut Chance) {
    let placement = (*running.placement()).clone();
    let copies = if chance.once_in(2) { 3 } else { 5 };
    if placement.copies != copies {
        let placement = Placement { number: placement.number + 1, copies, ..placement };
        door::propose(running, vec![place(placement)]);
    }
}
