//! Users and accounts, for administrators.

use axum::extract::State;
use common::api_types::{AccountView, CreateAccount, CreateUser, DisableBody, UserView};
use common::ids::UserId;
use http::StatusCode;

use crate::error::ApiError;
use crate::extract::{Caller, Id, Json, ManageUsers};
use crate::services::identity;
use crate::state::App;

/// Makes a user.
#[utoipa::path(post, path = "/users", tag = "users", request_body = CreateUser,
    responses((status = 201, description = "The user.", body = UserView)))]
pub async fn create_user(
    State(app): State<App>,
    caller: Caller<ManageUsers>,
    Json(request): Json<CreateUser>,
) -> Result<(StatusCode, axum::Json<UserView>), ApiError> {
    let user = identity::create_user(&app, &caller.principal, request).await?;
    Ok((StatusCode::CREATED, axum::Json(user)))
}

/// Shuts a user out at once, with every sign-in and key, or lets them in again.
#[utoipa::path(post, path = "/users/{id}/disable", tag = "users", request_body = DisableBody,
    params(("id" = UserId, Path, description = "The user.")),
    responses((status = 204, description = "Done.")))]
pub async fn disable(
    State(app): State<App>,
    caller: Caller<ManageUsers>,
    Id(id): Id<UserId>,
    Json(request): Json<DisableBody>,
) -> Result<StatusCode, ApiError> {
    identity::set_disabled(&app, &caller.principal, &id, request.disabled).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes an account.
#[utoipa::path(post, path = "/accounts", tag = "users", request_body = CreateAccount,
    responses((status = 201, description = "The account.", body = AccountView)))]
pub async fn create_account(
    State(app): State<App>,
    caller: Caller<ManageUsers>,
    Json(request): Json<CreateAccount>,
) -> Result<(StatusCode, axum::Json<AccountView>), ApiError> {
    let account = identity::create_account(&app, &caller.principal, request).await?;
    Ok((StatusCode::CREATED, axum::Json(account)))
}
