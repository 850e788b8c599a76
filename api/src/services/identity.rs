//! Sign-in and the making of users, accounts and keys.

use std::net::IpAddr;

use common::api_types::{
    AccountView, ChangePassword, CreateAccount, CreateKey, CreateUser, KeyCreated, LoginRequest, UserView,
};
use common::identity::{ApiKey, Login, Permission, Principal, Proof, User};
use common::ids::{ApiKeyId, LoginId, UserId};
use common::secret::Secret;
use common::store::StoreError;
use common::time::Timestamp;
use http::StatusCode;

use crate::audit;
use crate::auth::{self, ABSOLUTE, IDLE, NewKey, PASSWORD_BYTES};
use crate::bootstrap::new_account;
use crate::error::ApiError;
use crate::rate;
use crate::state::AppState;

/// Keys of one user that are not revoked: one a program, and more than anybody has programs.
const KEYS_MAX: usize = 100;
/// Keys of one user that are listed, revoked ones too.
const KEYS_LISTED_MAX: usize = 1_000;

/// A sign-in that was just made.
pub struct SignedIn {
    pub token: String,
    pub expires_at: Timestamp,
    pub user: UserView,
}

/// # Errors
/// 401 for a wrong name, a wrong password and a disabled user alike; 429 past the limits.
pub async fn sign_in(
    app: &AppState,
    request: LoginRequest,
    peer: Option<IpAddr>,
) -> Result<SignedIn, ApiError> {
    rate::count_sign_in(app, peer, &request.username).await?;
    let user = app
        .stores
        .identity
        .user_by_name(&request.username)
        .await?
        .filter(|user| !user.disabled);
    let stored = user.as_ref().map(|user| user.password_hash.clone());
    let password = Secret::new(request.password);
    // a longer one was never accepted, and hashing it would be work that a guesser chooses
    let possible = password.expose().len() <= *PASSWORD_BYTES.end();
    let good = possible && app.passwords.verify(password, stored).await?;
    let (Some(user), true) = (user, good) else {
        audit::record_unknown(&request.username, "sign-in refused");
        return Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "wrong_credentials",
            "The name or the password is wrong.",
        ));
    };
    let now = app.now();
    let login = Login {
        id: LoginId::random(),
        user: user.id.clone(),
        created_at: now,
        idle_end: now.after(IDLE),
        absolute_end: now.after(ABSOLUTE),
        revoked: false,
    };
    app.stores.identity.create_login(&login).await?;
    let token = app.tokens.issue(login.id, &user.id, now, login.absolute_end);
    let principal = auth::principal(user, Proof::SignIn(login.id));
    audit::record(&principal, "signed in", "");
    Ok(SignedIn {
        token,
        expires_at: login.absolute_end,
        user: UserView::from(&principal),
    })
}

/// # Errors
/// 422 for a name or password that breaks a rule, 409 for a name that is taken.
pub async fn create_user(app: &AppState, by: &Principal, request: CreateUser) -> Result<UserView, ApiError> {
    let id = UserId::new(&request.username)
        .map_err(|error| ApiError::field("username", "bad_name", error.to_string()))?;
    acceptable("password", &request.password)?;
    if app.stores.identity.account(&request.account).await?.is_none() {
        return Err(ApiError::field(
            "account",
            "no_such_account",
            "there is no such account",
        ));
    }
    let user = User {
        name: id.to_string(),
        id,
        account: request.account,
        email: None,
        role: request.role,
        password_hash: app.passwords.hash(Secret::new(request.password)).await?,
        disabled: false,
        created_at: app.now(),
        last_login_at: None,
    };
    app.stores
        .identity
        .create_user(&user)
        .await
        .map_err(|error| taken(error, "user"))?;
    audit::record(by, "user created", user.id.as_str());
    Ok(UserView::from(&auth::principal(user, Proof::None)))
}

/// # Errors
/// 422 for a name that breaks a rule, 409 for an id that is taken.
pub async fn create_account(
    app: &AppState,
    by: &Principal,
    request: CreateAccount,
) -> Result<AccountView, ApiError> {
    named("name", &request.name, 200)?;
    let plan = request.plan.unwrap_or_else(|| "standard".to_owned());
    named("plan", &plan, 64)?;
    let account = new_account(request.id, &request.name, &plan, app.now());
    app.stores
        .identity
        .create_account(&account)
        .await
        .map_err(|error| taken(error, "account"))?;
    audit::record(by, "account created", account.id.as_str());
    Ok(AccountView::from(account))
}

/// Changes the caller's own password. Every other sign-in of the user ends; API keys go on.
///
/// # Errors
/// 403 for an API key and for a wrong old password, 422 for a new one that breaks a rule, 429 past the limits.
pub async fn change_password(
    app: &AppState,
    caller: &Principal,
    request: ChangePassword,
    peer: Option<IpAddr>,
) -> Result<(), ApiError> {
    let login = signed_in(caller)?;
    acceptable("new", &request.new)?;
    rate::count_sign_in(app, peer, &caller.name).await?;
    let user = app.stores.identity.user(&caller.user).await?;
    let stored = user
        .map(|user| user.password_hash)
        .ok_or_else(ApiError::unauthenticated)?;
    let possible = request.old.len() <= *PASSWORD_BYTES.end();
    let old = Secret::new(request.old);
    if !(possible && app.passwords.verify(old, Some(stored.clone())).await?) {
        audit::record(caller, "password change refused", "");
        return Err(wrong_password());
    }
    let hash = app.passwords.hash(Secret::new(request.new)).await?;
    let identity = &app.stores.identity;
    if !identity.set_password(&caller.user, &stored, &hash).await? {
        // Changed meanwhile: what was proved is not the password any more.
        return Err(wrong_password());
    }
    identity.revoke_logins_of(&caller.user, Some(login)).await?;
    audit::record(caller, "password changed", "");
    Ok(())
}

fn wrong_password() -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        "wrong_password",
        "The old password is wrong.",
    )
}

/// Shuts a user out, or lets them in again. Their sign-ins end for good; their keys open nothing until they may come in.
///
/// # Errors
/// 404 for nobody, 409 for the caller: a last administrator must not shut the door on the inside.
pub async fn set_disabled(
    app: &AppState,
    by: &Principal,
    id: &UserId,
    disabled: bool,
) -> Result<(), ApiError> {
    if *id == by.user {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "own_user",
            "Nobody disables themselves: ask another administrator.",
        ));
    }
    let identity = &app.stores.identity;
    if !identity.set_disabled(id, disabled).await? {
        return Err(ApiError::not_found("user"));
    }
    if disabled {
        identity.revoke_logins_of(id, None).await?;
    }
    let what = if disabled { "user disabled" } else { "user enabled" };
    audit::record(by, what, id.as_str());
    Ok(())
}

/// Revokes a key: the caller's own after a sign-in, any for an administrator; a key revokes no other key than itself.
///
/// # Errors
/// 404 for a key that is not there or not the caller's, 403 for another key of the same user.
pub async fn revoke_key(app: &AppState, caller: &Principal, id: ApiKeyId) -> Result<(), ApiError> {
    let identity = &app.stores.identity;
    let any = caller.allows(Permission::ManageUsers);
    let key = identity
        .api_key(id)
        .await?
        .filter(|key| any || key.user == caller.user)
        .ok_or_else(|| ApiError::not_found("key"))?;
    if !any && caller.proof != Proof::ApiKey(key.id) {
        signed_in(caller)?;
    }
    identity.revoke_api_key(id).await?;
    audit::record(caller, "key revoked", &id.to_string());
    Ok(())
}

/// The sign-in of a caller that has one.
fn signed_in(caller: &Principal) -> Result<LoginId, ApiError> {
    match caller.proof {
        Proof::SignIn(login) => Ok(login),
        Proof::ApiKey(_) | Proof::None => Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "sign_in_needed",
            "An API key may not do this: sign in with a password.",
        )),
    }
}

/// The caller's keys, revoked and expired ones too.
///
/// # Errors
/// When the rows cannot be read.
pub async fn keys(app: &AppState, caller: &Principal) -> Result<Vec<ApiKey>, ApiError> {
    Ok(app
        .stores
        .identity
        .api_keys_of(&caller.user, KEYS_LISTED_MAX)
        .await?)
}

/// # Errors
/// 403 for an API key, 422 for a name or an end that breaks a rule, 409 past the number of keys.
pub async fn create_key(
    app: &AppState,
    owner: &Principal,
    request: CreateKey,
) -> Result<KeyCreated, ApiError> {
    // A stolen key must not be able to outlive its own revocation.
    signed_in(owner)?;
    named("name", &request.name, 64)?;
    if request.expires_at.is_some_and(|end| end <= app.now()) {
        return Err(ApiError::field(
            "expires_at",
            "out_of_range",
            "expected a time to come",
        ));
    }
    let live = keys(app, owner).await?.into_iter().filter(|key| !key.revoked);
    if live.count() >= KEYS_MAX {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "too_many_keys",
            format!("There are {KEYS_MAX} keys already: revoke those that nobody uses."),
        ));
    }
    let key = NewKey::random();
    let role = request
        .role
        .map_or(owner.role, |role| auth::lesser(role, owner.role));
    app.stores
        .identity
        .create_api_key(&ApiKey {
            id: key.id,
            account: owner.account.clone(),
            user: owner.user.clone(),
            role,
            name: request.name.clone(),
            secret_sha256: key.secret_sha256,
            created_at: app.now(),
            expires_at: request.expires_at,
            revoked: false,
        })
        .await?;
    audit::record(owner, "key created", &key.id.to_string());
    Ok(KeyCreated {
        id: key.id,
        name: request.name,
        role,
        key: key.text.expose().clone(),
        expires_at: request.expires_at,
    })
}

fn acceptable(field: &str, password: &str) -> Result<(), ApiError> {
    if PASSWORD_BYTES.contains(&password.len()) {
        return Ok(());
    }
    let (least, most) = (PASSWORD_BYTES.start(), PASSWORD_BYTES.end());
    Err(ApiError::field(
        field,
        "bad_length",
        format!("expected {least} to {most} bytes"),
    ))
}

fn taken(error: StoreError, thing: &str) -> ApiError {
    match error {
        StoreError::Exists => ApiError::new(
            StatusCode::CONFLICT,
            "exists",
            format!("There is a {thing} of this name."),
        ),
        other => other.into(),
    }
}

fn named(field: &str, text: &str, longest: usize) -> Result<(), ApiError> {
    let length = text.chars().count();
    if (1..=longest).contains(&length) && !text.chars().any(char::is_control) {
        Ok(())
    } else {
        Err(ApiError::field(
            field,
            "bad_text",
            format!("expected 1 to {longest} printable characters"),
        ))
    }
}
