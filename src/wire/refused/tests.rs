//! What is written comes back; whatever byte is changed or cut, it is told, and the rest is there.

use super::*;
use crate::meta::op::Batch;
use crate::meta::op::By;
use crate::meta::op::Op;
use crate::meta::op::Piece;
use crate::types::FsError;
use crate::types::Time;

impl Source for Vec<u8> {
    fn len(&self) -> u64 {
        Vec::len(self) as u64
    }

    fn read(&self, at: u64, len: usize) -> Result<Bytes, FsError> {
        Ok(Bytes::copy_from_slice(&self[at as usize..at as usize + len]))
    }
}

fn ino(number: u64) -> Ino {
    Ino::new(number).unwrap()
}

fn head() -> Head {
    Head {
        store: "00ff".to_owned(),
        session: SessionId(7),
        client: "/mnt".to_owned(),
        source: "h1,h2:/".to_owned(),
        opened: Stamp(1),
        saved: Stamp(2),
        why: "it was not heard of".to_owned(),
        applied: BatchSeq(3),
    }
}

fn batch(seq: u64, pieces: Vec<Piece>) -> Batch {
    let (session, seq, time) = (SessionId(7), BatchSeq(seq), Time { secs: 5, nanos: 6 });
    let write = Op::Write { ino: ino(9), offset: 4096, pieces, clear_suid: false, time };
    let by = vec![By { uid: 1000, ops: 1 }];
    Batch { session, seq, epoch: 1, by, ops: vec![write], direct: None }
}

fn named() -> Named {
    Named { ino: ino(9), under: Ino::ROOT, path: Bytes::from_static(b"dir/file") }
}

fn block() -> BlockId {
    BlockId { session: SessionId(7), number: 1 }
}

fn raw() -> Bytes {
    (0..100_000_u32).flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_le_bytes()).collect()
}

/// Two batches, one of them named by a block.
fn file() -> Vec<u8> {
    let mut writer = Writer::begin(Vec::new(), &head()).unwrap();
    writer.names(&[named()]).unwrap();
    let inline = vec![Piece::Inline(Bytes::from_static(b"small"))];
    writer.batch(BatchSeq(4), true, &batch(4, inline).encode()).unwrap();
    writer.block(block(), &raw()).unwrap();
    let large = vec![Piece::Block { block: block(), len: raw().len() as u32 }];
    writer.batch(BatchSeq(5), false, &batch(5, large).encode()).unwrap();
    writer.end().unwrap()
}

fn read(bytes: &Vec<u8>) -> Result<Vec<Found>, FsError> {
    let mut reader = Reader::open(bytes)?;
    let mut found = Vec::new();
    while let Some(next) = reader.next_found()? {
        found.push(next);
    }
    Ok(found)
}

fn damages(found: &[Found]) -> usize {
    found.iter().filter(|found| matches!(found, Found::Damage(_))).count()
}

#[test]
fn what_is_written_comes_back() {
    let bytes = file();
    let found = read(&bytes).unwrap();
    assert_eq!(found[0], Found::Head(head()));
    assert_eq!(found[1], Found::Names(vec![named()]));
    let Found::Batch { sent: true, batch: first } = &found[2] else { panic!("{found:?}") };
    assert_eq!(**first, batch(4, vec![Piece::Inline(Bytes::from_static(b"small"))]));
    let Found::Block { block: id, at, len } = found[3] else { panic!("{found:?}") };
    assert_eq!((id, len as usize), (block(), raw().len()));
    assert_eq!(contents(&bytes, at).unwrap(), raw());
    assert!(matches!(&found[4], Found::Batch { sent: false, batch } if batch.seq == BatchSeq(5)));
    assert_eq!(found.len(), 5);
}

#[test]
fn a_batch_may_be_larger_than_a_frame() {
    let pieces = (0..2500).map(|n| Piece::Inline(vec![n as u8; 512].into())).collect();
    let large = batch(4, pieces);
    let mut writer = Writer::begin(Vec::new(), &head()).unwrap();
    writer.batch(BatchSeq(4), true, &large.encode()).unwrap();
    let found = read(&writer.end().unwrap()).unwrap();
    let Found::Batch { batch, .. } = &found[1] else { panic!("{found:?}") };
    assert_eq!((&**batch, found.len()), (&large, 2));
}

#[test]
fn whatever_byte_is_changed_is_told_and_the_rest_is_read() {
    let good = file();
    let whole = read(&good).unwrap();
    let last = good.len();
    // Every byte outside of the large block, and some of it.
    for at in (0..last).filter(|at| *at < 400 || last - at < 400 || at % 1009 == 0) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        let found = match read(&bytes) {
            Ok(found) => found,
            Err(error) => panic!("byte {at}: {error}"),
        };
        assert!(damages(&found) > 0, "byte {at}: {found:?}");
        let same = whole.iter().filter(|one| found.contains(one)).count();
        assert!(same + 1 >= whole.len(), "byte {at} costs more than its record: {found:?}");
    }
}

#[test]
fn wherever_it_is_cut_what_came_before_is_read() {
    let good = file();
    let whole = read(&good).unwrap();
    let mut before = 0;
    for len in (BEGIN_BYTES..good.len()).filter(|len| *len < 500 || len % 10_007 == 0) {
        let found = read(&good[..len].to_vec()).unwrap();
        assert!(damages(&found) > 0, "{len} bytes: {found:?}");
        let same = found.iter().zip(&whole).take_while(|(a, b)| a == b).count();
        assert!(same >= before, "{len} bytes");
        before = same;
    }
    assert!(before >= 3);
}

#[test]
fn another_file_and_a_newer_one_are_refused() {
    let none = |bytes: &[u8]| read(&bytes.to_vec()).unwrap_err().to_string();
    assert!(none(b"").contains("no file of refused work"));
    assert!(none(&[b'x'; 4000]).contains("no file of refused work"));
    let mut newer = file();
    newer[..BEGIN_BYTES].copy_from_slice(&begin(VERSION + 1));
    assert!(none(&newer).contains("newer tsfs"));
}
