//! What waits to be sent on a connection, and the right to write it.
//!
//! Whoever puts a packet into an outbox that nobody is writing gets the right, and writes: its own packet and whatever
//! others put there meanwhile, which so becomes one write. It never waits for the socket on behalf of others: when
//! the socket has no room, or others keep it too long, the right goes to the connection's helper, a thread that exists
//! from the first time it is needed.
//!
//! Not here: the socket (`channel`), which thread helps (`connection`).

use super::channel::Channel;
use super::error::NetError;
use bytes::Bytes;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::time::Duration;

/// Bytes taken for one write. What rustls seals at a time: more would only wait in it.
const BATCH_BYTES: usize = 256 << 10;
/// Writes on behalf of others before the right goes to the helper.
const BATCHES_MAX: usize = 8;

/// What to do where too much waits already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Room {
    /// Put it there all the same: few can, and what they can put is bounded by them.
    Never,
    Refuse,
    WaitFor(Duration),
}

/// Who has the right to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Right {
    Free,
    Taken,
    /// The helper is to take it.
    Passed,
}

pub(super) struct Outbox {
    state: Mutex<State>,
    /// There is more room, or the end.
    room: Condvar,
    /// The right was passed on, or the end.
    passed: Condvar,
    /// Bytes that may wait.
    bound: usize,
}

struct State {
    right: Right,
    closed: bool,
    /// TLS has something to say.
    flush: bool,
    /// Goes first: pings and pongs, which are never many.
    urgent: VecDeque<[Bytes; 2]>,
    packets: VecDeque<[Bytes; 2]>,
    /// What was taken out of the above and is not sent yet. Whoever has the right works on it.
    batch: VecDeque<Bytes>,
    /// Bytes of all of them.
    waiting: usize,
    /// Bytes that the channel took so far.
    sent: u64,
}

/// What whoever had the right has to do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wrote {
    /// Nothing: all is sent, and the right is given back.
    All,
    /// The right was passed on: there must be a helper.
    Passed,
}

fn bytes(packet: &[Bytes; 2]) -> usize {
    packet[0].len() + packet[1].len()
}

impl Outbox {
    pub(super) fn new(bound: usize) -> Outbox {
        let state = State {
            right: Right::Free,
            closed: false,
            flush: false,
            urgent: VecDeque::new(),
            packets: VecDeque::new(),
            batch: VecDeque::new(),
            waiting: 0,
            sent: 0,
        };
        Outbox { state: Mutex::new(state), room: Condvar::new(), passed: Condvar::new(), bound }
    }

    /// Puts a packet at the end. Whether the caller now has the right to write, and must. `later`: it will take the right
    /// in a moment, for this and more; until then whoever else writes takes it along.
    ///
    /// # Errors
    /// `Full`; `Closed` where the outbox is.
    pub(super) fn put(
        &self,
        packet: [Bytes; 2],
        room: Room,
        later: bool,
    ) -> Result<bool, NetError> {
        let size = bytes(&packet);
        let mut state = self.state.lock();
        // Where nothing waits, anything fits.
        let full = |state: &mut State| {
            !state.closed && state.waiting > 0 && state.waiting + size > self.bound
        };
        let refused = match room {
            Room::Never => false,
            Room::Refuse => full(&mut state),
            Room::WaitFor(time) => self.room.wait_while_for(&mut state, full, time).timed_out(),
        };
        if refused {
            return Err(NetError::Full);
        }
        state.packets.push_back(packet);
        state.waiting += size;
        if later && !state.closed && state.waiting < BATCH_BYTES {
            return Ok(false);
        }
        self.take_right(state)
    }

    /// The right to write what was put there for later. As `put`.
    pub(super) fn claim(&self) -> Result<bool, NetError> {
        let state = self.state.lock();
        if state.packets.is_empty() {
            return Ok(false);
        }
        self.take_right(state)
    }

    /// Puts a small packet at the front. As `put`.
    pub(super) fn put_urgent(&self, packet: [Bytes; 2]) -> Result<bool, NetError> {
        let mut state = self.state.lock();
        state.waiting += bytes(&packet);
        state.urgent.push_back(packet);
        self.take_right(state)
    }

    /// TLS has something to say. As `put`.
    pub(super) fn put_flush(&self) -> Result<bool, NetError> {
        let mut state = self.state.lock();
        state.flush = true;
        self.take_right(state)
    }

    fn take_right(&self, mut state: parking_lot::MutexGuard<'_, State>) -> Result<bool, NetError> {
        if state.closed {
            state.clear();
            return Err(NetError::Closed("the connection is closed".to_owned()));
        }
        let free = state.right == Right::Free;
        if free {
            state.right = Right::Taken;
        }
        Ok(free)
    }

    /// Writes what waits. The caller has the right, and gives it back here.
    ///
    /// # Errors
    /// The connection broke. The right is kept: nobody writes any more.
    pub(super) fn write(&self, channel: &Channel) -> io::Result<Wrote> {
        for _ in 0..BATCHES_MAX {
            match self.write_batch(channel)? {
                None => return Ok(Wrote::All),
                Some(false) => {}
                Some(true) => break,
            }
        }
        self.pass();
        Ok(Wrote::Passed)
    }

    /// Writes a piece of what waits. `None`: there is none, and the right was given back. Else whether the socket has
    /// no room.
    fn write_batch(&self, channel: &Channel) -> io::Result<Option<bool>> {
        let mut state = self.state.lock();
        if state.batch.is_empty() {
            state.next_batch();
        }
        if state.closed || (state.batch.is_empty() && !state.flush) {
            state.right = Right::Free;
            return Ok(None);
        }
        state.flush = false;
        let mut batch = std::mem::take(&mut state.batch);
        drop(state);

        let sent = channel.send(&mut batch)?;

        let mut state = self.state.lock();
        state.batch = batch;
        // What TLS holds back is written by the next who has the right; it must come, even with nothing of its own.
        state.flush |= sent.blocked;
        state.waiting = state.waiting.saturating_sub(sent.bytes);
        state.sent += sent.bytes as u64;
        if state.closed {
            state.clear();
        }
        let room = state.waiting < self.bound;
        drop(state);
        if room {
            self.room.notify_all();
        }
        Ok(Some(sent.blocked))
    }

    fn pass(&self) {
        self.state.lock().right = Right::Passed;
        self.passed.notify_one();
    }

    /// The life of the helper: takes the right whenever it is passed, and waits for the socket. Ends when the outbox is
    /// closed.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) fn help(&self, channel: &Channel) -> io::Result<()> {
        loop {
            let mut state = self.state.lock();
            while state.right != Right::Passed && !state.closed {
                self.passed.wait(&mut state);
            }
            if state.closed {
                return Ok(());
            }
            state.right = Right::Taken;
            drop(state);
            while let Some(blocked) = self.write_batch(channel)? {
                while blocked && !channel.writable(Duration::from_secs(1))? {
                    if self.state.lock().closed {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Whether more than the bound waits to be sent.
    pub(super) fn is_full(&self) -> bool {
        self.state.lock().waiting > self.bound
    }

    /// Waits until no more than the bound waits to be sent, or the outbox is closed.
    pub(super) fn wait_for_room(&self) {
        let mut state = self.state.lock();
        while state.waiting > self.bound && !state.closed {
            self.room.wait(&mut state);
        }
    }

    /// Nothing is taken or written any more. Whoever waits here returns.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.clear();
        drop(state);
        self.room.notify_all();
        self.passed.notify_all();
    }

    /// Bytes that the channel took so far.
    pub(super) fn sent(&self) -> u64 {
        self.state.lock().sent
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.state.lock().waiting
    }
}

impl State {
    fn clear(&mut self) {
        self.urgent.clear();
        self.packets.clear();
        self.batch.clear();
        self.waiting = 0;
    }

    fn next_batch(&mut self) {
        let mut taken = 0;
        while taken < BATCH_BYTES
            && let Some(packet) = self.urgent.pop_front().or_else(|| self.packets.pop_front())
        {
            taken += bytes(&packet);
            self.batch.extend(packet.into_iter().filter(|part| !part.is_empty()));
        }
    }
}
