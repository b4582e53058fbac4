//! `tsfs retention`: how long history is kept.

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::control::Place;
use crate::meta::record::Retention;
use crate::tsdb_config::unit;
use crate::wire::control::Answer;
use crate::wire::control::Ask;
use anyhow::Context as _;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  tsfs retention                            of the mount you are in
  tsfs retention /mnt/data --age 90d        keep what was replaced for ninety days
  tsfs retention --age forever --disk none  keep everything until the disk is full
  tsfs retention --disk 70%                 of the disk space that nothing else takes

History younger than an hour never goes because of the space it takes.";

/// Show or set how long history is kept
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Any path in the mount
    #[arg(default_value = ".")]
    path: PathBuf,
    /// How long a version is kept after it was replaced, or forever
    #[arg(long, value_name = "AGE", value_parser = age)]
    age: Option<Age>,
    /// The share of the disk space that nothing else takes which history may have, or none
    #[arg(long, value_name = "PERCENT", value_parser = disk)]
    disk: Option<Disk>,
}

/// `None`: for ever.
#[derive(Clone, Copy)]
struct Age(Option<Duration>);

/// `None`: no limit.
#[derive(Clone, Copy)]
struct Disk(Option<u8>);

fn age(text: &str) -> Result<Age, String> {
    if text == "forever" {
        return Ok(Age(None));
    }
    unit::duration(text).map(|age| Age(Some(age))).map_err(|why| format!("{why}, or forever"))
}

fn disk(text: &str) -> Result<Disk, String> {
    match text.trim_end_matches('%').parse() {
        _ if text == "none" => Ok(Disk(None)),
        Ok(percent @ 1..=100) => Ok(Disk(Some(percent))),
        _ => Err("write 1% to 100%, or none".to_owned()),
    }
}

#[derive(Serialize)]
struct Row {
    /// Null: for ever.
    age: Option<String>,
    /// Null: no limit.
    disk_percent: Option<u8>,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let mut retention = ask(args, None, context)?;
    if args.age.is_some() || args.disk.is_some() {
        if let Some(Age(age)) = args.age {
            retention.age_ns = age.map(|age| age.as_nanos() as u64);
        }
        if let Some(Disk(percent)) = args.disk {
            retention.disk_percent = percent;
        }
        retention = ask(args, Some(retention), context)?;
    }
    context.out.say(sentence(&retention))?;
    let age = retention.age_ns.map(|age| unit::show_duration(Duration::from_nanos(age)));
    context.out.object(&Row { age, disk_percent: retention.disk_percent })?;
    Ok(Exit::Done)
}

fn ask(args: &Args, set: Option<Retention>, context: &Context) -> anyhow::Result<Retention> {
    let mut retention = set.clone();
    Place::find(&args.path)?.ask(Ask::Retention { set }, &context.out, |answer| {
        if let Answer::Retention(answer) = answer {
            retention = Some(answer);
        }
        Ok(())
    })?;
    retention.context("the mount did not say how long it keeps history")
}

/// What a retention means, as said at mount.
pub(super) fn sentence(retention: &Retention) -> String {
    let age = match retention.age_ns {
        Some(age) => format!("kept for {}", unit::show_duration(Duration::from_nanos(age))),
        None => "kept for ever".to_owned(),
    };
    match retention.disk_percent {
        Some(percent) => {
            format!(
                "history is {age}, and goes earlier, oldest first, once it has {percent}% of the disk space that nothing else takes"
            )
        }
        None => format!("history is {age}, however full the disk is"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retention_is_a_sentence() {
        let year = 365 * 86_400 * 1_000_000_000;
        let both = Retention { age_ns: Some(year), disk_percent: Some(80) };
        assert!(sentence(&both).starts_with(
            "history is kept for 1y, and goes earlier, oldest first, once it has 80%"
        ));
        let none = Retention { age_ns: None, disk_percent: None };
        assert_eq!(sentence(&none), "history is kept for ever, however full the disk is");
    }
}
