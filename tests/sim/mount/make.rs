//! The ops that a call of a program becomes, made out of what the mount knows.

use super::bulk::Stocked;
use super::calls::Call;
use super::calls::DIRS;
use super::calls::Kind;
use super::view::View;
use bytes::Bytes;
use tsfs::meta::apply::Rules;
use tsfs::meta::key;
use tsfs::meta::op::Op;
use tsfs::meta::op::Piece;
use tsfs::meta::op::RenameHow;
use tsfs::meta::op::SetAttr;
use tsfs::meta::op::XattrHow;
use tsfs::meta::record::Dirent;
use tsfs::meta::record::Record;
use tsfs::series::Present;
use tsfs::types::BlockId;
use tsfs::types::FileKind;
use tsfs::types::FsError;
use tsfs::types::Ino;
use tsfs::types::SessionId;
use tsfs::types::Time;
use tsfs::types::frame::Frame;

/// What a call becomes.
pub(super) struct Made {
    pub(super) ops: Vec<Op>,
    pub(super) goes: Option<Ino>,
}

/// Makes a call's ops out of what the view shows, and runs the rules for them.
pub(super) struct Maker<'a> {
    pub(super) call: &'a Call,
    pub(super) session: SessionId,
    pub(super) rules: &'a Rules,
    /// The next inode, and the next block.
    pub(super) numbers: (Option<u64>, u64),
    pub(super) release: Option<Ino>,
}

impl Maker<'_> {
    pub(super) fn run(&self, view: &mut View<'_>) -> Result<Made, FsError> {
        let (op, goes) = self.op(view)?;
        let ops: Vec<Op> = op.into_iter().collect();
        for op in &ops {
            self.rules.apply(view, self.session, op)?;
        }
        Ok(Made { ops, goes })
    }

    fn find(&self, view: &mut View<'_>, dir: Ino, name: &[u8]) -> Result<Option<Dirent>, FsError> {
        let key = key::dirent(dir, self.rules.names().of(name), name);
        view.get(&key)?.map(|row| Dirent::from_row(&key, &row)).transpose()
    }

    fn dir(&self, view: &mut View<'_>, name: Option<&[u8]>) -> Result<Ino, FsError> {
        let Some(name) = name else { return Ok(Ino::ROOT) };
        let found = self.find(view, Ino::ROOT, name)?;
        let found = found.filter(|entry| entry.kind == FileKind::Directory);
        Ok(found.map_or(Ino::ROOT, |entry| entry.ino))
    }

    fn op(&self, view: &mut View<'_>) -> Result<(Option<Op>, Option<Ino>), FsError> {
        let Call { kind, seed, since, .. } = *self.call;
        let time = Time { secs: since as i64, nanos: 0 };
        if kind == Kind::Release {
            return Ok((self.release.map(|ino| Op::Release { ino }), None));
        }
        let makes_dir = kind == Kind::Make && (self.call.dir.is_none() && seed.is_multiple_of(3));
        let name = match makes_dir || kind == Kind::Remove && seed.is_multiple_of(16) {
            true => DIRS[(seed / 16 % 2) as usize],
            false => self.call.name,
        };
        let dir = if makes_dir { Ino::ROOT } else { self.dir(view, self.call.dir)? };
        let found = self.find(view, dir, name)?;
        let name = Bytes::from_static(name);
        if kind == Kind::Make {
            let ino = self.numbers.0.and_then(Ino::new).expect("there are some");
            let kind = if makes_dir { FileKind::Directory } else { FileKind::File };
            let (mode, uid, gid, rdev, target) = (0o755, 0, 0, 0, Bytes::new());
            let op = Op::Create { dir, name, ino, kind, mode, uid, gid, rdev, target, time };
            return Ok((Some(op), None));
        }
        let Dirent { ino, kind: of } = found.ok_or(FsError::NotFound)?;
        let mut goes = None;
        let op = match kind {
            Kind::Write | Kind::WriteBlock => self.write(ino, time),
            Kind::Cut => {
                let set = SetAttr { size: Some(seed % 700), ..SetAttr::default() };
                Op::SetAttr { ino, set, time }
            }
            Kind::Remove if of == FileKind::Directory => {
                Op::Rmdir { dir, name, keep_open: false, time }
            }
            Kind::Remove => {
                goes = Some(ino);
                Op::Unlink { dir, name, keep_open: false, time }
            }
            Kind::Move | Kind::Link => {
                let new_dir = self.dir(view, self.call.to.0)?;
                let there = self.find(view, new_dir, self.call.to.1)?;
                goes = there.map(|entry| entry.ino);
                let new_name = Bytes::from_static(self.call.to.1);
                match kind {
                    Kind::Link => Op::Link { ino, dir: new_dir, name: new_name, time },
                    _ => {
                        let how = match seed % 4 {
                            0 => RenameHow::Exchange,
                            1 => RenameHow::NoReplace,
                            _ => RenameHow::Replace,
                        };
                        Op::Rename { dir, name, new_dir, new_name, how, keep_open: false, time }
                    }
                }
            }
            Kind::Attributes => {
                let set = SetAttr { mode: Some((seed % 512) as u32), ..SetAttr::default() };
                Op::SetAttr { ino, set, time }
            }
            Kind::Xattr => {
                let (name, value) = (Bytes::from_static(b"user.a"), seed.to_be_bytes().to_vec());
                Op::SetXattr { ino, name, value: value.into(), how: XattrHow::Set, time }
            }
            Kind::Version => Op::Version { ino },
            _ => return Ok((None, None)),
        };
        Ok((Some(op), goes))
    }

    fn write(&self, ino: Ino, time: Time) -> Op {
        let seed = self.call.seed;
        let (offset, len) = (seed / 7 % 500, 1 + seed % 90);
        if !self.call.blocks.is_empty() {
            let piece = |stocked: &Stocked| Piece::Block { block: stocked.block, len: stocked.len };
            let pieces = self.call.blocks.iter().map(piece).collect();
            return Op::Write { ino, offset, pieces, clear_suid: false, time };
        }
        let bytes: Bytes = (0..len).map(|n| (seed.rotate_left(n as u32) ^ n) as u8).collect();
        let piece = match seed.is_multiple_of(3) {
            true => {
                let block = BlockId { session: self.session, number: self.numbers.1 };
                Piece::Payload { block, frame: Frame::pack(&bytes, 1).to_bytes(), len: len as u32 }
            }
            false => Piece::Inline(bytes),
        };
        Op::Write { ino, offset, pieces: vec![piece], clear_suid: false, time }
    }
}
