//! The first start: an account and an administrator, where there is nobody yet.

use common::identity::{Account, Role, User};
use common::ids::{AccountId, UserId};
use common::log::LOG_BYTES_MAX_DEFAULT;
use common::secret::Secret;
use common::store::{StoreError, Stores};
use common::time::{SharedClock, Timestamp};

use crate::auth::{NewKey, Passwords, fresh_password};

pub const FIRST_ACCOUNT: &str = "default";
pub const FIRST_USER: &str = "admin";

#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error("the first user could not be stored")]
    Store(#[from] StoreError),
    #[error("the first user's password could not be hashed")]
    Hash,
    #[error("there is no user `{0}`")]
    NoUser(UserId),
}

/// Makes account `default` and user `admin` where there are no users; answers the password, to be shown once.
///
/// # Errors
/// When the store does not answer.
pub async fn bootstrap_admin(
    stores: &Stores,
    clock: &SharedClock,
) -> Result<Option<Secret<String>>, BootstrapError> {
    if stores.identity.count_users().await? > 0 {
        return Ok(None);
    }
    let now = clock.now();
    let account = AccountId::new(FIRST_ACCOUNT).expect("a good name");
    let password = fresh_password();
    let password_hash = Passwords::new(1)
        .hash(password.clone())
        .await
        .map_err(|_| BootstrapError::Hash)?;
    let user = User {
        id: UserId::new(FIRST_USER).expect("a good name"),
        account: account.clone(),
        name: FIRST_USER.to_owned(),
        email: None,
        role: Role::Admin,
        password_hash,
        disabled: false,
        created_at: now,
        last_login_at: None,
    };
    match stores
        .identity
        .create_account(&new_account(account, "Default", "standard", now))
        .await
    {
        Ok(()) | Err(StoreError::Exists) => {}
        Err(error) => return Err(error.into()),
    }
    match stores.identity.create_user(&user).await {
        Ok(()) => Ok(Some(password)),
        // another process was quicker, and shows its password
        Err(StoreError::Exists) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes an API key of an existing user, for a program of the same installation: `jobworker up` signs its own shell in.
///
/// # Errors
/// When there is no such user, or the store does not answer.
pub async fn issue_key(
    stores: &Stores,
    clock: &SharedClock,
    user: &UserId,
    name: &str,
) -> Result<Secret<String>, BootstrapError> {
    let owner = stores
        .identity
        .user(user)
        .await?
        .ok_or_else(|| BootstrapError::NoUser(user.clone()))?;
    let key = NewKey::random();
    stores
        .identity
        .create_api_key(&common::identity::ApiKey {
            id: key.id,
            account: owner.account,
            user: owner.id,
            role: owner.role,
            name: name.to_owned(),
            secret_sha256: key.secret_sha256,
            created_at: clock.now(),
            expires_at: None,
            revoked: false,
        })
        .await?;
    Ok(key.text)
}

/// An account with the installation's default limits.
pub fn new_account(id: AccountId, name: &str, plan: &str, now: Timestamp) -> Account {
    Account {
        id,
        name: name.to_owned(),
        plan: plan.to_owned(),
        weight: 1,
        log_bytes_max: LOG_BYTES_MAX_DEFAULT,
        running_max: None,
        waiting_max: None,
        created_at: now,
    }
}
