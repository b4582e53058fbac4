//! What every entry says about itself, in front of the client's batch: enough to stamp, order and audit without
//! decoding the batch.
//!
//! `docs/format.md` draws the bytes.

use crate::types::BatchSeq;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::SessionId;
use crate::types::Stamp;
use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;

/// The version of the header that is written.
const VERSION: u8 = 1;

/// What the body of an entry is. Variants are only ever added at the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Body {
    /// Nothing: an idle leader commits it so that the instant of its stamp can be read.
    Empty,
    /// `meta::op::Batch`, as the client encoded it.
    Batch,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Header {
    /// The first stamp of the batch.
    pub stamp: Stamp,
    /// How many stamps are set aside, from the first: one for each op, at least one.
    pub stamps: u32,
    pub body: Body,
    pub session: SessionId,
    pub seq: BatchSeq,
}

impl Header {
    /// The last stamp that is set aside for this entry; the next entry's are after it.
    pub fn last_stamp(&self) -> Stamp {
        Stamp(self.stamp.0 + u64::from(self.stamps.max(1)) - 1)
    }

    pub fn encode(&self) -> Bytes {
        postcard::to_extend(self, vec![VERSION]).expect("a vector grows as needed").into()
    }

    /// # Errors
    /// `Damaged` where the bytes are no header, or one of a newer version.
    pub fn decode(index: LogIndex, bytes: &[u8]) -> Result<Header, FsError> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(|error| {
                FsError::Damaged(format!("header of log entry {}: {error}", index.0))
            }),
            Some((version, _)) => Err(FsError::Damaged(format!(
                "log entry {} has a header of version {version}, this program reads version {VERSION}",
                index.0
            ))),
            None => Err(FsError::Damaged(format!("log entry {} has no header", index.0))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_and_foreign_bytes_are_refused() {
        let header = Header {
            stamp: Stamp(1_700_000_000_000_000_000),
            stamps: 3,
            body: Body::Batch,
            session: SessionId(7),
            seq: BatchSeq(9),
        };
        let bytes = header.encode();
        assert_eq!(Header::decode(LogIndex(1), &bytes), Ok(header));
        assert_eq!(header.last_stamp(), Stamp(1_700_000_000_000_000_002));
        assert!(Header::decode(LogIndex(1), &[]).is_err());
        assert!(Header::decode(LogIndex(1), &bytes[..3]).is_err());
        let newer: Vec<u8> = std::iter::once(2).chain(bytes[1..].iter().copied()).collect();
        assert!(matches!(Header::decode(LogIndex(1), &newer), Err(FsError::Damaged(_))));
    }
}
