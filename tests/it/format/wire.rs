//! Messages as this version sends them, kept for ever: each is still understood, and none is sent differently.
//!
//! A line for each example: what it is, and its bytes. There is one of every variant at least: a new one must be given a name
//! here to compile, and an example for its number to be there. Added by `make fixture`, which writes the file where it is
//! not there; a message that is sent differently needs another version of the protocol, and then another file.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use tsfs::meta::lock::FileLock;
use tsfs::meta::op::Batch;
use tsfs::meta::op::By;
use tsfs::meta::op::Op;
use tsfs::meta::op::Outcome;
use tsfs::meta::op::Piece;
use tsfs::meta::op::Seen;
use tsfs::meta::record::Incarnation;
use tsfs::meta::record::Invited;
use tsfs::series::Direction;
use tsfs::series::KeyRange;
use tsfs::series::Version;
use tsfs::types::AsOf;
use tsfs::types::BatchSeq;
use tsfs::types::BlockId;
use tsfs::types::Era;
use tsfs::types::FsError;
use tsfs::types::Ino;
use tsfs::types::LogIndex;
use tsfs::types::NodeId;
use tsfs::types::Roles;
use tsfs::types::SessionId;
use tsfs::types::Stamp;
use tsfs::types::Term;
use tsfs::types::Time;
use tsfs::types::placement::Layout;
use tsfs::types::placement::Placement;
use tsfs::types::placement::Share;
use tsfs::wire::Circled;
use tsfs::wire::Copying;
use tsfs::wire::Moment;
use tsfs::wire::Page;
use tsfs::wire::Recall;
use tsfs::wire::Status;
use tsfs::wire::Waiting;
use tsfs::wire::Welcome;
use tsfs::wire::Whole;
use tsfs::wire::cluster::Announced;
use tsfs::wire::cluster::Answer;
use tsfs::wire::cluster::Ask;
use tsfs::wire::cluster::Client;
use tsfs::wire::cluster::HomeState;
use tsfs::wire::cluster::Join;
use tsfs::wire::cluster::Joined;
use tsfs::wire::cluster::Joiner;
use tsfs::wire::cluster::Lock;
use tsfs::wire::cluster::NodeState;
use tsfs::wire::cluster::Overview;
use tsfs::wire::cluster::Part;
use tsfs::wire::cluster::PlacementState;
use tsfs::wire::cluster::Progress;
use tsfs::wire::greeting::VERSIONS;
use tsfs::wire::message;
use tsfs::wire::message::LastKnown;
use tsfs::wire::message::NodeAt;
use tsfs::wire::message::Renewed;
use tsfs::wire::message::Request;
use tsfs::wire::message::Response;
use tsfs::wire::message::Standing;
use tsfs::wire::message::Told;
use tsfs::wire::message::View;

fn fixture() -> PathBuf {
    let name = format!("tests/fixtures/wire-{}.txt", VERSIONS.max);
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

const SESSION: SessionId = SessionId(300);
const NODE: NodeId = NodeId(2);
const STAMP: Stamp = Stamp(1_800_000_000_123_456_789);
const SEQ: BatchSeq = BatchSeq(70_000);
const BLOCK: BlockId = BlockId { session: SESSION, number: 9 };

fn ino() -> Ino {
    Ino::new(77_777).unwrap()
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn range() -> KeyRange {
    KeyRange { start: b"from".to_vec(), end: b"to".to_vec() }
}

fn whole() -> Whole {
    Whole { epoch: 4, after: SEQ, below: ino() }
}

fn copying() -> Copying {
    Copying { era: Era { term: Term(12), turn: 3 }, lease_ms: 3000, inos: vec![ino()] }
}

fn lock() -> FileLock {
    FileLock { owner: u64::MAX - 1, first: 5, last: FileLock::LAST, exclusive: true, pid: 4321 }
}

fn placement() -> Placement {
    let layout = |copies, nodes: &[u64]| {
        let share = |node: &u64| Share { node: NodeId(*node), weight: 8 };
        Layout::new(copies, nodes.iter().map(share).collect())
    };
    Placement { number: 300, copies: 3, now: layout(2, &[2]), next: layout(3, &[2, 4, 5]) }
}

fn node_at() -> NodeAt {
    NodeAt { node: NODE, address: "node2.example:7000".to_owned() }
}

/// Without a wildcard: a new variant needs a name, and an example.
fn request_name(request: &Request) -> &'static str {
    match request {
        Request::Log(_) => "log",
        Request::View => "view",
        Request::OpenSession { .. } => "open session",
        Request::Attend { .. } => "attend",
        Request::Renew { .. } => "renew",
        Request::GrantInos { .. } => "grant inos",
        Request::Propose { .. } => "propose",
        Request::Get { .. } => "get",
        Request::Scan { .. } => "scan",
        Request::Versions { .. } => "versions",
        Request::Ended { .. } => "ended",
        Request::State { .. } => "state",
        Request::Changes { .. } => "changes",
        Request::Barrier { .. } => "barrier",
        Request::PutBlock { .. } => "put block",
        Request::SyncBlocks => "sync blocks",
        Request::Block { .. } => "block",
        Request::Status => "status",
        Request::Administer { .. } => "administer",
        Request::Flushed { .. } => "flushed",
        Request::Cluster(_) => "cluster",
        Request::Join(_) => "join",
        Request::LendTable => "lend table",
        Request::TableChunk { .. } => "table chunk",
        Request::TableDone { .. } => "table done",
        Request::Behind => "behind",
        Request::Lacks => "lacks",
        Request::LastKnown(_) => "last known",
        Request::Copy { .. } => "copy",
        Request::CopyPage { .. } => "copy page",
        Request::KeepCopies { .. } => "keep copies",
        Request::GivenBack { .. } => "given back",
        Request::Standing => "standing",
        Request::MayLetGo { .. } => "may let go",
        Request::Waits { .. } => "waits",
    }
}

fn moment() -> Moment {
    Moment { term: Term(12), number: 300 }
}

/// For one of another mount, and for one of its own.
fn waits() -> Vec<Waiting> {
    let lock = lock();
    [(7, None), (8, Some(10))].map(|(number, by)| Waiting { number, ino: ino(), lock, by }).to_vec()
}

fn requests() -> Vec<Request> {
    let (since, until, limit) = (Stamp::ZERO, STAMP, 4096);
    let (session, keys) = (SESSION, vec![bytes("key"), bytes("")]);
    let mut requests = vec![
        Request::Log(Vec::new()),
        Request::View,
        Request::OpenSession { client: "host:/mnt".to_owned(), opening: 1 << 40 },
        Request::Attend { session },
        Request::Renew { session },
        Request::GrantInos { session, count: 32_768 },
        Request::Propose { session, seq: SEQ, ops: 3 },
        Request::Get { session, keys: keys.clone(), at: AsOf::Now },
        Request::Get { session, keys: keys.clone(), at: AsOf::At(STAMP) },
        Request::Scan {
            session,
            range: range(),
            at: AsOf::Now,
            direction: Direction::Backward,
            limit,
        },
        Request::Versions { key: bytes("key"), since, until, limit },
        Request::Ended { range: range(), since, until, limit },
        Request::State { range: range(), limit },
        Request::Changes { since, until, limit },
        Request::Barrier { session },
        Request::PutBlock { block: BLOCK },
        Request::SyncBlocks,
        Request::Block { block: BLOCK },
        Request::Status,
        Request::Administer { by: Some(1000), ops: vec![Op::Unmark { name: bytes("monday") }] },
        Request::Flushed { session, number: 6 },
        Request::Join(Box::new(Join { secret: [7; 32], key: bytes("key"), who: Joiner::Client })),
        Request::LendTable,
        Request::TableChunk { lent: 1, file: 2, offset: 3 << 20, bytes: 1 << 20 },
        Request::TableDone { lent: 1 },
        Request::Behind,
        Request::Lacks,
        Request::Copy { session, keys: keys.clone() },
        Request::CopyPage { session, range: range(), direction: Direction::Backward, limit },
        Request::KeepCopies { session },
        Request::GivenBack { session, number: 7 },
        Request::Standing,
        Request::MayLetGo { number: 3, named: LogIndex(70_000) },
        Request::Waits { session, after: moment(), waits: waits() },
        Request::LastKnown(LastKnown::Rows { keys }),
        Request::LastKnown(LastKnown::Page {
            range: range(),
            direction: Direction::Forward,
            limit,
        }),
        Request::LastKnown(LastKnown::State { range: range(), limit }),
    ];
    let incarnation = Incarnation([5; 16]);
    let (name, address, roles) = ("n2".to_owned(), "node2:7000".to_owned(), Roles::ALL);
    let who = Joiner::Node { incarnation, name: name.clone(), address: address.clone(), roles };
    requests.push(Request::Join(Box::new(Join { secret: [7; 32], key: bytes("key"), who })));
    let announced =
        Announced { node: NODE, incarnation, starts: 3, boot: 99, name, address, roles };
    let asks = [
        Ask::Overview,
        Ask::Invite { to: Invited::Node, valid_s: 3600 },
        Ask::Invite { to: Invited::Client { name: "host".to_owned() }, valid_s: 3600 },
        Ask::Certificate { name: "host".to_owned(), valid_s: 3600 },
        Ask::Remove { node: NODE },
        Ask::Replace { node: NODE, by: NodeId(4) },
        Ask::Drain { node: NODE },
        Ask::Clients,
        Ask::Evict { session },
        Ask::Locks { limit: 1000 },
        Ask::Announce(Box::new(announced)),
        Ask::Placement,
        Ask::Copies { copies: 5 },
    ];
    requests.extend(asks.map(Request::Cluster));
    requests
}

fn response_name(response: &Response) -> &'static str {
    match response {
        Response::Failed(_) => "failed",
        Response::Done => "done",
        Response::View(_) => "view",
        Response::Opened { .. } => "opened",
        Response::Renewed(_) => "renewed",
        Response::First(_) => "first",
        Response::Durable(_) => "durable",
        Response::Applied { .. } => "applied",
        Response::Rows(_) => "rows",
        Response::Page(_) => "page",
        Response::Versions(_) => "versions",
        Response::Ended(_) => "ended",
        Response::Stamp(_) => "stamp",
        Response::Frame => "frame",
        Response::Status(_) => "status",
        Response::Cluster(_) => "cluster",
        Response::Joined(_) => "joined",
        Response::Table { .. } => "table",
        Response::Copied { .. } => "copied",
        Response::CopiedPage { .. } => "copied page",
        Response::Copying(_) => "copying",
        Response::Standing(_) => "standing",
        Response::MayLetGo(_) => "may let go",
        Response::Circled(_) => "circled",
    }
}

fn responses() -> Vec<Response> {
    let version = Version { from: Stamp(1), to: STAMP, value: bytes("value") };
    let welcome = Welcome {
        session: SESSION,
        epoch: 4,
        whole: Some(whole()),
        hash_key: [3; 16],
        store: "8fcb6d".to_owned(),
    };
    let view = View {
        leader: Some(NODE),
        term: 12,
        nodes: vec![node_at()],
        voters: vec![NODE],
        placement: Placement::default(),
    };
    let placed = View { placement: placement(), ..view.clone() };
    let mut responses = vec![
        Response::Failed(FsError::NotLeader { leader: Some(NODE) }),
        Response::Failed(FsError::Locked),
        Response::Done,
        Response::View(view),
        Response::View(placed),
        Response::Opened { welcome, lease_ms: 10_000 },
        Response::Renewed(Renewed { lease_ms: 10_000, whole: None, space: 1 << 40 }),
        Response::First(5),
        Response::Durable(STAMP),
        Response::Rows(vec![None, Some(bytes("row"))]),
        Response::Page(Page { rows: vec![(bytes("key"), bytes("row"))], more: true }),
        Response::Versions(vec![version.clone()]),
        Response::Ended(vec![(bytes("key"), version)]),
        Response::Stamp(STAMP),
        Response::Frame,
        Response::Status(Box::new(Status {
            store: "8fcb6d".to_owned(),
            health: vec!["a disk is full".to_owned()],
            counters: BTreeMap::from([("log_syncs".to_owned(), 7)]),
            ..Status::default()
        })),
        Response::Joined(Box::new(Joined {
            store: [1; 16],
            certificate: "PEM".to_owned(),
            nodes: vec![node_at()],
            node: Some(NODE),
        })),
        Response::Table { lent: 1, plan: bytes("plan") },
        Response::Copied { rows: vec![Some(bytes("row")), None], copying: copying() },
        Response::CopiedPage {
            page: Page { rows: vec![(bytes("key"), bytes("row"))], more: true },
            copying: copying(),
        },
        Response::Copying(copying()),
        Response::Standing(Standing {
            features: 3,
            complete: LogIndex(70_000),
            placed: Some(4),
            lacks: 9,
            disk_total: 1 << 40,
            disk_free: 1 << 39,
            room: 1 << 38,
            sync_us: Some(350),
        }),
        Response::MayLetGo(true),
        Response::Circled(Circled { now: moment(), refused: vec![8], soon: true }),
    ];
    let refused = Outcome::Refused { op: 2, error: FsError::Exists };
    let (held, applied, repeated) = (Outcome::Held(ino()), Outcome::Applied, Outcome::Repeated);
    let outcomes = [applied, repeated, refused, held, Outcome::Conflict, Outcome::Early];
    let applied = |outcome| Response::Applied { outcome, stamp: STAMP };
    responses.extend(outcomes.map(applied));
    let state = NodeState {
        node: 2,
        name: "n2".to_owned(),
        address: "node2:7000".to_owned(),
        roles: "all".to_owned(),
        part: Part::Votes,
        answers: Some(true),
        lag: Some(3),
        lacks: None,
    };
    let held = Lock {
        session: 300,
        client: "host:/mnt".to_owned(),
        what: "all of inode 7".to_owned(),
        how: "exclusive".to_owned(),
        token: Some(STAMP),
    };
    let (text, expires) = ("text".to_owned(), STAMP);
    let answers = [
        Answer::Progress(Progress {
            doing: "node 4 fetches blocks".to_owned(),
            done: 1,
            total: Some(9),
            unit: "blocks".to_owned(),
        }),
        Answer::Overview(Box::new(Overview { nodes: vec![state], ..Overview::default() })),
        Answer::Token { text: text.clone(), expires },
        Answer::Certificate { text: text.clone(), expires },
        Answer::Clients(vec![Client {
            session: 300,
            name: "host:/mnt".to_owned(),
            opened: STAMP,
            lease_ms: Some(9000),
            whole: false,
        }]),
        Answer::Locks { locks: vec![held], more: false },
        Answer::Done(text),
        Answer::Placement(PlacementState {
            copies: 3,
            everywhere: false,
            homes: vec![HomeState { node: 2, now: 1000, then: 600 }],
            moving: true,
        }),
    ];
    responses.extend(answers.map(Response::Cluster));
    responses
}

fn told_name(told: &Told) -> &'static str {
    match told {
        Told::Recall(_) => "recall",
        Told::Flush { .. } => "flush",
        Told::Whole(_) => "whole",
        Told::Ended { .. } => "ended",
        Told::Unlocked { .. } => "unlocked",
        Told::TakeBack { .. } => "take back",
    }
}

fn told() -> Vec<Told> {
    vec![
        Told::Recall(Recall::Inodes(vec![ino(), Ino::ROOT])),
        Told::Recall(Recall::Whole),
        Told::Flush { number: 6 },
        Told::Whole(whole()),
        Told::Ended { why: "it was not heard of".to_owned() },
        Told::Unlocked { ino: ino() },
        Told::TakeBack { number: 7, inos: Some(vec![ino()]) },
        Told::TakeBack { number: 8, inos: None },
    ]
}

/// What travels in the tail of a proposal, and lies in the log.
fn batches() -> Vec<(&'static str, Batch)> {
    let time = Time { secs: 1_800_000_000, nanos: 5 };
    let pieces = vec![
        Piece::Inline(bytes("short")),
        Piece::Payload { block: BLOCK, frame: bytes("frame"), len: 600 },
        Piece::Block { block: BLOCK, len: 262_144 },
    ];
    let ops = vec![
        Op::Write { ino: ino(), offset: 4096, pieces, clear_suid: true, time },
        Op::SetLocks { ino: ino(), locks: vec![lock()] },
        Op::Yield { inos: vec![ino()], whole: true },
    ];
    let by = vec![By { uid: 1000, ops: 3 }];
    let batch = Batch { session: SESSION, seq: SEQ, epoch: 4, by, ops, direct: None };
    let seen =
        vec![Seen { key: bytes("key"), value: Some(7) }, Seen { key: bytes("k"), value: None }];
    let direct = Batch { direct: Some(seen), ..batch.clone() };
    vec![("batch", batch), ("direct batch", direct)]
}

fn examples() -> String {
    let mut text = String::new();
    let mut add = |kind: &str, name: &str, message: Bytes| {
        let hex: String = message.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{kind} {}: {hex}", name.replace(' ', "-")).unwrap();
    };
    for request in requests() {
        add("request", request_name(&request), message::encode(&request));
    }
    for response in responses() {
        add("response", response_name(&response), message::encode(&response));
    }
    for told in told() {
        add("told", told_name(&told), message::encode(&told));
    }
    for (name, batch) in batches() {
        add("tail", name, batch.encode());
    }
    text
}

/// Each is read, and written as it was.
fn comes_back<T: Serialize + DeserializeOwned>(message: &[u8]) {
    let read: T = message::decode(message).unwrap();
    assert_eq!(&message::encode(&read)[..], message);
}

/// There is an example of every number that is read, up to the last.
fn all_numbers<T: DeserializeOwned>(kind: &str, found: &[Vec<u8>]) {
    let mut numbers: Vec<u8> = found.iter().map(|message| message[0]).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let count = numbers.len() as u8;
    assert_eq!(numbers, (0..count).collect::<Vec<u8>>(), "each {kind} has an example");
    let unknown = message::decode::<T>(&[count]).map(|_| ()).unwrap_err().to_string();
    let message = [&[count][..], &[0; 64]].concat();
    assert!(message::decode::<T>(&message).is_err(), "{kind} {count} has no example: {unknown}");
}

#[test]
fn messages_are_sent_and_read_as_ever() {
    let known = fs::read_to_string(fixture()).unwrap();
    assert_eq!(
        examples(),
        known,
        "a message is sent differently than this version of the protocol says"
    );
    let mut found: BTreeMap<&str, Vec<Vec<u8>>> = BTreeMap::new();
    for line in known.lines() {
        let (name, hex) = line.split_once(": ").unwrap();
        let digits: Vec<&str> = (0..hex.len() / 2).map(|n| &hex[2 * n..2 * n + 2]).collect();
        let message: Vec<u8> =
            digits.iter().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        let kind = name.split(' ').next().unwrap();
        match kind {
            "request" => comes_back::<Request>(&message),
            "response" => comes_back::<Response>(&message),
            "told" => comes_back::<Told>(&message),
            _ => assert_eq!(&Batch::decode(&message).unwrap().encode()[..], message),
        }
        found.entry(kind).or_default().push(message);
    }
    all_numbers::<Request>("request", &found["request"]);
    all_numbers::<Response>("response", &found["response"]);
    all_numbers::<Told>("told", &found["told"]);
}

#[test]
#[ignore = "writes into the tree; `make fixture` runs it when the protocol has another version"]
fn make_the_fixture_of_the_present_messages() {
    if !fixture().exists() {
        fs::write(fixture(), examples()).unwrap();
    }
}
