use super::{AppId, Timestamp, TokenId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    Admin,
    Operator,
    User,
    Device,
}

impl Role {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::User => "user",
            Self::Device => "device",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Admin, Self::Operator, Self::User, Self::Device].into_iter().find(|role| role.name() == name)
    }
}

/// What a token may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TokenPurpose {
    /// Calls.
    Access,
    /// Only to get a new access token.
    Refresh,
    /// Only to log a device in.
    Authorize,
    /// Calls that are signed with the application's secret: nothing where signatures aren't known.
    Signed,
}

/// A key to one organization, perhaps to one product or device of it (row). The secret itself is not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    pub id: TokenId,
    /// SHA-256 of the secret half.
    pub secret_sha256: [u8; 32],
    pub purpose: TokenPurpose,
    pub role: Role,
    pub organization: Arc<str>,
    pub product_id: Option<Arc<str>>,
    pub device_id: Option<Arc<str>>,
    /// The application it was issued to, where one logged in for it.
    pub app: Option<AppId>,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
}

/// A program that logs in with an id and a secret (row).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    pub id: AppId,
    pub organization: Arc<str>,
    /// Encrypted by the front end, with a key that lies outside the tables.
    pub secret_encrypted: Vec<u8>,
    pub created_at: Timestamp,
}
