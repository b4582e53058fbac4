//! A node that has started says so to the one that leads: how often it was started on its disk, and where it is now.

use crate::tsdb_server::cluster::Cluster;
use crate::tsdb_server::task::Task;
use crate::tsdb_server::task::Worked;
use crate::types::FsError;
use crate::wire::cluster::Announced;
use crate::wire::cluster::Ask;
use std::ops::ControlFlow;
use std::sync::Weak;
use std::time::Duration;

/// Once it is known there is nothing to say until the next start.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

pub struct Announcer {
    pub cluster: Weak<Cluster>,
    pub announced: Announced,
}

impl Task for Announcer {
    fn name(&self) -> &'static str {
        "announce"
    }

    fn work(&mut self) -> Result<Worked, FsError> {
        let cluster = self.cluster.upgrade().ok_or(FsError::Closing)?;
        let ask = Ask::Announce(Box::new(self.announced.clone()));
        cluster.answer(&ask, &mut |_| ControlFlow::Continue(()))?;
        Ok(Worked::Idle(FOR_EVER))
    }
}
