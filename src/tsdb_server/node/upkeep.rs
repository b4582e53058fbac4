//! What a node does for itself in the background: it keeps its reserve, and gives back the space of what nobody needs.
//!
//! Not here: retention (`tsdb_server::retention`), repair and scrubbing (`tsdb_server::data`).

use crate::tsdb_server::node::Node;
use crate::tsdb_server::task::Task;
use crate::tsdb_server::task::Worked;
use crate::types::FsError;
use crate::wire::Server;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::Weak;
use std::time::Duration;

/// How often the reserve is looked at.
const TEND_EVERY: Duration = Duration::from_secs(1);
/// How often the data role looks for segments that are mostly dead.
const RECLAIM_EVERY: Duration = Duration::from_secs(10);
/// How often it looks for blocks of sessions that have ended.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Keeps the reserve what it should be.
pub(super) struct Tend {
    pub(super) node: Weak<Node>,
    /// No writer got space when this was last looked at.
    pub(super) full: bool,
}

impl Task for Tend {
    fn name(&self) -> &'static str {
        "reserve"
    }

    fn work(&mut self) -> Result<Worked, FsError> {
        let node = self.node.upgrade().ok_or(FsError::Closing)?;
        node.reserve.tend(node.clock.steady())?;
        let full = node.space_left() == 0;
        if full && let Some(next) = node.passes_on() {
            node.pass_on(next);
        }
        match (self.full, full) {
            (false, true) => tracing::warn!(
                "the disk is full: programs are told so; delete files, run 'tsfs purge' or make room"
            ),
            (true, false) => tracing::info!("there is room on the disk again"),
            _ => {}
        }
        self.full = full;
        Ok(Worked::Idle(TEND_EVERY))
    }
}

/// Rewrites segments that are mostly dead, one at a time; then the table's files of payload, likewise. Between times it drops
/// what came for sessions that had ended: a put that was under way when its client was given up.
pub(super) struct Reclaimer {
    node: Weak<Node>,
    /// When it last looked for such.
    swept: Duration,
}

impl Reclaimer {
    pub(super) fn new(node: &Arc<Node>) -> Reclaimer {
        // Opening the store has swept.
        Reclaimer { node: Arc::downgrade(node), swept: node.clock.steady() }
    }

    fn sweep(&mut self, node: &Node) -> Result<(), FsError> {
        let now = node.clock.steady();
        if now.saturating_sub(self.swept) < SWEEP_EVERY {
            return Ok(());
        }
        self.swept = now;
        // Where changes wait for room this would wait for them, and it gives none back that they could have.
        match node.blocks.pending_sessions().is_empty() || node.room.trouble().is_some() {
            true => Ok(()),
            false => node.replica.sweep(),
        }
    }
}

impl Task for Reclaimer {
    fn name(&self) -> &'static str {
        "reclaim"
    }

    fn work(&mut self) -> Result<Worked, FsError> {
        let node = self.node.upgrade().ok_or(FsError::Closing)?;
        let Some(plan) = node.blocks.plan_reclaim() else {
            // Segments with nothing live in them go without being rewritten.
            if node.blocks.upkeep_due() {
                node.replica.upkeep()?;
                node.replica.flush()?;
            }
            if node.table.reclaim()? {
                return Ok(Worked::More);
            }
            self.sweep(&node)?;
            return Ok(Worked::Idle(RECLAIM_EVERY));
        };
        tracing::debug!(segment = %plan.segment, live = plan.live_bytes, "rewriting a segment");
        node.blocks.reclaim(&plan, &mut |_| ControlFlow::Continue(()))?;
        node.replica.upkeep()?;
        node.replica.flush()?;
        Ok(Worked::More)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Clock;
    use crate::meta::op::Op;
    use crate::store::disk::RealDisk;
    use crate::tsdb_server::node::Fresh;
    use crate::tsdb_server::open::Options;
    use crate::types::BlockId;
    use crate::types::SessionId;
    use crate::types::Stamp;
    use crate::types::frame::Frame;
    use parking_lot::Mutex;

    #[derive(Default)]
    struct Clockwork(Mutex<Duration>);

    impl Clock for Clockwork {
        fn wall(&self) -> Stamp {
            Stamp(1 << 60)
        }

        fn steady(&self) -> Duration {
            *self.0.lock()
        }
    }

    #[test]
    fn what_comes_for_a_session_that_has_ended_goes_again() {
        let scratch = tempfile::tempdir().unwrap();
        let clock = Arc::new(Clockwork::default());
        let mut options = Options { create: true, reserve_bytes: 1 << 20, ..Options::default() };
        options.log.segment_bytes = 4 << 20;
        options.blocks.allocate_bytes = 1 << 20;
        let (dir, disk) = (scratch.path().join("store"), RealDisk::shared());
        let node = Node::open(&dir, disk, clock.clone(), &options, &Fresh::default()).unwrap();
        for session in [1, 2].map(SessionId) {
            node.administer(Op::OpenSession { session, client: "test".to_owned() }).unwrap();
        }
        node.administer(Op::EndSession { session: SessionId(1) }).unwrap();
        // The third has not begun as far as this node knows.
        for session in 1..=3 {
            let block = BlockId { session: SessionId(session), number: 1 };
            node.put_block(block, Frame::pack(&vec![7; 5000].into(), 1)).unwrap();
        }
        let mut reclaimer = Reclaimer::new(&node);
        let pending = || node.blocks.pending_sessions();
        reclaimer.work().unwrap();
        assert_eq!(pending(), [1, 2, 3].map(SessionId).into(), "it is not looked for all the time");
        *clock.0.lock() += SWEEP_EVERY;
        reclaimer.work().unwrap();
        assert_eq!(pending(), [2, 3].map(SessionId).into());
        node.close().unwrap();
    }
}
