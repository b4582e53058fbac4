//! Rows of the cluster: nodes, the authority, invitations.

use crate::meta::record::Record;
use crate::types::NodeId;
use crate::types::Roles;
use crate::types::Stamp;
use crate::types::placement::Placement;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use serde::Deserialize;
use serde::Serialize;
use std::fmt;

/// Which disk a node has: drawn when the directory was made, so that an empty or a foreign disk is known for what it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub [u8; 16]);

impl Incarnation {
    /// From 32 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Incarnation> {
        HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok().map(Incarnation)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A node that belongs to the cluster. Whether it decides is the log's to say.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Node {
    /// For people; often a host's.
    pub name: String,
    /// `HOST:PORT`, where the others reach it.
    pub address: String,
    pub roles: Roles,
    pub added: Stamp,
    pub incarnation: Incarnation,
    /// How often it was started on this disk. One that comes with no more starts than this has an old copy of it.
    pub starts: u64,
    /// What it drew when it was started last.
    pub boot: u64,
}

/// The cluster's own authority with its key. Clients must not read it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Authority(pub Bytes);

/// For whom an invitation is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Invited {
    Node,
    /// A client, which is going to be called so.
    Client {
        name: String,
    },
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Invite {
    pub to: Invited,
    pub made: Stamp,
    pub expires: Stamp,
    pub used: Option<Used>,
}

/// An invitation was used: by whom, and when.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Used {
    pub by: String,
    pub at: Stamp,
}

/// Numbers of nodes, which are never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NextNode(pub NodeId);

impl Record for Node {}
impl Record for Authority {}
impl Record for Invite {}
impl Record for NextNode {}
impl Record for Placement {}
