//! What two mounts do to one file or one directory, and what may come of it if everybody takes turns.
//!
//! A register is eight bytes of a file, written and read by single calls. A directory has a few names; each thing that is put there is a
//! symbolic link that says which it is, so a name is read and made by single calls. Not here: who does what when (`load`).

use super::history::Event;
use super::judge::Model;
use super::judge::WAYS;
use rustix::fs::CWD;
use rustix::fs::RenameFlags;
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::path::Path;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RegisterOp {
    Read,
    /// Never zero, and never the same twice.
    Write(u64),
}

/// Eight bytes of a file; zero is an empty file.
pub(super) struct Register;

impl Model for Register {
    type State = u64;
    type Op = RegisterOp;
    type Answer = u64;

    fn step(state: &u64, op: &RegisterOp, answer: Option<&u64>) -> [Option<u64>; WAYS] {
        let after = match op {
            RegisterOp::Read => answer.is_none_or(|seen| seen == state).then_some(*state),
            RegisterOp::Write(value) => Some(*value),
        };
        [after, None]
    }
}

impl RegisterOp {
    /// Does it to a file. What was read, or zero.
    pub(super) fn perform(self, file: impl AsFd) -> Result<u64, Errno> {
        match self {
            RegisterOp::Read => {
                let mut bytes = [0; 8];
                match rustix::io::pread(file, &mut bytes, 0)? {
                    0 => Ok(0),
                    8 => Ok(u64::from_le_bytes(bytes)),
                    // No single write leaves this: it is nobody's value.
                    torn => Ok(u64::MAX - torn as u64),
                }
            }
            RegisterOp::Write(value) => match rustix::io::pwrite(file, &value.to_le_bytes(), 0)? {
                8 => Ok(0),
                _ => Err(Errno::IO),
            },
        }
    }
}

/// How many names of a directory are in use.
pub(super) const NAMES: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NamesOp {
    Read(usize),
    /// symlink(2): only where there is nothing.
    Make(usize, u32),
    /// rename(2) of something that was made apart: whatever is there.
    Replace(usize, u32),
    Rename(usize, usize),
    Exchange(usize, usize),
    Unlink(usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NamesAnswer {
    Done,
    Exists,
    Missing,
    Saw(u32),
    /// Done, unless both names stood for one thing when they were looked at; see [`leave_open`].
    DoneOrSame,
}

/// Which thing each name stands for; zero is none.
pub(super) struct Names;

impl Model for Names {
    type State = [u32; NAMES];
    type Op = NamesOp;
    type Answer = NamesAnswer;

    fn step(
        state: &[u32; NAMES],
        op: &NamesOp,
        answer: Option<&NamesAnswer>,
    ) -> [Option<[u32; NAMES]>; WAYS] {
        let mut after = *state;
        let result = match *op {
            NamesOp::Read(n) if state[n] == 0 => NamesAnswer::Missing,
            NamesOp::Read(n) => NamesAnswer::Saw(state[n]),
            NamesOp::Make(n, _) if state[n] != 0 => NamesAnswer::Exists,
            NamesOp::Make(n, thing) | NamesOp::Replace(n, thing) => {
                after[n] = thing;
                NamesAnswer::Done
            }
            NamesOp::Unlink(n) | NamesOp::Rename(n, _) if state[n] == 0 => NamesAnswer::Missing,
            NamesOp::Unlink(n) => {
                after[n] = 0;
                NamesAnswer::Done
            }
            NamesOp::Rename(from, to) => {
                (after[from], after[to]) = (0, state[from]);
                NamesAnswer::Done
            }
            NamesOp::Exchange(one, other) if state[one] == 0 || state[other] == 0 => {
                NamesAnswer::Missing
            }
            NamesOp::Exchange(one, other) => {
                after.swap(one, other);
                NamesAnswer::Done
            }
        };
        match answer {
            Some(NamesAnswer::DoneOrSame) => {
                [(result == NamesAnswer::Done).then_some(after), Some(*state)]
            }
            answer => [answer.is_none_or(|answer| *answer == result).then_some(after), None],
        }
    }
}

/// The kernel looks at both names before it moves one, and where it sees one thing behind both it has nothing to do. On one
/// machine that is so then; between its looks another mount may have moved the thing from one to the other. So of those that
/// were done while another mount moved something it stays open whether they did anything. `mount`: whose a thread is.
pub(super) fn leave_open(
    history: &mut [Event<NamesOp, NamesAnswer>],
    mount: impl Fn(usize) -> usize,
) {
    let moves = |op: NamesOp| matches!(op, NamesOp::Rename(..) | NamesOp::Exchange(..));
    let moved: Vec<_> = history.iter().filter(|event| moves(event.op)).cloned().collect();
    for event in history.iter_mut().filter(|event| moves(event.op)) {
        let Some((NamesAnswer::Done, until)) = event.answer else { continue };
        let meanwhile = |other: &Event<NamesOp, NamesAnswer>| {
            let over = other.answer.is_some_and(|(_, at)| at < event.asked);
            mount(other.who) != mount(event.who) && other.asked < until && !over
        };
        if moved.iter().any(meanwhile) {
            event.answer = Some((NamesAnswer::DoneOrSame, until));
        }
    }
}

impl NamesOp {
    /// Does it in a directory; `apart` is one that nobody else uses.
    pub(super) fn perform(self, dir: &Path, apart: &Path) -> Result<NamesAnswer, Errno> {
        let name = |n: usize| dir.join(format!("name{n}"));
        let result = match self {
            NamesOp::Read(n) => rustix::fs::readlink(name(n), Vec::new()).map(|target| {
                let thing = target.to_str().ok().and_then(|text| text.parse().ok());
                NamesAnswer::Saw(thing.unwrap_or(u32::MAX))
            }),
            NamesOp::Make(n, thing) => {
                rustix::fs::symlink(thing.to_string(), name(n)).map(|()| NamesAnswer::Done)
            }
            NamesOp::Replace(n, thing) => {
                rustix::fs::rename(apart.join(thing.to_string()), name(n))
                    .map(|()| NamesAnswer::Done)
            }
            NamesOp::Rename(from, to) => {
                rustix::fs::rename(name(from), name(to)).map(|()| NamesAnswer::Done)
            }
            NamesOp::Exchange(one, other) => {
                let (one, other) = (name(one), name(other));
                rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)
                    .map(|()| NamesAnswer::Done)
            }
            NamesOp::Unlink(n) => rustix::fs::unlink(name(n)).map(|()| NamesAnswer::Done),
        };
        match result {
            Err(Errno::NOENT) => Ok(NamesAnswer::Missing),
            Err(Errno::EXIST) => Ok(NamesAnswer::Exists),
            result => result,
        }
    }

    /// Makes ready what the operation needs and nobody else sees.
    pub(super) fn prepare(self, apart: &Path) -> Result<(), Errno> {
        match self {
            NamesOp::Replace(_, thing) => {
                let text = thing.to_string();
                rustix::fs::symlink(&text, apart.join(&text))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::NAMES;
    use super::Names;
    use super::NamesAnswer;
    use super::NamesOp;
    use super::leave_open;
    use crate::cluster::history::Event;
    use crate::cluster::history::clock;
    use crate::cluster::judge::BUDGET;
    use crate::cluster::judge::Verdict;
    use crate::cluster::judge::judge;
    use crate::support;
    use crate::support::Random;
    use std::path::Path;

    /// One of every kind, at random.
    fn any(random: &mut Random, thing: u32) -> NamesOp {
        let n = random.below(NAMES as u64) as usize;
        let other = (n + 1 + random.below(NAMES as u64 - 1) as usize) % NAMES;
        match random.below(8) {
            0..3 => NamesOp::Read(n),
            3 => NamesOp::Make(n, thing),
            4 => NamesOp::Replace(n, thing),
            5 => NamesOp::Rename(n, other),
            6 => NamesOp::Exchange(n, other),
            _ => NamesOp::Unlink(n),
        }
    }

    /// What four threads do at once in a directory of this machine's own file system.
    fn contend(dir: &Path) -> Vec<Event<NamesOp, NamesAnswer>> {
        let worker = |who: usize| {
            let mut random = Random::new(who as u64);
            let each = |n: u32| {
                let op = any(&mut random, who as u32 * 1000 + n + 1);
                op.prepare(dir).unwrap();
                let asked = clock();
                let answer = op.perform(dir, dir).unwrap();
                Event { who, asked, op, answer: Some((answer, clock())) }
            };
            (0..100).map(each).collect::<Vec<_>>()
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|who| scope.spawn(move || worker(who))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn the_model_agrees_with_the_disk_of_this_machine() {
        let scratch = support::scratch();
        let mut events = contend(scratch.path());
        assert_eq!(judge::<Names>([0; NAMES], &events, BUDGET), Verdict::Linear);
        // Somebody reads, at the end, what was unlinked or replaced in the beginning.
        let first = events.iter().find_map(|event| match (event.op, event.answer) {
            (NamesOp::Make(n, thing), Some((NamesAnswer::Done, _))) => Some((n, thing)),
            _ => None,
        });
        let (n, thing) = first.expect("something was made");
        let (asked, saw) = (clock(), NamesAnswer::Saw(thing));
        let gone = |event: &Event<NamesOp, NamesAnswer>| {
            event.op == NamesOp::Unlink(n) && matches!(event.answer, Some((NamesAnswer::Done, _)))
        };
        assert!(events.iter().any(gone));
        events.push(Event { who: 9, asked, op: NamesOp::Unlink(n), answer: None });
        let (asked, answered) = (asked + 1, asked + 2);
        events.push(Event { who: 9, asked, op: NamesOp::Read(n), answer: Some((saw, answered)) });
        let verdict = judge::<Names>([0; NAMES], &events, BUDGET);
        assert!(matches!(verdict, Verdict::Impossible(_)), "{verdict}");
    }

    #[test]
    fn planted_faults_are_found() {
        use NamesAnswer::Done;
        use NamesAnswer::Exists;
        use NamesAnswer::Missing;
        use NamesAnswer::Saw;
        let linear = |ops: &[(NamesOp, NamesAnswer)]| {
            let event = |(n, (op, answer)): (usize, &(NamesOp, NamesAnswer))| {
                let asked = n as u64 * 2 + 1;
                Event { who: 0, asked, op: *op, answer: Some((*answer, asked + 1)) }
            };
            let events: Vec<_> = ops.iter().enumerate().map(event).collect();
            judge::<Names>([0; NAMES], &events, BUDGET) == Verdict::Linear
        };
        let made = (NamesOp::Make(0, 5), Done);
        let moved = (NamesOp::Rename(0, 1), Done);
        assert!(linear(&[made, moved, (NamesOp::Read(0), Missing), (NamesOp::Read(1), Saw(5))]));
        assert!(!linear(&[made, (NamesOp::Make(0, 6), Done)]), "two winners");
        assert!(!linear(&[(NamesOp::Make(0, 6), Exists)]), "nobody won");
        assert!(!linear(&[made, moved, (NamesOp::Read(0), Saw(5))]), "in two places");
        assert!(!linear(&[made, (NamesOp::Unlink(0), Done), (NamesOp::Unlink(0), Done)]), "twice");
        let replaced = (NamesOp::Replace(1, 6), Done);
        let swapped = (NamesOp::Exchange(0, 1), Done);
        assert!(linear(&[made, replaced, swapped, (NamesOp::Read(0), Saw(6))]));
        assert!(!linear(&[made, replaced, swapped, (NamesOp::Read(0), Saw(5))]));
    }

    #[test]
    fn a_move_may_do_nothing_only_while_another_mount_moves() {
        use NamesAnswer::Done;
        let event = |who, (asked, until), op, answer| Event {
            who,
            asked,
            op,
            answer: Some((answer, until)),
        };
        let history = |moved: (u64, u64)| {
            let mut events = vec![
                event(0, (1, 2), NamesOp::Make(0, 5), Done),
                event(0, (10, 20), NamesOp::Rename(0, 1), Done),
                event(1, moved, NamesOp::Rename(0, 1), Done),
            ];
            leave_open(&mut events, |who| who);
            judge::<Names>([0; NAMES], &events, BUDGET)
        };
        assert_eq!(history((19, 30)), Verdict::Linear);
        assert!(matches!(history((21, 30)), Verdict::Impossible(_)), "moved twice");
        let mut one = vec![
            event(0, (10, 20), NamesOp::Rename(0, 1), Done),
            event(1, (10, 20), NamesOp::Exchange(0, 1), Done),
        ];
        leave_open(&mut one, |_| 0);
        assert!(one.iter().all(|event| event.answer.is_some_and(|(answer, _)| answer == Done)));
    }
}
