//! The variables a program reads, told by the code that reads them.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use crate::{Asked, InvalidSettings, Settings};

/// Whether a program starts without a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Required {
    /// It does.
    Never,
    /// Not in production.
    InProduction,
    /// It does not.
    Always,
}

impl Required {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::InProduction => "production",
            Self::Always => "always",
        }
    }
}

/// A variable that a program reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// What it may hold.
    pub rule: String,
    /// What it is when unset; empty when there is nothing.
    pub default: String,
    /// Whether it is a secret; then `<name>_FILE` may name a file instead.
    pub secret: bool,
    /// Whether it must be set.
    pub required: Required,
}

/// Lets `read` read nothing, once for each of `situations` (variables that make it look at others), and tells what it
/// asked for, by name.
pub fn describe<C>(
    read: impl Fn(Settings) -> Result<C, InvalidSettings>,
    situations: &[&[(&str, &str)]],
) -> Vec<Variable> {
    let mut found = BTreeMap::<String, Variable>::new();
    for situation in situations {
        let production = situation.contains(&("APP_ENV", "production"));
        let settings = Settings::from_variables(situation.iter().copied());
        let asked = Arc::clone(&settings.asked);
        let problems = read(settings).err().map_or_else(Vec::new, |InvalidSettings(problems)| problems);
        let asked = asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for Asked { name, rule, default, secret } in asked {
            let refused =
                problems.iter().any(|line| line.strip_prefix(&*name).is_some_and(|rest| rest.starts_with(':')));
            // What only another choice asks for is told with that choice.
            let required = match (refused, production, situation.is_empty()) {
                (true, true, _) => Required::InProduction,
                (true, false, true) => Required::Always,
                _ => Required::Never,
            };
            let variable = found.entry(name.clone()).or_insert_with(|| Variable {
                name,
                rule: rule.clone(),
                default: default.clone(),
                secret,
                required,
            });
            variable.required = variable.required.max(required);
            // A variable may be looked at as text before it is read as what it is.
            if variable.rule == "text" {
                (variable.rule, variable.default, variable.secret) = (rule, default, variable.secret || secret);
            }
        }
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mut settings: Settings) -> Result<(), InvalidSettings> {
        settings.number("PORT", 1..=9, 3);
        settings.required_secret("KEY");
        if settings.text("APP_ENV").as_deref() == Some("production") && settings.text("ORIGIN").is_none() {
            settings.problem("ORIGIN", "is required in production");
        }
        settings.finish()
    }

    #[test]
    fn what_a_program_asks_for_is_what_it_reads() {
        let found = describe(read, &[&[], &[("APP_ENV", "production")]]);
        let told: Vec<_> = found
            .iter()
            .map(|found| (&*found.name, &*found.rule, &*found.default, found.secret, found.required))
            .collect();
        assert_eq!(
            told,
            [
                ("APP_ENV", "text", "", false, Required::Never),
                ("KEY", "text", "", true, Required::Always),
                ("ORIGIN", "text", "", false, Required::InProduction),
                ("PORT", "1 to 9", "3", false, Required::Never),
            ]
        );
    }
}
