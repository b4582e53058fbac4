//! What a member answers about blocks: puts, syncs, reads, and where they are, as `tsdb_server::door` and `tsdb_server::node` do.
//!
//! A put for which there is no room waits, and so does a read that other members are asked for; both are tried again each
//! millisecond. Not here: several of them at the same moment, as the threads of a real door have them.

use super::Door;
use crate::data::Side;
use crate::lines::HELLO;
use crate::lines::LineId;
use crate::member::STORE;
use crate::monitor::Monitor;
use bytes::Bytes;
use tsfs::series::table::Family;
use tsfs::series::table::Rows;
use tsfs::tsdb_server::replica::stepped::Stepped;
use tsfs::types::BlockId;
use tsfs::types::FsError;
use tsfs::types::frame::Frame;
use tsfs::wire::message;
use tsfs::wire::message::Hello;
use tsfs::wire::message::Request;
use tsfs::wire::message::Response;
use tsfs::wire::packet::Form;
use tsfs::wire::packet::Packet;

/// A question about blocks that is not answered yet.
pub(super) struct Asked {
    line: LineId,
    id: u64,
    request: Request,
    tail: Bytes,
    /// Of a member, which is told what is here and nothing else.
    from_node: bool,
}

/// What tells how a member stands.
pub(crate) struct Stands<'a> {
    pub(crate) monitor: &'a Monitor,
    pub(crate) running: &'a Stepped,
    pub(crate) disk: u64,
}

/// Which process this is.
pub(crate) fn hello(boot: u64) -> Packet {
    let hello = Hello { store: STORE, node: None, boot, features: 0, life: None };
    let (form, kind, meta) = (Form::Tell, HELLO, message::encode(&hello));
    Packet { form, kind, id: 0, meta, tail: Bytes::new() }
}

impl Door {
    /// Takes a packet that is about blocks; gives back any other.
    pub(super) fn take_bulk(
        &mut self,
        line: LineId,
        packet: Packet,
        from_node: bool,
    ) -> Option<Packet> {
        if packet.kind == HELLO {
            self.out.lock().push((line, hello(self.boot)));
            return None;
        }
        let request: Request = message::decode(&packet.meta).expect("a whole packet");
        let bulk = matches!(
            request,
            Request::PutBlock { .. }
                | Request::SyncBlocks
                | Request::Block { .. }
                | Request::Standing
                | Request::MayLetGo { .. }
        );
        if !bulk {
            return Some(packet);
        }
        let Packet { id, tail, .. } = packet;
        self.bulk.push(Asked { line, id, request, tail, from_node });
        None
    }

    /// Answers what can be answered.
    pub(crate) fn work_bulk(&mut self, side: &mut Side, stands: &Stands<'_>) {
        let mut left = Vec::new();
        for asked in std::mem::take(&mut self.bulk) {
            let answered = match self.answer_bulk(&asked, side, stands) {
                Ok(None) => {
                    left.push(asked);
                    continue;
                }
                Ok(Some(answered)) => answered,
                Err(error) => (Response::Failed(error), Bytes::new()),
            };
            let (response, tail) = answered;
            let (form, kind, meta) = (Form::Answer, message::RESPONSE, message::encode(&response));
            self.out.lock().push((asked.line, Packet { form, kind, id: asked.id, meta, tail }));
        }
        self.bulk = left;
    }

    /// None where it has to wait.
    fn answer_bulk(
        &mut self,
        asked: &Asked,
        side: &mut Side,
        stands: &Stands<'_>,
    ) -> Result<Option<(Response, Bytes)>, FsError> {
        let done = Ok(Some((Response::Done, Bytes::new())));
        match &asked.request {
            Request::PutBlock { block } => {
                match side.blocks.put(*block, &Frame::from_bytes(&asked.tail)?) {
                    Err(FsError::NoSpace) => Ok(None),
                    other => other.and(done),
                }
            }
            Request::SyncBlocks => side.blocks.sync().and(done),
            Request::Block { block } => {
                let frame = match asked.from_node {
                    true => Some(self.own_block(*block, side)?),
                    false => side.read(*block).transpose()?,
                };
                self.given.extend(frame.iter().map(|frame| (*block, frame.clone())));
                Ok(frame.map(|frame| (Response::Frame, frame)))
            }
            Request::Standing => {
                let standing = stands.monitor.standing(stands.running, stands.disk);
                Ok(Some((Response::Standing(standing), Bytes::new())))
            }
            Request::MayLetGo { number, named } => {
                let yes = stands.monitor.is_at_home(stands.running, *number, *named);
                let yes = yes.ok_or_else(|| super::not_leader(stands.running))?;
                Ok(Some((Response::MayLetGo(yes), Bytes::new())))
            }
            other => panic!("{other:?} is not about blocks"),
        }
    }

    fn own_block(&self, block: BlockId, side: &Side) -> Result<Bytes, FsError> {
        match self.table.get(Family::Payload, &block.to_bytes())? {
            Some(frame) => Ok(frame),
            None => side.blocks.get(block),
        }
    }
}
