//! The mounts, for whoever looks at them or ends one: sessions, how long their leases last, who owns what no other session owns.
//!
//! Not here: what a session may do, and when its lease is over (`lock_node`).

use crate::env::Clock;
use crate::meta::key::StateKey;
use crate::meta::lock::FileLock;
use crate::meta::op::Op;
use crate::meta::record::Grant;
use crate::meta::record::Locks;
use crate::meta::record::Record;
use crate::meta::record::Session;
use crate::tsdb_server::cluster::rows;
use crate::tsdb_server::cluster::seams::Clients;
use crate::tsdb_server::cluster::work::Pause;
use crate::tsdb_server::lock_node::LockNode;
use crate::tsdb_server::lock_node::Standing;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::SessionId;
use crate::wire::Server;
use crate::wire::cluster::Client;
use crate::wire::cluster::Lock;
use std::sync::Arc;
use std::time::Duration;

/// How long a session may outlive its lease: what it leaves goes in parts.
const END_WITHIN: Duration = Duration::from_secs(30);
/// How often somebody looks whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What rows say, and the node that leads keeps in memory.
pub struct ByLeases {
    pub rows: ByRows,
    pub locks: Arc<LockNode>,
    pub clock: Arc<dyn Clock>,
    pub pause: Arc<Pause>,
}

impl Clients for ByLeases {
    fn clients(&self) -> Result<Vec<Client>, FsError> {
        let client = |standing: Standing| Client {
            session: standing.session.0,
            name: standing.client,
            opened: standing.opened,
            lease_ms: standing.lease_left.map(|left| left.as_millis() as u64),
            whole: standing.has_whole,
        };
        match self.locks.clients() {
            // How long a lease lasts, only the node that leads knows.
            Err(FsError::NotLeader { .. }) => self.rows.clients(),
            standing => Ok(standing?.into_iter().map(client).collect()),
        }
    }

    fn locks(&self, limit: usize) -> Result<(Vec<Lock>, bool), FsError> {
        self.rows.locks(limit)
    }

    /// The session is not renewed any more, and goes when nothing rests on its lease: until then it may answer its programs from
    /// what it owns, so nobody else may be given that.
    fn evict(&self, session: SessionId) -> Result<(), FsError> {
        self.rows.known(session)?;
        let left = self.locks.clients()?.into_iter().find(|client| client.session == session);
        let left = left.and_then(|client| client.lease_left).unwrap_or_default();
        let until = self.clock.steady() + left + END_WITHIN;
        while self.rows.is_open(session)? {
            match self.locks.evict(session) {
                // It is ending already.
                Ok(()) | Err(FsError::Fenced) => {}
                Err(error) => return Err(error),
            }
            if self.clock.steady() >= until {
                let why = format!("client {} is to end, and has not yet; look again", session.0);
                return Err(FsError::Refused(why));
            }
            self.pause.rest(LOOK_EVERY)?;
        }
        Ok(())
    }
}

/// As "bytes 0 to 99 of inode 7, of process 12".
fn described(ino: Ino, lock: &FileLock) -> String {
    let FileLock { first, last, pid, .. } = *lock;
    match (first, last) {
        _ if lock.is_flock() => format!("inode {ino} (flock), by process {pid}"),
        (0, FileLock::LAST) => format!("all of inode {ino}, by process {pid}"),
        (_, FileLock::LAST) => format!("inode {ino} from byte {first} on, by process {pid}"),
        _ => format!("bytes {first} to {last} of inode {ino}, by process {pid}"),
    }
}

/// Everything about clients that rows say.
pub struct ByRows(pub Arc<dyn Server>);

impl ByRows {
    fn sessions(&self) -> Result<Vec<(SessionId, Session)>, FsError> {
        let rows = rows::all(&*self.0, StateKey::sessions())?;
        let session = |(key, row): &(bytes::Bytes, bytes::Bytes)| match StateKey::decode(key) {
            Some(StateKey::Session { session }) => Ok((session, Session::from_row(key, row)?)),
            _ => Err(FsError::Damaged(format!("row {} of sessions", key.escape_ascii()))),
        };
        rows.iter().map(session).collect()
    }

    fn is_open(&self, session: SessionId) -> Result<bool, FsError> {
        let row: Option<Session> = rows::one(&*self.0, &StateKey::Session { session })?;
        Ok(row.is_some())
    }

    /// # Errors
    /// `Refused` where there is no such session.
    fn known(&self, session: SessionId) -> Result<(), FsError> {
        if self.is_open(session)? {
            return Ok(());
        }
        let why = format!("there is no client {}; 'tsfs clients' lists them", session.0);
        Err(FsError::Refused(why))
    }

    fn whole(&self) -> Result<Option<SessionId>, FsError> {
        let grant: Option<Grant> = rows::one(&*self.0, &StateKey::Grant)?;
        Ok(grant.map(|grant| grant.session))
    }
}

impl Clients for ByRows {
    fn clients(&self) -> Result<Vec<Client>, FsError> {
        let whole = self.whole()?;
        let client = |(session, row): (SessionId, Session)| Client {
            session: session.0,
            name: row.client,
            opened: row.opened,
            lease_ms: None,
            whole: whole == Some(session),
        };
        Ok(self.sessions()?.into_iter().map(client).collect())
    }

    fn locks(&self, limit: usize) -> Result<(Vec<Lock>, bool), FsError> {
        let whole = self.whole()?;
        let sessions = self.sessions()?;
        let owner = sessions.iter().find(|(session, _)| Some(*session) == whole);
        let all = owner.map(|(session, row)| Lock {
            session: session.0,
            client: row.client.clone(),
            what: "everything that no other client owns".to_owned(),
            how: "exclusive".to_owned(),
            token: None,
        });
        let mut locks: Vec<Lock> = all.into_iter().collect();
        for (key, row) in &rows::all(&*self.0, StateKey::locks())? {
            let Some(StateKey::Locks { ino, session }) = StateKey::decode(key) else { continue };
            let client = sessions.iter().find(|(known, _)| *known == session);
            let client = client.map(|(_, row)| row.client.clone()).unwrap_or_default();
            let Locks(held) = Locks::from_row(key, row)?;
            locks.extend(held.iter().map(|(held, token)| Lock {
                session: session.0,
                client: client.clone(),
                what: described(ino, held),
                how: if held.exclusive { "exclusive" } else { "shared" }.to_owned(),
                token: Some(*token),
            }));
            if locks.len() > limit {
                break;
            }
        }
        let more = locks.len() > limit;
        locks.truncate(limit);
        Ok((locks, more))
    }

    fn evict(&self, session: SessionId) -> Result<(), FsError> {
        self.known(session)?;
        // Each op takes a part of its orphans.
        while self.is_open(session)? {
            self.0.administer(Op::EndSession { session })?;
        }
        Ok(())
    }
}
