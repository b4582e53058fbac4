//! Three replicas with their threads, and channels between them: one leads, reads know it, and another goes on.

use super::*;
use crate::tsdb_log::entry::Message;
use parking_lot::Mutex;
use std::collections::BTreeMap;

type Inboxes = Arc<Mutex<BTreeMap<NodeId, mpsc::Sender<Vec<Message>>>>>;

/// Each message goes to the thread of the member it is for, if there is one.
struct Channels(Inboxes);

impl Outbound for Channels {
    fn send(&self, messages: Vec<Message>) {
        for message in messages {
            if let Some(inbox) = self.0.lock().get(&message.to) {
                // Whoever is gone gets nothing.
                let _ = inbox.send(vec![message]);
            }
        }
    }

    fn is_behind(&self, _: NodeId) {}
}

fn three() -> (Vec<Arc<Replica>>, Inboxes) {
    let inboxes = Inboxes::default();
    let members = Members { voters: [1, 2, 3].map(NodeId).to_vec(), ..Members::default() };
    let start = |node: u64| {
        let disk = SimulatedDisk::new(256 << 20);
        for dir in ["/log", "/blocks"] {
            disk.make_dir(Path::new(dir)).unwrap();
        }
        Log::create(&disk, Path::new("/log"), STORE, &members).unwrap();
        let options = Options { node: NodeId(node), seed: node, ..Options::default() };
        let world = World { disk, table: Arc::default(), clock: SystemClock::shared(), options };
        let outbound: Arc<dyn Outbound> = Arc::new(Channels(inboxes.clone()));
        let replica = Arc::new(world.open_among(Some(outbound)).unwrap());
        let (tell, told) = mpsc::channel();
        inboxes.lock().insert(NodeId(node), tell);
        let listener = replica.clone();
        std::thread::spawn(move || told.iter().for_each(|messages| listener.step(messages)));
        replica
    };
    ((1..=3).map(start).collect(), inboxes)
}

/// The next member that leads, other than `not`, once its reads are sure.
fn leader(all: &[Arc<Replica>], changed: &mpsc::Receiver<usize>, not: Option<usize>) -> usize {
    loop {
        let leads = changed.recv_timeout(Duration::from_secs(60)).expect("somebody leads in time");
        if Some(leads) != not && all[leads].is_leader() {
            return leads;
        }
    }
}

fn soon() -> Duration {
    SystemClock.steady() + Duration::from_secs(60)
}

#[test]
fn one_leads_and_knows_it_and_when_it_is_gone_another_goes_on() {
    let (all, inboxes) = three();
    let (tell, changed) = mpsc::channel();
    for (n, replica) in all.iter().enumerate() {
        let (told, tell) = (tell.clone(), tell.clone());
        replica.on_leader_change(move |leadership| {
            if leadership.here {
                // The test may be over.
                let _ = told.send(n);
            }
        });
        if replica.is_leader() {
            tell.send(n).unwrap();
        }
    }
    let first = leader(&all, &changed, None);
    let barrier = all[first].barrier().unwrap();
    all[first].read_barrier(soon()).unwrap();
    assert!(all[first].progress().stamp >= barrier);
    let follower = &all[(first + 1) % 3];
    let refused = follower.barrier();
    assert!(matches!(refused, Err(FsError::NotLeader { .. })), "{refused:?}");
    assert!(matches!(follower.read_barrier(soon()), Err(FsError::NotLeader { .. })));

    inboxes.lock().remove(&NodeId(first as u64 + 1));
    all[first].close().unwrap();
    let second = leader(&all, &changed, Some(first));
    let later = all[second].barrier().unwrap();
    assert!(later > barrier, "stamps go on behind those of the former leader");
    all[second].read_barrier(soon()).unwrap();
    inboxes.lock().clear();
    all.iter().for_each(|replica| drop(replica.close()));
}
