//! What the role lock is given: the log, and the way to a mount.

use super::Outgoing;
use crate::lines::LineId;
use bytes::Bytes;
use parking_lot::Mutex;
use std::time::Duration;
use tsfs::meta::op::Op;
use tsfs::tsdb_server::lock_node::Log as OfNode;
use tsfs::types::FsError;
use tsfs::types::Ino;
use tsfs::types::Stamp;
use tsfs::types::Term;
use tsfs::wire::Listener;
use tsfs::wire::Recall;
use tsfs::wire::Whole;
use tsfs::wire::message;
use tsfs::wire::message::Told;
use tsfs::wire::packet::Form;
use tsfs::wire::packet::Packet;

/// The log as the role lock sees it. Nothing can be waited for: what it proposes is taken note of, and it is told to try again.
#[derive(Default)]
pub(super) struct OwnLog {
    pub(super) standing: Mutex<(Option<Term>, bool)>,
    pub(super) proposed: Mutex<Vec<Op>>,
}

impl OfNode for OwnLog {
    fn propose(&self, op: Op) -> Result<Stamp, FsError> {
        self.proposed.lock().push(op);
        Err(FsError::Unreachable("it is proposed".to_owned()))
    }

    fn barrier(&self) -> Result<Stamp, FsError> {
        Err(FsError::Unreachable("nothing waits here".to_owned()))
    }

    fn reign(&self) -> Option<Term> {
        self.standing.lock().0
    }

    fn catch_up(&self, _: Duration) -> Result<(), FsError> {
        match self.standing.lock().1 {
            true => Ok(()),
            false => Err(FsError::NotLeader { leader: None }),
        }
    }

    fn space_left(&self) -> u64 {
        1 << 30
    }

    fn store(&self) -> String {
        "simulated".to_owned()
    }
}

/// The way to a mount.
pub(super) struct Push {
    pub(super) line: LineId,
    pub(super) out: Outgoing,
}

impl Push {
    fn tell(&self, told: &Told) {
        let (form, kind, meta) = (Form::Tell, message::TOLD, message::encode(told));
        let packet = Packet { form, kind, id: 0, meta, tail: Bytes::new() };
        self.out.lock().push((self.line, packet));
    }
}

impl Listener for Push {
    fn recall(&self, what: Recall) {
        self.tell(&Told::Recall(what));
    }

    fn flush(&self, _: Box<dyn FnOnce() + Send>) {}

    fn whole(&self, whole: Whole) {
        self.tell(&Told::Whole(whole));
    }

    fn unlocked(&self, ino: Ino) {
        self.tell(&Told::Unlocked { ino });
    }

    fn ended(&self, why: &str) {
        self.tell(&Told::Ended { why: why.to_owned() });
    }
}
