//! Rows that one call asked the server for because this client does not own them: kept until the call ends, and for nobody
//! else.
//!
//! All of them are of one moment: whenever another is missing, the known ones are asked for again along with it. So a call
//! that looks at several rows sees a state that there was. Not here: when the server is asked (`core`).

use crate::series::Direction;
use crate::series::KeyRange;
use crate::types::AsOf;
use crate::types::FsError;
use crate::wire::Server;
use bytes::Bytes;
use std::collections::BTreeMap;

/// Rows of a scan asked for at a time.
const PAGE_ROWS: usize = 256;

#[derive(Default)]
pub(super) struct Fresh {
    /// What somebody knows is asked for, as nobody can say what is so now.
    old: bool,
    rows: BTreeMap<Bytes, Option<Bytes>>,
    scans: Vec<Scan>,
    /// How many direct changes of this client were known to be applied when they were asked for.
    directs: u64,
}

/// All rows of a range.
pub(super) struct Scan {
    range: KeyRange,
    pub(super) rows: Vec<(Bytes, Bytes)>,
    /// As the client's was when it asked: where its own changes lie above, they may have sunk below them since.
    turn: u64,
}

impl Fresh {
    /// For a call that only looks, and that is answered with what is known.
    pub(super) fn old() -> Fresh {
        Fresh { old: true, ..Fresh::default() }
    }

    pub(super) fn is_old(&self) -> bool {
        self.old
    }

    /// Whether what was asked for may be of another moment than this client's own rows are: a direct change of its own, which
    /// touches both, came in between.
    pub(super) fn is_behind(&self, directs: u64) -> bool {
        self.directs != directs && !(self.rows.is_empty() && self.scans.is_empty())
    }

    /// `None`: it has not been asked for.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.rows.get(key).cloned()
    }

    pub(super) fn scan(&self, range: &KeyRange) -> Option<&Scan> {
        self.scans.iter().find(|scan| scan.range == *range)
    }

    /// The same, asked for at this turn.
    pub(super) fn scan_of_turn(&self, range: &KeyRange, turn: u64) -> Option<&Scan> {
        self.scans.iter().find(|scan| scan.range == *range && scan.turn == turn)
    }

    /// Asks for these, and for all others anew. `directs`: how many direct changes of this client are known to be applied.
    pub(super) fn ask(
        &mut self,
        server: &dyn Server,
        missed: Vec<Bytes>,
        directs: u64,
    ) -> Result<(), FsError> {
        if self.scans.is_empty() {
            self.directs = directs;
        }
        for key in missed {
            self.rows.entry(key).or_default();
        }
        let keys: Vec<Bytes> = self.rows.keys().cloned().collect();
        let values = if self.old { server.old_rows(&keys)? } else { server.get_all(&keys)? };
        if values.len() != keys.len() {
            return Err(FsError::Io("the server told of other rows than were asked for".into()));
        }
        self.rows = keys.into_iter().zip(values).collect();
        Ok(())
    }

    /// Asks for all rows of a range, which an op has a bound on.
    pub(super) fn ask_range(
        &mut self,
        server: &dyn Server,
        range: KeyRange,
        turn: u64,
        directs: u64,
    ) -> Result<(), FsError> {
        if self.rows.is_empty() && self.scans.is_empty() {
            self.directs = directs;
        }
        let (mut rest, mut rows) = (range.clone(), Vec::new());
        loop {
            let page = match self.old {
                true => server.old_page(&rest, Direction::Forward, PAGE_ROWS)?,
                false => server.scan(&rest, AsOf::Now, Direction::Forward, PAGE_ROWS)?,
            };
            let last = page.rows.last().filter(|_| page.more).map(|(key, _)| key.clone());
            rows.extend(page.rows);
            let enough = rows.len() > crate::meta::apply::OP_REGIONS_MAX;
            match last.filter(|_| !enough) {
                Some(last) => rest.start = [&last, &[0][..]].concat(),
                None => break,
            }
        }
        self.scans.retain(|scan| scan.range != range);
        self.scans.push(Scan { range, rows, turn });
        Ok(())
    }

    /// Asks for everything anew, and for `more`: a change that rested on it came too late.
    pub(super) fn renew(
        &mut self,
        server: &dyn Server,
        more: Option<Bytes>,
        directs: u64,
    ) -> Result<(), FsError> {
        self.scans.clear();
        self.ask(server, more.into_iter().collect(), directs)
    }
}
