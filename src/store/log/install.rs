//! A log that begins anew behind an entry, where a table has come from another member.
//!
//! A first segment without a former one takes the place of everything before it, so the log is either the former one or the
//! new one, whenever the power goes. What the member has voted for stays. Not here: the table.

use crate::store::disk::Disk;
use crate::store::log::Log;
use crate::store::log::pool;
use crate::store::log::pool::Kind;
use crate::store::log::record;
use crate::store::log::record::Identity;
use crate::store::log::record::Link;
use crate::store::log::record::Mark;
use crate::store::log::record::Writer;
use crate::store::log::recover;
use crate::tsdb_log::entry::HardState;
use crate::tsdb_log::entry::Members;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::NodeId;
use crate::types::Term;
use std::io::IoSlice;
use std::path::Path;

/// The end of a new segment's name while it is written.
const MAKING: &str = "making";

impl Log {
    /// Has the log in `dir`, which nobody uses, begin behind the entry at `index`, of which a table from another member is the
    /// state. Nothing is changed where the log has that entry: then what follows it may have been acknowledged, and stays.
    /// May be repeated after a power cut.
    ///
    /// # Errors
    /// `Damaged` where the log cannot be read: what was voted for is not known then. `Refused` where the log has let go
    /// of that entry already: the table is older than the log. `NoSpace`, `Io`.
    pub fn install(
        disk: &dyn Disk,
        dir: &Path,
        store: [u8; 16],
        index: LogIndex,
        term: Term,
        members: &Members,
    ) -> Result<(), FsError> {
        let found = recover::recover(disk, dir, store, &mut |_, _| {})?;
        if found.segments.term(index) == Some(term) {
            return Ok(());
        }
        if index.0 + 1 < found.segments.first().0 {
            return Err(FsError::Refused(format!(
                "the table that came is at entry {}, but the log begins with entry {} already",
                index.0,
                found.segments.first().0
            )));
        }
        let HardState { term: voted_in, vote, .. } = found.hard;
        let vote = if voted_in >= term { vote } else { NodeId(0) };
        let hard = HardState { term: voted_in.max(term), vote, commit: index };
        let identity = Identity { store, generation: found.next_generation };
        let (mut bytes, checksum) = record::encode_header(identity);
        let mut writer = Writer::new(Vec::new(), identity, record::HEADER_BYTES, checksum);
        writer.link(&Link {
            previous: None,
            before: (index, term),
            hard,
            members: members.clone(),
        });
        writer.mark(Mark { synced: index, nth: 0 });
        // It is in place only once it is synced.
        writer.mark(Mark { synced: index, nth: 1 });
        bytes.extend_from_slice(writer.bytes());
        let log = pool::path(dir, identity.generation, Kind::Log);
        let making = log.with_extension(MAKING);
        if disk.exists(&making)? {
            disk.remove(&making)?;
        }
        let file = disk.create(&making)?;
        file.write_at(0, &[IoSlice::new(&bytes)])?;
        file.sync_all()?;
        disk.rename(&making, &log)?;
        disk.sync_dir(dir)
    }
}
