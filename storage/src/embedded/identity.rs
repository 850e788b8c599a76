//! Accounts, users, sign-ins and API keys.

use std::sync::Arc;

use async_trait::async_trait;
use common::identity::{Account, ApiKey, Login, User};
use common::ids::{AccountId, ApiKeyId, LoginId, UserId};
use common::store::{IdentityStore, StoreError};
use common::time::{SharedClock, Timestamp};
use rusqlite::{Connection, OptionalExtension, Params, params};
use serde::de::DeserializeOwned;

use super::readers::Readers;
use super::sqlite::{corrupt, decode, encode, sql};
use super::writer::Lane;

/// Ended sign-ins removed along with each new one: more than one, so that the table shrinks.
const ENDED_SWEPT: u32 = 4;

pub(super) struct Identity {
    lane: Lane<Connection>,
    readers: Arc<Readers>,
    clock: SharedClock,
}

impl Identity {
    pub(super) fn new(lane: Lane<Connection>, readers: Arc<Readers>, clock: SharedClock) -> Self {
        Self { lane, readers, clock }
    }

    /// One statement; the number of rows that it changed.
    async fn change<P>(&self, statement: &'static str, values: P) -> Result<usize, StoreError>
    where
        P: Params + Clone + Send + 'static,
    {
        let work = move |db: &mut Connection| {
            db.prepare_cached(statement)
                .and_then(|mut statement| statement.execute(values.clone()))
                .map_err(sql)
        };
        self.lane.write(1, work).await
    }

    /// The document that `question` finds by `key`.
    async fn find<T, K>(&self, question: &'static str, key: K) -> Result<Option<T>, StoreError>
    where
        T: DeserializeOwned + Send + 'static,
        K: rusqlite::ToSql + Send + 'static,
    {
        let find = move |db: &Connection| {
            let doc: Option<String> = db
                .prepare_cached(question)
                .and_then(|mut statement| statement.query_row([key], |row| row.get(0)).optional())
                .map_err(sql)?;
            doc.map(|doc| decode("an identity record", &doc)).transpose()
        };
        self.readers.look(find).await
    }
}

#[async_trait]
impl IdentityStore for Identity {
    async fn create_account(&self, account: &Account) -> Result<(), StoreError> {
        let values = (account.id.as_str().to_owned(), encode("an account", account)?);
        self.change("INSERT INTO accounts (id, doc) VALUES (?1, ?2)", values)
            .await
            .map(drop)
    }

    async fn account(&self, id: &AccountId) -> Result<Option<Account>, StoreError> {
        self.find("SELECT doc FROM accounts WHERE id = ?1", id.as_str().to_owned())
            .await
    }

    async fn create_user(&self, user: &User) -> Result<(), StoreError> {
        let values = (
            user.id.as_str().to_owned(),
            user.name.clone(),
            encode("a user", user)?,
        );
        self.change("INSERT INTO users (id, name, doc) VALUES (?1, ?2, ?3)", values)
            .await
            .map(drop)
    }

    async fn set_password(&self, id: &UserId, old: &str, new: &str) -> Result<bool, StoreError> {
        let values = (id.as_str().to_owned(), old.to_owned(), new.to_owned());
        let statement = "UPDATE users SET doc = json_set(doc, '$.password_hash', ?3)
             WHERE id = ?1 AND json_extract(doc, '$.password_hash') = ?2";
        self.change(statement, values).await.map(|changed| changed == 1)
    }

    async fn set_disabled(&self, id: &UserId, disabled: bool) -> Result<bool, StoreError> {
        let values = (id.as_str().to_owned(), encode("a flag", &disabled)?);
        let statement = "UPDATE users SET doc = json_set(doc, '$.disabled', json(?2)) WHERE id = ?1";
        self.change(statement, values).await.map(|changed| changed == 1)
    }

    async fn user(&self, id: &UserId) -> Result<Option<User>, StoreError> {
        self.find("SELECT doc FROM users WHERE id = ?1", id.as_str().to_owned())
            .await
    }

    async fn user_by_name(&self, name: &str) -> Result<Option<User>, StoreError> {
        self.find("SELECT doc FROM users WHERE name = ?1", name.to_owned())
            .await
    }

    async fn count_users(&self) -> Result<u64, StoreError> {
        let count = |db: &Connection| {
            db.prepare_cached("SELECT count(*) FROM users")
                .and_then(|mut statement| statement.query_row([], |row| row.get::<_, i64>(0)))
                .map(i64::cast_unsigned)
                .map_err(sql)
        };
        self.readers.read(count).await
    }

    async fn create_login(&self, login: &Login) -> Result<(), StoreError> {
        let (login, now) = (login.clone(), self.clock.now());
        let work = move |db: &mut Connection| create_login(db, &login, now).map_err(sql);
        self.lane.write(1, work).await
    }

    async fn login(&self, id: LoginId) -> Result<Option<Login>, StoreError> {
        self.readers.look(move |db| login(db, id)).await
    }

    async fn touch_login(&self, id: LoginId, idle_end: Timestamp) -> Result<bool, StoreError> {
        let values = (id.as_u128().to_be_bytes(), idle_end.as_millis());
        let touched = self
            .change(
                "UPDATE logins SET idle_end = ?2 WHERE id = ?1 AND revoked = 0",
                values,
            )
            .await?;
        Ok(touched == 1)
    }

    async fn revoke_login(&self, id: LoginId) -> Result<(), StoreError> {
        let values = (id.as_u128().to_be_bytes(),);
        self.change("UPDATE logins SET revoked = 1 WHERE id = ?1", values)
            .await
            .map(drop)
    }

    async fn revoke_logins_of(&self, user: &UserId, except: Option<LoginId>) -> Result<(), StoreError> {
        let except = except.map(|login| login.as_u128().to_be_bytes());
        let values = (user.as_str().to_owned(), except);
        let statement = "UPDATE logins SET revoked = 1 WHERE user = ?1 AND id IS NOT ?2";
        self.change(statement, values).await.map(drop)
    }

    async fn create_api_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        let values = (key.id.as_u128().to_be_bytes(), encode("an API key", key)?);
        self.change("INSERT INTO api_keys (id, doc) VALUES (?1, ?2)", values)
            .await
            .map(drop)
    }

    async fn api_key(&self, id: ApiKeyId) -> Result<Option<ApiKey>, StoreError> {
        self.find(
            "SELECT doc FROM api_keys WHERE id = ?1",
            id.as_u128().to_be_bytes(),
        )
        .await
    }

    async fn api_keys_of(&self, user: &UserId, limit: usize) -> Result<Vec<ApiKey>, StoreError> {
        let user = user.as_str().to_owned();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let keys = move |db: &Connection| {
            let mut statement = db
                .prepare_cached(
                    "SELECT doc FROM api_keys WHERE json_extract(doc, '$.user') = ?1 ORDER BY id LIMIT ?2",
                )
                .map_err(sql)?;
            let docs = statement
                .query_map(params![user, limit], |row| row.get::<_, String>(0))
                .map_err(sql)?;
            docs.map(|doc| decode("an API key", &doc.map_err(sql)?)).collect()
        };
        self.readers.read(keys).await
    }

    async fn revoke_api_key(&self, id: ApiKeyId) -> Result<bool, StoreError> {
        let values = (id.as_u128().to_be_bytes(),);
        let statement = "UPDATE api_keys SET doc = json_set(doc, '$.revoked', json('true')) WHERE id = ?1";
        self.change(statement, values).await.map(|changed| changed == 1)
    }
}

fn create_login(db: &Connection, login: &Login, now: Timestamp) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO logins (id, user, created_at, idle_end, absolute_end, revoked) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        login.id.as_u128().to_be_bytes(),
        login.user.as_str(),
        login.created_at.as_millis(),
        login.idle_end.as_millis(),
        login.absolute_end.as_millis(),
        login.revoked
    ])?;
    db.prepare_cached(
        "DELETE FROM logins WHERE id IN
         (SELECT id FROM logins WHERE absolute_end < ?1 AND id <> ?2 ORDER BY absolute_end LIMIT ?3)",
    )?
    .execute(params![
        now.as_millis(),
        login.id.as_u128().to_be_bytes(),
        ENDED_SWEPT
    ])?;
    Ok(())
}

fn login(db: &Connection, id: LoginId) -> Result<Option<Login>, StoreError> {
    type Columns = (String, i64, i64, i64, bool);
    let found: Option<Columns> = db
        .prepare_cached("SELECT user, created_at, idle_end, absolute_end, revoked FROM logins WHERE id = ?1")
        .and_then(|mut statement| {
            statement
                .query_row([id.as_u128().to_be_bytes()], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
                })
                .optional()
        })
        .map_err(sql)?;
    found
        .map(|(user, created_at, idle_end, absolute_end, revoked)| {
            Ok(Login {
                id,
                user: UserId::new(&user).map_err(|_| corrupt("a sign-in's user"))?,
                created_at: Timestamp::from_millis(created_at),
                idle_end: Timestamp::from_millis(idle_end),
                absolute_end: Timestamp::from_millis(absolute_end),
                revoked,
            })
        })
        .transpose()
}
