//! Asking the node that serves a store on this machine, through the socket in the store's directory.
//!
//! Not here: what is asked.

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::mount::store;
use crate::env::SystemClock;
use crate::net::Bounds;
use crate::net::Net;
use crate::tsdb_server::cluster::socket::Way;
use crate::tsdb_server::cluster::work::Pause;
use crate::wire::cluster::Answer;
use crate::wire::cluster::Ask;
use crate::wire::control;
use anyhow::Context as _;
use anyhow::bail;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A node that can be asked.
pub(super) struct Local {
    // Behind the way, which it watches over.
    way: Way,
    _net: Arc<Net>,
}

impl Local {
    pub(super) fn open(given: &Path) -> anyhow::Result<Local> {
        if !store::is_store(given) {
            bail!(
                "{} is not a store; give the directory that a node on this machine serves",
                given.display()
            );
        }
        let dir = crate::cli::control::canonical(given)?;
        let net = net()?;
        Ok(Local { way: Way::open(&net, &dir)?, _net: net })
    }

    /// Asks, and shows how far it is while that takes long.
    pub(super) fn ask(&self, ask: &Ask, context: &Context) -> anyhow::Result<Answer> {
        let answer = self.way.ask(ask, &mut |progress| {
            context.out.progress(&control::Progress {
                doing: progress.doing,
                done: progress.done,
                total: progress.total,
                unit: progress.unit,
            });
        });
        context.out.clear();
        Ok(answer?)
    }

    /// Asks for something to be done, and says what was.
    pub(super) fn have_done(&self, ask: &Ask, context: &Context) -> anyhow::Result<Exit> {
        let Answer::Done(done) = self.ask(ask, context)? else { return other() };
        context.out.object(&serde_json::json!({ "done": done }))?;
        context.out.say(done)?;
        Ok(Exit::Done)
    }
}

/// An answer that does not go with the question: another version of the program.
pub(super) fn other<T>() -> anyhow::Result<T> {
    bail!("the node answered something else: use one version of tsfs for both")
}

pub(super) fn net() -> anyhow::Result<Arc<Net>> {
    Ok(Net::start(SystemClock::shared(), Bounds::default())?)
}

/// Shows something once, or again and again until somebody ends the program.
pub(super) fn watch(
    every: Option<u64>,
    mut show: impl FnMut() -> anyhow::Result<Exit>,
) -> anyhow::Result<Exit> {
    let pause = Pause::default();
    loop {
        let exit = show()?;
        let Some(seconds) = every else { return Ok(exit) };
        pause.rest(Duration::from_secs(seconds.max(1))).context("the wait was ended")?;
    }
}

/// Columns, as wide as what stands in them.
pub(super) fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_stands_in_them() {
        let rows = [vec!["a", "bcd", "e"], vec!["äöü", "f"]];
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|&cell| cell.to_owned()).collect()).collect();
        assert_eq!(table(&rows), ["a    bcd  e", "äöü  f"]);
        assert!(table(&[]).is_empty());
    }
}
