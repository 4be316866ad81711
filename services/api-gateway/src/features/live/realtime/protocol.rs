//! Phoenix messages, in both ways of writing them that clients ask for.

use serde::Deserialize;
use serde_json::{Value, json};

/// Which way of writing: `vsn` in the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vsn {
    /// `{"topic", "event", "payload", "ref", "join_ref"}`
    One,
    /// `[join_ref, ref, topic, event, payload]`
    Two,
}

impl Vsn {
    /// Reads the word; Phoenix takes the older way when none is given.
    #[must_use]
    pub fn parse(word: Option<&str>) -> Option<Self> {
        match word {
            None | Some("1.0.0") => Some(Self::One),
            Some("2.0.0") => Some(Self::Two),
            Some(_) => None,
        }
    }
}

/// What a client calls a message of its own, so that it recognises the answer; kept as the JSON it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ref(String);

/// Longer names are nobody's.
const MAX_REF_LEN: usize = 64;

impl Ref {
    /// No name.
    #[must_use]
    pub fn none() -> Self {
        Self("null".to_owned())
    }

    fn of(value: &Value) -> Option<Self> {
        let text = match value {
            Value::Null | Value::String(_) | Value::Number(_) => value.to_string(),
            _ => return None,
        };
        (text.len() <= MAX_REF_LEN).then_some(Self(text))
    }
}

/// A message of a client.
#[derive(Debug, Clone, PartialEq)]
pub struct Incoming {
    /// The message by which the topic was joined.
    pub join_ref: Ref,
    /// This message.
    pub reference: Ref,
    /// What it is about.
    pub topic: String,
    /// What is wanted.
    pub event: String,
    /// The rest.
    pub payload: Value,
}

impl Incoming {
    /// Reads a message; `None` when it is none.
    #[must_use]
    pub fn parse(vsn: Vsn, text: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct One {
            #[serde(default)]
            join_ref: Value,
            #[serde(default, rename = "ref")]
            reference: Value,
            topic: String,
            event: String,
            #[serde(default)]
            payload: Value,
        }
        let (join_ref, reference, topic, event, payload) = match vsn {
            Vsn::One => {
                let message: One = serde_json::from_str(text).ok()?;
                (message.join_ref, message.reference, message.topic, message.event, message.payload)
            }
            Vsn::Two => serde_json::from_str::<(Value, Value, String, String, Value)>(text).ok()?,
        };
        Some(Self { join_ref: Ref::of(&join_ref)?, reference: Ref::of(&reference)?, topic, event, payload })
    }
}

/// Writes a message; `payload` is JSON.
#[must_use]
pub fn write(vsn: Vsn, join_ref: &Ref, reference: &Ref, topic: &str, event: &str, payload: &str) -> String {
    let (topic, event, Ref(join_ref), Ref(reference)) = (json!(topic), json!(event), join_ref, reference);
    match vsn {
        Vsn::One => format!(
            r#"{{"topic":{topic},"event":{event},"payload":{payload},"ref":{reference},"join_ref":{join_ref}}}"#
        ),
        Vsn::Two => format!("[{join_ref},{reference},{topic},{event},{payload}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_and_written_both_ways() {
        for (vsn, text) in [
            (Vsn::One, r#"{"topic":"realtime:a\"b","event":"phx_join","payload":{"x":1},"ref":"2","join_ref":"1"}"#),
            (Vsn::Two, r#"["1","2","realtime:a\"b","phx_join",{"x":1}]"#),
        ] {
            let message = Incoming::parse(vsn, text).unwrap();
            assert_eq!((message.topic.as_str(), message.event.as_str()), ("realtime:a\"b", "phx_join"));
            assert_eq!(message.payload, json!({ "x": 1 }));
            let (join_ref, reference) = (&message.join_ref, &message.reference);
            assert_eq!(write(vsn, join_ref, reference, &message.topic, &message.event, r#"{"x":1}"#), text);
        }
        let heartbeat = r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"3"}"#;
        assert_eq!(Incoming::parse(Vsn::One, heartbeat).unwrap().join_ref, Ref::none());
    }

    #[test]
    fn what_is_no_message_is_none() {
        let long = format!(r#"[null,"{}","t","e",{{}}]"#, "x".repeat(MAX_REF_LEN));
        for text in
            ["", "[]", "7", r#"[null,null,"t","e"]"#, r#"[{},null,"t","e",{}]"#, r#"[null,null,7,"e",{}]"#, &long]
        {
            assert_eq!(Incoming::parse(Vsn::Two, text), None, "{text}");
        }
        assert_eq!([Vsn::parse(None), Vsn::parse(Some("2.0.0"))], [Some(Vsn::One), Some(Vsn::Two)]);
        assert_eq!(Vsn::parse(Some("3")), None);
    }
}
