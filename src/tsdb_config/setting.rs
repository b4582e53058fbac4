//! The table of settings: key, kind with bounds, default, what it does.

use crate::tsdb_config::unit;
use crate::types::Roles;

/// What a setting may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Text,
    Choice(&'static [&'static str]),
    /// Whole numbers, both bounds allowed.
    Count(u64, u64),
    /// The same, or `auto`.
    CountOrAuto(u64, u64),
    /// Bytes, both bounds allowed.
    Size(u64, u64),
    /// Milliseconds, both bounds allowed.
    Time(u64, u64),
    /// A length of time, or `forever`.
    Age,
    /// Percent from 1 to 100, or `none`.
    Percent,
    /// `HOST:PORT`.
    Address,
    /// The same, or this word.
    AddressOr(&'static str),
    /// Of a node; a list.
    Roles,
}

/// A value that was checked against its kind. Sizes are in bytes, times in nanoseconds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Value {
    Text(String),
    Number(u64),
    /// `forever`, `none`, `auto`, `off`.
    None,
}

#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// `section.name`, as in the file.
    pub key: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    pub help: &'static str,
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Every setting, in the order of the document.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "log.level",
        kind: Kind::Text,
        default: "info",
        help: "What is logged: error, warn, info, debug or trace; `info,tsfs::store=debug` for a part.",
    },
    Setting {
        key: "log.format",
        kind: Kind::Choice(&["text", "json"]),
        default: "text",
        help: "A line for people, or a JSON object a line.",
    },
    Setting {
        key: "log.target",
        kind: Kind::Text,
        default: "auto",
        help: "stderr, journal, a file's path, or auto: the journal under systemd, standard error in \
               the foreground, else tsfs.log in the store.",
    },
    Setting {
        key: "mount.threads",
        kind: Kind::Count(1, 64),
        default: "4",
        help: "Threads that take requests from the kernel.",
    },
    Setting {
        key: "mount.linger",
        kind: Kind::Time(0, 1),
        default: "100us",
        help: "How long a thread that has answered watches for the next request before it sleeps, while requests \
               follow each other closely. 0s: not at all; it costs at most one processor while a program is busy \
               here, and saves a wake-up for each request.",
    },
    Setting {
        key: "mount.allow-other",
        kind: Kind::Choice(&["auto", "true", "false"]),
        default: "auto",
        help: "Whether users other than the one who mounts may enter; permissions are checked either way. \
               auto: if it is root. Others need user_allow_other in /etc/fuse.conf.",
    },
    Setting {
        key: "mount.refused",
        kind: Kind::Text,
        default: "auto",
        help: "Where a cluster's mount saves what its programs had done and the cluster did not take, as after its session \
               was ended: a directory, or off; auto: /var/lib/tsfs/refused for root, else tsfs/refused in \
               XDG_STATE_HOME or ~/.local/state.",
    },
    Setting {
        key: "cache.client",
        kind: Kind::Size(16 * MIB, 1024 * GIB),
        default: "256MiB",
        help: "Memory of a mount for names, attributes and contents that it need not ask for again.",
    },
    Setting {
        key: "cache.table",
        kind: Kind::Size(8 * MIB, 1024 * GIB),
        default: "128MiB",
        help: "Memory of a store for the blocks of its tables.",
    },
    Setting {
        key: "write.window",
        kind: Kind::Time(1, 10_000),
        default: "50ms",
        help: "How long a change may wait for others before it goes into the log.",
    },
    Setting {
        key: "write.batch",
        kind: Kind::Size(MIB, 64 * MIB),
        default: "8MiB",
        help: "How much may wait before it goes into the log.",
    },
    Setting {
        key: "write.unsaved",
        kind: Kind::Size(16 * MIB, 64 * GIB),
        default: "128MiB",
        help: "How much may be written and not yet be in the log; writers wait beyond it.",
    },
    Setting {
        key: "store.compression",
        kind: Kind::CountOrAuto(1, 19),
        default: "auto",
        help: "Level of zstd; auto: 3, and 1 for as long as contents are written faster than 3 allows. Contents \
               that do not shrink are stored as they are.",
    },
    Setting {
        key: "store.reserve",
        kind: Kind::Size(16 * MIB, 1024 * GIB),
        default: "256MiB",
        help: "Disk space that is not given to writers, so that deleting and purging work on a full disk.",
    },
    Setting {
        key: "history.age",
        kind: Kind::Age,
        default: "1y",
        help: "How long a version is kept after it was replaced, or forever. For stores made from now on; \
               `tsfs retention` changes it for one that is there.",
    },
    Setting {
        key: "history.disk",
        kind: Kind::Percent,
        default: "80%",
        help: "The share of the disk space that nothing else takes which history may have before the oldest of it \
               goes, or none. As history.age.",
    },
    Setting {
        key: "node.listen",
        kind: Kind::Address,
        default: "0.0.0.0:7000",
        help: "Where a node listens for other nodes and for mounts, always with TLS.",
    },
    Setting {
        key: "node.address",
        kind: Kind::AddressOr("auto"),
        default: "auto",
        help: "Where the others reach the node, HOST:PORT; auto: this host's name and the port of node.listen.",
    },
    Setting {
        key: "node.name",
        kind: Kind::Text,
        default: "auto",
        help: "What people call the node; auto: this host's name.",
    },
    Setting {
        key: "node.roles",
        kind: Kind::Roles,
        default: "ts,data,lock,monitor",
        help: "What the node does: ts (votes, may lead), data (keeps blocks), lock (sessions and grants, where it leads), monitor (watches the others, where it leads).",
    },
    Setting {
        key: "node.networks",
        kind: Kind::Text,
        default: "any",
        help: "Which networks may connect, as 10.0.0.0/8,192.168.7.0/24, or any. Certificates are asked of all of them.",
    },
    Setting {
        key: "node.gone",
        kind: Kind::Time(60_000, 30 * 24 * 3_600_000),
        default: "30m",
        help: "After this time without an answer from a node, what it kept is copied elsewhere, where enough others are left. It \
               counts on the node that leads: set it alike on all.",
    },
    Setting {
        key: "node.repair-rate",
        kind: Kind::Size(64 << 10, 1024 * GIB),
        default: "64MiB",
        help: "How much a node fetches in a second, at most, of blocks that it is to have and has not.",
    },
    Setting {
        key: "node.scrub-rate",
        kind: Kind::Size(64 << 10, 1024 * GIB),
        default: "8MiB",
        help: "How much a node reads in a second, at most, to find damage before somebody meets it; all of it once a week.",
    },
    Setting {
        key: "metrics.listen",
        kind: Kind::AddressOr("off"),
        default: "off",
        help: "Where a node answers /metrics (for Prometheus) and /health over HTTP, without TLS: 127.0.0.1:7001 is usual; or off.",
    },
];

impl Setting {
    /// The environment variable that sets it, as `TSFS_WRITE_WINDOW`.
    pub fn variable(&self) -> String {
        format!("TSFS_{}", self.key.to_uppercase().replace(['.', '-'], "_"))
    }

    /// Checks a value given as text.
    pub(super) fn parse(&self, text: &str) -> Result<Value, String> {
        match self.kind {
            Kind::Text if text.is_empty() => Err("is empty".to_owned()),
            Kind::Text => Ok(Value::Text(text.to_owned())),
            Kind::Choice(choices) if choices.contains(&text) => Ok(Value::Text(text.to_owned())),
            Kind::Choice(choices) => {
                Err(format!("'{text}' is none of its choices: {}", choices.join(", ")))
            }
            Kind::Count(least, most) => {
                let number = text.parse().map_err(|_| format!("'{text}' is no whole number"))?;
                bounded(number, least, most, |n| n.to_string())
            }
            Kind::CountOrAuto(..) if text == "auto" => Ok(Value::None),
            Kind::CountOrAuto(least, most) => {
                let number = text
                    .parse()
                    .map_err(|_| format!("'{text}' is no whole number, and not 'auto'"))?;
                bounded(number, least, most, |n| n.to_string())
            }
            Kind::Size(least, most) => bounded(unit::size(text)?, least, most, unit::show_size),
            Kind::Time(least, most) => {
                let (least, most) = (least * 1_000_000, most * 1_000_000);
                let nanos = unit::duration(text)?.as_nanos() as u64;
                bounded(nanos, least, most, show_nanos)
            }
            Kind::Age if text == "forever" => Ok(Value::None),
            Kind::Age => {
                let nanos = unit::duration(text).map_err(|why| format!("{why}, or forever"))?;
                Ok(Value::Number(nanos.as_nanos() as u64))
            }
            Kind::Address => address(text).map_err(|why| format!("{why}; write it as HOST:PORT")),
            Kind::AddressOr(word) if text == word => Ok(Value::None),
            Kind::AddressOr(word) => {
                address(text).map_err(|why| format!("{why}; write it as HOST:PORT, or {word}"))
            }
            Kind::Roles => text.parse::<Roles>().map(|roles| Value::Text(roles.to_string())),
            Kind::Percent if text == "none" => Ok(Value::None),
            Kind::Percent => {
                let number = text.trim_end_matches('%').parse();
                match number {
                    Ok(percent @ 1..=100) => Ok(Value::Number(percent)),
                    _ => Err(format!("'{text}' is no share; write 1% to 100%, or none")),
                }
            }
        }
    }
}

fn address(text: &str) -> Result<Value, String> {
    let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("'{text}' has no port"))?;
    if host.is_empty() {
        return Err(format!("'{text}' has no host"));
    }
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return Err(format!("'{text}' is ambiguous: brackets stand around an IPv6 address"));
    }
    match port.parse::<u16>() {
        Ok(_) => Ok(Value::Text(text.to_owned())),
        Err(_) => Err(format!("'{port}' is no port")),
    }
}

fn show_nanos(nanos: u64) -> String {
    unit::show_duration(std::time::Duration::from_nanos(nanos))
}

fn bounded(
    number: u64,
    least: u64,
    most: u64,
    show: impl Fn(u64) -> String,
) -> Result<Value, String> {
    if (least..=most).contains(&number) {
        return Ok(Value::Number(number));
    }
    Err(format!("{} is not between {} and {}", show(number), show(least), show(most)))
}
