//! Sign-ins kept in Redis: a read that finds one there asks no row, in whatever program; what ends one is seen at once.

use std::sync::Arc;
use std::time::Duration;

use common::identity::Login;
use common::ids::{LoginId, UserId};
use common::store::IdentityStore;
use storage::conformance::Backend;
use storage::conformance::redis_server::RedisServer;
use storage::redis_coord::{Config, LOGIN_KEPT};

use crate::backend::{PATIENT, coordination, now};
use crate::embedded::{self, Embedded};

/// Tries to stop a copy's clock before it has run out, which takes a machine that stands still for seconds to miss.
const TRIES: usize = 20;

/// Two programs over one Redis: one whose rows have the sign-in, and one whose rows have nothing at all, so that
/// whatever it answers it has from Redis.
struct Scene {
    server: RedisServer,
    rows: Embedded,
    _no_rows: Embedded,
    with_rows: Arc<dyn IdentityStore>,
    without: Arc<dyn IdentityStore>,
    login: Login,
}

impl Scene {
    async fn begin() -> Self {
        let server = RedisServer::start().await;
        let (rows, no_rows) = (embedded::fresh().await, embedded::fresh().await);
        let kept = async |rows: &Embedded| {
            let program = coordination(&server, PATIENT).await;
            program.with_logins_kept(rows.stores().identity)
        };
        let (with_rows, without) = (kept(&rows).await, kept(&no_rows).await);
        let login = Login {
            id: LoginId::random(),
            user: UserId::new("alice").unwrap(),
            created_at: now(),
            idle_end: now().after(Duration::from_secs(60)),
            absolute_end: now().after(Duration::from_secs(600)),
            revoked: false,
        };
        with_rows.create_login(&login).await.unwrap();
        Self {
            server,
            rows,
            _no_rows: no_rows,
            with_rows,
            without,
            login,
        }
    }

    fn key(&self) -> String {
        format!("{{{}}}:login:{}", Config::PREFIX_DEFAULT, self.login.id)
    }

    async fn read(&self, program: &Arc<dyn IdentityStore>) -> Option<Login> {
        program.login(self.login.id).await.unwrap()
    }

    /// One program reads the sign-in, and its copy's clock stands still from then on.
    async fn keep(&self) {
        for _ in 0..TRIES {
            assert_eq!(self.read(&self.with_rows).await.as_ref(), Some(&self.login));
            let left: i64 = self.server.ask(&["PTTL", &self.key()]).await.unwrap();
            assert!(
                left <= i64::try_from(LOGIN_KEPT.as_millis()).unwrap() && left != -1,
                "a copy that lives for {left} ms"
            );
            if self.server.ask(&["PERSIST", &self.key()]).await.unwrap() {
                return;
            }
        }
        panic!("no copy is made");
    }
}

#[tokio::test]
async fn a_sign_in_that_one_program_has_read_is_answered_by_all_without_its_row() {
    let scene = Scene::begin().await;
    assert_eq!(scene.read(&scene.without).await, None, "nobody has read it yet");
    scene.keep().await;
    assert_eq!(scene.read(&scene.without).await, Some(scene.login.clone()));
    // Changed past Redis: what is read is the copy, until it goes.
    let rows = scene.rows.stores().identity;
    rows.revoke_login(scene.login.id).await.unwrap();
    assert_eq!(scene.read(&scene.with_rows).await, Some(scene.login.clone()));
    let gone: bool = scene.server.ask(&["DEL", &scene.key()]).await.unwrap();
    assert!(gone);
    assert!(scene.read(&scene.with_rows).await.unwrap().revoked);
    assert_eq!(
        scene.read(&scene.without).await,
        None,
        "what has ended is not kept"
    );
}

#[tokio::test]
async fn a_sign_out_is_seen_at_once_however_long_its_copy_had_to_live() {
    let scene = Scene::begin().await;
    scene.keep().await;
    scene.with_rows.revoke_login(scene.login.id).await.unwrap();
    assert_eq!(scene.read(&scene.without).await, None);
    assert!(scene.read(&scene.with_rows).await.unwrap().revoked);
    assert_eq!(
        scene.read(&scene.without).await,
        None,
        "reading it put nothing back"
    );
}

#[tokio::test]
async fn a_copy_that_cannot_be_read_or_is_another_ones_hides_no_row() {
    let scene = Scene::begin().await;
    let other = Login {
        id: LoginId::random(),
        ..scene.login.clone()
    };
    for copy in ["{", "{}", &serde_json::to_string(&other).unwrap()] {
        let set: String = scene.server.ask(&["SET", &scene.key(), copy]).await.unwrap();
        assert_eq!(set, "OK");
        assert_eq!(
            scene.read(&scene.with_rows).await.as_ref(),
            Some(&scene.login),
            "{copy}"
        );
    }
}
