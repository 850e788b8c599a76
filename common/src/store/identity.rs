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
    /// Stores a user's changed record whole.
    async fn put_user(&self, user: &User) -> Result<(), StoreError>;
    async fn user(&self, id: &UserId) -> Result<Option<User>, StoreError>;
    async fn user_by_name(&self, name: &str) -> Result<Option<User>, StoreError>;
    async fn count_users(&self) -> Result<u64, StoreError>;

    async fn create_login(&self, login: &Login) -> Result<(), StoreError>;
    async fn login(&self, id: LoginId) -> Result<Option<Login>, StoreError>;
    /// Moves the idle end; false when the sign-in is gone or revoked.
    async fn touch_login(&self, id: LoginId, idle_end: Timestamp) -> Result<bool, StoreError>;
    async fn revoke_login(&self, id: LoginId) -> Result<(), StoreError>;
    async fn revoke_logins_of(&self, user: &UserId) -> Result<(), StoreError>;

    async fn create_api_key(&self, key: &ApiKey) -> Result<(), StoreError>;
    async fn api_key(&self, id: ApiKeyId) -> Result<Option<ApiKey>, StoreError>;
}
