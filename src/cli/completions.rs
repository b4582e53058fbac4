//! `tsfs completions`: what a shell needs to complete our commands.

use crate::cli::Cli;
use crate::cli::Context;
use crate::cli::Exit;
use clap::CommandFactory;
use clap_complete::Shell;

const EXAMPLES: &str = "\
Examples:
  tsfs completions bash >/etc/bash_completion.d/tsfs
  tsfs completions zsh >/usr/local/share/zsh/site-functions/_tsfs
  tsfs completions fish >~/.config/fish/completions/tsfs.fish";

/// Print the completion script of a shell
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    shell: Shell,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tsfs", &mut script);
    context.out.raw(&script)?;
    Ok(Exit::Done)
}
