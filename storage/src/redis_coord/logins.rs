//! Sign-ins in front of their rows: every request of a signed-in user asks for one.
//!
//! A row that was read is kept for [`LOGIN_KEPT`], by every replica for every replica. What ends or moves a sign-in goes
//! to the row first and leaves a mark here, which sends readers to the row and which no late copy overwrites: so it is
//! seen at once. Where that cannot be (all of a user's sign-ins at once, whose names nobody knows here, or a Redis that
//! is away at that moment) it is seen within [`LOGIN_KEPT`], when the copy goes. A Redis that does not answer, or holds
//! something unreadable, is as good as none: the row is read.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use common::identity::{Account, ApiKey, Login, User};
use common::ids::{AccountId, ApiKeyId, LoginId, UserId};
use common::store::{IdentityStore, StoreError};
use common::time::Timestamp;

use super::{Shared, millis};

/// The longest that a revoked sign-in may still be taken for good. A page asks several times within it.
pub const LOGIN_KEPT: Duration = Duration::from_secs(5);

/// A mark outlives every read of a row that began before it: reads end within 3 s.
const MARK_KEPT: Duration = Duration::from_secs(10);

/// How long a kept one is waited for: it saves a look at a row, which takes some milliseconds.
const KEPT_WITHIN: Duration = Duration::from_millis(300);

/// Not a sign-in: ask the row.
const MARK: &str = "-";

pub struct Logins {
    rows: Arc<dyn IdentityStore>,
    shared: Arc<Shared>,
}

impl Logins {
    pub fn new(rows: Arc<dyn IdentityStore>, shared: Arc<Shared>) -> Self {
        Self { rows, shared }
    }

    async fn kept(&self, id: LoginId) -> Option<Login> {
        let mut get = redis::cmd("GET");
        get.arg(self.shared.keys.login(id));
        let found = tokio::time::timeout(KEPT_WITHIN, self.shared.link.command(&get)).await;
        let found: Option<String> = found.ok()?.ok()?;
        // Unreadable: the mark, or of another release.
        let login: Login = serde_json::from_str(&found?).ok()?;
        (login.id == id).then_some(login)
    }

    async fn keep(&self, login: &Login) {
        let Ok(text) = serde_json::to_string(login) else {
            return;
        };
        let mut set = redis::cmd("SET");
        set.arg(self.shared.keys.login(login.id))
            .arg(text)
            .arg("NX")
            .arg("PX")
            .arg(millis(LOGIN_KEPT));
        self.tell(&set).await;
    }

    async fn mark(&self, id: LoginId) {
        let mut set = redis::cmd("SET");
        set.arg(self.shared.keys.login(id))
            .arg(MARK)
            .arg("PX")
            .arg(millis(MARK_KEPT));
        self.tell(&set).await;
    }

    async fn tell(&self, command: &redis::Cmd) {
        let told = self.shared.link.command::<redis::Value>(command).await;
        if let Err(error) = told {
            tracing::debug!(%error, "sign-ins are read from their rows");
        }
    }
}

#[async_trait]
impl IdentityStore for Logins {
    async fn login(&self, id: LoginId) -> Result<Option<Login>, StoreError> {
        if let Some(login) = self.kept(id).await {
            return Ok(Some(login));
        }
        let login = self.rows.login(id).await?;
        if let Some(login) = login.as_ref().filter(|login| !login.revoked) {
            self.keep(login).await;
        }
        Ok(login)
    }

    async fn touch_login(&self, id: LoginId, idle_end: Timestamp) -> Result<bool, StoreError> {
        let touched = self.rows.touch_login(id, idle_end).await;
        self.mark(id).await;
        touched
    }

    async fn revoke_login(&self, id: LoginId) -> Result<(), StoreError> {
        // Marked also where the fate of the write is unknown.
        let revoked = self.rows.revoke_login(id).await;
        self.mark(id).await;
        revoked
    }

    async fn revoke_logins_of(&self, user: &UserId, except: Option<LoginId>) -> Result<(), StoreError> {
        self.rows.revoke_logins_of(user, except).await
    }

    async fn create_login(&self, login: &Login) -> Result<(), StoreError> {
        self.rows.create_login(login).await
    }

    async fn create_account(&self, account: &Account) -> Result<(), StoreError> {
        self.rows.create_account(account).await
    }

    async fn account(&self, id: &AccountId) -> Result<Option<Account>, StoreError> {
        self.rows.account(id).await
    }

    async fn create_user(&self, user: &User) -> Result<(), StoreError> {
        self.rows.create_user(user).await
    }

    async fn set_password(&self, id: &UserId, old: &str, new: &str) -> Result<bool, StoreError> {
        self.rows.set_password(id, old, new).await
    }

    async fn set_disabled(&self, id: &UserId, disabled: bool) -> Result<bool, StoreError> {
        self.rows.set_disabled(id, disabled).await
    }

    async fn user(&self, id: &UserId) -> Result<Option<User>, StoreError> {
        self.rows.user(id).await
    }

    async fn user_by_name(&self, name: &str) -> Result<Option<User>, StoreError> {
        self.rows.user_by_name(name).await
    }

    async fn count_users(&self) -> Result<u64, StoreError> {
        self.rows.count_users().await
    }

    async fn create_api_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        self.rows.create_api_key(key).await
    }

    async fn api_key(&self, id: ApiKeyId) -> Result<Option<ApiKey>, StoreError> {
        self.rows.api_key(id).await
    }

    async fn api_keys_of(&self, user: &UserId, limit: usize) -> Result<Vec<ApiKey>, StoreError> {
        self.rows.api_keys_of(user, limit).await
    }

    async fn revoke_api_key(&self, id: ApiKeyId) -> Result<bool, StoreError> {
        self.rows.revoke_api_key(id).await
    }
}
