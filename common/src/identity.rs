//! Who may do what. Roles and permissions are decided here, purely; `api` only finds out who speaks.

use serde::{Deserialize, Serialize};

use crate::ids::{AccountId, ApiKeyId, LoginId, UserId};
use crate::time::Timestamp;

/// The tenant. Limits are per account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub id: AccountId,
    pub name: String,
    pub plan: String,
    /// Share of the capacity against other accounts that wait.
    pub weight: u32,
    pub log_bytes_max: u64,
    pub running_max: Option<u32>,
    pub waiting_max: Option<u32>,
    pub created_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub id: UserId,
    pub account: AccountId,
    /// Unique in the installation; what one signs in with.
    pub name: String,
    pub email: Option<String>,
    pub role: Role,
    /// PHC string of Argon2id.
    pub password_hash: String,
    pub disabled: bool,
    pub created_at: Timestamp,
    pub last_login_at: Option<Timestamp>,
}

/// A sign-in. Its record decides on every request, whatever the JWT says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    pub id: LoginId,
    pub user: UserId,
    pub created_at: Timestamp,
    /// Slides on use.
    pub idle_end: Timestamp,
    pub absolute_end: Timestamp,
    pub revoked: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    pub id: ApiKeyId,
    pub account: AccountId,
    pub user: UserId,
    pub role: Role,
    pub name: String,
    /// SHA-256 of the secret part, lower-case hexadecimal; the secret itself is shown once and kept nowhere.
    pub secret_sha256: String,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub revoked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything, in every account.
    Admin,
    /// Everything with the jobs and files of the own account.
    User,
    /// Reading in the own account.
    Viewer,
}

/// Who makes a request, found out by `api`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub user: UserId,
    pub name: String,
    pub account: AccountId,
    pub role: Role,
    pub proof: Proof,
}

/// What a principal proved itself with; none for one that the system itself speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    None,
    SignIn(LoginId),
    ApiKey(ApiKeyId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    ReadJobs,
    WriteJobs,
    ReadWorkers,
    /// Drain, revoke.
    ManageWorkers,
    ManageUsers,
}

impl Principal {
    pub const fn allows(&self, permission: Permission) -> bool {
        match (self.role, permission) {
            (Role::Admin, _) => true,
            (Role::User, Permission::ReadJobs | Permission::WriteJobs | Permission::ReadWorkers) => true,
            (Role::Viewer, Permission::ReadJobs | Permission::ReadWorkers) => true,
            (Role::User, Permission::ManageWorkers | Permission::ManageUsers)
            | (Role::Viewer, Permission::WriteJobs | Permission::ManageWorkers | Permission::ManageUsers) => {
                false
            }
        }
    }

    /// The account that queries are held to; none for an administrator, who sees every account's.
    pub const fn scope(&self) -> Option<&AccountId> {
        match self.role {
            Role::Admin => None,
            Role::User | Role::Viewer => Some(&self.account),
        }
    }

    /// Whether a thing of `account` exists for this principal at all; if not, the answer is 404.
    pub fn sees(&self, account: &AccountId) -> bool {
        self.scope().is_none_or(|own| own == account)
    }
}
