//! Receipts: pictures and documents that prove an expense. Where one lies is decided here and never by a client.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::id::{EmployeeId, OrganizationId, parse_uuid};

/// What a receipt may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReceiptKind {
    /// A JPEG picture.
    Jpeg,
    /// A PNG picture.
    Png,
    /// A WebP picture.
    Webp,
    /// A PDF document.
    Pdf,
}

/// How many first bytes [`ReceiptKind::of_content`] wants to see.
pub const MAGIC_BYTES: usize = 12;

impl ReceiptKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Jpeg, Self::Png, Self::Webp, Self::Pdf];

    /// Its media type.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Webp => "image/webp",
            Self::Pdf => "application/pdf",
        }
    }

    /// The kind of that media type.
    #[must_use]
    pub fn of_media_type(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.media_type() == text)
    }

    /// The kind that starts with these bytes: at least [`MAGIC_BYTES`] of them, unless the file is shorter.
    #[must_use]
    pub fn of_content(start: &[u8]) -> Option<Self> {
        match start {
            [0xFF, 0xD8, 0xFF, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Some(Self::Png),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::Webp),
            [b'%', b'P', b'D', b'F', b'-', ..] => Some(Self::Pdf),
            _ => None,
        }
    }
}

/// A file name's ending, as the client chose it among the known ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extension {
    /// `jpg`
    Jpg,
    /// `jpeg`
    Jpeg,
    /// `png`
    Png,
    /// `webp`
    Webp,
    /// `pdf`
    Pdf,
}

impl Extension {
    /// Every one, in the order of the contract.
    pub const ALL: [Self; 5] = [Self::Jpg, Self::Jpeg, Self::Png, Self::Webp, Self::Pdf];

    /// As it stands in a name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jpg => "jpg",
            Self::Jpeg => "jpeg",
            Self::Png => "png",
            Self::Webp => "webp",
            Self::Pdf => "pdf",
        }
    }

    /// Reads it; `None` for any other, other letter case included.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|extension| extension.as_str() == text)
    }

    /// What a file of that name must be.
    #[must_use]
    pub const fn kind(self) -> ReceiptKind {
        match self {
            Self::Jpg | Self::Jpeg => ReceiptKind::Jpeg,
            Self::Png => ReceiptKind::Png,
            Self::Webp => ReceiptKind::Webp,
            Self::Pdf => ReceiptKind::Pdf,
        }
    }
}

/// Where a receipt lies: `{organization}/{employee}/{uuid}.{extension}`. Made by us or read from exactly that form, so
/// it can never climb out of its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReceiptPath {
    organization: OrganizationId,
    employee: EmployeeId,
    name: Uuid,
    extension: Extension,
}

impl ReceiptPath {
    /// A fresh path for an employee's upload. Its name cannot be guessed.
    #[must_use]
    pub fn generate(organization: OrganizationId, employee: EmployeeId, extension: Extension) -> Self {
        Self { organization, employee, name: Uuid::new_v4(), extension }
    }

    /// Whose it is.
    #[must_use]
    pub const fn owner(self) -> (OrganizationId, EmployeeId) {
        (self.organization, self.employee)
    }

    /// What the file must be.
    #[must_use]
    pub const fn kind(self) -> ReceiptKind {
        self.extension.kind()
    }
}

impl fmt::Display for ReceiptPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}.{}", self.organization, self.employee, self.name, self.extension.as_str())
    }
}

/// The text is no path of a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the path of a receipt")]
pub struct NotAReceiptPath;

impl FromStr for ReceiptPath {
    type Err = NotAReceiptPath;

    fn from_str(text: &str) -> Result<Self, NotAReceiptPath> {
        let mut parts = text.split('/');
        let (Some(organization), Some(employee), Some(file), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NotAReceiptPath);
        };
        let (name, extension) = file.split_once('.').ok_or(NotAReceiptPath)?;
        let path = Self {
            organization: parse_uuid(organization).ok_or(NotAReceiptPath)?.into(),
            employee: parse_uuid(employee).ok_or(NotAReceiptPath)?.into(),
            name: parse_uuid(name).ok_or(NotAReceiptPath)?,
            extension: Extension::parse(extension).ok_or(NotAReceiptPath)?,
        };
        // One spelling each: what is stored is what was issued.
        if path.to_string() == text { Ok(path) } else { Err(NotAReceiptPath) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_back_and_nothing_else_is() {
        let (organization, employee) = (OrganizationId::generate(), EmployeeId::generate());
        for extension in Extension::ALL {
            let path = ReceiptPath::generate(organization, employee, extension);
            assert_eq!(path.to_string().parse(), Ok(path));
            assert_eq!(path.owner(), (organization, employee));
        }
        let good = ReceiptPath::generate(organization, employee, Extension::Jpg).to_string();
        for bad in [
            String::new(),
            format!("/{good}"),
            format!("{good}/"),
            format!("../{good}"),
            good.replace(".jpg", ""),
            good.replace(".jpg", ".JPG"),
            good.replace(".jpg", ".exe"),
            good.replace(".jpg", ".jpg.exe"),
            good.replace(".jpg", ".jpg?x"),
            good.replace('/', "\\"),
            good.replacen('/', "/../", 1),
            good.to_uppercase(),
            good.replace('-', ""),
        ] {
            assert_eq!(bad.parse::<ReceiptPath>(), Err(NotAReceiptPath), "{bad}");
        }
    }

    #[test]
    fn content_tells_its_kind() {
        for (content, kind) in [
            (&b"\xFF\xD8\xFF\xE0\0\x10JFIF\0\x01"[..], Some(ReceiptKind::Jpeg)),
            (b"\x89PNG\r\n\x1A\n\0\0\0\x0D", Some(ReceiptKind::Png)),
            (b"RIFF\x24\0\0\0WEBP", Some(ReceiptKind::Webp)),
            (b"RIFF\x24\0\0\0WAVE", None),
            (b"%PDF-1.7\n%", Some(ReceiptKind::Pdf)),
            (b"<svg xmlns=", None),
            (b"<!DOCTYPE ht", None),
            (b"MZ\x90\0", None),
            (b"", None),
            (b"\xFF\xD8", None),
        ] {
            assert_eq!(ReceiptKind::of_content(content), kind, "{content:?}");
        }
    }

    #[test]
    fn media_types_belong_to_extensions() {
        for extension in Extension::ALL {
            assert_eq!(Extension::parse(extension.as_str()), Some(extension));
            assert_eq!(ReceiptKind::of_media_type(extension.kind().media_type()), Some(extension.kind()));
        }
        assert_eq!(Extension::parse("PNG"), None);
        assert_eq!(ReceiptKind::of_media_type("text/plain"), None);
    }
}
