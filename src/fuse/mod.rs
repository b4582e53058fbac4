//! The kernel's requests, translated; the history view.
