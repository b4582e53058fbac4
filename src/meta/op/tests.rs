//! Batches come back from their bytes, and refuse others.

use super::*;

#[test]
fn batches_come_back_and_refuse() {
    let ino = Ino::ROOT;
    let piece = Piece::Payload {
        block: BlockId { session: SessionId(3), number: 9 },
        frame: Bytes::from_static(b"frame"),
        len: 70_000,
    };
    let (time, name) = (Time { secs: -1, nanos: 5 }, Bytes::from_static(b"a"));
    let write = Op::Write { ino, offset: 1 << 40, pieces: vec![piece], clear_suid: true, time };
    let unlink = Op::Unlink { dir: ino, name, keep_open: false, time };
    let ops = vec![write, unlink, Op::Version { ino }];
    let by = vec![By { uid: 1000, ops: 2 }, By { uid: 0, ops: 1 }];
    let seen = vec![Seen::new(Bytes::from_static(b"k"), Some(b"v")), Seen::new(Bytes::new(), None)];
    for direct in [None, Some(seen)] {
        comes_back(&Batch {
            session: SessionId(3),
            seq: BatchSeq(7),
            epoch: 2,
            by: by.clone(),
            ops: ops.clone(),
            direct,
        });
    }
}

fn comes_back(batch: &Batch) {
    let bytes = batch.encode();
    assert_eq!(Batch::decode(&bytes).as_ref(), Ok(batch));
    for cut in 0..bytes.len() {
        assert!(Batch::decode(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    assert!(Batch::is_of_client(&bytes, batch.session, batch.seq));
    assert!(!Batch::is_of_client(&bytes, SessionId(4), batch.seq));
    assert!(!Batch::is_of_client(&bytes, batch.session, BatchSeq(8)));
    let own = Batch { session: SessionId(0), seq: BatchSeq(0), ..batch.clone() }.encode();
    assert!(
        !Batch::is_of_client(&own, batch.session, batch.seq),
        "the store's, under another name"
    );
    assert!(!Batch::is_of_client(&own, SessionId(0), BatchSeq(0)), "the store's");
    assert!(Batch::decode(&[&[3], &bytes[1..]].concat()).is_err(), "a later version");
    assert!(Batch::decode(&[&bytes[..], &[0]].concat()).is_err(), "a tail");
}

#[test]
fn what_a_direct_batch_may_change_shows_before_it_is_applied() {
    let [dir, file, other] = [7, 8, 9].map(|raw| Ino::new(raw).unwrap());
    let (time, name) = (Time { secs: 1, nanos: 0 }, Bytes::from_static(b"n"));
    let batch = |ops: Vec<Op>, seen: &[Ino]| {
        let seen = seen.iter().map(|ino| crate::meta::key::inode(*ino));
        let seen = seen.map(|key| Seen::new(Bytes::copy_from_slice(&key), None)).collect();
        let (session, seq) = (SessionId(3), BatchSeq(1));
        Batch { session, seq, epoch: 0, by: Vec::new(), ops, direct: Some(seen) }.may_change()
    };
    let inos = |inos: &[Ino]| Some(inos.iter().copied().collect());
    let unlink = Op::Unlink { dir, name: name.clone(), keep_open: false, time };
    assert_eq!(batch(vec![unlink.clone()], &[dir, file]), inos(&[dir, file]));
    assert_eq!(batch(vec![unlink], &[]), None, "what the name names was not said");
    let cloned = Op::Clone {
        from: other,
        as_of: AsOf::Now,
        from_offset: 0,
        ino: file,
        offset: 0,
        len: 1,
        time,
    };
    assert_eq!(batch(vec![cloned, Op::Version { ino: file }], &[]), inos(&[file]));
    let locks = Op::SetLocks { ino: file, locks: Vec::new() };
    assert_eq!(batch(vec![locks], &[file]), inos(&[]), "nobody reads them from copies");
    assert_eq!(batch(vec![Op::EndSession { session: SessionId(1) }], &[file]), None);
}
