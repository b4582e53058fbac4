//! What can go wrong between two processes, as sentences.
//!
//! Not here: what a server answers to a request, which is an answer.

use crate::types::FsError;
use crate::wire::greeting::Refusal;
use crate::wire::packet::BadPacket;

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NetError {
    /// Nobody could be reached. Another address, or later.
    #[error("{0}")]
    Unreachable(String),
    /// One of the two did not prove who it is. People must do something.
    #[error("{0}")]
    Unproven(String),
    /// The other side said why it refuses the connection.
    #[error("{}", .0.sentence)]
    Refused(Refusal),
    /// The connection ended. What was asked may have been done.
    #[error("{0}")]
    Closed(String),
    /// Too much waits to be sent, or to be answered. Nothing was sent: later.
    #[error("the connection has as much to do as it may")]
    Full,
    /// No answer in time. What was asked may have been done.
    #[error("there was no answer in time")]
    Late,
    /// The other side had no answer, and says why. What was asked may have been done.
    #[error("{0}")]
    Failed(String),
    /// It does not fit into a packet. Nothing was sent.
    #[error("{0}")]
    TooBig(BadPacket),
    /// This process cannot: no thread, no file, no such address.
    #[error("{0}")]
    Local(String),
}

impl From<NetError> for FsError {
    fn from(error: NetError) -> FsError {
        FsError::Io(error.to_string())
    }
}
