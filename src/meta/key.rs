//! Every metadata key, with the table of prefixes and their order.
