//! One socket: what its client says, and what it is told.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_web::web;
use actix_ws::{AggregatedMessage, CloseCode, CloseReason, MessageStream, ProtocolError, Session};
use domain::auth::Role;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{Instrument, Span, field};

use super::protocol::{Incoming, Ref, Vsn, write};
use super::topic::{Join, Sees, Topic};
use crate::error::{ApiError, ApiResult};
use crate::features::live::changes::Change;
use crate::features::live::hub::{Following, MOST, NotOpened, Stranger};
use crate::http::abuse;
use crate::http::caller::{self, Access, Caller};
use crate::http::endpoint::Endpoint;
use crate::http::limits::{Budget, admit, charge_refusal};
use crate::http::observe::within_request;
use crate::state::State;

/// The largest message of a client.
const MOST_BYTES: usize = 64 * 1024;

/// Topics a socket may have joined.
const MOST_TOPICS: usize = 100;

/// What all of them together may want to hear of: each change is held against each of it.
const MOST_WANTED: usize = 200;

/// The longest name of a topic.
const MOST_NAME: usize = 255;

/// Messages a client may send in [`WINDOW`].
const MOST_MESSAGES: u32 = 400;
const WINDOW: Duration = Duration::from_secs(10);

/// How long a client may be silent: clients send a heartbeat every 25 or 30 s.
const SILENCE: Duration = Duration::from_secs(60);

/// How long a socket may stay open that follows nothing.
const IDLE: Duration = Duration::from_secs(60);

/// How long a client may take to read.
const PATIENCE: Duration = Duration::from_secs(10);

/// A socket and what its client has joined.
pub struct Socket {
    state: web::Data<State>,
    vsn: Vsn,
    session: Session,
    api_key: Option<String>,
    address: Option<IpAddr>,
    request_id: Rc<str>,
    /// Held until somebody says who they are.
    stranger: Option<Stranger>,
    entered: Option<Entered>,
    topics: BTreeMap<String, Topic>,
    last_binding: u64,
}

/// Who follows tables here.
struct Entered {
    caller: Caller,
    following: Following,
}

/// Why a socket ends.
enum End {
    /// Its client is gone, or does not read.
    Gone,
    /// We say so.
    Because(CloseCode, &'static str),
}

type Step = Result<(), End>;

impl Socket {
    /// A socket that was just opened.
    pub fn new(
        state: web::Data<State>,
        vsn: Vsn,
        session: Session,
        stranger: Stranger,
        api_key: Option<String>,
        address: Option<IpAddr>,
        request_id: Rc<str>,
    ) -> Self {
        Self {
            state,
            vsn,
            session,
            api_key,
            address,
            request_id,
            stranger: Some(stranger),
            entered: None,
            topics: BTreeMap::new(),
            last_binding: 0,
        }
    }

    /// Listens and tells until one side ends it.
    pub async fn run(mut self, messages: MessageStream) {
        let mut messages =
            messages.max_frame_size(MOST_BYTES).aggregate_continuations().max_continuation_size(MOST_BYTES);
        let mut closing = self.state.live.closing();
        let (mut heard, mut followed) = (Instant::now(), Instant::now());
        let mut window = (Instant::now(), 0_u32);
        let end = loop {
            if !self.topics.is_empty() {
                followed = Instant::now();
            }
            let until = (heard + SILENCE).min(followed + IDLE);
            let step = tokio::select! {
                // In this order: a server that restarts also ends what was followed, and should say why.
                biased;
                _ = closing.wait_for(|closing| *closing) => {
                    Err(End::Because(CloseCode::Restart, "the server restarts"))
                }
                message = messages.recv() => {
                    heard = Instant::now();
                    if heard - window.0 > WINDOW {
                        window = (heard, 0);
                    }
                    window.1 += 1;
                    if window.1 > MOST_MESSAGES {
                        Err(End::Because(CloseCode::Policy, "too many messages"))
                    } else {
                        self.hear(message).await
                    }
                }
                change = next_change(&mut self.entered) => match change {
                    Some(change) => self.tell(&change).await,
                    // The token has ended, the client is behind, or something was missed. It comes back and looks.
                    None => Err(End::Because(CloseCode::Again, "join again")),
                },
                () = tokio::time::sleep_until(until) => Err(End::Because(CloseCode::Policy, "nothing was said or joined")),
            };
            if let Err(end) = step {
                break end;
            }
        };
        if let End::Because(code, why) = end {
            tracing::debug!(reason = why, "a socket is closed");
            let reason = CloseReason { code, description: Some(why.to_owned()) };
            // Whoever does not read it is gone as well.
            let _ = tokio::time::timeout(PATIENCE, self.session.close(Some(reason))).await;
        }
    }

    async fn hear(&mut self, message: Option<Result<AggregatedMessage, ProtocolError>>) -> Step {
        match message {
            Some(Ok(AggregatedMessage::Text(text))) => match Incoming::parse(self.vsn, &text) {
                Some(incoming) => self.answer(incoming).await,
                None => Err(End::Because(CloseCode::Invalid, "not a message")),
            },
            Some(Ok(AggregatedMessage::Ping(bytes))) => {
                match tokio::time::timeout(PATIENCE, self.session.pong(&bytes)).await {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(_)) | Err(_) => Err(End::Gone),
                }
            }
            // A broadcast, which is not provided; the client expects no answer.
            Some(Ok(AggregatedMessage::Binary(_) | AggregatedMessage::Pong(_))) => Ok(()),
            Some(Ok(AggregatedMessage::Close(_))) => Err(End::Because(CloseCode::Normal, "")),
            Some(Err(ProtocolError::Overflow)) => Err(End::Because(CloseCode::Size, "the message is too large")),
            Some(Err(ProtocolError::Io(_))) | None => Err(End::Gone),
            Some(Err(_)) => Err(End::Because(CloseCode::Protocol, "not understood")),
        }
    }

    async fn answer(&mut self, incoming: Incoming) -> Step {
        match (incoming.topic.as_str(), incoming.event.as_str()) {
            ("phoenix", "heartbeat") => {
                self.reply(&incoming, "ok", &json!({})).await?;
                self.look_again().await
            }
            (_, "phx_join") => self.join(incoming).await,
            (name, event) if self.topics.contains_key(name) => match event {
                "phx_leave" => self.leave(incoming).await,
                "access_token" => self.renew(incoming).await,
                _ => {
                    let reason = json!({ "reason": format!("{event:?} is not provided") });
                    self.reply(&incoming, "error", &reason).await
                }
            },
            _ => self.reply(&incoming, "error", &json!({ "reason": "unmatched topic" })).await,
        }
    }

    async fn join(&mut self, incoming: Incoming) -> Step {
        let name = incoming.topic.clone();
        // As Phoenix does: who joins again leaves first.
        if let Some(former) = self.topics.remove(&name) {
            self.push(&former.join_ref, &former.join_ref, &name, "phx_close", "{}").await?;
        }
        let span = tracing::info_span!(
            parent: None,
            "realtime join",
            otel.kind = "server",
            request_id = &*self.request_id,
            remote_addr = self.address.map(field::display),
            organization_id = field::Empty,
            actor = field::Empty,
        );
        let joining = within_request(Rc::clone(&self.request_id), self.try_join(&incoming)).instrument(span).await?;
        let (topic, told) = match joining {
            Ok(joined) => joined,
            Err(reason) => {
                self.follow();
                return self.reply(&incoming, "error", &json!({ "reason": reason })).await;
            }
        };
        let follows_something = topic.wants() > 0;
        self.topics.insert(name.clone(), topic);
        self.follow();
        self.reply(&incoming, "ok", &told).await?;
        if follows_something {
            let subscribed = json!({
                "channel": name.strip_prefix("realtime:").unwrap_or(&name),
                "extension": "postgres_changes",
                "message": "Subscribed to PostgreSQL",
                "status": "ok",
            });
            self.push(&incoming.reference, &Ref::none(), &name, "system", &subscribed.to_string()).await?;
        }
        Ok(())
    }

    /// A topic and what its client is told of it, or why there is none.
    async fn try_join(&mut self, incoming: &Incoming) -> Result<Result<(Topic, Value), String>, End> {
        if !incoming.topic.starts_with("realtime:") || incoming.topic.len() > MOST_NAME {
            return Ok(Err("unmatched topic".to_owned()));
        }
        if self.topics.len() >= MOST_TOPICS {
            return Ok(Err(format!("at most {MOST_TOPICS} channels a socket")));
        }
        let join = match Join::deserialize(&incoming.payload) {
            Ok(join) => join,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let joined = match Topic::read(&join, incoming.reference.clone(), &mut self.last_binding) {
            Ok(joined) => joined,
            Err(reason) => return Ok(Err(reason)),
        };
        if self.topics.values().map(Topic::wants).sum::<usize>() + joined.0.wants() > MOST_WANTED {
            return Ok(Err(format!("at most {MOST_WANTED} postgres_changes a socket")));
        }
        let caller = match self.admitted(join.access_token.as_deref()).await {
            Ok(caller) => caller,
            Err(error) => return Ok(Err(error.to_string())),
        };
        Ok(match self.enter(caller).await? {
            Ok(()) => Ok(joined),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Who shows this token, charged as a request is.
    async fn admitted(&self, token: Option<&str>) -> ApiResult<Caller> {
        match self.examined(token).await {
            Ok(caller) => {
                let span = Span::current();
                span.record("organization_id", field::display(caller.tenant().organization()));
                span.record("actor", field::display(caller.subject()));
                match admit(&self.state, Some(&caller), self.address, Budget::Default).await {
                    Ok(_) => Ok(caller),
                    Err(error) => Err(self.noticed(error)),
                }
            }
            Err(error) if error.status_and_code().0.is_server_error() => Err(error),
            Err(error) => {
                abuse::note(&self.state, super::Realtime::PATH, &error);
                Err(self.noticed(charge_refusal(&self.state, self.address, error).await.0))
            }
        }
    }

    /// A limit that was hit is noted, as for requests.
    fn noticed(&self, error: ApiError) -> ApiError {
        if matches!(error, ApiError::TooMany { .. }) {
            self.state.metrics.rate_limited(super::Realtime::PATH);
            abuse::note(&self.state, super::Realtime::PATH, &error);
        }
        error
    }

    async fn examined(&self, token: Option<&str>) -> ApiResult<Caller> {
        let key = self.api_key.as_deref().unwrap_or_default();
        let shown = token.filter(|token| !token.is_empty()).unwrap_or(key);
        let caller = match caller::by_token(&self.state, shown, Access::Everyone).await {
            // Who is signed out shows the public key instead, and is nobody: not somebody who tries doors.
            Err(ApiError::BadToken) if shown == key => Err(ApiError::NoCredential),
            examined => examined,
        }?;
        sees(&caller)?;
        Ok(caller)
    }

    /// Lets somebody in, or takes note that they still are.
    async fn enter(&mut self, caller: Caller) -> Result<ApiResult<()>, End> {
        if let Some(entered) = &mut self.entered {
            if (entered.caller.tenant(), entered.caller.user()) == (caller.tenant(), caller.user()) {
                entered.following.prolong(until(&caller));
                entered.caller = caller;
                return Ok(Ok(()));
            }
            // Somebody else has signed in: what was joined before is joined again, with the new token.
            self.end_topics().await?;
        }
        let most = match caller.role() {
            Role::Admin => MOST,
            // Employees never take the last places: somebody can always watch.
            Role::Employee => MOST / 2,
        };
        match self.state.live.follow(caller.tenant(), until(&caller), most).await {
            Ok(following) => {
                self.stranger = None;
                self.entered = Some(Entered { caller, following });
                Ok(Ok(()))
            }
            Err(NotOpened::TooMany) => Ok(Err(self.noticed(ApiError::TooMany {
                message: "Realtime connection limit reached (max 20 per organization).",
                retry_after_s: 15,
            }))),
            Err(NotOpened::Closing) => Err(End::Because(CloseCode::Restart, "the server restarts")),
        }
    }

    async fn leave(&mut self, incoming: Incoming) -> Step {
        let left = self.topics.remove(&incoming.topic);
        self.follow();
        self.reply(&incoming, "ok", &json!({})).await?;
        if let Some(topic) = left {
            self.push(&topic.join_ref, &topic.join_ref, &incoming.topic, "phx_close", "{}").await?;
        }
        Ok(())
    }

    /// A new token for a topic. One that is no good ends the topic; the client joins again with what it then has.
    async fn renew(&mut self, incoming: Incoming) -> Step {
        let Some(token) = incoming.payload["access_token"].as_str() else { return Ok(()) };
        let admitted = within_request(Rc::clone(&self.request_id), self.admitted(Some(token))).await;
        let reason = match admitted {
            // It cannot be told; the old one holds until it ends.
            Err(error) if error.status_and_code().0.is_server_error() => return Ok(()),
            Err(error) => error.to_string(),
            Ok(caller) => match self.enter(caller).await? {
                Ok(()) => {
                    self.follow();
                    return Ok(());
                }
                Err(error) => error.to_string(),
            },
        };
        if let Some(topic) = self.topics.remove(&incoming.topic) {
            self.error(&incoming.topic, &topic, &reason).await?;
        }
        self.follow();
        Ok(())
    }

    /// With every heartbeat it is asked again whether the token still holds; that is known for half a minute.
    async fn look_again(&mut self) -> Step {
        let Some(entered) = &mut self.entered else { return Ok(()) };
        let stands = caller::again(&self.state, &entered.caller, Access::Everyone).await;
        match stands.and_then(|caller| sees(&caller).map(|_| caller)) {
            Ok(caller) => entered.caller = caller,
            Err(error) if error.status_and_code().0.is_server_error() => {}
            Err(_) => self.end_topics().await?,
        }
        Ok(())
    }

    /// Says which tables are wanted; gives the place back when there are none.
    fn follow(&mut self) {
        if self.topics.is_empty() {
            self.entered = None;
        }
        if let Some(entered) = &self.entered {
            entered.following.set(self.topics.values().flat_map(Topic::tables));
        }
    }

    async fn tell(&mut self, change: &Arc<Change>) -> Step {
        let Some(Ok(sees)) = self.entered.as_ref().map(|entered| sees(&entered.caller)) else { return Ok(()) };
        let messages: Vec<String> =
            self.topics.iter().flat_map(|(name, topic)| topic.messages(self.vsn, name, change, sees)).collect();
        for message in messages {
            self.send(message).await?;
        }
        Ok(())
    }

    /// Ends every topic; the client joins them again.
    async fn end_topics(&mut self) -> Step {
        let topics = std::mem::take(&mut self.topics);
        self.follow();
        for (name, topic) in &topics {
            self.error(name, topic, "join again").await?;
        }
        Ok(())
    }

    async fn error(&mut self, name: &str, topic: &Topic, reason: &str) -> Step {
        let payload = json!({ "reason": reason }).to_string();
        self.push(&topic.join_ref, &topic.join_ref, name, "phx_error", &payload).await
    }

    async fn reply(&mut self, to: &Incoming, status: &str, response: &Value) -> Step {
        let payload = json!({ "status": status, "response": response }).to_string();
        self.push(&to.join_ref, &to.reference, &to.topic, "phx_reply", &payload).await
    }

    async fn push(&mut self, join_ref: &Ref, reference: &Ref, name: &str, event: &str, payload: &str) -> Step {
        let message = write(self.vsn, join_ref, reference, name, event, payload);
        self.send(message).await
    }

    async fn send(&mut self, message: String) -> Step {
        match tokio::time::timeout(PATIENCE, self.session.text(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => {
                self.state.metrics.streams_dropped(1);
                Err(End::Gone)
            }
        }
    }
}

async fn next_change(entered: &mut Option<Entered>) -> Option<Arc<Change>> {
    match entered {
        Some(entered) => entered.following.next().await,
        None => std::future::pending().await,
    }
}

/// Which rows somebody may see: administrators those of the organization, employees who may work their own.
fn sees(caller: &Caller) -> ApiResult<Sees> {
    match caller.role() {
        Role::Admin => Ok(Sees::Everything),
        Role::Employee => caller.working_employee().map(|employee| Sees::Only(employee.uuid())),
    }
}

/// Until when somebody may follow tables with the token they have shown.
fn until(caller: &Caller) -> chrono::DateTime<chrono::Utc> {
    // Only tokens open a socket, and every token ends.
    caller.until().unwrap_or_default()
}
