//! The socket in a node's directory, through which commands ask it, and how a joiner is served.
//!
//! Nothing else listens without TLS: the directory is its owner's alone (mode 700), and so is the socket (600), so whoever can
//! connect could read the store's files as well. Not here: what is answered (`answer`), the door for clients and nodes.

use crate::net;
use crate::net::Dial;
use crate::net::DialSecurity;
use crate::net::Handler;
use crate::net::Identity;
use crate::net::ListenSecurity;
use crate::net::Net;
use crate::net::NetError;
use crate::net::Peer;
use crate::net::Pool;
use crate::net::Reply;
use crate::net::Service;
use crate::net::StoreId;
use crate::net::Stream;
use crate::net::Wait;
use crate::tsdb_server::cluster::Cluster;
use crate::tsdb_server::cluster::join::Silent;
use crate::types::FsError;
use crate::wire::cluster::Answer;
use crate::wire::cluster::Ask;
use crate::wire::cluster::Progress;
use crate::wire::cluster::SOCKET;
use crate::wire::greeting::Purpose;
use crate::wire::greeting::Refusal;
use crate::wire::greeting::Why;
use crate::wire::message;
use crate::wire::message::Request;
use crate::wire::message::Response;
use crate::wire::packet::Packet;
use bytes::Bytes;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fs;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Commands that ask at once, and threads that answer them.
const COMMANDS_MAX: usize = 32;
const THREADS_MAX: usize = 8;
/// A command that does not read is waited for so long.
const ROOM: Duration = Duration::from_secs(1);
/// Between two reports of how far something is.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// A node that says nothing for so long, not even how far it is, is given up: more than any single step of an answer takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// A path to `name` in `dir` that is short enough for an address of a socket (108 bytes), wherever the directory is. Good while
/// the file is open.
fn short(dir: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
}

/// Answers what is asked about the cluster, on threads of its own.
pub struct Asked {
    cluster: Arc<Cluster>,
    pool: Pool,
}

impl Asked {
    pub fn new(cluster: Arc<Cluster>) -> Arc<Asked> {
        Arc::new(Asked { cluster, pool: Pool::new("cluster", THREADS_MAX, COMMANDS_MAX) })
    }

    pub(in crate::tsdb_server) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Answers later. `passed_on`: by another node, which goes on looking where this one does not lead.
    pub fn serve(&self, ask: Ask, passed_on: bool, reply: Reply) {
        if let Ask::Announce(announced) = &ask {
            // Whatever came through the socket is this node's own.
            let of_itself = matches!(reply.peer().identity, Identity::Node { node, .. } if node == announced.node);
            if !of_itself {
                return reply.fail("a node announces itself, and no other");
            }
        }
        let cluster = Arc::clone(&self.cluster);
        let run = move || {
            let mut told = None;
            let mut watch = |progress: Progress| {
                let now = cluster.clock.steady();
                if told.is_none_or(|told| now.saturating_sub(told) >= PROGRESS_EVERY) {
                    told = Some(now);
                    let meta = message::encode(&Response::Cluster(Answer::Progress(progress)));
                    // Whether anybody still hears it is asked below.
                    let _ = reply.more(message::KIND, meta, Bytes::new(), ROOM);
                }
                match reply.is_wanted() {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            };
            let answer = match passed_on {
                true => cluster.answer_here(&ask, &mut watch),
                false => cluster.answer(&ask, &mut watch),
            };
            let response = answer.map_or_else(Response::Failed, Response::Cluster);
            reply.answer(message::KIND, message::encode(&response), Bytes::new());
        };
        // Where there is no thread the reply is dropped, which says so to whoever asked.
        let _ = self.pool.run(run);
    }

    fn admit(&self, join: Box<crate::wire::cluster::Join>, reply: Reply) {
        let cluster = Arc::clone(&self.cluster);
        let run = move || {
            let joined = cluster.admit(&join);
            if let Err(error) = &joined {
                tracing::warn!(peer = %reply.peer().address, %error, "a joiner was not taken in");
            }
            let response =
                joined.map_or_else(Response::Failed, |joined| Response::Joined(Box::new(joined)));
            reply.answer(message::KIND, message::encode(&response), Bytes::new());
        };
        // As above.
        let _ = self.pool.run(run);
    }
}

impl Service for Asked {
    fn asked(&self, packet: Packet, reply: Reply) {
        match (message::decode(&packet.meta), reply.peer().purpose) {
            (Ok(Request::Join(join)), Purpose::Join) => self.admit(join, reply),
            (Ok(Request::Cluster(ask)), Purpose::Control) => self.serve(ask, false, reply),
            (Ok(_), _) => reply.fail("that is not answered here"),
            (Err(error), _) => reply.fail(&error.to_string()),
        }
    }

    fn told(&self, _: Packet) {}
}

/// Lets joiners in, and leaves everybody else to another door.
pub struct Entrance {
    pub asked: Arc<Asked>,
    pub door: Arc<dyn Handler>,
}

impl Handler for Entrance {
    fn greeted(&self, peer: &Peer, hello: &Bytes) -> Result<(Arc<dyn Service>, Bytes), Refusal> {
        match peer.purpose {
            Purpose::Join => Ok((Arc::clone(&self.asked) as Arc<dyn Service>, Bytes::new())),
            _ => self.door.greeted(peer, hello),
        }
    }
}

/// Lets commands in, which came through the socket.
struct Commands(Arc<Asked>);

impl Handler for Commands {
    fn greeted(&self, peer: &Peer, _: &Bytes) -> Result<(Arc<dyn Service>, Bytes), Refusal> {
        match peer.purpose {
            Purpose::Control => Ok((Arc::clone(&self.0) as Arc<dyn Service>, Bytes::new())),
            _ => Err(Refusal::new(Why::Purpose, "commands only come through this socket")),
        }
    }
}

/// The socket while it is there. When it is dropped, nobody is answered any more, and it is gone.
pub struct Local {
    path: PathBuf,
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

struct Shared {
    net: Arc<Net>,
    listener: UnixListener,
    /// Whoever comes is taken for this node itself.
    security: ListenSecurity,
    handler: Commands,
    inside: Mutex<Inside>,
    left: Condvar,
}

#[derive(Default)]
struct Inside {
    closing: bool,
    last: u64,
    streams: HashMap<u64, Arc<dyn Stream>>,
}

impl Local {
    /// Listens in the directory of a store that this process holds.
    ///
    /// # Errors
    /// `Io`.
    pub fn bind(
        net: &Arc<Net>,
        dir: &Path,
        asked: Arc<Asked>,
        store: StoreId,
    ) -> Result<Local, FsError> {
        let path = dir.join(SOCKET);
        let failed =
            |error: io::Error| FsError::io(format!("listen on {}", path.display()), &error);
        // A process that had the store and was killed leaves it behind.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let open = File::open(dir).map_err(failed)?;
        let listener = UnixListener::bind(short(&open, SOCKET)).map_err(failed)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let cluster = &asked.cluster;
        let identity = Identity::Node { node: cluster.here, store };
        let shared = Arc::new(Shared {
            net: Arc::clone(net),
            listener,
            security: ListenSecurity::Plain(identity),
            handler: Commands(asked),
            inside: Mutex::default(),
            left: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        let thread = thread::Builder::new().name("commands".to_owned());
        let thread = thread.spawn(move || accepting.accept()).map_err(failed)?;
        Ok(Local { path, shared, thread: Some(thread) })
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // Gone already, or in the way of nobody.
        let _ = fs::remove_file(&self.path);
        self.shared.inside.lock().closing = true;
        // Wakes the thread that accepts.
        let _ = rustix::net::shutdown(&self.shared.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            // If it panicked that was said.
            let _ = thread.join();
        }
        let mut inside = self.shared.inside.lock();
        inside.streams.values().for_each(|stream| stream.end());
        self.shared.left.wait_while(&mut inside, |inside| !inside.streams.is_empty());
    }
}

impl Shared {
    fn accept(self: &Arc<Shared>) {
        loop {
            let accepted = self.listener.accept();
            let mut inside = self.inside.lock();
            if inside.closing {
                return;
            }
            let Ok((stream, _)) = accepted else {
                // No file is left: one that is closed makes room.
                self.left.wait_for(&mut inside, ROOM);
                continue;
            };
            if inside.streams.len() >= COMMANDS_MAX {
                continue;
            }
            inside.last += 1;
            let id = inside.last;
            let stream: Arc<dyn Stream> = Arc::new(net::Socket::from(stream));
            inside.streams.insert(id, Arc::clone(&stream));
            drop(inside);
            let entry = Entry { shared: Arc::clone(self), id };
            let serve = move || {
                let Shared { net, handler, security, .. } = &*entry.shared;
                if let Err(error) = net::accept(net, stream, "a command", security, handler) {
                    tracing::debug!(%error, "a command was not let in");
                }
            };
            // Where there can be no thread the entry is dropped, and the command sees the end.
            let _ = thread::Builder::new().name("command".to_owned()).spawn(serve);
        }
    }
}

struct Entry {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let stream = self.shared.inside.lock().streams.remove(&self.id);
        if let Some(stream) = stream {
            stream.end();
        }
        self.shared.left.notify_all();
    }
}

/// The way of a command to the node that serves the store in `dir`.
pub struct Way(net::Connection);

impl Way {
    /// # Errors
    /// `Unreachable` where no node serves the store, or it is another user's; `Io`.
    pub fn open(net: &Arc<Net>, dir: &Path) -> Result<Way, FsError> {
        let shown = dir.display();
        let failed = |error: io::Error| {
            FsError::Unreachable(match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    format!("no node serves {shown}: start one with 'tsfs node {shown}'")
                }
                io::ErrorKind::PermissionDenied => {
                    format!("the node of {shown} is another user's: ask as root, or as that user")
                }
                _ => format!("the node of {shown} cannot be asked: {error}"),
            })
        };
        let open = File::open(dir).map_err(failed)?;
        let stream = UnixStream::connect(short(&open, SOCKET)).map_err(failed)?;
        let dial = Dial {
            address: format!("the node of {shown}"),
            purpose: Purpose::Control,
            hello: Bytes::new(),
            security: DialSecurity::Plain(Identity::Nobody),
            service: Arc::new(Silent),
        };
        let (connection, _) = net
            .dial_over(Arc::new(net::Socket::from(stream)), dial)
            .map_err(|error| FsError::Unreachable(error.to_string()))?;
        Ok(Way(connection))
    }

    /// Asks, and waits for the answer, however long that takes while there is progress.
    ///
    /// # Errors
    /// What the node said; `Unreachable` where it is gone.
    pub fn ask(&self, ask: &Ask, progress: &mut dyn FnMut(Progress)) -> Result<Answer, FsError> {
        let gone = |error: NetError| FsError::Unreachable(format!("the node: {error}"));
        let (tell, told) = mpsc::channel();
        let on_answer = Box::new(move |answer| {
            // Whoever asks waits for the last of them.
            let _ = tell.send(answer);
        });
        let meta = message::encode(&Request::Cluster(ask.clone()));
        let wait = Wait::UpTo(PATIENCE);
        self.0.ask(message::KIND, meta, Bytes::new(), PATIENCE, wait, on_answer).map_err(gone)?;
        loop {
            let answer = told.recv().map_err(|_| FsError::Closing)?.map_err(gone)?;
            match message::decode(&answer.meta)? {
                Response::Cluster(Answer::Progress(far)) => progress(far),
                Response::Cluster(answer) => return Ok(answer),
                Response::Failed(error) => return Err(error),
                other => {
                    return Err(FsError::Io(format!(
                        "the node answered something else: {other:?}"
                    )));
                }
            }
        }
    }
}
