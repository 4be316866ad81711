//! Where a request comes from.

use std::net::IpAddr;
use std::str::FromStr;

use actix_web::HttpRequest;

/// A range of addresses: `10.0.0.0/8`, or a single one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: u128,
    mask: u128,
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.trim().parse().map_err(|_| ())?;
        // IPv4 lives in the last 32 bits of its IPv6-mapped form, so one comparison serves both.
        let (widest, shift) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
        let prefix = prefix.map_or(Ok(widest), |prefix| prefix.trim().parse::<u32>().map_err(|_| ()))?;
        if prefix > widest {
            return Err(());
        }
        let mask = match prefix + shift {
            0 => 0,
            bits => u128::MAX << (128 - bits),
        };
        Ok(Self { base: as_bits(address) & mask, mask })
    }
}

impl Network {
    /// Whether `address` lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        as_bits(address) & self.mask == self.base
    }
}

fn as_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The client's address: the peer's, unless the peer is a trusted proxy; then the last address in `X-Forwarded-For`
/// that is none. A caller can prepend whatever it likes, but cannot choose what the proxies append.
#[must_use]
pub fn client_address(request: &HttpRequest, trusted: &[Network]) -> Option<IpAddr> {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = request.peer_addr()?.ip().to_canonical();
    if !is_trusted(client) {
        return Some(client);
    }
    let hops: Vec<&str> = request
        .headers()
        .get_all("x-forwarded-for")
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .collect();
    for hop in hops.into_iter().rev() {
        let Ok(address) = hop.trim().parse::<IpAddr>() else { break };
        client = address.to_canonical();
        if !is_trusted(client) {
            break;
        }
    }
    Some(client)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    fn address(peer: &str, forwarded: &[&str], trusted: &str) -> String {
        let mut request = TestRequest::default().peer_addr(format!("{peer}:1").parse().unwrap());
        for value in forwarded {
            request = request.append_header(("X-Forwarded-For", *value));
        }
        client_address(&request.to_http_request(), &[trusted.parse().unwrap()]).unwrap().to_string()
    }

    #[test]
    fn strangers_do_not_choose_their_address() {
        assert_eq!(address("203.0.113.9", &["10.0.0.1"], "172.30.0.0/24"), "203.0.113.9");
    }

    #[test]
    fn a_trusted_proxy_says_whom_it_serves() {
        assert_eq!(address("172.30.0.10", &["203.0.113.9"], "172.30.0.0/24"), "203.0.113.9");
        assert_eq!(address("172.30.0.10", &["1.2.3.4, 203.0.113.9, 172.30.0.11"], "172.30.0.0/24"), "203.0.113.9");
        assert_eq!(address("172.30.0.10", &["1.2.3.4", "203.0.113.9"], "172.30.0.0/24"), "203.0.113.9");
        assert_eq!(address("172.30.0.10", &["nonsense"], "172.30.0.0/24"), "172.30.0.10");
    }

    #[test]
    fn networks_know_their_addresses() {
        let network: Network = "10.0.0.0/8".parse().unwrap();
        assert!(network.contains("10.255.0.1".parse().unwrap()) && !network.contains("11.0.0.1".parse().unwrap()));
        let everything: Network = "0.0.0.0/0".parse().unwrap();
        assert!(
            everything.contains("8.8.8.8".parse().unwrap()) && !everything.contains("2001:db8::1".parse().unwrap())
        );
        assert!("10.0.0.0/33".parse::<Network>().is_err() && "ten".parse::<Network>().is_err());
        assert!("2001:db8::/32".parse::<Network>().unwrap().contains("2001:db8:1::1".parse().unwrap()));
    }
}
