//! Who may connect by address: networks in CIDR notation, v4 and v6. A v4 address that comes as a v6 one (`::ffff:…`) is
//! the v4 address.

use std::fmt;
use std::net::IpAddr;

/// A network: `10.0.0.0/8`, `2001:db8::/32`, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The bits behind the prefix are 0.
    bits: u128,
    prefix: u8,
    is_v4: bool,
}

const V4_BITS: u8 = 32;
const V6_BITS: u8 = 128;

/// The address as a number at the left of 128 bits, and whether it is v4.
fn number(address: IpAddr) -> (u128, bool) {
    match address.to_canonical() {
        IpAddr::V4(v4) => ((u32::from(v4) as u128) << (V6_BITS - V4_BITS), true),
        IpAddr::V6(v6) => (u128::from(v6), false),
    }
}

fn mask(prefix: u8) -> u128 {
    u128::MAX.checked_shl((V6_BITS - prefix).into()).unwrap_or(0)
}

impl Network {
    pub fn parse(text: &str) -> Result<Network, String> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| format!("{text:?} is neither an address nor a network"))?;
        let is_mapped = address.is_ipv6() && address.to_canonical().is_ipv4();
        let (bits, is_v4) = number(address);
        let longest = if is_v4 { V4_BITS } else { V6_BITS };
        let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = match prefix {
            None => longest,
            Some(prefix) => {
                let prefix: u8 = Some(prefix)
                    .filter(|prefix| is_digits(prefix))
                    .and_then(|prefix| prefix.parse().ok())
                    .ok_or_else(|| format!("{text:?}: {prefix:?} is no length of a prefix"))?;
                // `::ffff:10.0.0.0/104` is `10.0.0.0/8`.
                let prefix = if is_mapped { prefix.checked_sub(V6_BITS - V4_BITS) } else { Some(prefix) };
                prefix
                    .filter(|prefix| *prefix <= longest)
                    .ok_or_else(|| format!("{text:?}: a prefix has at most {longest} bits here"))?
            }
        };
        if bits & !mask(prefix) != 0 {
            return Err(format!(
                "{text:?} has bits behind its prefix: is it {}?",
                Network { bits: bits & mask(prefix), prefix, is_v4 }
            ));
        }
        Ok(Network { bits, prefix, is_v4 })
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let (bits, is_v4) = number(address);
        is_v4 == self.is_v4 && bits & mask(self.prefix) == self.bits
    }
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address: IpAddr = match self.is_v4 {
            true => std::net::Ipv4Addr::from((self.bits >> (V6_BITS - V4_BITS)) as u32).into(),
            false => std::net::Ipv6Addr::from(self.bits).into(),
        };
        write!(out, "{address}/{}", self.prefix)
    }
}

/// Denied networks win over allowed ones; no allowed network means that all are allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowlist {
    pub allow: Vec<Network>,
    pub deny: Vec<Network>,
}

impl Allowlist {
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    pub fn admits(&self, address: IpAddr) -> bool {
        let within = |networks: &[Network]| networks.iter().any(|network| network.contains(address));
        (self.allow.is_empty() || within(&self.allow)) && !within(&self.deny)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        Network::parse(text).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_hold_their_addresses_and_no_others() {
        for (text, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("192.0.2.128/25", "192.0.2.255", "192.0.2.127"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::/0", "::1", "127.0.0.1"),
            ("::1", "::1", "::2"),
        ] {
            assert!(network(text).contains(ip(inside)), "{text} {inside}");
            assert!(!network(text).contains(ip(outside)), "{text} {outside}");
        }
    }

    #[test]
    fn a_v4_address_that_comes_as_v6_is_the_v4_address() {
        assert!(network("10.0.0.0/8").contains(ip("::ffff:10.1.2.3")));
        assert_eq!(network("::ffff:10.0.0.0/104"), network("10.0.0.0/8"));
        assert_eq!(network("::ffff:10.0.0.1"), network("10.0.0.1/32"));
        assert!(Network::parse("::ffff:10.0.0.0/90").is_err());
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in
            ["", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/+8", "::/129", "host", "10.0.0/8", "10.0.0.0/8/8"]
        {
            assert!(Network::parse(text).is_err(), "{text}");
        }
        assert_eq!(
            Network::parse("10.1.0.0/8").unwrap_err(),
            "\"10.1.0.0/8\" has bits behind its prefix: is it 10.0.0.0/8?"
        );
        for text in ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32", "::/0"] {
            assert_eq!(network(text).to_string(), text);
        }
    }

    #[test]
    fn denied_wins_and_nothing_allowed_means_all() {
        let list = |allow: &[&str], deny: &[&str]| Allowlist {
            allow: allow.iter().map(|text| network(text)).collect(),
            deny: deny.iter().map(|text| network(text)).collect(),
        };
        assert!(list(&[], &[]).admits(ip("192.0.2.1")) && list(&[], &[]).is_empty());
        assert!(!list(&["10.0.0.0/8"], &[]).admits(ip("192.0.2.1")));
        let both = list(&["10.0.0.0/8"], &["10.0.0.9"]);
        assert!(both.admits(ip("10.0.0.8")) && !both.admits(ip("10.0.0.9")) && !both.admits(ip("::ffff:10.0.0.9")));
        assert!(!list(&[], &["::/0"]).admits(ip("::1")));
    }
}
