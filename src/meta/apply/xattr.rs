//! Extended attributes: `SetXattr`, `RemoveXattr`.

use crate::meta::apply::Apply;
use crate::meta::apply::past_of;
use crate::meta::key;
use crate::meta::op::XattrHow;
use crate::series::Past;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::NAME_BYTES_MAX;
use crate::types::Time;
use crate::types::XATTR_BYTES_MAX;
use bytes::Bytes;

/// The version byte before the value of an attribute.
pub(crate) const XATTR_VERSION: u8 = 1;

impl Apply<'_> {
    pub(super) fn set_xattr(
        &mut self,
        ino: Ino,
        name: &[u8],
        value: &Bytes,
        how: XattrHow,
        time: Time,
    ) -> Result<(), FsError> {
        check_xattr_name(name)?;
        if value.len() > XATTR_BYTES_MAX {
            return Err(FsError::AttributeTooBig("a value has at most 65536 bytes"));
        }
        let mut inode = self.inode(ino)?;
        let key = key::xattr(ino, name);
        let exists = inode.has_xattrs && self.present.get(&key)?.is_some();
        match how {
            XattrHow::Create if exists => return Err(FsError::Exists),
            XattrHow::Replace if !exists => return Err(FsError::NoAttribute),
            _ => {}
        }

        let past = if inode.has_xattrs { past_of(&inode) } else { Past::Fresh };
        let row = [&[XATTR_VERSION], &value[..]].concat();
        self.present.put(&key, row.into(), past);
        if !inode.has_xattrs && self.is_replica() {
            self.step.attributes.insert(ino);
        }
        inode.has_xattrs = true;
        inode.ctime = time;
        self.put_inode(ino, &inode);
        Ok(())
    }

    pub(super) fn remove_xattr(
        &mut self,
        ino: Ino,
        name: &[u8],
        time: Time,
    ) -> Result<(), FsError> {
        check_xattr_name(name)?;
        let mut inode = self.inode(ino)?;
        let key = key::xattr(ino, name);
        if !inode.has_xattrs || self.present.get(&key)?.is_none() {
            return Err(FsError::NoAttribute);
        }

        self.present.remove(&key, past_of(&inode));
        inode.ctime = time;
        self.put_inode(ino, &inode);
        Ok(())
    }
}

fn check_xattr_name(name: &[u8]) -> Result<(), FsError> {
    match name.len() {
        1..=NAME_BYTES_MAX if !name.contains(&0) => Ok(()),
        1..=NAME_BYTES_MAX => Err(FsError::Invalid("an attribute's name has no zero byte")),
        0 => Err(FsError::Invalid("an attribute's name is empty")),
        _ => Err(FsError::AttributeTooBig("an attribute's name has at most 255 bytes")),
    }
}
