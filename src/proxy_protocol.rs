//! The PROXY protocol, version 2: the header by which a proxy says for whom it connects. Does no I/O.
//!
//! ```text
//!   0D 0A 0D 0A 00 0D 0A 51 55 49 54 0A │ 2 command │ family transport │ length: u16 │ length bytes
//!             signature (12)            └── 0 local, 1 proxy            └ big-endian
//!                                         1 v4: source 4, destination 4, ports 2 + 2, then whatever
//!                                         2 v6: source 16, destination 16, ports 2 + 2, then whatever
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::limits::PROXY_HEADER_BYTES_MAX;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const FIXED_BYTES: usize = 16;

/// What stands at the beginning of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The rest has not arrived.
    Incomplete,
    /// It ends after so many bytes. The client's address and the one it came to; none where the proxy speaks for itself,
    /// or of a family that has no addresses like ours.
    Whole {
        len: usize,
        client: Option<(SocketAddr, SocketAddr)>,
    },
    Wrong(&'static str),
}

pub fn parse(input: &[u8]) -> Header {
    let known = input.len().min(SIGNATURE.len());
    if input[..known] != SIGNATURE[..known] {
        return Header::Wrong("there is no PROXY header, version 2");
    }
    let Some(fixed) = input.first_chunk::<FIXED_BYTES>() else { return Header::Incomplete };
    let (version, command) = (fixed[12] >> 4, fixed[12] & 0x0F);
    if version != 2 || command > 1 {
        return Header::Wrong("of the PROXY protocol only version 2 is known, with LOCAL and PROXY");
    }
    let rest_len = u16::from_be_bytes([fixed[14], fixed[15]]) as usize;
    let len = FIXED_BYTES + rest_len;
    if len > PROXY_HEADER_BYTES_MAX {
        return Header::Wrong("the PROXY header is too long");
    }
    let Some(rest) = input.get(FIXED_BYTES..len) else { return Header::Incomplete };
    let addresses = match fixed[13] >> 4 {
        1 => rest.first_chunk::<12>().map(|bytes| {
            let ip = |at: usize| IpAddr::from(Ipv4Addr::from([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
            (SocketAddr::new(ip(0), port(&bytes[8..])), SocketAddr::new(ip(4), port(&bytes[10..])))
        }),
        2 => rest.first_chunk::<36>().map(|bytes| {
            let ip = |at: usize| {
                let octets: [u8; 16] = bytes[at..at + 16].try_into().expect("sixteen bytes");
                IpAddr::from(Ipv6Addr::from(octets)).to_canonical()
            };
            (SocketAddr::new(ip(0), port(&bytes[32..])), SocketAddr::new(ip(16), port(&bytes[34..])))
        }),
        _ => return Header::Whole { len, client: None },
    };
    match (addresses, command) {
        (_, 0) => Header::Whole { len, client: None },
        (Some(client), _) => Header::Whole { len, client: Some(client) },
        (None, _) => Header::Wrong("the PROXY header is too short for its addresses"),
    }
}

fn port(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend((rest.len() as u16).to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0x1B, 0x59];

    #[test]
    fn addresses_are_read_wherever_the_input_was_cut() {
        let mut v6 = [0u8; 36];
        v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        v6[15] = 1;
        v6[31] = 2;
        v6[32..].copy_from_slice(&[0, 80, 1, 187]);
        let with_more = [&V4[..], b"\x03\x00\x04abcd"].concat();
        for (rest, family, client, local) in [
            (&V4[..], 0x11, "192.0.2.7:12345", "10.0.0.1:7001"),
            (&with_more, 0x11, "192.0.2.7:12345", "10.0.0.1:7001"),
            (&v6, 0x21, "[2001:db8::1]:80", "[::2]:443"),
        ] {
            let mut input = header(1, family, rest);
            let len = input.len();
            for cut in 0..len {
                assert_eq!(parse(&input[..cut]), Header::Incomplete, "{cut}");
            }
            input.extend(b"PING\r\n");
            let client = Some((client.parse().unwrap(), local.parse().unwrap()));
            assert_eq!(parse(&input), Header::Whole { len, client });
        }
    }

    #[test]
    fn who_speaks_for_himself_keeps_his_address() {
        assert_eq!(parse(&header(0, 0, &[])), Header::Whole { len: 16, client: None });
        assert_eq!(parse(&header(0, 0x11, &V4)), Header::Whole { len: 28, client: None });
        assert_eq!(parse(&header(1, 0x31, &[0; 216])), Header::Whole { len: 232, client: None });
    }

    #[test]
    fn what_is_no_header_is_refused_as_soon_as_that_is_seen() {
        assert!(matches!(parse(b"*1"), Header::Wrong(_)));
        assert!(matches!(parse(b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n"), Header::Wrong(_)));
        assert!(matches!(parse(&header(2, 0x11, &V4)), Header::Wrong(_)));
        assert!(matches!(parse(&header(1, 0x11, &V4[..11])), Header::Wrong(_)));
        let mut other_version = header(1, 0x11, &V4);
        other_version[12] = 0x31;
        assert!(matches!(parse(&other_version), Header::Wrong(_)));
        let mut lying = header(1, 0x11, &V4);
        lying[14] = 0xFF;
        assert!(matches!(parse(&lying), Header::Wrong(_)), "a length beyond the bound is not waited for");
    }
}
