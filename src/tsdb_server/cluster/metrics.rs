//! `/metrics` and `/health` of a node, over HTTP: for machines that watch it.
//!
//! Without TLS and for everybody who can connect: so it is off unless it is set, and meant for the loopback device or a network
//! of its own. It tells numbers and nothing about files. Not here: the counters (`telemetry`).

use crate::net::Credentials;
use crate::telemetry::exposition;
use crate::telemetry::exposition::Gauge;
use crate::tsdb_server::cluster::Cluster;
use crate::types::FsError;
use crate::wire::cluster::Overview;
use crate::wire::cluster::Part;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use tiny_http::Header;
use tiny_http::Method;
use tiny_http::Request;
use tiny_http::Response;
use tiny_http::Server;

/// Answers while it is there.
pub struct Metrics {
    server: Arc<Server>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Metrics {
    /// Listens on `HOST:PORT`.
    ///
    /// # Errors
    /// `Io`, naming the address.
    pub fn listen(
        address: &str,
        cluster: Arc<Cluster>,
        credentials: Arc<Credentials>,
    ) -> Result<Metrics, FsError> {
        let failed = |error: &dyn std::fmt::Display| {
            FsError::Io(format!("metrics.listen: listen on {address}: {error}"))
        };
        let server = Arc::new(Server::http(address).map_err(|error| failed(&error))?);
        let serving = Arc::clone(&server);
        let thread = thread::Builder::new().name("metrics".to_owned());
        let thread = thread.spawn(move || {
            while let Ok(request) = serving.recv() {
                answer(request, &cluster, &credentials);
            }
        });
        let thread = Some(thread.map_err(|error| failed(&error))?);
        Ok(Metrics { server, thread })
    }

    /// Where it listens, with the port that it got.
    pub fn address(&self) -> Option<SocketAddr> {
        self.server.server_addr().to_ip()
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        self.server.unblock();
        if let Some(thread) = self.thread.take() {
            // If it panicked that was said.
            let _ = thread.join();
        }
    }
}

fn answer(request: Request, cluster: &Cluster, credentials: &Credentials) {
    let path = request.url().split('?').next().unwrap_or_default();
    let (code, kind, body) = match (request.method(), path) {
        (Method::Get | Method::Head, "/metrics") => match gauges(cluster, credentials) {
            Ok(gauges) => (200, exposition::CONTENT_TYPE, exposition::text(&gauges)),
            Err(error) => (500, PLAIN, format!("{error}\n")),
        },
        (Method::Get | Method::Head, "/health") => {
            let (code, body) = health(cluster.overview());
            (code, PLAIN, body)
        }
        (Method::Get | Method::Head, _) => {
            (404, PLAIN, "there are /metrics and /health\n".to_owned())
        }
        _ => (405, PLAIN, "there is nothing to change here\n".to_owned()),
    };
    let header = Header::from_bytes("Content-Type", kind).expect("both are plain text");
    let response = Response::from_string(body).with_status_code(code).with_header(header);
    // Whoever asked is gone.
    let _ = request.respond(response);
}

const PLAIN: &str = "text/plain; charset=utf-8";

/// Good is a node that can answer clients, or knows who can. What else is not as it should be stands in the text.
fn health(overview: Result<Overview, FsError>) -> (u16, String) {
    match overview {
        Err(error) => (503, format!("{error}\n")),
        Ok(overview) => {
            let code = if overview.leader.is_some() { 200 } else { 503 };
            let lines = match overview.health.is_empty() {
                true => "good".to_owned(),
                false => overview.health.join("\n"),
            };
            (code, lines + "\n")
        }
    }
}

fn gauges(cluster: &Cluster, credentials: &Credentials) -> Result<Vec<Gauge>, FsError> {
    let overview = cluster.overview()?;
    let status = cluster.server.status()?;
    let one = |name, help, value| Gauge { name, help, label: None, value };
    let here = overview.leader == Some(overview.here);
    let expires = credentials.current().valid_until().0 / 1_000_000_000;
    let mut gauges = vec![
        one("node", "The number of this node.", overview.here),
        one("leads", "1 where this node leads.", here.into()),
        one("leader_known", "1 where this node knows who leads.", overview.leader.is_some().into()),
        one("term", "Of the log: raised with each election.", overview.term),
        one("nodes", "Nodes of the cluster.", overview.nodes.len() as u64),
        one("clients", "Mounts.", overview.clients),
        one(
            "trouble",
            "Things that are not as they should be; /health names them.",
            overview.health.len() as u64,
        ),
        one(
            "certificate_expires_seconds",
            "When this node's certificate ends, since 1970.",
            expires,
        ),
        one("disk_total_bytes", "Of the file system under the store.", status.disk_total),
        one("disk_free_bytes", "Of the same.", status.disk_free),
        one("blocks_stored_bytes", "Files of blocks and payload.", status.block_bytes),
        one("tables_stored_bytes", "Files of tables.", status.table_bytes),
        one("log_stored_bytes", "Files of the log.", status.log_bytes),
        one("live_bytes", "Contents of the present, before compression.", status.live_bytes),
        one(
            "history_bytes",
            "Contents that only the past shows, before compression.",
            status.history_bytes,
        ),
        one("files", "Files and directories of the present.", status.files),
        one("versions", "Finished versions.", status.versions),
        one("applied_index", "The last entry of the log that is applied here.", status.applied),
    ];
    let mut each = |name, help, value: &dyn Fn(&crate::wire::cluster::NodeState) -> Option<u64>| {
        for node in &overview.nodes {
            let label = Some(("node", node.node.to_string()));
            gauges.extend(value(node).map(|value| Gauge {
                name,
                help,
                label: label.clone(),
                value,
            }));
        }
    };
    each("node_votes", "1 where a node decides.", &|node| {
        Some(matches!(node.part, Part::Leads | Part::Votes).into())
    });
    each("node_answers", "1 where a node answers the one that leads.", &|node| {
        node.answers.map(u64::from)
    });
    each("node_lag_entries", "Entries of the log that a node has not confirmed.", &|node| node.lag);
    each("node_lacks_blocks", "Blocks that a node has yet to fetch.", &|node| node.lacks);
    Ok(gauges)
}
