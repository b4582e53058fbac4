//! Judgements that need no search: logs that several append to, names that one may win, files that were synced.
//!
//! Each returns the first fault as a sentence, or nothing. Not here: filling the ledgers (`load`).

use crate::support::Random;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// Bytes that say who wrote them, the how many-th of its, and how long they are; whoever looks can tell a torn one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Record {
    pub writer: u32,
    pub number: u32,
}

/// `writer number length checksum `, then letters up to the length, then the end of the line.
const HEAD_BYTES: usize = 4 + 1 + 8 + 1 + 4 + 1 + 8 + 1;

impl Record {
    /// Of a length that follows from who and which.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let Record { writer, number } = self;
        let mut random = Random::new(u64::from(writer) << 32 | u64::from(number));
        let sum = random.next() as u32;
        // Mostly a line of a log; now and then more than a page.
        let fill = if random.below(16) == 0 { 5000 } else { random.below(120) } as usize;
        let mut bytes = format!("{writer:04x} {number:08x} {fill:04x} {sum:08x} ").into_bytes();
        debug_assert_eq!(bytes.len(), HEAD_BYTES);
        bytes.extend((0..fill).map(|_| b'a' + random.below(26) as u8));
        bytes.push(b'\n');
        bytes
    }

    /// The records of a log, one after the other, none torn.
    pub(super) fn read(mut bytes: &[u8]) -> Result<Vec<Record>, String> {
        let (mut found, whole) = (Vec::new(), bytes.len());
        while !bytes.is_empty() {
            let at = whole - bytes.len();
            let torn = || {
                let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
                format!("at {at} of {whole} bytes there is no whole record: {shown:?}")
            };
            let field = |from: usize, to: usize| {
                let text = std::str::from_utf8(bytes.get(from..to)?).ok()?;
                u32::from_str_radix(text, 16).ok()
            };
            let (Some(writer), Some(number)) = (field(0, 4), field(5, 13)) else {
                return Err(torn());
            };
            let record = Record { writer, number };
            let Some(rest) = bytes.strip_prefix(&*record.to_bytes()) else { return Err(torn()) };
            bytes = rest;
            found.push(record);
        }
        Ok(found)
    }
}

/// What a writer of records was told: those that succeeded, and those of which it does not know.
#[derive(Clone, Default, Debug)]
pub(super) struct Written {
    pub acknowledged: Vec<u32>,
    pub open: BTreeSet<u32>,
}

/// A log that several appended to, each waiting for one answer before the next: every record whole and there once, each
/// writer's in its order, none that was acknowledged missing, none that nobody wrote.
pub(super) fn appended(bytes: &[u8], writers: &BTreeMap<u32, Written>) -> Result<(), String> {
    let records = Record::read(bytes)?;
    let mut last: BTreeMap<u32, u32> = BTreeMap::new();
    for Record { writer, number } in &records {
        let before = last.insert(*writer, *number);
        if before.is_some_and(|before| before >= *number) {
            return Err(format!("writer {writer}: record {number} comes after {before:?}"));
        }
    }
    let found: BTreeSet<Record> = records.into_iter().collect();
    for (writer, written) in writers {
        let missing = written
            .acknowledged
            .iter()
            .find(|number| !found.contains(&Record { writer: *writer, number: **number }));
        if let Some(number) = missing {
            let all = written.acknowledged.len();
            return Err(format!("writer {writer}: record {number} of {all} acknowledged is lost"));
        }
    }
    let known = |record: &&Record| {
        writers.get(&record.writer).is_some_and(|written| {
            written.acknowledged.binary_search(&record.number).is_ok()
                || written.open.contains(&record.number)
        })
    };
    match found.iter().find(|record| !known(record)) {
        Some(record) => Err(format!("{record:?} was never written, or refused")),
        None => Ok(()),
    }
}

/// What one was told who wanted to be the first to make a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Claim {
    Won,
    Lost,
    /// Nobody said.
    Open,
}

/// Names that are never removed: of those who claimed one, exactly one won.
pub(super) fn won(claims: &BTreeMap<u64, Vec<Claim>>) -> Result<(), String> {
    for (name, claims) in claims {
        let count = |which: Claim| claims.iter().filter(|claim| **claim == which).count();
        let (winners, open) = (count(Claim::Won), count(Claim::Open));
        if winners > 1 {
            return Err(format!("name {name} was won by {winners}"));
        }
        if winners == 0 && open == 0 {
            return Err(format!("name {name} was won by nobody of {}", claims.len()));
        }
    }
    Ok(())
}

/// A file that one writer wrote record after record, syncing now and then, before something crashed: what is left is a
/// beginning of it, no shorter than what was synced. A record may be cut short where the file ends.
pub(super) fn kept(bytes: &[u8], writer: u32, written: u32, synced: u32) -> Result<u32, String> {
    let (mut at, mut number) = (0, 0);
    while at < bytes.len() {
        let record = Record { writer, number }.to_bytes();
        let left = &bytes[at..];
        if !left.starts_with(&record) {
            if record.starts_with(left) {
                break;
            }
            return Err(format!("writer {writer}: record {number} is not what was written"));
        }
        at += record.len();
        number += 1;
    }
    if number < synced {
        return Err(format!("writer {writer}: {number} records left, {synced} were synced"));
    }
    // One more may have been under way.
    if number > written + 1 {
        return Err(format!("writer {writer}: {number} records left, {written} were written"));
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::Claim;
    use super::Record;
    use super::Written;
    use super::appended;
    use super::kept;
    use super::won;
    use std::collections::BTreeMap;

    fn bytes(records: &[(u32, u32)]) -> Vec<u8> {
        let record =
            |(writer, number): &(u32, u32)| Record { writer: *writer, number: *number }.to_bytes();
        records.iter().flat_map(record).collect()
    }

    #[test]
    fn appends_are_whole_once_in_order_and_kept() {
        let told = |acknowledged: &[u32], open: &[u32]| Written {
            acknowledged: acknowledged.to_vec(),
            open: open.iter().copied().collect(),
        };
        let writers = BTreeMap::from([(1, told(&[0, 1, 3], &[2])), (2, told(&[0], &[1]))]);
        let fault = |records: &[(u32, u32)]| appended(&bytes(records), &writers).unwrap_err();
        let good = [(1, 0), (2, 0), (1, 1), (1, 3)];
        appended(&bytes(&good), &writers).unwrap();
        appended(&bytes(&[(1, 0), (2, 0), (1, 1), (1, 2), (2, 1), (1, 3)]), &writers).unwrap();
        assert!(fault(&[(1, 0), (2, 0), (1, 3)]).contains("record 1 of 3 acknowledged is lost"));
        assert!(fault(&[(1, 1), (2, 0), (1, 0), (1, 3)]).contains("comes after"));
        assert!(fault(&[(1, 0), (2, 0), (1, 1), (1, 1), (1, 3)]).contains("comes after"), "twice");
        assert!(fault(&[(1, 0), (2, 0), (1, 1), (1, 3), (2, 7)]).contains("never written"));
        let mut torn = bytes(&good);
        torn.drain(30..40);
        assert!(appended(&torn, &writers).unwrap_err().contains("no whole record"));
        // The second writer's at the offset of the first's: one overwrites the other's end.
        let mut over = bytes(&good);
        let at = bytes(&good[..1]).len() - 5;
        let other = bytes(&[(2, 0)]);
        over[at..at + other.len()].copy_from_slice(&other);
        assert!(appended(&over, &writers).unwrap_err().contains("no whole record"));
    }

    #[test]
    fn a_name_has_one_winner() {
        use Claim::Lost;
        use Claim::Open;
        use Claim::Won;
        let judged = |claims: &[Claim]| won(&BTreeMap::from([(1, claims.to_vec())])).is_ok();
        assert!(judged(&[Won, Lost]) && judged(&[Lost, Open]) && judged(&[Won, Open]));
        assert!(!judged(&[Won, Won]), "two winners");
        assert!(!judged(&[Lost, Lost]), "none");
    }

    #[test]
    fn what_was_synced_is_kept_and_what_is_left_is_a_beginning() {
        let all: Vec<(u32, u32)> = (0..10).map(|number| (3, number)).collect();
        let file = bytes(&all);
        assert_eq!(kept(&file, 3, 10, 5), Ok(10));
        assert_eq!(kept(&file[..file.len() - 3], 3, 10, 5), Ok(9), "the last is cut short");
        assert_eq!(kept(&bytes(&all[..5]), 3, 10, 5), Ok(5));
        kept(&bytes(&all[..4]), 3, 10, 5).unwrap_err();
        kept(&file, 3, 8, 5).unwrap_err();
        let mut hole = file.clone();
        let at = bytes(&all[..7]).len() + 2;
        hole[at..at + 8].fill(0);
        kept(&hole, 3, 10, 5).unwrap_err();
    }
}
