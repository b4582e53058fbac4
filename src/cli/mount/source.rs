//! What is mounted: the directory of a store, or a directory of a cluster, as `HOST[:PORT],HOST[:PORT],…:/DIR`.

use crate::tsdb_config::PORT;
use anyhow::bail;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

/// Nodes that are named; any of them tells where the others are.
const HOSTS_MAX: usize = 64;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::cli) enum Source {
    Store(PathBuf),
    Cluster(Cluster),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::cli) struct Cluster {
    /// `HOST:PORT` each.
    pub(in crate::cli) addresses: Vec<String>,
    /// Begins with a slash.
    pub(in crate::cli) dir: PathBuf,
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.addresses.join(","), self.dir.display())
    }
}

impl Source {
    /// A cluster's is known by the `:/` behind something without a slash; `./a:/b` is a directory.
    ///
    /// # Errors
    /// A sentence for hosts that are none.
    pub(in crate::cli) fn read(given: &Path) -> anyhow::Result<Source> {
        let bytes = given.as_os_str().as_bytes();
        let split = bytes.windows(2).position(|pair| pair == b":/");
        let Some(at) = split.filter(|at| !bytes[..*at].contains(&b'/')) else {
            let text = given.to_string_lossy();
            if !given.exists() && !text.contains('/') && text.contains([':', ',']) {
                bail!(
                    "'{text}' is no directory; a cluster is written as HOST,HOST:/ or HOST:PORT,HOST:PORT:/DIR"
                );
            }
            return Ok(Source::Store(given.to_owned()));
        };
        let Ok(hosts) = std::str::from_utf8(&bytes[..at]) else {
            bail!("{}: a host's name is plain text", given.display());
        };
        let mut addresses = Vec::new();
        for host in hosts.split(',') {
            let address = address(host).map_err(|why| {
                anyhow::anyhow!(
                    "{}: {why}; write HOST,HOST:/ or HOST:PORT,HOST:PORT:/DIR",
                    given.display()
                )
            })?;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.len() > HOSTS_MAX {
            bail!(
                "{} hosts, at most {HOSTS_MAX}: any of them tells where the others are",
                addresses.len()
            );
        }
        let dir = PathBuf::from(OsStr::from_bytes(&bytes[at + 1..]));
        Ok(Source::Cluster(Cluster { addresses, dir }))
    }
}

/// `HOST:PORT` of a host with or without one.
pub(in crate::cli) fn address(text: &str) -> Result<String, String> {
    let text = text.trim();
    // An IPv6 address has colons of its own, and brackets around it.
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) =
                rest.split_once(']').ok_or_else(|| format!("'{text}' lacks a bracket"))?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(format!("'{host}' is no IPv6 address"));
            }
            let port = match rest.strip_prefix(':') {
                Some(port) => Some(port),
                None if rest.is_empty() => None,
                None => return Err(format!("'{rest}' stands behind the bracket of '{text}'")),
            };
            (format!("[{host}]"), port)
        }
        None => match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err(format!("brackets stand around an IPv6 address, as [{text}]"));
            }
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (text.to_owned(), None),
        },
    };
    let letter = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.is_empty() || !host.starts_with('[') && !host.chars().all(letter) {
        return Err(format!("'{host}' is no name of a host"));
    }
    let port = match port {
        None => PORT,
        Some(port) => match port.parse() {
            Ok(port) if port > 0 => port,
            _ => return Err(format!("'{port}' is no port")),
        },
    };
    Ok(format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> anyhow::Result<Source> {
        Source::read(Path::new(text))
    }

    #[test]
    fn a_cluster_is_told_from_a_directory() {
        for (text, addresses, dir) in [
            ("n1:/", &["n1:7000"][..], "/"),
            ("n1,n2:7100,10.0.0.3:/a/b", &["n1:7000", "n2:7100", "10.0.0.3:7000"], "/a/b"),
            ("[2001:db8::1],[::1]:7100:/d", &["[2001:db8::1]:7000", "[::1]:7100"], "/d"),
            ("n1,n1:7000:/a:/b", &["n1:7000"], "/a:/b"),
        ] {
            let cluster = Cluster {
                addresses: addresses.iter().map(|&address| address.to_owned()).collect(),
                dir: PathBuf::from(dir),
            };
            assert_eq!(read(text).unwrap(), Source::Cluster(cluster), "{text}");
        }
        for text in ["/srv/store", "store", "./n1:/", "/srv/a:/b", "../x", "."] {
            assert_eq!(read(text).unwrap(), Source::Store(PathBuf::from(text)));
        }
    }

    #[test]
    fn what_is_no_host_is_named() {
        for (text, why) in [
            ("n1,:/", "'' is no name of a host"),
            ("n1:port:/", "'port' is no port"),
            ("n1:0:/", "'0' is no port"),
            ("n1:70000:/", "'70000' is no port"),
            ("::1:/", "brackets stand around"),
            ("[::1:/", "lacks a bracket"),
            ("[::g]:/", "'::g' is no IPv6"),
            ("[::1]x:/", "behind the bracket"),
            ("n 1:/", "'n 1' is no name"),
            ("n1,n2", "a cluster is written as"),
            ("n1:7000", "a cluster is written as"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        let many: Vec<String> = (0..65).map(|n| format!("n{n}")).collect();
        let error = read(&format!("{}:/", many.join(","))).unwrap_err().to_string();
        assert!(error.contains("at most 64"), "{error}");
    }
}
