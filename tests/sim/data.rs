//! The data role of a member while it runs: its blocks, and what it does in the background about those that it lacks.
//!
//! What is repaired and scrubbed, and in which order, is decided by the production's tasks (`tsdb_server::data`), one piece of
//! work at a time. They ask other members and wait; here the question goes over lines first, to one member after the other as
//! `tsdb_server::peers` does it, and a task is let go on when what it will ask for has been answered. Collecting is the few
//! lines of `tsdb_server::node`, with more time between its steps.

use crate::chance::Chance;
use crate::door;
use crate::lines;
use crate::lines::HELLO;
use crate::lines::LineId;
use crate::lines::Lines;
use crate::lines::Side as End;
use crate::lines::What;
use crate::member::Clocks;
use crate::network::Network;
use bytes::Bytes;
use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tsfs::store::block::BlockStore;
use tsfs::store::table::MemoryTable;
use tsfs::tsdb_server::data::Data;
use tsfs::tsdb_server::data::Peers;
use tsfs::tsdb_server::data::repair;
use tsfs::tsdb_server::data::repair::Repair;
use tsfs::tsdb_server::data::scrub;
use tsfs::tsdb_server::data::scrub::Scrubber;
use tsfs::tsdb_server::task::Task;
use tsfs::types::BlockId;
use tsfs::types::FsError;
use tsfs::types::NodeId;
use tsfs::types::frame;
use tsfs::types::placement::Placed;
use tsfs::wire::message;
use tsfs::wire::message::Request;
use tsfs::wire::message::Response;
use tsfs::wire::packet::Form;
use tsfs::wire::packet::Packet;

/// A member that has not answered by then is not asked on.
const PATIENCE_MS: u64 = 400;
/// How often the list is looked at, and segments are scrubbed.
const LOOK_MS: u64 = 20;
const SCRUB_MS: u64 = 60;
/// From one round of scrubbing to the next.
const SCRUB_EVERY: Duration = Duration::from_millis(2500);
/// After so many looks repair rests for a while, as it does where much was fetched before: so members lack something for long.
const REST_EVERY: u64 = 60;
const REST_MS_MAX: u64 = 2500;
/// Once in so many times rows wait until they are written, and for how long at most.
const ROWS_WAIT_EVERY: u64 = 3;
const ROWS_WAIT_MS_MAX: u64 = 200;
/// How long a task rests that failed.
const AFTER_FAILURE_MS: u64 = 1000;
/// Once in so many milliseconds a segment is rewritten that is worth it; the rest of one is left for later once in so many blocks.
const RECLAIM_EVERY: u64 = 300;
const LEFT_OFF_EVERY: u64 = 8;
/// At most so many blocks are looked for at a time.
const LOOKED_FOR_MAX: usize = 256;

/// What other members have answered, until somebody asks.
#[derive(Default)]
struct Post {
    answers: Mutex<BTreeMap<BlockId, Result<Option<Bytes>, FsError>>>,
}

impl Peers for Post {
    fn fetch(&self, block: BlockId, _: bool) -> Result<Option<Bytes>, FsError> {
        let answer = self.answers.lock().remove(&block);
        answer.unwrap_or_else(|| Err(FsError::Io("nobody was asked".to_owned())))
    }
}

/// A block that is being looked for.
struct Search {
    /// Who is to be asked still, the last one first.
    left: Vec<usize>,
    /// The question that is not answered, whom it went to, and until when it may be.
    asked: Option<(u64, usize, u64)>,
    unasked: Option<String>,
}

/// What a member acts on.
pub(crate) struct Around<'a> {
    pub(crate) now: u64,
    /// Which member this is, and how many there are.
    pub(crate) who: usize,
    pub(crate) members: usize,
    pub(crate) lines: &'a mut Lines,
    pub(crate) network: &'a Network,
    pub(crate) chance: &'a mut Chance,
}

/// What has been done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Did {
    Repaired,
    Scrubbed,
    Collected,
}

pub(crate) struct Side {
    pub(crate) blocks: Arc<BlockStore>,
    data: Data,
    post: Arc<Post>,
    repair: Repair,
    repaired: Arc<repair::Watch>,
    repair_at: u64,
    scrubber: Scrubber,
    scrub_at: u64,
    /// A task waits for rows of the block store.
    upkeep: Arc<AtomicBool>,
    /// When they are written.
    rows_at: Option<u64>,
    searches: BTreeMap<BlockId, Search>,
    /// Blocks that mounts wait for.
    wanted: BTreeSet<BlockId>,
    lines: BTreeMap<usize, LineId>,
    next_id: u64,
    /// Which members are asked for a block first.
    pub(crate) placed: Arc<Placed>,
    pub(crate) did: Vec<Did>,
}

impl Side {
    pub(crate) fn new(
        blocks: Arc<BlockStore>,
        table: Arc<MemoryTable>,
        clock: Arc<Clocks>,
    ) -> Side {
        let (post, upkeep) = (Arc::new(Post::default()), Arc::new(AtomicBool::new(false)));
        let wants_rows = || {
            let upkeep = upkeep.clone();
            Box::new(move || {
                upkeep.store(true, SeqCst);
                Ok(())
            })
        };
        let parts = repair::Parts {
            blocks: blocks.clone(),
            peers: post.clone(),
            clock: clock.clone(),
            upkeep: wants_rows(),
            space_left: Box::new(|| 1 << 30),
        };
        // One at a time: then it starts no thread.
        let options = repair::Options { at_once: 1, ..repair::Options::default() };
        let repair = Repair::new(parts, options);
        let parts = scrub::Parts { blocks: blocks.clone(), clock, upkeep: wants_rows() };
        let options = scrub::Options { every: SCRUB_EVERY, ..scrub::Options::default() };
        Side {
            data: Data::new(table, blocks.clone(), post.clone()),
            blocks,
            post,
            repaired: repair.watch(),
            repair,
            repair_at: 0,
            scrubber: Scrubber::new(parts, options),
            scrub_at: 0,
            upkeep,
            rows_at: None,
            searches: BTreeMap::new(),
            wanted: BTreeSet::new(),
            lines: BTreeMap::new(),
            next_id: 0,
            placed: Arc::default(),
            did: Vec::new(),
        }
    }

    /// A block for a mount; none where other members are to be asked first.
    pub(crate) fn read(&mut self, block: BlockId) -> Option<Result<Bytes, FsError>> {
        let answered = self.post.answers.lock().contains_key(&block);
        if !answered {
            match self.data.here(block, true) {
                Ok(None) => {}
                here => return here.transpose(),
            }
            match self.blocks.get(block) {
                Ok(frame) => return Some(Ok(frame)),
                Err(_) => drop(self.wanted.insert(block)),
            }
            return None;
        }
        self.wanted.remove(&block);
        Some(self.data.block(block))
    }

    /// What a task sets that waits for rows to be written.
    pub(crate) fn upkeep(&self) -> Arc<AtomicBool> {
        self.upkeep.clone()
    }

    /// Whether rows are written now for which a task waits. The log's turn comes first: entries may be applied in between.
    pub(crate) fn takes_upkeep(&mut self, now: u64, chance: &mut Chance) -> bool {
        if !self.upkeep.load(SeqCst) {
            return false;
        }
        let wait = match chance.once_in(ROWS_WAIT_EVERY) {
            true => chance.between(1, ROWS_WAIT_MS_MAX),
            false => 0,
        };
        if *self.rows_at.get_or_insert(now + wait) > now {
            return false;
        }
        self.rows_at = None;
        self.upkeep.swap(false, SeqCst)
    }

    /// What it lacks, for who reads that it does not get it.
    pub(crate) fn describe(&self) -> String {
        let missing = self.blocks.missing(None, LOOKED_FOR_MAX);
        let (due, searches) = (self.blocks.upkeep_due(), self.searches.len());
        format!("{} {missing:?} upkeep {due} looks for {searches}", self.blocks.listed())
    }

    /// One millisecond in the background.
    pub(crate) fn work(&mut self, around: &mut Around<'_>) {
        if around.now >= self.repair_at {
            let rests = around.chance.once_in(REST_EVERY);
            self.repair_at = around.now
                + match self.repair() {
                    Err(_) => AFTER_FAILURE_MS,
                    Ok(()) if rests => around.chance.between(LOOK_MS, REST_MS_MAX),
                    Ok(()) => LOOK_MS,
                };
        }
        if around.now >= self.scrub_at {
            self.scrub_at = around.now + SCRUB_MS;
            match self.scrubber.work() {
                Ok(_) => self.did.push(Did::Scrubbed),
                Err(_) => self.scrub_at = around.now + AFTER_FAILURE_MS,
            }
        }
        if around.chance.once_in(RECLAIM_EVERY) {
            self.collect(around.chance);
        }
        self.search(around);
    }

    /// A piece of repair, when everything that it may ask for is answered.
    fn repair(&mut self) -> Result<(), FsError> {
        let missing = self.blocks.missing(None, LOOKED_FOR_MAX)?;
        let lacks = |block: &BlockId| !self.post.answers.lock().contains_key(block);
        let open: Vec<BlockId> = missing.into_iter().filter(lacks).collect();
        if open.is_empty() {
            let before = self.repaired.progress().repaired;
            self.repair.work()?;
            let times = self.repaired.progress().repaired - before;
            self.did.extend((0..times).map(|_| Did::Repaired));
        }
        self.wanted.extend(open);
        Ok(())
    }

    fn collect(&mut self, chance: &mut Chance) {
        let Some(plan) = self.blocks.plan_reclaim() else {
            return self.upkeep.store(self.blocks.upkeep_due(), SeqCst);
        };
        let pace = &mut |_| match chance.once_in(LEFT_OFF_EVERY) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        // Whatever went wrong: it is tried again.
        if self.blocks.reclaim(&plan, pace).is_ok() {
            self.did.push(Did::Collected);
        }
    }

    /// Other members are asked for what is wanted, one after the other.
    fn search(&mut self, around: &mut Around<'_>) {
        let mut others: Vec<usize> =
            (0..around.members).rev().filter(|other| *other != around.who).collect();
        for block in std::mem::take(&mut self.wanted) {
            if !self.post.answers.lock().contains_key(&block) {
                let rank = |other: &usize| self.placed.rank(NodeId(*other as u64 + 1), block);
                others.sort_by_key(|other| (Reverse(rank(other)), Reverse(*other)));
                let new = || Search { left: others.clone(), asked: None, unasked: None };
                self.searches.entry(block).or_insert_with(new);
            }
        }
        let mut searches = std::mem::take(&mut self.searches);
        searches.retain(|block, search| {
            if let Some((_, other, until)) = search.asked {
                if until > around.now {
                    return true;
                }
                search.unasked = Some(format!("member {other} does not answer"));
                search.asked = None;
                if let Some(line) = self.lines.remove(&other) {
                    around.lines.close(line, End::Mount, around.chance);
                }
            }
            match search.left.pop() {
                Some(other) => {
                    let id = self.ask(*block, other, around);
                    search.asked = Some((id, other, around.now + PATIENCE_MS));
                    true
                }
                None => {
                    let answer =
                        search.unasked.take().map_or(Ok(None), |why| Err(FsError::Io(why)));
                    self.post.answers.lock().insert(*block, answer);
                    false
                }
            }
        });
        self.searches = searches;
    }

    fn ask(&mut self, block: BlockId, other: usize, around: &mut Around<'_>) -> u64 {
        self.next_id += 1;
        let Around { now, who, lines, network, chance, .. } = around;
        let line = *self.lines.entry(other).or_insert_with(|| {
            let line = lines.open(lines::caller(*who), other);
            lines.send(*now, (line, End::Member), &door::hello(0), network, chance);
            line
        });
        let (form, kind, id) = (Form::Ask, message::REQUEST, self.next_id);
        let meta = message::encode(&Request::Block { block });
        let packet = Packet { form, kind, id, meta, tail: Bytes::new() };
        lines.send(*now, (line, End::Member), &packet, network, chance);
        id
    }

    /// Another member has answered, or its line has ended.
    pub(crate) fn hear(&mut self, line: LineId, other: usize, what: What) {
        if self.lines.get(&other) != Some(&line) {
            return;
        }
        let (id, response, tail) = match what {
            What::End => {
                self.lines.remove(&other);
                for search in self.searches.values_mut() {
                    if search.asked.is_some_and(|(_, whom, _)| whom == other) {
                        search.unasked = Some(format!("the line to member {other} broke"));
                        search.asked = None;
                    }
                }
                return;
            }
            What::Packet(packet) if packet.kind == HELLO => return,
            What::Packet(Packet { id, meta, tail, .. }) => {
                (id, message::decode(&meta).expect("a whole packet"), tail)
            }
        };
        let of = |(_, search): &(&BlockId, &mut Search)| {
            search.asked.is_some_and(|(asked, ..)| asked == id)
        };
        let Some((block, search)) = self.searches.iter_mut().find(of) else { return };
        let block = *block;
        match response {
            Response::Frame if frame::verify(&tail).is_ok() => {
                self.searches.remove(&block);
                self.post.answers.lock().insert(block, Ok(Some(tail)));
            }
            Response::Failed(FsError::Io(why)) => {
                (search.asked, search.unasked) = (None, Some(why));
            }
            _ => search.asked = None,
        }
    }
}
