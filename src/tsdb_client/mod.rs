//! The client: session, caches, journal, read and write path.
