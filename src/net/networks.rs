//! Which addresses may connect: networks as `10.0.0.0/8`, separated by commas.
//!
//! Not here: who they are. An address proves nothing; this keeps strangers from costing anything.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Networks in a list, at most.
const NETWORKS_MAX: usize = 256;

/// The networks that may connect. None: all may.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Networks(Vec<Network>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Network {
    address: IpAddr,
    /// Leading bits that count.
    bits: u8,
}

impl Networks {
    pub fn everywhere() -> Networks {
        Networks::default()
    }

    /// Whether somebody at this address may connect. An IPv4 address within IPv6 is taken as what it is.
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.is_empty() || self.0.iter().any(|network| network.contains(address))
    }
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                // Shifted by all bits nothing is left: the network of all addresses.
                let differ = ours.to_bits() ^ theirs.to_bits();
                differ.checked_shr(32 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let differ = ours.to_bits() ^ theirs.to_bits();
                differ.checked_shr(128 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Network, String> {
        let wrong = || format!("'{text}' is no network: write one as 10.0.0.0/8, or an address");
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= most).ok_or_else(wrong)?,
            None => most,
        };
        Ok(Network { address, bits })
    }
}

impl FromStr for Networks {
    type Err = String;

    /// An empty list: all.
    fn from_str(text: &str) -> Result<Networks, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let networks = parts.map(str::parse).collect::<Result<Vec<Network>, String>>()?;
        if networks.len() > NETWORKS_MAX {
            return Err(format!("{} networks, at most {NETWORKS_MAX}", networks.len()));
        }
        Ok(Networks(networks))
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, network) in self.0.iter().enumerate() {
            let comma = if n > 0 { ", " } else { "" };
            write!(f, "{comma}{}/{}", network.address, network.bits)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_a_network_or_not() {
        let cases = [
            ("", "203.0.113.9", true),
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8, 192.168.1.5", "192.168.1.5", true),
            ("10.0.0.0/8, 192.168.1.5", "192.168.1.6", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "2001:db9::1", true),
            ("::1", "::1", true),
        ];
        for (networks, address, contained) in cases {
            let networks: Networks = networks.parse().unwrap();
            let address = address.parse().unwrap();
            assert_eq!(networks.contain(address), contained, "{address} in {networks}");
            assert_eq!(networks.to_string().parse(), Ok(networks));
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in
            ["10.0.0.0/33", "::/129", "10.0.0/8", "example.org", "10.0.0.0/-1", "10.0.0.0/8/8"]
        {
            assert!(text.parse::<Networks>().is_err(), "{text}");
        }
    }
}
