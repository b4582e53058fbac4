//! A node's certificate is made anew before it ends: the node reads the authority's key, so it can do that itself.

use crate::net::Credentials;
use crate::tsdb_server::cluster::Cluster;
use crate::tsdb_server::cluster::init;
use crate::tsdb_server::cluster::join;
use crate::tsdb_server::task::Task;
use crate::tsdb_server::task::Worked;
use crate::types::FsError;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Weak;
use std::time::Duration;

/// How often it is looked at: seldom against a third of any certificate's time.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

pub struct Renewer {
    pub cluster: Weak<Cluster>,
    pub credentials: Arc<Credentials>,
    pub dir: PathBuf,
}

impl Task for Renewer {
    fn name(&self) -> &'static str {
        "renew"
    }

    fn work(&mut self) -> Result<Worked, FsError> {
        let cluster = self.cluster.upgrade().ok_or(FsError::Closing)?;
        if join::is_old(&self.credentials.current(), &*cluster.clock) {
            init::certify(&*cluster.server, cluster.here, &*cluster.clock, &self.dir)?;
            tracing::info!("the node has a new certificate");
        }
        Ok(Worked::Idle(LOOK_EVERY))
    }
}
