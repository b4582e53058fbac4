//! What may follow `-o`, as far as it is the kernel's business.

use rustix::mount::MountFlags;
use std::time::Duration;

/// Unless something else is asked for.
const LINGER: Duration = Duration::from_micros(100);

/// How a file system is mounted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountOptions {
    /// What `df` and `mount` show as the device, as `tsfs#/var/lib/store`.
    pub source: String,
    pub flags: MountFlags,
    /// Whether users other than the one who mounts may enter. `None`: if it is root.
    pub allow_other: Option<bool>,
    /// Mount over a directory that has entries, hiding them.
    pub nonempty: bool,
    /// Threads that read the kernel's requests.
    pub threads: usize,
    /// How long one of them watches for the next request before it sleeps.
    pub linger: Duration,
}

impl MountOptions {
    pub fn new(source: String) -> MountOptions {
        MountOptions {
            source,
            flags: MountFlags::empty(),
            allow_other: None,
            nonempty: false,
            threads: 4,
            linger: LINGER,
        }
    }

    /// Takes one word from between the commas of `-o`. False where it is none of these.
    pub fn accept(&mut self, word: &str) -> bool {
        if let Some((_, flag, on)) = FLAGS.iter().find(|(name, ..)| *name == word) {
            self.flags.set(*flag, *on);
            return true;
        }
        match word {
            "allow_other" => self.allow_other = Some(true),
            "noallow_other" => self.allow_other = Some(false),
            "nonempty" => self.nonempty = true,
            _ => return IGNORED.contains(&word) || word.starts_with("x-"),
        }
        true
    }

    pub fn read_only(&self) -> bool {
        self.flags.contains(MountFlags::RDONLY)
    }

    /// Every word that [`MountOptions::accept`] takes, for an error that lists them.
    pub fn words() -> impl Iterator<Item = &'static str> {
        let flags = FLAGS.iter().map(|(name, ..)| *name);
        flags.chain(["allow_other", "noallow_other", "nonempty"])
    }

    /// The words for fusermount3, which knows the same ones but says "on" by leaving them out.
    pub(super) fn flag_words(&self) -> impl Iterator<Item = &'static str> + '_ {
        let set = |(_, flag, on): &&(&str, MountFlags, bool)| *on && self.flags.contains(*flag);
        FLAGS.iter().filter(set).map(|(name, ..)| *name)
    }
}

/// The word, the flag, and what the word makes of it.
const FLAGS: &[(&str, MountFlags, bool)] = &[
    ("ro", MountFlags::RDONLY, true),
    ("rw", MountFlags::RDONLY, false),
    ("nosuid", MountFlags::NOSUID, true),
    ("suid", MountFlags::NOSUID, false),
    ("nodev", MountFlags::NODEV, true),
    ("dev", MountFlags::NODEV, false),
    ("noexec", MountFlags::NOEXEC, true),
    ("exec", MountFlags::NOEXEC, false),
    ("sync", MountFlags::SYNCHRONOUS, true),
    ("async", MountFlags::SYNCHRONOUS, false),
    ("dirsync", MountFlags::DIRSYNC, true),
    ("noatime", MountFlags::NOATIME, true),
    ("atime", MountFlags::NOATIME, false),
    ("nodiratime", MountFlags::NODIRATIME, true),
    ("diratime", MountFlags::NODIRATIME, false),
];

/// For mount(8), systemd and fstab; or the only way there is here.
const IGNORED: &[&str] = &[
    "",
    "defaults",
    "default_permissions",
    "relatime",
    "norelatime",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "nofail",
    "_netdev",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_words_win_and_unknown_ones_are_told() {
        let mut options = MountOptions::new("tsfs#x".to_owned());
        for word in "defaults,ro,rw,nosuid,noexec,exec,x-systemd.automount,nonempty".split(',') {
            assert!(options.accept(word), "{word}");
        }
        assert!(!options.read_only());
        assert_eq!(options.flags, MountFlags::NOSUID);
        assert!(options.nonempty);
        assert_eq!(options.flag_words().collect::<Vec<_>>(), ["nosuid"]);
        for word in ["noatme", "at=yesterday", "RO"] {
            assert!(!options.accept(word), "{word}");
        }
        for word in MountOptions::words() {
            assert!(options.accept(word), "{word}");
        }
    }
}
