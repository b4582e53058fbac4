//! The connections to one node, as whoever uses them has them.
//!
//! Not here: keeping them up (`net::Keep`), which node leads (`links`).

use crate::net::Connection;
use crate::net::NetError;
use crate::net::Pair;
use crate::tsdb_client::remote::Lane;
use crate::types::NodeId;
use crate::wire::message;
use crate::wire::message::Hello;
use crate::wire::message::Response;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Link {
    pair: Arc<Pair>,
    /// Counts the links: what is said of an old one does not touch the next.
    pub(super) generation: u64,
    pub(super) node: NodeId,
    /// Drawn by the node when it started.
    pub(super) boot: u64,
}

impl Link {
    /// `None` where the other side did not say who it is.
    pub(super) fn new(pair: Arc<Pair>) -> Option<Link> {
        let Hello { node, boot, .. } = message::decode(&pair.welcome).ok()?;
        Some(Link { generation: pair.generation, node: node?, boot, pair })
    }

    pub(super) fn connection(&self, lane: Lane) -> &Connection {
        match lane {
            Lane::Control => &self.pair.control,
            Lane::Bulk => &self.pair.bulk,
        }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// Why there is none: it may have been done all the same.
    pub(super) fn call(
        &self,
        lane: Lane,
        meta: Bytes,
        tail: Bytes,
        patience: Duration,
    ) -> Result<(Response, Bytes), NetError> {
        let packet = self.connection(lane).call(message::REQUEST, meta, tail, patience)?;
        let response =
            message::decode(&packet.meta).map_err(|error| NetError::Failed(error.to_string()))?;
        Ok((response, packet.tail))
    }

    pub(super) fn is_up(&self) -> bool {
        self.pair.is_up()
    }

    /// Nobody uses it any more.
    pub(super) fn close(&self) {
        self.pair.control.close();
        self.pair.bulk.close();
    }
}
