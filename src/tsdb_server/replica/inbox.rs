//! What waits to enter the log, what the other members said, and who has the right to drive.
//!
//! `docs/decisions/0004-whoever-has-work-drives-the-log.md` has the states and why nothing is ever forgotten here.

use crate::tsdb_log::entry::Members;
use crate::tsdb_log::entry::Message;
use crate::tsdb_log::header::Body;
use crate::types::BatchSeq;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::NodeId;
use crate::types::SessionId;
use crate::wire::Applied;
use crate::wire::Durable;
use crate::wire::Proposal;
use bytes::Bytes;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::collections::VecDeque;

/// Bytes proposed and not yet applied, at most; one batch more may come on top. They are held in memory, so this is what
/// a slow table may cost; and a disk that takes a second for them is a disk worth waiting for.
const OUTSTANDING_BYTES_MAX: usize = 64 << 20;
/// Weight that goes into one group, at most; the first batch goes in any case. What makes a group larger makes it slower,
/// and one segment of the log takes it.
const GROUP_BYTES_MAX: usize = 8 << 20;
/// What an entry costs besides its bytes.
const ENTRY_BYTES: usize = 256;
/// Messages of other members that may wait, and their bytes. What comes on top is dropped: the network loses some too.
const MESSAGES_MAX: usize = 4096;
const MESSAGE_BYTES_MAX: usize = 32 << 20;

/// One entry to be.
pub(super) struct Work {
    pub(super) body: Body,
    pub(super) session: SessionId,
    pub(super) seq: BatchSeq,
    /// Stamps to be set aside.
    pub(super) stamps: u32,
    pub(super) bytes: Bytes,
    pub(super) durable: Durable,
    pub(super) applied: Applied,
    /// Somebody waits for it to be applied.
    pub(super) urgent: bool,
}

impl Work {
    pub(super) fn batch(
        proposal: Proposal,
        durable: Durable,
        applied: Applied,
        urgent: bool,
    ) -> Work {
        let Proposal { session, seq, ops: stamps, batch: bytes } = proposal;
        Work { body: Body::Batch, session, seq, stamps, bytes, durable, applied, urgent }
    }

    /// What it counts towards the bound.
    pub(super) fn weight(&self) -> usize {
        self.bytes.len() + ENTRY_BYTES
    }

    pub(super) fn refuse(self, why: &FsError) {
        (self.durable)(Err(why.clone()));
        (self.applied)(Err(why.clone()));
    }
}

/// How somebody who asked for a thing is told what came of it. Dropped unsaid where the replica ends first.
pub(super) type Answer<T> = Box<dyn FnOnce(Result<T, FsError>) + Send>;

/// What the core is asked to do.
pub(super) enum Ask {
    /// Nothing that was sent to the member arrives.
    Unreachable(NodeId),
    HandOver {
        to: NodeId,
        answer: Answer<()>,
    },
    Change {
        /// Only where these are the members.
        from: Option<Members>,
        voters: Vec<NodeId>,
        learners: Vec<NodeId>,
        answer: Answer<LogIndex>,
    },
}

/// What is not for the log, but for the core.
#[derive(Default)]
pub(super) struct Input {
    /// Time has passed. However much: what was missed is not made up for.
    pub(super) tick: bool,
    /// Somebody has to know whether this member still leads.
    pub(super) round: bool,
    pub(super) messages: Vec<Message>,
    pub(super) asks: Vec<Ask>,
    message_bytes: usize,
}

impl Input {
    pub(super) fn is_empty(&self) -> bool {
        !self.tick && !self.round && self.messages.is_empty() && self.asks.is_empty()
    }

    pub(super) fn add(&mut self, messages: Vec<Message>) {
        for message in messages {
            let entries = message.entries.iter();
            let bytes: usize = entries.map(|e| e.header.len() + e.body.len() + ENTRY_BYTES).sum();
            let full = self.messages.len() >= MESSAGES_MAX
                || (bytes > 0 && self.message_bytes + bytes > MESSAGE_BYTES_MAX);
            if !full || self.messages.is_empty() {
                self.message_bytes += bytes;
                self.messages.push(message);
            }
        }
    }
}

/// What the holder of the right takes for a pass.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) work: Vec<Work>,
    pub(super) input: Input,
}

impl Taken {
    /// Bytes that go into the log for it, or may.
    pub(super) fn weight(&self) -> usize {
        self.work.iter().map(Work::weight).sum::<usize>() + self.input.message_bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.work.is_empty() && self.input.is_empty()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Right {
    Free,
    Held,
    /// To the background thread, which has been told.
    HandedOn,
}

struct State {
    waiting: VecDeque<Work>,
    input: Input,
    right: Right,
    /// Weight of everything proposed and not yet applied.
    outstanding: usize,
    /// Proposers that wait for room.
    queueing: usize,
    /// Why nothing is taken any more.
    closed: Option<FsError>,
}

pub(super) struct Inbox {
    state: Mutex<State>,
    room: Condvar,
    /// The right was handed on, or given up after closing.
    handed: Condvar,
}

/// What a proposer is to do next.
pub(super) enum Next {
    /// Drive: the right is its.
    Drive,
    /// Nothing: whoever drives finds the work.
    Leave,
    /// Tell the proposer's callbacks.
    Refused(Work, FsError),
}

impl Inbox {
    pub(super) fn new() -> Inbox {
        let state = State {
            waiting: VecDeque::new(),
            input: Input::default(),
            right: Right::Free,
            outstanding: 0,
            queueing: 0,
            closed: None,
        };
        Inbox { state: Mutex::new(state), room: Condvar::new(), handed: Condvar::new() }
    }

    /// Waits for room, then puts work in.
    pub(super) fn put(&self, work: Work) -> Next {
        let mut state = self.state.lock();
        while state.closed.is_none() && state.outstanding >= OUTSTANDING_BYTES_MAX {
            state.queueing += 1;
            self.room.wait(&mut state);
            state.queueing -= 1;
        }
        if let Some(why) = state.closed.clone() {
            return Next::Refused(work, why);
        }
        state.outstanding += work.weight();
        state.waiting.push_back(work);
        if state.right != Right::Free {
            return Next::Leave;
        }
        state.right = Right::Held;
        Next::Drive
    }

    /// Puts work in, and has nobody drive for it: that is to be claimed. Gives it back where it would have to wait for room.
    pub(super) fn put_by(&self, work: Work) -> Result<(), Work> {
        let mut state = self.state.lock();
        if state.closed.is_some() || state.outstanding >= OUTSTANDING_BYTES_MAX {
            return Err(work);
        }
        state.outstanding += work.weight();
        state.waiting.push_back(work);
        Ok(())
    }

    /// Whether there is work for which nobody drives: the right is the caller's then.
    #[must_use]
    pub(super) fn claim(&self) -> bool {
        let mut state = self.state.lock();
        let free = state.right == Right::Free && !state.waiting.is_empty();
        if free {
            state.right = Right::Held;
        }
        free
    }

    /// Puts in what is for the core. True where the right is the caller's with it: it is to drive.
    #[must_use]
    pub(super) fn put_input(&self, put: impl FnOnce(&mut Input)) -> bool {
        let mut state = self.state.lock();
        if state.closed.is_some() {
            return false;
        }
        put(&mut state.input);
        let free = state.right == Right::Free && !state.input.is_empty();
        if free {
            state.right = Right::Held;
        }
        free
    }

    /// What waits, as much as goes into a group; or nothing, and with it the right is given up. For the holder of the right.
    pub(super) fn take(&self) -> Taken {
        let mut state = self.state.lock();
        let mut taken = Taken { work: Vec::new(), input: std::mem::take(&mut state.input) };
        let mut weight = 0;
        while let Some(work) = state.waiting.front() {
            weight += work.weight();
            if weight > GROUP_BYTES_MAX && !taken.work.is_empty() {
                break;
            }
            taken.work.extend(state.waiting.pop_front());
        }
        if taken.is_empty() {
            self.give_up(&mut state);
        }
        taken
    }

    fn give_up(&self, state: &mut State) {
        state.right = Right::Free;
        if state.closed.is_some() {
            self.handed.notify_all();
        }
    }

    /// The holder has driven long enough: somebody else goes on if there is anything to do.
    pub(super) fn hand_on(&self) {
        let mut state = self.state.lock();
        if state.waiting.is_empty() && state.input.is_empty() {
            self.give_up(&mut state);
            return;
        }
        state.right = Right::HandedOn;
        self.handed.notify_all();
    }

    /// The holder broke down: what waits is given back, and the right with it.
    pub(super) fn abandon(&self) -> Vec<Work> {
        let mut state = self.state.lock();
        let left = std::mem::take(&mut state.waiting);
        state.input = Input::default();
        self.give_up(&mut state);
        left.into()
    }

    /// Waits until the right is handed on, and takes it. False when the inbox is closed. For the background thread.
    pub(super) fn wait_for_right(&self) -> bool {
        let mut state = self.state.lock();
        loop {
            if state.right == Right::HandedOn {
                state.right = Right::Held;
                return true;
            }
            // As long as somebody drives, it may be handed on.
            if state.closed.is_some() && state.right == Right::Free {
                return false;
            }
            self.handed.wait(&mut state);
        }
    }

    /// Waits until nobody drives any more. For a closed inbox.
    pub(super) fn wait_until_free(&self) {
        let mut state = self.state.lock();
        while state.right != Right::Free {
            self.handed.wait(&mut state);
        }
    }

    /// This much was applied or refused.
    pub(super) fn done(&self, weight: usize) {
        let mut state = self.state.lock();
        state.outstanding -= weight;
        if state.queueing > 0 && state.outstanding < OUTSTANDING_BYTES_MAX {
            self.room.notify_all();
        }
    }

    /// Takes nothing more. What is in already is driven to its end by whoever drives.
    pub(super) fn close(&self, why: FsError) {
        let mut state = self.state.lock();
        state.closed.get_or_insert(why);
        self.room.notify_all();
        self.handed.notify_all();
    }
}
