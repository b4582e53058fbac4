//! A mount's batches on their way: kept until each is applied, sent again in order to whoever leads next.

use super::Around;
use super::Asked;
use super::Call;
use super::Kind;
use super::Mount;
use super::Report;
use super::locks::Relocked;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use tsfs::meta::op::Batch;
use tsfs::meta::op::By;
use tsfs::meta::op::Op;
use tsfs::meta::op::Outcome;
use tsfs::meta::op::Piece;
use tsfs::meta::op::Seen;
use tsfs::types::BatchSeq;
use tsfs::types::BlockId;
use tsfs::types::FsError;
use tsfs::types::Ino;
use tsfs::types::Stamp;
use tsfs::wire::message::Request;

pub(crate) struct Sent {
    seq: u64,
    ops: u32,
    bytes: Bytes,
    pub(super) kinds: Vec<Kind>,
    /// That it names.
    blocks: Vec<BlockId>,
    /// Of a direct batch: what it is to be tried again as, and the rows that it changes.
    direct: Option<(Call, Vec<Vec<u8>>, Vec<Op>)>,
}

/// The blocks that an op names, of those that lie on data nodes.
fn named(op: &Op) -> impl Iterator<Item = BlockId> + '_ {
    let pieces = if let Op::Write { pieces, .. } = op { &pieces[..] } else { &[] };
    pieces.iter().filter_map(|piece| match piece {
        Piece::Block { block, .. } => Some(*block),
        _ => None,
    })
}

impl Mount {
    pub(super) fn is_direct_under_way(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.stream.iter().any(|sent| sent.direct.is_some()))
    }

    /// Ends the open batch and sends it. Behind a direct batch nothing goes before it is answered.
    pub(super) fn close_open(&mut self, around: &mut Around<'_>) {
        if self.is_direct_under_way() {
            return;
        }
        let Some(life) = &mut self.life else { return };
        if life.open.is_empty() {
            return;
        }
        let (kinds, ops): (Vec<Kind>, Vec<Op>) = std::mem::take(&mut life.open).into_iter().unzip();
        let touched = std::mem::take(&mut life.open_touched);
        self.put(kinds, ops, touched, None, around);
    }

    /// Sends what need not own what it touches. The open batch was closed before.
    pub(super) fn send_direct(
        &mut self,
        call: Call,
        ops: Vec<Op>,
        (seen, changed): (Vec<Seen>, BTreeMap<Vec<u8>, Option<Bytes>>),
        touched: BTreeSet<Ino>,
        around: &mut Around<'_>,
    ) {
        let life = self.life.as_mut().expect("it is alive");
        assert!(life.open.is_empty(), "what was done before goes before");
        life.own.set_busy(touched.iter().copied().collect());
        let changed = changed.into_keys().collect();
        let kinds = vec![call.kind, Kind::Direct];
        self.put(kinds, ops, touched, Some((call, changed, seen)), around);
    }

    fn put(
        &mut self,
        kinds: Vec<Kind>,
        ops: Vec<Op>,
        touched: BTreeSet<Ino>,
        direct: Option<(Call, Vec<Vec<u8>>, Vec<Seen>)>,
        around: &mut Around<'_>,
    ) {
        let life = self.life.as_mut().expect("it is alive");
        life.made += 1;
        life.locks.note_files(&touched);
        let (session, seq, count) = (life.session, life.made, ops.len() as u32);
        let blocks = ops.iter().flat_map(named).collect();
        let by = vec![By { uid: 0, ops: count }];
        let (direct, seen) = match direct {
            Some((call, changed, seen)) => (Some((call, changed, ops.clone())), Some(seen)),
            None => (None, None),
        };
        let batch = Batch { session, seq: BatchSeq(seq), epoch: 0, by, ops, direct: seen };
        let bytes = batch.encode();
        let of_direct = direct.is_some();
        self.reports.push(Report::Made {
            session,
            seq,
            direct: of_direct,
            touched,
            bytes: bytes.clone(),
        });
        life.stream.push_back(Sent { seq, ops: count, bytes, kinds, blocks, direct });
        self.send(seq, around);
    }

    fn send(&mut self, seq: u64, around: &mut Around<'_>) {
        let life = self.life.as_ref().expect("it is alive");
        let Some(sent) = life.stream.iter().find(|sent| sent.seq == seq) else { return };
        let (session, ops, tail) = (life.session, sent.ops, sent.bytes.clone());
        let request = Request::Propose { session, seq: BatchSeq(seq), ops };
        self.ask(&request, tail, Asked::Batch(seq), around);
    }

    /// Sends everything that is not known to be applied, in order.
    pub(super) fn take_up(&mut self, around: &mut Around<'_>) {
        let Some(life) = &self.life else { return };
        let all: Vec<u64> = life.stream.iter().map(|sent| sent.seq).collect();
        self.replayed += all.len() as u64;
        for seq in all {
            self.send(seq, around);
        }
    }

    /// What came of a batch.
    pub(super) fn answered(
        &mut self,
        seq: u64,
        outcome: Outcome,
        stamp: Stamp,
        around: &mut Around<'_>,
    ) {
        let Some(life) = &mut self.life else { return };
        let first = life.stream.front().is_some_and(|sent| sent.seq == seq);
        if outcome == Outcome::Early && !first {
            // One before it was not taken, by a leader that was between two minds.
            return self.hang_up(around);
        }
        let Some(at) = life.stream.iter().position(|sent| sent.seq == seq) else { return };
        let sent = life.stream.remove(at).expect("it was found");
        if let Outcome::Refused { error: FsError::Refused(why), .. } = &outcome {
            assert_eq!(why, "the session is not open", "batch {seq} of mount {}", self.n);
            return self.over(around);
        }
        for block in sent.blocks {
            life.bulk.note_named(block);
        }
        life.applied = life.applied.max(seq);
        let applied_now = life.applied;
        life.own.applied(BatchSeq(life.applied));
        life.stamps.push(stamp);
        // Whoever waits for a batch goes on: no leader may show less from here on.
        self.reports.push(Report::Promised { session: life.session, seq: applied_now });
        // The table has it now: what is known here is forgotten.
        let (applied, before) = (life.applied, life.overlay.len());
        let cache = &mut life.cache;
        life.overlay.retain(|key, (of, _)| {
            let stays = *of > applied;
            if !stays {
                cache.forget(key);
            }
            stays
        });
        life.turn += u64::from(life.overlay.len() != before);
        self.reports.extend(sent.kinds.iter().map(|kind| Report::Done(*kind)));
        match sent.direct {
            None => {
                let fine = matches!(outcome, Outcome::Applied | Outcome::Repeated);
                assert!(fine, "batch {seq} of mount {}, on what it owned: {outcome:?}", self.n);
                self.reports.push(Report::Done(Kind::Local));
            }
            Some(direct) => self.direct_answered(direct, outcome),
        }
    }

    fn direct_answered(
        &mut self,
        (call, changed, ops): (Call, Vec<Vec<u8>>, Vec<Op>),
        outcome: Outcome,
    ) {
        let life = self.life.as_mut().expect("it is alive");
        life.own.clear_busy();
        if let Some(wanted) = call.wanted {
            let came = match outcome {
                Outcome::Applied => Some(Relocked::Applied),
                Outcome::Refused { error: FsError::Locked, .. } => Some(Relocked::Barred),
                Outcome::Refused { .. } => Some(Relocked::Gone),
                _ => None,
            };
            self.relocked(wanted, came);
        }
        let life = self.life.as_mut().expect("it is alive");
        match outcome {
            Outcome::Applied => {
                changed.iter().for_each(|key| life.cache.forget(key));
                life.turn += 1;
                let goes = |op: &Op| matches!(op, Op::Unlink { .. } | Op::Rename { .. });
                if ops.iter().any(goes)
                    && let Some(ino) = call.goes
                {
                    life.release.push(ino);
                }
            }
            Outcome::Held(_) | Outcome::Conflict => self.again = Some(call.anew()),
            Outcome::Refused { .. } => {}
            other => panic!("a direct batch that nothing went behind is answered {other:?}"),
        }
    }

    /// The session is over on the cluster's side.
    pub(super) fn over(&mut self, around: &mut Around<'_>) {
        self.fenced += 1;
        self.part_all(around);
        (self.life, self.call, self.again) = (None, None, None);
        self.hang_up(around);
    }
}
