//! Whether the thread that calls may wait for a network.
//!
//! Which one may is a matter of the thread, not of the call: those that take the kernel's requests may not, for while they
//! all wait nobody takes the request that would end it. Not here: waits for a disk of this machine.

use crate::types::FsError;
use std::cell::Cell;

thread_local! {
    /// `None`: it may wait. Otherwise whether it would have had to.
    static WOULD_WAIT: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Ends what `at_once` began, by a panic too.
struct Over(Option<bool>);

impl Drop for Over {
    fn drop(&mut self) {
        WOULD_WAIT.set(self.0);
    }
}

/// Makes a call that must not wait for a network. `None` where it would have had to: it did nothing that could not be done
/// again, and is to be repeated on a thread that may wait.
pub fn at_once<T>(call: impl FnOnce() -> T) -> Option<T> {
    let _over = Over(WOULD_WAIT.replace(Some(false)));
    let answer = call();
    (WOULD_WAIT.get() != Some(true)).then_some(answer)
}

/// For the rest of a call that must not be repeated: it may wait, wherever it is made.
pub fn waiting<T>(call: impl FnOnce() -> T) -> T {
    let _over = Over(WOULD_WAIT.replace(None));
    call()
}

/// # Errors
/// Where this thread may not wait. The error means nothing: the call is repeated.
pub(super) fn may_wait() -> Result<(), FsError> {
    match WOULD_WAIT.get() {
        None => Ok(()),
        Some(_) => {
            WOULD_WAIT.set(Some(true));
            Err(FsError::Unreachable("a thread that may not wait would have to".to_owned()))
        }
    }
}

/// Whether a call on this thread was ended because it would have had to wait.
pub fn would_wait() -> bool {
    WOULD_WAIT.get() == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_would_wait_is_told_from_one_that_failed() {
        assert_eq!(at_once(|| 1), Some(1));
        assert!(at_once(|| may_wait().is_ok()).is_none());
        assert!(may_wait().is_ok(), "it is over");
        assert!(at_once(|| waiting(may_wait)).is_some_and(|answer| answer.is_ok()));
        let panicked = std::panic::catch_unwind(|| at_once(|| panic!("within")));
        assert!(panicked.is_err() && may_wait().is_ok());
    }
}
