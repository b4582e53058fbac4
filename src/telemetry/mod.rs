//! Diagnostic logs and the list of every counter.
