//! Opening a database of MongoDB, for every suite that looks at how that ends.

use std::error::Error;
use std::sync::Arc;

use common::secret::Secret;
use common::time::SystemClock;
use storage::mongo::{self, Rows};

/// The stores; or what an operator is told, with its cause.
pub async fn open(uri: &Secret<String>) -> Result<Rows, String> {
    let opened = mongo::connect(uri, Arc::new(SystemClock)).await;
    opened.map_err(|error| match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    })
}
