//! Random ops: mostly ones that can succeed, on few files with few names, so that they meet often.

use super::tree::Model;
use super::tree::Node;
use bytes::Bytes;
use tsfs::meta::op::Op;
use tsfs::meta::op::Piece;
use tsfs::meta::op::RenameHow;
use tsfs::meta::op::SetAttr;
use tsfs::meta::op::XattrHow;
use tsfs::types::AsOf;
use tsfs::types::BlockId;
use tsfs::types::FileKind;
use tsfs::types::INLINE_BYTES_MAX;
use tsfs::types::Ino;
use tsfs::types::SessionId;
use tsfs::types::Time;
use tsfs::types::frame::Frame;
use tsfs::types::regions;

/// SplitMix64.
pub(super) struct Chance(pub(super) u64);

impl Chance {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is above zero.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len() as u64) as usize])
    }
}

/// What makes ops, and the numbers it uses up.
pub(super) struct Maker {
    pub(super) chance: Chance,
    pub(super) next_ino: u64,
    next_block: u64,
    clock: i64,
    /// Ops that tell directories to keep no history.
    pub(super) with_forgetting: bool,
    /// Blocks of segments that were made, to be stored before they are named.
    pub(super) made: Vec<(BlockId, Bytes)>,
}

impl Maker {
    pub(super) fn new(seed: u64, with_forgetting: bool) -> Maker {
        Maker {
            chance: Chance(seed),
            next_ino: 2,
            next_block: 1,
            clock: 1_700_000_000,
            with_forgetting,
            made: Vec::new(),
        }
    }

    fn time(&mut self) -> Time {
        self.clock += 1;
        Time { secs: self.clock, nanos: self.chance.below(1_000_000_000) as u32 }
    }

    fn name(&mut self) -> Bytes {
        const NAMES: [&str; 6] = ["a", "b", "c", "dd", "\u{e9}", "-"];
        Bytes::from_static(NAMES[self.chance.below(6) as usize].as_bytes())
    }

    fn ino(&mut self, model: &Model, wanted: impl Fn(&Node) -> bool) -> Option<Ino> {
        let fitting: Vec<Ino> =
            model.now.nodes.iter().filter(|(_, n)| wanted(n)).map(|(ino, _)| *ino).collect();
        self.chance.pick(&fitting)
    }

    fn dir(&mut self, model: &Model) -> Ino {
        self.ino(model, Node::is_dir).unwrap_or(Ino::ROOT)
    }

    fn file(&mut self, model: &Model) -> Option<Ino> {
        // Now and then something that is no file, to be refused.
        if self.chance.one_in(20) {
            return self.ino(model, |_| true);
        }
        self.ino(model, |node| node.kind == FileKind::File)
    }

    /// A name that is there, mostly.
    fn entry(&mut self, model: &Model) -> (Ino, Bytes) {
        let filled = self.ino(model, |node| !node.entries.is_empty());
        match filled {
            Some(dir) if !self.chance.one_in(15) => {
                let names: Vec<&Bytes> = model.now.nodes[&dir].entries.keys().collect();
                (dir, self.chance.pick(&names).expect("the directory is filled").clone())
            }
            _ => (self.dir(model), self.name()),
        }
    }

    fn offset(&mut self) -> u64 {
        const REGION: u64 = 1 << 20;
        match self.chance.below(20) {
            0 => REGION - self.chance.below(3000),
            1 => REGION + self.chance.below(3000),
            2 => 3 * REGION - self.chance.below(20),
            3..=6 => 0,
            _ => self.chance.below(6000),
        }
    }

    /// Where a file is likely to be looked at: its end, or anywhere.
    fn place(&mut self, model: &Model, ino: Ino) -> u64 {
        let size = model.now.nodes[&ino].size;
        if self.chance.one_in(2) { size } else { self.offset() }
    }

    fn block(&mut self) -> BlockId {
        self.next_block += 1;
        BlockId { session: SessionId(9), number: self.next_block }
    }

    fn pieces(&mut self, offset: u64, len: u64) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for (_, _, len) in regions(offset, len) {
            let fill = self.chance.next();
            let bytes: Bytes =
                (0..u64::from(len)).map(|n| (fill.rotate_left(n as u32 % 61) ^ n) as u8).collect();
            let piece = if bytes.len() <= INLINE_BYTES_MAX && !self.chance.one_in(3) {
                Piece::Inline(bytes)
            } else {
                let block = self.block();
                self.made.push((block, bytes.clone()));
                if self.chance.one_in(3) {
                    Piece::Block { block, len }
                } else {
                    Piece::Payload { block, frame: Frame::pack(&bytes, 1).to_bytes(), len }
                }
            };
            pieces.push(piece);
        }
        pieces
    }

    /// The next op of a client. `None` where what was drawn makes no sense for this tree.
    pub(super) fn op(&mut self, model: &Model) -> Option<Op> {
        let time = self.time();
        let op = match self.chance.below(100) {
            0..=17 => self.creation(model, time),
            18..=20 => {
                let (ino, dir) = (self.ino(model, |_| true)?, self.dir(model));
                Op::Link { ino, dir, name: self.name(), time }
            }
            21..=29 => {
                let (dir, name) = self.entry(model);
                Op::Unlink { dir, name, keep_open: self.chance.one_in(4), time }
            }
            30..=32 => {
                let (dir, name) = self.entry(model);
                Op::Rmdir { dir, name, keep_open: self.chance.one_in(4), time }
            }
            33..=42 => {
                let (dir, name) = self.entry(model);
                let (new_dir, new_name) = match self.chance.one_in(2) {
                    true => self.entry(model),
                    false => (self.dir(model), self.name()),
                };
                let how = match self.chance.below(6) {
                    0 => RenameHow::NoReplace,
                    1 => RenameHow::Exchange,
                    _ => RenameHow::Replace,
                };
                let keep_open = self.chance.one_in(4);
                Op::Rename { dir, name, new_dir, new_name, how, keep_open, time }
            }
            43..=49 => self.attributes(model, time)?,
            50..=67 => {
                let ino = self.file(model)?;
                let offset = self.place(model, ino);
                let len = match self.chance.below(4) {
                    0 => 1 + self.chance.below(20),
                    1 => 1 + self.chance.below(6000),
                    _ => 1 + self.chance.below(INLINE_BYTES_MAX as u64),
                };
                let pieces = self.pieces(offset, len);
                let clear_suid = self.chance.one_in(8);
                Op::Write { ino, offset, pieces, clear_suid, time }
            }
            68..=70 => {
                let (ino, offset) = (self.file(model)?, self.offset());
                let len = 1 + self.chance.below(4000);
                Op::Zero { ino, offset, len, extend: self.chance.one_in(3), time }
            }
            71..=74 => {
                let how = match self.chance.below(4) {
                    0 => XattrHow::Create,
                    1 => XattrHow::Replace,
                    _ => XattrHow::Set,
                };
                let value = vec![b'v'; self.chance.below(40) as usize].into();
                let (ino, name) = (self.ino(model, |_| true)?, self.xattr_name());
                Op::SetXattr { ino, name, value, how, time }
            }
            75 => {
                Op::RemoveXattr { ino: self.ino(model, |_| true)?, name: self.xattr_name(), time }
            }
            76..=92 => Op::Version { ino: self.file(model)? },
            93 => {
                let orphans: Vec<Ino> = model.now.orphans.iter().copied().collect();
                Op::Release { ino: self.chance.pick(&orphans)? }
            }
            94 => Op::Accessed { ino: self.ino(model, |_| true)?, time },
            95 if self.with_forgetting => {
                Op::SetHistory { ino: self.dir(model), keep: self.chance.one_in(2), time }
            }
            _ => Op::Version { ino: self.file(model)? },
        };
        Some(op)
    }

    fn creation(&mut self, model: &Model, time: Time) -> Op {
        let (dir, name) = (self.dir(model), self.name());
        self.next_ino += 1;
        let ino = Ino::new(self.next_ino).expect("numbers begin above zero");
        let kind = match self.chance.below(8) {
            0 | 1 => FileKind::Directory,
            2 => FileKind::Symlink,
            3 => FileKind::Fifo,
            _ => FileKind::File,
        };
        let mut target = Bytes::new();
        if kind == FileKind::Symlink {
            target = vec![b't'; 1 + self.chance.below(30) as usize].into();
        }
        let mode = self.chance.below(0o10000) as u32;
        Op::Create { dir, name, ino, kind, mode, uid: 5, gid: 6, rdev: 0, target, time }
    }

    fn xattr_name(&mut self) -> Bytes {
        const NAMES: [&str; 3] = ["user.a", "user.b", "security.capability"];
        Bytes::from_static(NAMES[self.chance.below(3) as usize].as_bytes())
    }

    fn attributes(&mut self, model: &Model, time: Time) -> Option<Op> {
        let mut set = SetAttr::default();
        let ino = match self.chance.below(3) {
            0 => {
                let ino = self.file(model)?;
                let size = model.now.nodes[&ino].size;
                set.size = Some(match self.chance.below(4) {
                    0 | 1 => 0,
                    2 => self.offset(),
                    _ => self.chance.below(size + 2),
                });
                set.clear_suid = self.chance.one_in(3);
                ino
            }
            1 => {
                set.mode = Some(self.chance.below(0o10000) as u32);
                self.ino(model, |_| true)?
            }
            _ => {
                if self.chance.one_in(2) {
                    set.uid = Some(self.chance.below(9) as u32);
                    set.gid = Some(self.chance.below(9) as u32);
                }
                if self.chance.one_in(2) {
                    set.atime = Some(self.time());
                    set.mtime = Some(Time { secs: -7, nanos: 5 });
                }
                self.ino(model, |_| true)?
            }
        };
        Some(Op::SetAttr { ino, set, time })
    }

    /// Contents of another file, or of another time. Alone in a batch of the server's.
    pub(super) fn clone_op(&mut self, model: &Model) -> Option<Op> {
        let time = self.time();
        let as_of = match self.chance.one_in(3) {
            true => AsOf::Now,
            false => {
                let stamps: Vec<_> = model.past.keys().copied().collect();
                AsOf::At(self.chance.pick(&stamps)?)
            }
        };
        let from = match as_of {
            AsOf::Now => self.file(model)?,
            AsOf::At(at) => {
                let tree = &model.past[&at];
                let is_file = |node: &Node| node.kind == FileKind::File;
                let files: Vec<Ino> =
                    tree.nodes.iter().filter(|(_, n)| is_file(n)).map(|(ino, _)| *ino).collect();
                self.chance.pick(&files)?
            }
        };
        let ino = match self.chance.one_in(2) {
            // The same file as it was: what restoring does.
            true if model.now.nodes.contains_key(&from) => from,
            _ => self.file(model)?,
        };
        let from_offset = if self.chance.one_in(2) { 0 } else { self.offset() };
        let offset = if self.chance.one_in(2) { from_offset } else { self.offset() };
        let len = if self.chance.one_in(3) { self.offset() + 1 } else { 4 << 20 };
        Some(Op::Clone { from, as_of, from_offset, ino, offset, len, time })
    }

    pub(super) fn mark(&mut self) -> Op {
        let name = format!("mark {}", self.chance.below(6)).into();
        Op::Mark { name, note: "a note".to_owned(), uid: 3 }
    }
}
