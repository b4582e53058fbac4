//! Parses arguments and calls `cli`; nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    tsfs::cli::run(std::env::args_os())
}
