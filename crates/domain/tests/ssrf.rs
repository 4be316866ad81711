//! Every range of addresses that IANA keeps back, however it is written: none of them may be called by a webhook.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use domain::network::is_public;
use domain::webhook::{BadTarget, Target};

/// IANA's IPv4 special-purpose registry, and multicast and the reserved rest. First address and bits of the prefix.
const V4: [(&str, u32, &str); 16] = [
    ("0.0.0.0", 8, "this network"),
    ("10.0.0.0", 8, "private use"),
    ("100.64.0.0", 10, "shared address space, carrier-grade NAT"),
    ("127.0.0.0", 8, "loopback"),
    ("169.254.0.0", 16, "link-local, cloud metadata"),
    ("172.16.0.0", 12, "private use"),
    ("192.0.0.0", 24, "IETF protocol assignments"),
    ("192.0.2.0", 24, "documentation"),
    ("192.88.99.0", 24, "6to4 relay anycast"),
    ("192.168.0.0", 16, "private use"),
    ("198.18.0.0", 15, "benchmarking"),
    ("198.51.100.0", 24, "documentation"),
    ("203.0.113.0", 24, "documentation"),
    ("224.0.0.0", 4, "multicast"),
    ("240.0.0.0", 4, "reserved"),
    ("255.255.255.255", 32, "limited broadcast"),
];

/// IANA's IPv6 special-purpose registry, multicast, and what was never given out.
const V6: [(&str, u32, &str); 20] = [
    ("::", 128, "unspecified"),
    ("::1", 128, "loopback"),
    ("::", 96, "IPv4-compatible"),
    ("::ffff:0:0:0", 96, "IPv4-translated"),
    ("64:ff9b::", 96, "NAT64"),
    ("64:ff9b:1::", 48, "NAT64, local"),
    ("100::", 64, "discard only"),
    ("100:0:0:1::", 64, "dummy prefix"),
    ("2001::", 32, "Teredo"),
    ("2001::", 23, "IETF protocol assignments"),
    ("2001:db8::", 32, "documentation"),
    ("2002::", 16, "6to4"),
    ("3fff::", 20, "documentation"),
    ("4000::", 3, "not given out"),
    ("5f00::", 16, "segment routing"),
    ("fc00::", 7, "unique local"),
    ("fe80::", 10, "link-local"),
    ("fec0::", 10, "site-local"),
    ("ff00::", 8, "multicast"),
    ("e000::", 4, "not given out"),
];

/// The first, the last and some addresses in between.
fn v4_of(first: &str, prefix: u32) -> Vec<Ipv4Addr> {
    let first = first.parse::<Ipv4Addr>().unwrap().to_bits();
    let last = first | u32::MAX.checked_shr(prefix).unwrap_or(0);
    [0, 1, 2, 3]
        .map(|part| Ipv4Addr::from_bits(first + (last - first) / 3 * part))
        .into_iter()
        .chain([last.into()])
        .collect()
}

fn v6_of(first: &str, prefix: u32) -> Vec<Ipv6Addr> {
    let first = first.parse::<Ipv6Addr>().unwrap().to_bits();
    let last = first | u128::MAX.checked_shr(prefix).unwrap_or(0);
    [0, 1, 2, 3]
        .map(|part| Ipv6Addr::from_bits(first + (last - first) / 3 * part))
        .into_iter()
        .chain([last.into()])
        .collect()
}

/// The ways to write an IPv4 address as an IPv6 one that leads there.
fn in_v6(address: Ipv4Addr) -> [Ipv6Addr; 5] {
    let bits = u128::from(address.to_bits());
    let with =
        |prefix: &str, shift: u32| Ipv6Addr::from_bits(prefix.parse::<Ipv6Addr>().unwrap().to_bits() | (bits << shift));
    [with("::ffff:0:0", 0), with("::", 0), with("::ffff:0:0:0", 0), with("64:ff9b::", 0), with("2002::", 80)]
}

fn refused(address: IpAddr, what: &str) {
    assert!(!is_public(address), "{address}: {what}");
    let host = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
    let url = format!("https://{host}/hook");
    assert_eq!(Target::parse(&url, &[]), Err(BadTarget::NotPublic), "{url}: {what}");
}

#[test]
fn no_reserved_address_of_ipv4_may_be_called_however_it_is_written() {
    for (first, prefix, what) in V4 {
        for address in v4_of(first, prefix) {
            refused(address.into(), what);
            for written in in_v6(address) {
                refused(written.into(), what);
            }
            // As numbers, as browsers and libraries read them too.
            let bits = address.to_bits();
            for host in [format!("{bits}"), format!("{bits:#x}"), format!("0{bits:o}")] {
                let url = format!("https://{host}/hook");
                assert_eq!(Target::parse(&url, &[]), Err(BadTarget::NotPublic), "{url}: {what}");
            }
        }
    }
}

#[test]
fn no_reserved_address_of_ipv6_may_be_called() {
    for (first, prefix, what) in V6 {
        for address in v6_of(first, prefix) {
            refused(address.into(), what);
        }
    }
}

#[test]
fn the_neighbours_of_reserved_ranges_may_be_called() {
    for public in [
        "1.0.0.0",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "191.255.255.255",
        "192.0.1.0",
        "192.0.3.0",
        "192.88.98.255",
        "192.88.100.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "198.51.99.255",
        "198.51.101.0",
        "203.0.112.255",
        "203.0.114.0",
        "223.255.255.255",
        "2001:200::",
        "2001:db7:ffff::",
        "2001:db9::",
        "2003::",
        "2001:ffff::",
        "3ffe:ffff::",
        "2606:4700::1111",
    ] {
        let address: IpAddr = public.parse().unwrap();
        assert!(is_public(address), "{public}");
        let host = if address.is_ipv6() { format!("[{public}]") } else { public.to_owned() };
        assert!(Target::parse(&format!("https://{host}/hook"), &[]).is_ok(), "{public}");
    }
}
