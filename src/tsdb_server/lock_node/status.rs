//! What a status shows of sessions and of who owns what.

use crate::meta::key::StateKey;
use crate::meta::record::Session;
use crate::tsdb_server::lock_node::LockNode;
use crate::types::BatchSeq;
use crate::types::FsError;
use crate::types::SessionId;
use crate::types::Stamp;
use crate::wire::Whole;
use std::time::Duration;

/// Inodes that were given back are counted up to here.
const SHARED_SHOWN_MAX: usize = 100_000;

/// A session as a status shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    pub session: SessionId,
    pub client: String,
    pub opened: Stamp,
    /// The number of its last applied batch.
    pub last: BatchSeq,
    /// Somebody is there to be told something.
    pub attended: bool,
    /// None where it lives in this process.
    pub lease_left: Option<Duration>,
    pub has_whole: bool,
    /// What it was asked to give back and has not.
    pub recalls: usize,
    pub ending: bool,
}

/// Who owns what, in figures.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grants {
    pub whole: Option<(SessionId, Whole)>,
    /// Inodes that their owners gave back since. At most `SHARED_SHOWN_MAX`.
    pub shared: usize,
}

impl LockNode {
    /// The sessions, in the order in which they were opened.
    ///
    /// # Errors
    /// `NotLeader`, `Damaged`, `Io`.
    pub fn clients(&self) -> Result<Vec<Standing>, FsError> {
        self.in_office(|office, rights, now| {
            let mut clients = Vec::new();
            for standing in office.leases.standing(now) {
                let session = standing.session;
                let row = self.record::<Session>(&StateKey::Session { session })?;
                let Some(Session { client, opened, last, .. }) = row else { continue };
                clients.push(Standing {
                    session,
                    client,
                    opened,
                    last,
                    attended: standing.attended,
                    lease_left: standing.left,
                    has_whole: rights.grant.as_ref().is_some_and(|grant| grant.session == session),
                    recalls: standing.recalls,
                    ending: standing.ending,
                });
            }
            Ok(clients)
        })
    }

    /// # Errors
    /// `Damaged`, `Io`.
    pub fn grants(&self) -> Result<Grants, FsError> {
        let rights = self.rights()?;
        let whole = rights.grant.clone().map(|grant| (grant.session, Whole::from(grant)));
        Ok(Grants { whole, shared: rights.shared(&*self.rows, SHARED_SHOWN_MAX)? })
    }
}
