//! A learner that has the log and every block votes, without anybody asking for it.

use crate::tsdb_server::cluster::Cluster;
use crate::tsdb_server::cluster::plan;
use crate::tsdb_server::task::Task;
use crate::tsdb_server::task::Worked;
use crate::types::FsError;
use std::ops::ControlFlow;
use std::sync::Weak;
use std::time::Duration;

/// How often learners are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub struct Promoter(pub Weak<Cluster>);

impl Task for Promoter {
    fn name(&self) -> &'static str {
        "promote"
    }

    fn work(&mut self) -> Result<Worked, FsError> {
        let cluster = self.0.upgrade().ok_or(FsError::Closing)?;
        let plan = match cluster.facts() {
            Ok(facts) => plan::promote(&facts),
            Err(FsError::NotLeader { .. }) => None,
            Err(error) => return Err(error),
        };
        if let Some(plan) = plan {
            match cluster.carry_out(&plan, &mut |_| ControlFlow::Continue(())) {
                // Another change came first, or another leader: it is looked at again.
                Ok(_) | Err(FsError::Refused(_) | FsError::NotLeader { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Worked::Idle(LOOK_EVERY))
    }
}
