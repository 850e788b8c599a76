//! Sign-in, users, accounts and keys.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::identity::{Account, ApiKey, Principal, Role};
use crate::ids::{AccountId, ApiKeyId, UserId};
use crate::time::Timestamp;

#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    pub username: String,
    #[schema(format = Password)]
    pub password: String,
}

/// Hides the password.
impl std::fmt::Debug for LoginRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoginRequest")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct LoginAnswer {
    /// A bearer token; browsers get the same as a cookie.
    pub token: String,
    /// When a new sign-in is needed at the latest.
    pub expires_at: Timestamp,
    pub user: UserView,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UserView {
    pub id: UserId,
    pub name: String,
    pub account: AccountId,
    pub role: Role,
}

impl From<&Principal> for UserView {
    fn from(principal: &Principal) -> Self {
        Self {
            id: principal.user.clone(),
            name: principal.name.clone(),
            account: principal.account.clone(),
            role: principal.role,
        }
    }
}

#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    /// What they sign in with.
    #[schema(min_length = 1, max_length = 64)]
    pub username: String,
    #[schema(min_length = 8, max_length = 1024, format = Password)]
    pub password: String,
    pub role: Role,
    pub account: AccountId,
}

#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangePassword {
    #[schema(format = Password)]
    pub old: String,
    #[schema(min_length = 8, max_length = 1024, format = Password)]
    pub new: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DisableBody {
    /// False: they may come in again, with a new sign-in.
    pub disabled: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateAccount {
    pub id: AccountId,
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
    /// Default: `standard`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccountView {
    pub id: AccountId,
    pub name: String,
    pub plan: String,
    pub created_at: Timestamp,
}

impl From<Account> for AccountView {
    fn from(account: Account) -> Self {
        Self {
            id: account.id,
            name: account.name,
            plan: account.plan,
            created_at: account.created_at,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// For the owner, to tell keys apart.
    #[schema(min_length = 1, max_length = 64)]
    pub name: String,
    /// At most the creator's own role, which is also the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Without: it does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// A new key. Its text is shown this once and kept nowhere.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct KeyCreated {
    pub id: ApiKeyId,
    pub name: String,
    pub role: Role,
    pub key: String,
    pub expires_at: Option<Timestamp>,
}

/// A key without its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyView {
    pub id: ApiKeyId,
    pub name: String,
    pub role: Role,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub revoked: bool,
}

impl From<ApiKey> for KeyView {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id,
            name: key.name,
            role: key.role,
            created_at: key.created_at,
            expires_at: key.expires_at,
            revoked: key.revoked,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyList {
    pub keys: Vec<KeyView>,
}
