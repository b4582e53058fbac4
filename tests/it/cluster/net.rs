//! Where processes live: all on this machine's loopback, each at an address of its own, or each in a network namespace with a
//! line to a bridge, so that lines can be cut.
//!
//! The names of what is made have this process's number in them, and go when the value is dropped; what a test left that was
//! killed goes when the next one begins. Not here: what the processes are (`place`).

use crate::support::run;
use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;

/// The port of every node: below those that the kernel gives out.
pub(crate) const PORT: u16 = 7000;
/// Namespaces of tests, with the process that made them behind it.
const PREFIX: &str = "tsfs-test-";

pub(crate) enum Net {
    Loopback(Subnet),
    Spaces(Spaces),
}

/// Three bytes of addresses that no other test uses at this moment.
#[derive(Clone, Copy)]
pub(crate) struct Subnet(u8, u8);

impl Subnet {
    fn unique() -> Subnet {
        static TAKEN: AtomicU32 = AtomicU32::new(0);
        // Process numbers that run at the same time differ in less than this; a process has few clusters.
        let taken = TAKEN.fetch_add(1, SeqCst);
        let number = std::process::id().wrapping_mul(4).wrapping_add(taken) % 65_000 + 256;
        Subnet((number >> 8) as u8, number as u8)
    }
}

impl Net {
    /// Addresses of the loopback interface.
    pub(crate) fn loopback() -> Net {
        Net::Loopback(Subnet::unique())
    }

    /// So many namespaces. Whoever has number `places` or more lives beside the bridge, as the test does.
    ///
    /// # Panics
    /// Where the machine does not allow it, with what is missing.
    pub(crate) fn spaces(places: usize) -> Net {
        Net::Spaces(Spaces::new(places))
    }

    pub(crate) fn address(&self, place: usize) -> Ipv4Addr {
        let host = place as u8 + 1;
        match self {
            Net::Loopback(Subnet(a, b)) => Ipv4Addr::new(127, *a, *b, host),
            Net::Spaces(Spaces { subnet: Subnet(a, b), .. }) => Ipv4Addr::new(10, *a, *b, host),
        }
    }

    /// `program`, to be started where `place` is.
    pub(crate) fn command(&self, place: usize, program: &OsStr) -> Command {
        match self {
            Net::Spaces(spaces) if place < spaces.count => {
                // Not `ip netns exec`: what is mounted in there would be seen there only.
                let mut command = Command::new("nsenter");
                let space = Path::new("/run/netns").join(spaces.space(place));
                command.arg(format!("--net={}", space.display())).arg(program);
                command
            }
            _ => Command::new(program),
        }
    }

    /// The namespaces, for whoever cuts lines.
    ///
    /// # Panics
    /// On loopback, where there are no lines.
    pub(crate) fn lines(&self) -> &Spaces {
        match self {
            Net::Spaces(spaces) => spaces,
            Net::Loopback(_) => panic!("there are no lines on loopback: ask for namespaces"),
        }
    }
}

/// Namespaces, a bridge, and a line from each to it.
pub(crate) struct Spaces {
    subnet: Subnet,
    count: usize,
    /// Of interfaces, whose names are short.
    stem: String,
}

fn ip(arguments: &str) {
    run(Command::new("ip").args(arguments.split(' ')));
}

impl Spaces {
    fn new(count: usize) -> Spaces {
        sweep();
        let subnet = Subnet::unique();
        let Subnet(a, b) = subnet;
        let spaces = Spaces { subnet, count, stem: format!("t{a:02x}{b:02x}") };
        let stem = &spaces.stem;
        let first = Command::new("ip").args(["netns", "add", &spaces.space(0)]).output();
        let allowed = first.as_ref().is_ok_and(|output| output.status.success());
        assert!(
            allowed,
            "this test makes network namespaces: it needs root with CAP_SYS_ADMIN and CAP_NET_ADMIN, and iproute2: {first:?}"
        );
        ip(&format!("link add {stem}b type bridge"));
        ip(&format!("addr add 10.{a}.{b}.254/24 dev {stem}b"));
        ip(&format!("link set {stem}b up"));
        for place in 0..count {
            let (space, host) = (spaces.space(place), place + 1);
            if place > 0 {
                ip(&format!("netns add {space}"));
            }
            ip(&format!("link add {stem}h{place} type veth peer name line netns {space}"));
            ip(&format!("link set {stem}h{place} master {stem}b up"));
            ip(&format!("-n {space} link set lo up"));
            ip(&format!("-n {space} addr add 10.{a}.{b}.{host}/24 dev line"));
            ip(&format!("-n {space} link set line up"));
        }
        spaces
    }

    pub(crate) fn space(&self, place: usize) -> String {
        format!("{PREFIX}{}-{}-{place}", std::process::id(), self.stem)
    }

    /// The line of a place is cut, or whole again.
    pub(crate) fn link(&self, place: usize, up: bool) {
        ip(&format!("link set {}h{place} {}", self.stem, if up { "up" } else { "down" }));
    }

    /// The line of a place carries no more than this each way, as tc-tbf(8) is told it, or as much as ever.
    pub(crate) fn throttle(&self, place: usize, rate: Option<&str>) {
        let ends = [format!("dev {}h{place}", self.stem), "dev line".to_owned()];
        let inside = ["-n".to_owned(), self.space(place)];
        for (end, before) in ends.iter().zip([&[][..], &inside[..]]) {
            let what = match rate {
                Some(rate) => format!("qdisc replace {end} root tbf rate {rate}"),
                None => format!("qdisc del {end} root"),
            };
            run(Command::new("tc").args(before).args(what.split(' ')));
        }
    }

    /// What `from` sends to `to` is lost without a word; the other direction works.
    pub(crate) fn cut(&self, from: usize, to: usize) {
        // It is sent to a card that nobody has.
        self.neighbour(from, to, "replace", " lladdr 02:00:00:00:00:01 nud permanent");
    }

    /// Undoes a cut.
    pub(crate) fn mend(&self, from: usize, to: usize) {
        self.neighbour(from, to, "del", "");
    }

    fn neighbour(&self, from: usize, to: usize, what: &str, rest: &str) {
        let (space, Subnet(a, b), host) = (self.space(from), self.subnet, to + 1);
        ip(&format!("-n {space} neigh {what} 10.{a}.{b}.{host} dev line{rest}"));
    }
}

impl Drop for Spaces {
    fn drop(&mut self) {
        // The lines go with their namespaces. A failure here is no more than something left for the next sweep.
        for place in 0..self.count {
            let _ = Command::new("ip").args(["netns", "del", &self.space(place)]).output();
        }
        for place in 0..self.count {
            let line = format!("{}h{place}", self.stem);
            let _ = Command::new("ip").args(["link", "del", &line]).output();
        }
        let bridge = format!("{}b", self.stem);
        let _ = Command::new("ip").args(["link", "del", &bridge]).output();
    }
}

/// Removes what tests left that did not live to do it.
fn sweep() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let mut parts = name.strip_prefix(PREFIX).unwrap_or_default().split('-');
        let (Some(process), Some(stem)) = (parts.next(), parts.next()) else { continue };
        if !Path::new("/proc").join(process).exists() {
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
            let _ = Command::new("ip").args(["link", "del", &format!("{stem}b")]).output();
        }
    }
}
