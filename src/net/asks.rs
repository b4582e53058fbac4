//! What was asked on a connection and is not answered yet. Each is told its end exactly once: the last answer, that it
//! is late, or that the connection closed.
//!
//! Not here: sending, time itself.

use super::error::NetError;
use crate::wire::packet::Form;
use crate::wire::packet::Packet;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;

/// One answer. After `Form::More` another follows; any other form is the last.
pub type Answer = Result<Packet, NetError>;
/// Called with each answer, on the thread that reads the connection, or with an error on any. It must not wait, and not
/// `call` on this connection.
pub type OnAnswer = Box<dyn FnMut(Answer) + Send>;

pub(super) struct Asks {
    state: Mutex<State>,
    /// One ended.
    ended: Condvar,
    /// How many may be open.
    limit: usize,
}

#[derive(Default)]
struct State {
    open: HashMap<u64, Open>,
    last_id: u64,
    /// None of them ends before this.
    earliest: Duration,
    closed: Option<NetError>,
}

struct Open {
    /// None while it is being called with an answer that others follow.
    on_answer: Option<OnAnswer>,
    /// When it is late, on the steady clock; put off by `patience` with each answer.
    late_at: Duration,
    patience: Duration,
    /// What ended it while `on_answer` was being called.
    failed: Option<NetError>,
}

/// What to do where as much is open as may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    Refuse,
    WaitFor(Duration),
}

impl Asks {
    pub(super) fn new(limit: usize) -> Asks {
        Asks { state: Mutex::default(), ended: Condvar::new(), limit }
    }

    /// Begins an ask: its id.
    ///
    /// # Errors
    /// `Full`, or why the connection closed. `on_answer` is not called.
    pub(super) fn begin(
        &self,
        on_answer: OnAnswer,
        turn: Turn,
        now: Duration,
        patience: Duration,
    ) -> Result<u64, NetError> {
        let mut state = self.state.lock();
        let full = |state: &mut State| state.closed.is_none() && state.open.len() >= self.limit;
        let refused = match turn {
            Turn::Refuse => full(&mut state),
            Turn::WaitFor(time) => self.ended.wait_while_for(&mut state, full, time).timed_out(),
        };
        if refused {
            return Err(NetError::Full);
        }
        if let Some(closed) = &state.closed {
            return Err(closed.clone());
        }
        state.last_id += 1;
        let (id, late_at) = (state.last_id, now.saturating_add(patience));
        state.earliest = match state.open.is_empty() {
            true => late_at,
            false => state.earliest.min(late_at),
        };
        let open = Open { on_answer: Some(on_answer), late_at, patience, failed: None };
        state.open.insert(id, open);
        Ok(id)
    }

    /// It was not sent after all: `on_answer` is never called. Whether it had not been called already.
    pub(super) fn take_back(&self, id: u64) -> bool {
        let taken = self.state.lock().open.remove(&id).is_some();
        self.ended.notify_one();
        taken
    }

    /// Hands on an answer. Called by the thread that reads, so never twice at a time.
    pub(super) fn answered(&self, packet: Packet, now: Duration) {
        let (id, last) = (packet.id, packet.form != Form::More);
        let mut state = self.state.lock();
        // One that is not there was late.
        let taken = match state.open.get_mut(&id) {
            Some(open) => open.on_answer.take(),
            None => None,
        };
        if last {
            state.open.remove(&id);
        }
        drop(state);
        let Some(mut on_answer) = taken else { return };
        on_answer(match packet.form {
            Form::Failure => {
                Err(NetError::Failed(String::from_utf8_lossy(&packet.meta).into_owned()))
            }
            _ => Ok(packet),
        });
        if last {
            self.ended.notify_one();
        } else {
            self.put_back(id, on_answer, now);
        }
    }

    fn put_back(&self, id: u64, mut on_answer: OnAnswer, now: Duration) {
        let mut state = self.state.lock();
        let Some(open) = state.open.get_mut(&id) else { return };
        let Some(failed) = open.failed.take() else {
            open.late_at = now.saturating_add(open.patience);
            open.on_answer = Some(on_answer);
            return;
        };
        state.open.remove(&id);
        drop(state);
        self.ended.notify_one();
        on_answer(Err(failed));
    }

    /// Ends what is late by now.
    pub(super) fn tick(&self, now: Duration) {
        let mut state = self.state.lock();
        if state.open.is_empty() || now < state.earliest {
            return;
        }
        let late: Vec<u64> =
            state.open.iter().filter(|(_, open)| open.late_at <= now).map(|(id, _)| *id).collect();
        let callbacks = state.end(&late, &NetError::Late);
        state.earliest = state.open.values().map(|open| open.late_at).min().unwrap_or_default();
        drop(state);
        self.tell(callbacks, &NetError::Late);
    }

    /// There will be no more.
    pub(super) fn refuse(&self, why: &NetError) {
        self.state.lock().closed = Some(why.clone());
        self.ended.notify_all();
    }

    /// Ends all of them. There will be no more.
    pub(super) fn close(&self, why: &NetError) {
        let mut state = self.state.lock();
        state.closed = Some(why.clone());
        let mut all: Vec<u64> = state.open.keys().copied().collect();
        // In the order in which they were asked.
        all.sort_unstable();
        let callbacks = state.end(&all, why);
        drop(state);
        self.tell(callbacks, why);
    }

    fn tell(&self, callbacks: Vec<OnAnswer>, why: &NetError) {
        self.ended.notify_all();
        for mut on_answer in callbacks {
            on_answer(Err(why.clone()));
        }
    }

    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.state.lock().open.len()
    }
}

impl State {
    fn end(&mut self, ids: &[u64], why: &NetError) -> Vec<OnAnswer> {
        let mut callbacks = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(open) = self.open.get_mut(id) else { continue };
            match open.on_answer.take() {
                Some(on_answer) => {
                    callbacks.push(on_answer);
                    self.open.remove(id);
                }
                // It is being called, and is told when that returns.
                None => open.failed = Some(why.clone()),
            }
        }
        callbacks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::sync::Arc;

    const SECOND: Duration = Duration::from_secs(1);

    /// Collects what it is told; `on` what it does meanwhile.
    fn listener(
        heard: &Arc<Mutex<Vec<Answer>>>,
        mut on: impl FnMut() + Send + 'static,
    ) -> OnAnswer {
        let heard = Arc::clone(heard);
        Box::new(move |answer| {
            heard.lock().push(answer);
            on();
        })
    }

    fn packet(form: Form, id: u64) -> Packet {
        Packet { form, kind: 0, id, meta: Bytes::new(), tail: Bytes::new() }
    }

    #[test]
    fn each_is_told_its_end_once() {
        let (asks, heard) = (Asks::new(10), Arc::default());
        let begin = |patience| {
            let on_answer = listener(&heard, || ());
            asks.begin(on_answer, Turn::Refuse, SECOND, patience).unwrap()
        };
        let (answered, late, left) = (begin(SECOND), begin(SECOND), begin(9 * SECOND));
        asks.answered(packet(Form::Answer, answered), SECOND);
        asks.answered(packet(Form::Answer, answered), SECOND);
        asks.tick(2 * SECOND);
        asks.answered(packet(Form::Answer, late), 2 * SECOND);
        let closed = NetError::Closed("gone".to_owned());
        asks.close(&closed);
        asks.answered(packet(Form::Answer, left), 2 * SECOND);
        let expected =
            vec![Ok(packet(Form::Answer, answered)), Err(NetError::Late), Err(closed.clone())];
        assert_eq!(*heard.lock(), expected);
        let late = asks.begin(listener(&heard, || ()), Turn::Refuse, SECOND, SECOND);
        assert_eq!(late, Err(closed));
    }

    #[test]
    fn each_answer_puts_off_when_it_is_late() {
        let (asks, heard) = (Asks::new(10), Arc::default());
        let id = asks.begin(listener(&heard, || ()), Turn::Refuse, SECOND, SECOND).unwrap();
        asks.answered(packet(Form::More, id), 2 * SECOND);
        asks.tick(2 * SECOND);
        assert_eq!(heard.lock().len(), 1, "it is not late any more");
        asks.tick(3 * SECOND);
        assert_eq!(heard.lock().last(), Some(&Err(NetError::Late)));
    }

    #[test]
    fn one_that_ends_while_it_is_called_is_told_after_that() {
        let (asks, heard) = (Arc::new(Asks::new(10)), Arc::default());
        let within = Arc::clone(&asks);
        let on_answer = listener(&heard, move || within.close(&NetError::Late));
        let id = asks.begin(on_answer, Turn::Refuse, SECOND, SECOND).unwrap();
        asks.answered(packet(Form::More, id), SECOND);
        assert_eq!(*heard.lock(), vec![Ok(packet(Form::More, id)), Err(NetError::Late)]);
        assert_eq!(asks.open(), 0);
    }

    #[test]
    fn more_than_may_be_open_wait_or_are_refused() {
        let (asks, heard) = (Asks::new(1), Arc::default());
        let begin = |turn| asks.begin(listener(&heard, || ()), turn, SECOND, SECOND);
        let first = begin(Turn::Refuse).unwrap();
        assert_eq!(begin(Turn::Refuse), Err(NetError::Full));
        assert_eq!(begin(Turn::WaitFor(Duration::from_millis(1))), Err(NetError::Full));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| begin(Turn::WaitFor(60 * SECOND)));
            asks.answered(packet(Form::Answer, first), SECOND);
            assert_eq!(waits.join().unwrap(), Ok(first + 1));
        });
    }
}
