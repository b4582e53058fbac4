//! File, environment and flags → validated settings.
