//! Whom Alertmanager tells: a receiver on this machine, and the product's own configuration pointed at it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::shortened;
use crate::{
    failure::{Context, Failure, Outcome},
    workspace,
};

/// What Alertmanager posts.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    group_labels: BTreeMap<String, String>,
    alerts: Vec<Alert>,
}

#[derive(Clone, Debug, Deserialize)]
struct Alert {
    status: String,
    labels: BTreeMap<String, String>,
}

/// One notification: several alerts of a group.
#[derive(Clone, Debug)]
struct Notification {
    at: Instant,
    /// The path it was posted to: `/people` or `/heartbeat`.
    to: String,
    body: Body,
}

/// Somebody with a pager.
pub struct Pager {
    port: u16,
    heard: Arc<Mutex<Vec<Notification>>>,
    listening: JoinHandle<()>,
}

impl Drop for Pager {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Pager {
    /// Listens on a port of 127.0.0.1.
    pub async fn listen() -> Outcome<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen")?;
        let port = listener.local_addr().context("no address")?.port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let listening = tokio::spawn({
            let heard = Arc::clone(&heard);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(receive(stream, Arc::clone(&heard)));
                }
            }
        });
        Ok(Self { port, heard, listening })
    }

    /// The product's configuration of Alertmanager with this receiver in it, and minutes as short as everywhere here.
    pub fn configuration(&self, source: &str) -> Outcome<String> {
        let mut text = String::with_capacity(source.len());
        for line in source.lines() {
            let waits = ["group_wait: ", "group_interval: ", "repeat_interval: "];
            match waits.iter().find_map(|wait| line.split_once(wait).map(|(before, time)| (before, wait, time))) {
                Some((before, wait, time)) => {
                    let time = shortened(time.trim()).ok_or_else(|| Failure::new(format!("what time is {time}?")))?;
                    text.push_str(&format!("{before}{wait}{}ms", time.as_millis()));
                }
                None => text.push_str(line),
            }
            text.push('\n');
        }
        for (place, path) in [("@ALERT_WEBHOOK_URL@", "people"), ("@HEARTBEAT_URL@", "heartbeat")] {
            if !text.contains(place) {
                return Err(Failure::new(format!("the configuration of Alertmanager has no {place}")));
            }
            text = text.replace(place, &format!("http://127.0.0.1:{}/{path}", self.port));
        }
        Ok(text)
    }

    /// When people were told since `since` that this alert fires, or that it is over.
    pub fn told(&self, alert: &str, status: &str, since: Instant) -> Option<Instant> {
        self.since(since).into_iter().find(|it| it.to == "/people" && it.body.count(alert, status) > 0).map(|it| it.at)
    }

    /// The most alerts of this name that came in one notification since `since`.
    pub fn together(&self, alert: &str, since: Instant) -> usize {
        self.since(since).iter().map(|it| it.body.count(alert, "firing")).max().unwrap_or(0)
    }

    /// How often the heartbeat came since `since`.
    pub fn heartbeats(&self, since: Instant) -> usize {
        let beats = |it: &Notification| it.to == "/heartbeat" && it.body.count("Watchdog", "firing") == 1;
        self.since(since).iter().filter(|it| beats(it)).count()
    }

    /// A notification that should not have been: of an alert that is nobody's news, or of several groups at once.
    pub fn nonsense(&self, since: Instant) -> Option<String> {
        let wrong = |it: &Notification| {
            let group = |alert: &Alert| {
                it.body.group_labels.iter().all(|(label, value)| alert.labels.get(label) == Some(value))
            };
            let nobodys = |alert: &Alert| alert.labels.get("severity").is_none_or(|severity| severity == "none");
            let keys: Vec<&str> = it.body.group_labels.keys().map(String::as_str).collect();
            keys != ["alertname", "team"]
                || !it.body.alerts.iter().all(group)
                || (it.to == "/people" && it.body.alerts.iter().any(nobodys))
        };
        self.since(since).iter().find(|it| wrong(it)).map(|it| format!("{it:?}"))
    }

    fn since(&self, since: Instant) -> Vec<Notification> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.iter().filter(|it| it.at >= since).cloned().collect()
    }
}

impl Body {
    fn count(&self, name: &str, status: &str) -> usize {
        let is = |alert: &&Alert| alert.status == status && alert.labels.get("alertname").is_some_and(|it| it == name);
        self.alerts.iter().filter(is).count()
    }
}

/// Takes notifications from one connection until it ends or says something that is none.
async fn receive(stream: TcpStream, heard: Arc<Mutex<Vec<Notification>>>) {
    let mut stream = BufReader::new(stream);
    while let Some((to, body)) = request(&mut stream).await {
        let Ok(body) = serde_json::from_slice(&body) else { return };
        let at = Instant::now();
        heard.lock().unwrap_or_else(PoisonError::into_inner).push(Notification { at, to, body });
        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
            return;
        }
    }
}

/// The path and the body of a POST.
async fn request(stream: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    /// A notification is a few kilobytes.
    const MOST: usize = 1 << 20;
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let path = line.strip_prefix("POST ")?.split(' ').next()?.to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await.ok()?;
        match header.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse().ok()?,
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; Some(length).filter(|length| *length <= MOST)?];
    stream.read_exact(&mut body).await.ok()?;
    Some((path, body))
}

/// The product's configuration of Alertmanager.
pub fn source() -> Outcome<String> {
    let path = workspace::root().join("monitoring/alertmanager/alertmanager.yml");
    std::fs::read_to_string(path).context("cannot read Alertmanager's configuration")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_posted_is_heard_and_the_rest_is_not() {
        // The client brings no cryptography of its own. An error would say that one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let pager = Pager::listen().await.unwrap();
        let begun = Instant::now();
        let post = |path: &'static str, body: &'static str| {
            let url = format!("http://127.0.0.1:{}{path}", pager.port);
            async move { crate::beside::client().unwrap().post(url).body(body).send().await }
        };
        let two = r#"{"groupLabels":{"alertname":"A","team":"x"},"alerts":[
            {"status":"firing","labels":{"alertname":"A","team":"x","severity":"warning"}},
            {"status":"firing","labels":{"alertname":"A","team":"x","severity":"warning"}}]}"#;
        assert!(post("/people", two).await.unwrap().status().is_success());
        let watchdog = r#"{"groupLabels":{"alertname":"Watchdog","team":"host"},"alerts":[
            {"status":"firing","labels":{"alertname":"Watchdog","team":"host","severity":"none"}}]}"#;
        post("/heartbeat", watchdog).await.unwrap();
        assert!(post("/people", "nonsense").await.is_err());
        assert!(pager.told("A", "firing", begun).is_some());
        assert!(pager.told("A", "resolved", begun).is_none());
        assert!(pager.told("Watchdog", "firing", begun).is_none(), "nobody is woken by it");
        assert_eq!((pager.together("A", begun), pager.heartbeats(begun)), (2, 1));
        assert_eq!(pager.nonsense(begun), None);
        post("/people", watchdog).await.unwrap();
        assert!(pager.nonsense(begun).is_some());
    }

    #[tokio::test]
    async fn the_products_configuration_gets_our_addresses_and_nothing_but_shorter_times() {
        let pager = Pager::listen().await.unwrap();
        let text = pager.configuration(&source().unwrap()).unwrap();
        assert!(text.contains(&format!("http://127.0.0.1:{}/people", pager.port)) && !text.contains('@'), "{text}");
        assert!(text.contains("      group_wait: 10000ms\n") && text.contains("  group_wait: 1000ms\n"), "{text}");
        let untimed = |text: &str| {
            let timed =
                |line: &&str| !line.contains("_wait: ") && !line.contains("_interval: ") && !line.contains("url: ");
            text.lines().filter(timed).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(untimed(&text)[1..], untimed(&source().unwrap())[1..]);
    }
}
