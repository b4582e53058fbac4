//! The roles of a node, and the one driver of its log.

pub mod catch_up;
pub mod cluster;
pub mod data;
pub mod door;
pub mod lock_node;
pub mod member;
pub mod node;
pub mod offline;
pub mod open;
pub mod peers;
pub mod replica;
pub mod retention;
pub mod room;
pub mod task;
pub mod turns;
