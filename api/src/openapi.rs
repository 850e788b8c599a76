//! The interface's description, made from the routes' own lines, with what all of them share.

use common::api_types::{PROBLEM_CONTENT_TYPE, Problem, paths::AUTH_COOKIE};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, SchemaType, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, InfoBuilder, OpenApi, Ref, RefOr, Response, SecurityRequirement};
use utoipa::{PartialSchema, ToSchema};

use crate::routes;

/// OpenAPI 3.1. `api/openapi.json` is this, checked in; a test holds the two together.
pub fn openapi() -> OpenApi {
    let (_, mut document) = routes::table().split_for_parts();
    document.info = InfoBuilder::new()
        .title("JobWorker")
        .version("1")
        .description(Some(
            "Commands submitted, queued, run in containers, and streamed. See docs/API.md.",
        ))
        .build();
    let components = document.components.get_or_insert_default();
    components
        .schemas
        .insert(Problem::name().into_owned(), Problem::schema());
    let mut nested = Vec::new();
    Problem::schemas(&mut nested);
    components.schemas.extend(nested);
    components.add_security_scheme(
        "bearer",
        SecurityScheme::Http(
            HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .description(Some("A sign-in's token, or an API key."))
                .build(),
        ),
    );
    components.add_security_scheme(
        "cookie",
        SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new(AUTH_COOKIE))),
    );
    document.security = Some(vec![
        SecurityRequirement::new("bearer", Vec::<String>::new()),
        SecurityRequirement::new("cookie", Vec::<String>::new()),
    ]);
    for item in document.paths.paths.values_mut() {
        for operation in [
            &mut item.get,
            &mut item.post,
            &mut item.put,
            &mut item.delete,
            &mut item.patch,
        ]
        .into_iter()
        .flatten()
        {
            let responses = &mut operation.responses.responses;
            for (status, response) in responses.iter_mut() {
                if status.starts_with(['4', '5'])
                    && let RefOr::T(response) = response
                {
                    response.content.insert(PROBLEM_CONTENT_TYPE.into(), problem());
                }
            }
            let mut other = Response::new("Any error.");
            other.content.insert(PROBLEM_CONTENT_TYPE.into(), problem());
            responses.entry("default".to_owned()).or_insert(RefOr::T(other));
        }
    }
    document
}

/// Bytes as they are: a body that is no JSON.
pub struct Binary;

impl PartialSchema for Binary {
    fn schema() -> RefOr<Schema> {
        let bytes = ObjectBuilder::new()
            .schema_type(SchemaType::new(Type::String))
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)));
        RefOr::T(Schema::from(bytes.build()))
    }
}

impl ToSchema for Binary {}

fn problem() -> RefOr<Content> {
    RefOr::T(Content::new(Some(RefOr::Ref(Ref::from_schema_name(
        Problem::name(),
    )))))
}
