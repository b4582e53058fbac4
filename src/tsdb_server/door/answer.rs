//! What each request is answered. May wait.
//!
//! Not here: on which thread (`serve`).

use crate::meta::key;
use crate::meta::op::Op;
use crate::series::KeyRange;
use crate::tsdb_server::data::stream::Chunk;
use crate::tsdb_server::door::Door;
use crate::tsdb_server::door::push::Push;
use crate::types::AsOf;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::NodeId;
use crate::types::SessionId;
use crate::types::Stamp;
use crate::types::frame::Frame;
use crate::wire::Page;
use crate::wire::Server;
use crate::wire::message::LastKnown;
use crate::wire::message::Request;
use crate::wire::message::Response;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// Rows that one answer has at most, whatever was asked for.
const ROWS_MAX: usize = 4096;
/// Keys that one question may have.
const KEYS_MAX: usize = 4096;
/// How long a question waits for others to give back what it is about: longer than they have time for it, after which they end
/// with their lease (`lease::Options`).
const TOUCH: Duration = Duration::from_secs(45);
/// For a leader to be sure that it leads: an election and a half.
const SURE: Duration = Duration::from_secs(3);

/// The inodes that a question about the present is about.
pub(super) fn inodes(request: &Request) -> Vec<Ino> {
    match request {
        Request::Get { keys, at: AsOf::Now, .. } | Request::Copy { keys, .. } => {
            let mut inos: Vec<Ino> = keys.iter().filter_map(|key| key::inode_of(key)).collect();
            inos.dedup();
            inos
        }
        Request::Scan { range, at: AsOf::Now, .. } | Request::CopyPage { range, .. } => {
            key::inode_of(&range.start).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

impl Door {
    /// `push` is there where a session is to be attended, `attended` where one is, `node` where a node asks.
    pub(super) fn answer(
        &self,
        request: Request,
        tail: Bytes,
        node: Option<NodeId>,
        push: Option<Arc<Push>>,
        attended: Option<SessionId>,
    ) -> (Response, Bytes) {
        match self.try_answer(request, tail, node, push, attended) {
            Ok(answer) => answer,
            Err(error) => (Response::Failed(error), Bytes::new()),
        }
    }

    fn try_answer(
        &self,
        request: Request,
        tail: Bytes,
        node: Option<NodeId>,
        push: Option<Arc<Push>>,
        attended: Option<SessionId>,
    ) -> Result<(Response, Bytes), FsError> {
        let from_node = node.is_some();
        let response = match request {
            Request::View => Response::View(self.node.view()),
            Request::PutBlock { block } => {
                self.node.put_block(block, Frame::from_bytes(&tail)?)?;
                Response::Done
            }
            Request::SyncBlocks => {
                self.node.sync_blocks()?;
                Response::Done
            }
            Request::Block { block } if from_node => {
                return Ok((Response::Frame, self.node.own_block(block)?));
            }
            Request::Block { block } => return Ok((Response::Frame, self.node.block(block)?)),
            Request::Lacks if from_node => Response::First(self.node.standing().lacks),
            Request::Standing if from_node => Response::Standing(self.node.standing()),
            Request::MayLetGo { number, named } if from_node => {
                Response::MayLetGo(self.asked.cluster().is_at_home(number, named)?)
            }
            Request::LendTable if from_node => {
                self.node.lend_table(node.ok_or(FsError::Invalid("nobody asks"))?)?
            }
            Request::TableChunk { lent, file, offset, bytes } if from_node => {
                let chunk = Chunk { file, offset, bytes };
                return Ok((Response::Frame, self.node.table_chunk(lent, chunk)?));
            }
            Request::TableDone { lent } if from_node => {
                self.node.table_done(lent);
                Response::Done
            }
            Request::OpenSession { .. }
            | Request::Attend { .. }
            | Request::Renew { .. }
            | Request::GrantInos { .. }
            | Request::KeepCopies { .. }
            | Request::Waits { .. }
            | Request::Barrier { .. } => self.of_session(request, push)?,
            Request::Copy { .. } | Request::CopyPage { .. } => self.copied(&request)?,
            Request::Administer { by, ops } => self.administer(by, ops, attended)?,
            Request::Status => Response::Status(Box::new(self.node.status()?)),
            Request::Log(_)
            | Request::Propose { .. }
            | Request::Flushed { .. }
            | Request::GivenBack { .. } => {
                return Err(FsError::Invalid("this is told, or proposed, and not asked"));
            }
            reading => self.of_rows(&reading, from_node)?,
        };
        Ok((response, Bytes::new()))
    }

    fn administer(
        &self,
        by: Option<u32>,
        ops: Vec<Op>,
        attended: Option<SessionId>,
    ) -> Result<Response, FsError> {
        let may = |op: &Op| match op {
            Op::EndSession { session } => attended == Some(*session),
            op => op.may_be_asked(),
        };
        if !ops.iter().all(may) {
            return Err(FsError::NotPermitted("only the store itself does that"));
        }
        self.node.lead(SURE)?;
        if ops.iter().any(|op| matches!(op, Op::Mark { .. })) {
            // What other mounts have not sent yet is part of the instant that is named.
            self.locks.settle(attended.unwrap_or(SessionId(0)))?;
            self.node.lead(SURE)?;
        }
        Ok(Response::Stamp(self.node.administer_all(by, ops)?))
    }

    fn of_session(&self, request: Request, push: Option<Arc<Push>>) -> Result<Response, FsError> {
        match request {
            Request::OpenSession { client, opening } => {
                self.node.lead(SURE)?;
                let (welcome, lease) = self.locks.open_session(&client, opening)?;
                let lease_ms = lease.as_millis() as u64;
                Ok(Response::Opened { welcome, lease_ms })
            }
            Request::Attend { session } => {
                self.node.lead(SURE)?;
                let push = push.ok_or(FsError::Invalid("the connection is not open yet"))?;
                Ok(Response::Renewed(self.locks.attend(session, push)?))
            }
            Request::Renew { session } => {
                // What is not applied yet changes nothing about who is heard of.
                if !self.node.surely_leads() {
                    self.node.lead(SURE)?;
                }
                Ok(Response::Renewed(self.locks.renew(session)?))
            }
            Request::KeepCopies { session } => {
                if !self.node.surely_leads() {
                    self.node.lead(SURE)?;
                }
                Ok(Response::Copying(self.locks.keep_copies(session)?))
            }
            Request::Waits { session, after, waits } => {
                Ok(Response::Circled(self.locks.waits(session, after, waits)?))
            }
            Request::GrantInos { session, count } => {
                self.node.lead(SURE)?;
                Ok(Response::First(self.node.grant_inos(session, count)?))
            }
            Request::Barrier { session } => {
                self.node.lead(SURE)?;
                Ok(Response::Stamp(self.locks.settle(session)?))
            }
            _ => Err(FsError::Invalid("this is asked of no session")),
        }
    }

    /// Rows of the present, and which of them may be kept: that is decided before they are read.
    fn copied(&self, request: &Request) -> Result<Response, FsError> {
        let inos = inodes(request);
        match request {
            Request::Copy { session, keys } => {
                check_keys(keys)?;
                self.ready(*session, request, AsOf::Now)?;
                let copying = self.locks.give_copies(*session, &inos)?;
                Ok(Response::Copied { rows: self.node.get_all(keys)?, copying })
            }
            Request::CopyPage { session, range, direction, limit } => {
                self.ready(*session, request, AsOf::Now)?;
                let copying = self.locks.give_copies(*session, &inos)?;
                let page = self.node.scan(range, AsOf::Now, *direction, few(*limit))?;
                Ok(Response::CopiedPage { page, copying })
            }
            _ => Err(FsError::Invalid("this asks for no copies")),
        }
    }

    fn of_rows(&self, request: &Request, from_node: bool) -> Result<Response, FsError> {
        match request {
            Request::Get { session, keys, at } => {
                check_keys(keys)?;
                self.ready(*session, request, *at)?;
                let rows = match at {
                    AsOf::Now => self.node.get_all(keys)?,
                    AsOf::At(_) => {
                        let rows = keys.iter().map(|key| self.node.get(key, *at));
                        rows.collect::<Result<_, _>>()?
                    }
                };
                Ok(Response::Rows(rows))
            }
            Request::Scan { session, range, at, direction, limit } => {
                self.ready(*session, request, *at)?;
                Ok(Response::Page(self.node.scan(range, *at, *direction, few(*limit))?))
            }
            Request::Versions { key, since, until, limit } => {
                self.known(*until)?;
                let found = self.node.versions(key, *since, *until, few(*limit))?;
                Ok(Response::Versions(found))
            }
            Request::Ended { range, since, until, limit } => {
                self.known(*until)?;
                Ok(Response::Ended(self.node.ended(range, *since, *until, few(*limit))?))
            }
            Request::State { range, limit } => {
                self.node.lead(SURE)?;
                self.state(range, *limit, from_node)
            }
            Request::LastKnown(asked) => self.last_known(asked, from_node),
            Request::Changes { since, until, limit } => {
                self.known(*until)?;
                Ok(Response::Page(self.node.changes(*since, *until, few(*limit))?))
            }
            _ => Err(FsError::Invalid("this asks for no rows")),
        }
    }

    /// Returns once everything up to there that was committed is here.
    fn known(&self, until: Stamp) -> Result<(), FsError> {
        if self.node.has_reached(until) { Ok(()) } else { self.node.lead(SURE) }
    }

    /// As this node knows it: it says nothing about who leads.
    fn last_known(&self, asked: &LastKnown, from_node: bool) -> Result<Response, FsError> {
        match asked {
            LastKnown::Rows { keys } => {
                check_keys(keys)?;
                Ok(Response::Rows(self.node.get_all(keys)?))
            }
            LastKnown::Page { range, direction, limit } => {
                Ok(Response::Page(self.node.scan(range, AsOf::Now, *direction, few(*limit))?))
            }
            LastKnown::State { range, limit } => self.state(range, *limit, from_node),
        }
    }

    fn state(&self, range: &KeyRange, limit: u32, from_node: bool) -> Result<Response, FsError> {
        let page = self.node.state(range, few(limit))?;
        Ok(Response::Page(if from_node { page } else { without_secrets(page) }))
    }

    /// Returns once what was committed when the question came can be read here, and nobody else owns what it is about.
    fn ready(&self, session: SessionId, request: &Request, at: AsOf) -> Result<(), FsError> {
        match at {
            AsOf::At(stamp) => self.node.reach(stamp, SURE),
            // Before, so that what is looked at is what was committed; and after, as it may have waited: another may lead by now, and
            // have given others what was given back here.
            AsOf::Now => {
                self.node.lead(SURE)?;
                self.locks.touch(session, &inodes(request), TOUCH)?;
                self.node.lead(SURE)
            }
        }
    }
}

fn check_keys(keys: &[Bytes]) -> Result<(), FsError> {
    match keys.len() <= KEYS_MAX {
        true => Ok(()),
        false => Err(FsError::Invalid("one question has at most 4096 keys")),
    }
}

fn few(limit: u32) -> usize {
    (limit as usize).clamp(1, ROWS_MAX)
}

/// What clients may read of the rows of state.
fn without_secrets(page: Page) -> Page {
    let open = |(key, _): &(Bytes, Bytes)| !key::is_for_nodes_only(key);
    Page { rows: page.rows.into_iter().filter(open).collect(), more: page.more }
}
