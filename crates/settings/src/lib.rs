//! Reading settings from the environment: once, in one place, every mistake reported together, no value ever printed.

mod describe;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

pub use describe::{Required, Variable, describe};

use secrecy::SecretString;

/// Every problem with the settings, one line a variable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct InvalidSettings(pub Vec<String>);

/// Reads variables and remembers what was wrong with them.
///
/// An empty variable counts as unset. A reader answers something usable for every variable, so that all of them are
/// looked at; [`Settings::finish`] then says whether to go on.
#[derive(Debug)]
pub struct Settings {
    variables: BTreeMap<String, String>,
    problems: Vec<String>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// A variable that was asked for: its name, what it may hold, what it is when unset.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    name: String,
    rule: String,
    default: String,
    secret: bool,
}

impl Settings {
    /// The environment of this process.
    #[must_use]
    pub fn from_environment() -> Self {
        Self::from_variables(std::env::vars_os().filter_map(|(name, value)| {
            // A value that is no text cannot be one of ours; its name still can, and then it reads as unset.
            Some((name.into_string().ok()?, value.into_string().ok()?))
        }))
    }

    /// Variables given one by one, for tests.
    pub fn from_variables<K: Into<String>, V: Into<String>>(variables: impl IntoIterator<Item = (K, V)>) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self {
            variables: variables.filter(|(_, value)| !value.is_empty()).collect(),
            problems: Vec::new(),
            asked: Arc::default(),
        }
    }

    fn asked(&self, name: &str, rule: impl Into<String>, default: impl Into<String>, secret: bool) {
        let asked = Asked { name: name.to_owned(), rule: rule.into(), default: default.into(), secret };
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
    }

    fn value(&self, variable: &str) -> Option<String> {
        self.variables.get(variable).cloned()
    }

    /// Notes that `variable` is wrong; `why` must not hold its value.
    pub fn problem(&mut self, variable: &str, why: impl Display) {
        self.problems.push(format!("{variable}: {why}"));
    }

    /// The text of a variable.
    #[must_use]
    pub fn text(&self, variable: &str) -> Option<String> {
        self.asked(variable, "text", "", false);
        self.value(variable)
    }

    /// The text of a variable that must be set.
    pub fn required(&mut self, variable: &str) -> String {
        self.text(variable).unwrap_or_else(|| {
            self.problem(variable, "is required");
            String::new()
        })
    }

    /// A secret, from the variable itself or from the file that `<variable>_FILE` names (a trailing newline is cut).
    /// Setting both is a mistake.
    pub fn secret(&mut self, variable: &str) -> Option<SecretString> {
        self.asked(variable, "text", "", true);
        let file = format!("{variable}_FILE");
        match (self.value(variable), self.value(&file)) {
            (Some(_), Some(_)) => {
                self.problem(variable, format!("is set both directly and by {file}"));
                None
            }
            (Some(value), None) => Some(value.into()),
            (None, Some(path)) => match std::fs::read_to_string(path) {
                Ok(text) => Some(text.trim_end_matches(['\n', '\r']).to_owned().into()),
                Err(error) => {
                    self.problem(&file, format!("cannot be read: {}", error.kind()));
                    None
                }
            },
            (None, None) => None,
        }
    }

    /// A secret that must be set.
    pub fn required_secret(&mut self, variable: &str) -> SecretString {
        self.secret(variable).unwrap_or_else(|| {
            if self.value(&format!("{variable}_FILE")).is_none() {
                self.problem(variable, "is required");
            }
            SecretString::default()
        })
    }

    /// A number within a range, `default` when unset.
    pub fn number<N: FromStr + PartialOrd + Display + Copy>(
        &mut self,
        variable: &str,
        range: RangeInclusive<N>,
        default: N,
    ) -> N {
        self.asked(variable, format!("{} to {}", range.start(), range.end()), default.to_string(), false);
        let Some(text) = self.value(variable) else { return default };
        match text.trim().parse::<N>() {
            Ok(number) if range.contains(&number) => number,
            _ => {
                self.problem(variable, format!("must be a number from {} to {}", range.start(), range.end()));
                default
            }
        }
    }

    /// `true`, `1`, `false` or `0`; `default` when unset.
    pub fn flag(&mut self, variable: &str, default: bool) -> bool {
        self.asked(variable, "true or false", default.to_string(), false);
        match self.value(variable).as_deref() {
            None => default,
            Some("true" | "1") => true,
            Some("false" | "0") => false,
            Some(_) => {
                self.problem(variable, "must be true or false");
                default
            }
        }
    }

    /// One of some words, the first of them when unset.
    pub fn choice<T: Copy>(&mut self, variable: &str, choices: &[(&str, T)]) -> Option<T> {
        let (word, default) = choices.first()?;
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        self.asked(variable, words.join(", "), *word, false);
        let Some(text) = self.value(variable) else { return Some(*default) };
        let found = choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice);
        if found.is_none() {
            self.problem(variable, format!("must be one of {}", words.join(", ")));
        }
        found.or(Some(*default))
    }

    /// An http or https address; trailing slashes are cut.
    pub fn url(&mut self, variable: &str) -> Option<String> {
        self.asked(variable, "http or https URL", "", false);
        let text = self.value(variable)?;
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        if host.is_none_or(|host| {
            host.is_empty() || host.starts_with(['/', '?', '#']) || host.contains(char::is_whitespace)
        }) {
            self.problem(variable, "must be an http or https URL");
            return None;
        }
        Some(text.trim_end_matches('/').to_owned())
    }

    /// Notes that `variable`, which holds the address `url`, is wrong when others can read what is sent there: without
    /// TLS, unless this machine itself is meant.
    pub fn no_clear_text(&mut self, variable: &str, url: &str) {
        let Some(rest) = url.strip_prefix("http://") else { return };
        let authority = rest.split(['/', '\\', '?', '#']).next().unwrap_or_default();
        let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
        let host = match place.strip_prefix('[') {
            Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
            None => place.split(':').next().unwrap_or_default(),
        };
        if host != "localhost" && !host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) {
            self.problem(variable, "must be an https address in production, unless it is loopback");
        }
    }

    /// Every problem there was, or none.
    pub fn finish(self) -> Result<(), InvalidSettings> {
        if self.problems.is_empty() { Ok(()) } else { Err(InvalidSettings(self.problems)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;
    use std::io::Write;

    #[test]
    fn clear_text_is_for_this_machine() {
        let wrong = |url: &str| {
            let mut settings = Settings::from_variables([("URL", url)]);
            settings.no_clear_text("URL", url);
            settings.finish().is_err()
        };
        for fine in [
            "https://project.example",
            "http://localhost",
            "http://localhost:9999/auth",
            "http://127.0.0.1:9999",
            "http://127.8.0.1",
            "http://[::1]:9999",
            "http://user:password@127.0.0.1/",
        ] {
            assert!(!wrong(fine), "{fine}");
        }
        for readable in [
            "http://project.example",
            "http://10.0.0.1:9999",
            "http://127.0.0.1.example",
            "http://localhost.example",
            "http://127.0.0.1:1@project.example",
            "http://project.example/@localhost",
            "http://[2001:db8::1]",
        ] {
            assert!(wrong(readable), "{readable}");
        }
    }

    #[test]
    fn every_mistake_is_reported_and_no_value_is_printed() {
        let mut settings =
            Settings::from_variables([("PORT", "secret-port"), ("FLAG", "secret-flag"), ("URL", "secret-url")]);
        settings.number("PORT", 1000..=65535, 3000);
        settings.flag("FLAG", false);
        settings.url("URL");
        settings.required("MISSING");
        settings.required_secret("KEY");
        let InvalidSettings(problems) = settings.finish().unwrap_err();
        assert_eq!(problems.len(), 5);
        assert!(problems.iter().all(|line| !line.contains("secret-")), "{problems:?}");
    }

    #[test]
    fn empty_is_unset() {
        let mut settings = Settings::from_variables([("PORT", "")]);
        assert_eq!(settings.number("PORT", 1000..=65535, 3000), 3000);
        assert_eq!(settings.finish(), Ok(()));
    }

    #[test]
    fn a_secret_may_stand_in_a_file_but_not_in_both_places() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "hush").unwrap();
        let path = file.path().to_str().unwrap();
        let mut settings = Settings::from_variables([("KEY_FILE", path), ("BOTH", "x"), ("BOTH_FILE", path)]);
        assert_eq!(settings.secret("KEY").unwrap().expose_secret(), "hush");
        assert!(settings.secret("BOTH").is_none());
        assert!(settings.finish().is_err());
    }

    #[test]
    fn addresses_lose_their_trailing_slash() {
        let mut settings = Settings::from_variables([("A", "https://example.com/"), ("B", "ftp://example.com")]);
        assert_eq!(settings.url("A").as_deref(), Some("https://example.com"));
        assert_eq!(settings.url("B"), None);
    }
}
