//! What commands ask, answered: by the node that leads, to which any other passes it on.

use crate::meta::op::ClusterOp;
use crate::meta::op::Op;
use crate::meta::record::Invited;
use crate::meta::record::Node;
use crate::net;
use crate::net::Token;
use crate::tsdb_server::cluster::Cluster;
use crate::tsdb_server::cluster::init::Described;
use crate::tsdb_server::cluster::init::set_node;
use crate::tsdb_server::cluster::plan;
use crate::tsdb_server::cluster::plan::Facts;
use crate::tsdb_server::cluster::plan::Plan;
use crate::tsdb_server::cluster::rows;
use crate::tsdb_server::cluster::seams::Follower;
use crate::tsdb_server::cluster::work::Watch;
use crate::tsdb_server::cluster::work::Worked;
use crate::types::FsError;
use crate::types::NodeId;
use crate::types::Stamp;
use crate::types::placement::Placement;
use crate::wire::cluster::Announced;
use crate::wire::cluster::Answer;
use crate::wire::cluster::Ask;
use crate::wire::cluster::NodeState;
use crate::wire::cluster::Overview;
use crate::wire::cluster::Part;
use crate::wire::message::Standing;
use std::time::Duration;

/// Times that a question is put to another leader, and what lies between them: some elections.
const TRIES: usize = 50;
const NEXT_TRY: Duration = Duration::from_millis(200);
/// Addresses that a token names.
const TOKEN_ADDRESSES_MAX: usize = 8;
/// Longest time that an invitation or a certificate is good for.
const VALID_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

impl Cluster {
    /// Answers, or has the node that leads answer.
    ///
    /// # Errors
    /// `Refused` with a sentence; `Unreachable` where no node leads in time.
    pub fn answer(&self, ask: &Ask, watch: Watch<'_>) -> Result<Answer, FsError> {
        for _ in 0..TRIES {
            let leader = self.members.leader();
            let answer = match leader {
                Some(leader) if leader != self.here => self.others.ask(leader, ask, watch),
                _ => self.answer_here(ask, watch),
            };
            match answer {
                Err(FsError::NotLeader { .. } | FsError::Unreachable(_)) => {}
                other => return other,
            }
            // Anybody can say how it looks from here, and that is asked most when nobody leads.
            if *ask == Ask::Overview {
                return self.overview().map(|overview| Answer::Overview(Box::new(overview)));
            }
            self.pause.rest(NEXT_TRY)?;
        }
        Err(FsError::Unreachable(
            "no node leads: a majority of the nodes does not answer; 'tsfs cluster status' shows which".to_owned(),
        ))
    }

    /// Answers as the node that leads.
    ///
    /// # Errors
    /// `NotLeader`; as for `answer`.
    pub fn answer_here(&self, ask: &Ask, watch: Watch<'_>) -> Result<Answer, FsError> {
        let leader = self.members.leader();
        if leader != Some(self.here) {
            return Err(FsError::NotLeader { leader });
        }
        match ask {
            Ask::Overview => Ok(Answer::Overview(Box::new(self.overview()?))),
            Ask::Invite { to, valid_s } => self.invite(to, *valid_s),
            Ask::Certificate { name, valid_s } => self.certificate(name, *valid_s),
            Ask::Remove { node } => {
                let said = format!("node {} does not belong to the cluster any more", node.0);
                self.change(ask, |facts| plan::remove(facts, *node), said, watch)
            }
            Ask::Replace { node, by } => {
                let said = format!("node {} has taken the place of node {}", by.0, node.0);
                self.change(ask, |facts| plan::replace(facts, *node, *by), said, watch)
            }
            Ask::Drain { node } => {
                let said = format!("node {} may be stopped: the others do without it", node.0);
                self.change(ask, |facts| plan::drain(facts, *node), said, watch)
            }
            Ask::Placement => Ok(Answer::Placement(self.placement_state()?)),
            Ask::Copies { copies } => self.want_copies(*copies),
            Ask::Clients => Ok(Answer::Clients(self.clients.clients()?)),
            Ask::Evict { session } => {
                self.clients.evict(*session)?;
                Ok(Answer::Done(format!("the session of client {} is over", session.0)))
            }
            Ask::Announce(announced) => self.announced(announced),
            Ask::Locks { limit } => {
                let (locks, more) = self.clients.locks(*limit as usize)?;
                Ok(Answer::Locks { locks, more })
            }
        }
    }

    fn change(
        &self,
        ask: &Ask,
        decide: impl Fn(&Facts) -> Result<Plan, String>,
        said: String,
        watch: Watch<'_>,
    ) -> Result<Answer, FsError> {
        let plan = decide(&self.facts()?).map_err(FsError::Refused)?;
        match self.carry_out(&plan, watch)? {
            Worked::Done => Ok(Answer::Done(said)),
            Worked::PassOn(to) => self.others.ask(to, ask, watch),
        }
    }

    /// Writes down what is different about a node, so that whoever lets it in next knows.
    fn announced(&self, announced: &Announced) -> Result<Answer, FsError> {
        let Announced { node, incarnation, starts, boot, name, address, roles } = announced.clone();
        let row = rows::node(&*self.server, node)?;
        let started = row.as_ref().is_some_and(|row| (row.starts, row.boot) == (starts, boot));
        let mut ops = Vec::new();
        if !started {
            ops.push(Op::Cluster(ClusterOp::NodeStarted { node, incarnation, starts, boot }));
        }
        let same = |row: &Node| (&row.name, &row.address, row.roles) == (&name, &address, roles);
        if !row.as_ref().is_some_and(same) {
            let described = Described { name, address, roles };
            ops.push(Op::Cluster(set_node(Some(node), incarnation, &described)));
        }
        if !ops.is_empty() {
            self.server.administer_all(None, ops)?;
        }
        Ok(Answer::Done(format!("node {} is known", node.0)))
    }

    fn invite(&self, to: &Invited, valid_s: u64) -> Result<Answer, FsError> {
        if let Invited::Client { name } = to {
            check_client_name(name)?;
        }
        let valid = valid(valid_s)?;
        let authority = rows::authority(&*self.server)?;
        let mut nodes = rows::addresses(&*self.server)?;
        // This one leads, and so is the one to ask.
        nodes.sort_by_key(|at| (at.node != self.here, at.node));
        let addresses = nodes.into_iter().map(|at| at.address).take(TOKEN_ADDRESSES_MAX).collect();
        let token = Token::make(authority.fingerprint(), addresses, self.clock.wall(), valid)?;
        let (digest, expires) = (token.digest(), token.expires);
        let invite = ClusterOp::Invite { digest, expires, to: to.clone() };
        self.server.administer(Op::Cluster(invite))?;
        Ok(Answer::Token { text: token.to_string(), expires })
    }

    fn certificate(&self, name: &str, valid_s: u64) -> Result<Answer, FsError> {
        check_client_name(name)?;
        let (valid, now) = (valid(valid_s)?, self.clock.wall());
        let authority = rows::authority(&*self.server)?;
        let identity = net::Identity::Client { name: name.to_owned(), store: authority.store() };
        let text = authority.issue(&identity, now, valid)?;
        let expires = Stamp(now.0.saturating_add(valid.as_nanos() as u64));
        Ok(Answer::Certificate { text, expires })
    }

    /// The cluster as it looks from here.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    pub fn overview(&self) -> Result<Overview, FsError> {
        let leader = self.members.leader();
        let followers = self.members.followers();
        let members = self.members.members();
        let nodes = rows::nodes(&*self.server)?;
        let state = |(node, row): (NodeId, Node)| {
            let follower = followers.iter().find(|follower| follower.node == node);
            NodeState {
                node: node.0,
                name: row.name,
                address: row.address,
                roles: row.roles.to_string(),
                part: match () {
                    () if leader == Some(node) => Part::Leads,
                    () if members.voters.contains(&node) => Part::Votes,
                    () if members.learners.contains(&node) => Part::Learns,
                    () => Part::Outside,
                },
                answers: match node == self.here {
                    true => Some(true),
                    // One whose disk or line is slow is silent in the log for longer than an election, and is there.
                    false => follower.map(|follower| follower.answers || self.others.reaches(node)),
                },
                lag: follower.map(|follower| follower.lag),
                lacks: self.lacks(node),
            }
        };
        let nodes: Vec<NodeState> = nodes.into_iter().map(state).collect();
        let mut health = trouble(leader, &members.voters, &followers, &nodes);
        health.extend(self.slow_disks());
        health.extend(too_few_homes(&rows::placement(&*self.server)?));
        health.extend(self.server.status()?.health);
        Ok(Overview {
            store: net::StoreId(rows::store(&*self.server)?.uuid).to_string(),
            here: self.here.0,
            leader: leader.map(|node| node.0),
            term: self.members.term(),
            nodes,
            clients: self.clients.clients()?.len() as u64,
            health,
        })
    }

    /// A sentence for each node that is slow to sync, as this one last heard where it leads.
    fn slow_disks(&self) -> Vec<String> {
        let slow = |(node, standing): (&NodeId, &Standing)| {
            let us = standing.sync_us.filter(|us| *us >= plan::SLOW_SYNC_US)?;
            Some(format!(
                "node {} has a slow disk: it takes {} ms to sync a write to the log",
                node.0,
                us / 1000
            ))
        };
        self.heard.lock().standings.iter().filter_map(slow).collect()
    }
}

/// A sentence for each thing that is not as it should be with the cluster.
fn trouble(
    leader: Option<NodeId>,
    voters: &[NodeId],
    followers: &[Follower],
    nodes: &[NodeState],
) -> Vec<String> {
    let mut lines = Vec::new();
    if leader.is_none() {
        lines.push(
            "no node leads: start nodes until a majority of those that decide answers".to_owned(),
        );
    }
    for Follower { node, answers, lag } in followers {
        let runs = nodes.iter().any(|state| state.node == node.0 && state.answers == Some(true));
        if !answers && !runs {
            lines.push(format!(
                "node {} does not answer: start it, or 'tsfs cluster replace' it",
                node.0
            ));
        } else if *lag > plan::LAG_MAX || (*lag > 0 && !answers) {
            lines.push(format!(
                "node {} lags: it has yet to confirm {lag} entries of the log. Unless it was away, its disk or its network is slow",
                node.0
            ));
        }
    }
    if voters.len() == 2 {
        lines.push(
            "two nodes decide, so that everybody waits when one of them is away: add a third ('tsfs cluster invite')"
                .to_owned(),
        );
    }
    for node in nodes.iter().filter(|node| node.part == Part::Outside) {
        lines.push(format!(
            "node {} takes no part in the log: start it, or 'tsfs cluster remove {}'",
            node.node, node.node
        ));
    }
    for (node, lacks) in nodes.iter().filter_map(|node| Some((node, node.lacks?))) {
        if lacks > 0 {
            lines.push(format!("node {} has yet to fetch {lacks} blocks", node.node));
        }
    }
    lines
}

/// What is to be said where blocks have homes by name, and fewer than they want.
fn too_few_homes(placement: &Placement) -> Option<String> {
    let homes = placement.now.as_ref()?.nodes().count();
    (homes < usize::from(placement.copies)).then(|| {
        format!(
            "{homes} nodes keep blocks, and {} copies are wanted: add a node with the role 'data' ('tsfs cluster invite')",
            placement.copies
        )
    })
}

fn valid(seconds: u64) -> Result<Duration, FsError> {
    let valid = Duration::from_secs(seconds);
    match seconds > 0 && valid <= VALID_MAX {
        true => Ok(valid),
        false => Err(FsError::Refused("it can be good for one second to ten years".to_owned())),
    }
}

fn check_client_name(name: &str) -> Result<(), FsError> {
    let good = (1..=64).contains(&name.len()) && !name.chars().any(char::is_control);
    match good {
        true => Ok(()),
        false => Err(FsError::Refused(
            "a client's name has 1 to 64 bytes, and none of control".to_owned(),
        )),
    }
}
