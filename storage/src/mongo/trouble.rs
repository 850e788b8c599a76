//! What can go wrong between us and the database, and what it means to a caller.
//!
//! A write that was not answered, or was answered without being durable, is *unknown*: [`StoreError::Unavailable`],
//! never a conflict. Cloneable, because one command carries the requests of many callers.

use std::sync::Arc;

use common::store::StoreError;
use mongodb::bson::error::Error as BsonError;
use mongodb::error::{Error as DriverError, ErrorKind};

/// Codes of the server, by the names that its source gives them.
mod code {
    pub(super) const UNAUTHORIZED: i32 = 13;
    pub(super) const AUTHENTICATION_FAILED: i32 = 18;
    pub(super) const OUT_OF_DISK_SPACE: i32 = 14_031;
    /// What Atlas answers to writes past a cluster's storage.
    pub(super) const SPACE_QUOTA: i32 = 8_000;
    pub(super) const DUPLICATE_KEY: i32 = 11_000;
    /// A statement that does not go with its row: the row breaks a rule of its collection, has a field of another kind
    /// than ours, or is too large. In the server's names: BadValue, FailedToParse, TypeMismatch, PathNotViable,
    /// ConflictingUpdateOperators, CannotBackfillArray, DollarPrefixedFieldName, EmptyFieldName, DottedFieldName,
    /// ImmutableField, DocumentValidationFailure, CannotIndexParallelArrays, BSONObjectTooLarge, and KeyTooLong.
    pub(super) const OF_ITS_ROW: [i32; 14] =
        [2, 9, 14, 28, 40, 52, 56, 57, 66, 121, 171, 10_334, 16_837, 17_280];
    /// The server is not, not yet or no longer the one that takes writes, or lost the connection to the one that is:
    /// the same command again, to whoever is primary then, is right.
    pub(super) const ELSEWHERE: [i32; 13] = [
        6, 7, 89, 91, 189, 262, 9_001, 10_107, 11_600, 11_602, 13_435, 13_436, 134,
    ];
}

#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Trouble {
    #[error("the database has not answered in time")]
    Silent,
    #[error("the database could not be asked: {}", .0.kind)]
    Driver(#[source] Box<DriverError>),
    #[error("the database took the write, but did not make it durable in time: {0}")]
    NotDurable(String),
    #[error("the database refused a write (code {code}): {message}")]
    Refused { code: i32, message: String },
    #[error(
        "the database does not let this program in ({0}): name a user and password in MONGODB_URI that it knows, and \
         with `authSource=` the database that keeps them, where that is another"
    )]
    NotLetIn(String),
    #[error(
        "a right is missing in the database ({0}): grant the role `readWrite` on the database of MONGODB_URI to the user \
         that MONGODB_URI names, or name one there who has it"
    )]
    NotAllowed(String),
    #[error("the database has no space left: {0}")]
    Full(String),
    #[error("{what}")]
    Unreadable {
        what: String,
        #[source]
        source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    },
    /// Ours was lost among too many later writes of the same row.
    #[error("the fate of a write cannot be told any more: the row has changed many times since")]
    Forgotten,
    #[error("others keep changing the same rows")]
    Contended,
    #[error("a fault of ours kept a write from its end; the program's log has its place")]
    Panicked,
    #[error("the store is closed")]
    Closed,
}

impl Trouble {
    pub(super) fn unreadable(what: impl Into<String>) -> Self {
        Self::Unreadable {
            what: what.into(),
            source: None,
        }
    }

    /// What an error inside one command's answer means.
    pub(super) fn of_code(code: i32, message: &str) -> Self {
        match code {
            code::UNAUTHORIZED => Self::NotAllowed(message.to_owned()),
            code::AUTHENTICATION_FAILED => Self::NotLetIn(message.to_owned()),
            code::OUT_OF_DISK_SPACE | code::SPACE_QUOTA => Self::Full(message.to_owned()),
            _ => Self::Refused {
                code,
                message: message.to_owned(),
            },
        }
    }

    /// What a server said that has judged a command and will not take it.
    pub(super) fn refusal(&self) -> Option<String> {
        match self {
            Self::Driver(error) if !self.passes() => match error.kind.as_ref() {
                ErrorKind::Command(command) => Some(command.message.clone()),
                _ => None,
            },
            Self::Refused { message, .. } => Some(message.clone()),
            _ => None,
        }
    }

    /// Whether the very same command may succeed at once, or as soon as there is a new primary.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::Driver(error) => match error.kind.as_ref() {
                ErrorKind::Io(_) | ErrorKind::ConnectionPoolCleared { .. } => true,
                ErrorKind::Command(command) => code::ELSEWHERE.contains(&command.code),
                _ => error.contains_label("RetryableWriteError"),
            },
            Self::Silent
            | Self::NotDurable(_)
            | Self::Refused { .. }
            | Self::NotLetIn(_)
            | Self::NotAllowed(_)
            | Self::Full(_)
            | Self::Unreadable { .. }
            | Self::Forgotten
            | Self::Contended
            | Self::Panicked
            | Self::Closed => false,
        }
    }
}

pub(super) const fn is_duplicate(code: i32) -> bool {
    code == code::DUPLICATE_KEY
}

/// Whether an error of one statement is its row's own, so that nothing but a change of the row can help.
pub(super) const fn is_of_its_row(code: i32) -> bool {
    let mut at = 0;
    while at < code::OF_ITS_ROW.len() {
        if code::OF_ITS_ROW[at] == code {
            return true;
        }
        at += 1;
    }
    false
}

impl From<DriverError> for Trouble {
    fn from(error: DriverError) -> Self {
        match error.kind.as_ref() {
            ErrorKind::Command(command) => match Self::of_code(command.code, &command.message) {
                // The driver's error says more, and whether the command may be sent again.
                Self::Refused { code, .. } if !is_duplicate(code) => Self::Driver(Box::new(error)),
                other => other,
            },
            ErrorKind::Authentication { message, .. } => Self::NotLetIn(message.clone()),
            _ => match cause(&error) {
                Some(told) => told,
                None => Self::Driver(Box::new(error)),
            },
        }
    }
}

/// A server that cannot be selected because it refuses the user says so only further down.
fn cause(error: &DriverError) -> Option<Trouble> {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        let inner_error = inner.downcast_ref::<DriverError>();
        if let Some(ErrorKind::Authentication { message, .. }) = inner_error.map(|error| error.kind.as_ref())
        {
            return Some(Trouble::NotLetIn(message.clone()));
        }
        source = inner.source();
    }
    None
}

impl From<BsonError> for Trouble {
    fn from(error: BsonError) -> Self {
        Self::Unreadable {
            what: "a field of a document".into(),
            source: Some(Arc::new(error)),
        }
    }
}

impl From<Trouble> for StoreError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Full(_) => Self::Full(Box::new(trouble)),
            Trouble::Unreadable { what, source } => Self::Corrupt {
                what,
                source: source.map(|source| Box::new(Shared(source)) as _),
            },
            Trouble::Refused { code, .. } if is_duplicate(code) => Self::Exists,
            Trouble::Silent
            | Trouble::Driver(_)
            | Trouble::NotDurable(_)
            | Trouble::Refused { .. }
            | Trouble::NotLetIn(_)
            | Trouble::NotAllowed(_)
            | Trouble::Forgotten
            | Trouble::Contended
            | Trouble::Panicked
            | Trouble::Closed => Self::Unavailable(Box::new(trouble)),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Shared(Arc<dyn std::error::Error + Send + Sync>);

/// A record as it was stored.
pub(super) fn decode<T: serde::de::DeserializeOwned>(what: &str, doc: &str) -> Result<T, Trouble> {
    serde_json::from_str(doc).map_err(|error| Trouble::Unreadable {
        what: what.into(),
        source: Some(Arc::new(error)),
    })
}

pub(super) fn encode<T: serde::Serialize>(what: &str, value: &T) -> Result<String, Trouble> {
    serde_json::to_string(value).map_err(|error| Trouble::Unreadable {
        what: what.into(),
        source: Some(Arc::new(error)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_write_is_never_told_as_a_conflict_or_a_lack() {
        for trouble in [
            Trouble::Silent,
            Trouble::NotDurable("wtimeout".into()),
            Trouble::of_code(64, "waiting for replication timed out"),
            Trouble::Forgotten,
            Trouble::Panicked,
            Trouble::Closed,
        ] {
            assert!(
                matches!(StoreError::from(trouble.clone()), StoreError::Unavailable(_)),
                "{trouble}"
            );
        }
        assert!(matches!(
            StoreError::from(Trouble::of_code(code::OUT_OF_DISK_SPACE, "")),
            StoreError::Full(_)
        ));
    }

    #[test]
    fn a_refused_user_is_told_which_setting_names_him() {
        for (code, mend) in [
            (code::UNAUTHORIZED, "readWrite"),
            (code::AUTHENTICATION_FAILED, "authSource"),
        ] {
            let told = Trouble::of_code(code, "the server's own words").to_string();
            for part in ["MONGODB_URI", "the server's own words", mend] {
                assert!(told.contains(part), "{told}");
            }
        }
    }
}
