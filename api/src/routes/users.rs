//! Users and accounts, for administrators.

use axum::extract::State;
use common::api_types::{AccountView, CreateAccount, CreateUser, UserView};
use http::StatusCode;

use crate::error::ApiError;
use crate::extract::{Caller, Json, ManageUsers};
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
