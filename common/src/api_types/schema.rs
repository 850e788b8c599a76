//! How the domain's words and ids look in OpenAPI. Kept here so that the domain itself knows nothing of it.

use std::borrow::Cow;

use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{OneOfBuilder, RefOr};
use utoipa::{PartialSchema, ToSchema};

use crate::attempt::{NotStartedReason, OutcomeClass};
use crate::explain::{Method, Reason, VerdictKind};
use crate::identity::Role;
use crate::ids::{
    AccountId, ApiKeyId, AttemptId, FileId, JobId, NAME_LEN_MAX, PoolName, SessionId, UserId, WorkerId,
};
use crate::job::{Command, StateName};
use crate::log::Stream;
use crate::time::Timestamp;

macro_rules! schema {
    ($type:ty, $name:literal, $make:expr) => {
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                RefOr::T(Schema::from($make))
            }
        }

        impl ToSchema for $type {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed($name)
            }
        }
    };
}

schema!(JobId, "JobId", made(JobId::PREFIX));
schema!(AttemptId, "AttemptId", made(AttemptId::PREFIX));
schema!(SessionId, "SessionId", made(SessionId::PREFIX));
schema!(FileId, "FileId", made(FileId::PREFIX));
schema!(ApiKeyId, "ApiKeyId", made(ApiKeyId::PREFIX));
schema!(AccountId, "AccountId", given());
schema!(UserId, "UserId", given());
schema!(WorkerId, "WorkerId", given());
schema!(PoolName, "PoolName", given());
schema!(
    StateName,
    "State",
    words(&[
        "scheduled",
        "queued",
        "assigned",
        "running",
        "succeeded",
        "failed",
        "cancelled"
    ])
);
schema!(Stream, "Stream", words(&["stdout", "stderr"]));
schema!(Reason, "WaitReason", words(&Reason::ALL.map(Reason::as_str)));
schema!(
    VerdictKind,
    "Verdict",
    words(&VerdictKind::ALL.map(VerdictKind::as_str))
);
schema!(Method, "EstimateMethod", words(&Method::ALL.map(Method::as_str)));
schema!(Role, "Role", words(&["admin", "user", "viewer"]));
schema!(
    OutcomeClass,
    "OutcomeClass",
    words(&[
        "success",
        "nonzero_exit",
        "not_started",
        "signal",
        "out_of_memory",
        "timeout",
        "queue_timeout",
        "cancelled",
        "infrastructure",
    ])
);
schema!(
    NotStartedReason,
    "NotStartedReason",
    words(&[
        "no_such_command",
        "not_executable",
        "wrong_architecture",
        "bad_working_directory",
        "bad_inputs",
        "other",
    ])
);
schema!(
    Timestamp,
    "Timestamp",
    ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::Integer))
        .description(Some("Milliseconds since 1970 (UTC)."))
        .minimum(Some(0i64))
        .maximum(Some(9_007_199_254_740_991i64))
        .build()
);
schema!(
    Command,
    "Command",
    OneOfBuilder::new()
        .description(Some(
            "A line for `/bin/sh -c`, or a list of arguments for the image's entry point."
        ))
        .item(ObjectBuilder::new().schema_type(SchemaType::new(Type::String)))
        .item(
            utoipa::openapi::ArrayBuilder::new()
                .items(ObjectBuilder::new().schema_type(SchemaType::new(Type::String)))
        )
        .build()
);

fn made(prefix: &str) -> utoipa::openapi::Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::String))
        .pattern(Some(format!("^{prefix}[0-7][0-9a-z]{{25}}$")))
        .build()
}

fn given() -> utoipa::openapi::Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::String))
        .pattern(Some("^[A-Za-z0-9][A-Za-z0-9._-]*$"))
        .max_length(Some(NAME_LEN_MAX))
        .build()
}

fn words(words: &[&'static str]) -> utoipa::openapi::Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::String))
        .enum_values(Some(words.to_vec()))
        .build()
}
