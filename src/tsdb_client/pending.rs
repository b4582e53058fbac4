//! Contents on their way to the server: raw until their batch is applied, so that reads find them, and packed once, by
//! whoever comes first of the workers and the lane.
//!
//! Not here: which batch names them (`journal`), what a frame is (`types::frame`).

use crate::telemetry::counter::CLIENT_STORED;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::OP_PAYLOAD_BYTES_MAX;
use crate::types::frame::Frame;
use crate::wire::Server;
use bytes::Bytes;
use parking_lot::Condvar;
use parking_lot::Mutex;

/// One block that an op of a batch not yet applied names.
pub(super) struct Pending {
    pub(super) id: BlockId,
    /// One behind the other.
    raw: Vec<Bytes>,
    len: u32,
    packed: Mutex<Packed>,
    done: Condvar,
}

#[derive(Clone)]
enum Packed {
    Not,
    /// Somebody is at it.
    Now,
    Done(Where),
    Failed(FsError),
}

/// Where a packed block is.
#[derive(Clone)]
pub(super) enum Where {
    /// Small: its frame, which travels inside the op.
    Here(Bytes),
    /// At the server, durable after its next `sync_blocks`.
    Put,
}

impl Pending {
    pub(super) fn new(id: BlockId, raw: Vec<Bytes>) -> Pending {
        let len = raw.iter().map(Bytes::len).sum::<usize>() as u32;
        Pending { id, raw, len, packed: Mutex::new(Packed::Not), done: Condvar::new() }
    }

    /// Bytes of file it holds.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// All of them, in one piece.
    pub(super) fn raw(&self) -> Bytes {
        match &self.raw[..] {
            [raw] => raw.clone(),
            parts => parts.concat().into(),
        }
    }

    /// Copies `out.len()` bytes from `offset` on, which are inside.
    pub(super) fn copy(&self, offset: u32, mut out: &mut [u8]) {
        let mut skip = offset as usize;
        for part in &self.raw {
            if skip >= part.len() {
                skip -= part.len();
                continue;
            }
            let len = out.len().min(part.len() - skip);
            let (now, rest) = out.split_at_mut(len);
            now.copy_from_slice(&part[skip..skip + len]);
            out = rest;
            skip = 0;
            if out.is_empty() {
                return;
            }
        }
        assert!(out.is_empty(), "a read past the end of block {}", self.id);
    }

    /// Packs the block and, if it is too large for an op, puts it, unless that was done; waits where it is being done.
    pub(super) fn pack(&self, server: &dyn Server, level: i32) -> Result<Where, FsError> {
        let mut packed = self.packed.lock();
        loop {
            match &*packed {
                Packed::Not => break,
                Packed::Now => self.done.wait(&mut packed),
                Packed::Done(at) => return Ok(at.clone()),
                Packed::Failed(error) => return Err(error.clone()),
            }
        }
        *packed = Packed::Now;
        drop(packed);
        let result = self.pack_and_put(server, level);
        *self.packed.lock() = match &result {
            Ok(at) => Packed::Done(at.clone()),
            Err(error) => Packed::Failed(error.clone()),
        };
        self.done.notify_all();
        result
    }

    fn pack_and_put(&self, server: &dyn Server, level: i32) -> Result<Where, FsError> {
        let frame = Frame::pack(&self.raw(), level);
        CLIENT_STORED.add(frame.len() as u64);
        if frame.len() <= OP_PAYLOAD_BYTES_MAX {
            return Ok(Where::Here(frame.to_bytes()));
        }
        server.put_block(self.id, frame)?;
        Ok(Where::Put)
    }
}
