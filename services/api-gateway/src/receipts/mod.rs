//! Where receipts lie: a local directory, or any store that speaks S3.
//!
//! Whoever may upload or see a receipt is handed a signed address that soon expires; the bytes never pass through a use
//! case. What lies at an address is believed only when its first bytes are those of its kind and it is not too large:
//! the local directory takes in nothing else, and of a store that the gateway does not guard that is looked at whenever
//! a receipt is claimed or shown.

mod config;
mod local;
mod s3;

use chrono::{DateTime, Utc};
use domain::receipt::{ReceiptKind, ReceiptPath};
use futures_util::future::BoxFuture;

pub use config::{ReceiptsConfig, StoreConfig};
pub use local::{Address, LocalReceipts, NotTaken};
pub use s3::{S3Receipts, S3Settings};

/// A store of receipts.
pub trait ReceiptStore: Send + Sync + 'static {
    /// The address to which a client PUTs the file; `kind` binds it to say that media type, where the store can.
    fn upload_url(&self, path: ReceiptPath, kind: Option<ReceiptKind>, now: DateTime<Utc>) -> String;

    /// The address at which the file can be read, and until when.
    fn download_url(&self, path: ReceiptPath, now: DateTime<Utc>) -> (String, DateTime<Utc>);

    /// Looks at what lies there.
    fn look(&self, path: ReceiptPath, now: DateTime<Utc>) -> BoxFuture<'_, Result<Found, StoreError>>;
}

/// What lies at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing, yet.
    Nothing,
    /// A receipt of the kind its name says.
    Receipt {
        /// The store's mark of this very file; `None` where another one cannot take its place.
        etag: Option<String>,
    },
    /// Something larger than a receipt may be.
    TooLarge,
    /// Something of another kind than its name says.
    OtherKind,
}

impl Found {
    /// What is wrong with it, for the person who uploaded it.
    #[must_use]
    pub const fn complaint(&self) -> Option<&'static str> {
        match self {
            Self::Nothing | Self::Receipt { .. } => None,
            Self::TooLarge => Some("the uploaded file is too large"),
            Self::OtherKind => Some("the uploaded file is not of the type its name says"),
        }
    }
}

/// The store did not answer, or not as it should. Holds neither address nor name.
#[derive(Debug, thiserror::Error)]
#[error("the store of receipts is unavailable: {0}")]
pub struct StoreError(String);

/// The store in use.
pub struct Receipts {
    store: Box<dyn ReceiptStore>,
    local: Option<LocalReceipts>,
}

impl Receipts {
    /// Opens the store that the settings name. Nothing is connected or written yet.
    pub fn open(config: &ReceiptsConfig, api_base_url: &str) -> Result<Self, StoreError> {
        match &config.store {
            StoreConfig::Local { folder, secrets } => {
                let local = LocalReceipts::new(folder.clone(), api_base_url, secrets, config.limits);
                Ok(Self { store: Box::new(local.clone()), local: Some(local) })
            }
            StoreConfig::S3(settings) => {
                Ok(Self { store: Box::new(S3Receipts::new(settings, config.limits)?), local: None })
            }
        }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &dyn ReceiptStore {
        &*self.store
    }

    /// The local directory, when that is the store: then its addresses are ours to serve.
    #[must_use]
    pub const fn local(&self) -> Option<&LocalReceipts> {
        self.local.as_ref()
    }
}

/// What holds for every store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes a receipt may have.
    pub max_bytes: u64,
    /// Seconds an upload address is good for.
    pub upload_ttl_s: u32,
    /// Seconds a download address is good for.
    pub download_ttl_s: u32,
}

impl Limits {
    /// Judges a file by its size and its first bytes.
    fn judge(&self, kind: ReceiptKind, bytes: u64, start: &[u8]) -> Found {
        if bytes > self.max_bytes {
            Found::TooLarge
        } else if ReceiptKind::of_content(start) == Some(kind) {
            Found::Receipt { etag: None }
        } else {
            Found::OtherKind
        }
    }
}
