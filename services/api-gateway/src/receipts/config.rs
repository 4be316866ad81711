//! The variables that say where receipts lie.

use std::path::PathBuf;

use secrecy::ExposeSecret;
use settings::Settings;

use super::Limits;
use super::s3::S3Settings;
use crate::identity::SecretsKey;

/// Where receipts lie, and what they may be.
#[derive(Debug, Clone)]
pub struct ReceiptsConfig {
    /// `RECEIPTS_STORE`: `local` (default) or `s3`.
    pub store: StoreConfig,
    /// `RECEIPTS_MAX_BYTES` (10,000,000), `RECEIPTS_UPLOAD_TTL_S` (900), `RECEIPTS_DOWNLOAD_TTL_S` (300).
    pub limits: Limits,
}

/// One of the stores.
#[derive(Debug, Clone)]
pub enum StoreConfig {
    /// A directory that every gateway sees.
    Local {
        /// `RECEIPTS_DIR` (`data/receipts`).
        folder: PathBuf,
        /// Signs the addresses.
        secrets: SecretsKey,
    },
    /// A bucket.
    S3(S3Settings),
}

/// A week: what S3 takes at most.
const LONGEST_TTL_S: u32 = 604_800;

impl ReceiptsConfig {
    /// Reads the variables; `secrets` reads `SECRETS_KEY`, which only the local directory needs.
    pub fn read(settings: &mut Settings, secrets: impl FnOnce(&mut Settings) -> SecretsKey) -> Self {
        let store = if settings.choice("RECEIPTS_STORE", &[("local", false), ("s3", true)]) == Some(true) {
            let region = settings.text("RECEIPTS_S3_REGION").unwrap_or_else(|| "us-east-1".to_owned());
            let endpoint = settings.url("RECEIPTS_S3_ENDPOINT");
            let path_style = settings.flag("RECEIPTS_S3_PATH_STYLE", endpoint.is_some());
            let s3 = S3Settings {
                endpoint: endpoint.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com")),
                region,
                bucket: settings.text("RECEIPTS_S3_BUCKET").unwrap_or_else(|| "receipts".to_owned()),
                path_style,
                access_key_id: settings.required("RECEIPTS_S3_ACCESS_KEY_ID"),
                secret_access_key: settings.required_secret("RECEIPTS_S3_SECRET_ACCESS_KEY"),
            };
            if !s3.secret_access_key.expose_secret().is_empty()
                && let Err(why) = s3.bucket()
            {
                settings.problem("RECEIPTS_S3_ENDPOINT", why);
            }
            StoreConfig::S3(s3)
        } else {
            let folder = settings.text("RECEIPTS_DIR").unwrap_or_else(|| "data/receipts".to_owned()).into();
            StoreConfig::Local { folder, secrets: secrets(settings) }
        };
        let limits = Limits {
            max_bytes: settings.number("RECEIPTS_MAX_BYTES", 1..=1_000_000_000, 10_000_000),
            upload_ttl_s: settings.number("RECEIPTS_UPLOAD_TTL_S", 1..=LONGEST_TTL_S, 900),
            download_ttl_s: settings.number("RECEIPTS_DOWNLOAD_TTL_S", 1..=LONGEST_TTL_S, 300),
        };
        Self { store, limits }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> (ReceiptsConfig, Result<(), settings::InvalidSettings>) {
        let mut settings = Settings::from_variables(variables.iter().copied());
        let config = ReceiptsConfig::read(&mut settings, |_| SecretsKey::unusable());
        (config, settings.finish())
    }

    #[test]
    fn without_a_word_receipts_lie_in_a_directory() {
        let (config, verdict) = read(&[]);
        verdict.unwrap();
        assert!(matches!(config.store, StoreConfig::Local { folder, .. } if folder.as_os_str() == "data/receipts"));
        assert_eq!(config.limits, Limits { max_bytes: 10_000_000, upload_ttl_s: 900, download_ttl_s: 300 });
    }

    #[test]
    fn a_bucket_needs_its_keys_and_an_address_that_is_one() {
        let (_, verdict) = read(&[("RECEIPTS_STORE", "s3")]);
        let problems = verdict.unwrap_err().0;
        assert_eq!(problems, ["RECEIPTS_S3_ACCESS_KEY_ID: is required", "RECEIPTS_S3_SECRET_ACCESS_KEY: is required"]);
        let keys = [("RECEIPTS_S3_ACCESS_KEY_ID", "key"), ("RECEIPTS_S3_SECRET_ACCESS_KEY", "secret-key")];
        let (_, verdict) =
            read(&[&[("RECEIPTS_STORE", "s3"), ("RECEIPTS_S3_ENDPOINT", "https://[::x")], &keys[..]].concat());
        assert_eq!(verdict.unwrap_err().0, ["RECEIPTS_S3_ENDPOINT: is no address of a bucket"]);
        let (config, verdict) = read(&[&[("RECEIPTS_STORE", "s3"), ("RECEIPTS_MAX_BYTES", "0")], &keys[..]].concat());
        assert_eq!(verdict.unwrap_err().0.len(), 1);
        assert!(!format!("{config:?}").contains("secret-key"));
    }
}
