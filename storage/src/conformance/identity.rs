//! Accounts, users, sign-ins, keys.

use std::time::Duration;

use common::identity::{Account, ApiKey, Login, Role, User};
use common::ids::{ApiKeyId, LoginId, UserId};
use common::lifecycle::testing;
use common::store::StoreError;
use common::time::Clock;

use super::Backend;

fn user(backend: &impl Backend, id: &str, name: &str) -> User {
    User {
        id: UserId::new(id).unwrap(),
        account: testing::account("acme"),
        name: name.into(),
        email: None,
        role: Role::User,
        password_hash: "$argon2id$…".into(),
        disabled: false,
        created_at: backend.clock().now(),
        last_login_at: None,
    }
}

fn login(backend: &impl Backend, user: &str) -> Login {
    let now = backend.clock().now();
    Login {
        id: LoginId::random(),
        user: UserId::new(user).unwrap(),
        created_at: now,
        idle_end: now.after(Duration::from_secs(60)),
        absolute_end: now.after(Duration::from_secs(600)),
        revoked: false,
    }
}

pub async fn names_are_unique(backend: &mut impl Backend) {
    let store = backend.stores().identity;
    let (alice, bob) = (user(backend, "u1", "alice"), user(backend, "u2", "bob"));
    store.create_user(&alice).await.unwrap();
    store.create_user(&bob).await.unwrap();
    for taken in [user(backend, "u1", "carol"), user(backend, "u3", "alice")] {
        assert!(matches!(store.create_user(&taken).await, Err(StoreError::Exists)));
    }
    assert_eq!(store.user(&bob.id).await.unwrap(), Some(bob));
    assert_eq!(store.user_by_name("alice").await.unwrap(), Some(alice));
    assert_eq!(store.user_by_name("carol").await.unwrap(), None);
    assert_eq!(store.count_users().await.unwrap(), 2);
}

pub async fn a_password_and_the_right_to_come_in_are_changed_apart(backend: &mut impl Backend) {
    let store = backend.stores().identity;
    let (mut bob, nobody) = (user(backend, "u2", "bob"), UserId::new("u9").unwrap());
    store.create_user(&bob).await.unwrap();
    let first = bob.password_hash.clone();
    assert!(store.set_password(&bob.id, &first, "$second").await.unwrap());
    // Whoever proved an older password has proved nothing.
    assert!(!store.set_password(&bob.id, &first, "$third").await.unwrap());
    assert!(!store.set_password(&nobody, &first, "$third").await.unwrap());
    assert!(store.set_disabled(&bob.id, true).await.unwrap());
    assert!(!store.set_disabled(&nobody, true).await.unwrap());
    (bob.password_hash, bob.disabled) = ("$second".into(), true);
    assert_eq!(store.user(&bob.id).await.unwrap(), Some(bob.clone()));
    assert!(store.set_disabled(&bob.id, false).await.unwrap());
    bob.disabled = false;
    assert_eq!(store.user_by_name("bob").await.unwrap(), Some(bob));
    assert_eq!(store.user(&nobody).await.unwrap(), None);
}

pub async fn sign_ins_are_touched_and_revoked(backend: &mut impl Backend) {
    let store = backend.stores().identity;
    let mut first = login(backend, "u1");
    let (second, other) = (login(backend, "u1"), login(backend, "u2"));
    for login in [&first, &second, &other] {
        store.create_login(login).await.unwrap();
    }
    first.idle_end = first.idle_end.after(Duration::from_secs(60));
    assert!(store.touch_login(first.id, first.idle_end).await.unwrap());
    assert_eq!(store.login(first.id).await.unwrap(), Some(first.clone()));
    store.revoke_login(first.id).await.unwrap();
    assert!(!store.touch_login(first.id, first.idle_end).await.unwrap());
    assert!(
        !store
            .touch_login(LoginId::random(), first.idle_end)
            .await
            .unwrap()
    );
    let third = login(backend, "u1");
    store.create_login(&third).await.unwrap();
    store
        .revoke_logins_of(&second.user, Some(third.id))
        .await
        .unwrap();
    assert!(store.login(second.id).await.unwrap().unwrap().revoked);
    assert_eq!(store.login(third.id).await.unwrap(), Some(third.clone()));
    store.revoke_logins_of(&second.user, None).await.unwrap();
    assert!(store.login(third.id).await.unwrap().unwrap().revoked);
    assert_eq!(store.login(other.id).await.unwrap(), Some(other));
}

pub async fn accounts_and_keys_are_kept(backend: &mut impl Backend) {
    let store = backend.stores().identity;
    let now = backend.clock().now();
    let account = Account {
        id: testing::account("acme"),
        name: "Acme".into(),
        plan: "free".into(),
        weight: 1,
        log_bytes_max: 1 << 20,
        running_max: Some(4),
        waiting_max: None,
        created_at: now,
    };
    store.create_account(&account).await.unwrap();
    assert!(matches!(
        store.create_account(&account).await,
        Err(StoreError::Exists)
    ));
    assert_eq!(store.account(&account.id).await.unwrap(), Some(account.clone()));
    let key = ApiKey {
        id: ApiKeyId::random(),
        account: account.id,
        user: UserId::new("u1").unwrap(),
        role: Role::Viewer,
        name: "ci".into(),
        secret_sha256: "00".repeat(32),
        created_at: now,
        expires_at: None,
        revoked: false,
    };
    store.create_api_key(&key).await.unwrap();
    assert_eq!(store.api_key(key.id).await.unwrap(), Some(key.clone()));
    assert_eq!(store.api_key(ApiKeyId::random()).await.unwrap(), None);
    let (second, foreign) = (
        ApiKey {
            id: ApiKeyId::random(),
            ..key.clone()
        },
        ApiKey {
            id: ApiKeyId::random(),
            user: UserId::new("u2").unwrap(),
            ..key.clone()
        },
    );
    store.create_api_key(&second).await.unwrap();
    store.create_api_key(&foreign).await.unwrap();
    assert!(store.revoke_api_key(key.id).await.unwrap());
    assert!(!store.revoke_api_key(ApiKeyId::random()).await.unwrap());
    let revoked = ApiKey { revoked: true, ..key };
    let mut both = vec![revoked, second];
    both.sort_by_key(|key| key.id.as_u128());
    assert_eq!(store.api_keys_of(&both[0].user, 10).await.unwrap(), both);
    assert_eq!(store.api_keys_of(&both[0].user, 1).await.unwrap(), both[..1]);
    assert_eq!(store.api_key(foreign.id).await.unwrap(), Some(foreign));
}
