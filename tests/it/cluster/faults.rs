//! What befalls the processes of a cluster: killed, stopped, restarted, one or all.
//!
//! Not here: lines that are cut (`net`), disks that fail or forget (the stores' own file systems).

use super::place::Cluster;
use super::place::SETTLE_LIMIT;
use crate::support;
use rustix::process::Signal;

impl Cluster {
    fn signal(&self, node: usize, signal: Signal) {
        let server = self.nodes[node].server.as_ref().expect("the node is up");
        server.signal(signal);
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].server.take().expect("the node is up").kill();
    }

    /// All at once, in no order that they could notice.
    pub(crate) fn kill_all(&mut self) {
        let up: Vec<usize> =
            (0..self.nodes.len()).filter(|n| self.nodes[*n].server.is_some()).collect();
        for node in &up {
            // Stopped first, so that none sees another die.
            self.signal(*node, Signal::STOP);
        }
        for node in up {
            self.kill(node);
        }
    }

    /// All that are down.
    pub(crate) fn start_all(&mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].server.is_none() {
                self.start(node);
            }
        }
    }

    /// Takes its processor away: it says nothing and does nothing, but all its connections stand.
    pub(crate) fn freeze(&self, node: usize) {
        self.signal(node, Signal::STOP);
    }

    pub(crate) fn thaw(&self, node: usize) {
        self.signal(node, Signal::CONT);
    }

    /// Whether it has ended by itself; then it is down.
    pub(crate) fn has_ended(&mut self, node: usize) -> bool {
        let server = self.nodes[node].server.as_ref().expect("it was up");
        let ended = server.ended().is_some();
        if ended {
            self.nodes[node].server = None;
        }
        ended
    }

    /// As an operator would end it, by SIGTERM.
    ///
    /// # Panics
    /// If it does not end, or not well.
    pub(crate) fn end(&mut self, node: usize) {
        let Some(server) = self.nodes[node].server.take() else { return };
        server.signal(Signal::TERM);
        let mut status = None;
        support::wait_until(SETTLE_LIMIT, "a node to end", || {
            status = server.ended();
            status.is_some()
        });
        let log = self.logged(node);
        assert!(status.unwrap().success(), "node {node} ended with {status:?}:\n{log}");
        assert!(!log.contains("panicked"), "node {node} panicked:\n{log}");
    }

    /// A node that is not the leader at this moment.
    pub(crate) fn follower(&mut self) -> usize {
        let leader = self.settle();
        (leader + 1) % self.nodes.len()
    }
}
