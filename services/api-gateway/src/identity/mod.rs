//! Who signs people in, and who they are.
//!
//! Either the gateway is the identity provider itself ([`BuiltIn`]): passwords, access tokens that say who somebody is
//! for an hour, refresh tokens that are exchanged for the next ones, and the keys behind them, shared by every replica
//! through the database. Or a Supabase project is: its published keys verify, and it checks passwords. The rest of
//! the gateway asks an [`Authenticator`] and need not know which.
//!
//! A token that is wrong and a provider that is away are told apart everywhere: the first signs a person out, the
//! second must not.

pub mod api_keys;
mod jws;
mod key_cache;
mod keys;
pub mod passwords;
pub mod provision;
mod refresh;
mod supabase;
mod tokens;

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use db::identity::{Account, Families};
use db::{Db, DbError};
use domain::auth::{ClaimsError, Role, looks_like_email};
use domain::{Clock, UserId};
use secrecy::SecretString;
use serde_json::Value;
use uuid::Uuid;

use key_cache::{KeyCache, KeySource, Published, Unavailable};
use keys::{Signer, StoredKeys};
use passwords::{Busy, Passwords};
use refresh::{Exchange, RefreshTokens};
use supabase::Supabase;
use tokens::{CheckError, TokenCache};

pub use ::secrets::{CryptoFailure, Derived, InvalidSecretsKey, OpenError, SecretsKey};
pub use refresh::RefreshError;
pub use supabase::ClientError;
pub use tokens::{ACCESS_TOKEN_S, VerifiedToken};

/// How many verified tokens are remembered.
const REMEMBERED_TOKENS: usize = 50_000;

/// Why a token does not make a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// It is forged, foreign, expired or damaged.
    #[error("Invalid or missing authentication token")]
    Invalid,
    /// It is genuine, and says too little or nonsense.
    #[error(transparent)]
    Claims(#[from] ClaimsError),
    /// It cannot be told: the keys cannot be had.
    #[error("the identity provider is unavailable")]
    Unavailable,
}

/// Why somebody is not signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignInError {
    /// Address or password are wrong.
    #[error("Invalid login credentials")]
    InvalidCredentials,
    /// They are right, and their owner may not sign in: banned, or an employee who is not active.
    #[error("User is banned")]
    Banned,
    /// It cannot be told at the moment.
    #[error("the identity provider is unavailable")]
    Unavailable,
}

/// What a sign-in or a refresh gives. Printing it shows no token.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// Says who somebody is.
    pub access_token: SecretString,
    /// Can be exchanged for the next tokens.
    pub refresh_token: Option<SecretString>,
    /// Seconds for which the access token is good.
    pub expires_in: i64,
    /// When it ends, in Unix seconds; another provider may not say.
    pub expires_at: Option<i64>,
    /// Who signed in; `None` when another provider knows and we do not.
    pub account: Option<Account>,
}

/// Which sign-ins of a person to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignOut {
    /// All of them.
    Everywhere,
    /// The one that asks.
    Here,
    /// All but the one that asks.
    Elsewhere,
}

/// Signs in and verifies, by ourselves or through Supabase.
pub struct Authenticator {
    provider: Provider,
    verified: TokenCache,
    clock: Arc<dyn Clock>,
}

enum Provider {
    // Boxed: they differ much in size, and there is one of them a process.
    BuiltIn(Box<BuiltIn>),
    Supabase(Box<Supabase>),
}

impl Authenticator {
    /// We are the identity provider, by the name of `issuer`: our own address with `/auth/v1`.
    pub fn builtin(db: Db, secrets: SecretsKey, issuer: String, passwords: Passwords, clock: Arc<dyn Clock>) -> Self {
        let built_in = BuiltIn {
            issuer,
            passwords,
            refresh: RefreshTokens::new(&secrets),
            keys: KeyCache::new(StoredKeys::new(db.clone(), secrets), Arc::clone(&clock)),
            db,
            clock: Arc::clone(&clock),
        };
        Self::with(Provider::BuiltIn(Box::new(built_in)), clock)
    }

    /// A Supabase project at `url` is.
    pub fn supabase(url: &str, anon_key: SecretString, clock: Arc<dyn Clock>) -> Result<Self, ClientError> {
        let supabase = Supabase::new(url, &anon_key, Arc::clone(&clock))?;
        Ok(Self::with(Provider::Supabase(Box::new(supabase)), clock))
    }

    fn with(provider: Provider, clock: Arc<dyn Clock>) -> Self {
        jws::install();
        Self { provider, verified: TokenCache::new(REMEMBERED_TOKENS), clock }
    }

    /// Fetches the keys, or makes them, and keeps them fresh for as long as it is polled.
    ///
    /// Whoever holds the keys may be away, also at first: it is tried again and again, and meanwhile tokens are neither
    /// good nor bad.
    pub async fn keep_fresh(&self) {
        match &self.provider {
            Provider::BuiltIn(built_in) => built_in.keys.keep_fresh().await,
            Provider::Supabase(supabase) => supabase.keys.keep_fresh().await,
        }
    }

    /// Whose token this is.
    pub async fn verify(&self, token: &str) -> Result<VerifiedToken, VerifyError> {
        match &self.provider {
            Provider::BuiltIn(built_in) => self.verify_with(&built_in.keys, &built_in.issuer, token).await,
            Provider::Supabase(supabase) => self.verify_with(&supabase.keys, &supabase.issuer, token).await,
        }
    }

    async fn verify_with<S: KeySource>(
        &self,
        keys: &KeyCache<S>,
        issuer: &str,
        token: &str,
    ) -> Result<VerifiedToken, VerifyError> {
        let hash = tokens::hash(token);
        let generation = keys.generation();
        let now = self.clock.now();
        if let Some(verified) = self.verified.get(&hash, generation, now) {
            return Ok(verified);
        }
        let kid = tokens::key_id(token).ok_or(VerifyError::Invalid)?;
        let key = match keys.find(&kid).await {
            Ok(Some(key)) => key,
            Ok(None) => return Err(VerifyError::Invalid),
            Err(Unavailable) => return Err(VerifyError::Unavailable),
        };
        let verified = tokens::check(token, &key, issuer, now).map_err(|error| match error {
            CheckError::Invalid => VerifyError::Invalid,
            CheckError::Claims(error) => VerifyError::Claims(error),
        })?;
        self.verified.put(hash, generation, verified.clone(), now);
        Ok(verified)
    }

    /// Signs somebody in with their password.
    pub async fn sign_in(&self, email: &str, password: &SecretString) -> Result<Tokens, SignInError> {
        match &self.provider {
            Provider::BuiltIn(built_in) => built_in.sign_in(email, password).await,
            Provider::Supabase(supabase) => supabase.sign_in(email, password).await,
        }
    }

    /// What only we can do when we are the provider: refresh, sign out, publish keys.
    pub fn built_in(&self) -> Option<&BuiltIn> {
        match &self.provider {
            Provider::BuiltIn(built_in) => Some(built_in),
            Provider::Supabase(_) => None,
        }
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let provider = match &self.provider {
            Provider::BuiltIn(_) => "built in",
            Provider::Supabase(_) => "supabase",
        };
        f.debug_struct("Authenticator").field("provider", &provider).finish_non_exhaustive()
    }
}

/// Our own identity provider.
pub struct BuiltIn {
    issuer: String,
    db: Db,
    clock: Arc<dyn Clock>,
    passwords: Passwords,
    refresh: RefreshTokens,
    keys: KeyCache<StoredKeys>,
}

impl BuiltIn {
    /// Who the tokens say issued them.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    async fn sign_in(&self, email: &str, password: &SecretString) -> Result<Tokens, SignInError> {
        // No transaction is open while the password is hashed: it takes long, and connections are few.
        let found = self.by_email(email).await.map_err(|error| SignInError::from(logged(&error)))?;
        let hash = found.as_ref().map(|(_, hash)| hash.as_str());
        let right = self.passwords.verify(password, hash).await?;
        let Some((account, hash)) = found.filter(|_| right) else { return Err(SignInError::InvalidCredentials) };
        // Told only to those who know the password.
        if account.is_banned(self.clock.now()) || !may_sign_in(&account) {
            return Err(SignInError::Banned);
        }
        let rehashed =
            if Passwords::needs_rehash(&hash) { self.passwords.hash(password.clone()).await.ok() } else { None };
        let keys = self.keys.current().await.map_err(|Unavailable| SignInError::Unavailable)?;
        let signer = keys.signer().ok_or(SignInError::Unavailable)?;
        let (now, session) = (self.clock.now(), Uuid::new_v4());
        let stored = async {
            let mut tx = self.db.system().await?;
            db::identity::signed_in(&mut tx, &account, rehashed.as_deref(), now).await?;
            let token = self.refresh.begin(&mut tx, &account, session, now).await?;
            tx.commit().await?;
            Ok::<_, refresh::BeginError>(token)
        };
        let refresh_token = stored.await.map_err(|error| SignInError::from(logged(&error)))?;
        let account = Account { last_sign_in_at: Some(now), ..account };
        self.tokens(signer, account, session, refresh_token, now).ok_or(SignInError::Unavailable)
    }

    async fn by_email(&self, email: &str) -> Result<Option<(Account, String)>, DbError> {
        // Addresses are stored in lower case. What is no address has no account, and may hold what SQL text cannot.
        let email = email.to_ascii_lowercase();
        if !looks_like_email(&email) {
            return Ok(None);
        }
        // The system role: signing in comes before any organization is known.
        let mut tx = self.db.system().await?;
        db::identity::by_email(&mut tx, &email).await
    }

    /// Exchanges a refresh token for new tokens.
    pub async fn refresh(&self, refresh_token: &SecretString) -> Result<Tokens, RefreshError> {
        // Before the transaction: fetching keys needs a connection too, and holding one while waiting for another can
        // lock the pool up.
        let keys = self.keys.current().await.map_err(|Unavailable| RefreshError::Unavailable)?;
        let signer = keys.signer().ok_or(RefreshError::Unavailable)?;
        let exchanged = async {
            // The system role: the token is all we know of whoever sends it.
            let mut tx = self.db.system().await?;
            let exchanged = self.refresh.exchange(&mut tx, refresh_token, || self.clock.now()).await?;
            if !matches!(exchanged, Exchange::Refused(_)) {
                tx.commit().await?;
            }
            Ok::<_, DbError>(exchanged)
        };
        match exchanged.await.map_err(|error| RefreshError::from(logged(&error)))? {
            Exchange::Renewed { token, account, family } => {
                let now = self.clock.now();
                self.tokens(signer, account, family, token, now).ok_or(RefreshError::Unavailable)
            }
            Exchange::Reused => {
                tracing::warn!("a used refresh token came again; its sign-in has been ended");
                Err(RefreshError::AlreadyUsed)
            }
            Exchange::Refused(error) => Err(error),
        }
    }

    /// Ends sign-ins of the token's owner: their refresh tokens lose their worth. Access tokens end by themselves.
    pub async fn sign_out(&self, token: &VerifiedToken, which: SignOut) -> Result<(), Unreachable> {
        let families = match (which, token.session_id) {
            (SignOut::Everywhere, _) | (SignOut::Elsewhere, None) => Families::All,
            (SignOut::Here, Some(session)) => Families::Only(session),
            (SignOut::Elsewhere, Some(session)) => Families::AllBut(session),
            (SignOut::Here, None) => return Ok(()),
        };
        let done = async {
            // The system role alone sees refresh tokens.
            let mut tx = self.db.system().await?;
            refresh::revoke(&mut tx, token.identity.user, families, self.clock.now()).await?;
            tx.commit().await
        };
        done.await.map_err(|error: DbError| logged(&error))
    }

    /// Whether the sign-in that a token came from has not been ended.
    pub async fn session_holds(&self, session: Uuid) -> Result<bool, Unreachable> {
        let asked = async {
            // The system role alone sees refresh tokens.
            let mut tx = self.db.system().await?;
            db::identity::is_family_live(&mut tx, session).await
        };
        asked.await.map_err(|error: DbError| logged(&error))
    }

    /// The account of a user, as it is now.
    pub async fn account(&self, user: UserId) -> Result<Option<Account>, Unreachable> {
        let asked = async {
            // The system role: credentials, and with them bans, are hidden from the application's.
            let mut tx = self.db.system().await?;
            db::identity::by_user(&mut tx, user).await
        };
        asked.await.map_err(|error: DbError| logged(&error))
    }

    /// The public keys, as a JSON Web Key Set.
    pub async fn jwks(&self) -> Result<Value, Unreachable> {
        let keys = self.keys.current().await.map_err(|Unavailable| Unreachable)?;
        Ok(keys.public().jwks())
    }

    /// Makes a new signing key. Every replica uses it two minutes later, and the old one stays published for two hours.
    pub async fn rotate_keys(&self) -> Result<(), Unreachable> {
        self.keys.source().rotate(self.clock.now()).await.map_err(|Unavailable| Unreachable)?;
        self.keys.ask_now().await.map_err(|Unavailable| Unreachable)
    }

    fn tokens(
        &self,
        signer: &Signer,
        account: Account,
        session: Uuid,
        refresh_token: SecretString,
        now: DateTime<Utc>,
    ) -> Option<Tokens> {
        let Some(access) = tokens::issue(signer, &self.issuer, &account, session, now) else {
            tracing::error!(key.id = %signer.kid, "a signing key does not sign");
            return None;
        };
        Some(Tokens {
            access_token: access.text,
            refresh_token: Some(refresh_token),
            expires_in: ACCESS_TOKEN_S,
            expires_at: Some(access.expires_at),
            account: Some(account),
        })
    }
}

impl fmt::Debug for BuiltIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuiltIn").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// What identity is stored in cannot be reached or does not do its part; the cause has been logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the identity provider is unavailable")]
pub struct Unreachable;

impl From<Unreachable> for SignInError {
    fn from(_: Unreachable) -> Self {
        Self::Unavailable
    }
}

impl From<Busy> for SignInError {
    fn from(_: Busy) -> Self {
        Self::Unavailable
    }
}

impl From<Unreachable> for RefreshError {
    fn from(_: Unreachable) -> Self {
        Self::Unavailable
    }
}

/// Whatever goes wrong below, people stay signed in and may try again; the log tells what it was.
fn logged(error: &dyn std::error::Error) -> Unreachable {
    tracing::error!(error.message = %error, "the identity provider could not reach what it keeps");
    Unreachable
}

/// Whether an account can act once signed in: an employee's token must name an active employee.
fn may_sign_in(account: &Account) -> bool {
    account.role != Role::Employee || account.employee.is_some()
}
