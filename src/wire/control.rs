//! What a command asks of a running mount, through the mount's own control file, and the answers: a JSON value
//! a line, the last of them `done` or `error`. The file is `.tsfs/control` in any directory of the mount.
//!
//! Not here: reading and writing the file (`cli`, `fuse`), doing what is asked (`tsdb_client`).
