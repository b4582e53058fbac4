//! Rows that one call asked the server for because this client does not own them: kept until the call ends, and for nobody
//! else, unless the server says that they may be (`copies`).
//!
//! All of them are of one moment: whenever another is missing, the known ones are asked for again along with it. So a call
//! that looks at several rows sees a state that there was. Not here: when the server is asked (`core`).

use crate::series::Direction;
use crate::series::KeyRange;
use crate::tsdb_client::copies::Gained;
use crate::tsdb_client::copies::Question;
use crate::types::AsOf;
use crate::types::FsError;
use crate::wire::Copying;
use crate::wire::Server;
use bytes::Bytes;
use std::collections::BTreeMap;

/// Rows of a scan asked for at a time.
const PAGE_ROWS: usize = 256;

#[derive(Default)]
pub(super) struct Fresh {
    /// What somebody knows is asked for, as nobody can say what is so now.
    old: bool,
    /// A direct change is tried on what was seen a moment ago.
    guesses: bool,
    rows: BTreeMap<Bytes, Option<Bytes>>,
    scans: Vec<Scan>,
    /// What was known when they were asked for.
    asked: Asked,
}

/// What a client knows when it asks.
#[derive(Clone, Copy, Default)]
pub(super) struct Asked {
    /// How many of its direct changes are known to be applied.
    pub(super) directs: u64,
    pub(super) question: Question,
}

/// Rows of an answer, and which of them may be kept.
pub(super) type Answered = (Vec<(Bytes, Option<Bytes>)>, Copying);

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

    /// For a direct change whose first attempt rests on hints where there are some.
    pub(super) fn guessing() -> Fresh {
        Fresh { guesses: true, ..Fresh::default() }
    }

    pub(super) fn guesses(&self) -> bool {
        self.guesses
    }

    pub(super) fn is_old(&self) -> bool {
        self.old
    }

    /// Whether what was asked for may be of another moment than this client's own rows are: a direct change of its own, which
    /// touches both, came in between.
    pub(super) fn is_behind(&self, directs: u64) -> bool {
        self.asked.directs != directs && !self.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.scans.is_empty()
    }

    /// Whether what was asked for may be of an earlier moment than this copy.
    pub(super) fn is_before(&self, gained: Gained) -> bool {
        !self.is_empty() && self.asked.question.is_before(gained)
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

    /// Asks for these, and for all others anew.
    pub(super) fn ask(
        &mut self,
        server: &dyn Server,
        missed: Vec<Bytes>,
        asked: Asked,
    ) -> Result<Answered, FsError> {
        if self.scans.is_empty() {
            self.asked = asked;
        }
        for key in missed {
            self.rows.entry(key).or_default();
        }
        let keys: Vec<Bytes> = self.rows.keys().cloned().collect();
        let (values, copying) = match self.old {
            true => (server.old_rows(&keys)?, Copying::default()),
            false => server.copy_all(&keys)?,
        };
        if values.len() != keys.len() {
            return Err(FsError::Io("the server told of other rows than were asked for".into()));
        }
        self.rows = keys.into_iter().zip(values).collect();
        let rows = self.rows.iter().map(|(key, value)| (key.clone(), value.clone()));
        Ok((rows.collect(), copying))
    }

    /// Asks for all rows of a range, which an op has a bound on.
    pub(super) fn ask_range(
        &mut self,
        server: &dyn Server,
        range: KeyRange,
        turn: u64,
        asked: Asked,
    ) -> Result<(), FsError> {
        if self.is_empty() {
            self.asked = asked;
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
        asked: Asked,
    ) -> Result<Answered, FsError> {
        self.scans.clear();
        self.guesses = false;
        self.ask(server, more.into_iter().collect(), asked)
    }
}
