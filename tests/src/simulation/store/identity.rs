//! Accounts, users, sign-ins and keys in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;
use common::identity::{Account, ApiKey, Login, User};
use common::ids::{AccountId, ApiKeyId, LoginId, UserId};
use common::store::{IdentityStore, StoreError};
use common::time::Timestamp;

use super::{Client, Service, held};

#[derive(Default)]
pub struct Identity {
    accounts: BTreeMap<AccountId, Account>,
    users: BTreeMap<UserId, User>,
    logins: BTreeMap<LoginId, Login>,
    keys: BTreeMap<ApiKeyId, ApiKey>,
}

impl Identity {
    fn name_taken(&self, user: &User) -> bool {
        self.users
            .values()
            .any(|other| other.id != user.id && other.name == user.name)
    }
}

impl Client {
    async fn identity<T: Send + 'static>(
        &self,
        name: &'static str,
        apply: impl FnOnce(&mut Identity) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.call(Service::Rows, name, |backends, _| {
            apply(&mut held(&backends.identity))
        })
        .await
    }
}

#[async_trait]
impl IdentityStore for Client {
    async fn create_account(&self, account: &Account) -> Result<(), StoreError> {
        let account = account.clone();
        self.identity("create_account", move |identity| {
            if identity.accounts.contains_key(&account.id) {
                return Err(StoreError::Exists);
            }
            identity.accounts.insert(account.id.clone(), account);
            Ok(())
        })
        .await
    }

    async fn account(&self, id: &AccountId) -> Result<Option<Account>, StoreError> {
        let id = id.clone();
        self.identity("account", move |identity| Ok(identity.accounts.get(&id).cloned()))
            .await
    }

    async fn create_user(&self, user: &User) -> Result<(), StoreError> {
        let user = user.clone();
        self.identity("create_user", move |identity| {
            if identity.users.contains_key(&user.id) || identity.name_taken(&user) {
                return Err(StoreError::Exists);
            }
            identity.users.insert(user.id.clone(), user);
            Ok(())
        })
        .await
    }

    async fn set_password(&self, id: &UserId, old: &str, new: &str) -> Result<bool, StoreError> {
        let (id, old, new) = (id.clone(), old.to_owned(), new.to_owned());
        self.identity("set_password", move |identity| {
            let row = identity.users.get_mut(&id).filter(|row| row.password_hash == old);
            Ok(row.map(|row| row.password_hash = new).is_some())
        })
        .await
    }

    async fn set_disabled(&self, id: &UserId, disabled: bool) -> Result<bool, StoreError> {
        let id = id.clone();
        self.identity("set_disabled", move |identity| {
            let row = identity.users.get_mut(&id);
            Ok(row.map(|row| row.disabled = disabled).is_some())
        })
        .await
    }

    async fn user(&self, id: &UserId) -> Result<Option<User>, StoreError> {
        let id = id.clone();
        self.identity("user", move |identity| Ok(identity.users.get(&id).cloned()))
            .await
    }

    async fn user_by_name(&self, name: &str) -> Result<Option<User>, StoreError> {
        let name = name.to_owned();
        self.identity("user_by_name", move |identity| {
            Ok(identity.users.values().find(|user| user.name == name).cloned())
        })
        .await
    }

    async fn count_users(&self) -> Result<u64, StoreError> {
        self.identity("count_users", |identity| Ok(identity.users.len() as u64))
            .await
    }

    async fn create_login(&self, login: &Login) -> Result<(), StoreError> {
        let login = login.clone();
        self.identity("create_login", move |identity| {
            identity.logins.insert(login.id, login);
            Ok(())
        })
        .await
    }

    async fn login(&self, id: LoginId) -> Result<Option<Login>, StoreError> {
        self.identity("login", move |identity| Ok(identity.logins.get(&id).cloned()))
            .await
    }

    async fn touch_login(&self, id: LoginId, idle_end: Timestamp) -> Result<bool, StoreError> {
        self.identity("touch_login", move |identity| {
            let live = identity.logins.get_mut(&id).filter(|login| !login.revoked);
            Ok(live.map(|login| login.idle_end = idle_end).is_some())
        })
        .await
    }

    async fn revoke_login(&self, id: LoginId) -> Result<(), StoreError> {
        self.identity("revoke_login", move |identity| {
            if let Some(login) = identity.logins.get_mut(&id) {
                login.revoked = true;
            }
            Ok(())
        })
        .await
    }

    async fn revoke_logins_of(&self, user: &UserId, except: Option<LoginId>) -> Result<(), StoreError> {
        let user = user.clone();
        self.identity("revoke_logins_of", move |identity| {
            let theirs = identity
                .logins
                .values_mut()
                .filter(|login| login.user == user && Some(login.id) != except);
            for login in theirs {
                login.revoked = true;
            }
            Ok(())
        })
        .await
    }

    async fn create_api_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        let key = key.clone();
        self.identity("create_api_key", move |identity| {
            identity.keys.insert(key.id, key);
            Ok(())
        })
        .await
    }

    async fn api_key(&self, id: ApiKeyId) -> Result<Option<ApiKey>, StoreError> {
        self.identity("api_key", move |identity| Ok(identity.keys.get(&id).cloned()))
            .await
    }

    async fn api_keys_of(&self, user: &UserId, limit: usize) -> Result<Vec<ApiKey>, StoreError> {
        let user = user.clone();
        self.identity("api_keys_of", move |identity| {
            let theirs = identity.keys.values().filter(|key| key.user == user);
            Ok(theirs.take(limit).cloned().collect())
        })
        .await
    }

    async fn revoke_api_key(&self, id: ApiKeyId) -> Result<bool, StoreError> {
        self.identity("revoke_api_key", move |identity| {
            let key = identity.keys.get_mut(&id);
            Ok(key.map(|key| key.revoked = true).is_some())
        })
        .await
    }
}
