//! A writer process, what its ledger says, and which beginnings of its changes what is left could be.
//!
//! Not here: what is done to the server meanwhile; how several writers' beginnings go together (`crash`).

use super::tree;
use super::tree::Model;
use super::tree::Tree;
use super::writer;
use super::writer::Entry;
use crate::support::Mount;
use crate::support::Running;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// Of a state that fits nowhere, how many comparisons a failure shows.
const DIFFERENCES_SHOWN: usize = 6;

/// A writer process and what is known of it.
pub(crate) struct Writer {
    pub(super) process: Running,
    pub(super) seed: u64,
    ledger: PathBuf,
}

impl Writer {
    /// Begins to change the directory `wINDEX` of a mount, which is there and empty.
    pub(crate) fn start(scratch: &Path, mount: &Mount, index: usize, seed: u64) -> Writer {
        let ledger = scratch.join(format!("ledger{index}"));
        std::fs::write(&ledger, []).unwrap();
        let top = mount.join(format!("w{index}"));
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "crash::writer_process", "--ignored", "--nocapture"]);
        command.env("TSFS_TEST_TOP", top).env("TSFS_TEST_LEDGER", &ledger);
        command.env("TSFS_TEST_SEED", seed.to_string());
        command.stdout(std::process::Stdio::null());
        Writer { process: Running::start(&mut command), seed, ledger }
    }

    /// How many changes have returned.
    pub(crate) fn progress(&self) -> u64 {
        std::fs::metadata(&self.ledger).unwrap().len() / Entry::BYTES as u64
    }

    pub(super) fn account(&self) -> Account {
        Account { seed: self.seed, entries: Entry::read(&self.ledger) }
    }

    /// Ends it, and compares its directory, as it is found now, with its changes: they are a beginning of them with all that was
    /// synced, and with all that returned where no `mount` died. Returns how many had returned.
    pub(crate) fn compare(&mut self, dir: &Path, mount_died: bool) -> Result<usize, String> {
        let ended = self.process.0.try_wait().map_err(|error| error.to_string())?;
        if let (false, Some(status)) = (mount_died, ended) {
            return Err(format!("the writer was told that the mount is gone, and ended: {status}"));
        }
        self.process.kill();
        let account = self.account();
        let synced = account.syncs().max().unwrap_or(0);
        let done = account.entries.len();
        let least = if mount_died { account.returned_before(synced) } else { done };
        let found = tree::read(dir).map_err(|error| error.to_string())?;
        account.survived(Model::default(), least, &found)?;
        Ok(done)
    }
}

/// What one writer's ledger says of one round.
pub(super) struct Account {
    pub(super) seed: u64,
    pub(super) entries: Vec<Entry>,
}

/// The prefixes of a writer's changes that what is left could be: the shortest and the longest.
pub(super) struct Survived {
    pub(super) shortest: usize,
    pub(super) longest: usize,
    pub(super) model: Model,
}

impl Account {
    /// How many of its changes had returned before `moment`.
    pub(super) fn returned_before(&self, moment: u64) -> usize {
        self.entries.iter().take_while(|entry| entry.answered < moment).count()
    }

    /// The moments at which a successful sync was asked for, with the number of the change.
    pub(super) fn syncs(&self) -> impl Iterator<Item = u64> {
        let sync = |(n, entry): (usize, &Entry)| {
            (entry.errno == 0 && writer::change(self.seed, n as u64).is_sync())
                .then_some(entry.asked)
        };
        self.entries.iter().enumerate().filter_map(sync)
    }

    /// Replays the changes on `model` until they give what was found, not stopping before `least`.
    pub(super) fn survived(
        &self,
        mut model: Model,
        least: usize,
        found: &Tree,
    ) -> Result<Survived, String> {
        let mut fit: Option<Survived> = None;
        let mut differences = Vec::new();
        for n in 0..=self.entries.len() + 1 {
            let change = writer::change(self.seed, n as u64);
            if n >= least {
                let beginnings = change.beginnings(&model).into_iter().map(|beginning| {
                    let mut model = model.clone();
                    // One that fails changes nothing.
                    let _ = beginning.apply(&mut model);
                    model
                });
                let mut states = std::iter::once(model.clone()).chain(beginnings);
                let how = tree::difference(&model.tree(), found);
                if let Some(model) =
                    states.find(|state| tree::difference(&state.tree(), found).is_none())
                {
                    let shortest = fit.map_or(n, |fit| fit.shortest);
                    fit = Some(Survived { shortest, longest: n, model });
                } else if let Some(how) = how {
                    differences.push(format!("before change {n} {change:.60?}: {how}"));
                }
            }
            let expected =
                change.apply(&mut model).map_or_else(|errno| errno.raw_os_error(), |()| 0);
            if let Some(entry) = self.entries.get(n)
                && entry.errno != expected
            {
                return Err(format!(
                    "change {n} {change:.40?} was answered {}, not {expected}",
                    entry.errno
                ));
            }
        }
        fit.ok_or_else(|| {
            let done = self.entries.len();
            differences.truncate(DIFFERENCES_SHOWN);
            format!(
                "what is left is no prefix of at least {least} of {done} changes: {differences:#?}"
            )
        })
    }
}
