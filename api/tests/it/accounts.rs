//! A store of accounts that answers nothing while a test wants it so.

use std::sync::Arc;

use async_trait::async_trait;
use common::identity::{Account, ApiKey, Login, User};
use common::ids::{AccountId, ApiKeyId, LoginId, UserId};
use common::store::{IdentityStore, StoreError};
use common::time::Timestamp;

use crate::counts::{Counts, Gate};

/// Stands before the store of accounts: an account cannot be read while the gate is [`Gate::Away`]. Users and keys can,
/// as what the interface has just read of them.
pub struct Accounts {
    pub accounts: Arc<dyn IdentityStore>,
    pub gates: Counts,
}

#[async_trait]
impl IdentityStore for Accounts {
    async fn create_account(&self, account: &Account) -> Result<(), StoreError> {
        self.accounts.create_account(account).await
    }

    async fn account(&self, id: &AccountId) -> Result<Option<Account>, StoreError> {
        if self.gates.gate() == Gate::Away {
            return Err(StoreError::Unavailable("it does not answer".into()));
        }
        self.accounts.account(id).await
    }

    async fn create_user(&self, user: &User) -> Result<(), StoreError> {
        self.accounts.create_user(user).await
    }

    async fn set_password(&self, id: &UserId, old: &str, new: &str) -> Result<bool, StoreError> {
        self.accounts.set_password(id, old, new).await
    }

    async fn set_disabled(&self, id: &UserId, disabled: bool) -> Result<bool, StoreError> {
        self.accounts.set_disabled(id, disabled).await
    }

    async fn user(&self, id: &UserId) -> Result<Option<User>, StoreError> {
        self.accounts.user(id).await
    }

    async fn user_by_name(&self, name: &str) -> Result<Option<User>, StoreError> {
        self.accounts.user_by_name(name).await
    }

    async fn count_users(&self) -> Result<u64, StoreError> {
        self.accounts.count_users().await
    }

    async fn create_login(&self, login: &Login) -> Result<(), StoreError> {
        self.accounts.create_login(login).await
    }

    async fn login(&self, id: LoginId) -> Result<Option<Login>, StoreError> {
        self.accounts.login(id).await
    }

    async fn touch_login(&self, id: LoginId, idle_end: Timestamp) -> Result<bool, StoreError> {
        self.accounts.touch_login(id, idle_end).await
    }

    async fn revoke_login(&self, id: LoginId) -> Result<(), StoreError> {
        self.accounts.revoke_login(id).await
    }

    async fn revoke_logins_of(&self, user: &UserId, except: Option<LoginId>) -> Result<(), StoreError> {
        self.accounts.revoke_logins_of(user, except).await
    }

    async fn create_api_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        self.accounts.create_api_key(key).await
    }

    async fn api_key(&self, id: ApiKeyId) -> Result<Option<ApiKey>, StoreError> {
        self.accounts.api_key(id).await
    }

    async fn api_keys_of(&self, user: &UserId, limit: usize) -> Result<Vec<ApiKey>, StoreError> {
        self.accounts.api_keys_of(user, limit).await
    }

    async fn revoke_api_key(&self, id: ApiKeyId) -> Result<bool, StoreError> {
        self.accounts.revoke_api_key(id).await
    }
}
