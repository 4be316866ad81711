//! Webhooks: addresses that are told of events, where they may be, and when an attempt is made again.

use std::net::IpAddr;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use url::{Host, Url};
use utoipa::ToSchema;

use crate::clock::{stored, stored_or_null};
use crate::id::{DeliveryId, EventId, OrganizationId, WebhookId};
use crate::network::{Network, is_public};

/// The type of an event that only tests a webhook; nobody can subscribe to it.
pub const TEST_EVENT: &str = "webhook.test";

/// An address that is told of events. Its secret is never shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Webhook {
    /// Its id.
    pub id: WebhookId,
    /// Whose it is.
    #[serde(rename = "organization_id")]
    pub organization: OrganizationId,
    /// Where requests go.
    #[schema(format = "uri")]
    pub url: String,
    /// Whether it is told of anything at the moment.
    pub is_active: bool,
    /// What it is told of.
    pub events: Vec<String>,
    /// How attempts are spread.
    pub retry_schedule: RetrySchedule,
    /// When it was made.
    #[serde(serialize_with = "stored")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(serialize_with = "stored")]
    pub updated_at: DateTime<Utc>,
}

/// How a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum DeliveryStatus {
    /// It waits for its first attempt, or for the next.
    Pending,
    /// It was accepted.
    Success,
    /// It was given up.
    Failed,
}

/// One event on its way to one webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = WebhookDelivery)]
pub struct Delivery {
    /// Its id, the same at every attempt.
    pub id: DeliveryId,
    /// Where to.
    #[serde(rename = "webhook_id")]
    pub webhook: WebhookId,
    /// What.
    #[serde(rename = "event_id")]
    pub event: EventId,
    /// The event's name.
    pub event_type: Option<String>,
    /// Whose it is.
    #[serde(rename = "organization_id")]
    pub organization: OrganizationId,
    /// `pending`, `success` or `failed`.
    #[schema(value_type = DeliveryStatus)]
    pub status: String,
    /// Attempts made.
    pub attempt_count: i32,
    /// The same as `response_status`.
    pub response_code: Option<i32>,
    /// What the last attempt was answered with.
    pub response_status: Option<i32>,
    /// The beginning of that answer; else why there was none.
    pub response_body: Option<String>,
    /// When the last attempt was made.
    #[serde(serialize_with = "stored_or_null")]
    pub last_attempt_at: Option<DateTime<Utc>>,
    /// When the next one is due.
    #[serde(serialize_with = "stored_or_null")]
    pub next_retry_at: Option<DateTime<Utc>>,
    /// When the event was handed on.
    #[serde(serialize_with = "stored")]
    pub created_at: DateTime<Utc>,
}

/// For what a webhook's secret is sealed: this row and no other.
#[must_use]
pub fn sealed_for(webhook: WebhookId) -> String {
    format!("webhook secret {webhook}")
}

/// How attempts are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RetrySchedule {
    /// Five attempts within an hour and a half.
    Standard,
    /// Ten attempts within three days, as Standard Webhooks recommends.
    Extended,
}

impl RetrySchedule {
    /// Both words.
    pub const WORDS: &'static [&'static str] = &["standard", "extended"];

    /// As it is written on the wire and stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Extended => "extended",
        }
    }

    /// Reads it; `None` for any other word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Standard, Self::Extended].into_iter().find(|schedule| schedule.as_str() == text)
    }

    /// How long after the failed attempt of that number (from 1) the next one is due; `None`: it was the last. `chance`,
    /// from 0 to 1, lengthens it by up to a fifth, so that attempts that failed together do not come back together.
    #[must_use]
    pub fn after(self, attempt: i32, chance: f64) -> Option<TimeDelta> {
        const STANDARD: [i64; 4] = [60, 300, 900, 3600];
        const EXTENDED: [i64; 9] = [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400];
        let delays: &[i64] = match self {
            Self::Standard => &STANDARD,
            Self::Extended => &EXTENDED,
        };
        let seconds = *delays.get(usize::try_from(attempt).ok()?.checked_sub(1)?)?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a day and a bit, in ms")]
        let milliseconds = (seconds as f64 * 1000.0 * (1.0 + 0.2 * chance.clamp(0.0, 1.0))) as i64;
        Some(TimeDelta::milliseconds(milliseconds))
    }
}

/// Failed attempts in a row after which a webhook is left alone for a while.
pub const STREAK: i32 = 5;
/// A failure that is older does not count any more.
pub const STREAK_KEPT: TimeDelta = TimeDelta::hours(24);
/// For how long it is left alone.
pub const CIRCUIT_OPEN: TimeDelta = TimeDelta::minutes(10);

/// Why nothing can be sent to an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// It is no address.
    #[error("URL is malformed or cannot be parsed")]
    Malformed,
    /// It is not encrypted; holds the protocol with its colon.
    #[error("Only HTTPS URLs are permitted (received protocol: {0})")]
    NotHttps(String),
    /// It is not on the public internet.
    #[error("Loopback, private, and link-local addresses are not permitted")]
    NotPublic,
    /// It holds a password, which would end up in logs.
    #[error("Credentials in the URL are not permitted")]
    Credentials,
}

/// Names that mean a network of one's own.
const PRIVATE_SUFFIXES: [&str; 9] =
    ["localhost", "local", "localdomain", "internal", "intranet", "corp", "home", "lan", "home.arpa"];

/// An address that requests may be sent to, as far as the address itself says. What its name resolves to is judged at
/// every attempt, by [`is_reachable`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The address.
    pub url: Url,
    /// Whether it goes without encryption, which only the networks that are allowed by name may.
    pub plain: bool,
}

impl Target {
    /// Judges an address. `allowed` names private networks that may be reached, also without encryption.
    pub fn parse(text: &str, allowed: &[Network]) -> Result<Self, BadTarget> {
        let url = Url::parse(text).map_err(|_| BadTarget::Malformed)?;
        let plain = url.scheme() == "http" && !allowed.is_empty();
        if url.scheme() != "https" && !plain {
            return Err(BadTarget::NotHttps(format!("{}:", url.scheme())));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(BadTarget::Credentials);
        }
        let reachable = match url.host().ok_or(BadTarget::Malformed)? {
            Host::Ipv4(address) => is_reachable(address.into(), plain, allowed),
            Host::Ipv6(address) => is_reachable(address.into(), plain, allowed),
            Host::Domain(name) => !allowed.is_empty() || is_public_name(name),
        };
        if reachable { Ok(Self { url, plain }) } else { Err(BadTarget::NotPublic) }
    }
}

/// Whether a request may go to an address: it is public, or in a network that is allowed by name. Without encryption
/// only the latter.
#[must_use]
pub fn is_reachable(address: IpAddr, plain: bool, allowed: &[Network]) -> bool {
    let address = address.to_canonical();
    allowed.iter().any(|network| network.contains(address)) || (!plain && is_public(address))
}

fn is_public_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let private = |suffix: &&str| name.strip_suffix(*suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    name.contains('.') && !PRIVATE_SUFFIXES.iter().any(private)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(url: &str) -> Result<(), String> {
        Target::parse(url, &[]).map(|_| ()).map_err(|error| error.to_string())
    }

    #[test]
    fn addresses_outside_the_public_internet_are_refused_however_they_are_written() {
        let private = Err("Loopback, private, and link-local addresses are not permitted".to_owned());
        for url in [
            "https://localhost/",
            "https://LOCALHOST./x",
            "https://a.localhost/",
            "https://127.0.0.1/",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f.0.0.1/",
            "https://0177.0.0.1/",
            "https://10.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://[::ffff:a00:1]/",
            "https://[fe80::1]/",
            "https://[fd00::1]/",
            "https://169.254.169.254/latest/meta-data",
            "https://0.0.0.0/",
            "https://redis/",
            "https://redis:6379/",
            "https://metadata.google.internal/",
            "https://printer.local/",
            "https://100.64.1.1/",
            "https://[64:ff9b::7f00:1]/",
        ] {
            assert_eq!(judged(url), private, "{url}");
        }
        for url in ["https://hooks.example.com/ft?x=1", "https://8.8.8.8:8443/", "https://[2606:4700::1111]/"] {
            assert_eq!(judged(url), Ok(()), "{url}");
        }
    }

    #[test]
    fn only_https_without_credentials() {
        assert_eq!(
            judged("http://a.example/").unwrap_err(),
            "Only HTTPS URLs are permitted (received protocol: http:)"
        );
        assert_eq!(judged("ftp://a.example/").unwrap_err(), "Only HTTPS URLs are permitted (received protocol: ftp:)");
        assert_eq!(judged("https://u:p@a.example/").unwrap_err(), "Credentials in the URL are not permitted");
        for malformed in ["", "a.example", "https://", "https://a b/", "https://[::1"] {
            assert_eq!(judged(malformed).unwrap_err(), "URL is malformed or cannot be parsed", "{malformed}");
        }
    }

    #[test]
    fn a_private_network_is_reached_when_it_is_allowed_by_name() {
        let allowed = Network::list("127.0.0.0/8, 10.1.0.0/16").unwrap();
        for url in ["http://127.0.0.1:8080/", "https://10.1.2.3/", "https://hooks.example.com/", "https://8.8.8.8/"] {
            assert!(Target::parse(url, &allowed).is_ok(), "{url}");
        }
        for url in ["http://8.8.8.8/", "https://10.2.0.1/", "http://192.168.0.1/", "https://169.254.169.254/"] {
            assert_eq!(Target::parse(url, &allowed), Err(BadTarget::NotPublic), "{url}");
        }
        assert!(is_reachable("::ffff:127.0.0.1".parse().unwrap(), true, &allowed));
        assert!(!is_reachable("8.8.8.8".parse().unwrap(), true, &allowed));
    }

    #[test]
    fn attempts_are_spread_as_the_contract_says() {
        let seconds = |schedule: RetrySchedule, chance: f64| -> Vec<i64> {
            (1..).map_while(|attempt| schedule.after(attempt, chance)).map(|delay| delay.num_seconds()).collect()
        };
        assert_eq!(seconds(RetrySchedule::Standard, 0.0), [60, 300, 900, 3600]);
        assert_eq!(seconds(RetrySchedule::Standard, 1.0), [72, 360, 1080, 4320]);
        let extended: i64 = seconds(RetrySchedule::Extended, 0.0).iter().sum();
        assert!((3 * 24 * 3600..4 * 24 * 3600).contains(&extended), "{extended}");
        assert_eq!(RetrySchedule::Standard.after(0, 0.0), None);
        assert_eq!(RetrySchedule::Standard.after(5, 0.0), None);
    }
}
