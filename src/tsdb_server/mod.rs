//! The roles of a node, and the one driver of its log.
