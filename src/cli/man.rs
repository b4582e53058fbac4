//! `tsfs man`: the manual, made from the same text as `--help`.

use crate::cli::Cli;
use crate::cli::Context;
use crate::cli::Exit;
use anyhow::Context as _;
use clap::Command;
use clap::CommandFactory;
use clap_mangen::Man;
use std::fs;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  tsfs man | man -l -                       read it
  tsfs man /usr/local/share/man/man1        a page for each command";

/// Print the manual, or write a page for each command into a directory
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let Some(dir) = &args.dir else {
        context.out.raw(&page(&program)?)?;
        return Ok(Exit::Done);
    };
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let named = |command: &Command| {
        let name = format!("tsfs-{}", command.get_name());
        (name.clone(), command.clone().name(name))
    };
    let mut pages = vec![("tsfs".to_owned(), program.clone())];
    pages.extend(program.get_subcommands().filter(|command| !command.is_hide_set()).map(named));
    for (name, command) in &pages {
        let path = dir.join(format!("{name}.1"));
        fs::write(&path, page(command)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        context.out.say(path.display())?;
    }
    Ok(Exit::Done)
}

fn page(command: &Command) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    Man::new(command.clone()).render(&mut text)?;
    Ok(text)
}
