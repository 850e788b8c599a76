//! Accounts, users, sign-ins and API keys: a document each, with the record as a part of it.
//!
//! Their fields are all known by name, so records are stored as BSON and changed field by field.

use std::sync::Arc;

use async_trait::async_trait;
use common::identity::{Account, ApiKey, Login, User};
use common::ids::{AccountId, ApiKeyId, LoginId, UserId};
use common::store::{IdentityStore, StoreError};
use common::time::{SharedClock, Timestamp};
use mongodb::bson::{Document, RawDocument, deserialize_from_slice, doc, serialize_to_document};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::link::{Link, Question, Written, in_time, whole_number};
use super::schema;
use super::trouble::Trouble;

/// Ended sign-ins removed along with each new one: more than one, so that the collection shrinks.
const ENDED_SWEPT: usize = 4;

/// The record's name in the documents of each collection.
const ACCOUNT: &str = "account";
const USER: &str = "user";
const LOGIN: &str = "login";
const KEY: &str = "key";

pub(super) struct Identity {
    link: Arc<Link>,
    clock: SharedClock,
}

impl Identity {
    pub(super) fn new(link: &Arc<Link>, clock: &SharedClock) -> Self {
        Self {
            link: Arc::clone(link),
            clock: Arc::clone(clock),
        }
    }

    async fn create<T: Serialize + Sync>(
        &self,
        into: &str,
        id: String,
        name: &str,
        record: &T,
    ) -> Result<(), StoreError> {
        let record = serialize_to_document(record).map_err(Trouble::from)?;
        let document = doc! { "_id": id, name: record };
        let insert = doc! { "insert": into, "documents": [document.clone()] };
        let written = in_time(self.link.write(insert)).await?;
        match written.errors.first() {
            None => Ok(()),
            Some(error) if error.is_duplicate() => Err(StoreError::Exists),
            Some(error) => Err(error.trouble().into()),
        }
    }

    async fn find<T: DeserializeOwned + Send>(
        &self,
        from: &'static str,
        filter: Document,
        name: &'static str,
    ) -> Result<Option<T>, StoreError> {
        Ok(self
            .link
            .ask_one(Question::new(from, filter), |row| record(row, name))
            .await?)
    }

    /// How many documents matched.
    async fn change(&self, what: &str, query: Document, set: Document, all: bool) -> Result<u64, StoreError> {
        let statement = doc! { "q": query, "u": { "$set": set }, "multi": all };
        let command = doc! { "update": what, "updates": [statement] };
        let Written { n, .. } = in_time(self.link.write(command)).await?.whole()?;
        Ok(n.cast_unsigned())
    }

    async fn sweep_ended(&self, new: LoginId) -> Result<(), Trouble> {
        let ended = doc! {
            "login.absolute_end": { "$lt": self.clock.now().as_millis() }, "_id": { "$ne": new.to_string() },
        };
        let question = Question::new(schema::LOGINS, ended)
            .sorted(doc! { "login.absolute_end": 1 })
            .only(doc! { "_id": 1 })
            .at_most(ENDED_SWEPT);
        let ids = self
            .link
            .ask(question, |row| Ok(Some(row.get_str("_id")?.to_owned())))
            .await?;
        if ids.is_empty() {
            return Ok(());
        }
        let statement = doc! { "q": { "_id": { "$in": ids } }, "limit": 0 };
        let command = doc! { "delete": schema::LOGINS, "deletes": [statement] };
        in_time(self.link.write(command)).await?.whole().map(drop)
    }
}

fn record<T: DeserializeOwned>(row: &RawDocument, name: &str) -> Result<T, Trouble> {
    Ok(deserialize_from_slice(row.get_document(name)?.as_bytes())?)
}

#[async_trait]
impl IdentityStore for Identity {
    async fn create_account(&self, account: &Account) -> Result<(), StoreError> {
        self.create(schema::ACCOUNTS, account.id.to_string(), ACCOUNT, account)
            .await
    }

    async fn account(&self, id: &AccountId) -> Result<Option<Account>, StoreError> {
        self.find(schema::ACCOUNTS, doc! { "_id": id.as_str() }, ACCOUNT)
            .await
    }

    async fn create_user(&self, user: &User) -> Result<(), StoreError> {
        self.create(schema::USERS, user.id.to_string(), USER, user).await
    }

    async fn set_password(&self, id: &UserId, old: &str, new: &str) -> Result<bool, StoreError> {
        let query = doc! { "_id": id.as_str(), "user.password_hash": old };
        let changed = self
            .change(schema::USERS, query, doc! { "user.password_hash": new }, false)
            .await?;
        Ok(changed == 1)
    }

    async fn set_disabled(&self, id: &UserId, disabled: bool) -> Result<bool, StoreError> {
        let query = doc! { "_id": id.as_str() };
        let changed = self
            .change(schema::USERS, query, doc! { "user.disabled": disabled }, false)
            .await?;
        Ok(changed == 1)
    }

    async fn user(&self, id: &UserId) -> Result<Option<User>, StoreError> {
        self.find(schema::USERS, doc! { "_id": id.as_str() }, USER).await
    }

    async fn user_by_name(&self, name: &str) -> Result<Option<User>, StoreError> {
        self.find(schema::USERS, doc! { "user.name": name }, USER).await
    }

    async fn count_users(&self) -> Result<u64, StoreError> {
        let command = doc! { "count": schema::USERS, "query": {}, "readConcern": { "level": "majority" } };
        let answer = in_time(self.link.run(&command)).await?;
        let count = whole_number(&answer, "n").ok_or_else(|| Trouble::unreadable("the answer to a count"))?;
        Ok(count.cast_unsigned())
    }

    async fn create_login(&self, login: &Login) -> Result<(), StoreError> {
        self.create(schema::LOGINS, login.id.to_string(), LOGIN, login)
            .await?;
        if let Err(trouble) = self.sweep_ended(login.id).await {
            tracing::debug!(%trouble, "ended sign-ins stay until the next one");
        }
        Ok(())
    }

    async fn login(&self, id: LoginId) -> Result<Option<Login>, StoreError> {
        self.find(schema::LOGINS, doc! { "_id": id.to_string() }, LOGIN)
            .await
    }

    async fn touch_login(&self, id: LoginId, idle_end: Timestamp) -> Result<bool, StoreError> {
        let query = doc! { "_id": id.to_string(), "login.revoked": false };
        let set = doc! { "login.idle_end": idle_end.as_millis() };
        Ok(self.change(schema::LOGINS, query, set, false).await? == 1)
    }

    async fn revoke_login(&self, id: LoginId) -> Result<(), StoreError> {
        let query = doc! { "_id": id.to_string() };
        self.change(schema::LOGINS, query, doc! { "login.revoked": true }, false)
            .await
            .map(drop)
    }

    async fn revoke_logins_of(&self, user: &UserId, except: Option<LoginId>) -> Result<(), StoreError> {
        let mut query = doc! { "login.user": user.as_str() };
        if let Some(except) = except {
            query.insert("_id", doc! { "$ne": except.to_string() });
        }
        self.change(schema::LOGINS, query, doc! { "login.revoked": true }, true)
            .await
            .map(drop)
    }

    async fn create_api_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        self.create(schema::API_KEYS, key.id.to_string(), KEY, key).await
    }

    async fn api_key(&self, id: ApiKeyId) -> Result<Option<ApiKey>, StoreError> {
        self.find(schema::API_KEYS, doc! { "_id": id.to_string() }, KEY)
            .await
    }

    async fn api_keys_of(&self, user: &UserId, limit: usize) -> Result<Vec<ApiKey>, StoreError> {
        let question = Question::new(schema::API_KEYS, doc! { "key.user": user.as_str() })
            .sorted(doc! { "_id": 1 })
            .at_most(limit);
        Ok(self.link.ask(question, |row| record(row, KEY).map(Some)).await?)
    }

    async fn revoke_api_key(&self, id: ApiKeyId) -> Result<bool, StoreError> {
        let query = doc! { "_id": id.to_string() };
        Ok(self
            .change(schema::API_KEYS, query, doc! { "key.revoked": true }, false)
            .await?
            == 1)
    }
}
