//! Receipts in a local directory. The gateway itself takes them in and hands them out, at addresses that it signed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use actix_web::web::Bytes;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use domain::receipt::{MAGIC_BYTES, ReceiptKind, ReceiptPath};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream, StreamExt};
use ring::hmac;
use tokio::fs::{self, File};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

use super::{Found, Limits, ReceiptStore, StoreError};
use crate::identity::SecretsKey;

/// A directory of receipts. Clones share it.
#[derive(Clone)]
pub struct LocalReceipts(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    base_url: String,
    /// The key that signs, and the one before it, which is still believed.
    keys: Vec<hmac::Key>,
    limits: Limits,
}

/// What an address allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// To put a file there.
    Upload,
    /// To read it.
    Download,
}

/// Why a file was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// It is larger than a receipt may be.
    #[error("the file is too large")]
    TooLarge,
    /// Its first bytes are not those of its kind.
    #[error("the file is not of the type its name says")]
    OtherKind,
    /// Another file lies there already.
    #[error("another file has been uploaded here already")]
    Taken,
    /// The client went away in the middle.
    #[error("the upload broke off")]
    BrokenOff,
    /// The directory cannot be written.
    #[error("the directory of receipts cannot be written: {0}")]
    Io(#[from] io::Error),
}

impl LocalReceipts {
    /// A directory, made when the first receipt comes.
    #[must_use]
    pub fn new(folder: PathBuf, api_base_url: &str, secrets: &SecretsKey, limits: Limits) -> Self {
        let derived = secrets.derive("receipt addresses");
        let keys = [Some(derived.current), derived.previous];
        let keys = keys.into_iter().flatten().map(|key| hmac::Key::new(hmac::HMAC_SHA256, &key)).collect();
        Self(Arc::new(Inner { folder, base_url: format!("{api_base_url}/receipts"), keys, limits }))
    }

    /// Whether somebody was handed this very address, and it is still good.
    #[must_use]
    pub fn allows(&self, what: Address, path: ReceiptPath, expires: i64, signature: &str, now: DateTime<Utc>) -> bool {
        let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else { return false };
        let said = statement(what, path, expires);
        now.timestamp() <= expires
            && self.0.keys.iter().any(|key| hmac::verify(key, said.as_bytes(), &signature).is_ok())
    }

    /// Bytes a receipt may have.
    #[must_use]
    pub fn max_bytes(&self) -> u64 {
        self.0.limits.max_bytes
    }

    fn address(&self, what: Address, path: ReceiptPath, expires: i64) -> String {
        let said = statement(what, path, expires);
        let signature =
            self.0.keys.first().map(|key| URL_SAFE_NO_PAD.encode(hmac::sign(key, said.as_bytes()))).unwrap_or_default();
        format!("{}/{path}?expires={expires}&signature={signature}", self.0.base_url)
    }

    /// Takes a file in: whole or not at all, never over another one. The same file again is no mistake: a phone that
    /// did not hear the answer asks twice.
    pub async fn take<E>(
        &self,
        path: ReceiptPath,
        mut content: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<(), NotTaken> {
        let coming = Coming::in_folder(&self.0.folder).await?;
        let mut file = File::create_new(&coming.0).await?;
        let (mut start, mut size) = (Vec::with_capacity(MAGIC_BYTES), 0_u64);
        while let Some(chunk) = content.next().await {
            let chunk = chunk.map_err(|_| NotTaken::BrokenOff)?;
            size += chunk.len() as u64;
            start.extend(chunk.iter().take(MAGIC_BYTES - start.len()));
            match self.0.limits.judge(path.kind(), size, &start) {
                Found::TooLarge => return Err(NotTaken::TooLarge),
                // Looked at as soon as there is enough to see: the rest need not come.
                Found::OtherKind if start.len() == MAGIC_BYTES => return Err(NotTaken::OtherKind),
                _ => file.write_all(&chunk).await?,
            }
        }
        if ReceiptKind::of_content(&start) != Some(path.kind()) {
            return Err(NotTaken::OtherKind);
        }
        file.sync_all().await?;
        drop(file);
        let last = self.0.folder.join(path.to_string());
        let folder = last.parent().unwrap_or(&self.0.folder).to_owned();
        fs::create_dir_all(&folder).await?;
        // A link is made at once or not at all, and never over an existing name.
        match fs::hard_link(&coming.0, &last).await {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return if same(&coming.0, &last).await? { Ok(()) } else { Err(NotTaken::Taken) };
            }
            Err(error) => return Err(error.into()),
        }
        // Yes is said only when the name, too, would survive a power cut.
        File::open(folder).await?.sync_all().await?;
        Ok(())
    }

    /// Opens a receipt and tells its size; `None` when there is none.
    pub async fn read(&self, path: ReceiptPath) -> io::Result<Option<(File, u64)>> {
        match File::open(self.0.folder.join(path.to_string())).await {
            Ok(file) => {
                let size = file.metadata().await?.len();
                Ok(Some((file, size)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What a signature vouches for.
fn statement(what: Address, path: ReceiptPath, expires: i64) -> String {
    let verb = match what {
        Address::Upload => "upload",
        Address::Download => "download",
    };
    format!("{verb}\n{path}\n{expires}")
}

/// A file that is still coming in. It is removed when this is dropped, also because the client went away.
struct Coming(PathBuf);

impl Coming {
    async fn in_folder(folder: &Path) -> io::Result<Self> {
        // Within the same file system, or a link could not be made. No organization has that name.
        let folder = folder.join("incoming");
        fs::create_dir_all(&folder).await?;
        Ok(Self(folder.join(Uuid::new_v4().to_string())))
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        // It may not have been made yet; the name of a finished upload is another one and stays.
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn same(one: &Path, other: &Path) -> io::Result<bool> {
    if fs::metadata(one).await?.len() != fs::metadata(other).await?.len() {
        return Ok(false);
    }
    let (mut one, mut other) = (File::open(one).await?, File::open(other).await?);
    let (mut left, mut right) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let read = one.read(&mut left).await?;
        if read == 0 {
            return Ok(true);
        }
        other.read_exact(&mut right[..read]).await?;
        if left[..read] != right[..read] {
            return Ok(false);
        }
    }
}

impl ReceiptStore for LocalReceipts {
    fn upload_url(&self, path: ReceiptPath, _: Option<ReceiptKind>, now: DateTime<Utc>) -> String {
        // What comes is judged by its content, so what it says of itself does not matter.
        self.address(Address::Upload, path, now.timestamp() + i64::from(self.0.limits.upload_ttl_s))
    }

    fn download_url(&self, path: ReceiptPath, now: DateTime<Utc>) -> (String, DateTime<Utc>) {
        let expires = now + TimeDelta::seconds(i64::from(self.0.limits.download_ttl_s));
        (self.address(Address::Download, path, expires.timestamp()), expires)
    }

    fn look(&self, path: ReceiptPath, _: DateTime<Utc>) -> BoxFuture<'_, Result<Found, StoreError>> {
        async move {
            match fs::metadata(self.0.folder.join(path.to_string())).await {
                // Nothing else is ever taken in.
                Ok(_) => Ok(Found::Receipt { etag: None }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
                Err(error) => Err(StoreError(error.to_string())),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;
    use domain::receipt::Extension;
    use domain::{EmployeeId, OrganizationId};
    use futures_util::stream;

    fn key(seed: u8) -> secrecy::SecretString {
        STANDARD.encode((0..32).map(|byte| byte ^ seed).collect::<Vec<u8>>()).into()
    }

    fn store(folder: &Path, secrets: &SecretsKey) -> LocalReceipts {
        let limits = Limits { max_bytes: 100, upload_ttl_s: 60, download_ttl_s: 30 };
        LocalReceipts::new(folder.to_owned(), "https://api.example", secrets, limits)
    }

    fn fresh() -> ReceiptPath {
        ReceiptPath::generate(OrganizationId::generate(), EmployeeId::generate(), Extension::Pdf)
    }

    /// The parts of an address that its bearer sends back.
    fn parts(url: &str) -> (i64, String) {
        let (_, query) = url.split_once("?expires=").unwrap();
        let (expires, signature) = query.split_once("&signature=").unwrap();
        (expires.parse().unwrap(), signature.to_owned())
    }

    #[test]
    fn an_address_is_good_for_what_it_was_made_for() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path(), &SecretsKey::new(&key(1), None).unwrap());
        let (path, now) = (fresh(), DateTime::from_timestamp(1_773_129_600, 0).unwrap());
        let (expires, signature) = parts(&store.upload_url(path, None, now));
        let allows = |what, path, expires, signature: &str, after| {
            store.allows(what, path, expires, signature, now + TimeDelta::seconds(after))
        };
        assert!(allows(Address::Upload, path, expires, &signature, 0));
        assert!(allows(Address::Upload, path, expires, &signature, 60));
        assert!(!allows(Address::Upload, path, expires, &signature, 61), "it has expired");
        assert!(!allows(Address::Upload, path, expires + 1, &signature, 0), "its end was put off");
        assert!(!allows(Address::Download, path, expires, &signature, 0), "it is for uploading");
        assert!(!allows(Address::Upload, fresh(), expires, &signature, 0), "it is of another receipt");
        for wrong in ["", "AAAA", &signature[1..], &format!("{signature}AA"), "!"] {
            assert!(!allows(Address::Upload, path, expires, wrong, 0), "{wrong}");
        }
    }

    #[test]
    fn addresses_outlive_one_change_of_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let (path, now) = (fresh(), Utc::now());
        let old = store(folder.path(), &SecretsKey::new(&key(1), None).unwrap());
        let (expires, signature) = parts(&old.download_url(path, now).0);
        let rotated = store(folder.path(), &SecretsKey::new(&key(2), Some(&key(1))).unwrap());
        assert!(rotated.allows(Address::Download, path, expires, &signature, now));
        let other = store(folder.path(), &SecretsKey::new(&key(2), None).unwrap());
        assert!(!other.allows(Address::Download, path, expires, &signature, now));
        assert_ne!(parts(&rotated.download_url(path, now).0).1, signature);
    }

    #[tokio::test]
    async fn what_is_taken_in_lies_there_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path(), &SecretsKey::unusable());
        let files = || {
            let mut found = Vec::new();
            let mut folders = vec![folder.path().to_owned()];
            while let Some(one) = folders.pop() {
                for entry in std::fs::read_dir(one).unwrap() {
                    let path = entry.unwrap().path();
                    if path.is_dir() { folders.push(path) } else { found.push(path) }
                }
            }
            found
        };
        let chunks = |content: &'static [u8], size: usize| {
            stream::iter(content.chunks(size).map(|chunk| Ok::<_, ()>(Bytes::from_static(chunk))))
        };
        let path = fresh();
        for (content, expected) in [
            (&b"%PDF-1.7 twelve bytes and a few more"[..5], "the file is not of the type its name says"),
            (b"\x89PNG\r\n\x1A\n and so on", "the file is not of the type its name says"),
            (b"", "the file is not of the type its name says"),
            (&[b'%'; 200], "the file is not of the type its name says"),
        ] {
            // Five bytes are all a PDF needs to show: the first case is one.
            let taken = store.take(path, chunks(content, 7)).await;
            if content == b"%PDF-" {
                taken.unwrap();
                std::fs::remove_file(folder.path().join(path.to_string())).unwrap();
            } else {
                assert_eq!(taken.unwrap_err().to_string(), expected);
            }
            assert_eq!(files(), Vec::<PathBuf>::new());
        }
        let large: &'static [u8] = Box::leak([b"%PDF-1.7", &[0; 93][..]].concat().into_boxed_slice());
        assert!(matches!(store.take(path, chunks(large, 10)).await, Err(NotTaken::TooLarge)));
        let broken = stream::iter([Ok(Bytes::from_static(b"%PDF-1.7 and then")), Err("gone")]);
        assert!(matches!(store.take(path, broken).await, Err(NotTaken::BrokenOff)));
        assert_eq!(files(), Vec::<PathBuf>::new());

        store.take(path, chunks(b"%PDF-1.7 the receipt", 3)).await.unwrap();
        store.take(path, chunks(b"%PDF-1.7 the receipt", 20)).await.unwrap();
        assert!(matches!(store.take(path, chunks(b"%PDF-1.7 another one", 20)).await, Err(NotTaken::Taken)));
        assert!(matches!(store.take(path, chunks(b"%PDF-1.7 longer by a bit", 20)).await, Err(NotTaken::Taken)));
        assert_eq!(files(), [folder.path().join(path.to_string())]);
        assert_eq!(std::fs::read(&files()[0]).unwrap(), b"%PDF-1.7 the receipt");
        assert_eq!(store.look(path, Utc::now()).await.unwrap(), Found::Receipt { etag: None });
        assert_eq!(store.look(fresh(), Utc::now()).await.unwrap(), Found::Nothing);
    }
}
