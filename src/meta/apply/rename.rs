//! `Rename`: plain, NOREPLACE, EXCHANGE.

use crate::meta::apply::Apply;
use crate::meta::apply::check_name;
use crate::meta::apply::create::LINKS_MAX;
use crate::meta::apply::gain_entry;
use crate::meta::apply::lose_entry;
use crate::meta::apply::past_of_entry;
use crate::meta::op::RenameHow;
use crate::meta::record::Dirent;
use crate::meta::record::Inode;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::Time;

/// From where to where.
#[derive(Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) dir: Ino,
    pub(super) name: &'a [u8],
    pub(super) new_dir: Ino,
    pub(super) new_name: &'a [u8],
}

/// The two directories of a rename, which may be one.
struct Dirs {
    from: Inode,
    /// `None` where both names are in `from`.
    to: Option<Inode>,
}

impl Dirs {
    fn to(&mut self) -> &mut Inode {
        self.to.as_mut().unwrap_or(&mut self.from)
    }
}

/// An entry and what it names.
struct Entry {
    dirent: Dirent,
    inode: Inode,
}

impl Apply<'_> {
    pub(super) fn rename(
        &mut self,
        names: Names<'_>,
        how: RenameHow,
        keep_open: bool,
        time: Time,
    ) -> Result<(), FsError> {
        check_name(names.name)?;
        check_name(names.new_name)?;
        let from = self.dir(names.dir)?;
        let to = match names.new_dir == names.dir {
            true => None,
            false => Some(self.dir_to_fill(names.new_dir)?),
        };
        let dirs = Dirs { from, to };
        let source = self.dirent(names.dir, names.name)?.ok_or(FsError::NotFound)?;
        let target = self.dirent(names.new_dir, names.new_name)?;
        match (how, target) {
            (RenameHow::NoReplace, Some(_)) => return Err(FsError::Exists),
            (RenameHow::Exchange, None) => return Err(FsError::NotFound),
            // Two names of one file: POSIX wants nothing done.
            (_, Some(target)) if target.ino == source.ino => return Ok(()),
            _ => {}
        }
        let source = Entry { dirent: source, inode: self.named(source.ino)? };
        if source.inode.is_dir() && self.is_within(names.new_dir, names.dir, source.dirent.ino)? {
            return Err(FsError::Invalid("a directory cannot move into itself"));
        }
        let target = match target {
            None => None,
            Some(dirent) => Some(Entry { dirent, inode: self.named(dirent.ino)? }),
        };
        match target {
            None => self.rename_free(names, dirs, source, time),
            Some(target) if how == RenameHow::Exchange => {
                self.exchange(names, dirs, source, target, time)
            }
            Some(target) => self.rename_over(names, dirs, source, target, keep_open, time),
        }
    }

    /// To a name that is not taken.
    fn rename_free(
        &mut self,
        names: Names<'_>,
        mut dirs: Dirs,
        source: Entry,
        time: Time,
    ) -> Result<(), FsError> {
        let is_dir = source.inode.is_dir();
        if is_dir && dirs.to.as_ref().is_some_and(|to| to.nlink >= LINKS_MAX) {
            return Err(FsError::TooManyLinks);
        }
        let past = past_of_entry(dirs.to(), source.inode.transient);
        self.remove_dirent(
            names.dir,
            names.name,
            past_of_entry(&dirs.from, source.inode.transient),
        );
        self.put_dirent(names.new_dir, names.new_name, source.dirent, past);
        self.put_moved(source, names.new_dir, time);
        lose_entry(&mut dirs.from, is_dir, time);
        gain_entry(dirs.to(), is_dir, time);
        self.put_dirs(names, dirs);
        Ok(())
    }

    /// Over another file, or an empty directory.
    fn rename_over(
        &mut self,
        names: Names<'_>,
        mut dirs: Dirs,
        source: Entry,
        target: Entry,
        keep_open: bool,
        time: Time,
    ) -> Result<(), FsError> {
        let is_dir = source.inode.is_dir();
        match (is_dir, target.inode.is_dir()) {
            (false, true) => return Err(FsError::IsDirectory),
            (true, false) => return Err(FsError::NotDirectory),
            (true, true) if target.inode.size > 0 => return Err(FsError::NotEmpty),
            _ => {}
        }
        self.keep_finished(target.dirent.ino)?;

        let was = past_of_entry(dirs.to(), target.inode.transient);
        let past = past_of_entry(dirs.to(), source.inode.transient);
        self.remove_dirent(
            names.dir,
            names.name,
            past_of_entry(&dirs.from, source.inode.transient),
        );
        self.replace_dirent(names.new_dir, names.new_name, was, source.dirent, past);
        self.put_moved(source, names.new_dir, time);
        self.drop_link(target.dirent.ino, target.inode, keep_open, time)?;
        lose_entry(&mut dirs.from, is_dir, time);
        lose_entry(dirs.to(), is_dir, time);
        gain_entry(dirs.to(), is_dir, time);
        self.put_dirs(names, dirs);
        Ok(())
    }

    fn exchange(
        &mut self,
        names: Names<'_>,
        mut dirs: Dirs,
        source: Entry,
        target: Entry,
        time: Time,
    ) -> Result<(), FsError> {
        if target.inode.is_dir() && self.is_within(names.dir, names.new_dir, target.dirent.ino)? {
            return Err(FsError::Invalid("a directory cannot move into itself"));
        }
        let (there, back) = (source.inode.is_dir(), target.inode.is_dir());
        if let Some(to) = &dirs.to
            && (there && !back && to.nlink >= LINKS_MAX
                || back && !there && dirs.from.nlink >= LINKS_MAX)
        {
            return Err(FsError::TooManyLinks);
        }
        let Names { dir, name, new_dir, new_name } = names;
        let (hides, hidden) = (source.inode.transient, target.inode.transient);
        let (was, past) = (past_of_entry(&dirs.from, hides), past_of_entry(&dirs.from, hidden));
        self.replace_dirent(dir, name, was, target.dirent, past);
        let (was, past) = (past_of_entry(dirs.to(), hidden), past_of_entry(dirs.to(), hides));
        self.replace_dirent(new_dir, new_name, was, source.dirent, past);
        self.put_moved(source, new_dir, time);
        self.put_moved(target, dir, time);
        lose_entry(&mut dirs.from, there, time);
        gain_entry(&mut dirs.from, back, time);
        lose_entry(dirs.to(), back, time);
        gain_entry(dirs.to(), there, time);
        self.put_dirs(names, dirs);
        Ok(())
    }

    fn put_moved(&mut self, entry: Entry, dir: Ino, time: Time) {
        let Entry { dirent, mut inode } = entry;
        inode.parent = inode.is_dir().then_some(dir);
        inode.ctime = time;
        self.put_inode(dirent.ino, &inode);
    }

    fn put_dirs(&mut self, names: Names<'_>, dirs: Dirs) {
        self.put_inode(names.dir, &dirs.from);
        if let Some(to) = dirs.to {
            self.put_inode(names.new_dir, &to);
        }
    }

    /// Whether directory `dir` is `ancestor` or lies below it. `known` does not, and neither does anything above it.
    fn is_within(&mut self, dir: Ino, known: Ino, ancestor: Ino) -> Result<bool, FsError> {
        let mut at = dir;
        while at != known && at != Ino::ROOT {
            if at == ancestor {
                return Ok(true);
            }
            let damaged = || FsError::Damaged(format!("directory {at} has no parent"));
            at = self.named(at)?.parent.ok_or_else(damaged)?;
        }
        Ok(false)
    }
}
