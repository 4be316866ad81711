//! Where a request comes from.

use std::net::IpAddr;

use actix_web::HttpRequest;
use domain::network::Network;

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
}
