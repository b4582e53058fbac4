//! A node among others: who they are, whether it leads, and what it may answer then.
//!
//! Not here: how others are reached (`peers`), what they ask (`door`).

use crate::meta::apply::FEATURES;
use crate::meta::key::StateKey;
use crate::meta::op::Op;
use crate::meta::record::Store;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::series::table::Table;
use crate::tsdb_log::core::Follower;
use crate::tsdb_log::entry::Members;
use crate::tsdb_log::entry::Message;
use crate::tsdb_server::cluster::headroom::Headroom;
use crate::tsdb_server::data::lend::LentId;
use crate::tsdb_server::data::repair;
use crate::tsdb_server::data::repair::Repair;
use crate::tsdb_server::data::scrub;
use crate::tsdb_server::data::scrub::Scrubber;
use crate::tsdb_server::data::stream::Chunk;
use crate::tsdb_server::data::surplus;
use crate::tsdb_server::data::surplus::Surplus;
use crate::tsdb_server::lock_node;
use crate::tsdb_server::member::greeting::LogEnd;
use crate::tsdb_server::node::Among;
use crate::tsdb_server::node::Node;
use crate::tsdb_server::replica::Leadership;
use crate::tsdb_server::turns::Turns;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::NodeId;
use crate::types::Stamp;
use crate::types::Term;
use crate::types::placement::Placement;
use crate::wire::Applied;
use crate::wire::Proposal;
use crate::wire::Server;
use crate::wire::message::NodeAt;
use crate::wire::message::Response;
use crate::wire::message::Standing;
use crate::wire::message::View;
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How often a node whose disk is full has another lead.
const PASS_ON_EVERY: Duration = Duration::from_secs(60);
/// What mounts may write until it does: its reserve has room for that.
const PASSING_BYTES: u64 = 1 << 20;

impl lock_node::Log for Node {
    fn propose(&self, op: Op) -> Result<Stamp, FsError> {
        self.administer(op)
    }

    fn barrier(&self) -> Result<Stamp, FsError> {
        Server::barrier(self)
    }

    fn reign(&self) -> Option<Term> {
        let Leadership { term, here, .. } = self.leadership();
        here.then_some(term)
    }

    fn catch_up(&self, patience: Duration) -> Result<(), FsError> {
        self.lead(patience)
    }

    fn space_left(&self) -> u64 {
        match Server::space_left(self) {
            // Whoever leads next says what is left there.
            0 if self.passes_on().is_some() => PASSING_BYTES,
            left => self.together.least(left),
        }
    }

    fn store(&self) -> String {
        self.label.to_string()
    }
}

impl Node {
    /// The table, for who reads it all the time.
    pub(in crate::tsdb_server) fn table(&self) -> Arc<dyn Table> {
        self.table.clone()
    }

    /// Counts what was applied that bears on who owns what.
    pub(in crate::tsdb_server) fn turns(&self) -> (Arc<Turns>, Arc<Turns>) {
        (self.replica.owned(), self.replica.locked())
    }

    /// What other members of the log said. The calling thread may be used to write the log.
    pub fn step(&self, messages: Vec<Message>) {
        self.replica.step(messages);
    }

    /// What was sent to this node probably did not arrive.
    pub fn unreachable(&self, node: NodeId) {
        self.replica.unreachable(node);
    }

    /// Returns once this node surely leads, and its table shows everything that was committed when this was called.
    ///
    /// # Errors
    /// `NotLeader`; `Unreachable` where that is not known within `patience`; what stopped the node.
    pub fn lead(&self, patience: Duration) -> Result<(), FsError> {
        self.replica.read_barrier(self.clock.steady() + patience)
    }

    /// Whether [`Node::lead`] would return at once.
    pub fn is_read_ready(&self) -> bool {
        self.replica.read_ready()
    }

    /// Whether nobody else can lead now. Its table may be behind what is committed.
    pub fn surely_leads(&self) -> bool {
        self.replica.surely_leads()
    }

    pub fn leadership(&self) -> Leadership {
        self.replica.leadership()
    }

    /// Told whenever another node leads, or none; must not wait, nor call this node.
    pub fn on_leader_change(&self, watcher: impl Fn(Leadership) + Send + Sync + 'static) {
        self.replica.on_leader_change(watcher);
    }

    /// Returns where an instant can be read here: something that is stamped later, or then, is applied. The leader has such a thing
    /// committed where there is none yet, so that what it answers stays true.
    ///
    /// # Errors
    /// `NotLeader`: the leader can; as for [`Node::lead`].
    pub fn reach(&self, stamp: Stamp, patience: Duration) -> Result<(), FsError> {
        if self.has_reached(stamp) {
            return Ok(());
        }
        self.lead(patience)?;
        if self.has_reached(stamp) || self.barrier()? >= stamp {
            return Ok(());
        }
        Err(FsError::BadInstant(
            "the instant has not come yet, by the clock of the cluster".to_owned(),
        ))
    }

    /// Whether [`Node::reach`] would return at once.
    pub fn has_reached(&self, stamp: Stamp) -> bool {
        self.replica.progress().stamp >= stamp
    }

    /// Who takes part in the log.
    pub fn members(&self) -> Members {
        self.replica.members()
    }

    /// How far the others are; empty where this node does not lead.
    pub fn followers(&self) -> Vec<Follower> {
        self.replica.followers()
    }

    /// Who could lead in this node's place now: the voter that has most, of those that answer.
    pub fn successor(&self) -> Option<NodeId> {
        let voters = self.members().voters;
        let followers = self.followers();
        let able = followers.iter().filter(|other| voters.contains(&other.node) && other.active);
        able.max_by_key(|other| other.matched).map(|next| next.node)
    }

    /// Who is to lead in this node's place because its own disk is full: what it says of its space holds for all mounts. None where
    /// that was tried a moment ago, as the others may have no room either.
    pub(super) fn passes_on(&self) -> Option<NodeId> {
        let now = self.clock.steady();
        let lately = |last: Duration| now.saturating_sub(last) < PASS_ON_EVERY;
        match self.leadership().here && !self.passed_on.lock().is_some_and(lately) {
            true => self.successor(),
            false => None,
        }
    }

    pub(super) fn pass_on(&self, next: NodeId) {
        tracing::warn!(
            node = next.0,
            "the disk of the node that leads is full: another is to lead"
        );
        *self.passed_on.lock() = Some(self.clock.steady());
        if let Err(error) = self.transfer_leader(next) {
            tracing::warn!(%error, "nobody else leads");
        }
    }

    /// What the nodes together have room for, as the one that leads has just heard; nothing where this node does not lead.
    pub fn heard_of_headroom(&self, headroom: Option<Headroom>) {
        self.together.heard(headroom, Server::space_left(self));
    }

    /// # Errors
    /// As for [`Replica::change_members_from`](crate::tsdb_server::replica::Replica::change_members_from).
    pub fn change_members(
        &self,
        from: Members,
        voters: Vec<NodeId>,
        learners: Vec<NodeId>,
    ) -> Result<(), FsError> {
        self.replica.change_members_from(from, voters, learners).map(drop)
    }

    /// # Errors
    /// As for [`Replica::transfer_leader`](crate::tsdb_server::replica::Replica::transfer_leader).
    pub fn transfer_leader(&self, to: NodeId) -> Result<(), FsError> {
        self.replica.transfer_leader(to)
    }

    /// What rows and ops of this store may contain.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    pub fn features(&self) -> Result<u32, FsError> {
        // A node that has just joined has no rows yet.
        Ok(self.record::<Store>(&StateKey::Store)?.map_or(0, |store| store.features))
    }

    /// The nodes are these, for whoever asks.
    pub fn set_nodes(&self, nodes: Vec<NodeAt>) {
        *self.nodes.write() = nodes;
    }

    /// The cluster as this node sees it.
    pub fn view(&self) -> View {
        let Leadership { leader, term, .. } = self.replica.leadership();
        let Members { mut voters, outgoing, .. } = self.replica.members();
        voters.extend(outgoing);
        voters.sort_unstable();
        voters.dedup();
        let (nodes, placement) = (self.nodes.read().clone(), (*self.placement()).clone());
        View { leader, term: term.0, nodes, voters, placement }
    }

    /// A block that lies here; no other node is asked.
    ///
    /// # Errors
    /// `Stale` where there is none, or no whole one; `Io`.
    pub fn own_block(&self, block: BlockId) -> Result<Bytes, FsError> {
        match self.table.get(Family::Payload, &block.to_bytes())? {
            Some(frame) => Ok(frame),
            None => self.blocks.get(block),
        }
    }

    /// What is committed, as far as this node knows.
    pub fn commit(&self) -> LogIndex {
        self.replica.commit()
    }

    /// The newest term that this node knows of, and the last entry on its disk.
    pub(in crate::tsdb_server) fn log_end(&self) -> LogEnd {
        (self.replica.term(), self.replica.last())
    }

    /// What this node says of itself to the one that leads.
    pub fn standing(&self) -> Standing {
        // In this order: what is complete is of what it has applied, or of more.
        let applied = self.replica.progress().index;
        let placed = self.blocks.placed();
        let space = self.reserve.space();
        Standing {
            features: FEATURES,
            complete: self.blocks.complete(applied),
            placed,
            lacks: self.blocks.listed(),
            disk_total: space.total,
            disk_free: space.free,
            room: self.reserve.space_left(self.clock.steady()),
            sync_us: self.replica.pace().map(|pace| pace.as_micros() as u64),
        }
    }

    /// Which nodes keep which blocks, as far as this one has applied the log.
    pub fn placement(&self) -> Arc<Placement> {
        self.replica.placement()
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// As [`wire::Server::propose`](crate::wire::Server::propose), for a client that is told nothing before the batch is applied.
    pub fn propose_awaited(&self, proposal: Proposal, applied: Applied) {
        self.reserve.spend(proposal.batch.len() as u64);
        self.replica.propose_awaited(proposal, applied);
    }

    /// To be called when everything is proposed that came together.
    pub fn nudge(&self) {
        self.replica.nudge();
    }

    /// Makes a checkpoint of the table for that node.
    ///
    /// # Errors
    /// As for [`Lender::lend`](crate::tsdb_server::data::lend::Lender::lend); `NotSupported` in a store that is alone.
    pub fn lend_table(&self, to: NodeId) -> Result<Response, FsError> {
        let lender = self.lender.as_ref().ok_or(FsError::NotSupported("nobody borrows here"))?;
        // The log up to here is let go of only when nobody borrows any more.
        let applied = self.replica.progress().index;
        let (lent, plan) = lender.lend(&self.table, applied, to)?;
        Ok(Response::Table { lent: lent.0, plan: plan.encode() })
    }

    /// # Errors
    /// As for [`Lender::read`](crate::tsdb_server::data::lend::Lender::read).
    pub fn table_chunk(&self, lent: u64, chunk: Chunk) -> Result<Bytes, FsError> {
        self.lender.as_ref().ok_or(FsError::Stale)?.read(LentId(lent), chunk)
    }

    pub fn table_done(&self, lent: u64) {
        if let Some(lender) = &self.lender {
            lender.done(LentId(lent));
        }
    }

    /// The task that lets go of blocks that this node need not have, where whoever leads says that they are at home.
    pub(in crate::tsdb_server) fn letting_go(
        self: &Arc<Node>,
        is_at_home: impl Fn(u64, LogIndex) -> Result<bool, FsError> + Send + 'static,
    ) -> Surplus {
        let (for_applied, for_rows) = (Arc::downgrade(self), Arc::downgrade(self));
        let parts = surplus::Parts {
            blocks: self.blocks.clone(),
            clock: self.clock.clone(),
            applied: Box::new(move || {
                let node = for_applied.upgrade().ok_or(FsError::Closing)?;
                // In this order: the placement is as old as the entry, or older.
                let placement = node.placement();
                Ok((placement, node.replica.progress().index))
            }),
            is_at_home: Box::new(is_at_home),
            upkeep: Box::new(move || for_rows.upgrade().ok_or(FsError::Closing)?.replica.upkeep()),
        };
        Surplus::new(parts, surplus::Options::default())
    }

    pub(super) fn start_repair(self: &Arc<Node>, among: Among) -> Result<(), FsError> {
        let (for_rows, for_space) = (Arc::downgrade(self), Arc::downgrade(self));
        let repair = Repair::new(
            repair::Parts {
                blocks: self.blocks.clone(),
                peers: among.peers,
                clock: self.clock.clone(),
                upkeep: Box::new(move || {
                    for_rows.upgrade().ok_or(FsError::Closing)?.replica.upkeep()
                }),
                space_left: Box::new(move || {
                    for_space.upgrade().map_or(0, |node| node.space_left())
                }),
            },
            repair::Options { bytes_per_second: among.rates.repair, ..repair::Options::default() },
        );
        // Set once, as the node is opened once.
        let _ = self.repair.set(repair.watch());
        let for_scrub = Arc::downgrade(self);
        let scrubber = Scrubber::new(
            scrub::Parts {
                blocks: self.blocks.clone(),
                clock: self.clock.clone(),
                upkeep: Box::new(move || {
                    for_scrub.upgrade().ok_or(FsError::Closing)?.replica.upkeep()
                }),
            },
            scrub::Options { bytes_per_second: among.rates.scrub, ..scrub::Options::default() },
        );
        let mut tasks = self.tasks.lock();
        tasks.start(repair)?;
        tasks.start(scrubber)
    }
}
