//! The first organization and its first administrator, made from the command line.

use db::identity::NewUser;
use db::{Db, DbError};
use domain::auth::{Role, looks_like_email};
use domain::{OrganizationId, UserId};
use secrecy::SecretString;

use super::passwords::{Busy, Passwords, WeakPassword};

/// Most characters of a name or a slug.
const MAX_NAME: usize = 200;

/// An organization to be.
#[derive(Debug, Clone)]
pub struct NewOrganization {
    /// What it is called.
    pub name: String,
    /// Its short name: lower-case letters, digits and single hyphens between them.
    pub slug: String,
    /// Address of its first administrator.
    pub admin_email: String,
    /// Their password; never printed.
    pub password: SecretString,
    /// The time zone of its days and weeks, an IANA name; UTC when absent.
    pub time_zone: Option<String>,
}

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Provisioned {
    /// The organization.
    pub organization: OrganizationId,
    /// Its administrator.
    pub user: UserId,
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The name is empty, too long or holds control characters.
    #[error("the name must have 1 to {MAX_NAME} printable characters")]
    Name,
    /// The slug is malformed.
    #[error("the slug must be lower-case letters and digits, with single hyphens between them")]
    Slug,
    /// The address is malformed.
    #[error("the administrator's e-mail address is not valid")]
    Email,
    /// The password is not good enough.
    #[error("the administrator's password {0}")]
    Password(#[from] WeakPassword),
    /// Another organization has the slug.
    #[error("an organization with this slug exists already")]
    SlugTaken,
    /// Somebody has the address.
    #[error("a user with this e-mail address exists already")]
    EmailTaken,
    /// There is no such time zone.
    #[error("the time zone must be an IANA name such as Europe/Rome")]
    TimeZone,
    /// The password could not be hashed.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The database did not do it.
    #[error(transparent)]
    Db(DbError),
}

impl From<DbError> for ProvisionError {
    fn from(error: DbError) -> Self {
        if error.is_conflict_with(db::organizations::SLUG_TAKEN) {
            Self::SlugTaken
        } else if error.is_conflict_with(db::identity::EMAIL_TAKEN) {
            Self::EmailTaken
        } else {
            Self::Db(error)
        }
    }
}

/// Makes an organization and its first administrator, both or neither.
pub async fn create_organization(
    db: &Db,
    passwords: &Passwords,
    new: NewOrganization,
) -> Result<Provisioned, ProvisionError> {
    let email = checked(&new)?;
    let hash = passwords.hash(new.password).await?;
    let made = Provisioned { organization: OrganizationId::generate(), user: UserId::generate() };
    // The system role: before an organization exists nobody can belong to it.
    let mut tx = db.system().await?;
    let zone = new.time_zone.as_deref().unwrap_or("UTC");
    if !db::organizations::knows_time_zone(&mut tx, zone).await? {
        return Err(ProvisionError::TimeZone);
    }
    db::organizations::create_in(&mut tx, made.organization, new.name.trim(), &new.slug, zone).await?;
    let admin = NewUser { id: made.user, email: &email, role: Role::Admin, password_hash: &hash };
    db::identity::create_first_user(&mut tx, made.organization, &admin).await?;
    tx.commit().await?;
    Ok(made)
}

/// Refuses what the database would refuse, in words, and gives the address in lower case.
fn checked(new: &NewOrganization) -> Result<String, ProvisionError> {
    let name = new.name.trim();
    if name.is_empty() || name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(ProvisionError::Name);
    }
    let part_ok = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if new.slug.len() > MAX_NAME || !new.slug.split('-').all(part_ok) {
        return Err(ProvisionError::Slug);
    }
    let email = new.admin_email.trim().to_ascii_lowercase();
    if !looks_like_email(&email) {
        return Err(ProvisionError::Email);
    }
    Passwords::accept(&new.password)?;
    Ok(email)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(name: &str, slug: &str, email: &str, password: &str) -> Option<String> {
        let new = NewOrganization {
            name: name.to_owned(),
            slug: slug.to_owned(),
            admin_email: email.to_owned(),
            password: password.to_owned().into(),
            time_zone: None,
        };
        checked(&new).err().map(|error| error.to_string())
    }

    #[test]
    fn what_the_database_would_refuse_is_refused_in_words() {
        let long = "x".repeat(201);
        assert_eq!(refusal("Acme", "acme-2", " Ana@Example.com ", "long enough"), None);
        for (name, slug, email, password, why) in [
            (" ", "acme", "ana@example.com", "long enough", "name"),
            ("A\0", "acme", "ana@example.com", "long enough", "name"),
            (long.as_str(), "acme", "ana@example.com", "long enough", "name"),
            ("Acme", "", "ana@example.com", "long enough", "slug"),
            ("Acme", "Acme", "ana@example.com", "long enough", "slug"),
            ("Acme", "a--b", "ana@example.com", "long enough", "slug"),
            ("Acme", "-a", "ana@example.com", "long enough", "slug"),
            ("Acme", "acme", "ana", "long enough", "e-mail"),
            ("Acme", "acme", "ana@example.com", "short", "at least 10"),
        ] {
            let told = refusal(name, slug, email, password).unwrap();
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn what_is_taken_is_told_by_name() {
        let conflict = |rule: &str| ProvisionError::from(DbError::Conflict(rule.to_owned()));
        assert!(matches!(conflict(db::organizations::SLUG_TAKEN), ProvisionError::SlugTaken));
        assert!(matches!(conflict(db::identity::EMAIL_TAKEN), ProvisionError::EmailTaken));
        assert!(matches!(conflict("another"), ProvisionError::Db(_)));
    }
}
