//! The mounts, as the table knows them: sessions, and who owns what no other session owns.
//!
//! Not here: how long their leases last, which the node that leads keeps in memory.

use crate::meta::key::StateKey;
use crate::meta::op::Op;
use crate::meta::record::Grant;
use crate::meta::record::Record;
use crate::meta::record::Session;
use crate::tsdb_server::cluster::rows;
use crate::tsdb_server::cluster::seams::Clients;
use crate::types::FsError;
use crate::types::SessionId;
use crate::wire::Server;
use crate::wire::cluster::Client;
use crate::wire::cluster::Lock;
use std::sync::Arc;

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
        let owner = self.sessions()?.into_iter().find(|(session, _)| Some(*session) == whole);
        let lock = |(session, row): (SessionId, Session)| Lock {
            session: session.0,
            client: row.client,
            what: "everything that no other client owns".to_owned(),
            how: "exclusive".to_owned(),
        };
        let locks: Vec<Lock> = owner.map(lock).into_iter().take(limit).collect();
        let more = whole.is_some() && locks.is_empty();
        Ok((locks, more))
    }

    fn evict(&self, session: SessionId) -> Result<(), FsError> {
        let open = || -> Result<bool, FsError> {
            let row: Option<Session> = rows::one(&*self.0, &StateKey::Session { session })?;
            Ok(row.is_some())
        };
        if !open()? {
            let why = format!("there is no client {}; 'tsfs clients' lists them", session.0);
            return Err(FsError::Refused(why));
        }
        // Each op takes a part of its orphans.
        while open()? {
            self.0.administer(Op::EndSession { session })?;
        }
        Ok(())
    }
}
