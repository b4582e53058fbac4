//! `tsfs man`: the manual, made from the same text as `--help`.

use crate::cli::Cli;
use crate::cli::Context;
use crate::cli::Exit;
use anyhow::Context as _;
use clap::Command;
use clap::CommandFactory;
use clap::builder::Resettable;
use clap::builder::StyledStr;
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
    let help = command.get_after_long_help().or(command.get_after_help());
    let examples = help.map(|help| examples(&help.to_string())).unwrap_or_default();
    let reset = || Resettable::<StyledStr>::Reset;
    let command = command.clone().after_help(reset()).after_long_help(reset());
    let mut text = Vec::new();
    Man::new(command).render(&mut text)?;
    text.extend(examples.bytes());
    Ok(text)
}

/// What stands below the options in `--help`, as a section: indented lines are kept as they are, others are filled.
fn examples(help: &str) -> String {
    let mut text = ".SH EXAMPLES\n".to_owned();
    let mut kept = false;
    for line in help.lines().filter(|line| *line != "Examples:") {
        let indented = line.starts_with(' ');
        if indented != kept {
            text.push_str(if indented { ".nf\n" } else { ".fi\n" });
            kept = indented;
        }
        if line.is_empty() {
            text.push_str(".PP\n");
            continue;
        }
        // A line that begins with one of these would be a request.
        if line.starts_with(['.', '\'']) {
            text.push_str("\\&");
        }
        text.push_str(&line.replace('\\', "\\e").replace('-', "\\-"));
        text.push('\n');
    }
    if kept {
        text.push_str(".fi\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_stay_on_lines_of_their_own() {
        let help = "Examples:\n  tsfs log a\\b  one\n  cat .tsfs/x\n\nIt is\n.so\nfilled.";
        let page = ".SH EXAMPLES\n.nf\n  tsfs log a\\eb  one\n  cat .tsfs/x\n.fi\n.PP\nIt is\n\\&.so\nfilled.\n";
        assert_eq!(examples(help), page);
    }
}
