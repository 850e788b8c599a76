//! Sign-in, sign-out, who am I, and keys for programs.

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use common::api_types::{
    ChangePassword, CreateKey, KeyCreated, KeyList, KeyView, LoginAnswer, LoginRequest, UserView,
};
use common::identity::Proof;
use common::ids::ApiKeyId;
use http::{StatusCode, header};

use crate::audit;
use crate::auth::set_cookie;
use crate::error::ApiError;
use crate::extract::{Caller, Id, Json, SignedIn, SmallJson};
use crate::server::Peer;
use crate::services::identity;
use crate::state::App;

/// Signs in; the token is in the answer and in a cookie for browsers.
#[utoipa::path(post, path = "/auth/login", tag = "auth", request_body = LoginRequest, security(()),
    responses((status = 200, description = "Signed in. `Set-Cookie` carries the token too.", body = LoginAnswer)))]
pub async fn login(
    State(app): State<App>,
    peer: Option<Extension<Peer>>,
    SmallJson(request): SmallJson<LoginRequest>,
) -> Result<Response, ApiError> {
    let address = peer.map(|Extension(Peer(address))| address.ip());
    let signed_in = identity::sign_in(&app, request, address).await?;
    let cookie = set_cookie(
        Some((&signed_in.token, signed_in.expires_at)),
        app.now(),
        app.config.tls,
    );
    let answer = LoginAnswer {
        token: signed_in.token,
        expires_at: signed_in.expires_at,
        user: signed_in.user,
    };
    Ok(([(header::SET_COOKIE, cookie)], axum::Json(answer)).into_response())
}

/// Signs out: the token is void from now on, wherever it was copied to.
#[utoipa::path(post, path = "/auth/logout", tag = "auth",
    responses((status = 204, description = "Signed out; the cookie is deleted.")))]
pub async fn logout(State(app): State<App>, caller: Caller<SignedIn>) -> Result<Response, ApiError> {
    if let Proof::SignIn(login) = caller.principal.proof {
        app.stores.identity.revoke_login(login).await?;
        audit::record(&caller.principal, "signed out", "");
    }
    let cookie = set_cookie(None, app.now(), app.config.tls);
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response())
}

/// Who makes this request.
#[utoipa::path(get, path = "/auth/me", tag = "auth",
    responses((status = 200, description = "The caller.", body = UserView)))]
pub async fn me(caller: Caller<SignedIn>) -> axum::Json<UserView> {
    axum::Json(UserView::from(&caller.principal))
}

/// Changes the caller's password. Their other sign-ins end; an API key may not do this.
#[utoipa::path(post, path = "/auth/password", tag = "auth", request_body = ChangePassword,
    responses((status = 204, description = "Changed; the other sign-ins have ended.")))]
pub async fn change_password(
    State(app): State<App>,
    peer: Option<Extension<Peer>>,
    caller: Caller<SignedIn>,
    SmallJson(request): SmallJson<ChangePassword>,
) -> Result<StatusCode, ApiError> {
    let address = peer.map(|Extension(Peer(address))| address.ip());
    identity::change_password(&app, &caller.principal, request, address).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The caller's API keys, without their texts.
#[utoipa::path(get, path = "/auth/keys", tag = "auth",
    responses((status = 200, description = "The keys, revoked and expired ones too.", body = KeyList)))]
pub async fn keys(State(app): State<App>, caller: Caller<SignedIn>) -> Result<axum::Json<KeyList>, ApiError> {
    let keys = identity::keys(&app, &caller.principal).await?;
    Ok(axum::Json(KeyList {
        keys: keys.into_iter().map(KeyView::from).collect(),
    }))
}

/// Revokes an API key: it opens nothing from now on. One's own after a sign-in, any for an administrator, and itself.
#[utoipa::path(delete, path = "/auth/keys/{id}", tag = "auth",
    params(("id" = ApiKeyId, Path, description = "The key.")),
    responses((status = 204, description = "Revoked.")))]
pub async fn revoke_key(
    State(app): State<App>,
    caller: Caller<SignedIn>,
    Id(id): Id<ApiKeyId>,
) -> Result<StatusCode, ApiError> {
    identity::revoke_key(&app, &caller.principal, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes an API key of the caller's. Its text is in this answer and nowhere else. An API key may not do this.
#[utoipa::path(post, path = "/auth/keys", tag = "auth", request_body = CreateKey,
    responses((status = 201, description = "The key, shown this once.", body = KeyCreated)))]
pub async fn create_key(
    State(app): State<App>,
    caller: Caller<SignedIn>,
    Json(request): Json<CreateKey>,
) -> Result<Response, ApiError> {
    let key = identity::create_key(&app, &caller.principal, request).await?;
    Ok((StatusCode::CREATED, axum::Json(key)).into_response())
}
