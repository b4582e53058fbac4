//! Bringing a node up to date that the log cannot: it takes over another member's table, and its log begins behind that.
//!
//! While nobody uses its store. A file in the store's directory, [`BEHIND`], says that this was begun: until it is gone,
//! every start looks whether a table is to be taken over. Not here: who finds out that a node is behind.

use crate::net::Connection;
use crate::series::table::Table;
use crate::store::disk::Disk;
use crate::store::label::Label;
use crate::store::log::Log;
use crate::store::table;
use crate::store::table::RocksTable;
use crate::tsdb_server::cluster::disk::Identity;
use crate::tsdb_server::data::adopt;
use crate::tsdb_server::data::stream::Chunk;
use crate::tsdb_server::data::stream::Plan;
use crate::tsdb_server::data::stream::Receiver;
use crate::tsdb_server::data::stream::Source;
use crate::tsdb_server::open::FIRST;
use crate::tsdb_server::open::LOG;
use crate::tsdb_server::open::TABLE;
use crate::tsdb_server::replica;
use crate::types::FsError;
use crate::wire::message;
use crate::wire::message::Request;
use crate::wire::message::Response;
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// There while a table of another member is being taken over.
pub const BEHIND: &str = "table.behind";
/// For a checkpoint to be made, all of whose files are read once.
const LEND: Duration = Duration::from_secs(600);
/// For one chunk.
const CHUNK: Duration = Duration::from_secs(30);

/// What another node lends us.
struct Lent<'a> {
    connection: &'a Connection,
    lent: u64,
}

impl Lent<'_> {
    fn ask(&self, request: &Request, patience: Duration) -> Result<(Response, Bytes), FsError> {
        let meta = message::encode(request);
        let packet = self.connection.call(message::REQUEST, meta, Bytes::new(), patience)?;
        match message::decode(&packet.meta)? {
            Response::Failed(error) => Err(error),
            response => Ok((response, packet.tail)),
        }
    }
}

impl Source for Lent<'_> {
    fn read(&self, chunk: Chunk) -> Result<Bytes, FsError> {
        let Chunk { file, offset, bytes } = chunk;
        let request = Request::TableChunk { lent: self.lent, file, offset, bytes };
        self.ask(&request, CHUNK).map(|(_, tail)| tail)
    }
}

/// Receives the table of the node at the other end, as far as it is not here yet.
///
/// # Errors
/// `Io` where the other node cannot be asked, or lends its table to others; a later call goes on. `NoSpace`, `Damaged`.
pub fn receive(disk: &Arc<dyn Disk>, dir: &Path, connection: &Connection) -> Result<(), FsError> {
    let behind = dir.join(BEHIND);
    if !disk.exists(&behind)? {
        disk.create(&behind)?.sync_all()?;
        disk.sync_dir(dir)?;
    }
    let mut source = Lent { connection, lent: 0 };
    let plan = match source.ask(&Request::LendTable, LEND)? {
        (Response::Table { lent, plan }, _) => {
            source.lent = lent;
            Plan::decode(&plan)?
        }
        (other, _) => return Err(FsError::Io(format!("a node lends something else: {other:?}"))),
    };
    let mut receiver = Receiver::open(disk.clone(), &adopt::incoming(dir), plan)?;
    let mut tenth = 0;
    receiver.run(&source, &mut |there, all| {
        let now = there * 10 / all.max(1);
        if now > tenth {
            tenth = now;
            tracing::info!(there, all, "receiving the table of another node");
        }
    })?;
    receiver.finish()?;
    // Where this is not heard the other node finds out by itself.
    let _ = source.ask(&Request::TableDone { lent: source.lent }, CHUNK);
    Ok(())
}

/// Takes over what was received, if anything was; for every start of a node, before its store is opened.
///
/// # Errors
/// As for [`adopt::resume`] and [`Log::install`].
pub fn take_over(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    options: &table::Options,
) -> Result<(), FsError> {
    let behind = dir.join(BEHIND);
    if !disk.exists(&behind)? {
        return Ok(());
    }
    let Some(label) = Label::read(&**disk, dir)? else { return Ok(()) };
    let node = Identity::read(&**disk, dir)?.and_then(|identity| identity.node);
    let here = node.unwrap_or(FIRST);
    if let Some(adopted) = adopt::resume(disk, dir, label.store, here, options)? {
        tracing::info!(
            here = adopted.here,
            listed = adopted.listed,
            elsewhere = adopted.elsewhere,
            "took over the table of another node; blocks that are not here are fetched"
        );
    }
    // Also where that was cut off behind the table: a log that reaches it is left as it is.
    begin_log(disk, dir, label.store, options)?;
    // What has not arrived yet is gone on with later.
    if !disk.exists(&adopt::incoming(dir))? {
        disk.remove(&behind)?;
        disk.sync_dir(dir)?;
    }
    Ok(())
}

/// Has the log begin behind the table, where it does not reach it.
fn begin_log(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    store: [u8; 16],
    options: &table::Options,
) -> Result<(), FsError> {
    let options = table::Options { create: false, ..options.clone() };
    let table: Arc<dyn Table> = Arc::new(RocksTable::open(&dir.join(TABLE), &options)?);
    let Some((progress, members)) = replica::received(&*table)? else { return Ok(()) };
    drop(table);
    Log::install(&**disk, &dir.join(LOG), store, progress.index, progress.term, &members)
}
