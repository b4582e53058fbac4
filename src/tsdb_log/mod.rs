//! The replicated log: consensus wrapped so that its types do not leak.
