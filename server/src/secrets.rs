//! The server's own key, and what is derived from it.
//!
//! Invariants:
//!   - The key is 32 random bytes in `secret.key`, readable by the owner alone, and never in a table: whoever copies the tables
//!     can neither sign links nor read the secrets of applications.
//!   - Each use has its own key, derived by HMAC-SHA-256 over a label, so that no two uses can be played against each other.
//!   - What was encrypted for one name can't be decrypted for another: the name is authenticated with it.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Keys that lie outside the tables.
pub struct Secrets {
    link_key: [u8; KEY_LEN],
    encryption: LessSafeKey,
}

const KEY_LEN: usize = 32;
const KEY_FILE: &str = "secret.key";
// The labels are part of what is stored: changing one makes old links and old secrets unreadable.
const LINK_LABEL: &str = "sluicegate image links 1";
const ENCRYPTION_LABEL: &str = "sluicegate stored secrets 1";

/// Why there are no keys, or why they don't open something.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("{} can't be {what}; check its owner, its mode and the disk", path.display())]
    File { path: PathBuf, what: &'static str, source: io::Error },
    #[error("{} holds {got} bytes, expected {KEY_LEN}; put the right file back (links and application secrets depend on it)", path.display())]
    Length { path: PathBuf, got: u64 },
    #[error("the system gives no random bytes")]
    Random,
    #[error("a stored secret can't be decrypted with this {KEY_FILE}; put the file back that it was encrypted with")]
    Undecipherable,
}

impl Secrets {
    /// Reads the key of this folder, or makes it at the first start.
    pub fn open(folder: &Path) -> Result<Self, SecretError> {
        let path = folder.join(KEY_FILE);
        let file_error = |what| {
            let path = path.clone();
            move |source| SecretError::File { path, what, source }
        };
        let key = match File::open(&path) {
            Ok(mut file) => {
                let length = file.metadata().map_err(file_error("read"))?.len();
                if length != KEY_LEN as u64 {
                    return Err(SecretError::Length { path, got: length });
                }
                let mut key = [0; KEY_LEN];
                file.read_exact(&mut key).map_err(file_error("read"))?;
                key
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = random::<KEY_LEN>()?;
                write_private(&path, &key).map_err(file_error("written"))?;
                key
            }
            Err(error) => return Err(file_error("read")(error)),
        };
        Self::from_key(&key).map_err(|_| SecretError::Random)
    }

    fn from_key(key: &[u8; KEY_LEN]) -> Result<Self, Unspecified> {
        let encryption = UnboundKey::new(&AES_256_GCM, &derive(key, ENCRYPTION_LABEL))?;
        Ok(Self { link_key: derive(key, LINK_LABEL), encryption: LessSafeKey::new(encryption) })
    }

    /// What links to images are signed with.
    pub fn link_key(&self) -> [u8; KEY_LEN] {
        self.link_key
    }

    /// Encrypts a secret that belongs to `name`.
    pub fn encrypt(&self, name: &str, secret: &[u8]) -> Result<Vec<u8>, SecretError> {
        let nonce = random::<NONCE_LEN>()?;
        let mut sealed = secret.to_vec();
        self.encryption
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(name.as_bytes()), &mut sealed)
            .map_err(|_| SecretError::Random)?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// The secret that was encrypted for `name`.
    pub fn decrypt(&self, name: &str, encrypted: &[u8]) -> Result<Vec<u8>, SecretError> {
        let (nonce, sealed) = encrypted.split_first_chunk::<NONCE_LEN>().ok_or(SecretError::Undecipherable)?;
        let mut sealed = sealed.to_vec();
        let opened = self
            .encryption
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(name.as_bytes()), &mut sealed)
            .map_err(|_| SecretError::Undecipherable)?;
        Ok(opened.to_vec())
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Secrets").finish_non_exhaustive()
    }
}

fn derive(key: &[u8; KEY_LEN], label: &str) -> [u8; KEY_LEN] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), label.as_bytes());
    let mut derived = [0; KEY_LEN];
    derived.copy_from_slice(tag.as_ref());
    derived
}

/// Fresh random bytes.
pub fn random<const N: usize>() -> Result<[u8; N], SecretError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| SecretError::Random)?;
    Ok(bytes)
}

/// 32 random bytes as 43 characters that are safe in headers, URLs and JSON.
pub fn random_text() -> Result<String, SecretError> {
    Ok(URL_SAFE_NO_PAD.encode(random::<32>()?))
}

/// Writes a file for the owner's eyes, whole or not at all.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    // What a crash left there is worth nothing.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_key_is_made_once_and_readable_by_the_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let first = Secrets::open(folder.path()).unwrap();
        let second = Secrets::open(folder.path()).unwrap();
        assert_eq!(first.link_key(), second.link_key());
        let mode = std::fs::metadata(folder.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_secret_opens_for_its_own_name_only() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = Secrets::open(folder.path()).unwrap();
        let encrypted = secrets.encrypt("app-1", b"open sesame").unwrap();
        assert!(!encrypted.windows(4).any(|window| window == b"open"));
        assert_eq!(secrets.decrypt("app-1", &encrypted).unwrap(), b"open sesame");
        assert!(secrets.decrypt("app-2", &encrypted).is_err());
        assert!(secrets.decrypt("app-1", &encrypted[..5]).is_err());
        let mut damaged = encrypted;
        damaged[NONCE_LEN] ^= 1;
        assert!(secrets.decrypt("app-1", &damaged).is_err());
    }

    #[test]
    fn a_key_of_the_wrong_length_is_refused_rather_than_replaced() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(KEY_FILE), b"short").unwrap();
        let error = Secrets::open(folder.path()).unwrap_err();
        assert!(matches!(error, SecretError::Length { got: 5, .. }), "{error}");
        assert_eq!(std::fs::read(folder.path().join(KEY_FILE)).unwrap(), b"short");
    }
}
