//! Who somebody is, as names in a certificate: `n3.node.STORE.tsfs` and `node.STORE.tsfs` of node 3,
//! `NAME.client.STORE.tsfs` of a client. STORE is the store's identity, NAME a client's name, in hexadecimal digits.
//!
//! Not here: whether a certificate proves it (`tls`).

use crate::types::NodeId;
use data_encoding::HEXLOWER;
use std::fmt;

/// A store's identity. A certificate is good for one store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StoreId(pub [u8; 16]);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StoreId {
    /// From 32 hexadecimal digits.
    pub fn parse(text: &str) -> Option<StoreId> {
        HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok().map(StoreId)
    }
}

/// Most bytes of a client's name: its hexadecimal digits and the rest fit into the 253 of a name.
pub const CLIENT_NAME_BYTES_MAX: usize = 64;
/// Hexadecimal digits of one label of a name: even, and at most 63.
const LABEL_DIGITS: usize = 62;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Identity {
    Node {
        node: NodeId,
        store: StoreId,
    },
    Client {
        name: String,
        store: StoreId,
    },
    /// It proved nothing: it may ask to join, with a token.
    Nobody,
}

impl Identity {
    pub fn store(&self) -> Option<StoreId> {
        match self {
            Identity::Node { store, .. } | Identity::Client { store, .. } => Some(*store),
            Identity::Nobody => None,
        }
    }

    /// The names of its certificate: the first says who it is.
    pub(super) fn names(&self) -> Vec<String> {
        match self {
            Identity::Node { node, store } => {
                vec![format!("n{}.node.{store}.tsfs", node.0), format!("node.{store}.tsfs")]
            }
            Identity::Client { name, store } => {
                let digits = HEXLOWER.encode(name.as_bytes());
                let mut labels: Vec<&str> = Vec::new();
                let mut rest = &*digits;
                while !rest.is_empty() {
                    let (label, after) = rest.split_at(rest.len().min(LABEL_DIGITS));
                    labels.push(label);
                    rest = after;
                }
                vec![format!("{}.client.{store}.tsfs", labels.join("."))]
            }
            Identity::Nobody => Vec::new(),
        }
    }

    /// Who has a certificate with this name. None: the name says nothing of the kind.
    pub(super) fn from_name(name: &str) -> Option<Identity> {
        let (rest, store) = name.strip_suffix(".tsfs")?.rsplit_once('.')?;
        let store = StoreId::parse(store)?;
        if let Some(node) = rest.strip_suffix(".node") {
            let digits = node.strip_prefix('n')?;
            let plain = digits.bytes().all(|digit| digit.is_ascii_digit());
            // One name for each node: no leading zeros.
            let node: u64 = digits.parse().ok().filter(|_| plain && !digits.starts_with('0'))?;
            return Some(Identity::Node { node: NodeId(node), store });
        }
        let digits = rest.strip_suffix(".client")?.replace('.', "");
        let name = String::from_utf8(HEXLOWER.decode(digits.as_bytes()).ok()?).ok()?;
        (!name.is_empty()).then_some(Identity::Client { name, store })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Node { node, .. } => write!(f, "node {}", node.0),
            Identity::Client { name, .. } => write!(f, "client '{}'", name.escape_debug()),
            Identity::Nobody => f.write_str("somebody without a certificate"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: StoreId = StoreId([0xab; 16]);

    #[test]
    fn identities_come_back_from_their_names() {
        let client = |name: &str| Identity::Client { name: name.to_owned(), store: STORE };
        let node = |node| Identity::Node { node: NodeId(node), store: STORE };
        let long = "x".repeat(CLIENT_NAME_BYTES_MAX);
        for identity in
            [node(1), node(u64::MAX), client("a"), client("Jörg's laptop"), client(&long)]
        {
            let names = identity.names();
            assert!(names.iter().all(|name| name.len() <= 253), "{names:?}");
            assert!(names[0].split('.').all(|label| label.len() <= 63), "{names:?}");
            assert_eq!(Identity::from_name(&names[0]), Some(identity));
        }
        assert_eq!(node(3).names()[0], format!("n3.node.{}.tsfs", "ab".repeat(16)));
        assert_eq!(node(3).names()[1], format!("node.{}.tsfs", "ab".repeat(16)));
        assert_eq!(client("ab").names()[0], format!("6162.client.{}.tsfs", "ab".repeat(16)));
    }

    #[test]
    fn other_names_are_nobody() {
        let store = "ab".repeat(16);
        for name in [
            format!("node.{store}.tsfs"),
            format!("n03.node.{store}.tsfs"),
            format!("n+3.node.{store}.tsfs"),
            format!("n3.node.{store}.example"),
            format!("n3.node.{}.tsfs", "ab".repeat(15)),
            format!("n3.lock.{store}.tsfs"),
            format!(".client.{store}.tsfs"),
            format!("ff.client.{store}.tsfs"),
            "example.org".to_owned(),
        ] {
            assert_eq!(Identity::from_name(&name), None, "{name}");
        }
    }
}
