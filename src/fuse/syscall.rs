//! In which system call the thread waits that has sent a request, as proc(5) has it: what FUSE says and fuser does not pass on.
//!
//! A thread in a request sleeps until that is answered, so what is read of it does not change meanwhile. Reading it of others'
//! processes takes the right to trace them.

use std::time::Duration;

/// A thread that has sent a request goes to sleep at once. So many looks follow each other directly, the others at this interval;
/// one that still runs after all of them is not waited for.
const LOOKS_AT_ONCE: u32 = 20;
const LOOKS: u32 = 40;
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Of the effective capabilities.
const CAP_SYS_PTRACE: u64 = 1 << 19;

/// A call that locks a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Call {
    Flock,
    /// With this command.
    Fcntl(i32),
    Other,
    /// It is not asleep yet.
    Runs,
}

/// Whether the calls of others' processes can be told here: by who may trace them (`CAP_SYS_PTRACE`, capabilities(7)).
pub(super) fn can_be_told() -> bool {
    may_trace(&std::fs::read_to_string("/proc/self/status").unwrap_or_default())
}

fn may_trace(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & CAP_SYS_PTRACE != 0)
}

/// Whether a thread waits in `F_SETLKW`, and not in `F_OFD_SETLKW`, which look alike to FUSE. Not while it is only about to wait.
pub(super) fn locks_as_process(tid: u32) -> bool {
    call_of(tid) == Call::Fcntl(libc::F_SETLKW)
}

/// Whether a thread that has asked for a lock waits in `F_OFD_SETLKW`. False also where that cannot be told.
pub(super) fn locks_as_open_file(tid: u32) -> bool {
    call_asleep(tid) == Call::Fcntl(libc::F_OFD_SETLKW)
}

/// Whether a thread that has asked for a lock did so with flock(2). False also where that cannot be told.
pub(super) fn locks_by_flock(tid: u32) -> bool {
    call_asleep(tid) == Call::Flock
}

/// The call of a thread that goes to sleep in it, if it has not yet.
fn call_asleep(tid: u32) -> Call {
    for look in 0..LOOKS {
        match call_of(tid) {
            Call::Runs if look < LOOKS_AT_ONCE => std::thread::yield_now(),
            Call::Runs => pause(),
            call => return call,
        }
    }
    Call::Runs
}

#[expect(
    clippy::disallowed_methods,
    reason = "nobody tells when another process' thread goes to sleep"
)]
fn pause() {
    std::thread::sleep(LOOK_EVERY);
}

fn call_of(tid: u32) -> Call {
    // Zero: a thread of a process that this one's numbers do not reach.
    match tid {
        0 => Call::Other,
        tid => {
            call_in(&std::fs::read_to_string(format!("/proc/{tid}/syscall")).unwrap_or_default())
        }
    }
}

fn call_in(line: &str) -> Call {
    let mut words = line.split_ascii_whitespace();
    let number = match words.next() {
        Some("running") => return Call::Runs,
        word => word.and_then(|word| word.parse::<libc::c_long>().ok()),
    };
    match number {
        Some(libc::SYS_flock) => Call::Flock,
        Some(libc::SYS_fcntl) => {
            let command = words.nth(1).and_then(|word| word.strip_prefix("0x"));
            let command = command.and_then(|word| i32::from_str_radix(word, 16).ok());
            command.map_or(Call::Other, Call::Fcntl)
        }
        _ => Call::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_word_on_a_call_is_understood() {
        let line = |number: libc::c_long, command: &str| {
            format!(
                "{number} 0x3 {command} 0x7ffd7a1c2a30 0x0 0x0 0x0 0x7ffd7a1c29e8 0x7f1ba3e0d1b7\n"
            )
        };
        assert_eq!(call_in(&line(libc::SYS_flock, "0x2")), Call::Flock);
        assert_eq!(call_in(&line(libc::SYS_fcntl, "0x7")), Call::Fcntl(libc::F_SETLKW));
        assert_eq!(call_in(&line(libc::SYS_fcntl, "0x26")), Call::Fcntl(libc::F_OFD_SETLKW));
        assert_eq!(call_in(&line(libc::SYS_read, "0x7")), Call::Other);
        assert_eq!(call_in("running\n"), Call::Runs);
        assert_eq!(call_in("-1 0x7ffd7a1c29e8 0x7f1ba3e0d1b7\n"), Call::Other);
        assert_eq!(call_in(""), Call::Other);
    }

    #[test]
    fn who_may_trace_is_known() {
        let status = |mask: &str| format!("Name:\tx\nCapPrm:\t0\nCapEff:\t{mask}\nCapBnd:\t0\n");
        assert!(may_trace(&status("000001fffeffffff")) && may_trace(&status("0000000000080000")));
        assert!(!may_trace(&status("0000000000000000")) && !may_trace(&status("0000000000040000")));
        assert!(!may_trace(""));
    }

    #[test]
    fn a_thread_that_waits_for_no_lock_is_taken_for_none_that_does() {
        assert!(!locks_as_process(0) && !locks_as_process(std::process::id()));
        assert!(!locks_by_flock(0) && !locks_as_open_file(0));
    }
}
