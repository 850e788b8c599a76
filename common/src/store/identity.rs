//! The home of accounts, users, sign-ins and API keys.

use async_trait::async_trait;

use super::StoreError;
use crate::identity::{Account, ApiKey, Login, User};
use crate::ids::{AccountId, ApiKeyId, LoginId, UserId};
use crate::time::Timestamp;

#[async_trait]
pub trait IdentityStore: Send + Sync {
    /// [`StoreError::Exists`] when there is one of this id.
    async fn create_account(&self, account: &Account) -> Result<(), StoreError>;
    async fn account(&self, id: &AccountId) -> Result<Option<Account>, StoreError>;

    /// [`StoreError::Exists`] when the id or the name is taken.
    async fn create_user(&self, user: &User) -> Result<(), StoreError>;
    /// Stores the hash of a new password if `old` is still the one stored; false when it is not, or the user unknown.
    async fn set_password(&self, id: &UserId, old: &str, new: &str) -> Result<bool, StoreError>;
    /// Shuts a user out, or lets them in again; false when the user is unknown.
    async fn set_disabled(&self, id: &UserId, disabled: bool) -> Result<bool, StoreError>;
    async fn user(&self, id: &UserId) -> Result<Option<User>, StoreError>;
    async fn user_by_name(&self, name: &str) -> Result<Option<User>, StoreError>;
    async fn count_users(&self) -> Result<u64, StoreError>;

    async fn create_login(&self, login: &Login) -> Result<(), StoreError>;
    async fn login(&self, id: LoginId) -> Result<Option<Login>, StoreError>;
    /// Moves the idle end; false when the sign-in is gone or revoked.
    async fn touch_login(&self, id: LoginId, idle_end: Timestamp) -> Result<bool, StoreError>;
    async fn revoke_login(&self, id: LoginId) -> Result<(), StoreError>;
    /// All of a user's, except one.
    async fn revoke_logins_of(&self, user: &UserId, except: Option<LoginId>) -> Result<(), StoreError>;

    async fn create_api_key(&self, key: &ApiKey) -> Result<(), StoreError>;
    async fn api_key(&self, id: ApiKeyId) -> Result<Option<ApiKey>, StoreError>;
    /// A user's keys, by id, revoked ones too; at most `limit`.
    async fn api_keys_of(&self, user: &UserId, limit: usize) -> Result<Vec<ApiKey>, StoreError>;
    /// Final. False when the key is unknown.
    async fn revoke_api_key(&self, id: ApiKeyId) -> Result<bool, StoreError>;
}
