//! Sign-in and the making of users, accounts and keys.

use std::net::IpAddr;

use common::api_types::{
    AccountView, CreateAccount, CreateKey, CreateUser, KeyCreated, LoginRequest, UserView,
};
use common::identity::{ApiKey, Login, Principal, User};
use common::ids::{LoginId, UserId};
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
    let principal = auth::principal(user, Some(login.id));
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
    if !PASSWORD_BYTES.contains(&request.password.len()) {
        return Err(ApiError::field(
            "password",
            "bad_length",
            format!(
                "expected {} to {} bytes",
                PASSWORD_BYTES.start(),
                PASSWORD_BYTES.end()
            ),
        ));
    }
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
    Ok(UserView::from(&auth::principal(user, None)))
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

/// # Errors
/// 422 for a name or an end that breaks a rule.
pub async fn create_key(
    app: &AppState,
    owner: &Principal,
    request: CreateKey,
) -> Result<KeyCreated, ApiError> {
    named("name", &request.name, 64)?;
    if request.expires_at.is_some_and(|end| end <= app.now()) {
        return Err(ApiError::field(
            "expires_at",
            "out_of_range",
            "expected a time to come",
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
