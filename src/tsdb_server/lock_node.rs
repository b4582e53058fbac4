//! Rights of sessions (temporary).

use crate::env::Clock;
use crate::meta::key::StateKey;
use crate::meta::op::Op;
use crate::meta::record::Grant;
use crate::meta::record::Next;
use crate::meta::record::Store;
use crate::tsdb_server::node::Node;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::SessionId;
use crate::types::Stamp;
use crate::wire::Listener;
use crate::wire::Server;
use crate::wire::Welcome;
use crate::wire::Whole;
use crate::wire::message::Renewed;
use std::sync::Arc;
use std::time::Duration;

pub struct LockNode {
    node: Arc<Node>,
}

impl LockNode {
    pub fn start(node: &Arc<Node>, _clock: Arc<dyn Clock>) -> Result<Arc<LockNode>, FsError> {
        Ok(Arc::new(LockNode { node: node.clone() }))
    }
    pub fn open_session(&self, client: &str) -> Result<(Welcome, Duration), FsError> {
        let session = self.node.must::<Next>(&StateKey::Next)?.session;
        self.node.administer(Op::OpenSession { session, client: client.to_owned() })?;
        let grant: Option<Grant> = self.node.record(&StateKey::Grant)?;
        let store: Store = self.node.must(&StateKey::Store)?;
        let whole = grant.filter(|g| g.session == session).map(Whole::from);
        let epoch = whole.map_or(0, |g| g.epoch);
        Ok((
            Welcome { session, epoch, whole, hash_key: store.hash_key, store: "x".into() },
            Duration::from_secs(10),
        ))
    }
    pub fn attend(&self, session: SessionId, _l: Arc<dyn Listener>) -> Result<Renewed, FsError> {
        self.renew(session)
    }
    pub fn unattend(&self, _session: SessionId) {}
    pub fn renew(&self, session: SessionId) -> Result<Renewed, FsError> {
        let grant: Option<Grant> = self.node.record(&StateKey::Grant)?;
        let whole = grant.filter(|g| g.session == session).map(Whole::from);
        Ok(Renewed { lease_ms: 10_000, whole, space: self.node.space_left() })
    }
    pub fn touch(&self, _s: SessionId, _i: &[Ino], _d: Duration) -> Result<(), FsError> {
        Ok(())
    }
    pub fn would_wait(&self, _s: SessionId, _i: &[Ino]) -> bool {
        false
    }
    pub fn settle(&self, _s: SessionId) -> Result<Stamp, FsError> {
        self.node.barrier()
    }
    pub fn stop(&self) {}
}
