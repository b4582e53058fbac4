//! What must hold after every step, one file for each.

mod acknowledged;
mod book;
mod coherent;
mod durable;
mod equal_rows;
mod exactly_once;
mod given;
mod homes;
mod kept;
mod lease;
mod listed;
mod locked;
mod log_matching;
mod one_holder;
mod one_leader;
mod owned;
mod past;
mod prefix;
mod same_outcome;
mod shown;
mod sound;

use crate::chance::Chance;
use crate::member::Member;
use crate::mount::Mount;
use crate::mount::Report;
use book::Book;
use bytes::Bytes;
use equal_rows::EqualRows;
use homes::Homes;
use one_leader::OneLeader;
use past::Past;
use same_outcome::SameOutcome;
use std::collections::BTreeSet;
use tsfs::meta::op::Outcome;
use tsfs::tsdb_log::entry::Entry;
use tsfs::types::BlockId;
use tsfs::types::Ino;
use tsfs::types::NodeId;
use tsfs::types::SessionId;

/// Once in so many milliseconds, of what takes long to look at.
const OWNERS_EVERY: u64 = 80;
const PAST_EVERY: u64 = 400;
const SOUND_EVERY: u64 = 700;
const LISTED_EVERY: u64 = 150;
const KEPT_EVERY: u64 = 1000;
/// Of so many blocks that count as durable, one is looked for.
const DURABLE_EVERY: u64 = 3;

/// What has been seen so far.
pub(crate) struct Invariants {
    one_leader: OneLeader,
    equal_rows: EqualRows,
    same_outcome: SameOutcome,
    past: Past,
    book: Book,
    homes: Homes,
    /// Why the entry that is being applied may not be.
    obstacle: Option<String>,
    /// There are mounts.
    mounted: bool,
    /// What is looked at when: of its own, so that looking changes nothing.
    chance: Chance,
    /// Reads of the present that would have been answered.
    pub(crate) reads: u64,
    /// Copies of blocks that were damaged on purpose.
    pub(crate) rotten: Option<(NodeId, BlockId)>,
    pub(crate) durable: u64,
    pub(crate) given: u64,
}

impl Invariants {
    pub(crate) fn new(seed: u64, mounted: bool) -> Invariants {
        Invariants {
            one_leader: OneLeader::default(),
            equal_rows: EqualRows::default(),
            same_outcome: SameOutcome::default(),
            past: Past::default(),
            book: Book::default(),
            homes: Homes::default(),
            obstacle: None,
            mounted,
            chance: Chance::new(!seed),
            reads: 0,
            rotten: None,
            durable: 0,
            given: 0,
        }
    }

    /// After every step of the world. `promised` is the last number that anybody was told is durable.
    pub(crate) fn check(&mut self, members: &[Member], mounts: &[Mount], promised: u64) {
        self.one_leader.check(members);
        lease::check(members);
        self.reads += acknowledged::check_reads(members, promised);
        if mounts.is_empty() {
            return;
        }
        self.check_blocks(members);
        locked::check(mounts);
        let Invariants { book, chance, past, .. } = self;
        prefix::check_reads(book, members);
        let inos: Vec<Ino> = book.inos.iter().copied().collect();
        match chance.once_in(OWNERS_EVERY) {
            true => one_holder::check(book, members, mounts, inos.iter()),
            false => one_holder::check(book, members, mounts, chance.pick(&inos).into_iter()),
        }
        if chance.once_in(OWNERS_EVERY) {
            mounts.iter().for_each(|mount| coherent::check(book, members, mount));
        }
        let member = &members[chance.below(members.len() as u64) as usize];
        if chance.once_in(PAST_EVERY) {
            past.look(book, member, chance);
        }
        if chance.once_in(PAST_EVERY) {
            past.look_again(book, member, chance);
        }
        if chance.once_in(SOUND_EVERY) {
            sound::check(member);
            prefix::check_ended(book);
        }
    }

    fn check_blocks(&mut self, members: &[Member]) {
        let Invariants { book, chance, rotten, .. } = self;
        if chance.once_in(LISTED_EVERY) {
            let member = &members[chance.below(members.len() as u64) as usize];
            let cut = chance.once_in(2).then(|| chance.next());
            let rotten = rotten.filter(|(node, _)| *node == member.node);
            listed::check(book, member, cut, rotten.map(|(_, block)| block));
        }
        if chance.once_in(KEPT_EVERY) {
            kept::check(book, members, *rotten, chance.next());
        }
    }

    pub(crate) fn heard(&mut self, report: Report, members: &[Member]) {
        let Invariants { book, chance, rotten, .. } = self;
        match &report {
            Report::Durable { block, nodes } => {
                self.durable += 1;
                if chance.once_in(DURABLE_EVERY) {
                    durable::check(book, members, (*block, nodes), *rotten, chance.next());
                }
            }
            Report::Made { bytes, .. } => durable::check_made(book, bytes),
            Report::Got { block, frame } => given::check(book, *block, frame, "a mount"),
            _ => {}
        }
        self.book.note(report);
        for (at, key, row) in std::mem::take(&mut self.book.read) {
            self.past.read(at, key, row);
        }
    }

    /// A member gives a block out.
    pub(crate) fn gave(&mut self, block: BlockId, frame: &Bytes) {
        self.given += 1;
        given::check(&self.book, block, frame, "somebody");
    }

    /// A member shows rows of an inode to a session.
    pub(crate) fn shown(&self, mounts: &[Mount], session: SessionId, ino: Ino) {
        shown::check(mounts, session, ino);
    }

    /// Before `member` applies an entry.
    pub(crate) fn applies(&mut self, member: &Member, entry: &Entry) {
        if self.mounted && entry.index > self.book.furthest {
            self.obstacle = owned::check(&self.book, member, entry);
        }
    }

    /// After a member has applied an entry; whether other nodes count as homes from it on.
    pub(crate) fn applied(
        &mut self,
        members: &[Member],
        n: usize,
        entry: &Entry,
        outcome: &Outcome,
    ) -> bool {
        let member = &members[n];
        self.equal_rows.check(member);
        self.same_outcome.check(entry, outcome);
        if self.mounted && entry.index > self.book.furthest {
            self.book.furthest = entry.index;
            // Said again, a direct batch is answered as it was then.
            let again = exactly_once::is_again(&self.book, entry);
            let obstacle = self.obstacle.take().filter(|_| !again);
            owned::check_applied(entry, obstacle, outcome);
            exactly_once::follow(&mut self.book, member, entry, outcome);
            let Invariants { homes, book, chance, rotten, .. } = self;
            let came = (entry, outcome);
            return homes.applied(book, (members, member), came, *rotten, chance.next());
        }
        false
    }

    /// A member has let go of these blocks.
    pub(crate) fn let_go(&mut self, members: &[Member], n: usize, blocks: &BTreeSet<BlockId>) {
        let Invariants { book, chance, rotten, .. } = self;
        homes::check_let_go(book, (members, &members[n]), blocks, *rotten, chance.next());
    }

    /// A member was asked for a block when all was well.
    pub(crate) fn read_at_last(&self, block: BlockId, frame: &Bytes) {
        let written = self.book.frames.get(&block);
        assert_eq!(written, Some(frame), "block {block} is read as something else");
    }

    /// How often other nodes came to count.
    pub(crate) fn moved(&self) -> u64 {
        self.homes.moved
    }

    /// There are mounts.
    pub(crate) fn is_mounted(&self) -> bool {
        self.mounted
    }

    pub(crate) fn reigns(&self) -> u64 {
        self.one_leader.reigns()
    }

    /// How often an instant was looked at again.
    pub(crate) fn looked_again(&self) -> u64 {
        self.past.again
    }

    /// When everything is well again.
    pub(crate) fn check_end(&mut self, members: &[Member], part: &[NodeId], promised: u64) {
        let part: Vec<&Member> = members.iter().filter(|m| part.contains(&m.node)).collect();
        acknowledged::check_end(&part, promised);
        equal_rows::check_end(&part);
        log_matching::check(&part);
        part.iter().for_each(|member| prefix::check_member(&self.book, member));
        prefix::check_ended(&self.book);
        self.past.check_end(&self.book, &part);
        part.iter().for_each(|member| sound::check(member));
        if self.mounted {
            part.iter().for_each(|member| listed::check_end(&self.book, member));
        }
    }
}
