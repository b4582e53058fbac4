//! What a node says of itself whenever it connects, and whether what another says lets it take part.
//!
//! It says how far its log is at that moment, so that the others can tell an old copy of its disk (`cluster::admit`).

use crate::meta::record::Incarnation;
use crate::net::StoreId;
use crate::tsdb_log::entry::Message;
use crate::tsdb_log::entry::MessageKind;
use crate::tsdb_server::cluster::admit::Claim;
use crate::tsdb_server::cluster::admit::Heard;
use crate::tsdb_server::cluster::disk::Identity;
use crate::tsdb_server::node::Node;
use crate::types::LogIndex;
use crate::types::NodeId;
use crate::types::Term;
use crate::wire::message;
use crate::wire::message::Hello;
use crate::wire::message::Life;
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::Weak;

pub(in crate::tsdb_server) struct Greeting {
    here: NodeId,
    identity: Identity,
    boot: u64,
    store: StoreId,
    node: OnceLock<Weak<Node>>,
    heard: Mutex<Heard>,
}

impl Greeting {
    pub(super) fn new(
        here: NodeId,
        identity: Identity,
        boot: u64,
        store: StoreId,
    ) -> Arc<Greeting> {
        let (node, heard) = (OnceLock::new(), Mutex::default());
        Arc::new(Greeting { here, identity, boot, store, node, heard })
    }

    /// The node is open.
    pub(super) fn of(&self, node: &Arc<Node>) {
        // Set once, as a member opens one.
        let _ = self.node.set(Arc::downgrade(node));
    }

    /// What this node says of itself now.
    pub(in crate::tsdb_server) fn hello(&self) -> Hello {
        let node = self.node.get().and_then(Weak::upgrade);
        let (term, last) = node.map_or_else(Default::default, |node| node.log_end());
        let Identity { incarnation, starts, .. } = self.identity;
        Hello {
            store: self.store.0,
            node: Some(self.here),
            boot: self.boot,
            features: crate::meta::apply::FEATURES,
            life: Some(Life { incarnation: incarnation.0, starts, term, last }),
        }
    }

    pub(in crate::tsdb_server) fn bytes(&self) -> Bytes {
        message::encode(&self.hello())
    }

    pub(in crate::tsdb_server) fn store(&self) -> [u8; 16] {
        self.store.0
    }

    /// Whether another node may take part, going by what it says of itself and by what is known of it.
    ///
    /// # Errors
    /// A sentence with what to do.
    pub(in crate::tsdb_server) fn admit(
        &self,
        hello: &Hello,
        row: Option<&crate::meta::record::Node>,
    ) -> Result<(), String> {
        let (Some(node), Some(life)) = (hello.node, hello.life) else {
            return Err("a node says which one it is, and what it has on its disk".to_owned());
        };
        let Life { incarnation, starts, term, last } = life;
        let incarnation = Incarnation(incarnation);
        let claim = Claim { node, incarnation, starts, boot: hello.boot, term, last };
        self.heard.lock().admit(&claim, row)
    }

    /// What other members confirm to have on disk is not to be forgotten by them.
    pub(in crate::tsdb_server) fn hear(&self, messages: &[Message]) {
        let confirmed = |message: &&Message| {
            message.kind == MessageKind::AppendResponse && !message.reject && message.index.0 > 0
        };
        let mut heard = None;
        for message in messages.iter().filter(confirmed) {
            let heard = heard.get_or_insert_with(|| self.heard.lock());
            heard.confirmed(message.from, message.term, message.index);
        }
    }
}

/// Where the log ends that a node has on its disk: the newest term it knows, and the last entry.
pub(in crate::tsdb_server) type LogEnd = (Term, LogIndex);
